//! What a pod says of its attempt: waiting, running, or ended, and then how and what it is charged for.
//!
//! The kubelet's word on the container `job` decides. An attempt has ended when that container has; its pod may then
//! still run others, which hold its room and keep the next attempt waiting until the pod [is over](is_over).

mod ending;
mod reported;
pub mod stop;
mod times;

use std::borrow::Cow;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::core::v1::{ContainerStatus, Pod},
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::{Resource, ResourceExt, runtime::reflector::ObjectRef};

pub use self::{reported::prepare, times::Bounds};
use super::{pod_requests::of_pod, rate_window, resources::Resources};
use crate::{
    api_types::{Job, Reason, job::AttemptRecord},
    names,
};

/// Time that a pod may take to start. The kubelet counts a pod's deadline from before its image is pulled, Crofter a
/// job's time from when the container started; the deadline is the backstop for an operator that is away.
pub const START_ALLOWANCE: SignedDuration = SignedDuration::from_mins(5);

/// Where an attempt is, by its pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observed {
    /// No container has started.
    Waiting {
        /// Why, in the kubelet's or the scheduler's words, where they say.
        detail: Option<String>,
    },
    /// The container runs.
    Running {
        /// Since when.
        started_at: Timestamp,
    },
    /// It has ended and can't run any more.
    Ended(Ending),
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ending {
    /// In one word.
    pub reason: Reason,
    /// As a message.
    pub message: String,
    /// Whose doing it was.
    pub cause: Cause,
    /// Exit code, if the container had one.
    pub exit_code: Option<i32>,
    /// When the container started; `None` if it never did.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Timestamp,
}

/// Whose doing the end of an attempt was; it decides over retries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It succeeded.
    Success,
    /// The job's own: exit code, memory.
    Job,
    /// The job's own, and no attempt would end differently: it can never start.
    Invalid,
    /// It ran too long.
    Timeout,
    /// The cluster's: eviction, node loss, a pod that could not start.
    Infrastructure,
    /// The pod was deleted while it lived.
    Deletion,
}

/// Number of the attempt that a pod is, from its label.
#[must_use]
pub fn number(pod: &Pod) -> Option<u32> {
    pod.labels().get(names::LABEL_ATTEMPT)?.parse().ok()
}

/// Number of the retry that a pod is and that the hourly window counts, from its label.
#[must_use]
pub fn retry(pod: &Pod) -> Option<u32> {
    pod.labels().get(names::LABEL_RETRY)?.parse().ok()
}

/// What the hourly window counts a pod as, if it does; see [`rate_window::charge_id`].
#[must_use]
pub fn charge_id(pod: &Pod) -> Option<Cow<'_, str>> {
    rate_window::charge_id(job_uid(pod)?, number(pod)?, retry(pod))
}

/// UID of the job that a pod is an attempt of, from its label.
#[must_use]
pub fn job_uid(pod: &Pod) -> Option<&str> {
    pod.labels().get(names::LABEL_JOB_UID).map(String::as_str)
}

/// The job that a pod is an attempt of, by its owner reference. Whether the job of that name is still the same one is
/// for [`job_uid`] to say.
#[must_use]
pub fn owner(pod: &Pod) -> Option<ObjectRef<Job>> {
    let mut owners = pod.owner_references().iter();
    let owner = owners.find(|owner| owner.kind == Job::kind(&()) && owner.controller == Some(true))?;
    Some(ObjectRef::new(&owner.name).within(&pod.namespace()?))
}

/// Reads a pod, its times as its node says.
#[must_use]
pub fn observe(pod: &Pod) -> Observed {
    observe_within(pod, &Bounds::of(pod))
}

/// Reads a pod, its times within what else is known of them.
#[must_use]
pub fn observe_within(pod: &Pod, bounds: &Bounds) -> Observed {
    let container = container(pod);
    let state = container.and_then(|c| c.state.as_ref());
    match phase(pod) {
        Some("Succeeded" | "Failed") => Observed::Ended(ending::ending(pod, container, bounds)),
        _ if is_over(pod) => Observed::Ended(ending::unbound(pod, bounds)),
        _ if state.is_some_and(|state| state.terminated.is_some()) => {
            Observed::Ended(ending::ending(pod, container, bounds))
        }
        _ => match state.and_then(|state| state.running.as_ref()) {
            Some(running) => {
                let said = running.started_at.as_ref().map_or_else(|| created(pod), |t| t.0);
                Observed::Running { started_at: bounds.start(said) }
            }
            None => Observed::Waiting { detail: waiting_detail(pod, container) },
        },
    }
}

