//! Running a job again.

use super::*;

const JOBS: &str = "/apis/crofter.io/v1alpha1/namespaces/tenant-acme/jobs";

#[tokio::test(start_paused = true)]
async fn a_job_is_run_again_from_what_is_stored_and_not_from_what_is_cached_of_it() {
    let lab = Lab::new();
    let ended = json!({"phase": "Failed", "finishedAt": "2030-01-01T00:00:10Z"});
    let mut stored = serde_json::to_value(job(1, ended.clone())).unwrap();
    stored["spec"]["env"] = json!([{"name": "A", "value": "b"}]);
    lab.fake.put(&format!("{JOBS}/j"), stored.clone());
    let mut cached: Job = serde_json::from_value(stored).unwrap();
    crate::controllers::job::prepare(&mut cached);
    assert!(!cached.spec.has_payload());
    lab.app.jobs.apply(&Arc::new(cached));
    lab.fake.calls();
    let (status, answer) = lab.ask("POST", &format!("/jobs/{JOB_UID}/retry"), KEY, "").await;
    assert_eq!(status, 202, "{answer}");
    let made = lab.fake.calls().into_iter().find(|call| call.method == http::Method::POST).unwrap();
    assert_eq!(made.body["spec"]["env"], json!([{"name": "A", "value": "b"}]));

    // Deleted since, or another one of its name.
    lab.fake.take(&format!("{JOBS}/j"));
    assert_eq!(lab.ask("POST", &format!("/jobs/{JOB_UID}/retry"), KEY, "").await.0, 404);
    let mut other = serde_json::to_value(job(1, ended)).unwrap();
    other["metadata"]["uid"] = json!("other");
    lab.fake.put(&format!("{JOBS}/j"), other);
    assert_eq!(lab.ask("POST", &format!("/jobs/{JOB_UID}/retry"), KEY, "").await.0, 404);
}
