//! The hourly limit: no deletion, recreation or restart makes room in it.

use std::collections::HashSet;

use crofter::api_types::JobPhase;
use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt, api::DeleteParams};
use serde_json::json;

use crate::{OPERATOR_FAULTS, common::Verbs, history::of_pods};

/// What the plan free allows.
const HOURLY_LIMIT: usize = 10;
/// How often a job is deleted and created again.
const RECREATIONS: usize = 1000;
const LIMIT: &str = "hourly job limit reached (10/10)";

async fn is_limited(verbs: &Verbs<'_>, name: &str) {
    let job = verbs.until_reason("hourly", name, "RateLimited").await;
    assert_eq!(job.status.unwrap().message.as_deref(), Some(LIMIT));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_start_and_the_eleventh_waits_whatever_is_deleted_or_restarted() {
    let (world, _exclusive) = OPERATOR_FAULTS.take().await;
    let verbs = world.verbs().await;
    let pods = of_pods(verbs.all()).await;
    world.start_operator();
    verbs.tenant("hourly", json!({"plan": "free"})).await;
    verbs.worker("hourly-1", "hourly", "4").await;
    for n in 0..HOURLY_LIMIT {
        verbs.job("hourly", &format!("job-{n}"), json!({"parameters": {"run-seconds": "0.1"}})).await;
    }
    for n in 0..HOURLY_LIMIT {
        verbs.until_phase("hourly", &format!("job-{n}"), JobPhase::Completed).await;
    }
    verbs.job("hourly", "eleventh", json!({})).await;
    is_limited(&verbs, "eleventh").await;
    verbs.job("hourly", "impatient", json!({"onQuota": "Reject"})).await;
    let refused = verbs.until_phase("hourly", "impatient", JobPhase::Rejected).await.status.unwrap();
    assert_eq!(refused.reason.as_deref(), Some("RateLimited"));
    assert!(refused.message.unwrap().starts_with("hourly job limit reached (10/10"));

    // Those that ran go, with their pods, and come again.
    let api = verbs.jobs("hourly");
    for n in 0..HOURLY_LIMIT {
        api.delete(&format!("job-{n}"), &DeleteParams::default()).await.unwrap();
    }
    let api = &api;
    let once = |n: usize| {
        let verbs = &verbs;
        async move {
            let name = format!("again-{n}");
            verbs.job("hourly", &name, json!({})).await;
            api.delete(&name, &DeleteParams::default()).await.unwrap();
        }
    };
    stream::iter(0..RECREATIONS).for_each_concurrent(8, once).await;
    verbs.job("hourly", "after-all", json!({})).await;
    is_limited(&verbs, "after-all").await;
    for life in ["killed", "stopped"] {
        if life == "killed" {
            world.kill_operator();
        } else {
            world.stop_operator().await;
        }
        world.start_operator();
        verbs.job("hourly", life, json!({})).await;
        is_limited(&verbs, life).await;
    }
    verbs
        .until_tenant("hourly", "ten jobs in this hour", |tenant| {
            let status = tenant.status.as_ref();
            status.and_then(|status| status.usage.as_ref()).is_some_and(|usage| usage.jobs_this_hour == 10)
        })
        .await;
    let whole = pods.whole();
    let ours = whole
        .iter()
        .map(crate::history::Seen::object)
        .filter(|pod: &&Pod| pod.namespace().as_deref() == Some("tenant-hourly"));
    let made: HashSet<_> = ours.map(|pod| pod.uid().unwrap()).collect();
    assert_eq!(made.len(), HOURLY_LIMIT);
}
