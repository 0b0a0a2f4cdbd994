//! The rules of a Job that the API server judges (CEL): what may change, how large it may be, what it may refer to.
//!
//! Written with `has`, not with optionals (`self.?env`): through those the API server loses sight of the bounds of a field,
//! and refuses the rule as too costly.

use kube::core::{Message, Rule};

use crate::{
    api_types::quantity::as_quantity,
    names::{KEY_SECRET_PREFIX, VISIBLE_GPUS},
};

/// The most bytes that the texts of a spec may have: a pod holds each parameter twice, etcd takes 1.5 MB, the operator
/// keeps every job in memory, and Linux gives a process at most 128 KiB in one argument or variable.
pub const MAX_TEXT_BYTES: usize = 64 << 10;

/// A field that stays as submitted.
pub(super) fn fixed(field: &str) -> Rule {
    stays(
        field,
        format!(
            "has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})"
        ),
    )
}

/// A list or a map that stays as submitted. One that is empty and one that is not there are the same.
pub(super) fn fixed_list(field: &str) -> Rule {
    let same = format!("!has(self.{field}) || !has(oldSelf.{field}) || self.{field} == oldSelf.{field}");
    stays(field, format!("{} && ({same})", same_size(field)))
}

/// The volumes stay as submitted, whatever their order and however a size is written.
pub(super) fn fixed_volumes() -> Rule {
    let same = |field: &str| {
        format!("has(o.{field}) == has(v.{field}) && (!has(v.{field}) || o.{field} == v.{field})")
    };
    let scratch = format!(
        "has(o.scratch) == has(v.scratch) && (!has(v.scratch) || {}.compareTo({}) == 0)",
        as_quantity("o.scratch"),
        as_quantity("v.scratch"),
    );
    let volume = format!(
        "o.name == v.name && o.mountPath == v.mountPath && {} && {} && {scratch}",
        same("claim"),
        same("readOnly"),
    );
    let all = format!("self.volumes.all(v, oldSelf.volumes.exists(o, {volume}))");
    stays(
        "volumes",
        format!("{} && (!has(self.volumes) || !has(oldSelf.volumes) || {all})", same_size("volumes")),
    )
}

/// A quantity of `resources` that stays as submitted, however it is written. Without a scenario an absent one is the
/// default.
pub(super) fn fixed_quantity(field: &str, default: Option<&str>) -> Rule {
    // No quantity that a job may give.
    const ABSENT: &str = "quantity('-1')";
    let default = default.map(|default| format!("quantity('{default}')"));
    let of = |object: &str| {
        let path = format!("{object}.resources.{field}");
        let absent = default
            .as_ref()
            .map_or_else(|| ABSENT.to_owned(), |d| format!("(has({object}.scenario) ? {ABSENT} : {d})"));
        format!("(has({object}.resources) && has({path}) ? {} : {absent})", as_quantity(&path))
    };
    stays(&format!("resources.{field}"), format!("{}.compareTo({}) == 0", of("self"), of("oldSelf")))
}

/// A number of `resources` that stays as submitted. Without a scenario an absent one is 0.
pub(super) fn fixed_number(field: &str) -> Rule {
    let of = |object: &str| {
        let path = format!("{object}.resources.{field}");
        format!("(has({object}.resources) && has({path}) ? {path} : has({object}.scenario) ? -1 : 0)")
    };
    stays(&format!("resources.{field}"), format!("{} == {}", of("self"), of("oldSelf")))
}

fn same_size(field: &str) -> String {
    let size = |object: &str| format!("(has({object}.{field}) ? {object}.{field}.size() : 0)");
    format!("{} == {}", size("self"), size("oldSelf"))
}

fn stays(field: &str, rule: String) -> Rule {
    let message = format!("spec.{field} can't change once the job is submitted: submit a new job");
    Rule::new(rule).message(&*message).field_path(format!(".{field}"))
}

/// A field that may change for as long as the job waits.
pub(super) fn while_queued(field: &str) -> Rule {
    let rule = format!(
        "self.spec.{field} == oldSelf.spec.{field} || !has(oldSelf.status) || oldSelf.status.phase in ['Queued', 'Retrying']"
    );
    let message = format!("spec.{field} can change only while the job is queued");
    Rule::new(rule).message(&*message).field_path(format!(".spec.{field}"))
}

/// A reference to a Secret that is not one of an API key: `before` and `after` are the rest of the rule.
pub(super) fn no_key_secret(before: &str, name: &str, after: &str) -> Rule {
    let message = format!(
        "Secrets whose names begin with {KEY_SECRET_PREFIX} hold API keys: a job can't refer to them"
    );
    Rule::new(format!("{before}{name}.startsWith('{KEY_SECRET_PREFIX}'){after}")).message(&*message)
}

/// A variable does not give GPUs that were not asked for.
pub(super) fn no_gpus() -> Rule {
    let names = VISIBLE_GPUS.map(|(name, _)| format!("'{name}'")).join(", ");
    let message = "self.name + ' is set by the node, for the GPUs of spec.resources.gpus'".to_owned();
    Rule::new(format!("!(self.name in [{names}])")).message(Message::Expression(message))
}

/// No two parameters are one variable (`names::parameter_variable`); the message has the names of those that are.
pub(super) fn distinct_variables() -> Rule {
    let variable = |name: &str| format!("{name}.lowerAscii().replace('-', '_').replace('.', '_')");
    let shared = format!("self.exists(b, a != b && {} == {})", variable("a"), variable("b"));
    // By `format`: of a text that `+` or `join` makes of a map's keys the API server knows no bound.
    let message = format!(
        "'parameters %s differ from one another only in case or in - _ . and would be one environment variable: rename \
         them'.format([self.filter(a, {shared})])"
    );
    Rule::new(format!("!self.exists(a, {shared})")).message(Message::Expression(message))
}

/// The texts of a spec have at most [`MAX_TEXT_BYTES`] in all.
pub(super) fn size() -> Rule {
    let bytes = |path: &str| format!("bytes({path}).size()");
    let one = |field: &str| format!("(has(self.{field}) ? {} : 0)", bytes(&format!("self.{field}")));
    let all =
        |field: &str, sum: String| format!("(has(self.{field}) ? self.{field}.map(x, {sum}).sum() : 0)");
    let given = |path: &str| format!("(has({path}) ? {} : 0)", bytes(path));
    let entry = |path: &str| format!("(has({path}) ? {path}.name.size() + {path}.key.size() : 0)");
    let variable =
        ["x.name.size()", &given("x.value"), &entry("x.secretKeyRef"), &entry("x.configMapKeyRef")];
    let from = [given("x.secret"), given("x.configMap")];
    let volume = ["x.name.size()".to_owned(), bytes("x.mountPath"), given("x.claim")];
    let sum = [
        one("image"),
        all("command", bytes("x")),
        all("args", bytes("x")),
        one("workingDir"),
        all("env", variable.join(" + ")),
        all("envFrom", from.join(" + ")),
        // A rule of their own has the names at most 63 characters long.
        all("parameters", format!("{} + 63", bytes("self.parameters[x]"))),
        all("volumes", volume.join(" + ")),
        all("imagePullSecrets", "x.size()".to_owned()),
    ];
    let sum = sum.join(" + ");
    // Not by `+`: the API server does not know how long `string(…)` is, and takes it for very long.
    let message = format!(
        "'the texts of the spec have %d bytes in all: give at most {MAX_TEXT_BYTES}, and put what is larger into a ConfigMap or \
         a volume'.format([{sum}])"
    );
    Rule::new(format!("{sum} <= {MAX_TEXT_BYTES}")).message(Message::Expression(message))
}
