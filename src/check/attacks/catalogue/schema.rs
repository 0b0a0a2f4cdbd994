//! What the CRDs refuse by themselves: amounts without a bound, names that lead elsewhere, keys of the tenant in a job's hands,
//! and changes of what was submitted.

use serde_json::{Map, Value, json};

use super::{
    Attack, By, Site, Wall, Who,
    call::{self, JOBS, KEYS, TENANTS},
    harmless, job,
};

/// Specs of Jobs that are refused, with the words of the refusal.
fn jobs() -> Vec<(&'static str, Value, &'static str)> {
    let volume =
        |path: &str, claim: &str| json!({"volumes": [{"name": "v", "mountPath": path, "claim": claim}]});
    let env = |entry: Value| json!({"env": [entry]});
    let resources = |field: &str, value: Value| json!({"resources": {field: value}});
    let long = "x".repeat(33_000);
    let keys = "hold API keys: a job can't refer to them";
    let refused = |what, spec, words| (what, spec, words);
    let mut all = vec![
        refused("a Job without an image", json!({"image": null}), "give an image, or a scenario"),
        refused("an image with a newline", json!({"image": "busybox\n"}), "spec.image"),
        refused("an image with a space", json!({"image": "a b"}), "spec.image"),
        refused("an image of 1,025 characters", json!({"image": "x".repeat(1025)}), "spec.image"),
        refused("a command with a NUL", json!({"command": ["a\u{0}b"]}), "spec.command[0]"),
        refused("257 arguments", json!({"args": vec!["x"; 257]}), "spec.args"),
        refused("an argument of 33,000 characters", json!({"args": [long.clone()]}), "spec.args[0]"),
        refused(
            "100 KiB of texts",
            json!({"args": vec!["x".repeat(25_600); 4]}),
            "bytes in all: give at most 65536",
        ),
        refused("a relative working directory", json!({"workingDir": "data"}), "spec.workingDir"),
        refused("an unknown queue", json!({"queue": "express"}), "spec.queue"),
        refused("an unknown priority", json!({"priority": "urgent"}), "spec.priority"),
        refused("an unknown retry policy", json!({"retryPolicy": "Forever"}), "spec.retryPolicy"),
        refused("101 retries", json!({"maxRetries": 101}), "spec.maxRetries"),
        refused("-1 retries", json!({"maxRetries": -1}), "spec.maxRetries"),
        refused("a timeout of 0", json!({"timeoutSeconds": 0}), "spec.timeoutSeconds"),
        refused("a timeout of two years", json!({"timeoutSeconds": 63_072_000}), "spec.timeoutSeconds"),
        refused(
            "a negative time to live",
            json!({"ttlSecondsAfterFinished": -1}),
            "spec.ttlSecondsAfterFinished",
        ),
        refused("a negative user id", json!({"runAsUser": -1}), "spec.runAsUser"),
        refused("a pool that is no label", json!({"pool": "../gpu"}), "spec.pool"),
        refused("a scenario that is no label", json!({"scenario": "Train"}), "spec.scenario"),
        refused("cpu of 0", resources("cpu", json!(0)), "give 1m to 100k"),
        refused("cpu of 1e-400", resources("cpu", json!("1e-400")), "give 1m to 100k"),
        refused("negative cpu", resources("cpu", json!("-1")), "give 1m to 100k"),
        refused("memory of 0", resources("memory", json!("0")), "give 16Mi to 1Pi"),
        refused("memory of half a byte", resources("memory", json!("512m")), "give 16Mi to 1Pi"),
        refused("memory without a bound", resources("memory", json!("9999999Ei")), "give 16Mi to 1Pi"),
        refused("disk of 0", resources("ephemeralStorage", json!(0)), "give 1Mi to 1Pi"),
        refused("-1 GPUs", resources("gpus", json!(-1)), "spec.resources.gpus"),
        refused("1,025 GPUs", resources("gpus", json!(1025)), "spec.resources.gpus"),
        refused("negative bandwidth", resources("bandwidthMbps", json!(-1)), "spec.resources.bandwidthMbps"),
        refused(
            "a scratch volume of 0",
            json!({"volumes": [{"name": "v", "mountPath": "/v", "scratch": "0"}]}),
            "give 1Mi to 1Pi",
        ),
        refused(
            "a volume of neither kind",
            json!({"volumes": [{"name": "v", "mountPath": "/v"}]}),
            "either claim or scratch",
        ),
        refused("a claim ../../x", volume("/v", "../../x"), "spec.volumes[0].claim"),
        refused("a claim a/b", volume("/v", "a/b"), "spec.volumes[0].claim"),
        refused("a claim with a newline", volume("/v", "a\n"), "spec.volumes[0].claim"),
        refused("a volume at /", volume("/", "c"), "spec.volumes[0].mountPath"),
        refused("a volume at a path with a colon", volume("/a:b", "c"), "spec.volumes[0].mountPath"),
        refused(
            "a pull secret ../../x",
            json!({"imagePullSecrets": ["../../x"]}),
            "spec.imagePullSecrets[0]",
        ),
        refused(
            "a pull secret with a newline",
            json!({"imagePullSecrets": ["a\n"]}),
            "spec.imagePullSecrets[0]",
        ),
        refused(
            "a Secret a/b as environment",
            json!({"envFrom": [{"secret": "a/b"}]}),
            "spec.envFrom[0].secret",
        ),
        refused(
            "a ConfigMap a..b as environment",
            json!({"envFrom": [{"configMap": "a..b"}]}),
            "spec.envFrom[0].configMap",
        ),
        refused("a variable named ..", env(json!({"name": ".."})), "spec.env[0].name"),
        refused("a variable with a NUL", env(json!({"name": "A", "value": "a\u{0}b"})), "spec.env[0].value"),
        refused(
            "a variable of Crofter's own",
            env(json!({"name": "CROFTER_JOB", "value": "x"})),
            "CROFTER_ are Crofter's own",
        ),
        refused(
            "a variable that makes all GPUs visible",
            env(json!({"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"})),
            "NVIDIA_VISIBLE_DEVICES is set by the node",
        ),
        refused("129 variables", json!({"env": vec![json!({"name": "A"}); 129]}), "spec.env"),
        refused("a parameter with a NUL", json!({"parameters": {"a": "a\u{0}b"}}), "spec.parameters.a"),
        refused(
            "a parameter with a space in its name",
            json!({"parameters": {"no spaces": "x"}}),
            "a parameter's name",
        ),
        refused(
            "two parameters that are one variable",
            json!({"parameters": {"frame-no": "1", "frame.no": "2"}}),
            "would be one environment variable",
        ),
        refused(
            "the Secret of a key as environment",
            json!({"envFrom": [{"secret": "crofter-key-all"}]}),
            keys,
        ),
        refused(
            "the token of a key as a variable",
            env(json!({"name": "A", "secretKeyRef": {"name": "crofter-key-all", "key": "token"}})),
            keys,
        ),
        refused("the Secret of a key to pull with", json!({"imagePullSecrets": ["crofter-key-all"]}), keys),
    ];
    let parameters: Map<String, Value> = (0..65).map(|n| (format!("p{n}"), json!("x"))).collect();
    all.push(refused("65 parameters", json!({"parameters": parameters}), "spec.parameters"));
    all
}

