//! The API server dies, and hangs, while jobs run: nothing is lost, and nothing runs twice. An operator that can't renew
//! its Lease in time ends, and is started again.

use std::time::Duration;

use crofter::api_types::{Job, JobPhase};
use crofter_test_cluster::wait;
use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt, api::ListParams};
use serde_json::{Value, json};

use crate::{
    API_FAULTS,
    common::{Verbs, WAIT_TIMEOUT, phase},
    history::{check_completed_once, check_pods, of_pods},
};

fn runs(seconds: &str) -> Value {
    json!({"parameters": {"run-seconds": seconds}})
}

async fn completed(verbs: &Verbs<'_>, tenant: &str) -> Vec<Job> {
    wait::until(WAIT_TIMEOUT, &format!("all jobs of {tenant} to complete"), || async {
        let jobs = verbs.jobs(tenant).list(&ListParams::default()).await.map_err(|e| e.to_string())?.items;
        let open = jobs.iter().find(|job| phase(job) != JobPhase::Completed);
        match open {
            None => Ok(jobs),
            Some(open) => Err(format!("{}: {:?}", open.name_any(), open.status)),
        }
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_api_server_loses_nothing() {
    let (world, _exclusive) = API_FAULTS.take().await;
    let verbs = world.verbs().await;
    world.start_operator();
    verbs.tenant("phoenix", json!({"plan": "pro"})).await;
    verbs.worker("phoenix-1", "phoenix", "1").await;
    let mut operator = world.operator_pid();
    world.until_ready().await;
    let watches = world.ask("/readyz?verbose").await.unwrap();
    assert!(watches.contains("[+]watch of jobs: ok\n") && !watches.contains("[-]"), "{watches}");
    for round in 0..2 {
        for n in 0..15 {
            verbs.job("phoenix", &format!("before-{round}-{n}"), runs("1")).await;
        }
        // It may have ended before its Running is written.
        let begun = |job: &Job| phase(job) != JobPhase::Queued;
        verbs.until_job("phoenix", &format!("before-{round}-0"), "begun", begun).await;
        let since = world.operator_log().len();
        world.cluster.kill_api().unwrap();
        world.until_logged(since, "the watch was interrupted").await;
        assert!(world.ask("/healthz").await.is_ok(), "no restart mends that");
        world.cluster.start_api().await.unwrap();
        // By then it has renewed its Lease, or lost it.
        tokio::time::sleep(Duration::from_secs(4)).await;
        if world.restart_if_deposed() {
            operator = world.operator_pid();
        }
        verbs.job("phoenix", &format!("after-{round}"), runs("1")).await;
    }
    for job in completed(&verbs, "phoenix").await {
        check_completed_once(&job);
    }
    assert_eq!(world.operator_pid(), operator);
    let pods = verbs.within::<Pod>("tenant-phoenix").list(&ListParams::default()).await.unwrap().items;
    assert_eq!(pods.len(), 32, "one for each job");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_api_server_holds_nothing_up_for_ever() {
    let (world, _exclusive) = API_FAULTS.take().await;
    let verbs = world.verbs().await;
    let pods = of_pods(verbs.all()).await;
    world.start_operator();
    verbs.tenant("morpheus", json!({"plan": "pro"})).await;
    verbs.worker("morpheus-1", "morpheus", "1").await;
    for n in 0..15 {
        verbs.job("morpheus", &format!("job-{n}"), runs("1")).await;
    }
    // Its pod does not start, so after two seconds the operator writes `Assigned`, whatever else happens.
    verbs.job("morpheus", "slow", json!({"queue": "live", "parameters": {"outcome": "Pending"}})).await;
    wait::until(WAIT_TIMEOUT, "the slow job's pod", || async {
        let all = verbs.within::<Pod>("tenant-morpheus").list(&ListParams::default()).await.unwrap().items;
        let names: Vec<_> = all.iter().map(ResourceExt::name_any).collect();
        if names.iter().any(|name| name.starts_with("slow-")) { Ok(()) } else { Err(names) }
    })
    .await
    .unwrap();

    let since = world.operator_log().len();
    let frozen = world.cluster.freeze_api().unwrap();
    world.until_logged(since, "this replica has lost the Lease").await;
    frozen.thaw();
    wait::until(WAIT_TIMEOUT, "the operator to end", || async {
        if world.restart_if_deposed() { Ok(()) } else { Err("it runs") }
    })
    .await
    .unwrap();

    verbs.until_phase("morpheus", "slow", JobPhase::Assigned).await;
    verbs.patch_job("morpheus", "slow", json!({"spec": {"canceled": true}})).await.unwrap();
    verbs.until_phase("morpheus", "slow", JobPhase::Canceled).await;
    for n in 0..15 {
        let job = verbs.until_phase("morpheus", &format!("job-{n}"), JobPhase::Completed).await;
        check_completed_once(&job);
    }
    check_pods(&pods.known());
}
