use std::time::Duration;

use super::*;

const LOGS: &str = "/v1/jobs/20000000-0000-4000-8000-000000000000/logs";

fn log(lab: &Lab) -> mpsc::Sender<String> {
    let (sender, receiver) = mpsc::channel(1);
    lab.logs.lock().unwrap().push_back(Ok(receiver));
    sender
}

async fn follow(lab: &Lab, query: &str) -> axum::body::BodyDataStream {
    let response = lab.open("GET", &format!("{LOGS}?{query}"), &[("authorization", KEY)], "").await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/plain; charset=utf-8");
    assert_eq!(response.headers()["x-accel-buffering"], "no");
    response.into_body().into_data_stream()
}

async fn code(lab: &Lab, query: &str) -> (u16, Value) {
    let (status, body) = lab.ask("GET", &format!("{LOGS}?{query}"), KEY, "").await;
    (status, body["code"].clone())
}

#[tokio::test]
async fn a_log_is_streamed_in_pieces_and_ends_with_its_attempt() {
    let lab = Lab::new();
    lab.job(1, json!({"phase": "Running", "attempt": 2}));
    let pieces = log(&lab);
    let mut body = follow(&lab, "follow&tail_lines=5&since_seconds=60&timestamps=true").await;
    for text in ["one\n", "two\n"] {
        pieces.send(text.to_owned()).await.unwrap();
        assert_eq!(piece(&mut body).await, Ok(Some(text.to_owned())));
    }
    drop(pieces);
    assert_eq!(piece(&mut body).await, Ok(None));
    let call = lab.fake.calls().into_iter().find(|call| call.path.ends_with("/log")).unwrap();
    assert_eq!(call.path, "/api/v1/namespaces/tenant-acme/pods/j-200000000000-2/log");
    for part in ["container=job", "follow=true", "tailLines=5", "sinceSeconds=60", "timestamps=true"] {
        assert!(call.query.contains(part), "{call:?}");
    }
}

#[tokio::test]
async fn what_a_client_does_not_read_is_not_read_from_the_kubelet() {
    let lab = Lab::new();
    lab.job(1, json!({"phase": "Running", "attempt": 1}));
    let pieces = log(&lab);
    let _body = follow(&lab, "follow").await;
    let sent = async { while pieces.send("x".repeat(1 << 16)).await.is_ok() {} };
    assert!(tokio::time::timeout(Duration::from_millis(200), sent).await.is_err(), "it waits for the reader");
}

#[tokio::test]
async fn follow_waits_for_a_job_that_has_not_started_and_without_it_is_refused() {
    let lab = Lab::new();
    lab.job(1, json!({"phase": "Queued"}));
    assert_eq!(code(&lab, "").await, (409, json!("not_started")));
    let mut body = follow(&lab, "follow").await;
    assert!(futures::poll!(body.next()).is_pending());
    lab.job(2, json!({"phase": "Assigned", "attempt": 1}));
    assert!(futures::poll!(body.next()).is_pending());
    let pieces = log(&lab);
    lab.job(3, json!({"phase": "Running", "attempt": 1}));
    pieces.send("first\n".to_owned()).await.unwrap();
    assert_eq!(piece(&mut body).await, Ok(Some("first\n".to_owned())));

    let mut never = {
        lab.job(4, json!({"phase": "Retrying", "attempt": 1}));
        follow(&lab, "follow=true").await
    };
    assert!(futures::poll!(never.next()).is_pending());
    let deleted = lab.job(5, json!({"phase": "Queued", "attempt": 1}));
    lab.app.jobs.delete(&deleted);
    assert_eq!(piece(&mut never).await, Ok(None), "a job that is deleted has no log to come");
}

#[tokio::test]
async fn refusals_of_logs_have_their_codes() {
    let lab = Lab::new();
    assert_eq!(code(&lab, "").await, (404, json!("not_found")));
    lab.job(1, json!({"phase": "Completed", "attempt": 1, "finishedAt": "2030-01-01T00:00:00Z"}));
    for (refusal, expected) in
        [(404, (410, "log_gone")), (400, (409, "not_started")), (500, (503, "cluster_unavailable"))]
    {
        lab.logs.lock().unwrap().push_back(Err(refusal));
        assert_eq!(code(&lab, "").await, (expected.0, json!(expected.1)));
    }
    // A pod that exists was not deleted: its node has no log.
    lab.logs.lock().unwrap().push_back(Err(404));
    let (_, absent) = lab.ask("GET", LOGS, KEY, "").await;
    assert_eq!(absent["detail"], "the node has no log of attempt 1");
    assert_eq!(code(&lab, "attempt=2").await, (404, json!("not_found")));
    for bad in
        ["follow=maybe", "tail_lines=-1", "since_seconds=x", "since_seconds=0", "tail=5", "follow&follow"]
    {
        assert_eq!(code(&lab, bad).await, (400, json!("invalid_query")), "{bad}");
    }
    lab.job(2, json!({"phase": "Canceled", "finishedAt": "2030-01-01T00:00:00Z"}));
    assert_eq!(code(&lab, "follow").await, (410, json!("log_gone")));
}

