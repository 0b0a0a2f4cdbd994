//! Estimates whose result can be worked out on paper.

use super::{
    history::{Kind, PastRun},
    *,
};
use crate::{
    api_types::plan::EffectiveQuotas,
    domain::{
        admission::{JobInput, JobState, TenantInput, WorkerInput},
        resources::Resources,
    },
};
use jiff::Timestamp;

const POOL: &str = "pool.s";

/// A scheduler's state with what is known of its jobs, at 1,000,000 s.
#[derive(Default)]
struct World {
    dispatcher: Dispatcher,
    outlook: Outlook,
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + second).unwrap()
}

fn cores(cores: u64) -> Resources {
    Resources { cpu_milli: cores * 1000, ..Resources::default() }
}

impl World {
    /// One node of a shared pool.
    fn with_cores(count: u64) -> Self {
        let mut world = Self::default();
        world.dispatcher.tick(ClockReading::virtual_time(at(0)));
        world.worker(POOL, count);
        // The pool has its capacity before anything is counted against it.
        world.dispatcher.decide();
        world
    }

    fn worker(&mut self, group: &str, count: u64) {
        let input = WorkerInput { group: group.to_owned(), capacity: cores(count), open: true };
        self.dispatcher.set_worker(group, Some(input));
    }

    /// A tenant of the pool, whose jobs may run for ten minutes and have no other limit.
    fn tenant(&mut self, name: &str, weight: u32, change: impl FnOnce(&mut TenantInput)) {
        let quotas = EffectiveQuotas { job_timeout_minutes: 10, ..EffectiveQuotas::unlimited() };
        let groups = vec![name.to_owned(), POOL.to_owned()];
        let mut input =
            TenantInput { name: name.to_owned(), quotas, weight, groups, ..TenantInput::default() };
        input.closed = None;
        change(&mut input);
        self.dispatcher.set_tenant(name, Some(input));
    }

    /// A job of one core in a state, with the times of its object.
    fn job(&mut self, uid: &str, tenant: &str, state: JobState, times: JobTimes) {
        // So long ago that it is not submitted again.
        let created = at(-200_000);
        let input = JobInput {
            uid: uid.into(),
            namespace: tenant.into(),
            created,
            asked: Ok(cores(1)),
            state,
            ..JobInput::default()
        };
        let times = JobTimes { kinds: vec![Kind::image(tenant)], ..times };
        self.outlook.set(&input, times);
        self.dispatcher.set_job(input);
    }

    fn waits(&mut self, uid: &str, tenant: &str) {
        self.job(uid, tenant, JobState::Waiting(1), JobTimes::default());
    }

    /// A job that runs in the pool since a second, in a pod with a UID of its own.
    fn runs(&mut self, uid: &str, tenant: &str, since: i64) {
        let pod: Arc<str> = format!("pod-of-{uid}").into();
        self.dispatcher.set_pod(&pod, Some((POOL, cores(1))));
        let state = JobState::Active { group: Some(POOL.into()), bound: true };
        let times = JobTimes { started: Some(at(since)), pod: Some(pod), ..JobTimes::default() };
        self.job(uid, tenant, state, times);
    }

    /// How many seconds jobs of a tenant ran before.
    fn ran(&mut self, tenant: &str, seconds: impl IntoIterator<Item = i64>) {
        for (n, seconds) in (0..).zip(seconds) {
            let (finished, ran) = (at(-n), SignedDuration::from_secs(seconds));
            let run = PastRun { job: n.to_string().into(), attempt: 1, finished, ran };
            self.outlook.add_run(&tenant.into(), &[Kind::image(tenant)], &run);
        }
    }

    /// Decides, and estimates a start: median and ninth decile in seconds.
    fn estimate(&mut self, uid: &str) -> Result<(i64, i64), Unknown> {
        self.dispatcher.decide();
        self.estimate_while(uid, || true)
    }

    fn estimate_while(
        &mut self,
        uid: &str,
        may_continue: impl FnMut() -> bool,
    ) -> Result<(i64, i64), Unknown> {
        let now = ClockReading::virtual_time(at(0));
        let forecast = self.outlook.forecast(self.dispatcher.clone(), uid, now)?;
        let Estimate { median, ninth_decile } = forecast.estimate(7, may_continue)?;
        Ok((median.as_secs(), ninth_decile.as_secs()))
    }
}

