//! How many jobs may be told at a time why they wait.
//!
//! Each such reason is a write on a Job. When a tenant submits thousands at once, these writes would take the API
//! server's time from those that start and end jobs; so there is an allowance, that comes back while no jobs are admitted,
//! and while they are by a part of a write for each. The position in the queue is not told at all: it is answered when
//! asked for.

use jiff::{SignedDuration, Timestamp};

/// The most that is told at once.
const BURST: f64 = 250.0;
/// What comes back each second while nothing is admitted.
const PER_SECOND: f64 = 200.0;
/// What comes back with each admission: one reason for every four jobs that start. Most of a queue that moves so fast start
/// before it would be their turn to be told.
const PER_ADMISSION: f64 = 0.25;

/// For how long an admission keeps the API server busy: a pod is made, and another one is accounted for.
const BUSY_FOR: SignedDuration = SignedDuration::from_millis(200);
/// The longest that many together do. An API server that has too much to do starts nothing for some seconds, and reasons
/// would only add to that.
const BUSY_AT_MOST: SignedDuration = SignedDuration::from_secs(10);

/// An allowance of reasons to tell.
#[derive(Debug)]
pub(super) struct Allowance {
    left: f64,
    /// Until when what comes back by itself was counted; yet to come while admissions keep the API server busy.
    counted: Timestamp,
}

impl Default for Allowance {
    fn default() -> Self {
        Self { left: BURST, counted: Timestamp::MIN }
    }
}

impl Allowance {
    /// How many may be told now, where so many jobs were admitted since that was asked last.
    pub(super) fn at(&mut self, now: Timestamp, admitted: usize) -> usize {
        let at_latest = now.saturating_add(BUSY_AT_MOST).unwrap_or(now);
        let counted = self.counted.min(at_latest);
        let quiet = now.duration_since(counted).as_secs_f64().max(0.0);
        self.left = (self.left + quiet * PER_SECOND + admitted as f64 * PER_ADMISSION).min(BURST);
        let busy = BUSY_FOR * i32::try_from(admitted).unwrap_or(i32::MAX);
        self.counted = counted.max(now).saturating_add(busy).unwrap_or(at_latest).min(at_latest);
        // From 0 to BURST.
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "bounded by BURST, and not below 0"
        )]
        let whole = self.left.max(0.0) as usize;
        whole
    }

    /// So many were told.
    pub(super) fn told(&mut self, jobs: usize) {
        self.left -= jobs as f64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millisecond(millis).unwrap()
    }

    fn used_up() -> Allowance {
        let mut allowance = Allowance::default();
        assert_eq!(allowance.at(at(0), 0), 250);
        allowance.told(250);
        allowance
    }

    #[test]
    fn it_comes_back_while_nothing_is_admitted() {
        let mut allowance = used_up();
        assert_eq!(allowance.at(at(500), 0), 100);
        allowance.told(60);
        assert_eq!(allowance.at(at(0), 0), 40, "a clock set back gives nothing");
        assert_eq!(allowance.at(at(60_000), 0), 250, "and no more than that");
    }

    #[test]
    fn while_jobs_are_admitted_a_quarter_for_each_comes_back() {
        let mut allowance = used_up();
        for second in 1..=10 {
            allowance.at(at(second * 1000), 8);
        }
        assert_eq!(allowance.at(at(10_500), 0), 220, "from a second in which nothing was, and 80 that were");
        allowance.told(220);
        for second in 11..=20 {
            allowance.at(at(second * 1000), 1);
        }
        assert_eq!(allowance.at(at(20_500), 0), 250, "few leave time enough");
        allowance.told(250);
        assert_eq!(allowance.at(at(20_500), 1000), 250);
        allowance.told(250);
        assert_eq!(allowance.at(at(30_500), 0), 0, "many at once are under way for a while");
        assert_eq!(allowance.at(at(31_500), 0), 200);
    }

    #[test]
    fn a_clock_set_back_does_not_stop_it() {
        let mut allowance = used_up();
        allowance.at(at(1_000_000), 0);
        allowance.told(250);
        assert_eq!(allowance.at(at(1000), 0), 0);
        assert_eq!(allowance.at(at(12_000), 0), 200);
    }
}
