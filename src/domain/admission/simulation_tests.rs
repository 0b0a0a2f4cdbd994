//! What the rules come to over time.

use proptest::prelude::*;

use super::simulator::{POOL, World};
use crate::{
    api_types::job::{Priority, Queue},
    domain::skip_ahead::ENOUGH,
};

/// A number that looks random and is the same every time.
fn scattered(n: i64) -> i64 {
    let n = (n + 1).wrapping_mul(6_364_136_223_846_793_005);
    (n >> 20).rem_euclid(1 << 20)
}

#[test]
fn one_job_beside_ten_thousand_starts_in_the_next_free_slot() {
    let mut world = World::default();
    world.tenant("many", 1);
    world.tenant("one", 1);
    world.workers(POOL, 4, 4);
    for n in 0..10_000 {
        world.submit(0, "many", 1, 100 + n % 16);
    }
    world.submit(30, "one", 1, 60);
    world.run(1000, |world| world.jobs[10_000].started.is_some());
    assert_eq!(world.jobs[10_000].started, Some(100), "when the first of the sixteen that run ends");
}

#[test]
fn service_is_by_weight_with_equal_jobs() {
    let mut world = World::default();
    let weights = [("a", 1), ("b", 2), ("c", 4), ("d", 8), ("e", 1)];
    world.workers(POOL, 13, 1);
    for (n, (name, weight)) in weights.into_iter().enumerate() {
        world.tenant(name, weight);
        for _ in 0..40 * weight {
            world.submit(7 * n as i64, name, 1, 60);
        }
    }
    world.run(2400, |_| false);
    let jain = world.jain(0, 2400);

    assert!(jain >= 0.99, "{jain}");
    let waits = |name: &str| world.jobs.iter().any(|job| job.is_of(name) && job.started.is_none());
    assert!(weights.iter().all(|(name, _)| waits(name)), "all are backlogged");
}

/// Tenants of weights 1, 2, 4 and 8 in a pool, all with more jobs than they get; jobs of about so many seconds.
fn backlogged(tenants: usize, slots: usize, seconds: i64, end: i64) -> World {
    let mut world = World::default();
    world.workers(POOL, slots, 1);
    let weight = |n: usize| [1, 2, 4, 8][n % 4];
    let weights: u32 = (0..tenants).map(weight).sum();
    let jobs_in_all = slots as i64 * end / seconds;
    for n in 0..tenants {
        let name = format!("t{n:02}");
        world.tenant(&name, weight(n));
        for m in 0..(2 * jobs_in_all * i64::from(weight(n)) / i64::from(weights) + 4) {
            let spread = scattered(m * 100 + n as i64) % (seconds / 2);
            world.submit(0, &name, 1, seconds * 3 / 4 + spread);
        }
    }
    world
}

#[test]
fn service_is_by_weight_whatever_the_shares_and_lengths() {
    for (tenants, slots, seconds, jobs_long) in [
        (5, 13, 60, 30),
        // The lightest are owed 0.4 of a slot.
        (40, 60, 60, 30),
        (40, 60, 1500, 20),
        // The lightest are owed a twentieth of a slot, the heaviest less than a half.
        (100, 20, 60, 80),
        (12, 31, 600, 30),
    ] {
        let end = seconds * jobs_long;
        let mut world = backlogged(tenants, slots, seconds, end);
        world.run(end, |_| false);
        let jain = world.jain(0, end);
        println!("{tenants} tenants, {slots} slots, jobs of {seconds} s: {jain:.4}");
        assert!(jain >= 0.99, "{tenants} tenants, {slots} slots, jobs of {seconds} s: {jain}");
    }
}

#[test]
fn service_is_by_weight_with_mixed_sizes() {
    let mut world = World::default();
    world.workers(POOL, 4, 8);
    for (name, weight) in [("a", 1), ("b", 2), ("c", 4), ("d", 1)] {
        world.tenant(name, weight);
    }
    let mut n = 0;
    // Twice what each gets, so that nobody runs dry.
    for (name, core_seconds, sizes) in [
        ("a", 57_600, &[1_u64, 2, 4][..]),
        ("b", 115_200, &[1, 2]),
        ("c", 230_400, &[1, 4, 8]),
        ("d", 57_600, &[8]),
    ] {
        let mut left: i64 = core_seconds;
        while left > 0 {
            let cores = sizes[usize::try_from(scattered(n)).unwrap() % sizes.len()];
            let seconds = 120 + scattered(n + 7) % 360;
            world.submit(0, name, cores, seconds);
            left -= i64::try_from(cores).unwrap() * seconds;
            n += 1;
        }
    }
    world.run(7200, |_| false);
    let jain = world.jain(0, 7200);
    println!("mixed sizes: {jain:.4}");

    assert!(jain >= 0.95, "{jain}");
    let waits = |name: &str| world.jobs.iter().any(|job| job.is_of(name) && job.started.is_none());
    assert!(["a", "b", "c", "d"].into_iter().all(waits), "all are backlogged");
    let total: f64 = ["a", "b", "c", "d"].iter().map(|t| world.service(t, 0, 7200)).sum();
    assert!(total >= 0.85 * f64::from(32 * 7200), "{total} core seconds used: keeping room costs little");
}

