//! Hand-made traces whose outcome can be worked out on paper, and rules that hold whatever the trace.

use super::{
    cluster::{Cluster, ClusterFile},
    engine::{self, End, Run},
    report::{Report, ShareReport, plan_order, report},
    synthetic::{self, Synthetic},
    trace::{self, Work},
};
use crate::api_types::{Plans, Reason, quota::QuotaDimension};

/// One plan `a` and one plan `b`, alike and without limits but for what is replaced.
fn plans(change: impl Fn(String) -> String) -> Plans {
    let quotas: String =
        QuotaDimension::all().map(|dimension| format!(", {}: -1", dimension.field())).collect();
    let plan = |name: &str| format!("  {name}: {{weight: 1{quotas}}}\n");
    Plans::from_yaml(&format!("plans:\n{}{}", change(plan("a")), plan("b"))).unwrap()
}

fn unlimited() -> Plans {
    plans(|plan| plan)
}

const TENANTS: &str = "
tenants:
  - {name: ann, plan: a, sharedPools: [s]}
  - {name: bob, plan: b, sharedPools: [s]}
workers:
";

fn simulated(plans: &Plans, workers: &str, jobs: &str) -> (Cluster, Vec<Work>, Run, Report) {
    let cluster = ClusterFile::from_yaml(&format!("{TENANTS}{workers}")).unwrap().resolve(plans).unwrap();
    let jobs = trace::read(jobs.as_bytes(), ["ann", "bob"]).unwrap();
    let run = engine::run(&cluster, &plan_order(plans), &jobs, 3_600_000);
    let report = report(&cluster, plans, &jobs, &run);
    (cluster, jobs, run, report)
}

/// Seconds of start and end, and how it ended.
fn outcomes(run: &Run) -> Vec<(Option<f64>, Option<f64>, End)> {
    let seconds = |millis: Option<i64>| millis.map(|millis| millis as f64 / 1000.0);
    run.outcomes.iter().map(|o| (seconds(o.started), seconds(o.ended), o.end)).collect()
}

const TWO_CORES: &str = "  - {pool: s, cpu: 2, memory: 8Gi}\n";

#[test]
fn times_are_exact() {
    let jobs =
        "submitted,tenant,seconds,cpu,outcome\n0,ann,100,1,\n0,ann,50.5,1,Failed\n10,bob,7,2,\n20,bob,1,1,\n";
    let (_, _, run, report) = simulated(&unlimited(), TWO_CORES, jobs);
    let expected = [
        (Some(0.0), Some(100.0), End::Completed),
        (Some(0.0), Some(50.5), End::Failed),
        // Needs both cores; the job of one core is backfilled.
        (Some(100.0), Some(107.0), End::Completed),
        (Some(50.5), Some(51.5), End::Completed),
    ];
    assert_eq!(outcomes(&run), expected);
    assert_eq!(run.end, 107_000);

    // The figures, on paper: waits are 0, 0, 90 and 30.5 s; core seconds are 100 + 50.5 + 14 + 1 of 2 * 107.
    let all = &report.jobs;
    assert_eq!((all.all, all.completed, all.failed, all.waiting_for_ever), (4, 3, 1, 0));
    let wait = all.wait_seconds;
    assert_eq!((wait.median, wait.p95, wait.max), (0.0, 90.0, 90.0));
    let wait = report.plans[1].jobs.wait_seconds;
    assert_eq!((report.plans[1].plan.as_str(), wait.median, wait.max), ("b", 30.5, 90.0));
    let pool = &report.pools[0];
    assert!((pool.utilisation.cpu - 165.5 / 214.0).abs() < 1e-9, "{pool:?}");
    assert_eq!((report.pools.len(), pool.pool.as_deref(), pool.workers, pool.cores), (1, Some("s"), 1, 2.0));
    assert_eq!(report.tenants[0].tenant, "bob", "it waited longest");
}

