//! Quotas that are used up, cut and raised while jobs wait and run: what runs is let be, what waits follows at once,
//! and every "no" has its numbers.

use std::collections::BTreeMap;

use crofter::{
    api_types::{Job, JobPhase, JobStatus, plan::EffectiveQuotas},
    names,
};
use crofter_test_cluster::{NodeSpec, wait};
use jiff::SignedDuration;
use k8s_openapi::{
    api::core::v1::{Pod, ResourceQuota},
    apimachinery::pkg::api::resource::Quantity,
};
use kube::{ResourceExt, api::DeleteParams};
use serde_json::{Value, json};

use crate::{
    common::{Verbs, WAIT_TIMEOUT, namespace, now, phase, reason, rest},
    world,
};

/// A tenant with a worker of its own.
async fn tenant(verbs: &Verbs<'_>, name: &str, cpu: &str, quotas: Value) {
    verbs.tenant(name, json!({"plan": "basic", "quotas": quotas})).await;
    verbs.worker(&format!("{name}-1"), name, cpu).await;
}

/// Changes a tenant, and waits until the operator has taken note of the quotas that come of it.
async fn change(verbs: &Verbs<'_>, tenant: &str, spec: Value, holds: impl Fn(&EffectiveQuotas) -> bool) {
    verbs.patch_tenant(tenant, json!({"spec": spec})).await.unwrap();
    let noted = |status: &crofter::api_types::tenant::TenantStatus| {
        status.effective_quotas.as_ref().is_some_and(&holds)
    };
    verbs.until_tenant(tenant, "its new quotas", |t| t.status.as_ref().is_some_and(noted)).await;
}

/// A job that runs until it is canceled.
fn asks(cpu: &str, memory: &str) -> Value {
    json!({"resources": {"cpu": cpu, "memory": memory}, "parameters": {"run-seconds": "forever"}})
}

fn rejects(mut spec: Value) -> Value {
    spec["onQuota"] = json!("Reject");
    spec
}

fn status(job: &Job) -> &JobStatus {
    job.status.as_ref().unwrap()
}

/// Where a job is, with the reason and the sentence.
fn said(job: &Job) -> (JobPhase, &str, &str) {
    (phase(job), reason(job), status(job).message.as_deref().unwrap_or_default())
}

async fn cancel(verbs: &Verbs<'_>, tenant: &str, name: &str) {
    verbs.patch_job(tenant, name, json!({"spec": {"canceled": true}})).await.unwrap();
    verbs.until_phase(tenant, name, JobPhase::Canceled).await;
}

/// Submits jobs that run, and returns them running.
async fn run(verbs: &Verbs<'_>, tenant: &str, names: &[&str], spec: Value) -> Vec<Job> {
    for name in names {
        verbs.job(tenant, name, spec.clone()).await;
    }
    let mut jobs = Vec::new();
    for name in names {
        jobs.push(verbs.until_phase(tenant, name, JobPhase::Running).await);
    }
    jobs
}

/// Checks that jobs run as they ran before, in the same pods, without a request to stop.
async fn run_on(verbs: &Verbs<'_>, tenant: &str, before: &[Job]) {
    for job in before {
        let now = verbs.jobs(tenant).get(&job.name_any()).await.unwrap();
        assert_eq!(now.status, job.status, "{}", job.name_any());
        let pod: Pod = verbs.within(&namespace(tenant)).get(status(job).pod.as_ref().unwrap()).await.unwrap();
        assert_eq!(pod.metadata.deletion_timestamp, None, "{}", job.name_any());
    }
}

