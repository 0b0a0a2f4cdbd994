//! A job in responses. Values of environment variables are never in a response: they may be passwords.

use std::{borrow::Cow, collections::BTreeMap};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Serialize;
use strum::IntoEnumIterator;

use super::{
    ended::recorded_spec,
    request::{OnQuota, Resources, RetryPolicy},
};
use crate::{
    api_types::{
        Job, JobPhase, JobSpec,
        job::{Priority, Queue},
    },
    db::JobRecord,
};

/// A job is one unit of work that a tenant has submitted.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(rename = "Job")]
pub struct JobView {
    /// This is the UID of the job.
    pub id: String,
    /// This is the name of the Job in the tenant's namespace.
    pub name: String,
    /// This is the UID of the tenant.
    pub tenant_id: String,
    /// This is the state of the job. It is null where the history has only the job's name.
    #[schemars(with = "Option<StatusWord>")]
    pub status: Option<&'static str>,
    /// This says in one word why the job is in its state.
    pub reason: Option<String>,
    /// This sentence says why the job is in its state, with numbers.
    pub message: Option<String>,
    /// This is the number of the current or last attempt, from 1. It is 0 before the first.
    pub attempt: i32,
    /// This is how many attempts count towards `max_retries`.
    pub retries: i32,
    /// This is the node of the current or last attempt.
    pub node: Option<String>,
    /// This is the exit code of the last attempt.
    pub exit_code: Option<i32>,
    /// This is when the job was submitted.
    pub created_at: Timestamp,
    /// This is when the current or last attempt was admitted.
    pub assigned_at: Option<Timestamp>,
    /// This is when the current or last attempt started.
    pub started_at: Option<Timestamp>,
    /// This is when the job ended.
    pub finished_at: Option<Timestamp>,
    /// This is when the job was found to be deleted from the cluster.
    pub deleted_at: Option<Timestamp>,
    /// These fields are what was submitted. They are absent where the history has only the job's name, and in
    /// an ended job while the history is unavailable.
    #[serde(flatten)]
    pub submitted: Option<Submitted>,
}

/// These fields are what was submitted.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Submitted {
    /// This is the scenario of the catalogue that the job runs.
    pub scenario: Option<String>,
    /// These are the parameters of the work.
    pub parameters: BTreeMap<String, String>,
    /// This is the container image.
    pub image: Option<String>,
    /// This is the entry point of the container.
    pub command: Vec<String>,
    /// These are the arguments of the entry point.
    pub args: Vec<String>,
    /// These are the names of the environment variables. Their values are never shown.
    pub env: Vec<String>,
    /// This is what the job needs.
    pub resources: Option<Resources>,
    /// This is the queue of the job.
    pub queue: Queue,
    /// This is the priority of the job within its queue.
    pub priority: Priority,
    /// This is the longest running time over all attempts, in seconds.
    pub timeout_seconds: Option<i64>,
    /// This is how often the job is tried again.
    pub max_retries: i32,
    /// This says which failures are tried again.
    pub retry_policy: RetryPolicy,
    /// This is the shared pool that the job runs on.
    pub pool: Option<String>,
    /// This says what happens when a quota is reached.
    pub on_quota: OnQuota,
    /// Whether someone has asked for the end of the job. `status` says whether it has ended.
    pub canceled: bool,
}

/// The status of a phase.
#[must_use]
pub fn word(phase: JobPhase) -> &'static str {
    match phase {
        JobPhase::Queued => "queued",
        JobPhase::Assigned => "assigned",
        JobPhase::Running => "running",
        JobPhase::Completed => "completed",
        JobPhase::Failed => "failed",
        JobPhase::TimedOut => "timed_out",
        JobPhase::Retrying => "retrying",
        JobPhase::Canceled => "canceled",
        JobPhase::Rejected => "rejected",
    }
}

/// The status of a phase, as the document has it.
pub struct StatusWord;

impl JsonSchema for StatusWord {
    fn schema_name() -> Cow<'static, str> {
        "JobStatus".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let words: Vec<&str> = JobPhase::iter().map(word).collect();
        json_schema!({"type": "string", "enum": words, "description": "A status is the state of a job."})
    }
}

