//! How many jobs may be told at a time why they wait.
//!
//! Each such reason is a write on a Job. When a tenant submits thousands at once, these writes would take the API
//! server's time from those that start and end jobs; so there is an allowance, that comes back faster while no jobs are
//! admitted. The position in the queue is not told at all: it is answered when asked for.

use jiff::{SignedDuration, Timestamp};

/// The most that is told at once.
const BURST: f64 = 250.0;
/// What comes back each second while jobs are admitted, and while none are.
const BUSY_PER_SECOND: f64 = 20.0;
const IDLE_PER_SECOND: f64 = 200.0;

/// How long after an admission others are still to be expected: a full pool admits whenever one of its jobs ends.
const BUSY_FOR: SignedDuration = SignedDuration::from_secs(3);

/// An allowance of reasons to tell.
#[derive(Debug)]
pub(super) struct Allowance {
    left: f64,
    at: Option<Timestamp>,
    admitted: Option<Timestamp>,
}

impl Default for Allowance {
    fn default() -> Self {
        Self { left: BURST, at: None, admitted: None }
    }
}

impl Allowance {
    /// How many may be told now.
    pub(super) fn at(&mut self, now: Timestamp, admits: bool) -> usize {
        let elapsed = self.at.map_or(0.0, |at| now.duration_since(at).as_secs_f64().max(0.0));
        self.at = Some(now);
        self.admitted = if admits { Some(now) } else { self.admitted };
        let is_busy = self.admitted.is_some_and(|at| now.duration_since(at) < BUSY_FOR);
        let per_second = if is_busy { BUSY_PER_SECOND } else { IDLE_PER_SECOND };
        self.left = (self.left + elapsed * per_second).min(BURST);
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

    #[test]
    fn it_comes_back_faster_while_nothing_is_admitted() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let mut allowance = Allowance::default();
        assert_eq!(allowance.at(at(0), true), 250);
        allowance.told(250);
        assert_eq!(allowance.at(at(1), true), 20);
        assert_eq!(allowance.at(at(3), false), 60, "more is admitted soon");
        assert_eq!(allowance.at(at(4), false), 250);
        allowance.told(50);
        assert_eq!(allowance.at(at(1), false), 200, "a clock set back gives nothing");
        assert_eq!(allowance.at(at(60), true), 250, "and no more than that");
    }
}
