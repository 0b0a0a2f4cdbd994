//! Nodes that are lost while jobs run: a job is tried again once its pod can't run any more, and not before.

use std::time::Duration;

use crofter::api_types::{Job, JobPhase};
use crofter_test_cluster::wait;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    ResourceExt,
    api::{Patch, PatchParams},
};
use serde_json::json;

use crate::{
    common::{Verbs, phase},
    fault_free,
    history::{History, check_pods, of_pods},
};

/// The control plane's garbage collection of pods runs every 20 s and waits 40 s before it takes a node for deleted.
const NODE_LOSS_TIMEOUT: Duration = Duration::from_secs(110);

/// A job that runs on the first of two nodes.
async fn on_the_first_of_two(verbs: &Verbs<'_>, tenant: &str) -> String {
    verbs.tenant(tenant, json!({"plan": "basic"})).await;
    verbs.worker(&format!("{tenant}-1"), tenant, "2").await;
    verbs.job(tenant, "long", json!({"parameters": {"run-seconds": "forever"}})).await;
    let job = verbs.until_phase(tenant, "long", JobPhase::Running).await;
    verbs.worker(&format!("{tenant}-2"), tenant, "2").await;
    let node = job.status.unwrap().node.unwrap();
    assert_eq!(node, format!("{tenant}-1"));
    node
}

async fn runs_elsewhere(verbs: &Verbs<'_>, tenant: &str, pods: &History<Pod>, reason: &str) {
    let api = verbs.jobs(tenant);
    let second = |job: &Job| job.status.as_ref().is_some_and(|s| s.attempt == 2);
    let job = wait::until(NODE_LOSS_TIMEOUT, "attempt 2 to run", || async {
        let job = api.get("long").await.unwrap();
        if phase(&job) == JobPhase::Running && second(&job) { Ok(job) } else { Err(job.status) }
    })
    .await
    .unwrap();
    let status = job.status.clone().unwrap();
    assert_eq!(status.node, Some(format!("{tenant}-2")));
    let ends: Vec<_> = status.attempts.iter().map(|a| (a.attempt, a.reason.as_str())).collect();
    assert_eq!((status.retries, status.disruptions, ends), (0, 1, vec![(1, reason)]));
    assert_eq!(status.attempts[0].node, Some(format!("{tenant}-1")));
    let attempts = check_pods(&pods.whole());
    assert_eq!(attempts[&job.uid().unwrap()].len(), 2);
    verbs.patch_job(tenant, "long", json!({"spec": {"canceled": true}})).await.unwrap();
    verbs.until_phase(tenant, "long", JobPhase::Canceled).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_node_is_removed_runs_elsewhere() {
    let verbs = fault_free().verbs().await;
    let pods = of_pods(verbs.within("tenant-removed")).await;
    let node = on_the_first_of_two(&verbs, "removed").await;
    fault_free().cluster.remove_node(&node).await.unwrap();
    runs_elsewhere(&verbs, "removed", &pods, "NodeLost").await;
}

/// An unreachable node may still run its pods. Only an administrator knows that it does not, and says so with the
/// out-of-service taint; then they are deleted by force.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_on_an_unreachable_node_runs_elsewhere_once_it_is_out_of_service() {
    let verbs = fault_free().verbs().await;
    let pods = of_pods(verbs.within("tenant-silent")).await;
    let node = on_the_first_of_two(&verbs, "silent").await;
    fault_free().cluster.set_node_ready(&node, false).await.unwrap();

    // A later job that has completed shows that the operator had time for a wrong step.
    verbs.job("silent", "later", json!({})).await;
    let later = verbs.until_phase("silent", "later", JobPhase::Completed).await;
    assert_eq!(
        later.status.unwrap().node.as_deref(),
        Some("silent-2"),
        "no new pod is scheduled to a lost node"
    );
    let job = verbs.jobs("silent").get("long").await.unwrap();
    let status = job.status.clone().unwrap();
    assert_eq!((status.phase, status.attempt), (JobPhase::Running, 1), "it may still run there");

    let nodes = verbs.all::<Node>();
    let mut taints = nodes.get(&node).await.unwrap().spec.unwrap().taints.unwrap();
    let out =
        json!({"key": "node.kubernetes.io/out-of-service", "value": "nodeshutdown", "effect": "NoExecute"});
    taints.push(serde_json::from_value(out).unwrap());
    let patch = json!({"spec": {"taints": taints}});
    nodes.patch(&node, &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    runs_elsewhere(&verbs, "silent", &pods, "Evicted").await;
}