#[tokio::test]
async fn a_job_that_is_not_to_wait_for_a_quota_is_rejected_with_the_numbers() {
    let verbs = world().verbs().await;
    // Given a tenant whose two jobs at once are used up.
    tenant(&verbs, "prompt", "4", json!({"maxJobs": 2})).await;
    let small = || asks("100m", "64Mi");
    run(&verbs, "prompt", &["one", "two"], small()).await;
    let rejected = async |name: &str, spec: Value| {
        verbs.later_job("prompt", name, rejects(spec)).await;
        verbs.until_phase("prompt", name, JobPhase::Rejected).await
    };
    // A job that is not to wait is rejected, and another one waits.
    let at_once = rejected("no-slot", small()).await;
    let sentence = "basic allows 2 jobs at once: 2 admitted, 0 queued before this one";
    assert_eq!(said(&at_once), (JobPhase::Rejected, "WaitingForQuota", sentence));
    assert_eq!((status(&at_once).attempt, &status(&at_once).pod), (0, &None), "it never ran");
    verbs.job("prompt", "waits", small()).await;
    let waits = verbs.until_reason("prompt", "waits", "WaitingForQuota").await;
    assert_eq!(
        said(&waits),
        (JobPhase::Queued, "WaitingForQuota", "basic allows 2 jobs at once: 2 admitted")
    );
    // The queued job counts in the next rejection.
    let behind = rejected("behind", small()).await;
    assert_eq!(said(&behind).2, "basic allows 2 jobs at once: 2 admitted, 1 queued before this one");

    // Likewise with memory; a job that fits is admitted.
    change(&verbs, "prompt", json!({"quotas": {"maxJobs": null, "maxMemoryGb": 1}}), |q| {
        q.max_memory_gb == 1
    })
    .await;
    verbs.until_phase("prompt", "waits", JobPhase::Running).await;
    let memory = rejected("no-memory", asks("100m", "900M")).await;
    let sentence = "basic allows 1 GB of memory: 0.201 in use, this job asks for 0.9";
    assert_eq!(said(&memory), (JobPhase::Rejected, "WaitingForQuota", sentence));
    verbs.job("prompt", "fits", rejects(asks("100m", "64Mi"))).await;
    verbs.until_phase("prompt", "fits", JobPhase::Running).await;
}

#[tokio::test]
async fn a_job_that_is_not_to_wait_for_a_quota_waits_for_a_worker() {
    let verbs = world().verbs().await;
    tenant(&verbs, "roomless", "1", json!({"maxQueuedJobs": 1})).await;
    run(&verbs, "roomless", &["runs"], asks("1", "64Mi")).await;
    verbs.later_job("roomless", "waits", rejects(asks("1", "64Mi"))).await;
    let waits = verbs.until_reason("roomless", "waits", "WaitingForCapacity").await;
    assert_eq!(said(&waits).2, "no worker has 1 CPU, 0.067 GB free: 1 of 1 are open");
    verbs.later_job("roomless", "outside", asks("1", "64Mi")).await;
    let outside = verbs.until_reason("roomless", "outside", "QueueFull").await;
    assert_eq!(said(&outside), (JobPhase::Queued, "QueueFull", "basic allows 1 queued jobs: 2 wait"));
    verbs.later_job("roomless", "refused", rejects(asks("1", "64Mi"))).await;
    let refused = verbs.until_phase("roomless", "refused", JobPhase::Rejected).await;
    assert_eq!(said(&refused), (JobPhase::Rejected, "QueueFull", "basic allows 1 queued jobs: 2 wait"));

    cancel(&verbs, "roomless", "runs").await;
    verbs.until_phase("roomless", "waits", JobPhase::Running).await;
    verbs.until_reason("roomless", "outside", "WaitingForCapacity").await;
}

/// From pro down to free and up to basic, with more at work than free allows. The worker is a pool's: the tenant's own
/// workers count against the quota of cores themselves.
#[tokio::test]
async fn a_plan_that_is_cut_and_raised_evicts_nothing_and_holds_from_then_on() {
    let verbs = world().verbs().await;
    let node = NodeSpec::new("seesaw-1").label(names::NODE_POOL, "seesaw").capacity("32", "64Gi");
    world().cluster.add_node(&node).await.unwrap();
    verbs.until_admitted("seesaw-1", Some("pool.seesaw")).await;
    verbs.tenant("seesaw", json!({"plan": "pro", "sharedPools": ["seesaw"]})).await;
    let before = run(&verbs, "seesaw", &["a", "b", "c", "d", "e", "f"], asks("2", "64Mi")).await;

    change(&verbs, "seesaw", json!({"plan": "free"}), |q| q.max_jobs == 5).await;
    verbs.job("seesaw", "seventh", asks("1", "64Mi")).await;
    let waits = verbs.until_reason("seesaw", "seventh", "WaitingForQuota").await;
    assert_eq!(said(&waits).2, "free allows 5 jobs at once: 6 admitted");
    run_on(&verbs, "seesaw", &before).await;
    // Fewer jobs than free allows, but still more cores.
    cancel(&verbs, "seesaw", "a").await;
    cancel(&verbs, "seesaw", "b").await;
    verbs.later_job("seesaw", "eighth", asks("1", "64Mi")).await;
    let waits = verbs.until_reason("seesaw", "eighth", "WaitingForQuota").await;
    assert_eq!(said(&waits).2, "free allows 4 CPU cores: 8 in use, this job asks for 1");
    verbs.job("seesaw", "not-now", rejects(asks("1", "64Mi"))).await;
    verbs.until_phase("seesaw", "not-now", JobPhase::Rejected).await;
    run_on(&verbs, "seesaw", &before[2..]).await;
    assert_eq!(phase(&verbs.jobs("seesaw").get("seventh").await.unwrap()), JobPhase::Queued);

    change(&verbs, "seesaw", json!({"plan": "basic"}), |q| q.max_jobs == 20).await;
    for name in ["seventh", "eighth"] {
        verbs.until_phase("seesaw", name, JobPhase::Running).await;
    }
    run_on(&verbs, "seesaw", &before[2..]).await;
    // 10 of 16 cores are in use.
    verbs.job("seesaw", "ninth", asks("8", "64Mi")).await;
    let waits = verbs.until_reason("seesaw", "ninth", "WaitingForQuota").await;
    assert_eq!(said(&waits).2, "basic allows 16 CPU cores: 10 in use, this job asks for 8");
}

