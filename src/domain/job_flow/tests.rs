//! Tests of the life of a job. A small world: the status written by one step is the job of the next.

mod cancel;
mod disruptions;
mod limits;
mod restate;
mod sidecars;
mod starts;

use std::sync::Arc;

use serde_json::{Value, json};

use super::*;
use crate::api_types::plan::Limit;

const START: &str = "2026-01-01T00:00:00Z";

fn at(seconds: i64) -> Timestamp {
    START.parse::<Timestamp>().unwrap() + SignedDuration::from_secs(seconds)
}

/// A job, its pods, and what admission says.
struct World {
    job: Job,
    pods: Vec<Arc<Pod>>,
    verdict: Option<Verdict>,
    drain: Option<Reason>,
    /// The plan's bound, in minutes.
    minutes: u64,
    busy: bool,
    foreign: bool,
}

impl World {
    fn new(spec: &Value) -> Self {
        let mut whole = json!({"image": "busybox"});
        for (key, value) in spec.as_object().unwrap() {
            whole[key] = value.clone();
        }
        let metadata = json!({"name": "j", "namespace": "tenant-a", "uid": "u", "generation": 1});
        let job = json!({"metadata": metadata, "spec": whole, "status": {"observedGeneration": -1, "phase": "Queued"}});
        Self {
            job: serde_json::from_value(job).unwrap(),
            pods: vec![],
            verdict: None,
            drain: None,
            minutes: 30,
            busy: false,
            foreign: false,
        }
    }

    fn view(&self, seconds: i64) -> View<'_> {
        View {
            job: &self.job,
            pods: &self.pods,
            verdict: self.verdict.as_ref(),
            running_limit: running_limit(self.job.spec.timeout_seconds, Limit::AtMost(self.minutes)),
            drain: self.drain,
            start_limit: SignedDuration::from_mins(5),
            busy: self.busy,
            foreign: self.foreign,
            gpu_resource: "nvidia.com/gpu",
            now: at(seconds),
            steady: at(seconds),
        }
    }

    fn step(&self, seconds: i64) -> Step {
        next(&self.view(seconds)).unwrap()
    }

    /// Takes a step that must be a write, and stores it.
    fn write(&mut self, seconds: i64) -> JobStatus {
        let Step::Write(status) = self.step(seconds) else { panic!("{:?}", self.step(seconds)) };
        self.job.status = Some(*status.clone());
        *status
    }

    fn admit(&mut self, attempt: u32) {
        let admission = Admission { attempt, group: "a".into(), node: Some("n".into()) };
        self.verdict = Some(Verdict::Admit(admission));
    }

    fn pod(&mut self, attempt: u32, made: i64, metadata: &Value, status: &Value) {
        let mut whole = json!({
            "metadata": {"name": format!("j-u-{attempt}"), "uid": format!("p{attempt}"),
                "creationTimestamp": at(made).to_string(),
                "labels": {"crofter.io/attempt": attempt.to_string(), "crofter.io/worker-group": "a"}},
            "spec": {"nodeName": "n", "terminationGracePeriodSeconds": 30, "containers": [{"name": "job"}]},
            "status": status,
        });
        let left = running_left(&self.view(0)).unwrap();
        let made_before = self.pods.iter().find(|pod| attempt::number(pod) == Some(attempt));
        whole["spec"]["activeDeadlineSeconds"] = match made_before {
            Some(pod) => json!(pod.spec.as_ref().unwrap().active_deadline_seconds),
            None => json!((left + attempt::START_ALLOWANCE).as_secs()),
        };
        for (key, value) in metadata.as_object().unwrap() {
            whole["metadata"][key] = value.clone();
        }
        self.pods = vec![Arc::new(serde_json::from_value(whole).unwrap())];
    }

    fn pending(&mut self, attempt: u32, made: i64) {
        self.pod(attempt, made, &json!({}), &json!({"phase": "Pending"}));
    }

    fn running(&mut self, attempt: u32, made: i64) {
        let running = json!({"running": {"startedAt": at(made).to_string()}});
        self.pod(
            attempt,
            made,
            &json!({}),
            &json!({"phase": "Running", "containerStatuses": [container(&running)]}),
        );
    }

    fn ended(&mut self, attempt: u32, made: i64, took: i64, code: i32, more: &Value) {
        let terminated = json!({"terminated": {"exitCode": code, "startedAt": at(made).to_string(),
            "finishedAt": at(made + took).to_string()}});
        let phase = if code == 0 { "Succeeded" } else { "Failed" };
        self.pod(
            attempt,
            made,
            more,
            &json!({"phase": phase, "containerStatuses": [container(&terminated)]}),
        );
    }
}

