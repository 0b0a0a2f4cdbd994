//! Jobs that were passed by others.
//!
//! A job that finds no room is skipped, so that what is free is used. When [`ENOUGH`] smaller jobs have passed it, it is
//! *due*: only those count, because where a job as large has gone this one would have fitted, too, and it was merely the
//! other one's turn. For a job that is due a node is kept free for it until it fits, and what it asks for is set aside from its tenant's quotas. So large jobs
//! don't starve, at the price of room that stands empty for at most as long as the jobs on that node run. A restart
//! forgets the counts; what was due is due again when as many have passed.

use std::collections::{BTreeMap, HashMap};

use super::resources::Resources;

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

/// Jobs admitted so far to a group, by size.
#[derive(Clone, Debug, Default)]
pub struct Admissions([BTreeMap<u32, u64>; 4]);

impl Admissions {
    /// Counts one.
    pub fn count(&mut self, asked: &Resources) {
        for (sizes, size) in self.0.iter_mut().zip(Size::of(asked).0) {
            *sizes.entry(size).or_default() += 1;
        }
    }

    /// How many were smaller than this, in the resource in which most were.
    #[must_use]
    pub fn smaller(&self, than: &Size) -> u64 {
        let smaller = |(counts, size): (&BTreeMap<u32, u64>, u32)| counts.range(..size).map(|(_, n)| n).sum();
        self.0.iter().zip(than.0).map(smaller).max().unwrap_or(0)
    }
}

/// About how large a job is, in each resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size([u32; 4]);

impl Size {
    /// The size of what a job asks for.
    #[must_use]
    pub fn of(asked: &Resources) -> Self {
        Self([asked.cpu_milli, asked.memory_bytes, asked.gpus, asked.ephemeral_bytes].map(size))
    }
}

/// A number that grows with an amount, the same for amounts that differ by less than a sixteenth: so there are about a
/// thousand sizes, however many jobs there are.
fn size(amount: u64) -> u32 {
    const STEPS: u32 = 16;
    let octave = u64::BITS - amount.leading_zeros();
    let shift = octave.saturating_sub(STEPS.ilog2() + 1);
    // Five bits at most.
    shift * STEPS + u32::try_from(amount >> shift).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_grow_with_amounts_and_are_few() {
        let mut amounts: Vec<u64> = (0..2000).chain((0..60).map(|n| 3 << n)).collect();
        amounts.sort_unstable();
        assert!(amounts.into_iter().map(size).is_sorted());
        assert!((0..32).all(|n| u64::from(size(n)) == n), "small numbers are exact");
        assert!(size(1000) < size(1100) && size(u64::MAX) < 1024);
    }

    #[test]
    fn only_smaller_ones_pass() {
        let cpu = |cpu_milli| Resources { cpu_milli, memory_bytes: 1 << 30, ..Resources::default() };
        let mut admitted = Admissions::default();
        [1000, 1000, 2000, 4000].iter().for_each(|size| admitted.count(&cpu(*size)));
        let smaller = [500, 1000, 2000, 4000, 8000].map(|size| admitted.smaller(&Size::of(&cpu(size))));
        assert_eq!(smaller, [0, 0, 2, 3, 4]);
        assert_eq!(
            admitted.smaller(&Size::of(&Resources { memory_bytes: 2 << 30, ..cpu(500) })),
            4,
            "in any resource"
        );
    }

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