#[tokio::test]
async fn each_quota_that_is_cut_lets_run_what_runs() {
    let verbs = world().verbs().await;
    tenant(&verbs, "shrunk", "8", json!({})).await;
    let mut spec = asks("100m", "1G");
    spec["resources"]["bandwidthMbps"] = json!(100);
    let before = run(&verbs, "shrunk", &["one", "two", "three"], spec.clone()).await;
    let cut = json!({"maxJobs": 1, "maxMemoryGb": 2, "maxBandwidthMbps": 200, "maxQueuedJobs": 1});
    change(&verbs, "shrunk", json!({"quotas": cut}), |q| q.max_jobs == 1).await;
    // A job that is judged shows that the operator has had time to do something silly.
    verbs.job("shrunk", "more", spec.clone()).await;
    let waits = verbs.until_reason("shrunk", "more", "WaitingForQuota").await;
    assert_eq!(said(&waits).2, "basic allows 1 jobs at once: 3 admitted");
    run_on(&verbs, "shrunk", &before).await;
    cancel(&verbs, "shrunk", "more").await;

    let numbers = [
        (
            json!({"maxJobs": 4, "maxMemoryGb": 2}),
            "basic allows 2 GB of memory: 3 in use, this job asks for 1",
        ),
        (json!({"maxMemoryGb": 4}), "basic allows 200 Mbit/s: 300 in use, this job asks for 100"),
    ];
    for (n, (raise, sentence)) in numbers.into_iter().enumerate() {
        let memory = raise["maxMemoryGb"].as_i64().unwrap();
        change(&verbs, "shrunk", json!({"quotas": raise}), |q| q.max_jobs == 4 && q.max_memory_gb == memory)
            .await;
        let name = format!("more-{n}");
        verbs.job("shrunk", &name, spec.clone()).await;
        let waits = verbs.until_reason("shrunk", &name, "WaitingForQuota").await;
        assert_eq!(said(&waits).2, sentence);
        cancel(&verbs, "shrunk", &name).await;
    }
    change(&verbs, "shrunk", json!({"quotas": {"jobTimeoutMinutes": 0}}), |q| q.job_timeout_minutes == 0)
        .await;
    verbs.job("shrunk", "none", spec.clone()).await;
    let refused = verbs.until_phase("shrunk", "none", JobPhase::Rejected).await;
    assert_eq!(reason(&refused), "ExceedsQuota", "no job may run");
    run_on(&verbs, "shrunk", &before).await;
    change(&verbs, "shrunk", json!({"quotas": {"maxBandwidthMbps": 400, "jobTimeoutMinutes": 5}}), |q| {
        q.max_bandwidth_mbps == 400
    })
    .await;
    run(&verbs, "shrunk", &["four"], spec).await;
    run_on(&verbs, "shrunk", &before).await;
}

