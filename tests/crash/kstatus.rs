//! What kstatus (kubectl, Argo CD, Flux, `helm --wait`) makes of every version that a Tenant and a Job ever had.

use crofter::{
    api_types::{Job, JobPhase, Tenant, conditions},
    domain::job_state::is_terminal,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta};
use kube::{ResourceExt, runtime::watcher};
use serde_json::json;

use crate::{
    common::{condition, condition_reason, phase},
    fault_free,
    history::{History, Seen},
};

/// The rules of <https://github.com/kubernetes-sigs/cli-utils/tree/master/pkg/kstatus>.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kstatus {
    InProgress,
    Current,
    Failed,
    Terminating,
}

fn kstatus(metadata: &ObjectMeta, observed: Option<i64>, all: &[Condition]) -> Kstatus {
    let is = |kind: &str, word: &str| all.iter().any(|c| c.type_ == kind && c.status == word);
    let ready = all.iter().find(|c| c.type_ == conditions::READY);
    if metadata.deletion_timestamp.is_some() {
        Kstatus::Terminating
    } else if observed != metadata.generation || is(conditions::RECONCILING, "True") {
        Kstatus::InProgress
    } else if is(conditions::STALLED, "True") {
        Kstatus::Failed
    } else if ready.is_some_and(|c| c.status != "True") {
        Kstatus::InProgress
    } else {
        Kstatus::Current
    }
}

/// Reconciling and Stalled exist only while True, and every condition has the generation of the status.
fn check_form(observed: i64, all: &[Condition]) {
    for c in all {
        assert_eq!(c.observed_generation, Some(observed), "{all:?}");
        let abnormal = [conditions::RECONCILING, conditions::STALLED].contains(&c.type_.as_str());
        assert!(!abnormal || c.status == "True", "{all:?}");
    }
    let abnormal = |kind: &str| all.iter().any(|c| c.type_ == kind);
    assert!(!(abnormal(conditions::RECONCILING) && abnormal(conditions::STALLED)), "{all:?}");
}

