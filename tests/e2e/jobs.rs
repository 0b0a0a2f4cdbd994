//! Jobs: every state, each with its reason.

use crofter::{
    api_types::{Job, JobPhase, Reason},
    domain::start_error,
};
use crofter_test_cluster::wait;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    ResourceExt,
    api::{DeleteParams, ListParams},
};
use serde_json::{Value, json};

use crate::{
    common::{FINALIZER_WAIT_TIMEOUT, Verbs, WAIT_TIMEOUT, namespace, phase, reason},
    world,
};

/// A tenant with one worker.
async fn tenant(verbs: &Verbs<'_>, name: &str, plan: &str, cpu: &str) {
    verbs.tenant(name, json!({"plan": plan})).await;
    verbs.worker(&format!("{name}-1"), name, cpu).await;
}

fn runs(seconds: &str) -> Value {
    json!({"parameters": {"run-seconds": seconds}})
}

#[tokio::test]
async fn a_job_completes_and_says_so_everywhere() {
    let verbs = world().verbs().await;
    // When a job completes.
    tenant(&verbs, "happy", "basic", "4").await;
    verbs.job("happy", "hello", runs("1")).await;
    let said = world()
        .cluster
        .kubectl(["wait", "-n", "tenant-happy", "tjob/hello", "--for=condition=Complete", "--timeout=60s"])
        .await
        .unwrap();
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    // Then its status has the result, the attempt and the conditions.
    let job = verbs.jobs("happy").get("hello").await.unwrap();
    let status = job.status.clone().unwrap();
    assert_eq!((status.phase, status.exit_code, status.attempt), (JobPhase::Completed, Some(0), 1));
    assert_eq!(status.observed_generation, job.metadata.generation.unwrap());
    assert_eq!(status.attempts.len(), 1);
    let record = &status.attempts[0];
    assert_eq!((record.cpu_millicores, record.memory_bytes), (100, 64 << 20));
    assert!(record.finished_at.0 > record.started_at.as_ref().unwrap().0);
    let kinds: Vec<_> = status.conditions.iter().map(|c| c.type_.as_str()).collect();
    assert_eq!(kinds, ["Finished", "Complete"]);
    // Its pod loses the finalizer.
    let pod: Pod = verbs.within(&namespace("happy")).get(&status.pod.unwrap()).await.unwrap();
    wait::until(FINALIZER_WAIT_TIMEOUT, "the pod's finalizer to be removed", || async {
        let pod: Pod = verbs.within(&namespace("happy")).get(&pod.name_any()).await.unwrap();
        if pod.finalizers().is_empty() { Ok(()) } else { Err(pod.metadata.finalizers) }
    })
    .await
    .unwrap();
    // kubectl prints its phase and node.
    let table = world().cluster.kubectl(["get", "tenants,tjob", "-A"]).await.unwrap();
    let table = String::from_utf8_lossy(&table.stdout).into_owned();
    let row = table
        .lines()
        .find(|l| l.starts_with("tenant-happy") && l.contains("/hello"))
        .unwrap_or_else(|| panic!("{table}"));
    assert!(row.contains("Completed") && row.contains("happy-1"), "{table}");
}

#[tokio::test]
async fn failures_have_their_reason() {
    let verbs = world().verbs().await;
    tenant(&verbs, "unlucky", "basic", "4").await;
    verbs.job("unlucky", "code", json!({"parameters": {"exit-code": "3"}})).await;
    verbs.job("unlucky", "memory", json!({"parameters": {"outcome": "OOMKilled"}})).await;
    verbs
        .job("unlucky", "late", json!({"timeoutSeconds": 2, "parameters": {"run-seconds": "forever"}}))
        .await;
    let code = verbs.until_phase("unlucky", "code", JobPhase::Failed).await;
    assert_eq!((reason(&code), code.status.as_ref().unwrap().exit_code), ("NonZeroExit", Some(3)));
    let kinds = |job: &Job| {
        job.status.iter().flat_map(|s| &s.conditions).map(|c| c.type_.clone()).collect::<Vec<_>>()
    };
    assert_eq!(kinds(&code), ["Finished", "Failed", "Stalled"], "kstatus: failed");
    let memory = verbs.until_phase("unlucky", "memory", JobPhase::Failed).await;
    assert_eq!(reason(&memory), "OutOfMemory");
    let late = verbs.until_phase("unlucky", "late", JobPhase::TimedOut).await;
    assert_eq!(reason(&late), "DeadlineExceeded");
}