/// What waits is judged by the quotas of the moment; and so is what ran and is to be tried again.
#[tokio::test]
async fn a_job_that_a_cut_has_made_impossible_is_rejected_when_it_waits() {
    let verbs = world().verbs().await;
    tenant(&verbs, "outgrown", "4", json!({"maxMemoryGb": 4})).await;
    let before = run(&verbs, "outgrown", &["runs", "lost"], asks("1", "2G")).await;
    verbs.job("outgrown", "waits", asks("1", "2G")).await;
    verbs.until_reason("outgrown", "waits", "WaitingForQuota").await;
    change(&verbs, "outgrown", json!({"quotas": {"maxMemoryGb": 1}}), |q| q.max_memory_gb == 1).await;
    let sentence = "basic allows 1 GB of memory: this job asks for 2";
    let refused = verbs.until_phase("outgrown", "waits", JobPhase::Rejected).await;
    assert_eq!(said(&refused), (JobPhase::Rejected, "ExceedsQuota", sentence));
    run_on(&verbs, "outgrown", &before).await;

    let pods = verbs.within::<Pod>(&namespace("outgrown"));
    pods.delete(status(&before[1]).pod.as_ref().unwrap(), &kube::api::DeleteParams::default()).await.unwrap();
    let refused = verbs.until_phase("outgrown", "lost", JobPhase::Rejected).await;
    assert_eq!(said(&refused), (JobPhase::Rejected, "ExceedsQuota", sentence));
    assert_eq!(status(&refused).attempts.len(), 1, "what it ran is on record");
    run_on(&verbs, "outgrown", &before[..1]).await;
}

#[tokio::test]
async fn a_queue_that_is_made_longer_and_shorter_takes_and_leaves_by_age() {
    let verbs = world().verbs().await;
    verbs.tenant("elbows", json!({"plan": "basic", "quotas": {"maxQueuedJobs": 1}})).await;
    let lengthen = async |most: i64| {
        let quotas = json!({"quotas": {"maxQueuedJobs": most}});
        change(&verbs, "elbows", quotas, |q| q.max_queued_jobs == most).await;
    };
    verbs.job("elbows", "inside", json!({})).await;
    verbs.until_reason("elbows", "inside", "NoWorkers").await;
    verbs.later_job("elbows", "outside", json!({})).await;
    let outside = verbs.until_reason("elbows", "outside", "QueueFull").await;
    assert_eq!(said(&outside).2, "basic allows 1 queued jobs: 2 wait");
    lengthen(2).await;
    verbs.until_reason("elbows", "outside", "NoWorkers").await;
    lengthen(0).await;
    for name in ["inside", "outside"] {
        verbs.until_reason("elbows", name, "QueueFull").await;
    }
    let said = said(&verbs.jobs("elbows").get("inside").await.unwrap()).2.to_owned();
    assert!(said.starts_with("basic allows 0 queued jobs"), "{said}");
    lengthen(-1).await;
    for name in ["inside", "outside"] {
        verbs.until_reason("elbows", name, "NoWorkers").await;
    }
}