/// Whether nothing of a pod can run any more: it is in an end phase, or was deleted before it had a node. Until then
/// its kubelet and kube-scheduler keep its room, whatever became of its job.
#[must_use]
pub fn is_over(pod: &Pod) -> bool {
    let unbound = pod.metadata.deletion_timestamp.is_some() && node(pod).is_none();
    unbound || matches!(phase(pod), Some("Succeeded" | "Failed"))
}

/// Whether containers other than the job's keep a pod from being over. A sidecar that Kubernetes knows as such (an init
/// container that is restarted) does not: the kubelet ends it by itself.
#[must_use]
pub fn others_run(pod: &Pod) -> bool {
    let statuses = pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
    let others = statuses.filter(|c| c.name != names::JOB_CONTAINER);
    let ended = |c: &ContainerStatus| c.state.as_ref().is_some_and(|state| state.terminated.is_some());
    !is_over(pod) && others.into_iter().any(|c| !ended(c))
}

fn phase(pod: &Pod) -> Option<&str> {
    pod.status.as_ref()?.phase.as_deref()
}

fn container(pod: &Pod) -> Option<&ContainerStatus> {
    let containers = pod.status.iter().flat_map(|s| s.container_statuses.iter().flatten());
    containers.into_iter().find(|c| c.name == names::JOB_CONTAINER)
}

/// The node of a pod.
#[must_use]
pub fn node(pod: &Pod) -> Option<&str> {
    pod.spec.as_ref()?.node_name.as_deref().filter(|n| !n.is_empty())
}

/// When the pod was made.
#[must_use]
pub fn created(pod: &Pod) -> Timestamp {
    pod.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |t| t.0)
}

/// How long the attempt's container may run, as it was when its pod was made; `None` without a limit.
#[must_use]
pub fn allowance(pod: &Pod) -> Option<SignedDuration> {
    let deadline = SignedDuration::from_secs(pod.spec.as_ref()?.active_deadline_seconds?);
    Some(deadline.saturating_sub(START_ALLOWANCE).max(SignedDuration::ZERO))
}

/// The attempt's record, once it has ended. `gpu_resource` is the extended resource that counts GPUs.
#[must_use]
pub fn record(pod: &Pod, gpu_resource: &str) -> Option<AttemptRecord> {
    record_within(pod, gpu_resource, &Bounds::of(pod))
}

/// The same, its times within what else is known of them.
#[must_use]
pub fn record_within(pod: &Pod, gpu_resource: &str, bounds: &Bounds) -> Option<AttemptRecord> {
    let Observed::Ended(ending) = observe_within(pod, bounds) else { return None };
    let number = i32::try_from(number(pod)?).ok()?;
    let node = node(pod).map(str::to_owned);
    Some(record_of(number, pod.name_any(), node, &ending, of_pod(pod, gpu_resource)))
}

/// The record of an attempt that ended so, and requested that much.
#[must_use]
pub fn record_of(
    attempt: i32,
    pod: String,
    node: Option<String>,
    ending: &Ending,
    asked: Resources,
) -> AttemptRecord {
    let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    AttemptRecord {
        attempt,
        pod,
        node,
        started_at: ending.started_at.map(Time),
        finished_at: Time(ending.finished_at),
        reason: ending.reason.as_str().to_owned(),
        exit_code: ending.exit_code,
        cpu_millicores: signed(asked.cpu_milli),
        memory_bytes: signed(asked.memory_bytes),
        gpus: signed(asked.gpus),
        bandwidth_mbps: signed(asked.bandwidth_mbps),
    }
}

