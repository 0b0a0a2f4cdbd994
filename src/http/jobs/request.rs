//! The body of a submit, in snake_case, and its conversion into the spec of a Job.
//!
//! The bounds of the fields are in the CRD, whose rules apply to every client alike.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api_types::{
    JobSpec, Quantity,
    job::{self, EnvFrom, EnvVar, KeyRef, ParameterValue, Priority, Queue, Volume},
};

/// This describes the job that is to be submitted. Either `image` is required, or a `scenario` that has one. A field that is absent is the scenario's,
/// else it has the default of a Job.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "JobCreate")]
pub struct Submit {
    /// This is the scenario of the catalogue that the job runs.
    scenario: Option<String>,
    /// These are the parameters of the work. The container gets each as `CROFTER_PARAM_<NAME>`, and all of them as JSON in
    /// `CROFTER_PARAMETERS`, as they are: `$(NAME)` is not replaced. Two names must not be the same variable.
    #[serde(default)]
    #[schemars(extend("propertyNames" = {"pattern": "^[A-Za-z]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?$"}))]
    parameters: BTreeMap<String, String>,
    /// This is the container image. It may be absent where the scenario has one.
    image: Option<String>,
    /// This is the entry point. By default it is the scenario's, else the image's. As in a pod, `$(NAME)` is the value of
    /// that variable.
    #[serde(default)]
    command: Vec<String>,
    /// These are the arguments. By default they are the scenario's, unless `command` is given, else the image's. As in a
    /// pod, `$(NAME)` is the value of that variable, and `$$(NAME)` is the text `$(NAME)`.
    #[serde(default)]
    args: Vec<String>,
    /// This is the working directory, which is an absolute path. By default it is the image's.
    working_dir: Option<String>,
    /// These are environment variables, which follow the scenario's. Of two with one name the last one counts.
    #[serde(default)]
    env: Vec<Variable>,
    /// These are Secrets and ConfigMaps of the tenant's namespace, whose entries become environment variables.
    #[serde(default)]
    env_from: Vec<VariablesFrom>,
    /// This is what the job needs. Requests and limits are the same.
    resources: Option<Resources>,
    /// This is the numeric id of the user that runs the container. By default it is the scenario's.
    run_as_user: Option<i64>,
    /// These are the volumes of the job. Each has a name and a path of its own.
    #[serde(default)]
    volumes: Vec<Mount>,
    /// These are Secrets of the tenant's namespace with which the image is pulled.
    #[serde(default)]
    image_pull_secrets: Vec<String>,
    /// This is the queue of the job.
    #[serde(default)]
    queue: Queue,
    /// This is the priority of the job within its queue.
    #[serde(default)]
    priority: Priority,
    /// This is the longest running time over all attempts, in seconds. By default it is the scenario's. The tenant's
    /// `job_timeout_minutes` limits it.
    timeout_seconds: Option<i64>,
    /// This is how often the job is tried again. Attempts that the cluster ended (drained, evicted, preempted, node lost, pod
    /// deleted) are not counted, up to 16 of them. With 0 the job is not run again after these either.
    #[serde(default = "three")]
    max_retries: i32,
    /// This says which failures are tried again.
    #[serde(default)]
    retry_policy: RetryPolicy,
    /// This is the shared pool to run on. By default the job runs on the tenant's own nodes and all its pools.
    pool: Option<String>,
    /// This says what happens when a quota is reached.
    #[serde(default)]
    on_quota: OnQuota,
    /// This is how many seconds after its end the job is deleted from the cluster. Where it is absent the job is kept.
    ttl_seconds_after_finished: Option<i64>,
}

/// The default of the CRD.
fn three() -> i32 {
    3
}

/// An environment variable has a value, or takes it from an entry of a Secret or ConfigMap of the tenant's namespace. At
/// most one of `value`, `secret_key_ref` and `config_map_key_ref` is allowed.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Variable {
    /// This is the name of the variable. A name that begins with `CROFTER_` is refused, and
    /// one that makes GPUs visible, such as `NVIDIA_VISIBLE_DEVICES`: the node sets it for those that the job asks for.
    name: String,
    /// This is the value of the variable. As in a pod, `$(NAME)` is the value of an earlier variable, and `$$(NAME)` is the
    /// text `$(NAME)`.
    value: Option<String>,
    /// This is the entry of a Secret that has the value.
    secret_key_ref: Option<Entry>,
    /// This is the entry of a ConfigMap that has the value.
    config_map_key_ref: Option<Entry>,
}

