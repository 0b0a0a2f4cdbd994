//! What the rules amount to over time: fairness, utilisation, no starvation.

use proptest::prelude::*;

use super::test_cluster::{POOL, World};
use crate::{
    api_types::{
        Reason,
        job::{Priority, Queue},
    },
    domain::admission::backfill::BACKFILL_LIMIT,
};

/// A number that looks random and is the same every time.
fn scattered(n: i64) -> i64 {
    let n = (n + 1).wrapping_mul(6_364_136_223_846_793_005);
    (n >> 20).rem_euclid(1 << 20)
}

#[test]
fn one_job_against_ten_thousand_starts_in_the_next_free_slot() {
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

/// Tenants of weights 1, 2, 4 and 8 in a pool, all with more jobs than they get; jobs of about `seconds`.
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
        // Longer than the half-life of the recent share.
        (40, 60, 4 * 3600, 20),
        (12, 31, 8 * 3600, 20),
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
    // Twice what each gets, so that no tenant runs dry.
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
fn a_tenant_that_arrives_gets_its_share_within_one_job_length_and_no_more() {
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
fn idle_time_is_no_credit_where_each_tenant_is_owed_less_than_one_slot() {
    // Forty tenants are owed a quarter of a slot each, and use the pool for an hour.
    let mut world = World::default();
    world.workers(POOL, 10, 1);
    for n in 0..40 {
        let name = format!("t{n:02}");
        world.tenant(&name, 1);
        (0..40).for_each(|m| _ = world.submit(0, &name, 1, 50 + (n * 7 + m) % 20));
    }
    // Another one was idle so far.
    world.tenant("late", 1);
    (0..400).for_each(|m| _ = world.submit(3600, "late", 1, 50 + m % 20));
    world.run(4800, |_| false);

    let (late, all) = (world.service("late", 3600, 4800), 10.0 * 1200.0);
    println!("a tenant that was idle gets {:.2} of its share", late * 41.0 / all);
    assert!((0.5..=1.5).contains(&(late * 41.0 / all)), "{late} of {all} core seconds");
}

#[test]
fn who_runs_something_at_a_restart_keeps_its_share() {
    // Given a pool of which two tenants are owed two slots and a half each, and a restart while `a` alone runs something.
    let mut world = World::default();
    world.workers(POOL, 5, 1);
    for tenant in ["a", "b"] {
        world.tenant(tenant, 1);
    }
    world.submit(0, "a", 1, 100);
    world.run(50, |_| false);
    world.restart();
    // When both have jobs for hours, then both get the fifth slot as often.
    for n in 0..2000 {
        world.submit(60, ["a", "b"][n % 2], 1, 60);
    }
    world.run(20_000, |_| false);
    let jain = world.jain(1000, 20_000);
    assert!(jain > 0.995, "{jain}");
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
        // Sixteen overtake it, one every four seconds; then a node drains.
        let bound = 100 + 4 * i64::try_from(BACKFILL_LIMIT + 1).unwrap() + 67;
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
    // Eight run for a minute: one overtakes it every eight seconds.
    assert!(started <= 100 + 10 * i64::try_from(BACKFILL_LIMIT).unwrap() + 66, "at {started}");
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

#[test]
fn the_hour_ends_by_itself_and_jobs_enter_in_their_order() {
    let mut world = World::default();
    world.workers(POOL, 4, 8);
    world.tenant("a", 1).quotas.max_jobs_per_hour = 10;
    for n in 0..25 {
        world.submit(10 * n, "a", 1, 30);
    }
    world.run(10_000, |_| false);
    let started: Vec<i64> = world.jobs.iter().filter_map(|job| job.started).collect();
    assert_eq!(started[..10], [0, 10, 20, 30, 40, 50, 60, 70, 80, 90]);
    let hours: Vec<i64> = started[10..].iter().map(|at| at / 3600).collect();
    assert_eq!(hours, [vec![1; 10], vec![2; 5]].concat());
}

#[test]
fn a_tenant_that_was_suspended_resumes_in_the_old_order() {
    let mut world = World::default();
    world.workers(POOL, 1, 2);
    world.tenant("a", 1);
    for n in 0..8 {
        world.submit(n, "a", 1, 60);
    }
    world.run(100, |_| false);
    world.tenant("a", 1).closed = Some((Reason::TenantSuspended, "suspended".to_owned()));
    world.run(500, |_| false);
    assert_eq!(world.jobs.iter().filter(|job| job.started.is_some()).count(), 4, "what runs goes on");
    world.submit(500, "a", 1, 60);
    world.tenant("a", 1).closed = None;
    world.run(1000, |_| false);
    let order: Vec<i64> = world.jobs.iter().filter_map(|job| job.started).collect();
    assert_eq!((order.len(), order.is_sorted()), (9, true), "{order:?}");
}

#[test]
fn a_plan_that_is_cut_evicts_nothing_and_holds_at_once() {
    let mut world = World::default();
    world.workers(POOL, 2, 8);
    world.tenant("a", 1).quotas.max_jobs = 8;
    for n in 0..40 {
        world.submit(0, "a", 1, 60 + 5 * n);
    }
    world.run(30, |_| false);
    assert_eq!(world.running("a"), 8);
    world.tenant("a", 1).quotas.max_jobs = 2;
    world.run(59, |_| false);
    assert_eq!(world.running("a"), 8);
    world.run(90, |_| false);
    assert_eq!(world.running("a"), 2, "the others have ended and nothing took their place");
    world.tenant("a", 1).quotas.max_jobs = 12;
    world.run(91, |_| false);
    assert_eq!(world.running("a"), 12);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever is closed, opened, cut or forgotten on the way, the simulator's checks hold at every decision: nothing
    /// starts over a quota or for a closed tenant, the ledger is what runs, and what has room does not wait.
    #[test]
    fn changes_and_restarts_on_the_way_lose_nothing(
        jobs in prop::collection::vec((0_i64..600, 0_usize..3, 1_u64..5, 1_i64..200), 1..60),
        changes in prop::collection::vec((0_usize..3, 0_usize..6, 0_i64..6), 1..12),
    ) {
        // Three tenants with jobs, one of them with a node of its own.
        let mut world = World::default();
        world.workers(POOL, 2, 8);
        world.workers("a", 1, 4);
        for (name, weight) in [("a", 1), ("b", 3), ("c", 2)] {
            world.tenant(name, weight);
        }
        for (at, tenant, cores, seconds) in jobs {
            world.submit(at, ["a", "b", "c"][tenant], cores, seconds);
        }
        // A change every 50 seconds.
        for (n, (tenant, change, number)) in changes.into_iter().enumerate() {
            world.run(50 * n as i64, |_| false);
            let input = world.tenant(["a", "b", "c"][tenant], 1);
            match change {
                0 => input.closed = Some((Reason::TenantSuspended, "suspended".to_owned())),
                1 => input.closed = None,
                2 => input.quotas.max_jobs = number + 1,
                3 => input.quotas.max_queued_jobs = number,
                4 => world.open(["pool.shared-0", "pool.shared-1", "a-0"][tenant], number > 2),
                _ => world.restart(),
            }
        }
        // Once all is open again, every job gets its turn.
        for name in ["a", "b", "c"] {
            let input = world.tenant(name, 1);
            (input.closed, input.quotas.max_jobs, input.quotas.max_queued_jobs) = (None, -1, -1);
        }
        ["pool.shared-0", "pool.shared-1", "a-0"].iter().for_each(|worker| world.open(worker, true));
        world.run(100_000, |_| false);
        prop_assert!(world.jobs.iter().all(|job| job.started.is_some()));
    }

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
