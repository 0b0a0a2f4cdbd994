//! How jobs end, by what a kubelet says of their containers.

use crofter::{
    api_types::{Job, JobPhase, JobStatus},
    domain::attempt,
    names,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt, api::DeleteParams};
use serde_json::json;

use crate::{
    NODE_LOCK,
    common::{Verbs, namespace, phase},
    script, script_with, world,
};

const TENANT: &str = "alpha";

/// Runs until SIGTERM, and then ends as if all were well: what a program does that saves its work.
const OBEYS: &str = "trap 'echo saved; exit 0' TERM; echo ready; while :; do sleep 0.1; done";
const FILLS: &str = "head -c 8000000 /dev/zero >/scratch/file; exec sleep 1000";
const IGNORES: &str = "trap '' TERM; echo ready; while :; do sleep 0.1; done";

fn status(job: &Job) -> &JobStatus {
    job.status.as_ref().unwrap()
}

fn message(job: &Job) -> &str {
    status(job).message.as_deref().unwrap_or_default()
}

/// Reason and exit code.
fn end(job: &Job) -> (&str, Option<i32>) {
    (status(job).reason.as_deref().unwrap_or_default(), status(job).exit_code)
}

/// Seconds that the last attempt ran.
fn ran(job: &Job) -> i64 {
    let last = status(job).attempts.last().unwrap();
    last.finished_at.0.duration_since(last.started_at.as_ref().unwrap().0).as_secs()
}

/// A moment that the operator's machine and the node's agree on: they are one here.
#[expect(clippy::disallowed_methods, reason = "a test compares what was recorded with the time of day")]
fn now() -> Timestamp {
    Timestamp::now()
}

/// When the API server received the end of a job's last pod, as the operator's cache has it.
async fn reported(verbs: &Verbs<'_>, job: &Job) -> Timestamp {
    let pods = verbs.within::<Pod>(&namespace(TENANT));
    let mut pod = pods.get(status(job).pod.as_deref().unwrap()).await.unwrap();
    attempt::prepare(&mut pod);
    pod.annotations()[names::POD_END_REPORTED].parse().unwrap()
}

#[tokio::test]
async fn a_failure_is_reported_with_its_reason_and_without_its_output() {
    let Some(world) = world() else { return };
    let _shared = NODE_LOCK.read().await;
    let verbs = world.verbs().await;
    verbs.job(TENANT, "code", script("echo begun; echo no such frame; exit 3")).await;
    verbs.job(TENANT, "said", script("echo begun; echo no such frame > /dev/termination-log; exit 3")).await;
    verbs.job(TENANT, "memory", script("tail /dev/zero")).await;
    verbs.job(TENANT, "no-program", json!({"command": ["/bin/nothing"]})).await;
    verbs.job(TENANT, "late", script_with(OBEYS, json!({"timeoutSeconds": 3}))).await;
    let scratch = json!({"volumes": [{"name": "scratch", "mountPath": "/scratch", "scratch": "1Mi"}]});
    verbs.job(TENANT, "greedy", script_with(FILLS, scratch)).await;

    let code = verbs.until_phase(TENANT, "code", JobPhase::Failed).await;
    assert_eq!(end(&code), ("NonZeroExit", Some(3)));
    assert_eq!(message(&code), "exit code 3");
    assert_eq!(verbs.log(TENANT, "code").await.unwrap(), "begun\nno such frame\n");
    let delay = reported(&verbs, &code).await.duration_since(status(&code).finished_at.as_ref().unwrap().0);
    assert!((0..60).contains(&delay.as_secs()), "the report came {delay} after the end");
    let said = verbs.until_phase(TENANT, "said", JobPhase::Failed).await;
    assert_eq!(message(&said), "exit code 3: no such frame");

    let memory = verbs.until_phase(TENANT, "memory", JobPhase::Failed).await;
    assert_eq!(end(&memory), ("OutOfMemory", Some(137)));

    let missing = verbs.until_phase(TENANT, "no-program", JobPhase::Failed).await;
    assert_eq!(end(&missing), ("NonZeroExit", Some(128)));
    assert!(message(&missing).contains("/bin/nothing"), "{}", message(&missing));
    assert_eq!(status(&missing).attempts[0].started_at, None, "it never ran, and is charged for nothing");

    let late = verbs.until_phase(TENANT, "late", JobPhase::TimedOut).await;
    assert_eq!(end(&late), ("DeadlineExceeded", Some(0)));
    assert!((3..60).contains(&ran(&late)), "{:?}", status(&late).attempts);
    assert_eq!(verbs.log(TENANT, "late").await.unwrap(), "ready\nsaved\n", "the log stays");

    // Tried again it would only do the same.
    let greedy = verbs.until_phase(TENANT, "greedy", JobPhase::Failed).await;
    assert_eq!(status(&greedy).reason.as_deref(), Some("Evicted"));
    assert!((1..60).contains(&ran(&greedy)), "{:?}", status(&greedy).attempts);
    assert!(message(&greedy).contains("exceeds the limit \"1Mi\""), "{}", message(&greedy));
}