fn container(state: &Value) -> Value {
    json!({"name": "job", "image": "i", "imageID": "", "ready": true, "restartCount": 0, "state": state})
}

/// What a kubelet writes that is short of disk.
fn evicted(containers: &Value) -> Value {
    let target = json!({"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet", "message": "disk"});
    json!({"phase": "Failed", "reason": "Evicted", "message": "disk", "conditions": [target], "containerStatuses": containers})
}

fn deleted(seconds: i64) -> Value {
    json!({"deletionTimestamp": at(seconds + 30).to_string(), "deletionGracePeriodSeconds": 30})
}

#[test]
fn the_fast_way_is_two_status_writes() {
    let mut world = World::new(&json!({}));
    assert_eq!(world.step(0), Step::Wait(None), "not assessed yet");
    // Admitted: the pod is created, and starts at once.
    world.admit(1);
    assert!(matches!(world.step(0), Step::Create(Admission { attempt: 1, .. })));
    world.pending(1, 0);
    assert_eq!(
        world.step(1),
        Step::Wait(Some(at(2))),
        "Assigned is not written for a pod that starts at once"
    );
    // The first write.
    world.running(1, 1);
    let running = world.write(1);
    assert_eq!((running.phase, running.attempt, running.node.as_deref()), (JobPhase::Running, 1, Some("n")));
    assert_eq!(running.conditions[0].type_, "Reconciling");
    assert_eq!(
        world.step(2),
        Step::Wait(Some(at(1 + 30 * 60))),
        "reconciled again when the plan's time is up"
    );
    // The second one.
    world.ended(1, 1, 4, 0, &json!({}));
    let done = world.write(5);
    assert_eq!((done.phase, done.exit_code, done.running_millis), (JobPhase::Completed, Some(0), 4000));
    assert_eq!((done.finished_at, done.attempts.len()), (Some(Time(at(5))), 1));
    assert_eq!(
        done.conditions.iter().map(|c| c.type_.as_str()).collect::<Vec<_>>(),
        ["Finished", "Complete"]
    );
    assert_eq!(world.step(6), Step::Wait(None), "the pod stays for its log");
}

#[test]
fn that_a_job_runs_waits_for_eight_seconds_while_others_wait() {
    let mut world = World { busy: true, ..World::new(&json!({})) };
    world.running(1, 1);
    assert_eq!((world.step(1), world.step(8)), (Step::Wait(Some(at(9))), Step::Wait(Some(at(9)))));
    assert_eq!(world.write(9).phase, JobPhase::Running);
    let mut world = World { busy: true, ..World::new(&json!({})) };
    world.running(1, 10);
    assert_eq!(world.write(9).phase, JobPhase::Running, "a node whose clock is ahead");
    let mut world = World { busy: true, ..World::new(&json!({})) };
    world.running(1, 1);
    world.step(2);
    world.ended(1, 1, 2, 0, &json!({}));
    assert_eq!(world.write(2).phase, JobPhase::Completed, "one write for all of it");
}

#[test]
fn a_pod_that_ended_unseen_ends_its_job_in_one_write() {
    let mut world = World::new(&json!({}));
    world.ended(1, 0, 1, 7, &json!({}));
    let done = world.write(9);
    assert_eq!(
        (done.phase, done.reason.as_deref(), done.attempt),
        (JobPhase::Failed, Some("NonZeroExit"), 1)
    );
    let kinds: Vec<_> = done.conditions.iter().map(|c| c.type_.as_str()).collect();
    assert_eq!(kinds, ["Finished", "Failed", "Stalled"]);
}