#[tokio::test]
async fn quotas_hold_jobs_back_with_numbers_or_refuse_them() {
    let verbs = world().verbs().await;
    tenant(&verbs, "frugal", "free", "4").await;
    verbs
        .job("frugal", "first", json!({"resources": {"cpu": "3"}, "parameters": {"run-seconds": "forever"}}))
        .await;
    verbs.until_phase("frugal", "first", JobPhase::Running).await;
    verbs.job("frugal", "second", json!({"resources": {"cpu": "2"}})).await;
    let waiting = verbs.until_reason("frugal", "second", "WaitingForQuota").await;
    let sentence = waiting.status.unwrap().message.unwrap();
    assert_eq!(sentence, "free allows 4 CPU cores: 3 in use, this job asks for 2");
    verbs.job("frugal", "third", json!({"resources": {"cpu": "2"}, "onQuota": "Reject"})).await;
    verbs.until_phase("frugal", "third", JobPhase::Rejected).await;
    verbs.job("frugal", "gpu", json!({"resources": {"gpus": 1}})).await;
    let refused = verbs.until_phase("frugal", "gpu", JobPhase::Rejected).await;
    assert_eq!(reason(&refused), "ExceedsQuota");
    assert_eq!(refused.status.unwrap().message.unwrap(), "free allows 0 GPUs: this job asks for 1");
    verbs.patch_job("frugal", "first", json!({"spec": {"canceled": true}})).await.unwrap();
    verbs.until_phase("frugal", "first", JobPhase::Canceled).await;
    verbs.until_phase("frugal", "second", JobPhase::Completed).await;
}

