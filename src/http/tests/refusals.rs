//! Submits that are refused, and what they cost the API server.

use jiff::Timestamp;

use super::*;
use crate::{
    api_types::{
        Quotas,
        job::{OnQuota, Priority, Queue},
    },
    domain::{
        admission::{Dispatcher, JobInput, JobState, TenantInput},
        resources::Resources,
    },
};

/// A tenant of one job at a time, which has one that runs.
fn busy() -> SchedulerHandle {
    let mut dispatcher = Dispatcher::default();
    let mut quotas = Plans::built_in().unwrap().get("free").unwrap().effective(&Quotas::default());
    quotas.max_jobs = 1;
    let view = TenantInput {
        name: "acme".into(),
        plan: "free".into(),
        closed: None,
        quotas,
        weight: 1,
        groups: vec!["acme".into()],
        elastic: false,
    };
    dispatcher.set_tenant("tenant-acme", Some(view));
    dispatcher.set_job(JobInput {
        uid: "runs".into(),
        namespace: "tenant-acme".into(),
        created: Timestamp::UNIX_EPOCH,
        queue: Queue::Default,
        priority: Priority::Medium,
        asked: Ok(Resources::default()),
        group: None,
        on_quota: OnQuota::Queue,
        state: JobState::Active { group: None, bound: true },
        reported: None,
    });
    dispatcher.decide();
    SchedulerHandle::ready(dispatcher)
}

async fn submit(lab: &Lab, key: Option<&str>, body: &str) -> (u16, Value, bool) {
    let key = key.map(|key| ("idempotency-key", key));
    let headers: Vec<_> = [("authorization", KEY)].into_iter().chain(key).collect();
    let response = lab.open("POST", "/v1/jobs", &headers, body).await;
    let (status, replayed) =
        (response.status().as_u16(), response.headers().contains_key("idempotency-replayed"));
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&bytes).unwrap(), replayed)
}

/// A lab of this tenant's.
fn of_one_job(scheduler: SchedulerHandle) -> Lab {
    let mut lab = Lab::with(Some(scheduler));
    mock::put(&mut lab.tenants, tenant(json!({"plan": "free", "quotas": {"maxJobs": 1}})));
    lab
}

fn outline(lab: &Lab) -> Vec<String> {
    mock::outline(&lab.fake.calls())
}

const JOBS: &str = "/apis/crofter.io/v1alpha1/namespaces/tenant-acme/jobs";