#[test]
fn a_slow_start_is_reported_and_given_up_after_five_minutes() {
    let mut world = World::new(&json!({}));
    world.pending(1, 0);
    assert_eq!(world.write(2).phase, JobPhase::Assigned);
    assert_eq!(world.step(3), Step::Wait(Some(at(300))));
    let mut busy = World { busy: true, ..World::new(&json!({})) };
    busy.pending(1, 0);
    assert_eq!(busy.step(2), Step::Wait(Some(at(8))), "others go first");
    assert_eq!(busy.write(8).phase, JobPhase::Assigned);
    assert!(matches!(world.step(300), Step::Delete { .. }));
    world.pod(1, 0, &deleted(300), &json!({"phase": "Failed"}));
    let retry = world.write(301);
    assert_eq!(
        (retry.phase, retry.reason.as_deref(), retry.retries),
        (JobPhase::Retrying, Some("StartTimeout"), 1)
    );
    assert_eq!(retry.message.as_deref(), Some("the pod did not start within 5m"));

    let mut pulling = World::new(&json!({}));
    let waiting = container(&json!({"waiting": {"reason": "ErrImagePull", "message": "no such host"}}));
    pulling.pod(1, 0, &json!({}), &json!({"phase": "Pending", "containerStatuses": [waiting]}));
    pulling.write(2);
    pulling.pod(1, 0, &deleted(300), &json!({"phase": "Failed"}));
    let words = "the pod did not start within 5m: ErrImagePull: no such host";
    assert_eq!(pulling.write(301).message.as_deref(), Some(words));
}

#[test]
fn the_kubelets_words_are_written_when_they_come_and_not_at_every_change() {
    let mut world = World::new(&json!({}));
    world.pending(1, 0);
    assert_eq!(world.write(2).message.as_deref(), Some("attempt 1 is admitted to a"));
    let waits = |world: &mut World, reason: &str, message: &str| {
        let waiting = container(&json!({"waiting": {"reason": reason, "message": message}}));
        world.pod(1, 0, &json!({}), &json!({"phase": "Pending", "containerStatuses": [waiting]}));
    };
    waits(&mut world, "ContainerCreating", "");
    assert_eq!(world.step(3), Step::Wait(Some(at(300))));
    waits(&mut world, "ErrImagePull", "no such host");
    let written = world.write(4);
    assert_eq!(
        (written.phase, written.message.as_deref()),
        (JobPhase::Assigned, Some("ErrImagePull: no such host"))
    );
    waits(&mut world, "ImagePullBackOff", "Back-off pulling image");
    assert_eq!(world.step(5), Step::Wait(Some(at(300))));
    waits(&mut world, "CreateContainerConfigError", "secret not found");
    assert_eq!(world.write(6).message.as_deref(), Some("CreateContainerConfigError: secret not found"));
}

#[test]
fn a_waiting_reason_is_written_once() {
    let mut world = World::new(&json!({}));
    world.verdict = Some(Verdict::Wait(Reason::WaitingForQuota, "62 in use".into()));
    let waiting = world.write(0);
    assert_eq!((waiting.phase, waiting.message.as_deref()), (JobPhase::Queued, Some("62 in use")));
    world.verdict = Some(Verdict::Wait(Reason::WaitingForQuota, "61 in use".into()));
    assert_eq!(world.step(1), Step::Wait(None));
    world.verdict = Some(Verdict::Reject(Reason::ExceedsQuota, "too much".into()));
    assert_eq!(world.write(2).phase, JobPhase::Rejected);
}

#[test]
fn a_retry_has_a_new_pod_when_the_old_one_is_deleted() {
    let mut world = World::new(&json!({"maxRetries": 1, "retryPolicy": "Always"}));
    world.admit(1);
    world.running(1, 0);
    world.write(0);
    world.ended(1, 0, 10, 3, &json!({}));
    let retrying = world.write(10);
    assert_eq!((retrying.phase, retrying.retries), (JobPhase::Retrying, 1));
    assert!(matches!(world.step(11), Step::Delete { .. }));
    world.pods.clear();
    let Step::Wait(Some(until)) = world.step(1) else { panic!("{:?}", world.step(1)) };
    assert_eq!(Some(Time(until)), retrying.not_before);
    let queued = world.write(60);
    assert_eq!((queued.phase, queued.attempt, queued.node), (JobPhase::Queued, 1, None));
    assert_eq!(world.step(61), Step::Wait(None), "the admission of attempt 1 is not one of attempt 2");
    world.admit(2);
    assert!(matches!(world.step(61), Step::Create(Admission { attempt: 2, .. })));
    world.ended(2, 61, 9, 3, &json!({}));
    let failed = world.write(70);
    assert_eq!((failed.phase, failed.attempts.len()), (JobPhase::Failed, 2));
    assert!(failed.message.unwrap().contains("no retry is left (1 of 1)"));
}