/// Changes of a submitted Job, with the field that can't change.
fn changes() -> Vec<(Value, &'static str)> {
    vec![
        (json!({"image": "other"}), "spec.image"),
        (json!({"command": ["c"]}), "spec.command"),
        (json!({"args": ["a"]}), "spec.args"),
        (json!({"workingDir": "/w"}), "spec.workingDir"),
        (json!({"env": [{"name": "A"}]}), "spec.env"),
        (json!({"envFrom": [{"secret": "s"}]}), "spec.envFrom"),
        (json!({"parameters": {"a": "b"}}), "spec.parameters"),
        (json!({"scenario": "s"}), "spec.scenario"),
        (json!({"runAsUser": 0}), "spec.runAsUser"),
        (json!({"imagePullSecrets": ["s"]}), "spec.imagePullSecrets"),
        (json!({"timeoutSeconds": 1}), "spec.timeoutSeconds"),
        (json!({"maxRetries": 4}), "spec.maxRetries"),
        (json!({"retryPolicy": "Always"}), "spec.retryPolicy"),
        (json!({"pool": "p"}), "spec.pool"),
        (json!({"onQuota": "Reject"}), "spec.onQuota"),
        (json!({"ttlSecondsAfterFinished": 1}), "spec.ttlSecondsAfterFinished"),
        (json!({"resources": {"cpu": "8"}}), "spec.resources.cpu"),
        (json!({"resources": {"memory": "8Gi"}}), "spec.resources.memory"),
        (json!({"resources": {"gpus": 1}}), "spec.resources.gpus"),
        (json!({"resources": {"ephemeralStorage": "8Gi"}}), "spec.resources.ephemeralStorage"),
        (json!({"resources": {"bandwidthMbps": 1}}), "spec.resources.bandwidthMbps"),
        (json!({"volumes": [{"name": "v", "mountPath": "/v", "claim": "own"}]}), "spec.volumes"),
    ]
}

/// Specs of keys that are refused.
fn keys() -> Vec<(&'static str, Value, &'static str)> {
    let scopes = |scope: &str| json!({"scopes": [scope]});
    vec![
        ("a key with an unknown scope", scopes("everything"), "spec.scopes[0]"),
        ("a key that rotates without end", json!({"rotateEvery": "59m"}), "rotateEvery is at least"),
        (
            "a key whose old version is valid for a year",
            json!({"overlapSeconds": 31_536_000}),
            "spec.overlapSeconds",
        ),
        ("a key with a negative overlap", json!({"overlapSeconds": -1}), "spec.overlapSeconds"),
        ("a key that writes another Secret", json!({"secretName": "database"}), "spec.secretName"),
        ("a key that writes crofter-key-a..b", json!({"secretName": "crofter-key-a..b"}), "spec.secretName"),
        ("a key that expires at no time", json!({"expiresAt": "tomorrow"}), "spec.expiresAt"),
        ("a key with a name of 129 characters", json!({"displayName": "x".repeat(129)}), "spec.displayName"),
    ]
}

