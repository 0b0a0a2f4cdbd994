//! Conditions as kstatus reads them.
//!
//! `Ready` and `Active` are always present; `Reconciling` and `Stalled` only while True (kstatus, "abnormal-true").
//! A transition time moves only when the status does, so that an unchanged condition compares equal.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::Reason;

/// The object is as its spec asks.
pub const READY: &str = "Ready";
/// The tenant accepts and runs jobs.
pub const ACTIVE: &str = "Active";
/// Work is under way; present only while True.
pub const RECONCILING: &str = "Reconciling";
/// No step is possible until a client changes an object; present only while True.
pub const STALLED: &str = "Stalled";
/// The job has ended, however; present only when True.
pub const FINISHED: &str = "Finished";
/// The job ended well; present only when True.
pub const COMPLETE: &str = "Complete";
/// The job ended badly; present only when True.
pub const FAILED: &str = "Failed";
/// The tenant's labelled workers are within its quotas (False: some were refused).
pub const WORKERS_ADMITTED: &str = "WorkersAdmitted";

/// What a condition should say; times are added by [`merge`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// One of the types above.
    pub kind: &'static str,
    /// True or False.
    pub status: bool,
    /// Machine reason.
    pub reason: Reason,
    /// A sentence with numbers.
    pub message: String,
}

impl Wanted {
    /// A condition that is True.
    pub fn yes(kind: &'static str, reason: Reason, message: impl Into<String>) -> Self {
        Self { kind, status: true, reason, message: message.into() }
    }

    /// A condition that is False.
    pub fn no(kind: &'static str, reason: Reason, message: impl Into<String>) -> Self {
        Self { kind, status: false, reason, message: message.into() }
    }
}

/// The whole list to write: `wanted` in order, each with its earlier transition time where its status is the same.
/// Conditions that are not wanted any more are left out.
#[must_use]
pub fn merge(
    old: &[Condition],
    wanted: Vec<Wanted>,
    generation: Option<i64>,
    now: Timestamp,
) -> Vec<Condition> {
    let merged = wanted.into_iter().map(|w| {
        let status = if w.status { "True" } else { "False" };
        let since = old.iter().find(|c| c.type_ == w.kind && c.status == status);
        Condition {
            last_transition_time: since.map_or(Time(now), |c| c.last_transition_time.clone()),
            message: w.message,
            observed_generation: generation,
            reason: w.reason.as_str().to_owned(),
            status: status.to_owned(),
            type_: w.kind.to_owned(),
        }
    });
    merged.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_moves_only_with_the_word() {
        let t = |s| Timestamp::from_second(s).unwrap();
        let first = merge(&[], vec![Wanted::no(READY, Reason::Provisioning, "a")], Some(1), t(1));
        let same = merge(&first, vec![Wanted::no(READY, Reason::ApiError, "b")], Some(2), t(2));
        assert_eq!(same[0].last_transition_time, Time(t(1)));
        assert_eq!(same[0].message, "b");
        let moved = merge(&same, vec![Wanted::yes(READY, Reason::Provisioned, "c")], Some(2), t(3));
        assert_eq!(moved[0].last_transition_time, Time(t(3)));
        assert_eq!(merge(&moved, vec![], Some(2), t(4)), vec![]);
    }
}
