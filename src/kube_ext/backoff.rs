//! Exponential back-off by object, as client-go's `ItemExponentialFailureRateLimiter`, with jitter.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use sha2::{Digest, Sha256};
use tokio::time::Instant;

/// The delay after a first failure.
const FIRST: Duration = Duration::from_secs(1);
/// Objects that may be remembered before those are dropped that have not failed for long: they were deleted.
const PRUNE_ABOVE: usize = 256;

/// Failures in a row, by key of object.
#[derive(Debug)]
pub struct Backoff {
    longest: Duration,
    failures: Mutex<HashMap<String, Failures>>,
}

#[derive(Debug)]
struct Failures {
    count: u32,
    last: Instant,
}

impl Backoff {
    /// Delays of 1 s after the first failure, doubled with each failure in a row up to `longest`.
    #[must_use]
    pub fn new(longest: Duration) -> Self {
        Self { longest, failures: Mutex::default() }
    }

    fn failures(&self) -> MutexGuard<'_, HashMap<String, Failures>> {
        // Each method leaves the map whole, so a poisoned lock holds nothing broken.
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records a failure, and returns the delay before the next try.
    pub fn failed(&self, key: &str) -> Duration {
        let (now, mut failures) = (Instant::now(), self.failures());
        if failures.len() >= PRUNE_ABOVE {
            failures.retain(|_, of| now.saturating_duration_since(of.last) < 2 * self.longest);
        }
        let of = failures.entry(key.to_owned()).or_insert(Failures { count: 0, last: now });
        of.count = of.count.saturating_add(1);
        of.last = now;
        delay(FIRST, self.longest, of.count - 1, key)
    }

    /// Failures since the last success.
    #[must_use]
    pub fn count(&self, key: &str) -> u32 {
        self.failures().get(key).map_or(0, |of| of.count)
    }

    /// Forgets the failures of an object that was reconciled, or is deleted.
    pub fn reset(&self, key: &str) {
        self.failures().remove(key);
    }
}

/// `first` doubled `doublings` times, at most `longest`, less up to a quarter: what failed together does not come back
/// together. The jitter is a function of `seed` and `doublings`, so that a delay can be computed again.
#[must_use]
pub fn delay(first: Duration, longest: Duration, doublings: u32, seed: &str) -> Duration {
    let full = first.saturating_mul(2_u32.saturating_pow(doublings.min(31))).min(longest);
    let jitter = u32::from(Sha256::digest(format!("{seed}/{doublings}"))[0]);
    full - full / (4 * 256) * jitter
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_longest_and_begin_again_after_a_success() {
        for longest in [30, 60, 300].map(Duration::from_secs) {
            let backoff = Backoff::new(longest);
            let delays: Vec<Duration> = (0..40).map(|_| backoff.failed("a")).collect();
            for (n, delay) in delays.iter().enumerate() {
                let full = FIRST.saturating_mul(1 << n.min(20)).min(longest);
                assert!(*delay <= full && *delay > full * 3 / 4, "{n}: {delays:?}");
            }
            assert_eq!((backoff.count("a"), backoff.count("b")), (40, 0));
            backoff.reset("a");
            assert!(backoff.failed("a") <= FIRST);
        }
    }

    #[test]
    fn objects_that_failed_together_are_not_retried_together() {
        let of = |key: usize| delay(FIRST, Duration::from_secs(60), 5, &key.to_string());
        assert_eq!(of(1), of(1));
        let different: std::collections::BTreeSet<_> = (0..100).map(of).collect();
        assert!(different.len() > 50, "{}", different.len());
    }

    #[tokio::test(start_paused = true)]
    async fn objects_that_are_deleted_are_forgotten() {
        let backoff = Backoff::new(Duration::from_secs(60));
        for key in 0..PRUNE_ABOVE {
            backoff.failed(&key.to_string());
        }
        tokio::time::advance(Duration::from_secs(119)).await;
        backoff.failed("1");
        tokio::time::advance(Duration::from_secs(2)).await;
        backoff.failed("new");
        assert_eq!(backoff.failures().len(), 2);
    }
}
