use std::time::Duration;

use super::*;

const EVENTS: &str = "/v1/jobs/20000000-0000-4000-8000-000000000000/events";
const END: &str = "2030-01-01T00:00:00Z";

async fn follow(lab: &Lab, last: Option<&str>) -> Response<Body> {
    let last = last.map(|id| ("last-event-id", id));
    let headers: Vec<_> = [("authorization", KEY)].into_iter().chain(last).collect();
    lab.open("GET", EVENTS, &headers, "").await
}

async fn body(lab: &Lab, last: Option<&str>) -> axum::body::BodyDataStream {
    let response = follow(lab, last).await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    response.into_body().into_data_stream()
}

/// Name, id and status of an event.
fn read(event: &str) -> (String, String, String) {
    let field = |name: &str| {
        let line = event.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        line.unwrap_or_default().to_owned()
    };
    let data: Value = serde_json::from_str(&field("data")).unwrap_or_default();
    (field("event"), field("id"), data["status"].as_str().unwrap_or_default().to_owned())
}

async fn next(body: &mut axum::body::BodyDataStream) -> Option<(String, String, String)> {
    piece(body).await.unwrap().map(|text| read(&text))
}

fn event(name: &str, id: &str, status: &str) -> Option<(String, String, String)> {
    Some((name.to_owned(), id.to_owned(), status.to_owned()))
}

#[tokio::test]
async fn a_watch_streams_a_job_from_its_current_state_to_its_end() {
    let lab = Lab::new();
    lab.job(5, json!({"phase": "Queued"}));
    let mut events = body(&lab, None).await;
    assert_eq!(next(&mut events).await, event("status", "5", "queued"));
    assert!(futures::poll!(events.next()).is_pending());
    lab.job(6, json!({"phase": "Running", "attempt": 1}));
    assert_eq!(next(&mut events).await, event("status", "6", "running"));
    // A slow client receives the last of them.
    lab.job(7, json!({"phase": "Retrying", "attempt": 1}));
    lab.job(8, json!({"phase": "Queued", "attempt": 1}));
    lab.job(9, json!({"phase": "Completed", "attempt": 2, "finishedAt": END}));
    assert_eq!(next(&mut events).await, event("status", "9", "completed"));
    assert_eq!(next(&mut events).await, None);
}

#[tokio::test]
async fn a_client_that_reconnects_continues_after_its_last_event() {
    let lab = Lab::new();
    lab.job(5, json!({"phase": "Running", "attempt": 1}));
    let mut seen = body(&lab, Some("5")).await;
    assert!(futures::poll!(seen.next()).is_pending(), "nothing new");
    let mut missed = body(&lab, Some("4")).await;
    assert_eq!(next(&mut missed).await, event("status", "5", "running"));
    lab.job(6, json!({"phase": "Failed", "attempt": 1, "finishedAt": END}));
    for mut events in [seen, missed] {
        assert_eq!(next(&mut events).await, event("status", "6", "failed"));
        assert_eq!(next(&mut events).await, None);
    }
    assert_eq!(
        next(&mut body(&lab, Some("5")).await).await,
        event("status", "6", "failed"),
        "the end is not missed"
    );
    assert_eq!(follow(&lab, Some("6")).await.status(), 204, "the job has one event");
}

#[tokio::test]
async fn a_job_that_is_deleted_or_replaced_has_the_event_deleted() {
    let lab = Lab::new();
    lab.job(5, json!({"phase": "Running"}));
    let (mut deleted, mut replaced) = (body(&lab, Some("5")).await, body(&lab, Some("5")).await);
    assert!(futures::poll!(replaced.next()).is_pending());
    lab.app.jobs.delete(&Arc::new(job(7, json!({"phase": "Canceled", "finishedAt": END}))));
    assert_eq!(next(&mut deleted).await, event("status", "7", "canceled"), "its last state");
    assert_eq!(next(&mut deleted).await, event("deleted", "deleted", ""));
    assert_eq!(next(&mut deleted).await, None);
    let mut another = job(8, json!({"phase": "Queued"}));
    another.metadata.uid = Some("30000000-0000-4000-8000-000000000000".to_owned());
    lab.app.jobs.apply(&Arc::new(another));
    assert_eq!(next(&mut replaced).await, event("deleted", "deleted", ""));
    assert_eq!(follow(&lab, None).await.status(), 404, "without a history");
}

#[tokio::test(start_paused = true)]
async fn a_quiet_stream_has_heartbeats_and_ends_with_its_key_or_the_server() {
    let lab = Lab::new();
    lab.job(5, json!({"phase": "Running"}));
    let mut events = body(&lab, Some("5")).await;
    let begun = tokio::time::Instant::now();
    let beat = piece(&mut events).await.unwrap().unwrap();
    assert!(
        beat.starts_with(':') && begun.elapsed() == Duration::from_secs(15),
        "{beat} {:?}",
        begun.elapsed()
    );
    lab.key.revoked.store(true, std::sync::atomic::Ordering::SeqCst);
    let revoked = tokio::time::Instant::now();
    assert_eq!(next(&mut events).await, None);
    assert!(revoked.elapsed() <= streams::REVALIDATION_INTERVAL, "{:?}", revoked.elapsed());
    lab.key.revoked.store(false, std::sync::atomic::Ordering::SeqCst);

    let mut lab = lab;
    let mut events = body(&lab, Some("5")).await;
    mock::put(&mut lab.tenants, tenant(json!({"plan": "free", "suspended": true})));
    assert_eq!(next(&mut events).await, None, "the tenant is not active any more");
    mock::put(&mut lab.tenants, tenant(json!({"plan": "free"})));
    let mut events = body(&lab, Some("5")).await;
    lab.stop.send_replace(true);
    assert_eq!(next(&mut events).await, None);
}

#[tokio::test]
async fn a_tenant_has_a_limited_number_of_streams() {
    let lab = Lab::new();
    lab.job(5, json!({"phase": "Running"}));
    let mut open = Vec::new();
    for _ in 0..200 {
        open.push(body(&lab, None).await);
    }
    let refused = follow(&lab, None).await;
    assert_eq!(refused.status(), 429);
    assert!(refused.headers().contains_key("retry-after"));
    open.clear();
    assert_eq!(follow(&lab, None).await.status(), 200);
}
