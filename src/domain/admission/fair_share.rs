//! The order in which tenants that share a pool are served: fair share by weight.
//!
//! A tenant's share of a pool is the part that it uses: of CPU, memory, GPUs, disk or pods, the one of which it uses the
//! largest part (dominant resource fairness, Ghodsi et al., NSDI 2011). A job that fits whole into its tenant's guarantee
//! (the tenant's weight over the weights of all that use the pool or have demand for it) comes before all that do not.
//! Otherwise, and among those, the tenant with the lowest load is next: its recent share divided by the weight of its plan.
//!
//! The recent share is the mean share with a half-life of a day (Kueue: `usageHalfLifeTime`). The present share, with
//! half of the job in question, counts a little in it, so that many decisions at one moment count each other. A job must
//! not count much by itself: to count the whole job much would starve tenants that are owed less than one slot, and to
//! count none of it would give them too much (as methods of apportionment differ that round seats up or down).
//!
//! Idle time is not saved up. A tenant that begins to use or to want a pool begins with the load at which a job beyond a
//! guarantee was admitted there last, if its own is lower (as CFS gives a task that wakes up the least virtual runtime of
//! those that run, and start-time fair queueing the virtual time). Otherwise one that is owed a part of a slot would get
//! every slot until it had caught up with a day of the others.

use jiff::Timestamp;

use crate::domain::resources::Resources;

/// After this many seconds usage counts half. Of jobs that run longer it counts the present ones too much; a week, as in
/// Slurm, forgets too slowly where tenants are owed a part of a slot (docs/adr/0044).
const HALF_LIFE_SECONDS: f64 = 24.0 * 3600.0;
/// How much the present share counts in the recent one: about as much as one minute more of it.
const PRESENT: f64 = 1.0 / 2048.0;
/// A recent share below this counts as none.
const MIN_SHARE: f64 = 1e-6;
/// Shares are compared with this tolerance: a guarantee of a third is reached by three of nine.
const TOLERANCE: f64 = 1e-9;

/// The largest part that `held` is of any of the pool's resources; above 1 where the pool has shrunk.
#[must_use]
pub fn dominant_share(held: &Resources, capacity: &Resources) -> f64 {
    let parts = [
        (held.cpu_milli, capacity.cpu_milli),
        (held.memory_bytes, capacity.memory_bytes),
        (held.gpus, capacity.gpus),
        (held.ephemeral_bytes, capacity.ephemeral_bytes),
        (held.pods, capacity.pods),
    ];
    let part = |(held, of): (u64, u64)| if held == 0 { 0.0 } else { held as f64 / (of.max(1)) as f64 };
    parts.into_iter().map(part).fold(0.0, f64::max)
}

/// Where a tenant's job comes in the order of one pool; the lowest is next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FairShareOrder {
    /// With the job, the tenant uses more than its guarantee.
    surplus: bool,
    /// Recent share by weight, as the bits of a number that is not negative: they have its order.
    load: u64,
}

impl FairShareOrder {
    /// The order of a job of a tenant with this weight and guarantee (a part of 1).
    #[must_use]
    pub fn new(share: &Share, guarantee: f64, weight: u32) -> Self {
        let present = f64::midpoint(share.held, share.with_job);
        let recent = share.recent + (present - share.recent) * PRESENT;
        let load = recent / f64::from(weight.max(1));
        Self { surplus: share.with_job > guarantee + TOLERANCE, load: load.max(0.0).to_bits() }
    }

    /// The load, where the job is beyond the guarantee.
    #[must_use]
    pub fn surplus_load(&self) -> Option<f64> {
        self.surplus.then(|| f64::from_bits(self.load))
    }
}

/// A tenant's share of a pool, and what a job would make of it; all as parts of 1.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// Used now.
    pub held: f64,
    /// Used with the job.
    pub with_job: f64,
    /// Used lately: [`DecayedUsage::mean`].
    pub recent: f64,
}

/// The mean share of a pool that a tenant used, as a part of 1; older times count less. Nothing after a restart.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct DecayedUsage {
    mean: f64,
    /// Used since `at`.
    held: f64,
    /// Up to when `mean` is counted.
    at: Option<Timestamp>,
}