#[test]
fn a_job_that_nothing_holds_back_starts_now() {
    let mut world = World::with_cores(1);
    world.tenant("a", 1, |_| ());
    world.waits("j", "a");
    assert_eq!(world.estimate_while("j", || true), Ok((0, 0)), "before the decision");
    assert_eq!(world.estimate("j"), Ok((0, 0)), "admitted");
    assert_eq!(world.estimate("unknown"), Err(Unknown::NotScheduled));
}

#[test]
fn it_starts_when_what_runs_ends_as_such_jobs_did_before() {
    let mut world = World::with_cores(1);
    world.tenant("a", 1, |_| ());
    world.ran("a", (1..=63).map(|n| n * 10 - 5));
    world.runs("r", "a", 0);
    world.waits("j", "a");
    let (median, ninth_decile) = world.estimate("j").unwrap();
    // Of 5, 15, … 625 s, and of the ten minutes that it may run.
    assert!((250..380).contains(&median), "{median}");
    assert!((500..=600).contains(&ninth_decile), "{ninth_decile}");
    assert_eq!(world.estimate("j"), Ok((median, ninth_decile)), "the same again");
    // One that has run for 300 s ends like those that ran longer.
    world.runs("r", "a", -300);
    let (later, last) = world.estimate("j").unwrap();
    assert!((90..220).contains(&later) && (220..=300).contains(&last), "{later} {last}");
}

#[test]
fn without_enough_runs_and_for_one_that_outlasts_them_the_timeout_counts() {
    let mut world = World::with_cores(1);
    world.tenant("a", 1, |_| ());
    world.runs("r", "a", -100);
    world.waits("j", "a");
    assert_eq!(world.estimate("j"), Ok((500, 500)), "no run");
    world.ran("a", [10, 10, 10, 10]);
    assert_eq!(world.estimate("j"), Ok((500, 500)), "too few");
    world.ran("a", [10, 10, 10, 10, 10, 10]);
    assert_eq!(world.estimate("j"), Ok((500, 500)), "it outlasts all");
    world.runs("r", "a", -1000);
    assert_eq!(world.estimate("j"), Ok((1, 1)), "its end is due");
    world.runs("r", "a", 3600);
    let (median, _) = world.estimate("j").unwrap();
    assert_eq!(median, 10, "a clock that was set back by an hour makes it a new run");
}

#[test]
fn a_job_without_timeout_and_history_makes_the_start_unknown_only_where_it_matters() {
    let mut world = World::with_cores(2);
    world.tenant("a", 1, |tenant| tenant.quotas.job_timeout_minutes = -1);
    world.tenant("b", 1, |_| ());
    world.runs("endless", "a", 0);
    world.runs("r", "b", -300);
    world.waits("j", "a");
    assert_eq!(world.estimate("j"), Ok((300, 300)), "the other one ends");
    let mut world = World::with_cores(1);
    world.tenant("a", 1, |tenant| tenant.quotas.job_timeout_minutes = -1);
    world.runs("endless", "a", -300);
    world.waits("j", "a");
    let unknown = world.estimate("j").unwrap_err();
    assert_eq!(unknown, Unknown::NoHistory);
    assert!(unknown.to_string().contains("fewer than 5 runs"), "{unknown}");
}

#[test]
fn back_off_hourly_window_and_quota_are_those_of_the_core() {
    // Given a tenant that may start two jobs an hour and have one at once.
    let mut world = World::with_cores(8);
    world.tenant("a", 1, |tenant| {
        tenant.quotas.max_jobs_per_hour = 2;
        tenant.quotas.max_jobs = 1;
    });
    world.runs("r", "a", -540);
    world.dispatcher.charge("a", "r", at(-540));
    // Then a retry waits for its back-off and not for the window, and the quota only once its own job is the first.
    let back = JobTimes { not_before: Some(at(30)), next_attempt: (2, false), ..JobTimes::default() };
    world.job("retry", "a", JobState::BackingOff, back);
    assert_eq!(world.estimate("retry"), Ok((60, 60)), "when the one that runs ends, at its ten minutes");
    let mut free = World::with_cores(1);
    free.tenant("a", 1, |_| ());
    let back = JobTimes { not_before: Some(at(30)), next_attempt: (2, false), ..JobTimes::default() };
    free.job("retry", "a", JobState::BackingOff, back);
    assert_eq!(free.estimate("retry"), Ok((30, 30)));
    // Of two new jobs the first starts after both, and the second when the window ends, two seconds of leeway included.
    world.waits("s", "a");
    world.waits("t", "a");
    assert_eq!(world.estimate("s"), Ok((660, 660)));
    assert_eq!(world.estimate("t"), Ok((3600 - 540 + 2, 3600 - 540 + 2)));
}