#[tokio::test]
async fn a_refused_submit_costs_the_api_server_no_call() {
    let lab = of_one_job(busy());
    let (status, problem, _) = submit(&lab, None, r#"{"image": "i"}"#).await;
    assert_eq!((status, &problem["code"]), (429, &json!("quota_exceeded")), "{problem}");
    assert_eq!(problem["detail"], "max concurrent jobs limit reached (1/1)");
    assert_eq!(problem["reason"], "WaitingForQuota");
    assert!(problem["message"].as_str().unwrap().contains("1 admitted"), "{problem}");
    for (body, status, code) in [
        (r#"{"image": "i", "resources": {"cpu": "99"}}"#, 422, "job_rejected"),
        (r#"{"image": "i", "resources": {"cpu": "99"}, "on_quota": "queue"}"#, 422, "job_rejected"),
        (r#"{"scenario": "no-such"}"#, 422, "job_rejected"),
        (r#"{"queue": "live"}"#, 422, "invalid_object"),
    ] {
        let answer = submit(&lab, None, body).await;
        assert_eq!((answer.0, &answer.1["code"]), (status, &json!(code)), "{body}: {}", answer.1);
    }
    assert_eq!(outline(&lab), Vec::<String>::new());
}

#[tokio::test(start_paused = true)]
async fn a_job_that_may_wait_for_its_quota_is_created() {
    let lab = Lab::with(Some(busy()));
    let (status, ..) = submit(&lab, None, r#"{"image": "i", "on_quota": "queue"}"#).await;
    assert_eq!(status, 202, "no scheduler runs here");
    assert_eq!(outline(&lab), [format!("POST {JOBS}")]);
    // Where nothing is known of the tenant yet, the verdict on the Job itself is waited for.
    let lab = Lab::with(Some(SchedulerHandle::ready(Dispatcher::default())));
    assert_eq!(submit(&lab, None, r#"{"image": "i"}"#).await.0, 202);
    assert_eq!(outline(&lab), [format!("POST {JOBS}")]);
}

#[tokio::test(start_paused = true)]
async fn an_idempotency_key_finds_its_job_where_another_job_would_be_refused() {
    let before = Lab::new();
    let (status, made, _) = submit(&before, Some("order 66"), r#"{"image": "i"}"#).await;
    assert_eq!(status, 202, "{made}");
    let path = format!("{JOBS}/{}", made["name"].as_str().unwrap());
    let lab = Lab::with(Some(busy()));
    lab.fake.put(&path, before.fake.get(&path));
    let (status, again, replayed) = submit(&lab, Some("order 66"), r#"{"image": "i"}"#).await;
    assert_eq!((status, &again["id"], replayed), (202, &made["id"], true), "{again}");
    let (status, other, _) = submit(&lab, Some("order 66"), r#"{"image": "j"}"#).await;
    assert_eq!((status, &other["code"]), (422, &json!("idempotency_key_reused")));
    assert_eq!(
        outline(&lab),
        [format!("GET {path}"), format!("GET {path}")],
        "it is read, and nothing written"
    );
    let (status, refused, _) = submit(&lab, Some("order 67"), r#"{"image": "i"}"#).await;
    assert_eq!((status, &refused["code"]), (429, &json!("quota_exceeded")));
    assert!(outline(&lab).iter().all(|call| call.starts_with("GET ")));
}

#[tokio::test]
async fn a_webhook_of_another_vendor_is_not_an_inactive_tenant() {
    const KEYS: &str = "/apis/crofter.io/v1alpha1/namespaces/tenant-acme/tenantapikeys";
    let words = "admission webhook \"rules.example.org\" denied the request: no work on Sunday";
    let terminating = "jobs.crofter.io \"job-1\" is forbidden: unable to create new content in namespace tenant-acme because \
        it is being terminated";
    for (route, path, body) in [
        ("/v1/jobs", JOBS, r#"{"image": "i"}"#),
        ("/v1/keys?tenant=acme", KEYS, r#"{"scopes": ["jobs:read"]}"#),
    ] {
        let who = if path == JOBS { KEY } else { ADMIN };
        let lab = Lab::new();
        lab.fake.refuse_with(path, 403, words);
        let (status, problem) = lab.ask("POST", route, who, body).await;
        assert_eq!(
            (status, &problem["code"], &problem["detail"]),
            (422, &json!("invalid_object"), &json!(words))
        );
        lab.fake.refuse_with(path, 403, terminating);
        let (status, problem) = lab.ask("POST", route, who, body).await;
        assert_eq!((status, &problem["code"]), (403, &json!("tenant_inactive")), "{problem}");
        lab.fake.refuse_with(path, 404, "namespaces \"tenant-acme\" not found");
        assert_eq!(lab.ask("POST", route, who, body).await.1["code"], "tenant_inactive");
        lab.fake.refuse_with(
            path,
            403,
            "jobs.crofter.io is forbidden: User \"x\" cannot create resource \"jobs\"",
        );
        let (status, problem) = lab.ask("POST", route, who, body).await;
        assert_eq!((status, &problem["code"]), (500, &json!("internal")), "{problem}");
    }
}

#[tokio::test]
async fn a_submit_beyond_the_number_of_kept_jobs_is_429() {
    let lab = Lab::new();
    let words = "jobs.crofter.io \"job-1\" is forbidden: exceeded quota: crofter-objects, requested: count/jobs.crofter.io=1";
    lab.fake.refuse_with(JOBS, 403, words);
    let (status, problem, _) = submit(&lab, None, r#"{"image": "i", "on_quota": "queue"}"#).await;
    assert_eq!((status, &problem["code"]), (429, &json!("quota_exceeded")), "{problem}");
    assert_eq!(problem["detail"], "the tenant has too many Jobs: delete some that have ended");
    assert_eq!(outline(&lab), [format!("POST {JOBS}")]);
}