fn waiting_detail(pod: &Pod, container: Option<&ContainerStatus>) -> Option<String> {
    let waiting = container.and_then(|c| c.state.as_ref()?.waiting.as_ref());
    if let Some(reason) = waiting.and_then(|w| w.reason.as_deref()).filter(|r| *r != "ContainerCreating") {
        let message = waiting.and_then(|w| w.message.as_deref()).unwrap_or_default();
        return Some(format!("{reason}: {message}").trim_end_matches([':', ' ']).to_owned());
    }
    let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let unscheduled = conditions.filter(|c| c.type_ == "PodScheduled" && c.status == "False");
    unscheduled.filter_map(|c| c.message.clone()).next()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::domain::pod_requests::BANDWIDTH_ANNOTATION;

    fn pod(metadata: &Value, status: &Value) -> Pod {
        let mut whole = json!({
            "metadata": {"name": "p", "creationTimestamp": "2026-01-01T00:00:00Z",
                "labels": {"crofter.io/attempt": "2", "crofter.io/job-uid": "u"}},
            "spec": {"nodeName": "n", "containers": [{"name": "job", "resources": {"requests":
                {"cpu": "1500m", "memory": "1Gi", "nvidia.com/gpu": "2"}}}]},
            "status": status,
        });
        for (key, value) in metadata.as_object().unwrap() {
            whole["metadata"][key] = value.clone();
        }
        serde_json::from_value(whole).unwrap()
    }

    fn terminated(code: i32, reason: &str) -> Value {
        json!([{"name": "job", "image": "i", "imageID": "", "ready": false, "restartCount": 0, "state": {"terminated": {
            "exitCode": code, "reason": reason,
            "startedAt": "2026-01-01T00:00:05Z", "finishedAt": "2026-01-01T00:00:09Z"}}}])
    }

    fn ended(metadata: Value, status: Value) -> Ending {
        match observe(&pod(&metadata, &status)) {
            Observed::Ended(ending) => ending,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn the_end_is_the_containers() {
        let good =
            ended(json!({}), json!({"phase": "Succeeded", "containerStatuses": terminated(0, "Completed")}));
        assert_eq!((good.reason, good.cause, good.exit_code), (Reason::Succeeded, Cause::Success, Some(0)));
        assert_eq!(good.finished_at.duration_since(good.started_at.unwrap()).as_secs(), 4);
        let bad = ended(json!({}), json!({"phase": "Failed", "containerStatuses": terminated(3, "Error")}));
        assert_eq!(
            (bad.reason, bad.cause, bad.message.as_str()),
            (Reason::NonZeroExit, Cause::Job, "exit code 3")
        );
        let oom =
            ended(json!({}), json!({"phase": "Failed", "containerStatuses": terminated(137, "OOMKilled")}));
        assert_eq!((oom.reason, oom.cause), (Reason::OutOfMemory, Cause::Job));
    }

    #[test]
    fn the_clusters_doing_is_not_the_jobs() {
        // An eviction, and a kubelet that rejects the pod.
        let evicted = ended(
            json!({}),
            json!({"phase": "Failed", "reason": "Evicted", "message": "low on disk", "conditions":
            [{"type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet", "message": "low on disk"}]}),
        );
        assert_eq!((evicted.reason, evicted.cause), (Reason::Evicted, Cause::Infrastructure));
        let refused =
            ended(json!({}), json!({"phase": "Failed", "reason": "OutOfcpu", "message": "no room"}));
        assert_eq!((refused.cause, refused.message.as_str()), (Cause::Infrastructure, "OutOfcpu: no room"));
        // A node that is lost, with and without the end of its containers.
        let lost = ended(
            json!({}),
            json!({"phase": "Failed", "containerStatuses": terminated(137, "Error"), "conditions":
            [{"type": "DisruptionTarget", "status": "True", "reason": "DeletionByPodGC", "message": "node is gone"}]}),
        );
        assert_eq!(
            (lost.reason, lost.cause, lost.message.as_str()),
            (Reason::NodeLost, Cause::Infrastructure, "node is gone")
        );
        let running = json!([{"name": "job", "image": "i", "imageID": "", "ready": true, "restartCount": 0,
            "state": {"running": {"startedAt": "2026-01-01T00:00:05Z"}}}]);
        let left = ended(
            json!({}),
            json!({"phase": "Failed", "containerStatuses": running, "conditions": [{"type": "DisruptionTarget",
            "status": "True", "reason": "DeletionByPodGC", "lastTransitionTime": "2026-01-01T00:00:45Z"}]}),
        );
        assert_eq!((left.reason, left.exit_code), (Reason::NodeLost, None));
        assert_eq!(left.finished_at.duration_since(left.started_at.unwrap()).as_secs(), 40);
        // The deadline is the job's own.
        let late = ended(json!({}), json!({"phase": "Failed", "reason": "DeadlineExceeded"}));
        assert_eq!((late.reason, late.cause), (Reason::DeadlineExceeded, Cause::Timeout));
    }

    #[test]
    fn an_end_before_the_deletion_is_kept() {
        let status = json!({"phase": "Failed", "containerStatuses": terminated(1, "Error")});
        let asked_after =
            json!({"deletionTimestamp": "2026-01-01T00:00:40Z", "deletionGracePeriodSeconds": 30});
        assert_eq!(ended(asked_after, status.clone()).reason, Reason::NonZeroExit);
        let asked_before =
            json!({"deletionTimestamp": "2026-01-01T00:00:38Z", "deletionGracePeriodSeconds": 30});
        assert_eq!(ended(asked_before, status).cause, Cause::Deletion);
    }

    #[test]
    fn an_exit_code_of_zero_after_the_deletion_is_no_success() {
        let status = json!({"phase": "Succeeded", "containerStatuses": terminated(0, "Completed")});
        let deleted = |at: &str, grace: i64| {
            ended(json!({"deletionTimestamp": at, "deletionGracePeriodSeconds": grace}), status.clone()).cause
        };
        assert_eq!(deleted("2026-01-01T00:00:38Z", 30), Cause::Deletion);
        assert_eq!(deleted("2026-01-01T00:00:40Z", 30), Cause::Success, "asked for a second after the end");
        assert_eq!(
            deleted("2026-01-01T00:00:09Z", 0),
            Cause::Success,
            "known to have ended when it was deleted"
        );
    }

    #[test]
    fn a_pod_beyond_its_own_limits_of_the_disk_is_the_jobs_doing() {
        let words = "Usage of EmptyDir volume \"scratch\" exceeds the limit \"16Mi\". ";
        let status = json!({"phase": "Failed", "reason": "Evicted", "message": words,
            "containerStatuses": terminated(137, "Error")});
        let evicted = ended(json!({}), status);
        assert_eq!(
            (evicted.reason, evicted.cause, evicted.message.as_str()),
            (Reason::Evicted, Cause::Job, words)
        );
    }

    #[test]
    fn a_container_that_a_restart_of_the_machine_has_swallowed_is_run_again() {
        let words = "The container could not be located when the pod was terminated";
        let unknown = json!([{"name": "job", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": 137, "reason": "ContainerStatusUnknown", "message": words,
            "startedAt": null, "finishedAt": null}}}]);
        let status = json!({"phase": "Failed", "containerStatuses": unknown});
        let lost = ended(json!({}), status.clone());
        assert_eq!(
            (lost.reason, lost.cause, lost.exit_code),
            (Reason::NodeLost, Cause::Infrastructure, None)
        );
        assert_eq!(lost.message, words);
        // The same is written of a container that was never made, when its pod is deleted.
        let asked = json!({"deletionTimestamp": "2026-01-01T00:00:38Z", "deletionGracePeriodSeconds": 30});
        let deleted = ended(asked, status);
        assert_eq!((deleted.cause, deleted.exit_code, deleted.started_at), (Cause::Deletion, None, None));
    }

    #[test]
    fn a_container_that_could_not_be_started_never_ran() {
        let words = "exec: \"/bin/nothing\": no such file or directory";
        let failed = json!([{"name": "job", "image": "i", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": 128, "reason": "StartError", "message": words,
            "startedAt": "1970-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:00:09Z"}}}]);
        let status = json!({"phase": "Failed", "containerStatuses": failed});
        let failed = ended(json!({}), status.clone());
        assert_eq!((failed.reason, failed.cause, failed.started_at), (Reason::NonZeroExit, Cause::Job, None));
        assert_eq!(failed.message, format!("exit code 128: {words}"));
        let asked = json!({"deletionTimestamp": "2026-01-01T00:00:38Z", "deletionGracePeriodSeconds": 30});
        let deleted = ended(asked, status);
        assert_eq!((deleted.cause, deleted.started_at), (Cause::Deletion, None));
    }

    #[test]
    fn a_killed_container_is_known_after_the_kubelets_own_deletion() {
        let status = json!({"phase": "Failed", "containerStatuses": terminated(143, "Error")});
        let removed = |at: &str| {
            let metadata = json!({"deletionTimestamp": at, "deletionGracePeriodSeconds": 0});
            ended(metadata, status.clone()).reason
        };
        assert_eq!(removed("2026-01-01T00:00:11Z"), Reason::PodDeleted);
        assert_eq!(removed("2026-01-01T00:00:59Z"), Reason::NonZeroExit, "deleted long after its end");
    }

    #[test]
    fn a_deleted_pod_has_ended_only_when_it_can_not_run() {
        let deleting = json!({"deletionTimestamp": "2026-01-01T00:00:40Z"});
        assert!(matches!(observe(&pod(&deleting, &json!({"phase": "Pending"}))), Observed::Waiting { .. }));
        let mut unbound = pod(&deleting, &json!({"phase": "Pending"}));
        unbound.spec.as_mut().unwrap().node_name = None;
        assert!(matches!(observe(&unbound), Observed::Ended(Ending { cause: Cause::Deletion, .. })));
    }

    #[test]
    fn a_pod_keeps_its_room_until_it_can_not_run_whatever_the_state_of_its_container() {
        let bound = |status| pod(&json!({"deletionTimestamp": "2026-01-01T00:00:40Z"}), &status);
        let sidecar = json!({"phase": "Running", "containerStatuses": terminated(0, "Completed")});
        assert!(!is_over(&bound(sidecar)), "a sidecar runs on");
        assert!(is_over(&bound(json!({"phase": "Failed"}))));
        let mut unbound = bound(json!({"phase": "Pending"}));
        assert!(!is_over(&unbound));
        unbound.spec.as_mut().unwrap().node_name = None;
        assert!(is_over(&unbound), "it was deleted before it had a node");
    }

    #[test]
    fn the_record_carries_what_was_asked_for() {
        let status = json!({"phase": "Succeeded", "containerStatuses": terminated(0, "Completed")});
        let record =
            record(&pod(&json!({"annotations": {BANDWIDTH_ANNOTATION: "5M"}}), &status), "nvidia.com/gpu")
                .unwrap();
        assert_eq!((record.attempt, record.cpu_millicores, record.memory_bytes), (2, 1500, 1 << 30));
        assert_eq!((record.gpus, record.bandwidth_mbps, record.exit_code), (2, 5, Some(0)));
    }

    #[test]
    fn an_injected_container_is_charged_with_the_attempt() {
        let status = json!({"phase": "Succeeded", "containerStatuses": terminated(0, "Completed")});
        let mut injected = serde_json::to_value(pod(&json!({}), &status)).unwrap();
        let sidecar =
            json!({"name": "proxy", "restartPolicy": "Always", "resources": {"requests": {"cpu": "250m"}}});
        injected["spec"]["initContainers"] = json!([sidecar]);
        let record = record(&serde_json::from_value(injected).unwrap(), "nvidia.com/gpu").unwrap();
        assert_eq!((record.cpu_millicores, record.memory_bytes), (1750, 1 << 30));
    }

    #[test]
    fn a_waiting_container_has_its_cause() {
        let status = json!({"phase": "Pending", "containerStatuses": [{"name": "job", "image": "i", "imageID": "",
            "ready": false, "restartCount": 0, "state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}}]});
        let Observed::Waiting { detail } = observe(&pod(&json!({}), &status)) else { panic!() };
        assert_eq!(detail.unwrap(), "ImagePullBackOff: no such image");
    }
}
