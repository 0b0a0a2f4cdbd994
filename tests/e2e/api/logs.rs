//! Logs, as far as they need no container: those of real ones are tried in `tests/real`.

use crofter::api_types::JobPhase;
use crofter_test_cluster::wait;
use serde_json::json;

use super::{ask, code, id, job, tenant};
use crate::{common::WAIT_TIMEOUT, world};

#[tokio::test]
async fn api_a_log_that_is_not_there_has_its_reason() {
    let verbs = world().verbs().await;
    let key = tenant(&verbs, "api-logs", json!({"plan": "basic"})).await;
    let mut body = job();
    body["parameters"] = json!({"RUN_SECONDS": "forever"});
    let submitted = ask("POST", "/jobs", &key, Some(&body)).await;
    let path = format!("/v1/jobs/{}/logs", id(&submitted));
    let early = ask("GET", &path, &key, None).await;
    assert_eq!((early.status, code(&early).as_str()), (409, "not_started"), "{early:?}");
    for bad in ["follow=perhaps", "lines=1", "tail_lines=-1"] {
        let answer = ask("GET", &format!("{path}?{bad}"), &key, None).await;
        assert_eq!((answer.status, code(&answer).as_str()), (400, "invalid_query"), "{bad}");
    }
    let none = ask("GET", &format!("{path}?attempt=2"), &key, None).await;
    assert_eq!(none.status, 404, "{none:?}");

    // Its node has no kubelet: the API server's failure to reach it is not a 500 and delays no other request.
    verbs.worker("api-logs-1", "api-logs", "4").await;
    let name = submitted.body["name"].as_str().unwrap();
    verbs.until_phase("api-logs", name, JobPhase::Running).await;
    wait::until(WAIT_TIMEOUT, "the server to know", || async {
        let job = ask("GET", &format!("/jobs/{}", id(&submitted)), &key, None).await.body;
        if job["status"] == "running" { Ok(()) } else { Err(job) }
    })
    .await
    .unwrap();
    let unread = wait::until(WAIT_TIMEOUT, "an answer about the log", || async {
        let answer = world().asked_once("GET", &path, &key).await?;
        // Of the keys, not of the log.
        if code(&answer) == "keys_unavailable" { Err("keys_unavailable".to_owned()) } else { Ok(answer) }
    })
    .await
    .unwrap();
    assert!(["cluster_unavailable", "log_gone"].contains(&code(&unread).as_str()), "{unread:?}");
}

#[tokio::test]
async fn api_a_log_that_is_waited_for_ends_with_a_job_that_never_starts() {
    let verbs = world().verbs().await;
    let key = tenant(&verbs, "api-nolog", json!({"plan": "basic"})).await;
    let submitted = ask("POST", "/jobs", &key, Some(&job())).await;
    let at = format!("/jobs/{}", id(&submitted));
    let bearer = format!("Bearer {key}");
    let mut log =
        world().rest_open(&format!("{at}/logs?follow"), &[("authorization", bearer.as_str())]).await;
    log.until(" 200 ").await;
    assert_eq!(ask("POST", &format!("{at}/cancel"), &key, None).await.status, 202);
    let (text, whole) = log.ended().await;
    assert!(whole && text.ends_with("\r\n\r\n0\r\n\r\n"), "{text}");
    let after = ask("GET", &format!("{at}/logs"), &key, None).await;
    assert_eq!((after.status, code(&after).as_str()), (410, "log_gone"), "{after:?}");
}