#[tokio::test]
async fn a_canceled_job_gets_sigterm_and_after_its_grace_sigkill() {
    let Some(world) = world() else { return };
    let _shared = NODE_LOCK.read().await;
    let verbs = world.verbs().await;
    for (name, text) in [("ignores", IGNORES), ("obeys", OBEYS)] {
        verbs.job(TENANT, name, script(text)).await;
        verbs.until_printed(TENANT, name, "ready").await;
    }
    let asked = now();
    for name in ["ignores", "obeys"] {
        verbs.patch_job(TENANT, name, json!({"spec": {"canceled": true}})).await.unwrap();
    }
    let took = |job: &Job| status(job).finished_at.as_ref().unwrap().0.duration_since(asked).as_secs();
    let obeyed = verbs.until_phase(TENANT, "obeys", JobPhase::Canceled).await;
    assert_eq!(end(&obeyed), ("Canceled", Some(0)));
    assert!((0..60).contains(&took(&obeyed)), "{:?}", obeyed.status);
    assert_eq!(verbs.log(TENANT, "obeys").await.unwrap(), "ready\nsaved\n", "the log stays");

    let ignored = verbs.until_phase(TENANT, "ignores", JobPhase::Canceled).await;
    assert_eq!(end(&ignored), ("Canceled", Some(137)));
    assert!((28..60).contains(&took(&ignored)), "{:?}", ignored.status);
}

async fn delete_pod(verbs: &Verbs<'_>, job: &Job) {
    let pods = verbs.within::<Pod>(&namespace(TENANT));
    pods.delete(status(job).pod.as_deref().unwrap(), &DeleteParams::default()).await.unwrap();
}

#[tokio::test]
async fn a_pod_deleted_by_hand_is_run_again_however_it_ended() {
    let Some(world) = world() else { return };
    let _shared = NODE_LOCK.read().await;
    let verbs = world.verbs().await;
    verbs.job(TENANT, "meddled", script(OBEYS)).await;
    verbs.until_printed(TENANT, "meddled", "ready").await;
    let running = verbs.until_phase(TENANT, "meddled", JobPhase::Running).await;
    delete_pod(&verbs, &running).await;
    let second = |job: &Job| phase(job) == JobPhase::Running && status(job).attempt == 2;
    let again = verbs.until_job(TENANT, "meddled", "attempt 2 to run", second).await;
    assert_eq!(status(&again).attempts[0].reason, "PodDeleted");
    let pod =
        verbs.within::<Pod>(&namespace(TENANT)).get(status(&again).pod.as_deref().unwrap()).await.unwrap();
    assert_eq!(pod.labels().get(names::LABEL_ATTEMPT).map(String::as_str), Some("2"));
    verbs.jobs(TENANT).delete("meddled", &DeleteParams::default()).await.unwrap();
    verbs.until_deleted(&verbs.jobs(TENANT), "meddled").await;
}