#[tokio::test]
async fn room_on_one_node_is_what_counts() {
    let verbs = world().verbs().await;
    tenant(&verbs, "tight", "basic", "2").await;
    verbs.worker("tight-2", "tight", "2").await;
    for n in 0..2 {
        verbs
            .job(
                "tight",
                &format!("half-{n}"),
                json!({"resources": {"cpu": "1500m"}, "parameters": {"run-seconds": "forever"}}),
            )
            .await;
    }
    for n in 0..2 {
        verbs.until_phase("tight", &format!("half-{n}"), JobPhase::Running).await;
    }
    // Both nodes are open now: what waits while one is not, waits for what that one may have.
    verbs.job("tight", "too-big", json!({"resources": {"cpu": "3"}})).await;
    verbs.until_reason("tight", "too-big", "DoesNotFit").await;
    verbs.job("tight", "waits", json!({"resources": {"cpu": "1"}})).await;
    verbs.until_reason("tight", "waits", "WaitingForCapacity").await;
    verbs.patch_job("tight", "half-0", json!({"spec": {"canceled": true}})).await.unwrap();
    verbs.until_phase("tight", "waits", JobPhase::Completed).await;
    // A minute after the nodes have come no larger one is expected any more.
    let jobs = verbs.jobs("tight");
    wait::until(2 * WAIT_TIMEOUT, "the job that fits no node to be rejected", || async {
        let job = jobs.get("too-big").await.map_err(|error| error.to_string())?;
        if phase(&job) == JobPhase::Rejected { Ok(()) } else { Err(format!("{:?}", job.status)) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn an_evicted_pod_is_retried_with_a_fresh_one() {
    let verbs = world().verbs().await;
    tenant(&verbs, "sturdy", "basic", "4").await;
    verbs.job("sturdy", "evicted", json!({"maxRetries": 1, "parameters": {"outcome": "Evicted"}})).await;
    let retrying = verbs.until_phase("sturdy", "evicted", JobPhase::Retrying).await;
    assert_eq!(reason(&retrying), "Evicted");
    // More often than it may be retried: the cluster's doing is counted apart.
    let twice = |job: &Job| job.status.as_ref().is_some_and(|status| status.attempts.len() == 2);
    let status = verbs.until_job("sturdy", "evicted", "evicted twice", twice).await.status.unwrap();
    assert_eq!(
        (status.phase, status.attempt, status.retries, status.disruptions),
        (JobPhase::Retrying, 2, 0, 2)
    );
    verbs.job("sturdy", "once", json!({"maxRetries": 0, "parameters": {"outcome": "Evicted"}})).await;
    let failed = verbs.until_phase("sturdy", "once", JobPhase::Failed).await;
    assert!(failed.status.unwrap().message.unwrap().contains("no retry is left (0 of 0)"));
}

/// The words by which `domain::start_error` knows it; the end comes a minute later.
#[tokio::test]
async fn a_job_whose_claim_does_not_exist_says_so() {
    let verbs = world().verbs().await;
    tenant(&verbs, "claimless", "basic", "4").await;
    let volume = json!({"name": "v", "mountPath": "/v", "claim": "results"});
    verbs.job("claimless", "j", json!({"volumes": [volume]})).await;
    let assigned = verbs.until_phase("claimless", "j", JobPhase::Assigned).await;
    let message = assigned.status.clone().unwrap().message.unwrap();
    assert!(message.contains("persistentvolumeclaim \"results\" not found"), "{message}");
    let pods = verbs.within::<Pod>(&namespace("claimless"));
    let pod = pods.get(assigned.status.as_ref().unwrap().pod.as_ref().unwrap()).await.unwrap();
    assert_eq!(start_error::of(&pod).map(|error| error.reason), Some(Reason::ClaimNotFound));
}

#[tokio::test]
async fn a_pod_deleted_by_hand_is_run_again() {
    let verbs = world().verbs().await;
    tenant(&verbs, "meddled", "basic", "4").await;
    verbs.job("meddled", "long", runs("forever")).await;
    let running = verbs.until_phase("meddled", "long", JobPhase::Running).await;
    let pods = verbs.within::<Pod>(&namespace("meddled"));
    pods.delete(&running.status.unwrap().pod.unwrap(), &DeleteParams::default()).await.unwrap();
    let retried =
        |job: &Job| phase(job) == JobPhase::Running && job.status.as_ref().is_some_and(|s| s.attempt == 2);
    let again = verbs.until_job("meddled", "long", "attempt 2 running", retried).await;
    assert_eq!(again.status.unwrap().attempts[0].reason, "PodDeleted");
    verbs.jobs("meddled").delete("long", &DeleteParams::default()).await.unwrap();
    wait::until(WAIT_TIMEOUT, "no pod of a deleted job", || async {
        let left = pods.list(&ListParams::default()).await.unwrap().items;
        if left.is_empty() { Ok(()) } else { Err(left.iter().map(ResourceExt::name_any).collect::<Vec<_>>()) }
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn a_slow_start_shows_as_assigned_with_the_kubelets_words() {
    let verbs = world().verbs().await;
    tenant(&verbs, "patient", "basic", "4").await;
    verbs.job("patient", "no-image", json!({"parameters": {"outcome": "ImagePullBackOff"}})).await;
    let assigned = verbs.until_phase("patient", "no-image", JobPhase::Assigned).await;
    assert_eq!(assigned.status.unwrap().attempt, 1);
    verbs.patch_job("patient", "no-image", json!({"spec": {"canceled": true}})).await.unwrap();
    verbs.until_phase("patient", "no-image", JobPhase::Canceled).await;
}

#[tokio::test]
async fn a_finished_job_goes_when_its_time_is_up() {
    let verbs = world().verbs().await;
    tenant(&verbs, "tidy", "basic", "4").await;
    verbs.job("tidy", "brief", json!({"ttlSecondsAfterFinished": 1})).await;
    verbs.until_deleted(&verbs.jobs("tidy"), "brief").await;
}

#[tokio::test]
async fn what_a_job_used_is_in_postgres_to_the_millisecond() {
    use sqlx::Row;

    let verbs = world().verbs().await;
    tenant(&verbs, "metered", "basic", "4").await;
    let asked = json!({"resources": {"cpu": "1500m", "memory": "1Gi", "bandwidthMbps": 10}, "parameters": {"run-seconds": "2"}});
    verbs.job("metered", "j", asked).await;
    let job = verbs.until_phase("metered", "j", JobPhase::Completed).await;
    let record = job.status.as_ref().unwrap().attempts[0].clone();
    let ran = record.finished_at.0.duration_since(record.started_at.unwrap().0).as_millis();
    assert!(ran >= 1000, "{ran}");
    let database = sqlx::PgPool::connect(world().database_url().unwrap()).await.unwrap();
    let uid = job.uid().unwrap();
    let row = wait::until(WAIT_TIMEOUT, "the usage row", || async {
        let query = "SELECT cpu_millicore_millis::text AS cpu, memory_byte_millis::text AS memory FROM usage_events WHERE job_uid = $1::uuid";
        let rows = sqlx::query(query).bind(&uid).fetch_all(&database).await.map_err(|e| e.to_string())?;
        <[_; 1]>::try_from(rows).map_err(|rows| format!("{} rows", rows.len()))
    });
    let [row] = row.await.unwrap();
    assert_eq!(row.get::<String, _>("cpu"), (1500 * ran).to_string());
    assert_eq!(row.get::<String, _>("memory"), ((1_i128 << 30) * ran).to_string());
}
