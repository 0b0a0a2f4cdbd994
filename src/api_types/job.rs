//! `Job`: a piece of batch work of a tenant, namespaced. The schema is closed and narrow: no pod template passes through.

mod rules;
mod status;

use std::collections::BTreeMap;

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::names;

use self::rules::{fixed, fixed_list, fixed_number, fixed_quantity, fixed_volumes};
#[cfg(test)]
pub(crate) use self::status::MOVES;
pub use self::{
    rules::MAX_TEXT_BYTES,
    status::{AttemptRecord, JobPhase, JobStatus},
};
use super::{
    quantity::{self, Quantity},
    text,
};

/// Job is a unit of batch work, which is queued fairly, run as one pod on the tenant's workers, retried and metered.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "crofter.io",
    version = "v1alpha1",
    kind = "Job",
    namespaced,
    status = "JobStatus",
    shortname = "tjob",
    category = "crofter",
    derive = "PartialEq",
    doc = "Job is a unit of batch work, which is queued fairly, run as one pod on the tenant's workers, retried and metered.",
    selectable = ".status.phase",
    selectable = ".spec.queue",
    printcolumn(name = "Phase", type_ = "string", json_path = ".status.phase"),
    printcolumn(name = "Reason", type_ = "string", json_path = ".status.reason"),
    printcolumn(name = "Queue", type_ = "string", json_path = ".spec.queue"),
    printcolumn(name = "Priority", type_ = "string", json_path = ".spec.priority"),
    printcolumn(name = "Attempt", type_ = "integer", json_path = ".status.attempt"),
    printcolumn(name = "Node", type_ = "string", json_path = ".status.node"),
    printcolumn(name = "Exit", type_ = "integer", json_path = ".status.exitCode", priority = 1),
    printcolumn(name = "Message", type_ = "string", json_path = ".status.message", priority = 1),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp"),
    validation = rules::while_queued("queue"),
    validation = rules::while_queued("priority")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.image) || has(self.scenario)").message("give an image, or a scenario that has one"),
    validation = Rule::new("self.canceled || !oldSelf.canceled").message("a canceled job stays canceled: submit a new one"),
    validation = rules::size(),
    validation = fixed("image"),
    validation = fixed_list("command"),
    validation = fixed_list("args"),
    validation = fixed("workingDir"),
    validation = fixed_list("env"),
    validation = fixed_list("envFrom"),
    validation = fixed_list("parameters"),
    validation = fixed("scenario"),
    validation = fixed_quantity("cpu", Some("1")),
    validation = fixed_quantity("memory", Some("512Mi")),
    validation = fixed_number("gpus"),
    validation = fixed_quantity("ephemeralStorage", None),
    validation = fixed_number("bandwidthMbps"),
    validation = fixed("runAsUser"),
    validation = fixed_volumes(),
    validation = fixed_list("imagePullSecrets"),
    validation = fixed("timeoutSeconds"),
    validation = fixed("maxRetries"),
    validation = fixed("retryPolicy"),
    validation = fixed("pool"),
    validation = fixed("onQuota"),
    validation = fixed("ttlSecondsAfterFinished")
)]
pub struct JobSpec {
    /// Container image. May be absent where the scenario has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), regex(pattern = text::IMAGE))]
    pub image: Option<String>,

    /// Entry point; by default the scenario's, else the image's. As in a pod, $(NAME) is the value of that variable.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 32768), regex(pattern = text::NO_NUL)))]
    pub command: Vec<String>,

    /// Arguments; by default the scenario's, unless the job has a command of its own, else the image's. As in a pod,
    /// $(NAME) is the value of that variable, and $$(NAME) is the text $(NAME).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256), inner(length(max = 32768), regex(pattern = text::NO_NUL)))]
    pub args: Vec<String>,

    /// Working directory, an absolute path; by default the image's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 1024), regex(pattern = text::ABSOLUTE_PATH))]
    pub working_dir: Option<String>,

    /// Environment variables, which follow the scenario's. Of two variables with one name the last one counts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 128))]
    pub env: Vec<EnvVar>,

    /// Secrets and ConfigMaps of this namespace whose entries become environment variables.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub env_from: Vec<EnvFrom>,

