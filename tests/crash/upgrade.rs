//! From the program of an earlier version to this one, and back: nothing that exists is lost or disturbed.

use std::path::{Path, PathBuf};

use crofter::{
    api_types::{JobPhase, crd},
    names,
};
use crofter_test_cluster::{Cluster, wait};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use crate::{
    common::{Verbs, WAIT_TIMEOUT, World, rest, world::on_a_runtime},
    history::{check_completed_once, check_pods, of_pods},
};

/// The program of the earlier version.
fn previous() -> PathBuf {
    let path = std::env::var_os("CROFTER_PREVIOUS");
    path.expect("CROFTER_PREVIOUS is the path of an earlier version's program").into()
}

/// Applies CRDs as a chart's upgrade does.
async fn apply_crds(cluster: &Cluster, yaml: &str) {
    let file = cluster.dir().join("crds.yaml");
    std::fs::write(&file, yaml).unwrap();
    let file = file.to_str().unwrap();
    let output =
        cluster.kubectl(["apply", "--server-side", "--force-conflicts", "--filename", file]).await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn crds_of(program: &Path) -> String {
    let output = std::process::Command::new(program).arg("crd").output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

/// Waits until a replica of any version decides: a job that has room runs.
async fn completes(verbs: &Verbs<'_>, name: &str) {
    verbs.job("keeper", name, json!({})).await;
    check_completed_once(&verbs.until_phase("keeper", name, JobPhase::Completed).await);
}

/// Over REST: the key is accepted, and the job of this name has ended well, in the cluster or in the history.
async fn rest_shows(world: &World, key: &str, name: &str) {
    wait::until(WAIT_TIMEOUT, &format!("job {name} over REST"), || async {
        let answer = world.rest("GET", "/v1/jobs?limit=100", &[("x-api-key", key)], None).await?;
        let jobs = answer.body["jobs"].as_array().cloned().unwrap_or_default();
        let is_it = |job: &&Value| job["name"] == name && job["status"] == "completed";
        if jobs.iter().any(|job| is_it(&job)) { Ok(()) } else { Err(format!("{answer:?}")) }
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs CROFTER_PREVIOUS: see docs/contributing.md"]
async fn an_upgrade_and_a_rollback_lose_and_disturb_nothing() {
    let previous = previous();
    // Step 1: the earlier version, with its own CRDs.
    let cluster = Cluster::builder().start().unwrap();
    apply_crds(&cluster, &crds_of(&previous)).await;
    let made = cluster.kubectl(["create", "namespace", names::DEFAULT_NAMESPACE]).await.unwrap();
    assert!(made.status.success());
    let world = World::on(cluster);
    world.operator_program(&previous);
    world.start_operator();
    let verbs = world.verbs().await;
    let pods = of_pods(verbs.all::<Pod>()).await;
    let key = rest::tenant(&verbs, "keeper", json!({"plan": "basic", "quotas": {"maxJobs": 3}})).await;
    verbs.worker("keeper-1", "keeper", "2").await;
    completes(&verbs, "early").await;
    verbs.job("keeper", "gone", json!({"ttlSecondsAfterFinished": 0})).await;
    verbs.until_deleted(&verbs.jobs("keeper"), "gone").await;
    let forever = json!({"parameters": {"run-seconds": "forever"}, "maxRetries": 0});
    verbs.job("keeper", "running", forever).await;
    let running = verbs.until_phase("keeper", "running", JobPhase::Running).await;
    // Step 2: an upgrade, and a rollback, with the CRDs of the newer version.
    let current = PathBuf::from(env!("CARGO_BIN_EXE_crofter"));
    apply_crds(&world.cluster, &all_crds()).await;
    for (round, program) in [("new", &current), ("back", &previous), ("again", &current)] {
        verbs.job("keeper", &format!("between-{round}"), json!({})).await;
        on_a_runtime(world.stop_operator());
        world.operator_program(program);
        world.start_operator();
        completes(&verbs, &format!("after-{round}")).await;
        check_completed_once(
            &verbs.until_phase("keeper", &format!("between-{round}"), JobPhase::Completed).await,
        );
        // Step 3: what was before is as it was: the key, the history, and the pod that runs.
        for name in ["early", "gone"] {
            rest_shows(&world, &key, name).await;
        }
        let now = verbs.jobs("keeper").get("running").await.unwrap();
        let (before, now) = (running.status.clone().unwrap(), now.status.unwrap());
        assert_eq!((now.phase, &now.pod, now.attempt), (JobPhase::Running, &before.pod, 1), "{round}");
    }
    // Step 4: a newer version than the one that started it ends the job.
    verbs.patch_job("keeper", "running", json!({"spec": {"canceled": true}})).await.unwrap();
    verbs.until_phase("keeper", "running", JobPhase::Canceled).await;
    check_pods(&pods.known());
}

fn all_crds() -> String {
    let crds = crd::all();
    crds.iter().map(|(_, crd)| format!("---\n{}", crd::to_yaml(crd).unwrap())).collect()
}