#[test]
fn a_job_is_ended_at_the_earlier_limit_and_refused_when_it_never_fits() {
    let limited = plans(|plan| plan.replace("jobTimeoutMinutes: -1", "jobTimeoutMinutes: 1"));
    let jobs = "submitted,tenant,seconds,cpu,timeoutSeconds\n\
                0,ann,61,1,\n0,ann,60,1,\n100,ann,60,1,20\n200,ann,5,3,\n300,bob,90,1,\n";
    let (_, _, run, report) = simulated(&limited, TWO_CORES, jobs);
    let expected = [
        (Some(0.0), Some(60.0), End::TimedOut),
        (Some(0.0), Some(60.0), End::Completed),
        (Some(100.0), Some(120.0), End::TimedOut),
        (None, Some(200.0), End::Rejected(Reason::DoesNotFit)),
        (Some(300.0), Some(390.0), End::Completed),
    ];
    assert_eq!(outcomes(&run), expected);
    assert_eq!((report.jobs.timed_out, report.jobs.rejected["DoesNotFit"]), (2, 1));
}

#[test]
fn a_lost_attempt_is_tried_again_after_its_pause_and_within_the_jobs_time() {
    let jobs = "submitted,tenant,seconds,cpu,retries,timeoutSeconds\n0,ann,100,1,2,\n1000,ann,100,1,1,150\n";
    let (_, _, run, _) = simulated(&unlimited(), TWO_CORES, jobs);
    let pause = |job: &str, ended| crate::domain::retry::backoff(job, ended).as_millis();
    let pauses = pause("000000000", 1) + pause("000000000", 2);
    assert_eq!(run.outcomes[0].ended, Some(300_000 + i64::try_from(pauses).unwrap()));
    assert_eq!(run.outcomes[0].started, Some(0), "waiting is up to the first attempt");
    // 100 s and then the 50 s that are left.
    let pause = i64::try_from(pause("000000001", 1)).unwrap();
    assert_eq!((run.outcomes[1].ended, run.outcomes[1].end), (Some(1_150_000 + pause), End::TimedOut));
}

#[test]
fn the_hour_holds_jobs_back_and_the_report_says_so() {
    let limited = plans(|plan| plan.replace("maxJobsPerHour: -1", "maxJobsPerHour: 2"));
    let jobs = "submitted,tenant,seconds\n0,ann,1\n0,ann,1\n0,ann,1\n0,bob,1\n";
    let (_, _, run, report) = simulated(&limited, "  - {pool: s, cpu: 8, memory: 8Gi}\n", jobs);
    // A window is an hour, and two seconds for clocks that differ.
    assert_eq!(
        run.outcomes.iter().map(|o| o.started).collect::<Vec<_>>(),
        [Some(0), Some(0), Some(3_602_000), Some(0)]
    );
    let ann = report.tenants.iter().find(|tenant| tenant.tenant == "ann").unwrap();
    assert_eq!((ann.waited_for.hour, ann.waited_for.room, ann.waited_for.quota), (1.0, 0.0, 0.0));
    assert!((report.waiting_jobs["RateLimited"] - 1.0).abs() < 0.01, "{:?}", report.waiting_jobs);
}

#[test]
fn jobs_that_nothing_can_start_end_the_run_all_the_same() {
    let (_, _, run, report) = simulated(&unlimited(), "  []\n", "submitted,tenant,seconds\n5,ann,1\n");
    assert_eq!((run.end, outcomes(&run)), (5000, vec![(None, None, End::Waits)]));
    assert_eq!(report.jobs.waiting_for_ever, 1);
    assert!(report.table().contains("wait for what does not come"));
}

