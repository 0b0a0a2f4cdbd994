//! What the servers say, in one form for both transports: that of the REST API, in snake case.
//!
//! A type names the fields that the command line reads. Whatever else a server says is kept in `rest`, so that
//! `-o json` has all of it, also that of a newer version.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A job.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Its UID.
    pub id: String,
    /// Name of the Job.
    pub name: String,
    /// Name of its tenant, where the client knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Its namespace, where the client knows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// Its state: `queued`, `running`, …
    #[serde(default)]
    pub status: Option<String>,
    /// Why it is in its state, in one word.
    #[serde(default)]
    pub reason: Option<String>,
    /// The same in a sentence.
    #[serde(default)]
    pub message: Option<String>,
    /// Number of the current or last attempt, 0 before the first.
    #[serde(default)]
    pub attempt: u32,
    /// Node of that attempt.
    #[serde(default)]
    pub node: Option<String>,
    /// Exit code of the last attempt.
    #[serde(default)]
    pub exit_code: Option<i32>,
    /// When it was submitted.
    #[serde(default)]
    pub created_at: Option<Timestamp>,
    /// When the current or last attempt started.
    #[serde(default)]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default)]
    pub finished_at: Option<Timestamp>,
    /// The queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// The priority in its queue.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<String>,
    /// All else.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// The states in which a job has ended.
const ENDED: [&str; 4] = ["completed", "failed", "canceled", "rejected"];

impl Job {
    /// The word of its state; `queued` before it has one.
    #[must_use]
    pub fn state(&self) -> &str {
        self.status.as_deref().unwrap_or("queued")
    }

    /// Whether it has ended: `timed_out` is an end only with a time of its end.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        ENDED.contains(&self.state()) || self.state() == "timed_out" && self.finished_at.is_some()
    }

    /// Whether it waits for its start.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        matches!(self.state(), "queued" | "retrying")
    }

    /// Whether a container of the current attempt runs or has run.
    #[must_use]
    pub fn has_started(&self) -> bool {
        self.attempt > 0 && (self.state() == "running" || self.has_ended() || self.is_waiting())
    }
}

/// A page of jobs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Jobs {
    /// The jobs, the newest first.
    pub jobs: Vec<Job>,
    /// Cursor of the next page.
    #[serde(default)]
    pub next_cursor: Option<String>,
}

/// Why a job waits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Why {
    /// UID of the job.
    pub id: String,
    /// Its state.
    pub status: String,
    /// Whether it waits for its start.
    pub waiting: bool,
    /// Why, in one word.
    #[serde(default)]
    pub reason: Option<String>,
    /// Why, in a sentence with numbers.
    #[serde(default)]
    pub message: Option<String>,
    /// Its position among the tenant's waiting jobs, from 1.
    #[serde(default)]
    pub position: Option<u64>,
    /// `scheduler` where the numbers are of this moment, else `status`.
    pub source: String,
    /// When it starts, where that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub estimate: Option<StartEstimate>,
    /// Where the job comes among the tenant's jobs, while it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub score: Option<Score>,
    /// The tenant's shares of the pools that others use, too.
    #[serde(default)]
    pub shares: Vec<PoolShare>,
    /// The conditions of its start, in order.
    #[serde(default)]
    pub checks: Vec<Check>,
    /// All else.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// When a waiting job starts: two times, or why they can't be known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartEstimate {
    /// With a probability of one half within this many seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts_in_seconds_p50: Option<u64>,
    /// With a probability of nine tenths within this many seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts_in_seconds_p90: Option<u64>,
    /// Why it can't be known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<String>,
}

/// Where a waiting job comes among the jobs of its tenant, in points; the highest is next.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Score {
    /// The sum.
    pub total: f64,
    /// The queue.
    pub queue: String,
    /// The points for the queue.
    pub queue_points: u8,
    /// The priority.
    pub priority: String,
    /// The points for the priority.
    pub priority_points: u8,
    /// The points for waiting.
    pub waiting_points: f64,
}

