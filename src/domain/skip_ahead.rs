//! Jobs that were passed by others.
//!
//! A job that finds no room is skipped, so that what is free is used. When [`ENOUGH`] jobs have passed it, it is *due*:
//! a node is kept free for it until it fits, and what it asks for is set aside from its tenant's quotas. So large jobs
//! don't starve, at the price of room that stands empty for at most as long as the jobs on that node run. A restart
//! forgets the counts; what was due is due again when as many have passed.

use std::collections::HashMap;

/// So many jobs may pass one that finds no room.
pub const ENOUGH: u64 = 16;

/// One tenant's waiting jobs that were passed, by number, and how often.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SkipAhead(HashMap<usize, u64>);

impl SkipAhead {
    /// Counts jobs that passed this one.
    pub fn passed(&mut self, job: usize, times: u64) {
        if times > 0 {
            *self.0.entry(job).or_default() += times;
        }
    }

    /// How many have passed this one.
    #[must_use]
    pub fn times(&self, job: usize) -> u64 {
        self.0.get(&job).copied().unwrap_or(0)
    }

    /// The jobs that were passed often enough, with how often, in no order.
    pub fn due(&self) -> impl Iterator<Item = (usize, u64)> {
        self.0.iter().map(|(job, times)| (*job, *times)).filter(|(_, times)| *times >= ENOUGH)
    }

    /// Forgets a job that waits no more.
    pub fn forget(&mut self, job: usize) {
        self.0.remove(&job);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn due_after_enough_and_forgotten_when_it_waits_no_more() {
        let mut skips = SkipAhead::default();
        skips.passed(1, ENOUGH - 1);
        skips.passed(2, 0);
        assert_eq!(skips.due().count(), 0);
        skips.passed(1, 1);
        assert_eq!(skips.due().collect::<Vec<_>>(), [(1, ENOUGH)]);
        skips.forget(1);
        assert_eq!((skips.due().count(), skips.times(1)), (0, 0));
    }
}