    /// Parameters of the work: each is given to the container as `CROFTER_PARAM_<NAME>`, and all of them as JSON in
    /// CROFTER_PARAMETERS, as they are ($(NAME) is not replaced). No two may be the same variable.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 64))]
    #[x_kube(
        validation = Rule::new("self.all(k, k.matches('^[A-Za-z]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?$'))")
            .message("a parameter's name is at most 63 letters, digits, - _ and ., and begins with a letter"),
        validation = rules::distinct_variables()
    )]
    pub parameters: BTreeMap<String, ParameterValue>,

    /// Entry of the administrator's catalogue (docs/scenarios.md) that supplies image, command and defaults. What the
    /// job itself gives wins, field by field. A job that names none of the catalogue is Rejected (UnknownScenario).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = text::LABEL))]
    pub scenario: Option<String>,

    /// Resources that the job needs. Requests and limits are the same. The default of each is the scenario's, else 1
    /// core and 512 MiB.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resources: Option<JobResources>,

    /// User id of the process; by default the scenario's, else 65532 where the namespace is Restricted.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub run_as_user: Option<i64>,

    /// Volumes: claims of this namespace by name, or scratch space. Each has a name and a path of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    #[x_kube(validation = Rule::new("self.all(v, self.exists_one(o, o.mountPath == v.mountPath))")
        .message("two volumes have one mountPath: give each a path of its own"))]
    pub volumes: Vec<Volume>,

    /// Secrets of this namespace with which the image is pulled.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8), inner(length(min = 1, max = 253), regex(pattern = text::SUBDOMAIN)))]
    #[x_kube(validation = rules::no_key_secret("self.all(name, !", "name", ")"))]
    pub image_pull_secrets: Vec<String>,

    /// Queue of the job. Jobs in live are admitted before those in default, and those before the ones in batch.
    #[serde(default)]
    pub queue: Queue,

    /// Priority within the queue.
    #[serde(default)]
    pub priority: Priority,

    /// The longest the job may run, over all attempts, in seconds; by default the scenario's. The plan's
    /// jobTimeoutMinutes is the upper bound.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 31_536_000))]
    pub timeout_seconds: Option<i64>,

    /// Number of retries. Attempts that the cluster ended (drained, evicted, preempted, node lost, pod deleted) are
    /// not counted, up to 16 of them; with 0 the job is not retried after these either.
    #[serde(default = "default_retries")]
    #[schemars(range(min = 0, max = 100))]
    pub max_retries: i32,

    /// Failures that are retried: Infrastructure (eviction, node loss), or Always (exit codes and timeouts too).
    #[serde(default)]
    pub retry_policy: RetryPolicy,

    /// Shared pool that the job runs on; by default the tenant's own workers and all its pools.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 58), regex(pattern = text::LABEL))]
    pub pool: Option<String>,

    /// What happens when a quota is reached: with Queue the job waits, with Reject it ends as Rejected.
    #[serde(default)]
    pub on_quota: OnQuota,

    /// Time in seconds after its end when the job is deleted. Without it the job is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 31_536_000))]
    pub ttl_seconds_after_finished: Option<i64>,

    /// Whether the job is canceled. A canceled job can't be resumed.
    #[serde(default)]
    pub canceled: bool,
}

impl JobSpec {
    /// Whether the fields that a container is made of are present: the CRD's rule demands an image or a scenario. They
    /// are absent from an ended job in the cache, and from a row that was made of one.
    #[must_use]
    pub fn has_payload(&self) -> bool {
        self.image.is_some() || self.scenario.is_some()
    }

    /// Drops the fields that a container is made of: all texts of any length.
    pub fn drop_payload(&mut self) {
        let Self { resources, queue, priority, timeout_seconds, max_retries, retry_policy, pool, .. } = self;
        *self = Self {
            image: None,
            command: Vec::new(),
            args: Vec::new(),
            working_dir: None,
            env: Vec::new(),
            env_from: Vec::new(),
            parameters: BTreeMap::new(),
            scenario: None,
            run_as_user: None,
            volumes: Vec::new(),
            image_pull_secrets: Vec::new(),
            resources: resources.take(),
            queue: *queue,
            priority: *priority,
            timeout_seconds: *timeout_seconds,
            max_retries: *max_retries,
            retry_policy: *retry_policy,
            pool: pool.take(),
            on_quota: self.on_quota,
            ttl_seconds_after_finished: self.ttl_seconds_after_finished,
            canceled: self.canceled,
        };
    }

    /// This spec with the payload of `submitted`, which is the same job's: what may change after the submit is this one's.
    #[must_use]
    pub fn with_payload_of(&self, submitted: Self) -> Self {
        Self { queue: self.queue, priority: self.priority, canceled: self.canceled, ..submitted }
    }

    /// The first Secret that the job refers to by a name that is kept for API keys. The CRD refuses such a job: this is
    /// for what was stored without its rules.
    #[must_use]
    pub fn key_secret(&self) -> Option<&str> {
        let entries = self.env.iter().filter_map(|variable| variable.secret_key_ref.as_ref());
        let whole = self.env_from.iter().filter_map(|from| from.secret.as_ref());
        let all = entries.map(|entry| &entry.name).chain(whole).chain(&self.image_pull_secrets);
        all.map(String::as_str).find(|name| names::is_key_secret(name))
    }
}

fn default_retries() -> i32 {
    3
}

/// A value of `spec.parameters`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ParameterValue(pub String);

impl JsonSchema for ParameterValue {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "ParameterValue".into()
    }
    fn inline_schema() -> bool {
        true
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "maxLength": 4096, "pattern": text::NO_NUL})
    }
}

