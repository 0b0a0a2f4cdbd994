//! A job as the API shows it. Values of environment variables are never shown: people put passwords there.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Serialize;
use strum::IntoEnumIterator;

use super::request::{OnQuota, Resources, RetryPolicy};
use crate::{
    api_types::{
        Job, JobPhase, JobSpec,
        job::{Priority, Queue},
    },
    db::JobRecord,
};

/// A job.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[schemars(rename = "Job")]
pub struct JobView {
    /// UID.
    pub id: String,
    /// Name of the Job in the tenant's namespace.
    pub name: String,
    /// UID of its tenant.
    pub tenant_id: String,
    /// Where it is; null where that was never seen.
    #[schemars(schema_with = "words")]
    pub status: Option<&'static str>,
    /// Why, in one word.
    pub reason: Option<String>,
    /// Why, in a sentence with numbers.
    pub message: Option<String>,
    /// Number of the current or last attempt, from 1; 0 before the first.
    pub attempt: i32,
    /// Attempts charged against `max_retries`.
    pub retries: i32,
    /// Node of the current or last attempt.
    pub node: Option<String>,
    /// Exit code of the last attempt.
    pub exit_code: Option<i32>,
    /// When it was submitted.
    pub created_at: Timestamp,
    /// When the current or last attempt was admitted.
    pub assigned_at: Option<Timestamp>,
    /// When the current or last attempt started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// When it was found gone from the cluster.
    pub deleted_at: Option<Timestamp>,
    /// What was submitted; null where that was never seen.
    #[serde(flatten)]
    pub submitted: Option<Submitted>,
}

/// What was submitted.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Submitted {
    /// Entry of the catalogue.
    pub scenario: Option<String>,
    /// Parameters.
    pub parameters: BTreeMap<String, String>,
    /// Container image.
    pub image: Option<String>,
    /// Entry point.
    pub command: Vec<String>,
    /// Arguments.
    pub args: Vec<String>,
    /// Names of environment variables.
    pub env: Vec<String>,
    /// What it needs.
    pub resources: Option<Resources>,
    /// Queue.
    pub queue: Queue,
    /// Priority.
    pub priority: Priority,
    /// Longest running time.
    pub timeout_seconds: Option<i64>,
    /// How often it is tried again.
    pub max_retries: i32,
    /// What is tried again.
    pub retry_policy: RetryPolicy,
    /// Shared pool.
    pub pool: Option<String>,
    /// What happens when a quota is reached.
    pub on_quota: OnQuota,
    /// Whether its end was asked for.
    pub canceled: bool,
}

/// The word of a phase.
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

/// The schema of a phase's word, or null.
pub fn words(_: &mut SchemaGenerator) -> Schema {
    let words: Vec<Option<&str>> = JobPhase::iter().map(|phase| Some(word(phase))).chain([None]).collect();
    json_schema!({"type": ["string", "null"], "enum": words})
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
    /// A job of the cluster.
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
            submitted: Some(submitted(job.spec.clone())),
        }
    }

    /// A job of the history.
    #[must_use]
    pub fn recorded(record: JobRecord, tenant_uid: &str) -> Self {
        let spec = record.spec.and_then(|spec| serde_json::from_value(spec).ok());
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
    fn a_job_is_shown_in_snake_case_and_without_values_of_variables() {
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
        let shown = serde_json::to_value(JobView::of(&job, "t")).unwrap();
        assert!(!shown.to_string().contains("geheim"), "{shown}");
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
