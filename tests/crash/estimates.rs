//! Estimates of starts, of the replica that leads and of one that does not.

use crofter_test_cluster::wait;
use serde_json::json;

use crate::{
    common::{Verbs, WAIT_TIMEOUT, keys, rest},
    leadership::{Replica, tenant},
};

/// A job that waits for another one's end has an estimate on both replicas, of which the first leads.
pub async fn agree(verbs: &Verbs<'_>, leader: &Replica<'_>, follower: &Replica<'_>) {
    tenant(verbs, "waits").await;
    keys::make(verbs, "waits", "all", json!({"scopes": rest::ALL})).await.unwrap();
    keys::until_ready(verbs, "waits", "all").await;
    let key = keys::text(verbs, "waits", "all").await;
    let mut job = rest::job();
    job["resources"] = json!({"cpu": "2", "memory": "64Mi"});
    job["timeout_seconds"] = json!(3600);
    job["parameters"] = json!({"run-seconds": "3000"});
    let submit = async || {
        wait::until(WAIT_TIMEOUT, "a job to be submitted", || async {
            let submitted = leader.rest("POST", "/v1/jobs", &key, Some(&job)).await;
            if [201, 202].contains(&submitted.status) { Ok(rest::id(&submitted)) } else { Err(submitted) }
        })
        .await
        .unwrap()
    };
    let runs = submit().await;
    wait::until(WAIT_TIMEOUT, "the first job to run", || async {
        let job = leader.rest("GET", &format!("/v1/jobs/{runs}"), &key, None).await;
        if job.body["status"] == "running" { Ok(()) } else { Err(job) }
    })
    .await
    .unwrap();
    let waits = submit().await;
    let mut seconds = Vec::new();
    for replica in [leader, follower] {
        let why = wait::until(WAIT_TIMEOUT, "an estimate", || async {
            let why = replica.rest("GET", &format!("/v1/jobs/{waits}/why"), &key, None).await;
            if why.body["estimate"]["starts_in_seconds_p50"].is_u64() { Ok(why) } else { Err(why) }
        })
        .await
        .unwrap();
        let source = if replica.leads().await { "scheduler" } else { "status" };
        assert_eq!(why.body["source"], source, "{why:?}");
        seconds.push(why.body["estimate"]["starts_in_seconds_p50"].as_u64().unwrap());
    }
    // Nothing is known of such jobs but their timeout. The second replica was asked a moment later.
    assert!((1800..=3600).contains(&seconds[0]) && seconds[0].abs_diff(seconds[1]) < 600, "{seconds:?}");
    for job in [waits, runs] {
        let canceled = leader.rest("DELETE", &format!("/v1/jobs/{job}"), &key, None).await;
        assert!(canceled.status < 300, "{canceled:?}");
    }
}
