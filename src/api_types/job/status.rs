//! What Crofter says of a job.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api_types::tenant::unobserved;

/// The phases that one write may store over another, whoever writes; `domain::job_state::storable` as CEL, which a test
/// compares. A phase that is stored and is none of them may be put right in any way; one that is no text at all, CEL
/// can't compare with anything: such a job can only be deleted.
pub(crate) const MOVES: &str = "self == oldSelf \
    || oldSelf == 'Queued' && self in ['Assigned', 'Running', 'Completed', 'Failed', 'TimedOut', 'Retrying', 'Canceled', 'Rejected'] \
    || oldSelf == 'Assigned' && self in ['Running', 'Completed', 'Failed', 'TimedOut', 'Retrying', 'Canceled'] \
    || oldSelf == 'Running' && self in ['Completed', 'Failed', 'TimedOut', 'Retrying', 'Canceled'] \
    || oldSelf == 'Retrying' && self in ['Queued', 'Failed', 'Canceled'] \
    || !(oldSelf in ['Queued', 'Assigned', 'Running', 'Completed', 'Failed', 'TimedOut', 'Retrying', 'Canceled', 'Rejected'])";

/// The phase of a job. `domain::job_state` has the legal moves.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    Hash,
    PartialOrd,
    Ord,
    Serialize,
    Deserialize,
    JsonSchema,
    strum::Display,
    strum::IntoStaticStr,
    strum::EnumIter,
    strum::EnumString,
)]
pub enum JobPhase {
    /// Waits for admission.
    #[default]
    Queued,
    /// Admitted; its pod is created and not running yet.
    Assigned,
    /// Its container runs.
    Running,
    /// Ended with exit code 0.
    Completed,
    /// Ended badly, for good.
    Failed,
    /// Ran too long. An end state unless the job is retried.
    TimedOut,
    /// An attempt ended and another will follow.
    Retrying,
    /// Canceled by the user.
    Canceled,
    /// Refused; it never ran.
    Rejected,
}

/// JobStatus is the observed state of a Job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobStatus {
    /// Generation of the spec that this status describes; -1 before the first reconcile.
    #[serde(default = "unobserved")]
    pub observed_generation: i64,
    /// Phase of the job.
    #[serde(default)]
    #[x_kube(validation = Rule::new(MOVES)
        .message(Message::Expression("\"a job can't go from \" + oldSelf + \" to \" + self".into()))
        .reason(Reason::FieldValueForbidden))]
    pub phase: JobPhase,
    /// Why the job is in its phase, in one word.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Why the job is in its phase, in a sentence with numbers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Number of the current or last attempt, from 1; 0 before the first.
    #[serde(default)]
    pub attempt: i32,
    /// Attempts charged against maxRetries so far.
    #[serde(default)]
    pub retries: i32,
    /// How many of them the hourly window counts: a retry is counted when its pod is created.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub charged_retries: Option<i32>,
    /// Attempts that the cluster ended so far (drained, evicted, preempted, node lost, pod deleted). They are not charged
    /// against maxRetries; after 16 of them the job fails.
    #[serde(default)]
    pub disruptions: i32,
    /// Pod of the current or last attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pod: Option<String>,
    /// Node of the current or last attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Worker group (tenant or pool) that the current or last attempt was admitted to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub worker_group: Option<String>,
    /// When the current or last attempt was admitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub assigned_at: Option<Time>,
    /// When the container of the current or last attempt started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When the job ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
    /// Time before which no attempt starts (back-off).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_before: Option<Time>,
    /// Exit code of the last attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Running time of the attempts that ended, in milliseconds; the timeout counts it.
    #[serde(default)]
    pub running_millis: i64,
    /// Attempts that ended, the oldest first; of more than 16 attempts the last 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16))]
    pub attempts: Vec<AttemptRecord>,
    /// Conditions: Finished at the end, with Complete or Failed; Reconciling and Stalled only while they are True.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// An attempt that ended, with what it is charged for. It is the unit of metering.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct AttemptRecord {
    /// Number of the attempt, from 1.
    pub attempt: i32,
    /// Pod of the attempt.
    pub pod: String,
    /// Node of the attempt, if it was scheduled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// When the container started; absent if it did not start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When the attempt ended.
    pub finished_at: Time,
    /// Reason of the end, in one word.
    pub reason: String,
    /// Exit code of the container, if it had one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// CPU that the attempt requested, in thousandths of a core.
    pub cpu_millicores: i64,
    /// Memory that the attempt requested, in bytes.
    pub memory_bytes: i64,
    /// GPUs that the attempt requested.
    pub gpus: i64,
    /// Bandwidth that the attempt requested, in Mbit/s.
    pub bandwidth_mbps: i64,
}

impl AttemptRecord {
    /// How long the container ran, in milliseconds.
    #[must_use]
    pub fn running_millis(&self) -> i64 {
        let started = self.started_at.as_ref().map_or(self.finished_at.0, |time| time.0);
        i64::try_from(self.finished_at.0.duration_since(started).as_millis()).unwrap_or(i64::MAX)
    }
}