/// An entry names a Secret or ConfigMap and one key in it.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// This is the name of the Secret or ConfigMap.
    name: String,
    /// This is the key in it.
    key: String,
}

/// All entries of a Secret or ConfigMap of the tenant's namespace become variables. Exactly one of the fields is required.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct VariablesFrom {
    /// This is the name of a Secret.
    secret: Option<String>,
    /// This is the name of a ConfigMap.
    config_map: Option<String>,
}

/// A volume is a claim of the tenant's namespace or scratch space. Exactly one of `claim` and `scratch` is required.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Mount {
    /// This is the name of the volume within the job.
    name: String,
    /// This is the path at which the container has the volume. It is absolute, is not the root and has no colon.
    mount_path: String,
    /// This is the name of a PersistentVolumeClaim.
    claim: Option<String>,
    /// This is the size of scratch space on the node's disk, such as `1Gi`. It is at least `1Mi`, and is
    /// deleted with the attempt.
    scratch: Option<Quantity>,
    /// Whether the claim is mounted read-only.
    #[serde(default)]
    read_only: bool,
}

/// Resources are what a job needs. A field that is absent is the scenario's, else it has its default. A quantity may also
/// be a whole number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    /// This is how many CPUs the job needs, such as `2` or `500m`, which is at least `1m`. By default it is `1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu: Option<Quantity>,
    /// This is how much memory the job needs, such as `4Gi`, which is at least `16Mi`. By default it is `512Mi`.
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<Quantity>,
    /// This is how many whole GPUs the job needs. By default it needs none.
    #[serde(skip_serializing_if = "Option::is_none")]
    gpus: Option<i64>,
    /// This is how much scratch space on the node's disk the job needs, such as `10Gi`. It is at least
    /// `1Mi`.
    #[serde(skip_serializing_if = "Option::is_none")]
    ephemeral_storage: Option<Quantity>,
    /// This is how much network bandwidth the job needs, in Mbit/s. By default it needs none.
    #[serde(skip_serializing_if = "Option::is_none")]
    bandwidth_mbps: Option<i64>,
}

/// A retry policy says which failures are tried again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RetryPolicy {
    /// Only failures that the job did not cause are tried again.
    #[default]
    Infrastructure,
    /// Exit codes and timeouts are tried again too.
    Always,
}

/// This says what happens when a quota is reached. A REST client waits for the response, so the default is to refuse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnQuota {
    /// The submit is refused with 429.
    #[default]
    Reject,
    /// The job waits.
    Queue,
}

impl From<Resources> for job::JobResources {
    fn from(from: Resources) -> Self {
        let Resources { cpu, memory, gpus, ephemeral_storage, bandwidth_mbps } = from;
        Self { cpu, memory, gpus, ephemeral_storage, bandwidth_mbps }
    }
}

impl From<job::JobResources> for Resources {
    fn from(from: job::JobResources) -> Self {
        let job::JobResources { cpu, memory, gpus, ephemeral_storage, bandwidth_mbps } = from;
        Self { cpu, memory, gpus, ephemeral_storage, bandwidth_mbps }
    }
}

impl From<RetryPolicy> for job::RetryPolicy {
    fn from(from: RetryPolicy) -> Self {
        match from {
            RetryPolicy::Infrastructure => Self::Infrastructure,
            RetryPolicy::Always => Self::Always,
        }
    }
}

impl From<job::RetryPolicy> for RetryPolicy {
    fn from(from: job::RetryPolicy) -> Self {
        match from {
            job::RetryPolicy::Infrastructure => Self::Infrastructure,
            job::RetryPolicy::Always => Self::Always,
        }
    }
}

impl From<OnQuota> for job::OnQuota {
    fn from(from: OnQuota) -> Self {
        match from {
            OnQuota::Reject => Self::Reject,
            OnQuota::Queue => Self::Queue,
        }
    }
}

impl From<job::OnQuota> for OnQuota {
    fn from(from: job::OnQuota) -> Self {
        match from {
            job::OnQuota::Reject => Self::Reject,
            job::OnQuota::Queue => Self::Queue,
        }
    }
}

