//! What another replica has just written.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::*;

const STORED: &str = "/apis/crofter.io/v1alpha1/namespaces/tenant-acme/jobs/j";

#[tokio::test(start_paused = true)]
async fn a_job_that_another_replica_has_just_created_is_waited_for() {
    for (method, path, status) in
        [("GET", "", 200), ("GET", "/why", 200), ("GET", "/events", 200), ("POST", "/cancel", 202)]
    {
        let lab = Lab::new();
        let created = async {
            sleep(Duration::from_millis(300)).await;
            let job = lab.job(1, json!({"phase": "Queued"}));
            lab.fake.put(STORED, serde_json::to_value(&*job).unwrap());
        };
        let path = format!("/jobs/{JOB_UID}{path}");
        let (response, ()) = tokio::join!(lab.open(method, &path, &[("authorization", KEY)], ""), created);
        assert_eq!(response.status(), status, "{method} {path}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_job_that_does_not_come_is_404_after_half_a_second() {
    let lab = Lab::new();
    for (method, path) in [("GET", ""), ("GET", "/why"), ("GET", "/logs"), ("GET", "/events"), ("DELETE", "")]
    {
        let begun = Instant::now();
        let (status, problem) = lab.ask(method, &format!("/jobs/{JOB_UID}{path}"), KEY, "").await;
        assert_eq!((status, &problem["code"]), (404, &json!("not_found")), "{method} {path}");
        assert!(begun.elapsed() >= Duration::from_millis(500), "{method} {path}: {:?}", begun.elapsed());
        assert!(begun.elapsed() < Duration::from_secs(1), "{method} {path}: {:?}", begun.elapsed());
    }
}