#[test]
fn tenants_that_share_a_pool_are_served_by_weight() {
    // Given one core, which a tenant of weight 1 uses, and one of weight 3 that wants it too; each job takes its ten minutes.
    let mut world = World::with_cores(1);
    world.tenant("a", 1, |_| ());
    world.tenant("b", 3, |_| ());
    world.runs("r", "a", 0);
    ["a1", "a2"].into_iter().for_each(|job| world.waits(job, "a"));
    ["b1", "b2", "b3", "b4", "b5"].into_iter().for_each(|job| world.waits(job, "b"));
    // Then who used nothing is first, and later the one of weight 1 has its turn.
    let mut start = |job| world.estimate(job).unwrap().0 / 600;
    assert_eq!(start("b1"), 1);
    let (first, second) = (start("a1"), start("a2"));
    assert!((3..=5).contains(&first) && second > first, "{first} {second}");
    let mut turns: Vec<_> = ["a1", "a2", "b1", "b2", "b3", "b4", "b5"].map(start).into();
    turns.sort_unstable();
    assert_eq!(turns, [1, 2, 3, 4, 5, 6, 7], "one after the other");
}

#[test]
fn jobs_that_will_be_submitted_may_be_first() {
    // Given a core, which jobs of ten minutes use one after the other, and a tenant that has submitted nothing lately.
    let mut world = World::with_cores(1);
    world.tenant("a", 1, |_| ());
    world.tenant("b", 8, |_| ());
    world.runs("r", "a", 0);
    ["a1", "a2"].into_iter().for_each(|job| world.waits(job, "a"));
    assert_eq!(world.estimate("a2"), Ok((1200, 1200)));
    // What another one of a greater weight submitted every two minutes a day ago, it submits again.
    for n in 0..240 {
        let (uid, created) = (format!("old-{n}").into(), at(-86_400 + n * 120));
        let input =
            JobInput { uid, namespace: "b".into(), created, asked: Ok(cores(1)), ..JobInput::default() };
        world.outlook.submitted(&input, &JobTimes::default());
    }
    let (median, ninth_decile) = world.estimate("a2").unwrap();
    assert!((1800..86_400).contains(&median) && ninth_decile >= median, "{median} {ninth_decile}");
    let (first, _) = world.estimate("a1").unwrap();
    assert!(first < median, "{first}");
}

#[test]
fn a_burst_of_many_jobs_is_submitted_again_a_day_later_and_not_every_minute() {
    // Given a node of 8 cores for jobs of ten minutes, and 300 jobs that were submitted within a few seconds.
    let mut world = World::with_cores(8);
    world.tenant("a", 1, |_| ());
    world.tenant("b", 1, |_| ());
    for n in 0..300 {
        let input = JobInput {
            uid: format!("{n:03}").into(),
            namespace: "a".into(),
            created: at(-10 + n / 50),
            asked: Ok(cores(1)),
            ..JobInput::default()
        };
        world.outlook.set(&input, JobTimes::default());
        world.dispatcher.set_job(input);
    }
    world.waits("other", "b");
    // Then the last one starts after all others of its tenant, in 37 rounds, and the other tenant's is not delayed.
    let mut asked = 0;
    let mut may_continue = || {
        asked += 1;
        asked < 500
    };
    world.dispatcher.decide();
    let other = world.estimate_while("other", &mut may_continue);
    assert_eq!(other.map(|(median, _)| median <= 600), Ok(true));
    let (median, ninth_decile) = world.estimate_while("299", &mut may_continue).unwrap();
    assert!((37 * 600 - 600..=37 * 600 + 600).contains(&median), "{median}");
    assert!(ninth_decile <= median + 1200, "{ninth_decile}");
}