fn submitted(spec: JobSpec) -> Submitted {
    Submitted {
        scenario: spec.scenario,
        parameters: spec.parameters.into_iter().map(|(name, value)| (name, value.0)).collect(),
        image: spec.image,
        command: spec.command,
        args: spec.args,
        env: spec.env.into_iter().map(|variable| variable.name).collect(),
        resources: spec.resources.map(Into::into),
        queue: spec.queue,
        priority: spec.priority,
        timeout_seconds: spec.timeout_seconds,
        max_retries: spec.max_retries,
        retry_policy: spec.retry_policy.into(),
        pool: spec.pool,
        on_quota: spec.on_quota.into(),
        canceled: spec.canceled,
    }
}

impl JobView {
    /// The view of a job of the cluster. The submitted fields are absent where the job lacks its payload.
    #[must_use]
    pub fn of(job: &Job, tenant_uid: &str) -> Self {
        let status = job.status.clone().unwrap_or_default();
        let time = |time: Option<Time>| time.map(|time| time.0);
        Self {
            id: job.uid().unwrap_or_default(),
            name: job.name_any(),
            tenant_id: tenant_uid.to_owned(),
            status: Some(word(status.phase)),
            reason: status.reason,
            message: status.message,
            attempt: status.attempt,
            retries: status.retries,
            node: status.node,
            exit_code: status.exit_code,
            created_at: time(job.metadata.creation_timestamp.clone()).unwrap_or_default(),
            assigned_at: time(status.assigned_at),
            started_at: time(status.started_at),
            finished_at: time(status.finished_at),
            deleted_at: None,
            submitted: job.spec.has_payload().then(|| submitted(job.spec.clone())),
        }
    }

    /// The view of a job of the history.
    #[must_use]
    pub fn recorded(record: JobRecord, tenant_uid: &str) -> Self {
        let spec = recorded_spec(&record);
        Self {
            id: record.uid.to_string(),
            name: record.name,
            tenant_id: tenant_uid.to_owned(),
            status: record.phase.and_then(|phase| phase.parse().ok()).map(word),
            reason: record.reason,
            message: record.message,
            attempt: record.attempt,
            retries: record.retries,
            node: record.node,
            exit_code: record.exit_code,
            created_at: record.created_at,
            assigned_at: record.assigned_at,
            started_at: record.started_at,
            finished_at: record.finished_at,
            deleted_at: record.deleted_at,
            submitted: spec.map(submitted),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_view_is_in_snake_case_and_without_values_of_variables() {
        let job: Job = serde_json::from_value(json!({
            "apiVersion": "crofter.io/v1alpha1", "kind": "Job",
            "metadata": {"name": "j", "uid": "u", "creationTimestamp": "2030-01-01T00:00:00Z"},
            "spec": {
                "image": "i", "parameters": {"frames": "9"}, "env": [{"name": "PASSWORD", "value": "geheim"}],
                "resources": {"cpu": "2", "bandwidthMbps": 10}, "onQuota": "Reject", "retryPolicy": "Always",
            },
            "status": {"phase": "TimedOut", "reason": "DeadlineExceeded", "exitCode": 137},
        }))
        .unwrap();
        // Step 1: no value of a variable is shown.
        let shown = serde_json::to_value(JobView::of(&job, "t")).unwrap();
        assert!(!shown.to_string().contains("geheim"), "{shown}");
        // Step 2: fields and words are in snake case.
        for (field, expected) in [
            ("id", json!("u")),
            ("tenant_id", json!("t")),
            ("status", json!("timed_out")),
            ("exit_code", json!(137)),
            ("created_at", json!("2030-01-01T00:00:00Z")),
            ("parameters", json!({"frames": "9"})),
            ("env", json!(["PASSWORD"])),
            ("on_quota", json!("reject")),
            ("retry_policy", json!("always")),
            ("queue", json!("default")),
        ] {
            assert_eq!(shown[field], expected, "{field}");
        }
        assert_eq!(shown["resources"]["bandwidth_mbps"], 10);
    }
}
