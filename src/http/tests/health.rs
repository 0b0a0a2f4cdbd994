//! Whether the process lives and is ready.

use std::time::Duration;

use super::*;
use crate::kube_ext::pulse::Pulse;

#[tokio::test(start_paused = true)]
async fn liveness_fails_where_a_restart_helps_and_readiness_names_stale_watches() {
    let lab = Lab::new();
    lab.app.jobs.mark_synced();
    let (jobs, pods) = (Pulse::running(), Pulse::running());
    lab.app.watches.add("jobs", jobs.clone());
    lab.app.watches.add("pods", pods.clone());
    let text = |response: Response<Body>| async move {
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        String::from_utf8(bytes.to_vec()).unwrap()
    };
    // Step 1: for an hour the API server does not answer. A restart would not help.
    for _ in 0..60 {
        tokio::time::advance(Duration::from_secs(60)).await;
        jobs.failed(crate::kube_ext::pulse::Cause::Unreachable);
        pods.failed(crate::kube_ext::pulse::Cause::Silent);
    }
    assert_eq!(lab.open("GET", "/healthz", &[], "").await.status(), 200);
    let (status, body) = lab.ask("GET", "/readyz?verbose", KEY, "").await;
    assert_eq!((status, &body["ready"]), (200, &json!(true)));
    let behind = |name, cause| json!({"name": name, "current": false, "behind_since": "2029-12-31T23:00:00Z", "cause": cause});
    assert_eq!(body["watches"], json!([behind("jobs", "unreachable"), behind("pods", "silent")]));

    // Step 2: one watch stops. A restart would help.
    jobs.delivered();
    pods.delivered();
    tokio::time::advance(Duration::from_secs(600)).await;
    jobs.delivered();
    let response = lab.open("GET", "/healthz", &[], "").await;
    assert_eq!(response.status(), 503);
    assert_eq!(text(response).await, "the watch of pods has stopped: no step for 600 s\n");
    let (_, body) = lab.ask("GET", "/readyz?verbose", KEY, "").await;
    assert_eq!(
        body["watches"][0],
        json!({"name": "jobs", "current": true, "behind_since": null, "cause": null})
    );
}
