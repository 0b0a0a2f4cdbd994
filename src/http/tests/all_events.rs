use std::time::Duration;

use axum::body::BodyDataStream;

use super::*;

/// The stream of all events, after the event with this id.
async fn follow(lab: &Lab, last: Option<&str>) -> BodyDataStream {
    let last = last.map(|id| ("last-event-id", id));
    let headers: Vec<_> = [("authorization", KEY)].into_iter().chain(last).collect();
    let response = lab.open("GET", "/v1/events", &headers, "").await;
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    response.into_body().into_data_stream()
}

/// The next event: its name, its id, and the status, or else the id, of its data.
async fn next(body: &mut BodyDataStream) -> Option<[String; 3]> {
    let event = piece(body).await.unwrap()?;
    let field = |name: &str| {
        let line = event.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
        line.unwrap_or_default().to_owned()
    };
    let data: Value = serde_json::from_str(&field("data")).unwrap();
    let said = ["status", "id", "tenant_id"].into_iter().find_map(|name| data[name].as_str());
    Some([field("event"), field("id"), said.unwrap_or_default().to_owned()])
}

fn event(name: &str, id: &str, said: &str) -> Option<[String; 3]> {
    Some([name, id, said].map(str::to_owned))
}

/// The UID of the job of this number.
fn uid(n: u128) -> String {
    uuid::Uuid::from_u128(n).to_string()
}

/// A job of this number.
fn numbered(n: u128, version: u64, phase: &str) -> Arc<Job> {
    let mut one = job(version, json!({"phase": phase}));
    (one.metadata.uid, one.metadata.name) = (Some(uid(n)), Some(format!("j{n}")));
    Arc::new(one)
}

/// An app with two jobs, of whose cache the first list is complete.
fn lab() -> Lab {
    let lab = Lab::new();
    lab.app.jobs.apply(&numbered(1, 9, "Running"));
    lab.app.jobs.apply(&numbered(2, 5, "Queued"));
    let mut foreign = job(7, json!({"phase": "Queued"}));
    foreign.metadata.namespace = Some("tenant-other".to_owned());
    lab.app.jobs.apply(&Arc::new(foreign));
    lab.app.jobs.mark_synced();
    lab
}

#[tokio::test]
async fn a_stream_has_the_state_of_each_job_and_then_each_change() {
    let lab = lab();
    let mut events = follow(&lab, None).await;
    // Step 1: the jobs that exist, and none of another tenant.
    assert_eq!(next(&mut events).await, event("reset", "", TENANT_UID));
    assert_eq!(next(&mut events).await, event("status", "5", "queued"));
    assert_eq!(next(&mut events).await, event("status", "9", "running"));
    assert!(futures::poll!(events.next()).is_pending());
    // Step 2: changes; of a job that changes again before the client reads only the last.
    lab.app.jobs.apply(&numbered(3, 10, "Queued"));
    assert_eq!(next(&mut events).await, event("status", "10", "queued"));
    lab.app.jobs.apply(&numbered(1, 11, "Retrying"));
    lab.app.jobs.apply(&numbered(2, 12, "Assigned"));
    lab.app.jobs.apply(&numbered(1, 13, "Running"));
    lab.app.jobs.delete(&numbered(3, 14, "Queued"));
    assert_eq!(next(&mut events).await, event("status", "12", "assigned"));
    assert_eq!(next(&mut events).await, event("status", "13", "running"));
    assert_eq!(next(&mut events).await, event("deleted", "14", &uid(3)));
    assert!(futures::poll!(events.next()).is_pending());
    // Step 3: who begins now has no deletion of a job that it never had.
    let mut later = follow(&lab, None).await;
    assert_eq!(next(&mut later).await, event("reset", "", TENANT_UID));
    assert_eq!(next(&mut later).await, event("status", "12", "assigned"));
    assert_eq!(next(&mut later).await, event("status", "13", "running"));
    assert!(futures::poll!(later.next()).is_pending());
}

#[tokio::test]
async fn a_client_that_reconnects_continues_or_begins_again_but_never_keeps_a_deleted_job() {
    let lab = lab();
    // Step 1: this replica has only just started: a job may have been deleted before its list.
    assert_eq!(next(&mut follow(&lab, Some("9")).await).await, event("reset", "", TENANT_UID));
    // Step 2: it knows all changes since its first one.
    lab.app.jobs.apply(&numbered(1, 20, "Retrying"));
    lab.app.jobs.delete(&numbered(2, 21, "Queued"));
    assert_eq!(next(&mut follow(&lab, Some("19")).await).await, event("reset", "", TENANT_UID));
    let mut missed = follow(&lab, Some("20")).await;
    assert_eq!(next(&mut missed).await, event("deleted", "21", &uid(2)));
    let mut all_seen = follow(&lab, Some("21")).await;
    assert!(futures::poll!(all_seen.next()).is_pending());
    lab.app.jobs.apply(&numbered(1, 22, "Queued"));
    for events in [&mut missed, &mut all_seen] {
        assert_eq!(next(events).await, event("status", "22", "queued"));
    }
    // Step 3: an id of another stream.
    for odd in ["deleted", "x", "", "-1", "99999999999999999999999"] {
        assert_eq!(next(&mut follow(&lab, Some(odd)).await).await, event("reset", "", TENANT_UID), "{odd}");
    }
}

#[tokio::test]
async fn a_tenant_has_no_deletion_of_an_earlier_tenant_of_its_name() {
    let mut lab = lab();
    let mut tenant = tenant(json!({"plan": "free"}));
    tenant["metadata"]["creationTimestamp"] = json!("2030-01-01T00:00:01Z");
    mock::put(&mut lab.tenants, tenant);
    lab.app.jobs.apply(&numbered(1, 20, "Running"));
    let mut events = follow(&lab, Some("20")).await;
    // It was created a second before the tenant.
    lab.app.jobs.delete(&numbered(1, 21, "Running"));
    assert!(futures::poll!(events.next()).is_pending());
}

#[tokio::test(start_paused = true)]
async fn the_stream_ends_with_its_key_even_while_changes_wait_and_counts_as_one() {
    let lab = lab();
    let mut events = follow(&lab, None).await;
    assert_eq!(next(&mut events).await, event("reset", "", TENANT_UID));
    lab.key.revoked.store(true, std::sync::atomic::Ordering::SeqCst);
    // The stream is polled only where the client reads.
    tokio::time::advance(streams::REVALIDATION_INTERVAL).await;
    let mut seen = 0;
    while let Some([name, ..]) = next(&mut events).await {
        assert_eq!(name, "status");
        seen += 1;
        tokio::time::advance(Duration::from_millis(10)).await;
    }
    assert!(seen < 2, "{seen}");
    lab.key.revoked.store(false, std::sync::atomic::Ordering::SeqCst);
    let mut open = Vec::new();
    for _ in 0..200 {
        open.push(follow(&lab, None).await);
    }
    assert_eq!(lab.ask("GET", "/v1/events", KEY, "").await.1["code"], "too_many_streams");
}

#[tokio::test]
async fn a_replica_that_has_not_read_all_jobs_streams_none() {
    let lab = Lab::new();
    assert_eq!(lab.ask("GET", "/v1/events", KEY, "").await.1["code"], "cluster_unavailable");
}
