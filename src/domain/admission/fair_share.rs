//! The order in which tenants that share a pool are served: fair share by weight.
//!
//! A tenant's share of a pool is the part that it uses: of CPU, memory, GPUs, disk or pods, the one of which it uses the
//! largest part (dominant resource fairness, Ghodsi et al., NSDI 2011). A job that fits whole into its tenant's guarantee
//! (the tenant's weight over the weights of all that use the pool or have demand for it) comes before all that do not.
//! Otherwise, and among those, the tenant with the lowest load is next: its recent share divided by the weight of its plan.
//!
//! The recent share is the mean usage, with a half-life of ten minutes, or of ten jobs where they last longer than a
//! minute (Kueue: `usageHalfLifeTime`). For the order it is taken as it will be when a job admitted now ends, if that lasts
//! as long as those before it, so that many decisions at one moment count each other; and as the logarithmic mean of what
//! it will be without and with the job. That is the average share of a tenant that is served whenever it comes down to
//! that load, and it makes shares exact that are less than one slot: to count the whole job would starve tenants of low
//! weight, and to count none of it would give them too much (as methods of apportionment differ that round seats up or
//! down).
//!
//! Recent usage only ever counts against a tenant. One that was idle has a load of nothing, not less, and what it is owed
//! is its guarantee: idle time is not saved up.

use jiff::Timestamp;

use crate::domain::resources::Resources;

/// After this many seconds usage counts half, ...
const HALF_LIFE_SECONDS: f64 = 600.0;
/// ... or after the length of as many jobs, where that is longer: shares of less than a slot come out even over some jobs.
const HALF_LIFE_JOBS: f64 = 10.0;
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
        let surplus = share.with_job > guarantee + TOLERANCE;
        let soon = share.held + (share.recent - share.held) * share.decay;
        let next = soon + (share.with_job - share.held) * (1.0 - share.decay);
        let load = logarithmic_mean(soon, next) / f64::from(weight.max(1));
        Self { surplus, load: load.max(0.0).to_bits() }
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
    /// What is left of the recent share when a job that starts now ends: [`MeanRuntime::decay`].
    pub decay: f64,
}

/// The mean of all amounts from one to another, on a way of steady growth or decay.
fn logarithmic_mean(from: f64, to: f64) -> f64 {
    if from <= 0.0 {
        return 0.0;
    }
    let growth = to / from - 1.0;
    if growth.abs() < 1e-9 { from } else { (to - from) / growth.ln_1p() }
}

/// How long the jobs of a pool run: the mean of those that ended lately.
#[derive(Clone, Copy, Debug)]
pub struct MeanRuntime {
    seconds: f64,
}

impl Default for MeanRuntime {
    fn default() -> Self {
        Self { seconds: 60.0 }
    }
}

impl MeanRuntime {
    /// Counts a job that has ended after so many seconds.
    pub fn ended(&mut self, seconds: f64) {
        /// How much the last one counts.
        const NEWEST: f64 = 1.0 / 32.0;
        self.seconds += (seconds.clamp(1.0, 86_400.0) - self.seconds) * NEWEST;
    }

    /// After so many seconds usage counts half.
    fn half_life(&self) -> f64 {
        (HALF_LIFE_JOBS * self.seconds).max(HALF_LIFE_SECONDS)
    }

    /// What is left of a recent share when such a job has run.
    #[must_use]
    pub fn decay(&self) -> f64 {
        (-self.seconds / self.half_life()).exp2()
    }
}

/// The mean share of a pool that a tenant used, as a part of 1; older times count less. Nothing after a restart, and right
/// again after a few half-lives.
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
    pub fn mean(&self, now: Timestamp, runtime: &MeanRuntime) -> f64 {
        let Some(at) = self.at else { return 0.0 };
        let elapsed = now.duration_since(at).as_secs_f64().max(0.0);
        let mean = self.held + (self.mean - self.held) * (-elapsed / runtime.half_life()).exp2();
        if mean > MIN_SHARE { mean } else { 0.0 }
    }

    /// Sets what is used from now on.
    pub fn set(&mut self, held: f64, now: Timestamp, runtime: &MeanRuntime) {
        *self = Self { mean: self.mean(now, runtime), held, at: Some(now) };
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
        FairShareOrder::new(&Share { held, with_job, recent, decay: 0.9 }, guarantee, weight)
    }

    #[test]
    fn what_the_guarantee_has_room_for_comes_first_then_by_load_and_weight() {
        let below = order(0.15, 0.25, 0.9, 0.25, 1);
        let surplus = order(0.2, 0.3, 0.0, 0.25, 8);
        assert!(below < surplus, "whatever it held lately");
        let heavy = order(0.4, 0.5, 0.4, 0.1, 8);
        assert!(heavy < order(0.2, 0.3, 0.2, 0.1, 1), "0.4 of its weight against 0.2");
        assert!(order(0.4, 0.5, 0.4, 0.1, 8) > order(0.0, 0.1, 0.0, 0.05, 1), "who had nothing is first");
        let third = 3.0 / 9.0;
        let guarantee = 1.0 - 2.0 / 3.0;
        assert!(
            order(0.2, third, 0.0, guarantee, 1) < order(0.2, 0.4, 0.0, guarantee, 1),
            "a third is a third"
        );
    }

    #[test]
    fn jobs_are_expected_to_last_as_those_before() {
        let mut runtime = MeanRuntime::default();
        (0..300).for_each(|_| runtime.ended(30.0));
        assert!((runtime.decay() - (-0.05_f64).exp2()).abs() < 1e-3, "a twentieth of the half-life");
        (0..300).for_each(|_| runtime.ended(7200.0));
        assert!((runtime.decay() - (-0.1_f64).exp2()).abs() < 1e-3, "which is ten jobs here");
        (0..300).for_each(|_| runtime.ended(0.0));
        assert!(runtime.decay() > 0.998);
    }

    #[test]
    fn the_logarithmic_mean_is_between_and_nothing_from_nothing() {
        assert!((logarithmic_mean(1.0, std::f64::consts::E) - (std::f64::consts::E - 1.0)).abs() < 1e-12);
        assert!((logarithmic_mean(0.2, 0.2) - 0.2).abs() < 1e-12);
        assert!(logarithmic_mean(0.0, 0.1).abs() < 1e-12);
    }

    #[test]
    fn recent_usage_halves_in_ten_minutes_and_is_forgotten() {
        let (mut recent, runtime) = (DecayedUsage::default(), MeanRuntime::default());
        recent.set(0.5, at(0), &runtime);
        assert!(
            (recent.mean(at(600), &runtime) - 0.25).abs() < 1e-9,
            "half of what it holds, after one half-life"
        );
        recent.set(0.0, at(600), &runtime);
        assert!((recent.mean(at(1200), &runtime) - 0.125).abs() < 1e-9);
        recent.set(0.0, at(1200), &runtime);
        assert!((recent.mean(at(1100), &runtime) - 0.125).abs() < 1e-9, "a clock set back counts nothing");
        assert!(recent.mean(at(20_000), &runtime).abs() < 1e-12);
    }

    #[test]
    fn in_how_many_steps_time_passes_makes_no_difference() {
        let (mut once, mut often, runtime) =
            (DecayedUsage::default(), DecayedUsage::default(), MeanRuntime::default());
        once.set(0.8, at(0), &runtime);
        (0..900).for_each(|second| often.set(0.8, at(second), &runtime));
        assert!((once.mean(at(900), &runtime) - often.mean(at(900), &runtime)).abs() < 1e-9);
    }
}