/// An environment variable: a value, or an entry of a Secret or ConfigMap of this namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("[has(self.value), has(self.secretKeyRef), has(self.configMapKeyRef)].filter(x, x).size() <= 1")
        .message("give one of value, secretKeyRef and configMapKeyRef"),
    validation = Rule::new("!self.name.startsWith('CROFTER_')").message("names that begin with CROFTER_ are Crofter's own"),
    validation = rules::no_gpus(),
    validation = rules::no_key_secret("!has(self.secretKeyRef) || !", "self.secretKeyRef.name", "")
)]
pub struct EnvVar {
    /// Name of the variable.
    #[schemars(length(min = 1, max = 253), regex(pattern = text::VARIABLE))]
    pub name: String,
    /// Value of the variable. As in a pod, $(NAME) is the value of an earlier variable, and $$(NAME) is the text
    /// $(NAME).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 32768), regex(pattern = text::NO_NUL))]
    pub value: Option<String>,
    /// An entry of a Secret of this namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret_key_ref: Option<KeyRef>,
    /// An entry of a ConfigMap of this namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_map_key_ref: Option<KeyRef>,
}

/// An entry of a Secret or ConfigMap of this namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeyRef {
    /// Name of the Secret or ConfigMap.
    #[schemars(length(min = 1, max = 253), regex(pattern = text::SUBDOMAIN))]
    pub name: String,
    /// Name of the entry.
    #[schemars(length(min = 1, max = 253), regex(pattern = text::ENTRY))]
    pub key: String,
}

/// A Secret or ConfigMap of this namespace, all of whose entries become variables.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.secret) != has(self.configMap)").message("give either secret or configMap"),
    validation = rules::no_key_secret("!has(self.secret) || !", "self.secret", "")
)]
pub struct EnvFrom {
    /// Name of a Secret.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = text::SUBDOMAIN))]
    pub secret: Option<String>,
    /// Name of a ConfigMap.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = text::SUBDOMAIN))]
    pub config_map: Option<String>,
}

/// What a job needs; requests and limits are the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobResources {
    /// CPU, such as `2` or `500m`, at least `1m`; by default the scenario's, else 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = quantity::CPU.rule())]
    pub cpu: Option<Quantity>,
    /// Memory, such as `4Gi`, at least `16Mi`; by default the scenario's, else 512Mi.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = quantity::MEMORY.rule())]
    pub memory: Option<Quantity>,
    /// Whole GPUs; by default the scenario's, else 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1024))]
    pub gpus: Option<i64>,
    /// Scratch space on the node's disk, such as `10Gi`, at least `1Mi`; by default the scenario's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = quantity::DISK.rule())]
    pub ephemeral_storage: Option<Quantity>,
    /// Network bandwidth, in Mbit/s; by default the scenario's, else 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 1_000_000))]
    pub bandwidth_mbps: Option<i64>,
}

/// A volume of a job.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.claim) != has(self.scratch)").message("give either claim or scratch"))]
pub struct Volume {
    /// Name of the volume within the job.
    #[schemars(length(min = 1, max = 63), regex(pattern = text::LABEL))]
    pub name: String,
    /// Path at which the volume is mounted: an absolute path other than the root, without a colon.
    #[schemars(length(min = 1, max = 1024), regex(pattern = text::MOUNT_PATH))]
    pub mount_path: String,
    /// Name of a PersistentVolumeClaim of this namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = text::SUBDOMAIN))]
    pub claim: Option<String>,
    /// Size of scratch space on the node's disk, such as `1Gi`, at least `1Mi`. It is deleted with the attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[x_kube(validation = quantity::DISK.rule())]
    pub scratch: Option<Quantity>,
    /// Whether a claim is mounted read-only.
    #[serde(default)]
    pub read_only: bool,
}

/// A queue says which jobs go first.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, strum::IntoStaticStr,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
// Apart from the value of the same word, of which generated clients make a constant of that name.
#[schemars(rename = "JobQueue")]
pub enum Queue {
    /// Someone waits for the result.
    Live,
    /// This is ordinary work.
    #[default]
    Default,
    /// The job runs whenever there is room.
    Batch,
}

/// A priority says which jobs of a queue go first.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema, strum::IntoStaticStr,
)]
#[serde(rename_all = "lowercase")]
#[strum(serialize_all = "lowercase")]
pub enum Priority {
    /// The job goes first.
    High,
    /// The job goes in between.
    #[default]
    Medium,
    /// The job goes last.
    Low,
}

/// What is tried again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RetryPolicy {
    /// What is not the job's fault: eviction, preemption, node loss, a deleted pod, a start that never came.
    #[default]
    Infrastructure,
    /// Exit codes, memory and timeouts too.
    Always,
}

/// What happens to a job when a quota is reached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum OnQuota {
    /// It waits.
    #[default]
    Queue,
    /// It is Rejected.
    Reject,
}
