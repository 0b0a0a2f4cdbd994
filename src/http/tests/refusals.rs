//! Submits that are refused, and what they cost the API server.

use super::*;
use crate::{
    api_types::Quotas,
    domain::{
        admission::{Dispatcher, JobInput, JobState, TenantInput},
        resources::Resources,
    },
};

/// A tenant of one job at a time, which has one that runs.
fn busy() -> SchedulerHandle {
    busy_with(1, Resources::default())
}

/// A tenant of `max_jobs` jobs at a time, of which one runs that asks for `asked`.
fn busy_with(max_jobs: i64, asked: Resources) -> SchedulerHandle {
    let mut dispatcher = Dispatcher::default();
    let mut quotas = Plans::built_in().unwrap().get("free").unwrap().effective(&Quotas::default());
    quotas.max_jobs = max_jobs;
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
        asked: Ok(asked),
        state: JobState::Active { group: None, bound: true },
        ..JobInput::default()
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

#[tokio::test]
async fn a_submit_that_a_quota_of_cores_refuses_has_the_numbers_of_that_quota() {
    let asked = Resources { cpu_milli: 4000, ..Resources::default() };
    let lab = Lab::with(Some(busy_with(5, asked)));
    let (status, problem, _) = submit(&lab, None, r#"{"image": "i"}"#).await;
    assert_eq!((status, &problem["code"]), (429, &json!("quota_exceeded")), "{problem}");
    assert_eq!(problem["detail"], "free allows 4 CPU cores: 4 in use, this job asks for 1");
    assert_eq!((&problem["message"], &problem["reason"]), (&problem["detail"], &json!("WaitingForQuota")));
}

#[tokio::test]
async fn why_has_the_path_of_its_reason_and_a_tenant_that_runs_no_jobs() {
    let lab = Lab::new();
    let message = "the tenant's plan `gold` does not exist";
    lab.job(1, json!({"phase": "Queued", "reason": "UnknownPlan", "message": message}));
    let (status, why) = lab.ask("GET", &format!("/v1/jobs/{JOB_UID}/why"), KEY, "").await;
    assert_eq!((status, &why["docs"]), (200, &json!("/reasons/UnknownPlan")), "{why}");
    assert_eq!(why["checks"][0], json!({"name": "tenant_active", "ok": false, "detail": message}));
    let page = lab.open("GET", "/reasons/UnknownPlan", &[], "").await;
    assert_eq!(
        (page.status().as_u16(), &page.headers()["content-type"]),
        (200, &"text/markdown; charset=utf-8".parse().unwrap())
    );
    let page = page.into_body().collect().await.unwrap().to_bytes();
    assert!(page.starts_with(b"## UnknownPlan\n"), "{page:?}");
    assert_eq!(lab.ask("GET", "/reasons/unknownplan", KEY, "").await.1["code"], "not_found");
    // A reason of another version is shown as it is, without a path.
    lab.job(1, json!({"phase": "Queued", "reason": "OfANewerVersion"}));
    let (_, why) = lab.ask("GET", &format!("/v1/jobs/{JOB_UID}/why"), KEY, "").await;
    assert_eq!((&why["reason"], why.get("docs")), (&json!("OfANewerVersion"), None), "{why}");
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
    // For each route: a webhook, a namespace that is being deleted or absent, and missing rights of the operator.
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
