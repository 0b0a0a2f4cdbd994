//! Bounds and back-off of further attempts: min(5 s x 2^n, 5 min), with jitter.
//!
//! Retries and disruptions are counted, bounded and paced each by itself. A disruption is an attempt that the cluster
//! ended (drain, eviction, preemption, node loss, a deleted pod): a healthy job is to survive a week of node upgrades
//! and reclaimed spot nodes, so its retries are not charged. But a job that brings down each node that it runs on shows
//! the same disruptions, so they have a bound as well: with the pauses between them, 16 disruptions take most of an
//! hour.

use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::api_types::JobStatus;

const FIRST: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(300);

/// The number of the retry that a job's next attempt is, where the hourly window has not counted it yet: what follows
/// after a disruption is none, and a retry whose pod was created is counted.
#[must_use]
pub fn to_charge(status: &JobStatus) -> Option<u32> {
    let charged = status.charged_retries.unwrap_or_default();
    u32::try_from(status.retries).ok().filter(|_| status.retries > charged)
}

/// The most disruptions after which a job is run again; see the module.
pub const MAX_DISRUPTIONS: i32 = 16;

/// How long to wait after the `nth` retry, disruption or refusal (from 1) of a job.
///
/// The jitter takes away up to a quarter. It is a function of the job and the number, so that a restart of the
/// operator computes the same time again, while jobs that failed together do not come back together.
#[must_use]
pub fn backoff(job_uid: &str, nth: u32) -> Duration {
    let doubled = FIRST.saturating_mul(2_u32.saturating_pow(nth.saturating_sub(1)));
    let full = doubled.min(LONGEST);
    let digest = Sha256::digest(format!("{job_uid}/{nth}"));
    let share = u32::from(digest[0]);
    full - full * share / (4 * 256)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_up_to_five_minutes_and_repeats_itself() {
        for ended in 1..40 {
            let wait = backoff("uid", ended);
            let full = FIRST.saturating_mul(2_u32.saturating_pow(ended - 1)).min(LONGEST);
            assert!(wait <= full && wait > full * 3 / 4, "{ended}: {wait:?} of {full:?}");
            assert_eq!(wait, backoff("uid", ended));
        }
        assert_ne!(backoff("one", 1), backoff("other", 1));
    }
}
