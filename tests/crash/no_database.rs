//! With no database configured at all, everything but history works.

use crofter::api_types::{Job, JobPhase};
use crofter_test_cluster::wait;
use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt, api::ListParams};
use serde_json::json;

use crate::{
    common::{FINALIZER_WAIT_TIMEOUT, phase},
    fault_free,
    history::check_completed_once,
};

#[tokio::test]
async fn a_tenants_whole_life_needs_no_database() {
    let world = fault_free();
    assert_eq!(world.database_url, None);
    let verbs = world.verbs().await;
    verbs.tenant("bookless", json!({"plan": "basic"})).await;
    verbs.worker("bookless-1", "bookless", "2").await;
    verbs.job("bookless", "good", json!({})).await;
    verbs.job("bookless", "bad", json!({"parameters": {"exit-code": "3"}})).await;
    verbs.job("bookless", "brief", json!({"ttlSecondsAfterFinished": 0})).await;
    verbs.job("bookless", "long", json!({"parameters": {"run-seconds": "forever"}})).await;
    check_completed_once(&verbs.until_phase("bookless", "good", JobPhase::Completed).await);
    verbs.until_phase("bookless", "bad", JobPhase::Failed).await;
    verbs.until_deleted(&verbs.jobs("bookless"), "brief").await;
    verbs.until_phase("bookless", "long", JobPhase::Running).await;

    wait::until(FINALIZER_WAIT_TIMEOUT, "the finalizers of the ended pods to be removed", || async {
        let pods = verbs.within::<Pod>("tenant-bookless").list(&ListParams::default()).await.unwrap().items;
        let held = pods.iter().filter(|pod| !pod.finalizers().is_empty());
        let held: Vec<_> = held.map(ResourceExt::name_any).collect();
        if held.len() == 1 && held[0].starts_with("long-") { Ok(()) } else { Err(held) }
    })
    .await
    .unwrap();
    let ended = |job: &Job| phase(job) != JobPhase::Running;
    assert!(!ended(&verbs.jobs("bookless").get("long").await.unwrap()));
    verbs.delete_tenant("bookless").await;
}