#[test]
fn who_arrives_gets_its_share_within_one_job_length_and_no_more() {
    let mut world = World::default();
    world.workers(POOL, 4, 4);
    world.tenant("early", 1);
    world.tenant("late", 1);
    for n in 0..600 {
        world.submit(0, "early", 1, 100 + n % 10);
    }
    for n in 0..400 {
        world.submit(1000, "late", 1, 100 + n % 10);
    }
    world.run(1109, |world| world.now < 1000 && world.running("early") < 16);
    assert_eq!((world.running("early"), world.running("late")), (8, 8), "an hour idle is no credit");
    world.run(2500, |world| {
        assert!((7..=9).contains(&world.running("late")) || world.now < 1110, "at {}", world.now);
        false
    });
}

#[test]
fn own_nodes_are_all_its_own_and_weigh_nothing_in_the_pool() {
    let mut world = World::default();
    world.workers("rich", 1, 8);
    world.workers(POOL, 1, 8);
    world.tenant("rich", 1);
    world.tenant("poor", 1);
    for name in ["rich", "poor"] {
        for _ in 0..40 {
            world.submit(0, name, 1, 100);
        }
    }
    world.run(50, |_| false);
    assert_eq!((world.running("rich"), world.running("poor")), (12, 4));
}

#[test]
fn the_largest_job_does_not_starve_in_a_stream_of_small_ones() {
    for whose in ["small", "large"] {
        let mut world = World::default();
        world.workers(POOL, 2, 8);
        world.tenant("small", 4);
        world.tenant("large", 1);
        // As much as there is room for, and nothing waits before it.
        for n in 0..400 {
            world.submit(4 * n, "small", 1, 61 + n % 7);
        }
        let large = world.jobs.len();
        world.submit(100, whose, 8, 60);
        world.run(1600, |world| world.jobs[large].started.is_some());
        let started = world.jobs[large].started.expect("it starts");
        // Sixteen pass, one every four seconds; then a node drains.
        let bound = 100 + 4 * i64::try_from(ENOUGH + 1).unwrap() + 67;
        assert!((101..=bound).contains(&started), "of {whose}: at {started}, not by {bound}");
    }
}

#[test]
fn the_largest_job_does_not_starve_on_its_tenants_quota() {
    let mut world = World::default();
    world.workers(POOL, 4, 8);
    world.tenant("a", 1).quotas.max_cpu_cores = 8;
    for n in 0..800 {
        world.submit(2 * n, "a", 1, 60 + n % 7);
    }
    let large = world.jobs.len();
    world.submit(100, "a", 8, 60).priority = Priority::High;
    world.run(1600, |world| world.jobs[large].started.is_some());
    let started = world.jobs[large].started.expect("it starts");
    // Eight run for a minute: one passes every eight seconds.
    assert!(started <= 100 + 10 * i64::try_from(ENOUGH).unwrap() + 66, "at {started}");
}

#[test]
fn batch_low_ages_past_a_stream_of_live_high() {
    let mut world = World::default();
    world.workers(POOL, 1, 1);
    world.tenant("a", 1);
    world.submit(0, "a", 1, 60);
    let old = world.jobs.len();
    let job = world.submit(1, "a", 1, 60);
    (job.queue, job.priority) = (Queue::Batch, Priority::Low);
    for minute in 0..600 {
        let job = world.submit(minute * 60, "a", 1, 60);
        (job.queue, job.priority) = (Queue::Live, Priority::High);
    }
    world.run(36_000, |world| world.jobs[old].started.is_some());
    let minutes = world.jobs[old].started.expect("it starts") / 60;
    assert!((460..=463).contains(&minutes), "after {minutes} minutes");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever is submitted, the simulator's checks hold at every decision, and in the end everything has run.
    #[test]
    fn nothing_is_over_nothing_idles_and_everything_runs(
        jobs in prop::collection::vec((0_i64..300, 0_usize..3, 1_u64..8, 1_i64..200, 0_usize..3), 1..80),
        most_jobs in 1_i64..6, most_cores in 8_i64..12, most_queued in 1_i64..9,
    ) {
        let mut world = World::default();
        world.workers(POOL, 2, 8);
        world.workers("a", 1, 4);
        world.tenant("a", 1);
        world.tenant("b", 3).quotas.max_queued_jobs = most_queued;
        let quotas = &mut world.tenant("c", 2).quotas;
        (quotas.max_jobs, quotas.max_cpu_cores) = (most_jobs, most_cores);
        for (at, tenant, cores, seconds, queue) in jobs {
            let job = world.submit(at, ["a", "b", "c"][tenant], cores, seconds);
            job.queue = [Queue::Live, Queue::Default, Queue::Batch][queue];
        }
        world.run(100_000, |_| false);
        let left = world.jobs.iter().filter(|job| job.started.is_none()).count();
        prop_assert_eq!(left, 0);
    }
}