#[test]
fn another_weight_is_another_share() {
    // Both want all of it for ten hours.
    let mut jobs = "submitted,tenant,seconds\n".to_owned();
    for n in 0..2000 {
        jobs += &format!("0,{},{}\n", if n % 2 == 0 { "ann" } else { "bob" }, 160 + n % 7);
    }
    let workers = "  - {pool: s, cpu: 16, memory: 64Gi}\n";
    let share = |weight: u32| {
        let plans = plans(|plan| plan.replace("weight: 1", &format!("weight: {weight}")));
        let (.., report) = simulated(&plans, workers, &jobs);
        // The last of it belongs to who is left.
        let while_both: Vec<_> = report.intervals.iter().take(2).collect();
        let sum = |plan: &str, value: fn(&ShareReport) -> f64| {
            let shares = while_both.iter().flat_map(|interval| &interval.shares[0]);
            shares.filter(|share| share.plan == plan).map(value).sum::<f64>()
        };
        let (used, fair) = (|plan| sum(plan, |share| share.used), |plan| sum(plan, |share| share.entitled));
        assert!((used("a") / used("b") - f64::from(weight)).abs() < 0.1 * f64::from(weight), "{weight}");
        assert!((fair("a") / fair("b") - f64::from(weight)).abs() < 1e-6, "{weight}");
        let jain = report.pools[0].jain.unwrap();
        assert!(jain.median > 0.99, "{jain:?}");
        let wait =
            |plan: &str| report.plans.iter().find(|p| p.plan == plan).unwrap().jobs.wait_seconds.median;
        (used("a") / 2.0, [wait("a"), wait("b")])
    };
    let ((even, even_waits), (heavy, heavy_waits)) = (share(1), share(3));
    assert!((even - 0.5).abs() < 0.03 && (heavy - 0.75).abs() < 0.03, "{even} {heavy}");
    assert!(
        heavy_waits[0] < even_waits[0] && heavy_waits[1] > even_waits[1],
        "{even_waits:?} {heavy_waits:?}"
    );
}

/// Adds up what runs at every start, from the outcomes alone.
#[test]
fn no_quota_and_no_worker_is_ever_over() {
    let plans = Plans::built_in().unwrap();
    let options = Synthetic { tenants: 40, days: 1, load: 1.5, seed: 5, workers: Some(2) };
    let (file, mut jobs) = synthetic::draw(&options, &plans);
    // An attempt each, so that start and end are all.
    jobs.iter_mut().for_each(|job| job.retries = 0);
    let cluster = file.resolve(&plans).unwrap();
    let run = engine::run(&cluster, &plan_order(&plans), &jobs, 3_600_000);
    let mut changes: Vec<(i64, i64, usize)> = Vec::new();
    for (number, outcome) in run.outcomes.iter().enumerate() {
        assert!(outcome.end != End::Waits, "{number}");
        if let (Some(start), Some(end)) = (outcome.started, outcome.ended) {
            assert!(start >= jobs[number].submitted && end - start <= jobs[number].millis);
            changes.extend([(start, 1, number), (end, -1, number)]);
        }
    }
    // Ends before starts.
    changes.sort_unstable();
    let mut held = vec![(0_i64, 0_i64, 0_i64, 0_i64); cluster.tenants.len()];
    let (mut cores, mut full) = (0_i64, 0);
    let capacity = cluster.workers.iter().map(|(_, view)| view.capacity.cpu_milli).sum::<u64>();
    for (_, sign, number) in changes {
        let (job, sum) = (&jobs[number], &mut held[jobs[number].tenant]);
        let signed = |n: u64| sign * i64::try_from(n).unwrap();
        sum.0 += sign;
        sum.1 += signed(job.asked.cpu_milli);
        sum.2 += signed(job.asked.memory_bytes);
        sum.3 += signed(job.asked.gpus);
        cores += signed(job.asked.cpu_milli);
        let quotas = &cluster.tenants[job.tenant].quotas;
        assert!(sum.0 <= quotas.max_jobs && sum.1 <= quotas.max_cpu_cores * 1000, "{number}");
        assert!(sum.2 <= quotas.max_memory_gb * 1_000_000_000 && sum.3 <= quotas.max_gpus, "{number}");
        assert!(cores <= i64::try_from(capacity).unwrap());
        full += i64::from(cores * 10 >= i64::try_from(capacity).unwrap() * 9);
    }
    assert!(full > 100, "it was never nearly full: nothing was tried");
}

#[test]
fn the_same_again_is_the_same_to_the_last_digit_also_by_way_of_the_files() {
    let plans = Plans::built_in().unwrap();
    let options = Synthetic { tenants: 40, days: 1, load: 1.0, seed: 9, workers: Some(2) };
    let (file, jobs) = synthetic::draw(&options, &plans);
    let report = |file: &ClusterFile, jobs: &[Work]| {
        let report = super::simulate(&file.resolve(&plans).unwrap(), &plans, jobs, 60, 0);
        serde_json::to_string(&report).unwrap()
    };
    let names: Vec<&str> = file.tenants.iter().map(|tenant| tenant.name.as_str()).collect();
    let mut written = Vec::new();
    trace::write(&mut written, &jobs, &names).unwrap();
    let again = trace::read(written.as_slice(), names.iter().copied()).unwrap();
    let cluster = ClusterFile::from_yaml(&crate::yaml::write(&file).unwrap()).unwrap();
    assert_eq!(report(&file, &jobs), report(&cluster, &again));
}

