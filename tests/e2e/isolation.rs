//! Workers and pods: a tenant's jobs run on its own admitted nodes and shared pools, and nowhere else.

use std::collections::HashSet;

use crofter::{api_types::JobPhase, names};
use crofter_test_cluster::{NodeSpec, wait};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;

use crate::{
    common::{WAIT_TIMEOUT, condition_reason, namespace},
    world,
};

#[tokio::test]
async fn two_tenants_never_share_a_node() {
    let verbs = world().verbs().await;
    // A node of no tenant, and roomier than any other: kube-scheduler would score it best.
    world().cluster.add_node(&NodeSpec::new("nobodys").capacity("64", "256Gi")).await.unwrap();
    for tenant in ["castor", "pollux"] {
        verbs.tenant(tenant, json!({"plan": "basic"})).await;
        for n in 1..=2 {
            verbs.worker(&format!("{tenant}-{n}"), tenant, "2").await;
        }
    }
    for n in 0..12 {
        for tenant in ["castor", "pollux"] {
            verbs.job(tenant, &format!("job-{n}"), json!({"resources": {"cpu": "500m"}})).await;
        }
    }
    for tenant in ["castor", "pollux"] {
        let mut nodes = HashSet::new();
        for n in 0..12 {
            let job = verbs.until_phase(tenant, &format!("job-{n}"), JobPhase::Completed).await;
            nodes.insert(job.status.unwrap().node.unwrap());
        }
        let pods = verbs.within::<Pod>(&namespace(tenant)).list(&ListParams::default()).await.unwrap();
        assert_eq!(pods.items.len(), 12);
        nodes.extend(pods.items.iter().filter_map(|p| p.spec.as_ref()?.node_name.clone()));
        assert!(nodes.iter().all(|n| n.starts_with(tenant)), "{tenant} ran on {nodes:?}");
    }
}

#[tokio::test]
async fn workers_are_admitted_within_the_quota_and_the_others_are_reported() {
    let verbs = world().verbs().await;
    verbs.tenant("narrow", json!({"plan": "free"})).await;
    verbs.worker("narrow-1", "narrow", "2").await;
    let label = "crofter.node-restriction.kubernetes.io/tenant";
    world()
        .cluster
        .add_node(&NodeSpec::new("narrow-2").label(label, "narrow").capacity("2", "8Gi"))
        .await
        .unwrap();
    let over = |t: &_| condition_reason(t, "WorkersAdmitted").as_deref() == Some("WorkersOverQuota");
    verbs.until_tenant("narrow", "WorkersOverQuota", over).await;
    verbs.until_admitted("narrow-2", None).await;
    // The older node is released: the younger one is admitted instead.
    let unlabel = json!({"metadata": {"labels": {label: null}}});
    verbs.all::<Node>().patch("narrow-1", &PatchParams::default(), &Patch::Merge(&unlabel)).await.unwrap();
    verbs.until_admitted("narrow-1", None).await;
    verbs.until_admitted("narrow-2", Some("narrow")).await;
}

#[tokio::test]
async fn a_released_node_keeps_its_taint_until_the_last_pod_has_left() {
    let verbs = world().verbs().await;
    // Given a node with a running job of one tenant, and a waiting job of another.
    verbs.tenant("leaving", json!({"plan": "basic"})).await;
    verbs.tenant("coming", json!({"plan": "basic"})).await;
    verbs.worker("moving-1", "leaving", "4").await;
    verbs.job("leaving", "long", json!({"parameters": {"run-seconds": "forever"}})).await;
    verbs.until_phase("leaving", "long", JobPhase::Running).await;
    verbs.job("coming", "next", json!({})).await;
    verbs.until_reason("coming", "next", "NoWorkers").await;

    // When the node is labelled for the other tenant, only the label of the admission is removed.
    let relabel =
        json!({"metadata": {"labels": {"crofter.node-restriction.kubernetes.io/tenant": "coming"}}});
    verbs.all::<Node>().patch("moving-1", &PatchParams::default(), &Patch::Merge(&relabel)).await.unwrap();
    let admitted = "crofter.node-restriction.kubernetes.io/admitted";
    crofter_test_cluster::wait::until(crate::common::WAIT_TIMEOUT, "the label to go first", || async {
        let node = verbs.all::<Node>().get("moving-1").await.unwrap();
        let tainted = node.spec.clone().unwrap_or_default().taints.unwrap_or_default();
        let still = tainted.iter().any(|t| t.key == admitted && t.value.as_deref() == Some("leaving"));
        if !node.labels().contains_key(admitted) && still { Ok(()) } else { Err(node.spec) }
    })
    .await
    .unwrap();
    // When the last job has ended, the other tenant gets the node.
    assert_eq!(crate::common::phase(&verbs.jobs("leaving").get("long").await.unwrap()), JobPhase::Running);
    verbs.patch_job("leaving", "long", json!({"spec": {"canceled": true}})).await.unwrap();
    verbs.until_admitted("moving-1", Some("coming")).await;
    let next = verbs.until_phase("coming", "next", JobPhase::Completed).await;
    assert_eq!(next.status.unwrap().node.as_deref(), Some("moving-1"));
}

