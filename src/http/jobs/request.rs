//! The body of a submit, in the seed's snake_case, and the Job that it asks for.
//!
//! What is allowed in a field is left to the CRD's rules, which know it better and are asked by everybody alike.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api_types::{
    JobSpec, Quantity,
    job::{self, EnvFrom, EnvVar, KeyRef, ParameterValue, Priority, Queue, Volume},
};

/// A job to submit. What is not given is the scenario's, or else as for a Job.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "NewJob", extend("anyOf" = [
    {"required": ["image"], "properties": {"image": {"type": "string"}}},
    {"required": ["scenario"], "properties": {"scenario": {"type": "string"}}},
]))]
pub struct Submit {
    scenario: Option<String>,
    #[serde(default)]
    #[schemars(extend("propertyNames" = {"pattern": "^[A-Za-z]([-_.A-Za-z0-9]{0,61}[A-Za-z0-9])?$"}))]
    parameters: BTreeMap<String, String>,
    image: Option<String>,
    #[serde(default)]
    command: Vec<String>,
    #[serde(default)]
    args: Vec<String>,
    working_dir: Option<String>,
    #[serde(default)]
    env: Vec<Variable>,
    #[serde(default)]
    env_from: Vec<VariablesFrom>,
    resources: Option<Resources>,
    run_as_user: Option<i64>,
    #[serde(default)]
    volumes: Vec<Mount>,
    #[serde(default)]
    image_pull_secrets: Vec<String>,
    #[serde(default)]
    queue: Queue,
    #[serde(default)]
    priority: Priority,
    timeout_seconds: Option<i64>,
    #[serde(default = "three")]
    max_retries: i32,
    /// What is tried again.
    #[serde(default)]
    retry_policy: RetryPolicy,
    pool: Option<String>,
    /// What happens when a quota is reached.
    #[serde(default)]
    on_quota: OnQuota,
    ttl_seconds_after_finished: Option<i64>,
}

/// What the CRD has.
fn three() -> i32 {
    3
}

/// An environment variable: a value, or an entry of a Secret or ConfigMap of the tenant's namespace.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("allOf" = [
    {"not": {"required": ["value", "secret_key_ref"], "properties": {"value": {"type": "string"}, "secret_key_ref": {"type": "object"}}}},
    {"not": {"required": ["value", "config_map_key_ref"], "properties": {"value": {"type": "string"}, "config_map_key_ref": {"type": "object"}}}},
    {"not": {"required": ["secret_key_ref", "config_map_key_ref"], "properties": {"secret_key_ref": {"type": "object"}, "config_map_key_ref": {"type": "object"}}}},
]))]
struct Variable {
    /// Name; those that begin with CROFTER_ are Crofter's own.
    #[schemars(extend("not" = {"pattern": "^CROFTER_"}))]
    name: String,
    value: Option<String>,
    secret_key_ref: Option<Entry>,
    config_map_key_ref: Option<Entry>,
}

/// An entry of a Secret or ConfigMap.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    key: String,
}

/// A Secret or ConfigMap of the tenant's namespace, all of whose entries become variables.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = [
    {"required": ["secret"], "properties": {"secret": {"type": "string"}}},
    {"required": ["config_map"], "properties": {"config_map": {"type": "string"}}},
]))]
struct VariablesFrom {
    secret: Option<String>,
    config_map: Option<String>,
}

/// A volume: a claim of the tenant's namespace, or scratch space.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = [
    {"required": ["claim"], "properties": {"claim": {"type": "string"}}},
    {"required": ["scratch"], "properties": {"scratch": {"type": ["string", "integer"]}}},
]))]
struct Mount {
    name: String,
    mount_path: String,
    claim: Option<String>,
    scratch: Option<Quantity>,
    #[serde(default)]
    read_only: bool,
}

/// What a job needs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu: Option<Quantity>,
    #[serde(skip_serializing_if = "Option::is_none")]
    memory: Option<Quantity>,
    #[serde(skip_serializing_if = "Option::is_none")]
    gpus: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ephemeral_storage: Option<Quantity>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bandwidth_mbps: Option<i64>,
}

/// What is tried again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RetryPolicy {
    /// What is not the job's fault.
    #[default]
    Infrastructure,
    /// Exit codes and timeouts too.
    Always,
}

/// What happens when a quota is reached. Whoever submits through REST waits for an answer, so the default is to refuse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnQuota {
    /// The answer is 429.
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
    fn the_seeds_body_is_a_job_that_is_refused_at_a_quota() {
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
    fn what_a_job_does_not_have_is_refused() {
        for body in [r#"{"namespace": "kube-system"}"#, r#"{"canceled": true}"#, r#"{"queue": "Live"}"#] {
            assert!(body::read::<Submit>(body.as_bytes()).is_err(), "{body}");
        }
    }
}
