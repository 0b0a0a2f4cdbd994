//! Containers that do not start.

use crofter::api_types::{Job, JobPhase};
use k8s_openapi::api::core::v1::Secret;
use serde_json::json;

use crate::{
    NODE_LOCK,
    common::{namespace, phase},
    script_with, world,
};

const TENANT: &str = "alpha";

fn message(job: &Job) -> &str {
    job.status.as_ref().and_then(|s| s.message.as_deref()).unwrap_or_default()
}

#[tokio::test]
async fn a_container_that_can_not_start_shows_the_kubelets_words() {
    let Some(world) = world() else { return };
    let _shared = NODE_LOCK.read().await;
    let verbs = world.verbs().await;
    // Nothing listens there, and no name has to be resolved, which may take long.
    verbs.job(TENANT, "no-image", json!({"image": "127.0.0.1:1/nothing:1"})).await;
    let variable = json!({"env": [{"name": "WORD", "secretKeyRef": {"name": "later", "key": "word"}}]});
    verbs.job(TENANT, "no-secret", script_with("echo $WORD", variable)).await;

    let says = |words: &'static str| {
        move |job: &Job| phase(job) == JobPhase::Assigned && message(job).contains(words)
    };
    verbs.until_job(TENANT, "no-secret", "to miss its secret", says("secret \"later\" not found")).await;
    verbs.until_job(TENANT, "no-image", "to miss its image", says("ImagePull")).await;

    // What was missing may come: nothing has to be submitted again.
    let secret = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "later"}, "stringData": {"word": "here"},
    });
    verbs.create(&verbs.within::<Secret>(&namespace(TENANT)), &secret).await.unwrap();
    // A cancel needs no container.
    verbs.patch_job(TENANT, "no-image", json!({"spec": {"canceled": true}})).await.unwrap();
    let canceled = verbs.until_phase(TENANT, "no-image", JobPhase::Canceled).await.status.unwrap();
    assert_eq!((canceled.exit_code, canceled.started_at.as_ref()), (None, None), "{canceled:?}");
    assert_eq!(canceled.attempts[0].started_at, None);
    verbs.until_phase(TENANT, "no-secret", JobPhase::Completed).await;
    assert_eq!(verbs.log(TENANT, "no-secret").await.unwrap(), "here\n");
}