#[test]
fn a_start_that_the_kubelet_has_forgotten_is_remembered() {
    let mut world = World::new(&json!({}));
    world.running(1, 0);
    world.write(0);
    let creating = container(&json!({"waiting": {"reason": "ContainerCreating"}}));
    let ready = json!({"type": "Ready", "status": "False", "lastTransitionTime": at(7).to_string()});
    let status = json!({"phase": "Failed", "reason": "Evicted", "message": "too much",
        "conditions": [ready], "containerStatuses": [creating]});
    world.pod(1, 0, &json!({}), &status);
    let ended = world.write(9);
    assert_eq!((ended.phase, ended.running_millis), (JobPhase::Failed, 7000));
    let record = &ended.attempts[0];
    assert_eq!((record.started_at.as_ref(), &record.finished_at), (Some(&Time(at(0))), &Time(at(7))));

    let mut unseen = World::new(&json!({}));
    unseen.pod(1, 0, &json!({}), &status);
    assert_eq!(unseen.write(9).attempts[0].started_at, None, "it was not seen to run");
}

#[test]
fn a_container_that_its_kubelet_has_forgotten_still_runs() {
    let mut world = World::new(&json!({"timeoutSeconds": 10}));
    world.running(1, 0);
    world.write(0);
    let creating = container(&json!({"waiting": {"reason": "ContainerCreating"}}));
    world.pod(1, 0, &json!({}), &json!({"phase": "Running", "containerStatuses": [creating]}));
    assert_eq!(world.step(5), Step::Wait(Some(at(10))));
    assert!(matches!(world.step(10), Step::Stop { .. }));
    world.job.spec.canceled = true;
    assert!(matches!(world.step(5), Step::Stop { .. }), "it has a log");
}

#[test]
fn a_missing_pod_is_confirmed_before_it_counts_as_lost() {
    let mut world = World::new(&json!({}));
    world.running(1, 0);
    world.write(0);
    world.pods.clear();
    assert_eq!(world.step(1), Step::ConfirmLost(1));
    let asked =
        Resources { cpu_milli: 1500, memory_bytes: 7, gpus: 2, bandwidth_mbps: 3, ..Resources::default() };
    let Step::Write(status) = lost(&world.view(9), asked).unwrap() else { panic!() };
    assert_eq!((status.phase, status.reason.as_deref()), (JobPhase::Retrying, Some("PodDeleted")));
    // Whoever took its finalizer off: what was seen of it is charged.
    let record = status.attempts.last().unwrap();
    assert_eq!((record.attempt, record.pod.as_str(), record.reason.as_str()), (1, "j-u-1", "PodDeleted"));
    let usage = (record.cpu_millicores, record.memory_bytes, record.gpus, record.bandwidth_mbps);
    assert_eq!((usage, record.running_millis()), ((1500, 7, 2, 3), 9_000));
    assert_eq!(status.running_millis, 9_000);
    // Seen a day later it has run no longer than it might.
    let Step::Write(late) = lost(&world.view(86_400), asked).unwrap() else { panic!() };
    assert_eq!(late.attempts.last().unwrap().running_millis(), 30 * 60 * 1000);
}

#[test]
fn a_finished_job_expires_when_it_asked_for_it() {
    let mut world = World::new(&json!({"ttlSecondsAfterFinished": 10}));
    world.ended(1, 0, 1, 0, &json!({}));
    world.write(1);
    assert_eq!(world.step(2), Step::Wait(Some(at(11))));
    assert_eq!(world.step(11), Step::Expire);
}
