//! An attempt that has a pod: it starts, runs, is stopped or has ended.

use jiff::Timestamp;
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Time};
use kube::ResourceExt;

use super::{
    Step, UNDER_LOAD_AFTER, View, assign, bounds, canceled, delete, excess_grace,
    finish::finish,
    move_to,
    start::waiting,
    status,
    stored::{closed, stopping},
};
use crate::{
    api_types::{JobPhase, JobStatus, Reason},
    domain::{
        attempt::{self, Observed, stop::Stop},
        job_state::IllegalMove,
    },
};

pub(super) fn at_work(
    view: &View<'_>,
    status: &JobStatus,
    number: u32,
    pod: &Pod,
) -> Result<Step, IllegalMove> {
    let is_deleted = pod.metadata.deletion_timestamp.is_some();
    let bounds = bounds(view, status, number, pod);
    match (attempt::observe_within(pod, &bounds), view.drain) {
        (Observed::Ended(ending), _) => {
            finish(view, status, number, ending, attempt::record_within(pod, view.gpu_resource, &bounds))
        }
        // Whoever deletes a pod may give it a day: until its end neither its timeout nor its tenant's state would count.
        _ if is_deleted && excess_grace(pod).is_some() => Ok(delete(pod)),
        _ if is_deleted => Ok(Step::Wait(None)),
        (Observed::Running { .. }, _) if canceled(view.job) => Ok(stop_pod(view, pod, Reason::Canceled)),
        // Kubelets forget what they have reported.
        _ if canceled(view.job) && status.phase == JobPhase::Running => {
            Ok(stop_pod(view, pod, Reason::Canceled))
        }
        _ if canceled(view.job) => Ok(delete(pod)),
        (_, Some(reason)) => stop(view, status, number, pod, reason),
        // Kubelets forget what they have reported, but start no container twice.
        (Observed::Waiting { .. }, None) if status.phase == JobPhase::Running => {
            let started_at = status.started_at.as_ref().map_or_else(|| attempt::created(pod), |time| time.0);
            running(view, status, number, pod, started_at)
        }
        (Observed::Waiting { detail }, None) => waiting(view, status, number, pod, detail),
        (Observed::Running { started_at }, None) => running(view, status, number, pod, started_at),
    }
}

fn running(
    view: &View<'_>,
    status: &JobStatus,
    number: u32,
    pod: &Pod,
    started_at: Timestamp,
) -> Result<Step, IllegalMove> {
    let node = attempt::node(pod).map(str::to_owned);
    let due = started_at.saturating_add(UNDER_LOAD_AFTER).unwrap_or(started_at);
    if view.busy && status.phase != JobPhase::Running && (started_at..due).contains(&view.steady) {
        return Ok(Step::Wait(Some(due)));
    }
    if status.phase != JobPhase::Running || status.node != node || stopping(status).is_some() {
        let message = format!("attempt {number} runs on {}", node.as_deref().unwrap_or("a node"));
        let way = [JobPhase::Assigned, JobPhase::Running];
        let way = if status.phase == JobPhase::Queued { &way[..] } else { &way[1..] };
        return move_to(view, status, way, Reason::Running, message, |new| {
            assign(new, number, pod);
            new.started_at = Some(Time(started_at));
        });
    }
    match attempt::allowance(pod).and_then(|allowed| started_at.saturating_add(allowed).ok()) {
        Some(end) if end <= view.steady => Ok(stop_pod(view, pod, Reason::DeadlineExceeded)),
        end => Ok(Step::Wait(end)),
    }
}

/// Ends a pod that has started, by its deadline: a deletion would take its log along. Where the job itself is being
/// deleted, and where the kubelet does not heed the deadline, it is deleted.
pub(super) fn stop_pod(view: &View<'_>, pod: &Pod, reason: Reason) -> Step {
    if view.job.metadata.deletion_timestamp.is_some() {
        return delete(pod);
    }
    match attempt::stop::request(pod).map(|stop| stop.until(pod)) {
        None => Step::Stop {
            pod: pod.name_any(),
            uid: pod.uid().unwrap_or_default(),
            version: pod.resource_version().unwrap_or_default(),
            stop: Stop { at: view.steady, reason },
        },
        Some(until) if until <= view.steady => delete(pod),
        Some(until) => Step::Wait(Some(until)),
    }
}

/// When the running time of the job's attempt is up; `None` where none runs or it may run for ever.
#[must_use]
pub fn time_is_up(view: &View<'_>) -> Option<Timestamp> {
    let status = status(view.job);
    let ends = view.pods.iter().filter_map(|pod| {
        let bounds = bounds(view, &status, attempt::number(pod)?, pod);
        match attempt::observe_within(pod, &bounds) {
            Observed::Running { started_at } => started_at.saturating_add(attempt::allowance(pod)?).ok(),
            _ => None,
        }
    });
    ends.min()
}

/// Stops an attempt of a tenant that drains. The status says so first: the pod takes its time to end, and the attempt
/// is to cost no retry even when the tenant has been opened again by then.
fn stop(
    view: &View<'_>,
    status: &JobStatus,
    number: u32,
    pod: &Pod,
    reason: Reason,
) -> Result<Step, IllegalMove> {
    if stopping(status) == Some(reason) {
        return Ok(delete(pod));
    }
    let at = if status.phase == JobPhase::Queued { JobPhase::Assigned } else { status.phase };
    let message = format!("attempt {number} is being stopped: the tenant is {}", closed(reason));
    move_to(view, status, &[at], reason, message, |new| {
        if status.phase == JobPhase::Queued {
            assign(new, number, pod);
        }
    })
}