impl DecayedUsage {
    /// The decayed mean at a time of a clock that only advances; an earlier time counts as the last one.
    #[must_use]
    pub fn mean(&self, now: Timestamp) -> f64 {
        let Some(at) = self.at else { return 0.0 };
        let elapsed = now.duration_since(at).as_secs_f64().max(0.0);
        let mean = self.held + (self.mean - self.held) * (-elapsed / HALF_LIFE_SECONDS).exp2();
        if mean > MIN_SHARE { mean } else { 0.0 }
    }

    /// What was used once and is no more, decaying from `now` on.
    #[must_use]
    pub fn past(mean: f64, now: Timestamp) -> Self {
        Self { mean, held: 0.0, at: Some(now) }
    }

    /// Counts at least this mean at `now`.
    pub fn raise_to(&mut self, least: f64, now: Timestamp) {
        if self.mean(now) < least {
            *self = Self { mean: least, at: Some(now), ..*self };
        }
    }

    /// Sets what is used from now on.
    pub fn set(&mut self, held: f64, now: Timestamp) {
        *self = Self { mean: self.mean(now), held, at: Some(now) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[test]
    fn the_dominant_share_is_the_largest_part_of_any_resource() {
        let capacity = Resources { cpu_milli: 10_000, memory_bytes: 100, gpus: 4, ..Resources::default() };
        let held = Resources { cpu_milli: 1000, memory_bytes: 30, gpus: 1, ..Resources::default() };
        assert!((dominant_share(&held, &capacity) - 0.3).abs() < 1e-9);
        assert!((dominant_share(&Resources { gpus: 2, ..held }, &capacity) - 0.5).abs() < 1e-9);
        assert!((dominant_share(&Resources::default(), &Resources::default())).abs() < 1e-9);
        let (tiny, nodes) = (Resources { pods: 6, ..held }, Resources { pods: 10, ..capacity });
        assert!((dominant_share(&tiny, &nodes) - 0.6).abs() < 1e-9, "pods are what many tiny jobs use up");
    }

    fn order(held: f64, with_job: f64, recent: f64, guarantee: f64, weight: u32) -> FairShareOrder {
        FairShareOrder::new(&Share { held, with_job, recent }, guarantee, weight)
    }

    #[test]
    fn what_the_guarantee_has_room_for_comes_first_then_by_load_and_weight() {
        let below = order(0.15, 0.25, 0.9, 0.25, 1);
        let surplus = order(0.2, 0.3, 0.0, 0.25, 8);
        assert!(below < surplus, "whatever it used lately");
        let heavy = order(0.4, 0.5, 0.4, 0.1, 8);
        assert!(heavy < order(0.2, 0.3, 0.2, 0.1, 1), "0.4 of its weight against 0.2");
        assert!(
            order(0.4, 0.5, 0.4, 0.1, 8) > order(0.0, 0.1, 0.0, 0.05, 1),
            "a tenant that used nothing is first"
        );
        let third = 3.0 / 9.0;
        let guarantee = 1.0 - 2.0 / 3.0;
        assert!(
            order(0.2, third, 0.0, guarantee, 1) < order(0.2, 0.4, 0.0, guarantee, 1),
            "a third is a third"
        );
    }

    #[test]
    fn decisions_at_one_moment_count_each_other() {
        assert!(order(0.2, 0.3, 0.4, 0.1, 1) < order(0.3, 0.4, 0.4, 0.1, 1));
        assert!(order(0.2, 0.3, 0.4, 0.1, 1) < order(0.2, 0.4, 0.4, 0.1, 1), "the job counts");
    }

    #[test]
    fn recent_usage_halves_in_a_day_and_is_forgotten() {
        let mut recent = DecayedUsage::default();
        let days = |days: i64| at(days * 86_400);
        recent.set(0.5, days(0));
        assert!((recent.mean(days(1)) - 0.25).abs() < 1e-9, "half of what it uses, after one half-life");
        recent.set(0.0, days(1));
        assert!((recent.mean(days(2)) - 0.125).abs() < 1e-9);
        recent.set(0.0, days(2));
        assert!((recent.mean(days(1)) - 0.125).abs() < 1e-9, "a clock set back counts nothing");
        assert!(recent.mean(days(30)).abs() < 1e-12);
    }

    #[test]
    fn in_how_many_steps_time_passes_makes_no_difference() {
        let (mut once, mut often) = (DecayedUsage::default(), DecayedUsage::default());
        once.set(0.8, at(0));
        (0..900).for_each(|second| often.set(0.8, at(second)));
        assert!((once.mean(at(900)) - often.mean(at(900))).abs() < 1e-9);
    }
}