/// Kubernetes counts Jobs some time after their kind was made. From then on their number is bounded, and at no time is
/// a job refused because of the bound that is not yet counted.
#[tokio::test]
async fn the_number_of_jobs_is_bounded_once_kubernetes_counts_them() {
    const JOBS: &str = "count/jobs.crofter.io";
    let verbs = world().verbs().await;
    verbs.tenant("counted", json!({"plan": "free"})).await;
    verbs.job("counted", "before", json!({})).await;
    // What the chart makes. One that is older than the quota controller's knowledge of Jobs is made again here: the
    // quota controller would return to it in 5 min only.
    let probes = verbs.within::<ResourceQuota>(names::DEFAULT_NAMESPACE);
    let probe = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": names::COUNTS}, "spec": {"hard": {JOBS: "0"}}});
    wait::until(2 * WAIT_TIMEOUT, "Jobs to be counted", || async {
        let Some(quota) = probes.get_opt(names::COUNTS).await.unwrap() else {
            drop(verbs.create(&probes, &probe).await);
            return Err("just made");
        };
        let age = quota.creation_timestamp().map(|created| now().duration_since(created.0));
        let used = quota.status.and_then(|status| status.used);
        if used.is_some_and(|used| used.contains_key(JOBS)) {
            return Ok(());
        }
        if age.is_some_and(|age| age >= SignedDuration::from_secs(15)) {
            drop(probes.delete(names::COUNTS, &DeleteParams::default()).await);
        }
        Err("not counted")
    })
    .await
    .unwrap();
    let quotas = verbs.within::<ResourceQuota>(&namespace("counted"));
    let used = wait::until(WAIT_TIMEOUT, "the tenant's Jobs to be counted", || async {
        let quota = quotas.get_opt("crofter-objects").await.unwrap().ok_or("no quota")?;
        let status = quota.status.ok_or("no status")?;
        let of = |all: Option<BTreeMap<String, Quantity>>| Some(all?.remove(JOBS)?.0);
        of(status.hard).zip(of(status.used)).ok_or("not counted")
    })
    .await
    .unwrap();
    assert_eq!(used, ("1055".to_owned(), "1".to_owned()));
    verbs.job("counted", "after", json!({})).await;

    // A foreign bound of two is refused by the same admission plugin that would refuse beyond 1055.
    let two = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "two"}, "spec": {"hard": {JOBS: "2"}}});
    verbs.create(&quotas, &two).await.unwrap();
    wait::until(WAIT_TIMEOUT, "the bound to be counted", || async {
        let used = quotas.get("two").await.unwrap().status.and_then(|status| status.used);
        used.filter(|used| used.contains_key(JOBS)).map(drop).ok_or("not counted")
    })
    .await
    .unwrap();
    // The admission plugin has the status from a watch of its own, which may be late.
    let jobs = verbs.jobs("counted");
    let said = wait::until(WAIT_TIMEOUT, "a job beyond the bound to be refused", || async {
        match verbs.new_job(&namespace("counted"), "beyond", json!({})).await {
            Ok(_) => {
                jobs.delete("beyond", &DeleteParams::default()).await.unwrap();
                Err("accepted")
            }
            Err(error) => Ok(error.to_string()),
        }
    })
    .await
    .unwrap();
    assert!(said.contains("exceeded quota") && said.contains(JOBS), "{said}");

    // API keys are counted with the Jobs: as many as the tenant's quota says.
    verbs.patch_tenant("counted", json!({"spec": {"quotas": {"maxApiKeys": 1}}})).await.unwrap();
    let maker = rest::key(&verbs, "counted", "maker", json!({"scopes": ["keys:write"]})).await;
    let maker = format!("Bearer {maker}");
    let ask = async |method: &str, path: &str, body: Option<&Value>| {
        world().rest(method, path, &[("authorization", &maker)], body).await.unwrap()
    };
    let refused = wait::until(WAIT_TIMEOUT, "a key beyond the quota to be refused", || async {
        let made = ask("POST", "/v1/keys", Some(&json!({"scopes": []}))).await;
        if !made.is_made() {
            return Ok(made);
        }
        assert_eq!(ask("DELETE", &format!("/v1/keys/{}", rest::id(&made)), None).await.status, 204);
        Err("accepted")
    })
    .await
    .unwrap();
    assert_eq!((refused.status, rest::code(&refused).as_str()), (429, "quota_exceeded"), "{refused:?}");
    assert!(refused.body["detail"].as_str().unwrap().contains("too many keys"), "{refused:?}");
}

/// A job that always fails would run on without an end of the hour.
#[tokio::test]
async fn a_retry_is_charged_to_the_hour_and_waits_where_it_is_used_up() {
    let verbs = world().verbs().await;
    tenant(&verbs, "insistent", "4", json!({"maxJobsPerHour": 2})).await;
    let fails = json!({"retryPolicy": "Always", "maxRetries": 100, "onQuota": "Reject", "parameters": {"exit-code": "3"}});
    verbs.job("insistent", "fails", fails).await;
    let retries = |retries: i32| {
        move |job: &Job| {
            reason(job) == "RateLimited" && status(job).retries == retries && phase(job) == JobPhase::Queued
        }
    };
    let waiting = verbs.until_job("insistent", "fails", "its first and second run", retries(2)).await;
    assert_eq!(status(&waiting).message.as_deref(), Some("hourly job limit reached (2/2)"));
    let used = |tenant: &crofter::api_types::Tenant| {
        tenant.status.as_ref().and_then(|status| status.usage.as_ref()).map(|usage| usage.jobs_this_hour)
    };
    verbs.until_tenant("insistent", "two of the hour", |tenant| used(tenant) == Some(2)).await;

    change(&verbs, "insistent", json!({"quotas": {"maxJobsPerHour": 3}}), |q| q.max_jobs_per_hour == 3).await;
    verbs.until_job("insistent", "fails", "its third run", retries(3)).await;
    verbs.until_tenant("insistent", "three of the hour", |tenant| used(tenant) == Some(3)).await;
}