impl From<Submit> for JobSpec {
    fn from(from: Submit) -> Self {
        let entry = |entry: Entry| KeyRef { name: entry.name, key: entry.key };
        let variable = |v: Variable| EnvVar {
            name: v.name,
            value: v.value,
            secret_key_ref: v.secret_key_ref.map(entry),
            config_map_key_ref: v.config_map_key_ref.map(entry),
        };
        let mount = |v: Mount| Volume {
            name: v.name,
            mount_path: v.mount_path,
            claim: v.claim,
            scratch: v.scratch,
            read_only: v.read_only,
        };
        let whole = |v: VariablesFrom| EnvFrom { secret: v.secret, config_map: v.config_map };
        let parameter = |(name, value)| (name, ParameterValue(value));
        Self {
            image: from.image,
            command: from.command,
            args: from.args,
            working_dir: from.working_dir,
            env: from.env.into_iter().map(variable).collect(),
            env_from: from.env_from.into_iter().map(whole).collect(),
            parameters: from.parameters.into_iter().map(parameter).collect(),
            scenario: from.scenario,
            resources: from.resources.map(Into::into),
            run_as_user: from.run_as_user,
            volumes: from.volumes.into_iter().map(mount).collect(),
            image_pull_secrets: from.image_pull_secrets,
            queue: from.queue,
            priority: from.priority,
            timeout_seconds: from.timeout_seconds,
            max_retries: from.max_retries,
            retry_policy: from.retry_policy.into(),
            pool: from.pool,
            on_quota: from.on_quota.into(),
            ttl_seconds_after_finished: from.ttl_seconds_after_finished,
            canceled: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::http::body;

    #[test]
    fn a_short_body_is_a_job_that_is_rejected_at_a_quota() {
        let body = json!({"scenario": "render", "parameters": {"frames": "10"}, "queue": "live", "priority": "high"});
        let spec: JobSpec = body::read::<Submit>(body.to_string().as_bytes()).unwrap().into();
        let expected = json!({
            "scenario": "render", "parameters": {"frames": "10"}, "queue": "live", "priority": "high",
            "maxRetries": 3, "retryPolicy": "Infrastructure", "onQuota": "Reject", "canceled": false,
        });
        assert_eq!(serde_json::to_value(spec).unwrap(), expected);
    }

    #[test]
    fn every_field_reaches_the_job() {
        let body = json!({
            "image": "i", "command": ["a"], "args": ["b"], "working_dir": "/w", "run_as_user": 7,
            "env": [{"name": "A", "value": "1"}, {"name": "B", "secret_key_ref": {"name": "s", "key": "k"}},
                    {"name": "C", "config_map_key_ref": {"name": "c", "key": "k"}}],
            "env_from": [{"secret": "s"}, {"config_map": "c"}],
            "resources": {"cpu": "2", "memory": "1Gi", "gpus": 1, "ephemeral_storage": "1Gi", "bandwidth_mbps": 5},
            "volumes": [{"name": "v", "mount_path": "/v", "claim": "p", "read_only": true},
                        {"name": "x", "mount_path": "/x", "scratch": "1Gi"}],
            "image_pull_secrets": ["r"], "timeout_seconds": 9, "max_retries": 0, "retry_policy": "always",
            "pool": "gpu", "on_quota": "queue", "ttl_seconds_after_finished": 1,
        });
        let spec: JobSpec = body::read::<Submit>(body.to_string().as_bytes()).unwrap().into();
        let expected = json!({
            "image": "i", "command": ["a"], "args": ["b"], "workingDir": "/w", "runAsUser": 7,
            "env": [{"name": "A", "value": "1"}, {"name": "B", "secretKeyRef": {"name": "s", "key": "k"}},
                    {"name": "C", "configMapKeyRef": {"name": "c", "key": "k"}}],
            "envFrom": [{"secret": "s"}, {"configMap": "c"}],
            "resources": {"cpu": "2", "memory": "1Gi", "gpus": 1, "ephemeralStorage": "1Gi", "bandwidthMbps": 5},
            "volumes": [{"name": "v", "mountPath": "/v", "claim": "p", "readOnly": true},
                        {"name": "x", "mountPath": "/x", "scratch": "1Gi", "readOnly": false}],
            "imagePullSecrets": ["r"], "timeoutSeconds": 9, "maxRetries": 0, "retryPolicy": "Always",
            "pool": "gpu", "onQuota": "Queue", "ttlSecondsAfterFinished": 1, "canceled": false,
            "queue": "default", "priority": "medium",
        });
        assert_eq!(serde_json::to_value(spec).unwrap(), expected);
    }

    #[test]
    fn a_field_or_word_that_a_job_does_not_have_is_refused() {
        for body in [r#"{"namespace": "kube-system"}"#, r#"{"canceled": true}"#, r#"{"queue": "Live"}"#] {
            assert!(body::read::<Submit>(body.as_bytes()).is_err(), "{body}");
        }
    }
}