/// Specs of Tenants that are refused.
fn tenants() -> Vec<(&'static str, Value, &'static str)> {
    let access = |fields: Value| {
        let mut one = json!({"kind": "User", "name": "ann", "role": "viewer"});
        super::merge(&mut one, fields);
        json!({"access": [one]})
    };
    vec![
        ("a negative quota", json!({"quotas": {"maxJobs": -2}}), "spec.quotas.maxJobs"),
        ("a plan that is no label", json!({"plan": "Not A Plan"}), "spec.plan in body should match"),
        ("an end that is no time", json!({"expiresAt": "tomorrow"}), "spec.expiresAt"),
        ("an unknown role", access(json!({"role": "root"})), "spec.access[0].role"),
        ("access for an unknown kind", access(json!({"kind": "Everybody"})), "spec.access[0].kind"),
        (
            "access for an account of no namespace",
            access(json!({"kind": "ServiceAccount"})),
            "namespace is given for a ServiceAccount",
        ),
        ("17 shared pools", json!({"sharedPools": vec!["p"; 17]}), "spec.sharedPools"),
        ("a pool that is no label", json!({"sharedPools": ["a/b"]}), "spec.sharedPools[0]"),
        ("a Pod Security Standard of none", json!({"podSecurity": "Privileged"}), "spec.podSecurity"),
    ]
}

pub(super) fn all(site: &Site) -> Vec<Attack> {
    let at = site.namespace();
    let at = at.as_str();
    let by = |who| By { who, wall: Wall::Schema, code: 422 };
    let (developer, admin, administrator) =
        (by(Who::Developer), by(Who::TenantAdmin), by(Who::Administrator));
    let submit = |spec: Value| call::create(JOBS, at, "new", job(spec));
    let submitted = jobs().into_iter().map(|(what, spec, words)| {
        let twin = (Who::Developer, submit(json!({})));
        developer.attack(format!("submit {what}"), submit(spec), words, twin)
    });
    let note = call::note(JOBS, at, "waiting", &harmless());
    let changed = changes().into_iter().map(|(spec, field)| {
        let change = call::patch(JOBS, at, "waiting", json!({"spec": spec}));
        let words = format!("{field} can't change once the job is submitted");
        developer.attack(format!("change {field} of a Job"), change, words, (Who::Developer, note.clone()))
    });
    let make = |spec: Value| call::create(KEYS, at, "new", json!({"spec": spec}));
    let made = keys().into_iter().map(|(what, spec, words)| {
        admin.attack(format!("make {what}"), make(spec), words, (Who::TenantAdmin, make(json!({}))))
    });
    let tenant = |name: &str, spec: Value| call::create(TENANTS, "", name, json!({"spec": spec}));
    let given = tenants().into_iter().map(|(what, spec, words)| {
        let twin = (Who::Administrator, tenant("crofter-attacks-new", json!({})));
        administrator.attack(
            format!("give a Tenant {what}"),
            tenant("crofter-attacks-new", spec),
            words,
            twin,
        )
    });
    let named = [("dotted.name", "a dot"), (&"x".repeat(41), "41 characters")].map(|(name, what)| {
        let twin = (Who::Administrator, tenant("crofter-attacks-new", json!({})));
        let words = "a tenant's name is at most 40 characters";
        administrator.attack(format!("give a Tenant a name of {what}"), tenant(name, json!({})), words, twin)
    });
    let key_note = call::note(KEYS, at, "revoked", &harmless());
    let lasting = [
        (json!({"revoked": false}), "a revoked key stays revoked"),
        (json!({"secretName": "crofter-key-all"}), "secretName can't change"),
    ]
    .map(|(spec, words)| {
        let change = call::patch(KEYS, at, "revoked", json!({"spec": spec}));
        let twin = (Who::TenantAdmin, key_note.clone());
        admin.attack(format!("change what can't change of a key: {words}"), change, words, twin)
    });
    let resumed = developer.attack(
        "submit a Job again that was canceled",
        call::patch(JOBS, at, "canceled", json!({"spec": {"canceled": false}})),
        "a canceled job stays canceled",
        (Who::Developer, call::note(JOBS, at, "canceled", &harmless())),
    );
    let lists = [submitted.collect::<Vec<_>>(), changed.collect(), made.collect(), given.collect()];
    let mut all = lists.concat();
    all.extend(named);
    all.extend(lasting);
    all.push(resumed);
    all
}