#[tokio::test]
async fn the_log_of_a_pod_of_another_owner_is_not_returned() {
    let lab = Lab::new();
    lab.job(1, json!({"phase": "Running", "attempt": 1}));
    let other = "20000000-0000-4000-8000-000000000009";
    for forged in [
        json!({"labels": {"crofter.io/job-uid": other}}),
        json!({"ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "j", "uid": JOB_UID, "controller": true}]}),
    ] {
        lab.pod(1, forged);
        drop(log(&lab));
        assert_eq!(code(&lab, "").await, (410, json!("log_gone")));
        assert!(lab.fake.calls().iter().all(|call| !call.path.ends_with("/log")));
    }
}

#[tokio::test]
async fn permits_are_counted_and_returned_when_the_client_disconnects() {
    let lab = Lab::new();
    lab.job(1, json!({"phase": "Queued"}));
    let mut open = Vec::new();
    for _ in 0..20 {
        open.push(follow(&lab, "follow").await);
    }
    assert_eq!(code(&lab, "follow").await, (429, json!("too_many_streams")));
    open.pop();
    drop(follow(&lab, "follow").await);
    drop(open);
}

#[tokio::test(start_paused = true)]
async fn a_log_is_aborted_when_its_key_is_revoked_or_the_server_stops() {
    let lab = Lab::new();
    lab.job(1, json!({"phase": "Running", "attempt": 1}));
    let (_one, _other) = (log(&lab), log(&lab));
    let (mut body, mut waiting) = (follow(&lab, "follow").await, {
        lab.job(2, json!({"phase": "Retrying", "attempt": 1}));
        follow(&lab, "follow").await
    });
    let begun = tokio::time::Instant::now();
    assert!(
        tokio::time::timeout(Duration::from_secs(60), body.next()).await.is_err(),
        "the stream continues while the key is valid"
    );
    lab.key.revoked.store(true, std::sync::atomic::Ordering::SeqCst);
    assert!(piece(&mut body).await.is_err());
    assert!(begun.elapsed() < Duration::from_secs(65), "{:?}", begun.elapsed());
    lab.key.revoked.store(false, std::sync::atomic::Ordering::SeqCst);
    assert!(futures::poll!(waiting.next()).is_pending());
    lab.stop.send_replace(true);
    assert!(piece(&mut waiting).await.is_err());
}

const POD: &str = "/api/v1/namespaces/tenant-acme/pods/j-200000000000-1";

/// Lets the pod be in this phase, and its container in this state.
fn set(lab: &Lab, phase: &str, job: Value) {
    let mut pod = lab.fake.get(POD);
    pod["status"] = json!({"phase": phase, "containerStatuses": [
        {"name": "sidecar", "image": "s", "imageID": "", "ready": true, "restartCount": 0, "state": {"running": {}}},
        {"name": "job", "image": "i", "imageID": "", "ready": true, "restartCount": 0, "state": job},
    ]});
    lab.fake.put(POD, pod);
}

/// The end of a followed log, of which half has come when the kubelet ends it and its pod is made so.
async fn end(lab: &Lab, then: impl FnOnce(&Lab)) -> Result<Option<String>, String> {
    lab.job(1, json!({"phase": "Running", "attempt": 1}));
    let pieces = log(lab);
    let mut body = follow(lab, "follow").await;
    pieces.send("half\n".to_owned()).await.unwrap();
    assert_eq!(piece(&mut body).await, Ok(Some("half\n".to_owned())));
    then(lab);
    drop(pieces);
    piece(&mut body).await
}

#[tokio::test(start_paused = true)]
async fn a_followed_log_that_ends_before_its_container_is_aborted() {
    let lab = Lab::new();
    let begun = tokio::time::Instant::now();
    assert!(end(&lab, |lab| set(lab, "Running", json!({"running": {}}))).await.is_err());
    assert!(begun.elapsed() <= Duration::from_secs(15), "{:?}", begun.elapsed());
    let terminated = |lab: &Lab| set(lab, "Running", json!({"terminated": {"exitCode": 0}}));
    assert_eq!(end(&lab, terminated).await, Ok(None), "whatever its sidecars do");
    let evicted = |lab: &Lab| set(lab, "Failed", json!({"waiting": {}}));
    assert_eq!(end(&lab, evicted).await, Ok(None), "it was evicted");
    assert_eq!(end(&lab, |lab| drop(lab.fake.take(POD))).await, Ok(None), "it is deleted");
    assert!(end(&lab, |lab| lab.fake.refuse(POD, 503)).await.is_err(), "the API server can't be asked");
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_container_may_be_reported_after_that_of_its_log() {
    let lab = Lab::new();
    let ends = async {
        tokio::time::sleep(Duration::from_secs(6)).await;
        set(&lab, "Running", json!({"terminated": {"exitCode": 1}}));
    };
    let running = |lab: &Lab| set(lab, "Running", json!({"running": {}}));
    let (ended, ()) = futures::join!(end(&lab, running), ends);
    assert_eq!(ended, Ok(None));
    // Without `follow` the end of what was printed so far is the end.
    running(&lab);
    drop(log(&lab));
    assert_eq!(piece(&mut follow(&lab, "tail_lines=5").await).await, Ok(None));
}