/// What the tenant has of a pool that several tenants use, as parts of 1.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PoolShare {
    /// Name of the pool.
    pub pool: String,
    /// The weight of the tenant's plan.
    pub weight: u32,
    /// What the tenant is guaranteed.
    pub guaranteed: f64,
    /// What its jobs hold.
    pub held: f64,
    /// What they would hold with this job.
    pub with_job: f64,
    /// The mean of what they held lately; `None` where a replica answered that does not know it.
    #[serde(default)]
    pub recent: Option<f64>,
    /// Whether the tenant is within its guarantee with this job.
    pub within_guarantee: bool,
}

/// A condition of a start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// Its name.
    pub name: String,
    /// Whether it is met; `None` where it was not checked.
    pub ok: Option<bool>,
    /// The result in a sentence.
    pub detail: String,
    /// When it changes by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// All else.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// A tenant.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Tenant {
    /// Its UID; empty where only its namespace may be read.
    #[serde(default)]
    pub id: String,
    /// Its name.
    pub name: String,
    /// Its plan.
    #[serde(default)]
    pub plan: Option<String>,
    /// Its state: `active`, `suspended`, …
    #[serde(default)]
    pub status: Option<String>,
    /// Its namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    /// The quotas in force, -1 for none, by their name in the REST API (`max_jobs`).
    #[serde(default)]
    pub quotas: Option<BTreeMap<String, i64>>,
    /// What it uses: numbers, and times.
    #[serde(default)]
    pub usage: Map<String, Value>,
    /// When it expires.
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
    /// All else.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// An API key, without its token.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Key {
    /// Its UID.
    pub id: String,
    /// Name of the TenantApiKey.
    pub name: String,
    /// Name for people.
    #[serde(default)]
    pub display_name: Option<String>,
    /// What it may do.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// Public part of its newest token.
    #[serde(default)]
    pub key_id: Option<String>,
    /// Whether the server accepts it.
    #[serde(default)]
    pub active: bool,
    /// Why, in one word.
    #[serde(default)]
    pub reason: Option<String>,
    /// When it was created.
    #[serde(default)]
    pub created_at: Option<Timestamp>,
    /// When it expires.
    #[serde(default)]
    pub expires_at: Option<Timestamp>,
    /// How often it is rotated by itself.
    #[serde(default)]
    pub rotate_every: Option<String>,
    /// Whether it is revoked.
    #[serde(default)]
    pub revoked: bool,
    /// All else.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// A node that is assigned to a tenant.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// `pending` until it is admitted, then `ready` or `not_ready`.
    pub status: String,
    /// CPU that pods can use, in thousandths of a core.
    #[serde(default)]
    pub cpu_millicores: u64,
    /// Memory that pods can use, in bytes.
    #[serde(default)]
    pub memory_bytes: u64,
    /// GPUs that pods can use.
    #[serde(default)]
    pub gpus: u64,
    /// All else.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// What was used in one step of time. The numbers are texts: they may exceed what JSON readers hold exactly.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UsageLine {
    /// When the step began.
    pub start: Timestamp,
    /// Running time of all attempts, in milliseconds.
    pub running_millis: String,
    /// Thousandths of a core times milliseconds.
    pub cpu_millicore_millis: String,
    /// Bytes times milliseconds.
    pub memory_byte_millis: String,
    /// GPUs times milliseconds.
    pub gpu_millis: String,
    /// Mbit/s times milliseconds.
    pub bandwidth_mbps_millis: String,
    /// All else.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

/// Who the credentials are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Caller {
    /// `key`, `administrator` or `user`.
    pub kind: String,
    /// Name of the key or of the user.
    pub name: String,
    /// Name of the tenant, of a key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// What a key may do.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub scopes: Vec<String>,
    /// All else.
    #[serde(flatten)]
    pub rest: Map<String, Value>,
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_of_a_newer_server_are_kept() {
        let text =
            json!({"id": "u", "name": "j", "status": "running", "attempt": 1, "cost": "0.12", "image": "i"});
        let job: Job = serde_json::from_value(text).unwrap();
        let shown = serde_json::to_value(&job).unwrap();
        assert_eq!((&shown["cost"], &shown["image"]), (&json!("0.12"), &json!("i")));
    }

    #[test]
    fn a_job_that_ran_into_its_time_limit_has_ended_only_with_a_time() {
        let mut job = Job { status: Some("timed_out".to_owned()), ..Job::default() };
        assert!(!job.has_ended());
        job.finished_at = Some(Timestamp::UNIX_EPOCH);
        assert!(job.has_ended());
    }
}