fn of_tenant(tenant: &Tenant) -> Kstatus {
    let Some(status) = &tenant.status else { return kstatus(&tenant.metadata, None, &[]) };
    check_form(status.observed_generation, &status.conditions);
    let said = kstatus(&tenant.metadata, Some(status.observed_generation), &status.conditions);
    if said == Kstatus::Current {
        // It is then what the spec of this very version asks for.
        let cores = status.effective_quotas.as_ref().map(|quotas| quotas.max_cpu_cores);
        assert_eq!(cores, Some(if tenant.spec.plan == "pro" { 64 } else { 16 }));
        let active = if tenant.spec.suspended { "False" } else { "True" };
        assert_eq!(condition(tenant, conditions::ACTIVE).as_deref(), Some(active));
        assert_eq!(condition(tenant, conditions::READY).as_deref(), Some("True"));
    }
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_version_of_a_tenant_reads_right() {
    let verbs = fault_free().verbs().await;
    // Given a tenant whose versions are all recorded.
    let only = watcher::Config::default().fields("metadata.name=watched");
    let history = History::<Tenant>::start(verbs.all(), only).await;
    let current = |tenant: &Tenant| of_tenant(tenant) == Kstatus::Current;
    verbs.new_tenant("watched", json!({"plan": "basic"})).await.unwrap();
    verbs.until_tenant("watched", "made", current).await;
    // When it is changed, made invalid, repaired and deleted.
    for spec in [
        json!({"plan": "pro"}),
        json!({"suspended": true}),
        json!({"suspended": false, "plan": "basic"}),
        json!({"access": [{"kind": "User", "name": "eve", "role": "viewer"}]}),
    ] {
        verbs.patch_tenant("watched", json!({"spec": spec})).await.unwrap();
        verbs.until_tenant("watched", "changed", current).await;
    }
    verbs.patch_tenant("watched", json!({"spec": {"plan": "gold"}})).await.unwrap();
    let failed = |tenant: &Tenant| of_tenant(tenant) == Kstatus::Failed;
    let stalled = verbs.until_tenant("watched", "Stalled", failed).await;
    assert_eq!(condition_reason(&stalled, conditions::READY).as_deref(), Some("UnknownPlan"));
    verbs.patch_tenant("watched", json!({"spec": {"plan": "pro"}})).await.unwrap();
    verbs.until_tenant("watched", "well again", current).await;
    verbs.delete_tenant("watched").await;

    // Then each generation is first in progress and then current or failed, and nothing in between.
    let mut said: Vec<(i64, Kstatus)> = Vec::new();
    for seen in history.whole() {
        let Seen::Version(tenant) = seen else { continue };
        said.push((tenant.metadata.generation.unwrap(), of_tenant(&tenant)));
    }
    let generations: Vec<i64> = said.iter().map(|(generation, _)| *generation).collect();
    for (generation, end) in (1..=7).map(|g| (g, if g == 6 { Kstatus::Failed } else { Kstatus::Current })) {
        let of_it: Vec<_> = said.iter().filter(|(g, _)| *g == generation).map(|(_, s)| *s).collect();
        assert_eq!(of_it.first(), Some(&Kstatus::InProgress), "{generation}: {said:?}");
        assert_eq!(of_it.last(), Some(&end), "{generation}: {said:?}");
        let others = of_it.iter().any(|s| *s != Kstatus::InProgress && *s != end);
        assert!(!others, "{generation}: {said:?}");
    }
    assert!(generations.is_sorted() && said.last().unwrap().1 == Kstatus::Terminating, "{said:?}");
}

fn of_job(job: &Job) -> Kstatus {
    let Some(status) = &job.status else { return kstatus(&job.metadata, None, &[]) };
    check_form(status.observed_generation, &status.conditions);
    kstatus(&job.metadata, Some(status.observed_generation), &status.conditions)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_version_of_a_job_reads_right() {
    let verbs = fault_free().verbs().await;
    let history = History::<Job>::start(verbs.within("tenant-read"), watcher::Config::default()).await;
    verbs.tenant("read", json!({"plan": "basic"})).await;
    verbs.job("read", "waits", json!({})).await;
    verbs.until_reason("read", "waits", "NoWorkers").await;
    verbs.worker("read-1", "read", "4").await;
    verbs.job("read", "fails", json!({"parameters": {"exit-code": "3"}})).await;
    verbs.job("read", "late", json!({"timeoutSeconds": 1, "parameters": {"run-seconds": "forever"}})).await;
    let twice = json!({"maxRetries": 1, "retryPolicy": "Always", "parameters": {"outcome": "OOMKilled"}});
    verbs.job("read", "greedy", twice).await;
    verbs.job("read", "refused", json!({"resources": {"gpus": 4}})).await;
    verbs.job("read", "canceled", json!({"parameters": {"run-seconds": "forever"}})).await;
    verbs.until_phase("read", "canceled", JobPhase::Running).await;
    verbs.patch_job("read", "canceled", json!({"spec": {"canceled": true}})).await.unwrap();
    let ends = [
        ("waits", JobPhase::Completed),
        ("fails", JobPhase::Failed),
        ("late", JobPhase::TimedOut),
        ("greedy", JobPhase::Failed),
        ("refused", JobPhase::Rejected),
        ("canceled", JobPhase::Canceled),
    ];
    for (name, end) in ends {
        verbs.until_phase("read", name, end).await;
    }
    // Canceled when it is over: nothing changes, and nothing hangs.
    verbs.patch_job("read", "waits", json!({"spec": {"canceled": true}})).await.unwrap();
    let current = |job: &Job| of_job(job) == Kstatus::Current;
    let job = verbs.until_job("read", "waits", "an observed generation", current).await;
    assert_eq!(phase(&job), JobPhase::Completed);

    let mut met = std::collections::BTreeSet::new();
    for seen in history.whole() {
        let Seen::Version(job) = seen else { continue };
        let (said, phase) = (of_job(&job), phase(&job));
        let looked_at = job.status.as_ref().map(|s| s.observed_generation) == job.metadata.generation;
        let expected = match phase {
            _ if !looked_at => Kstatus::InProgress,
            JobPhase::Completed | JobPhase::Canceled => Kstatus::Current,
            _ if is_terminal(phase) => Kstatus::Failed,
            _ => Kstatus::InProgress,
        };
        assert_eq!(said, expected, "{} {phase}: {:?}", job.name_any(), job.status);
        met.insert(phase);
    }
    assert!(met.contains(&JobPhase::Retrying) && met.len() >= 7, "{met:?}");
}
