//! Back-off of retries: min(5 s x 2^n, 5 min), with jitter.

use std::time::Duration;

use sha2::{Digest, Sha256};

const FIRST: Duration = Duration::from_secs(5);
const LONGEST: Duration = Duration::from_secs(300);

/// How long to wait before attempt `ended + 1`, where attempt `ended` (from 1) has ended.
///
/// The jitter takes away up to a quarter. It is a function of the job and the attempt, so that a restart of the
/// operator computes the same time again, while jobs that failed together do not come back together.
#[must_use]
pub fn backoff(job_uid: &str, ended: u32) -> Duration {
    let doubled = FIRST.saturating_mul(2_u32.saturating_pow(ended.saturating_sub(1)));
    let full = doubled.min(LONGEST);
    let digest = Sha256::digest(format!("{job_uid}/{ended}"));
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
