//! The times of one job: as its objects have them, and as a run of a forecast does.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};

use super::history::{Durations, History, Kind};
use crate::{api_types::plan::Limit, domain::job_flow};

/// The times of a job that has not ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct JobTimes {
    /// What it runs: the first of which enough runs are known says how long.
    pub kinds: Vec<Kind>,
    /// How long it may run by itself or by its scenario, in seconds.
    pub timeout_seconds: Option<i64>,
    /// How long its attempts before ran.
    pub ran_before: SignedDuration,
    /// Since when its attempt runs, by the time of day.
    pub started: Option<Timestamp>,
    /// Until when it backs off, by the time of day.
    pub not_before: Option<Timestamp>,
    /// Its next attempt, where it backs off, and whether the hourly window counts that.
    pub next_attempt: (u32, bool),
    /// UID of the pod that may run; by default that of the job.
    pub pod: Option<Arc<str>>,
}

/// A job as a run of the forecast has it; times in milliseconds from now.
#[derive(Clone, Debug, Default)]
pub(super) struct Expected {
    pub(super) durations: Durations,
    /// How long its attempt has run.
    pub(super) ran: i64,
    /// How long its attempt may run in all.
    pub(super) limit: Option<i64>,
    /// When its back-off ends.
    pub(super) back: i64,
    pub(super) next_attempt: (u32, bool),
    pub(super) pod: Option<Arc<str>>,
}

impl Expected {
    /// What a run has to know of a job with these times. `minutes` is its plan's timeout.
    pub(super) fn of(
        history: &mut History,
        namespace: &str,
        times: &JobTimes,
        minutes: Limit,
        now: Timestamp,
    ) -> Self {
        let millis = |duration: SignedDuration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
        let limit = job_flow::running_limit(times.timeout_seconds, minutes);
        Self {
            durations: history.durations(namespace, &times.kinds),
            // Not before it began, where the clock was set back.
            ran: times.started.map_or(0, |started| millis(now.duration_since(started)).max(0)),
            limit: limit.map(|limit| millis(limit.saturating_sub(times.ran_before)).max(0)),
            back: times.not_before.map_or(0, |at| millis(at.duration_since(now)).max(0)),
            next_attempt: times.next_attempt,
            pod: times.pod.clone(),
        }
    }
}
