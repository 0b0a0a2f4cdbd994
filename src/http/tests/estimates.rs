//! When a waiting job starts, as `/why` says.

use super::*;
use crate::{
    api_types::Quotas,
    domain::{
        admission::{Dispatcher, JobInput, JobState, TenantInput, WorkerInput},
        resources::Resources,
    },
    scheduler::tests::following,
};

/// A core, on which a job of the tenant runs while another one waits.
fn busy() -> SchedulerHandle {
    busy_in("acme")
}

/// The same in one of the groups `acme`, the tenant's own, and `gpu`, a shared pool.
fn busy_in(group: &str) -> SchedulerHandle {
    let mut dispatcher = Dispatcher::default();
    let core = Resources { cpu_milli: 1000, ..Resources::default() };
    let worker = WorkerInput { group: group.into(), capacity: core, open: true };
    dispatcher.set_worker("n1", Some(worker));
    let quotas = Plans::built_in().unwrap().get("free").unwrap().effective(&Quotas::default());
    let groups = vec!["acme".into(), "gpu".into()];
    let (name, weight) = ("acme".into(), 2);
    let input = TenantInput { name, closed: None, quotas, weight, groups, ..TenantInput::default() };
    dispatcher.set_tenant("tenant-acme", Some(input));
    dispatcher.set_pod(&"runs".into(), Some(("n1", core)));
    let active = JobState::Active { group: Some(group.into()), bound: true };
    for (uid, state) in [("runs", active), (JOB_UID, JobState::Waiting(1))] {
        let (uid, namespace, asked) = (uid.into(), "tenant-acme".into(), Ok(core));
        dispatcher.set_job(JobInput { uid, namespace, asked, state, ..JobInput::default() });
    }
    dispatcher.decide();
    SchedulerHandle::ready(dispatcher)
}

async fn estimate(lab: &Lab) -> Option<Value> {
    let (status, why) = lab.ask("GET", &format!("/v1/jobs/{JOB_UID}/why"), KEY, "").await;
    assert_eq!(status, 200, "{why}");
    why.get("estimate").cloned()
}

#[tokio::test]
async fn a_waiting_job_has_an_estimate_and_no_other() {
    let lab = Lab::with(Some(busy()));
    lab.job(1, json!({"phase": "Queued"}));
    // Nothing is known of the job that runs but the half hour of its plan.
    let half_an_hour = json!({"starts_in_seconds_p50": 1800, "starts_in_seconds_p90": 1800});
    assert_eq!(estimate(&lab).await, Some(half_an_hour));
    lab.job(2, json!({"phase": "Running"}));
    assert_eq!(estimate(&lab).await, None);
}

#[tokio::test]
async fn what_the_scheduler_does_not_have_is_unknown_and_so_is_all_where_none_runs() {
    let unknown = async |lab: Lab| {
        lab.job(1, json!({"phase": "Queued"}));
        let estimate = estimate(&lab).await.unwrap();
        assert_eq!(estimate.as_object().unwrap().len(), 1, "{estimate}");
        estimate["unknown"].as_str().unwrap().to_owned()
    };
    let mut api = Lab::with(Some(busy()));
    Arc::get_mut(&mut api.app.0).unwrap().schedules = false;
    let api = unknown(api).await;
    assert!(api.contains("the REST API alone"), "{api}");
    let before = unknown(Lab::with(Some(SchedulerHandle::default()))).await;
    assert!(before.contains("has not seen the job yet"), "{before}");
}

#[tokio::test]
async fn a_waiting_job_has_its_score_and_its_tenants_share_of_shared_pools() {
    let why = async |lab: &Lab| lab.ask("GET", &format!("/v1/jobs/{JOB_UID}/why"), KEY, "").await.1;
    let lab = Lab::with(Some(busy_in("gpu")));
    lab.job(1, json!({"phase": "Queued"}));
    let waits = why(&lab).await;
    let score = &waits["score"];
    assert_eq!((&score["queue_points"], &score["priority_points"]), (&json!(50), &json!(2)), "{waits}");
    let total = 52.0 + score["waiting_points"].as_f64().unwrap();
    assert!((score["total"].as_f64().unwrap() - total).abs() < 0.001, "{waits}");
    assert_eq!(
        waits["shares"],
        json!([{
            "pool": "gpu", "weight": 2, "guaranteed": 1.0, "held": 1.0, "with_job": 2.0, "recent": 0.0,
            "within_guarantee": false,
        }])
    );
    lab.job(2, json!({"phase": "Running"}));
    let runs = why(&lab).await;
    assert_eq!((runs.get("score"), &runs["shares"]), (None, &json!([])), "{runs}");
    // Its own workers it shares with no other tenant.
    let lab = Lab::with(Some(busy()));
    lab.job(1, json!({"phase": "Queued"}));
    let waits = why(&lab).await;
    assert_eq!((waits["score"].is_object(), &waits["shares"]), (true, &json!([])), "{waits}");
}

#[tokio::test]
async fn a_replica_that_does_not_lead_has_all_but_what_was_used_before() {
    let mut lab = Lab::with(Some(following(JOB_UID)));
    let parts = Arc::get_mut(&mut lab.app.0).unwrap();
    parts.leadership = Leadership::new(Clock::system());
    parts.clock = Clock::of(|| "1970-01-01T00:02:00Z".parse().unwrap());
    lab.job(1, json!({"phase": "Queued"}));
    let path = format!("/v1/jobs/{JOB_UID}/why");
    let why = lab.ask("GET", &path, KEY, "").await.1;
    assert_eq!(why["source"], json!("status"));
    // The job before it runs as long as those before that, 10 to 17 minutes.
    let seconds = why["estimate"]["starts_in_seconds_p50"].as_u64().unwrap();
    assert!((480..=900).contains(&seconds), "{why}");
    let share = &why["shares"][0];
    assert_eq!(
        (&share["pool"], &share["held"], &share["recent"]),
        (&json!("gpu"), &json!(0.5714), &Value::Null),
        "{why}"
    );
    // How long the leader holds it back after its pod was refused is nowhere but there.
    lab.job(
        2,
        json!({"phase": "Queued", "reason": "PodRefused", "message": "the API server refuses the pod"}),
    );
    let why = lab.ask("GET", &path, KEY, "").await.1;
    let unknown = why["estimate"]["unknown"].as_str().unwrap();
    assert!(unknown.contains("refuses") && unknown.contains("only the leading replica"), "{why}");
}

#[tokio::test]
async fn a_paused_job_says_what_it_waits_for() {
    let lab = Lab::with(Some(busy()));
    let mut paused = job(1, json!({"phase": "Queued"}));
    paused.metadata.annotations = Some([("crofter.io/paused".to_owned(), "true".to_owned())].into());
    lab.app.jobs.apply(&Arc::new(paused));
    let unknown = estimate(&lab).await.unwrap()["unknown"].clone();
    assert!(unknown.as_str().unwrap().contains("crofter.io/paused"), "{unknown}");
}
