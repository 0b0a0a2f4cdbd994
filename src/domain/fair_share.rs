//! Whose turn it is in a worker group that several tenants use.
//!
//! A tenant's load in a group is its dominant share (of CPU, memory, GPUs and disk, the one of which it holds the
//! largest part) with the job in question, plus its recent share, over the weight of its plan; the lowest load is next.
//! The job counts because a slot weighs more for who is owed less: without it, tenants of low weight always go first
//! and get more than theirs. Who holds less than its guarantee (its weight over the weights of all who use the group)
//! comes before all who hold more. The recent share
//! is the mean of what was held, with a half-life of ten minutes: among tenants whose guarantees don't come out even,
//! and for what is left over, it lets them take turns. It only ever counts against a tenant. One that was idle stands
//! at nothing, not below, and what it is owed is its guarantee: idle time is not saved up.

use std::cmp::Ordering;

use jiff::Timestamp;

use super::resources::Resources;

/// After this many seconds a share held counts half.
const HALF_LIFE_SECONDS: f64 = 600.0;
/// A recent share below this is forgotten.
const NOTHING: f64 = 1e-6;
/// Shares are compared with this tolerance: a guarantee of a third is reached by three of nine.
const TOLERANCE: f64 = 1e-9;

/// The largest part of any of the group's resources that `held` is; above 1 where the group has shrunk.
#[must_use]
pub fn dominant_share(held: &Resources, capacity: &Resources) -> f64 {
    let parts = [
        (held.cpu_milli, capacity.cpu_milli),
        (held.memory_bytes, capacity.memory_bytes),
        (held.gpus, capacity.gpus),
        (held.ephemeral_bytes, capacity.ephemeral_bytes),
    ];
    let part = |(held, of): (u64, u64)| if held == 0 { 0.0 } else { held as f64 / (of.max(1)) as f64 };
    parts.into_iter().map(part).fold(0.0, f64::max)
}

/// How near a tenant's turn is in one group; the lowest is next.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    /// Holds its guarantee already.
    surplus: bool,
    /// Share held with the job, and recent share, by weight.
    load: f64,
}

impl Turn {
    /// The turn of a tenant that holds `held` of the group, would hold `then` with the job, held `recent` of it lately,
    /// and is guaranteed `guarantee`; all as parts of 1.
    #[must_use]
    pub fn new(held: f64, then: f64, recent: f64, guarantee: f64, weight: u32) -> Self {
        let surplus = held >= guarantee - TOLERANCE;
        Self { surplus, load: (then + recent) / f64::from(weight.max(1)) }
    }
}

impl Ord for Turn {
    fn cmp(&self, other: &Self) -> Ordering {
        self.surplus.cmp(&other.surplus).then(self.load.total_cmp(&other.load))
    }
}

impl PartialOrd for Turn {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Turn {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Turn {}

/// What a tenant held of a group lately, as a part of 1: the mean of what it held, older times counting less. Nothing
/// after a restart, and right again after a few half-lives.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Recent {
    mean: f64,
    /// Held since `at`.
    held: f64,
    /// Up to when `mean` is counted.
    at: Option<Timestamp>,
}

impl Recent {
    /// The decayed mean at a time. A clock that was set back counts nothing.
    #[must_use]
    pub fn mean(&self, now: Timestamp) -> f64 {
        let Some(at) = self.at else { return 0.0 };
        let elapsed = now.duration_since(at).as_secs_f64().max(0.0);
        let mean = self.held + (self.mean - self.held) * (-elapsed / HALF_LIFE_SECONDS).exp2();
        if mean > NOTHING { mean } else { 0.0 }
    }

    /// Sets what is held from now on.
    pub fn hold(&mut self, held: f64, now: Timestamp) {
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
    }

    #[test]
    fn below_the_guarantee_first_then_by_load_and_weight() {
        let below = Turn::new(0.24, 0.3, 0.9, 0.25, 1);
        let surplus = Turn::new(0.25, 0.25, 0.0, 0.25, 8);
        assert!(below < surplus, "whatever it held lately");
        let heavy = Turn::new(0.4, 0.5, 0.3, 0.1, 8);
        assert!(heavy < Turn::new(0.2, 0.2, 0.0, 0.1, 1), "0.1 of its weight against 0.2");
        assert!(Turn::new(0.4, 0.5, 0.4, 0.5, 8) < Turn::new(0.0, 0.1, 0.1, 0.1, 1), "the job counts");
        let third = 3.0 / 9.0;
        let guarantee = 1.0 - 2.0 / 3.0;
        assert!(Turn::new(third, 0.4, 0.0, guarantee, 1) > Turn::new(0.3, 0.9, 0.0, guarantee, 1));
    }

    #[test]
    fn recent_usage_halves_in_ten_minutes_and_is_forgotten() {
        let mut recent = Recent::default();
        recent.hold(0.5, at(0));
        assert!((recent.mean(at(600)) - 0.25).abs() < 1e-9, "half of what it holds, after one half-life");
        recent.hold(0.0, at(600));
        assert!((recent.mean(at(1200)) - 0.125).abs() < 1e-9);
        recent.hold(0.0, at(1200));
        assert!((recent.mean(at(1100)) - 0.125).abs() < 1e-9, "a clock set back counts nothing");
        assert!(recent.mean(at(20_000)).abs() < 1e-12);
    }

    #[test]
    fn in_how_many_steps_time_passes_makes_no_difference() {
        let (mut once, mut often) = (Recent::default(), Recent::default());
        once.hold(0.8, at(0));
        (0..900).for_each(|second| often.hold(0.8, at(second)));
        assert!((once.mean(at(900)) - often.mean(at(900))).abs() < 1e-9);
    }
}
