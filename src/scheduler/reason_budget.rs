//! How many waiting jobs may get a new reason at a time.
//!
//! Each such reason is a write on a Job. When a tenant submits thousands at once, these writes would take the API
//! server's time from those that start and end jobs. So they take tokens from a bucket, which refills while no jobs are
//! admitted, and by a part of a token with each admission. The position in the queue is not written at all: the REST API
//! computes it on request.

use jiff::{SignedDuration, Timestamp};

/// Tokens in a full bucket.
const CAPACITY: f64 = 250.0;
/// Tokens added each second while nothing is admitted.
const REFILL_PER_SECOND: f64 = 200.0;
/// Tokens added with each admission: one reason for every four jobs that start. Most jobs of a queue that moves so fast
/// start before they would get a reason.
const REFILL_PER_ADMISSION: f64 = 0.25;

/// For how long an admission keeps the API server busy: a pod is created, and the charge of another one is stored.
const BUSY_PER_ADMISSION: SignedDuration = SignedDuration::from_millis(200);
/// The longest that many together do. An API server that has too much to do starts nothing for some seconds, and reasons
/// would only add to that.
const MAX_BUSY: SignedDuration = SignedDuration::from_secs(10);

/// A budget of reasons to write.
#[derive(Debug)]
pub(super) struct TokenBucket {
    tokens: f64,
    /// Until when tokens were added by time; in the future while admissions keep the API server busy.
    counted: Timestamp,
}

impl Default for TokenBucket {
    fn default() -> Self {
        Self { tokens: CAPACITY, counted: Timestamp::MIN }
    }
}

impl TokenBucket {
    /// The number of whole tokens now, where so many jobs were admitted since the last call.
    pub(super) fn available(&mut self, now: Timestamp, admitted: usize) -> usize {
        let at_latest = now.saturating_add(MAX_BUSY).unwrap_or(now);
        let counted = self.counted.min(at_latest);
        let quiet = now.duration_since(counted).as_secs_f64().max(0.0);
        self.tokens =
            (self.tokens + quiet * REFILL_PER_SECOND + admitted as f64 * REFILL_PER_ADMISSION).min(CAPACITY);
        let busy = BUSY_PER_ADMISSION * i32::try_from(admitted).unwrap_or(i32::MAX);
        self.counted = counted.max(now).saturating_add(busy).unwrap_or(at_latest).min(at_latest);
        // From 0 to CAPACITY.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "bounded by CAPACITY, and not below 0"
        )]
        let whole = self.tokens.max(0.0) as usize;
        whole
    }

    /// Takes tokens for so many reasons.
    pub(super) fn take(&mut self, jobs: usize) {
        self.tokens -= jobs as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(millis).unwrap()
    }

    fn used_up() -> TokenBucket {
        let mut bucket = TokenBucket::default();
        assert_eq!(bucket.available(at(0), 0), 250);
        bucket.take(250);
        bucket
    }

    #[test]
    fn it_refills_while_nothing_is_admitted() {
        let mut bucket = used_up();
        assert_eq!(bucket.available(at(500), 0), 100);
        bucket.take(60);
        assert_eq!(bucket.available(at(0), 0), 40, "a clock set back gives nothing");
        assert_eq!(bucket.available(at(60_000), 0), 250, "and no more than that");
    }

    #[test]
    fn while_jobs_are_admitted_each_adds_a_quarter_token() {
        let mut bucket = used_up();
        for second in 1..=10 {
            bucket.available(at(second * 1000), 8);
        }
        assert_eq!(
            bucket.available(at(10_500), 0),
            220,
            "from a second in which nothing was, and 80 that were"
        );
        bucket.take(220);
        for second in 11..=20 {
            bucket.available(at(second * 1000), 1);
        }
        assert_eq!(bucket.available(at(20_500), 0), 250, "few leave time enough");
        bucket.take(250);
        assert_eq!(bucket.available(at(20_500), 1000), 250);
        bucket.take(250);
        assert_eq!(bucket.available(at(30_500), 0), 0, "many at once are under way for a while");
        assert_eq!(bucket.available(at(31_500), 0), 200);
    }

    #[test]
    fn a_clock_set_back_does_not_stop_it() {
        let mut bucket = used_up();
        bucket.available(at(1_000_000), 0);
        bucket.take(250);
        assert_eq!(bucket.available(at(1000), 0), 0);
        assert_eq!(bucket.available(at(12_000), 0), 200);
    }
}
