//! How an attempt ended.
//!
//! The container `job` alone decides: other containers, which an admission webhook may have added, neither keep a job
//! that has ended running nor change how it ended. A container that ended by itself keeps its end, whatever happened to
//! its pod afterwards. Times of a node are compared with others' only within their [`Bounds`].

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod, PodCondition},
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{Bounds, Cause, Ending, created, reported::earliest_end, stop};
use crate::api_types::Reason;

/// The kubelet removes a pod within this time after its last container has ended.
const REMOVAL: SignedDuration = SignedDuration::from_secs(10);

pub(super) fn ending(pod: &Pod, container: Option<&ContainerStatus>, bounds: &Bounds) -> Ending {
    let ending = outcome(pod, container, bounds);
    // By what it ended decides how late its end may have been reported.
    let bounds = Bounds { earliest_end: earliest_end(pod, ending.cause), ..*bounds };
    let (started, said) = said(container);
    let (started_at, finished_at) = bounds.run(started, said.unwrap_or_else(|| last_change(pod)));
    Ending { started_at, finished_at, ..ending }
}

/// Start and end of a container as its node says.
fn said(container: Option<&ContainerStatus>) -> (Option<Timestamp>, Option<Timestamp>) {
    let terminated = container.and_then(|c| c.state.as_ref()?.terminated.as_ref());
    // A node that is lost reports no end of its containers: they are left as running.
    let running = container.and_then(|c| Some(c.state.as_ref()?.running.as_ref()?.started_at.as_ref()?.0));
    let end = terminated.and_then(|t| Some(t.finished_at.as_ref()?.0));
    (terminated.and_then(started).or(running), end)
}

/// How it ended; its times are what its node says, within the bounds.
fn outcome(pod: &Pod, container: Option<&ContainerStatus>, bounds: &Bounds) -> Ending {
    let status = pod.status.clone().unwrap_or_default();
    let terminated = container.and_then(|c| c.state.as_ref()?.terminated.as_ref());
    let (started, said) = said(container);
    let (started_at, finished_at) = bounds.run(started, said.unwrap_or_else(|| last_change(pod)));
    let end = |reason, cause, message: String| Ending {
        reason,
        message,
        cause,
        exit_code: terminated.and_then(exit_code),
        started_at,
        finished_at,
    };
    let deletion =
        |when: &str| end(Reason::PodDeleted, Cause::Deletion, format!("the pod was deleted {when}"));
    let ended_before = |time: Timestamp| said.is_some() && finished_at < time;
    let asked = stop::request(pod);
    let stopped = asked.filter(|stop| {
        matches!(stop.reason, Reason::Canceled | Reason::DeadlineExceeded) && !ended_before(stop.at)
    });
    let killed = terminated.is_some_and(|t| killed_by_deletion(pod, t, finished_at));
    let late =
        status.reason.as_deref() == Some("DeadlineExceeded") && asked.is_none() && !outlived(pod, said);
    let disruption = disruption(status.conditions.as_deref());
    // A program that saves its work on SIGTERM ends with 0 as well.
    let good = status.phase.as_deref() == Some("Succeeded") || terminated.and_then(exit_code) == Some(0);
    let disrupted = status.phase.as_deref() != Some("Succeeded")
        && disruption.is_some_and(|c| c.last_transition_time.as_ref().is_none_or(|t| !ended_before(t.0)));
    if good && stopped.is_none() && !killed && !late && !disrupted {
        return end(Reason::Succeeded, Cause::Success, "exit code 0".to_owned());
    }
    match stopped.map(|stop| stop.reason) {
        Some(Reason::Canceled) => {
            return end(Reason::Canceled, Cause::Deletion, "canceled while it ran".to_owned());
        }
        Some(Reason::DeadlineExceeded) => {
            return end(Reason::DeadlineExceeded, Cause::Timeout, LATE.to_owned());
        }
        _ => (),
    }
    if late {
        return end(Reason::DeadlineExceeded, Cause::Timeout, LATE.to_owned());
    }
    if let Some(disruption) = disruption {
        let why = disruption.reason.as_deref().unwrap_or_default();
        let reason = if why == "DeletionByPodGC" { Reason::NodeLost } else { Reason::Evicted };
        let message = disruption.message.clone().unwrap_or_else(|| why.to_owned());
        return end(reason, Cause::Infrastructure, message);
    }
    if killed {
        return deletion(if started_at.is_some() { "while it ran" } else { "before it ran" });
    }
    let words = status.message.clone().unwrap_or_default();
    // A deadline that came after the end of the container is a sidecar's.
    match (status.reason.as_deref().filter(|why| *why != "DeadlineExceeded"), terminated) {
        (Some("NodeLost"), _) => end(Reason::NodeLost, Cause::Infrastructure, words),
        // An eviction without DisruptionTarget: the pod took more of the disk than its own limits.
        (Some("Evicted"), _) => end(Reason::Evicted, Cause::Job, words),
        // The kubelet's own reasons for refusing or ending a pod: NodeShutdown, OutOfcpu, NodeAffinity, ...
        (Some(why), _) => end(Reason::Evicted, Cause::Infrastructure, format!("{why}: {words}")),
        (None, Some(t)) if t.reason.as_deref() == Some("OOMKilled") => {
            end(Reason::OutOfMemory, Cause::Job, "killed for using more memory than it asked for".to_owned())
        }
        // A restart of its machine has left nothing of the container.
        (None, Some(t)) if exit_code(t).is_none() => {
            end(Reason::NodeLost, Cause::Infrastructure, t.message.clone().unwrap_or_default())
        }
        (None, Some(t)) => end(Reason::NonZeroExit, Cause::Job, exit_sentence(t)),
        (None, None) if pod.metadata.deletion_timestamp.is_some() => deletion("before it ran"),
        (None, None) => {
            end(Reason::NodeLost, Cause::Infrastructure, "the pod failed without a word".to_owned())
        }
    }
}