#[tokio::test]
async fn a_shared_pool_serves_those_who_list_it() {
    let verbs = world().verbs().await;
    verbs.tenant("swimmer", json!({"sharedPools": ["lake"]})).await;
    verbs.tenant("walker", json!({})).await;
    let node = NodeSpec::new("lake-1")
        .label("crofter.node-restriction.kubernetes.io/pool", "lake")
        .capacity("4", "16Gi");
    world().cluster.add_node(&node).await.unwrap();
    verbs.until_admitted("lake-1", Some("pool.lake")).await;
    verbs.job("swimmer", "in", json!({})).await;
    let done = verbs.until_phase("swimmer", "in", JobPhase::Completed).await;
    assert_eq!(done.status.unwrap().node.as_deref(), Some("lake-1"));
    verbs.job("walker", "out", json!({})).await;
    verbs.until_reason("walker", "out", "NoWorkers").await;
}

/// Anyone may create a pod in a namespace of their own, with whatever labels.
#[tokio::test]
async fn a_forged_pod_takes_room_and_says_nothing_of_any_tenant() {
    let verbs = world().verbs().await;
    let tenant = verbs.tenant("victim", json!({"plan": "basic"})).await;
    verbs.worker("victim-1", "victim", "2").await;
    let job = verbs.job("victim", "real", json!({})).await;
    verbs.until_phase("victim", "real", JobPhase::Completed).await;
    let pods = verbs.within::<Pod>("default");
    let labels = json!({
        names::LABEL_MANAGED_BY: names::MANAGER, names::LABEL_TENANT: "victim", names::LABEL_ATTEMPT: "1",
        names::LABEL_TENANT_UID: tenant.uid(), names::LABEL_JOB_UID: job.uid(), names::LABEL_GROUP: "victim",
    });
    let metadata = json!({"name": "forged", "labels": labels, "finalizers": [names::FINALIZER_ACCOUNTED]});
    let container = json!({"name": "job", "image": "crofter.test/busybox:1", "resources": {"requests": {"cpu": "1500m"}},
        "env": [{"name": "CROFTER_PARAM_RUN_SECONDS", "value": "forever"}]});
    let spec = json!({"nodeName": "victim-1", "containers": [container]});
    verbs
        .create(&pods, &json!({"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}))
        .await
        .unwrap();

    verbs.job("victim", "waits", json!({"resources": {"cpu": "1"}})).await;
    verbs.until_reason("victim", "waits", "WaitingForCapacity").await;
    verbs.patch_job("victim", "waits", json!({"spec": {"canceled": true}})).await.unwrap();
    let real = verbs.until_phase("victim", "real", JobPhase::Completed).await;
    assert_eq!(real.status.unwrap().attempts.len(), 1);
    // Neither the tenant nor its node waits for it.
    verbs.delete_tenant("victim").await;
    verbs.until_admitted("victim-1", None).await;
    let free = |node: &Node| {
        node.spec.iter().flat_map(|s| s.taints.iter().flatten()).all(|t| t.key != names::NODE_ADMITTED)
    };
    wait::until(WAIT_TIMEOUT, "the node to be free", || async {
        let node = verbs.all::<Node>().get("victim-1").await.unwrap();
        if free(&node) { Ok(()) } else { Err(node.spec) }
    })
    .await
    .unwrap();
    let forged = pods.get("forged").await.unwrap();
    assert_eq!(forged.finalizers(), [names::FINALIZER_ACCOUNTED], "it is not Crofter's to touch");
    let patch = Patch::Merge(json!({"metadata": {"finalizers": null}}));
    pods.patch("forged", &PatchParams::default(), &patch).await.unwrap();
    pods.delete("forged", &kube::api::DeleteParams::default().grace_period(0)).await.unwrap();
}
