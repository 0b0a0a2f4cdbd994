//! A node whose kubelet is silent for a while.

use crofter::api_types::JobPhase;
use crofter_test_cluster::wait;
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{ResourceExt, api::ListParams};

use crate::{
    NODE_LOCK,
    common::{Verbs, WAIT_TIMEOUT, namespace, now},
    script, world,
};

const TENANT: &str = "beta";
const NODE: &str = "real-3";

async fn until_ready(verbs: &Verbs<'_>, wanted: &str) {
    // A node may be silent for 40 s before it counts as lost.
    wait::until(2 * WAIT_TIMEOUT, &format!("node {NODE} is ready: {wanted}"), || async {
        let node = verbs.all::<Node>().get(NODE).await.map_err(|error| error.to_string())?;
        let conditions = node.status.and_then(|s| s.conditions).unwrap_or_default();
        let ready = conditions.into_iter().find(|c| c.type_ == "Ready").map(|c| c.status).unwrap_or_default();
        if ready == wanted { Ok(()) } else { Err(ready) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_job_that_ends_while_its_kubelet_is_away_ends_once() {
    let Some(world) = world() else { return };
    let _exclusive = NODE_LOCK.write().await;
    let verbs = world.verbs().await;
    let nodes = world.cluster.real_nodes().unwrap();
    // Given a running job.
    verbs.job(TENANT, "survivor", script("sleep 30; echo finished without a kubelet")).await;
    verbs.until_phase(TENANT, "survivor", JobPhase::Running).await;

    // When its kubelet is killed, the job stays Running and a new one waits.
    nodes.kill_kubelet(NODE).unwrap();
    until_ready(&verbs, "Unknown").await;
    let status = verbs.jobs(TENANT).get("survivor").await.unwrap().status.unwrap();
    assert_eq!(status.phase, JobPhase::Running, "no kubelet has reported its end yet");
    verbs.job(TENANT, "next", script("true")).await;
    verbs.until_reason(TENANT, "next", "WaitingForCapacity").await;

    // When its container has ended and the kubelet is back, the job has completed once, with the time that it ran.
    let over = status.started_at.unwrap().0 + SignedDuration::from_secs(45);
    wait::until(
        WAIT_TIMEOUT,
        "the container's end",
        async || if now() > over { Ok(()) } else { Err("it runs") },
    )
    .await
    .unwrap();
    let back = now();
    nodes.start_kubelet(NODE).unwrap();
    until_ready(&verbs, "True").await;
    let status = verbs.until_phase(TENANT, "survivor", JobPhase::Completed).await.status.unwrap();
    assert_eq!((status.attempt, status.retries, status.attempts.len()), (1, 0, 1));
    let record = &status.attempts[0];
    let ran = record.finished_at.0.duration_since(record.started_at.as_ref().unwrap().0).as_secs();
    assert!(ran >= 30, "it slept for so long: {record:?}");
    assert!(record.finished_at.0 < back, "it ended when it did, not when the kubelet was back: {record:?}");
    assert_eq!(verbs.log(TENANT, "survivor").await.unwrap(), "finished without a kubelet\n");
    verbs.until_phase(TENANT, "next", JobPhase::Completed).await;
    let pods = verbs.within::<Pod>(&namespace(TENANT)).list(&ListParams::default()).await.unwrap();
    let of_survivor = pods.items.iter().filter(|pod| pod.name_any().starts_with("survivor-"));
    assert_eq!(of_survivor.count(), 1);
}