/// Were the estimate broken, its quantiles would not be where they belong.
#[test]
fn estimated_starts_are_what_then_happens() {
    // Given three days in which two tenants keep two cores busy four fifths of the time, every day alike.
    let mut rng = fastrand::Rng::with_seed(3);
    let mut exponential = move |mean: f64| -(1.0 - rng.f64()).ln() * mean;
    let (mut jobs, mut at) = ("submitted,tenant,seconds,timeoutSeconds\n".to_owned(), 0.0);
    for n in 0..1100 {
        at += exponential(240.0);
        let tenant = if n % 3 == 0 { "ann" } else { "bob" };
        jobs += &format!("{at:.0},{tenant},{:.0},3600\n", 1.0 + exponential(384.0));
    }
    let plans = unlimited();
    let cluster = ClusterFile::from_yaml(&format!("{TENANTS}{TWO_CORES}")).unwrap().resolve(&plans).unwrap();
    let jobs = trace::read(jobs.as_bytes(), ["ann", "bob"]).unwrap();
    // A sample of those that waited is asked about.
    let report = super::simulate(&cluster, &plans, &jobs, 60, 150);
    let (table, estimates) = (report.table(), report.estimates.unwrap());
    assert_eq!((estimates.jobs, estimates.unknown.len()), (150, 0), "{estimates:?}");
    // Then nine of ten start by the ninth decile, half by the median, and the medians are nearer than none would be.
    assert!((0.8..=0.98).contains(&estimates.within_ninth_decile), "{estimates:?}");
    assert!((0.35..=0.65).contains(&estimates.within_median), "{estimates:?}");
    assert!(estimates.median_error_seconds < 0.8 * estimates.median_wait_seconds, "{estimates:?}");
    assert!(table.contains("Estimated starts of 150 jobs"), "{table}");
    // Without being asked for there are none.
    assert_eq!(super::simulate(&cluster, &plans, &jobs[..9], 60, 0).estimates, None);
}

#[test]
fn an_autoscaler_supplies_what_is_asked_for() {
    let plans = unlimited();
    let text = "tenants: [{name: ann, plan: a, sharedPools: [s]}]\nworkers: []\nelasticPools: [s]\n";
    let cluster = ClusterFile::from_yaml(text).unwrap().resolve(&plans).unwrap();
    let jobs = trace::read("submitted,tenant,seconds,cpu\n0,ann,1,500\n".as_bytes(), ["ann"]).unwrap();
    let report = super::simulate(&cluster, &plans, &jobs, 60, 0);
    assert_eq!((report.jobs.completed, report.jobs.wait_seconds.max), (1, 0.0));
    assert_eq!(report.pools[0].utilisation.cpu, 0.0, "there is no capacity to compare with");
}

#[test]
fn table_and_picture_name_what_they_show() {
    let jobs = "submitted,tenant,seconds,cpu\n0,ann,7200,2\n0,bob,7200,2\n0,bob,1,9\n";
    let (.., report) = simulated(&unlimited(), TWO_CORES, jobs);
    let table = report.table();
    for wanted in [
        "3 jobs of 2 tenants in 0.2 days: 2 completed, 1 rejected (DoesNotFit)",
        "Pool s: 1 workers, 2 cores; used: 100.0 % of the CPU",
        "jobs waited for its room",
        "WaitingForCapacity",
        "bob",
    ] {
        assert!(table.contains(wanted), "{wanted} in\n{table}");
    }
    let picture = super::chart::svg(&report).unwrap();
    for wanted in
        ["Waiting by tenant", "Pool s: share used", "Utilisation of all workers", "a (weight 1)", "CPU"]
    {
        assert!(picture.contains(wanted), "{wanted}");
    }
    assert!(!picture.contains("GPUs"), "there are none");
}