/// Prints what an estimate costs with 10,000 jobs that wait and 2,000 that run.
#[test]
#[ignore = "a measurement"]
fn costs_of_an_estimate() {
    let mut world = World::with_cores(2_000);
    for tenant in 0..100 {
        let tenant = format!("tenant-{tenant}");
        world.tenant(&tenant, 1, |_| ());
        world.ran(&tenant, (1..=64).map(|n| n * 10));
        (0..20).for_each(|n| world.runs(&format!("runs-{tenant}-{n}"), &tenant, -n));
        (0..100).for_each(|n| world.waits(&format!("waits-{tenant}-{n:03}"), &tenant));
    }
    world.dispatcher.decide();
    let now = ClockReading::virtual_time(at(0));
    let begun = std::time::Instant::now();
    let mut since = begun;
    let mut lap = |what: &str| {
        println!("{what}: {:?}", since.elapsed());
        since = std::time::Instant::now();
    };
    let mut copy = StateCopy::new(world.dispatcher.clone(), now);
    lap("the state is copied (the scheduler waits)");
    let outlook = &mut world.outlook;
    let forecast = copy.forecast("waits-tenant-7-050", |copy, namespace| outlook.contention(copy, namespace));
    lap("the times of jobs are copied (events of jobs wait)");
    drop(copy.forecast("waits-tenant-8-050", |_, _| unreachable!("it was copied for all")));
    lap("a forecast from the same copy");
    let estimate = forecast.unwrap().estimate(7, || begun.elapsed() < std::time::Duration::from_millis(500));
    lap(&format!("{estimate:?}, with half a second at most"));
}

#[test]
fn a_tenant_without_a_common_pool_makes_no_difference() {
    let mut world = World::with_cores(1);
    world.tenant("a", 1, |_| ());
    world.tenant("b", 1, |tenant| {
        tenant.groups = vec!["b".to_owned()];
        tenant.quotas.job_timeout_minutes = -1;
    });
    world.worker("b", 4);
    let contenders = |world: &World, of: &str| world.dispatcher.contenders(of).len();
    assert_eq!((contenders(&world, "a"), contenders(&world, "b")), (1, 1));
    world.tenant("c", 1, |tenant| tenant.groups = vec!["c".to_owned(), "pool.t".to_owned()]);
    world.tenant("d", 1, |tenant| tenant.groups = ["d", POOL, "pool.t"].map(str::to_owned).into());
    assert_eq!(contenders(&world, "a"), 3, "c by way of d");
    world.runs("r", "a", -60);
    (0..100).for_each(|n| world.waits(&n.to_string(), "b"));
    world.waits("j", "a");
    assert_eq!(world.estimate("j"), Ok((540, 540)));
}

#[test]
fn a_job_that_can_never_start_says_why() {
    let mut world = World::default();
    world.tenant("a", 1, |_| ());
    world.waits("j", "a");
    let Err(Unknown::Never(why)) = world.estimate("j") else { panic!("it has no workers") };
    assert!(why.contains("worker"), "{why}");
    world.worker(POOL, 1);
    assert_eq!(world.estimate("j"), Ok((0, 0)));
    let closed = Some((crate::api_types::Reason::TenantSuspended, "the tenant is suspended".to_owned()));
    world.tenant("a", 1, |tenant| tenant.closed = closed);
    assert_eq!(world.estimate("j"), Err(Unknown::Never("the tenant is suspended".to_owned())));
}

#[test]
fn a_giant_queue_costs_no_more_than_is_allowed() {
    let mut world = World::with_cores(1);
    world.tenant("a", 1, |_| ());
    world.runs("r", "a", -60);
    (0..50_000).for_each(|n| world.waits(&format!("{n:05}"), "a"));
    assert_eq!(world.estimate("00000"), Ok((540, 540)), "the first of them");
    let mut asked = 0;
    let last = world.estimate_while("49999", || {
        asked += 1;
        asked < 3
    });
    assert_eq!((last, asked), (Err(Unknown::TooLong), 3), "it ends when it is to");
    // Time that is used up after enough runs costs nothing but exactness.
    let mut asked = 0;
    let first = world.estimate_while("00000", || {
        asked += 1;
        asked < 12
    });
    assert_eq!((first, asked), (Ok((540, 540)), 12));
}
