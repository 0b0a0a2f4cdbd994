//! A job without a pod: it waits for admission, or for its next attempt.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;

use super::{Step, View, canceled, delete, limits::used_up, move_to};
use crate::{
    api_types::{JobPhase, JobStatus, Reason, job::RetryPolicy},
    domain::{admission::Verdict, job_state::IllegalMove},
};

pub(super) fn queued(view: &View<'_>, status: &JobStatus, attempt: u32) -> Result<Step, IllegalMove> {
    if canceled(view.job) {
        let message = "canceled while queued".to_owned();
        return move_to(view, status, &[JobPhase::Canceled], Reason::Canceled, message, |_| ());
    }
    if view.foreign {
        return outside(view, status);
    }
    match view.verdict {
        Some(Verdict::Admit(admission)) if admission.attempt == attempt => match used_up(view) {
            _ if view.running_limit.is_some_and(|limit| limit.is_zero()) => {
                // No job may run any more: the scheduler is about to say so.
                Ok(Step::Wait(None))
            }
            Some(_) if view.job.spec.retry_policy == RetryPolicy::Always => {
                let (reason, message) = (Reason::Queued, format!("waits for attempt {attempt}"));
                move_to(view, status, &[JobPhase::Queued], reason, message, |new| new.running_millis = 0)
            }
            Some(used) => {
                let way = [JobPhase::Assigned, JobPhase::Failed];
                let message = format!("no running time is left for attempt {attempt}: {used}");
                move_to(view, status, &way, Reason::DeadlineExceeded, message, |_| ())
            }
            None => Ok(Step::Create(admission.clone())),
        },
        Some(Verdict::Reject(reason, message)) => {
            move_to(view, status, &[JobPhase::Rejected], *reason, message.clone(), |_| ())
        }
        // A new message alone (other numbers, the same reason) is not worth a write.
        Some(Verdict::Wait(reason, message)) if status.reason.as_deref() != Some(reason.as_str()) => {
            move_to(view, status, &[JobPhase::Queued], *reason, message.clone(), |_| ())
        }
        _ => Ok(Step::Wait(None)),
    }
}

/// Says of a job that it is in no tenant's namespace.
fn outside(view: &View<'_>, status: &JobStatus) -> Result<Step, IllegalMove> {
    let reason = Reason::NotATenantNamespace;
    let known = view.job.metadata.generation.unwrap_or(0) == status.observed_generation;
    if known && status.reason.as_deref() == Some(reason.as_str()) {
        return Ok(Step::Wait(None));
    }
    let namespace = view.job.namespace().unwrap_or_default();
    let message = format!(
        "the namespace {namespace} belongs to no tenant: submit the job in the namespace of a tenant"
    );
    move_to(view, status, &[JobPhase::Queued], reason, message, |_| ())
}

pub(super) fn retrying(view: &View<'_>, status: &JobStatus, attempt: u32) -> Result<Step, IllegalMove> {
    if let Some(pod) = view.pods.first() {
        return Ok(if pod.metadata.deletion_timestamp.is_some() { Step::Wait(None) } else { delete(pod) });
    }
    if canceled(view.job) {
        let message = format!("canceled after attempt {attempt}");
        return move_to(view, status, &[JobPhase::Canceled], Reason::Canceled, message, |_| ());
    }
    match status.not_before.as_ref() {
        Some(Time(at)) if *at > view.steady => Ok(Step::Wait(Some(*at))),
        _ => again(view, status, attempt + 1),
    }
}

/// Queues the next attempt, unless it would have no time to run: the plan's limit was cut, or an attempt was lost that
/// had used it up.
fn again(view: &View<'_>, status: &JobStatus, next: u32) -> Result<Step, IllegalMove> {
    let used = used_up(view);
    if let (Some(used), RetryPolicy::Infrastructure) = (&used, view.job.spec.retry_policy) {
        let message = format!("no running time is left for attempt {next}: {used}");
        return move_to(view, status, &[JobPhase::Failed], Reason::DeadlineExceeded, message, |_| ());
    }
    let message = format!("waits for attempt {next}");
    move_to(view, status, &[JobPhase::Queued], Reason::Queued, message, |new| {
        (new.pod, new.node, new.worker_group) = (None, None, None);
        (new.assigned_at, new.started_at, new.not_before) = (None, None, None);
        // A timeout is to be retried: then with the whole time again.
        if used.is_some() {
            new.running_millis = 0;
        }
    })
}
