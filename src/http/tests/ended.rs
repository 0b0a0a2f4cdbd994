//! Jobs that have ended: the cache lacks what was submitted.

use super::*;

const JOB: &str = "/apis/crofter.io/v1alpha1/namespaces/tenant-acme/jobs/j";
const ID: &str = "/v1/jobs/20000000-0000-4000-8000-000000000000";

fn ended() -> Job {
    let mut job = job(7, json!({"phase": "Completed", "finishedAt": "2030-01-01T00:01:00Z"}));
    job.spec.args = vec!["x".into()];
    job.spec.parameters = [("frames".to_owned(), crate::api_types::job::ParameterValue("9".into()))].into();
    job
}

/// A cache that has the job as the watch delivers it, and an API server that has all of it.
fn lab() -> Lab {
    let lab = Lab::new();
    lab.fake.put(JOB, json!(ended()));
    let mut cached = ended();
    crate::controllers::job::prepare(&mut cached);
    cached.spec.canceled = true;
    lab.app.jobs.apply(&Arc::new(cached));
    lab
}

fn submitted(shown: &Value) -> [&Value; 4] {
    [&shown["image"], &shown["args"], &shown["parameters"], &shown["canceled"]]
}

#[tokio::test]
async fn a_job_that_has_ended_is_shown_with_what_was_submitted() {
    let lab = lab();
    let expected = [json!("i"), json!(["x"]), json!({"frames": "9"}), json!(true)];
    let (status, shown) = lab.ask("GET", ID, KEY, "").await;
    assert_eq!((status, submitted(&shown)), (200, expected.each_ref()), "{shown}");
    assert_eq!(shown["status"], "completed");
    let (status, again) = lab.ask("POST", &format!("{ID}/cancel"), KEY, "").await;
    assert_eq!((status, submitted(&again)), (202, expected.each_ref()), "{again}");

    let response = lab.open("GET", &format!("{ID}/events"), &[("authorization", KEY)], "").await;
    let events = response.into_body().collect().await.unwrap().to_bytes();
    assert!(String::from_utf8_lossy(&events).contains(r#""parameters":{"frames":"9"}"#), "{events:?}");
}

#[tokio::test]
async fn a_job_that_has_ended_is_shown_though_the_api_server_is_away() {
    let lab = lab();
    for away in [
        |lab: &Lab| lab.fake.refuse(JOB, 503),
        |lab: &Lab| {
            lab.fake.refuse(JOB, 0);
            let mut later = json!(ended());
            later["metadata"]["uid"] = json!("30000000-0000-4000-8000-000000000000");
            later["spec"]["image"] = json!("of a later job of the same name");
            lab.fake.put(JOB, later);
        },
    ] {
        away(&lab);
        let (status, shown) = lab.ask("GET", ID, KEY, "").await;
        assert_eq!((status, &shown["status"]), (200, &json!("completed")), "{shown}");
        assert_eq!(submitted(&shown), [&Value::Null; 4], "{shown}");
    }
}

#[tokio::test]
async fn a_list_without_a_history_reads_no_job_by_itself() {
    let lab = lab();
    lab.fake.calls();
    let (status, page) = lab.ask("GET", "/v1/jobs", KEY, "").await;
    assert_eq!((status, &page["jobs"][0]["status"]), (200, &json!("completed")), "{page}");
    assert_eq!(submitted(&page["jobs"][0]), [&Value::Null; 4]);
    assert!(lab.fake.calls().is_empty());
}
