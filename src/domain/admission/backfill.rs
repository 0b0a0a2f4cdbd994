//! Backfill: small jobs overtake a large one that finds no room, up to a limit.
//!
//! A job that finds no room does not hold up those behind it, so that what is free is used. When [`BACKFILL_LIMIT`] smaller
//! jobs have overtaken it, it is *starving*. Only smaller ones count: where a job as large was admitted, this one would
//! have fitted, too, and it was merely another tenant's turn. For a starving job a node is reserved until the job fits, and
//! what it asks for is set aside from its tenant's quotas. So large jobs do not starve, and the price is room that stays
//! empty for at most as long as the jobs on that node run. A restart resets the counts; a starving job is starving again
//! after as many admissions.

use std::collections::{BTreeMap, HashMap};

use super::ids::JobIdx;
use crate::domain::resources::Resources;

/// How many jobs may overtake one that finds no room.
pub const BACKFILL_LIMIT: u64 = 16;

/// The jobs of one tenant that others have overtaken, and how many did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overtaken(HashMap<JobIdx, u64>);

impl Overtaken {
    /// Counts jobs that have overtaken this one.
    pub fn add(&mut self, job: JobIdx, count: u64) {
        if count > 0 {
            *self.0.entry(job).or_default() += count;
        }
    }

    /// How many have overtaken this one.
    pub fn times(&self, job: JobIdx) -> u64 {
        self.0.get(&job).copied().unwrap_or(0)
    }

    /// The jobs that enough have overtaken, with how many did, in no order.
    pub fn starving(&self) -> impl Iterator<Item = (JobIdx, u64)> {
        self.0.iter().map(|(job, times)| (*job, *times)).filter(|(_, times)| *times >= BACKFILL_LIMIT)
    }

    /// Forgets a job that waits no longer.
    pub fn forget(&mut self, job: JobIdx) {
        self.0.remove(&job);
    }
}

/// Jobs admitted so far to a pool, by size.
#[derive(Clone, Debug, Default)]
pub struct AdmittedSizes([BTreeMap<u32, u64>; 4]);

impl AdmittedSizes {
    /// Counts one.
    pub fn count(&mut self, asked: &Resources) {
        for (sizes, size) in self.0.iter_mut().zip(SizeBucket::of(asked).0) {
            *sizes.entry(size).or_default() += 1;
        }
    }

    /// How many were smaller than this, in the resource in which most were.
    pub fn smaller(&self, than: &SizeBucket) -> u64 {
        let smaller = |(counts, size): (&BTreeMap<u32, u64>, u32)| counts.range(..size).map(|(_, n)| n).sum();
        self.0.iter().zip(than.0).map(smaller).max().unwrap_or(0)
    }
}

/// About how large a job is, in each resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SizeBucket([u32; 4]);

impl SizeBucket {
    /// The size of what a job asks for.
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
    use slotmap::KeyData;

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
    fn only_smaller_jobs_overtake() {
        let cpu = |cpu_milli| Resources { cpu_milli, memory_bytes: 1 << 30, ..Resources::default() };
        let mut admitted = AdmittedSizes::default();
        [1000, 1000, 2000, 4000].iter().for_each(|size| admitted.count(&cpu(*size)));
        let smaller = [500, 1000, 2000, 4000, 8000].map(|size| admitted.smaller(&SizeBucket::of(&cpu(size))));
        assert_eq!(smaller, [0, 0, 2, 3, 4]);
        assert_eq!(
            admitted.smaller(&SizeBucket::of(&Resources { memory_bytes: 2 << 30, ..cpu(500) })),
            4,
            "in any resource"
        );
    }

    #[test]
    fn starving_at_the_limit_and_forgotten_when_it_waits_no_longer() {
        let (one, two) = (KeyData::from_ffi(1).into(), KeyData::from_ffi(2).into());
        let mut overtaken = Overtaken::default();
        overtaken.add(one, BACKFILL_LIMIT - 1);
        overtaken.add(two, 0);
        assert_eq!(overtaken.starving().count(), 0);
        overtaken.add(one, 1);
        assert_eq!(overtaken.starving().collect::<Vec<_>>(), [(one, BACKFILL_LIMIT)]);
        overtaken.forget(one);
        assert_eq!((overtaken.starving().count(), overtaken.times(one)), (0, 0));
    }
}
