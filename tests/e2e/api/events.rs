//! A job's state as it changes.

use crofter::api_types::JobPhase;
use kube::api::DeleteParams;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};

use super::{ALL, ask, ask_with, code, id, job, key, tenant};
use crate::{
    common::{WAIT_TIMEOUT, keys, rest::Open},
    world,
};

async fn follow(key: &str, job: &str, last: Option<&str>) -> Open {
    let bearer = format!("Bearer {key}");
    let last = last.map(|id| ("last-event-id", id));
    let headers: Vec<_> = [("authorization", bearer.as_str())].into_iter().chain(last).collect();
    world().rest_open(&format!("/v1/jobs/{job}/events"), &headers).await
}

/// The `id` and the status of each event.
fn parsed(text: &str) -> Vec<(String, String)> {
    let field = |event: &str, name: &str| {
        event.lines().find_map(|line| line.strip_prefix(&format!("{name}: "))).unwrap_or_default().to_owned()
    };
    text.split("event: ")
        .skip(1)
        .map(|event| {
            let data: Value = serde_json::from_str(&field(event, "data")).unwrap();
            (field(event, "id"), data["status"].as_str().unwrap_or("deleted").to_owned())
        })
        .collect()
}

fn words(events: &[(String, String)]) -> Vec<&str> {
    events.iter().map(|(_, status)| status.as_str()).collect()
}

#[tokio::test]
async fn api_all_jobs_are_followed_on_one_stream_that_can_be_resumed() {
    let verbs = world().verbs().await;
    let key = tenant(&verbs, "api-all-events", json!({"plan": "basic"})).await;
    let bearer = format!("Bearer {key}");
    let open = async |last: Option<&str>| {
        let last = last.map(|id| ("last-event-id", id));
        let headers: Vec<_> = [("authorization", bearer.as_str())].into_iter().chain(last).collect();
        world().rest_open("/v1/events", &headers).await
    };
    // Given: a job that exists, and one that is submitted while the client follows.
    let first = id(&ask("POST", "/jobs", &key, Some(&job())).await);
    let mut events = open(None).await;
    events.until(&first).await;
    let second = id(&ask("POST", "/jobs", &key, Some(&job())).await);
    events.until(&second).await;
    // What happens: the first one is canceled and deleted.
    assert_eq!(ask("DELETE", &format!("/jobs/{first}"), &key, None).await.status, 204);
    events.until("event: deleted").await;
    assert!(events.seen.contains("event: reset"), "{}", events.seen);
    // What follows: a client that knows all but the deletion receives it, and does not begin again.
    let before = events.seen.split("event: deleted").next().unwrap();
    let last = before.lines().filter_map(|line| line.strip_prefix("id: ")).next_back().unwrap().to_owned();
    drop(events);
    let mut resumed = open(Some(&last)).await;
    resumed.until("event: deleted").await;
    assert!(!resumed.seen.contains("event: reset"), "{}", resumed.seen);
}

#[tokio::test]
async fn api_a_job_is_followed_to_its_end_and_taken_up_again() {
    let verbs = world().verbs().await;
    let key = tenant(&verbs, "api-events", json!({"plan": "basic"})).await;
    let submitted = ask("POST", "/jobs", &key, Some(&job())).await;
    let mut events = follow(&key, &id(&submitted), None).await;
    events.until("\"status\":\"queued\"").await;
    verbs.worker("api-events-1", "api-events", "4").await;
    let (text, whole) = events.ended().await;
    assert!(whole && text.contains("content-type: text/event-stream"), "{text}");
    let all = parsed(&text);
    let statuses = words(&all);
    assert_eq!((statuses[0], *statuses.last().unwrap()), ("queued", "completed"), "{text}");
    let order = ["queued", "assigned", "running", "completed"];
    let places: Vec<_> = statuses.iter().map(|s| order.iter().position(|o| o == s).unwrap()).collect();
    assert!(places.is_sorted(), "{statuses:?}");

    let missed = follow(&key, &id(&submitted), Some(&all[0].0)).await.ended().await.0;
    assert_eq!(words(&parsed(&missed)), ["completed"], "{missed}");
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str()), ("last-event-id", all.last().unwrap().0.as_str())];
    let path = format!("/jobs/{}/events", id(&submitted));
    assert_eq!(ask_with("GET", &path, &headers, None).await.status, 204, "nothing more to come");
}

#[tokio::test]
async fn api_a_stream_of_events_ends_with_its_job_or_its_key() {
    let verbs = world().verbs().await;
    // Given a running job that two keys follow.
    let own = tenant(&verbs, "api-watch", json!({"plan": "basic"})).await;
    verbs.worker("api-watch-1", "api-watch", "4").await;
    let spy = key(&verbs, "api-watch", "spy", json!({"scopes": ["jobs:read"]})).await;
    let mut body = job();
    body["parameters"] = json!({"RUN_SECONDS": "forever"});
    let submitted = ask("POST", "/jobs", &own, Some(&body)).await;
    let name = submitted.body["name"].as_str().unwrap();
    verbs.until_phase("api-watch", name, JobPhase::Running).await;
    let (mut kept, mut spied) =
        (follow(&own, &id(&submitted), None).await, follow(&spy, &id(&submitted), None).await);
    for events in [&mut kept, &mut spied] {
        events.until("\"status\":\"running\"").await;
    }
    // When one key is revoked, its stream ends.
    keys::patch(&verbs, "api-watch", "spy", json!({"spec": {"revoked": true}})).await.unwrap();
    let revoked = Instant::now();
    let (text, _) = timeout(WAIT_TIMEOUT, spied.ended()).await.expect("a stream that ends with its key");
    eprintln!("from revoked to the end of the stream: {:?}", revoked.elapsed());
    assert_eq!(words(&parsed(&text)).last(), Some(&"running"), "{text}");

    // When the job is deleted, the other stream ends with that.
    verbs.jobs("api-watch").delete(name, &DeleteParams::default()).await.unwrap();
    let (text, whole) = kept.ended().await;
    let all = parsed(&text);
    assert!(whole && ["canceled", "deleted"].contains(&words(&all).last().copied().unwrap()), "{text}");
    // An unknown job has no stream.
    let strange = follow(&own, super::ABSENT, None).await.ended().await.0;
    assert!(strange.contains(" 404 ") && strange.contains("\"not_found\""), "{strange}");
}

#[tokio::test]
async fn api_a_tenants_streams_are_counted() {
    let verbs = world().verbs().await;
    let key = tenant(&verbs, "api-many", json!({"plan": "basic"})).await;
    let other = super::key(&verbs, "api-many", "other", json!({"scopes": ALL})).await;
    let submitted = ask("POST", "/jobs", &key, Some(&job())).await;
    let path = format!("/jobs/{}/logs?follow=true", id(&submitted));
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str())];
    let mut open = Vec::new();
    for _ in 0..20 {
        let mut log = world().rest_open(&path, &headers).await;
        log.until(" 200 ").await;
        open.push(log);
    }
    let refused = ask("GET", &path, &other, None).await;
    assert_eq!((refused.status, code(&refused).as_str()), (429, "too_many_streams"), "{refused:?}");
    assert!(refused.header("retry-after").is_some());
}
