//! The operator is killed at random moments, and stopped while it works: every job still runs exactly once.

use std::{
    hash::{BuildHasher, Hasher, RandomState},
    time::Duration,
};

use crofter::api_types::{Job, JobPhase};
use crofter_test_cluster::wait;
use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt, api::ListParams, runtime::watcher};
use serde_json::json;
use sqlx::Row;

use crate::{
    OPERATOR_FAULTS,
    common::{FINALIZER_WAIT_TIMEOUT, Verbs, WAIT_TIMEOUT, namespace, phase},
    history::{History, check_completed_once, check_jobs, check_pods, of_pods},
};

/// How often the operator is killed.
const LIVES: usize = 16;
/// Jobs submitted in each of its lives, to each of two tenants.
const JOBS_PER_LIFE: usize = 2;

/// SplitMix64: repeatable from the seed that is printed.
struct Dice(u64);

impl Dice {
    /// From `CRASH_SEED`, or a new seed.
    fn new() -> Self {
        let given =
            std::env::var("CRASH_SEED").ok().map(|seed| seed.parse().expect("CRASH_SEED is a number"));
        let seed = given.unwrap_or_else(|| RandomState::new().build_hasher().finish());
        println!("CRASH_SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        usize::try_from((mixed ^ (mixed >> 31)) % bound as u64).unwrap()
    }
}

/// A tenant with two workers.
async fn tenant(verbs: &Verbs<'_>, name: &str) {
    verbs.tenant(name, json!({"plan": "pro"})).await;
    for n in 1..=2 {
        verbs.worker(&format!("{name}-{n}"), name, "1").await;
    }
}

async fn all_completed(verbs: &Verbs<'_>, tenant: &str, count: usize) -> Vec<Job> {
    wait::until(WAIT_TIMEOUT, &format!("all jobs of {tenant} to complete"), || async {
        let jobs = verbs.jobs(tenant).list(&ListParams::default()).await.unwrap().items;
        let open: Vec<_> = jobs.iter().filter(|j| phase(j) != JobPhase::Completed).collect();
        let open: Vec<_> = open.iter().map(|j| (j.name_any(), j.status.clone())).collect();
        if open.is_empty() && jobs.len() == count { Ok(jobs) } else { Err(open) }
    })
    .await
    .unwrap()
}

async fn all_released(verbs: &Verbs<'_>, tenant: &str) {
    wait::until(
        FINALIZER_WAIT_TIMEOUT,
        &format!("the finalizers of {tenant}'s pods to be removed"),
        || async {
            let pods =
                verbs.within::<Pod>(&namespace(tenant)).list(&ListParams::default()).await.unwrap().items;
            let held = pods.iter().filter(|pod| !pod.finalizers().is_empty());
            let held: Vec<_> = held.map(ResourceExt::name_any).collect();
            if held.is_empty() { Ok(()) } else { Err(held) }
        },
    )
    .await
    .unwrap();
}

/// Checks all that must hold of a tenant's jobs once all are over.
async fn check(verbs: &Verbs<'_>, tenant: &str, count: usize, pods: &History<Pod>) {
    let jobs = all_completed(verbs, tenant, count).await;
    all_released(verbs, tenant).await;
    let attempts = check_pods(&pods.whole());
    for job in jobs {
        check_completed_once(&job);
        let ran: Vec<_> = attempts[&job.uid().unwrap()].iter().copied().collect();
        assert_eq!(ran, [1], "{}", job.name_any());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_moment_every_job_completes_exactly_once() {
    let (world, _exclusive) = OPERATOR_FAULTS.take().await;
    let verbs = world.verbs().await;
    let pods = of_pods(verbs.all()).await;
    let jobs = History::<Job>::start(verbs.all(), watcher::Config::default()).await;
    let mut dice = Dice::new();
    let tenants = ["castor", "pollux"];
    world.start_operator();
    for name in tenants {
        tenant(&verbs, name).await;
    }
    for life in 0..LIVES {
        for n in 0..JOBS_PER_LIFE {
            for tenant in tenants {
                let seconds = format!("{}.{}", dice.below(2), dice.below(9) + 1);
                let spec = json!({"parameters": {"run-seconds": seconds}});
                verbs.job(tenant, &format!("job-{life}-{n}"), spec).await;
            }
        }
        // The next kill comes after a random number of events of jobs, or after 2 s without them.
        jobs.after(dice.below(20), Duration::from_secs(2)).await;
        world.kill_operator();
        world.start_operator();
    }
    for tenant in tenants {
        check(&verbs, tenant, LIVES * JOBS_PER_LIFE, &pods).await;
    }
    check_jobs(&jobs.whole());
    for tenant in tenants {
        check_charges(&verbs, tenant, LIVES * JOBS_PER_LIFE).await;
    }
}

/// Checks that each job is in the books of Postgres exactly once, and the hourly sums are the sums.
async fn check_charges(verbs: &Verbs<'_>, tenant: &str, jobs: usize) {
    let database = sqlx::PgPool::connect(verbs.world.database_url.as_ref().unwrap()).await.unwrap();
    let events =
        "SELECT count(*), count(DISTINCT job_uid), sum(cpu_millicore_millis)::text FROM usage_events e
        JOIN tenants t ON t.uid = e.tenant_uid WHERE t.name = $1";
    let events = sqlx::query(events).bind(tenant).fetch_one(&database).await.unwrap();
    let jobs = i64::try_from(jobs).unwrap();
    assert_eq!((events.get::<i64, _>(0), events.get::<i64, _>(1)), (jobs, jobs), "charges of {tenant}");
    let hours = "SELECT sum(cpu_millicore_millis)::text FROM usage_hourly h
        JOIN tenants t ON t.uid = h.tenant_uid WHERE t.name = $1";
    let hours = sqlx::query(hours).bind(tenant).fetch_one(&database).await.unwrap();
    assert_eq!(events.get::<String, _>(2), hours.get::<String, _>(0), "hourly sums of {tenant}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_is_quick_and_clean_and_the_next_start_resumes() {
    let (world, _exclusive) = OPERATOR_FAULTS.take().await;
    let verbs = world.verbs().await;
    let pods = of_pods(verbs.all()).await;
    world.start_operator();
    tenant(&verbs, "evening").await;
    for n in 1..20 {
        verbs.job("evening", &format!("job-{n}"), json!({"parameters": {"run-seconds": "3"}})).await;
    }
    // Long enough to be seen, also where it is written late that it runs.
    verbs.job("evening", "job-0", json!({"parameters": {"run-seconds": "20"}})).await;
    verbs.until_phase("evening", "job-0", JobPhase::Running).await;
    // Half of what the chart gives it until a kubelet kills it.
    let took = world.stop_operator().await;
    assert!(took < Duration::from_secs(30), "the stop took {took:?}");

    // What runs does not need the operator.
    let over = |pod: &Pod| pod.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Succeeded");
    wait::until(WAIT_TIMEOUT, "what was started to end by itself", || async {
        let all = verbs.within::<Pod>("tenant-evening").list(&ListParams::default()).await.unwrap().items;
        let open: Vec<_> = all.iter().filter(|pod| !over(pod)).map(ResourceExt::name_any).collect();
        if open.is_empty() { Ok(()) } else { Err(open) }
    })
    .await
    .unwrap();
    let first = verbs.jobs("evening").get("job-0").await.unwrap();
    assert_eq!(phase(&first), JobPhase::Running, "its end was not observed");

    world.start_operator();
    check(&verbs, "evening", 20, &pods).await;
}