const LATE: &str = "ran longer than its timeout";

/// The end of a pod that was deleted before it had a node.
pub(super) fn unbound(pod: &Pod, bounds: &Bounds) -> Ending {
    Ending {
        reason: Reason::PodDeleted,
        message: "the pod was deleted before it had a node".to_owned(),
        cause: Cause::Deletion,
        exit_code: None,
        started_at: None,
        finished_at: bounds.run(None, last_change(pod)).1,
    }
}

fn disruption(conditions: Option<&[PodCondition]>) -> Option<&PodCondition> {
    conditions?.iter().find(|c| c.type_ == "DisruptionTarget" && c.status == "True")
}

/// Whether only other containers were left when the pod's deadline came, by the kubelet's own clock.
fn outlived(pod: &Pod, said: Option<Timestamp>) -> bool {
    let deadline = || {
        let start = pod.status.as_ref()?.start_time.as_ref()?.0;
        start.saturating_add(SignedDuration::from_secs(pod.spec.as_ref()?.active_deadline_seconds?)).ok()
    };
    let containers = pod.spec.as_ref().map_or(0, |spec| spec.containers.len());
    containers > 1 && said.zip(deadline()).is_some_and(|(said, deadline)| said < deadline)
}

fn exit_sentence(terminated: &ContainerStateTerminated) -> String {
    match terminated.message.as_deref().map(str::trim).filter(|m| !m.is_empty()) {
        Some(message) => format!("exit code {}: {message}", terminated.exit_code),
        None => format!("exit code {}", terminated.exit_code),
    }
}

/// The container's exit code. The kubelet invents one for a container that it can't find, or that never was.
fn exit_code(terminated: &ContainerStateTerminated) -> Option<i32> {
    (terminated.reason.as_deref() != Some("ContainerStatusUnknown")).then_some(terminated.exit_code)
}

/// When the container started; the runtime's zero time means that it never did.
fn started(terminated: &ContainerStateTerminated) -> Option<Timestamp> {
    terminated.started_at.as_ref().map(|t| t.0).filter(|t| *t > Timestamp::UNIX_EPOCH)
}

/// Whether the container ended because of the deletion: not before it was asked for. What ended first is kept.
///
/// Once the containers have ended the kubelet deletes the pod again, without grace, and the API server then writes that
/// time over the one of the first deletion. A container that ended shortly before is taken for a killed one: to run a
/// job again that had failed is the smaller mistake than to fail one that was killed.
fn killed_by_deletion(pod: &Pod, terminated: &ContainerStateTerminated, finished_at: Timestamp) -> bool {
    let Some(Time(deadline)) = pod.metadata.deletion_timestamp else { return false };
    let grace = pod.metadata.deletion_grace_period_seconds.filter(|seconds| *seconds > 0);
    // A pod that the API server knows to have ended gets no grace. One that was deleted by force gets none either,
    // but hardly ends well.
    if grace.is_none() && terminated.exit_code == 0 {
        return false;
    }
    let Ok(asked) = deadline.checked_sub(grace.map_or(REMOVAL, SignedDuration::from_secs)) else {
        return true;
    };
    terminated.finished_at.is_none() || finished_at >= asked
}

/// The last time in the pod's object, for a pod whose container has none.
fn last_change(pod: &Pod) -> Timestamp {
    let conditions = pod.status.iter().flat_map(|s| s.conditions.iter().flatten());
    let moves = conditions.filter_map(|c| Some(c.last_transition_time.as_ref()?.0));
    moves.max().unwrap_or_else(|| created(pod)).max(created(pod))
}
