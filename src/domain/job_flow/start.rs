//! What comes of an attempt that has a pod and has not started: it waits, is given up, or can never start.

use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Pod;

use super::{
    Step, UNDER_LOAD_AFTER, View, assign, delete, move_to,
    stored::{placed, stopping, unstartable},
};
use crate::{
    api_types::{JobPhase, JobStatus, Reason},
    domain::{
        attempt,
        job_state::IllegalMove,
        start_error::{self, StartError},
    },
};

/// `Assigned` is written only where the pod has not started by then: one write less for jobs that start at once.
const ASSIGNED_AFTER: SignedDuration = SignedDuration::from_secs(2);

/// The next step of an attempt whose container has not started.
pub(super) fn waiting(
    view: &View<'_>,
    status: &JobStatus,
    number: u32,
    pod: &Pod,
    detail: Option<String>,
) -> Result<Step, IllegalMove> {
    let made = attempt::created(pod);
    let patience = if view.busy { UNDER_LOAD_AFTER } else { ASSIGNED_AFTER };
    let (assigned, limit) = (made.saturating_add(patience), made.saturating_add(view.start_limit));
    let (assigned, mut limit) = (assigned.unwrap_or(made), limit.unwrap_or(made));
    if let Some(error) = start_error::of(pod) {
        let end = made.saturating_add(error.grace).unwrap_or(made);
        if end <= view.steady {
            return never_starts(view, status, number, pod, error);
        }
        limit = limit.min(end);
    }
    if limit <= view.steady {
        return Ok(delete(pod));
    }
    if status.phase == JobPhase::Queued && assigned > view.steady {
        return Ok(Step::Wait(Some(assigned)));
    }
    let other = stopping(status).or_else(|| unstartable(status)).is_some();
    if status.phase == JobPhase::Assigned && !other && !needs_report(status, detail.as_deref()) {
        return Ok(Step::Wait(Some(limit)));
    }
    let message = detail.unwrap_or_else(|| placed(number, pod));
    move_to(view, status, &[JobPhase::Assigned], Reason::Admitted, message, |new| assign(new, number, pod))
}

/// Ends an attempt whose container can never start. The status says so first, because the kubelet's message is deleted
/// with the pod's end; the job ends with that, and with its record.
fn never_starts(
    view: &View<'_>,
    status: &JobStatus,
    number: u32,
    pod: &Pod,
    error: StartError,
) -> Result<Step, IllegalMove> {
    if unstartable(status) == Some(error.reason) {
        return Ok(delete(pod));
    }
    let message = match error.grace.is_zero() {
        true => error.message,
        false => format!("{}; it was not created within {:#} of the pod", error.message, error.grace),
    };
    move_to(view, status, &[JobPhase::Assigned], error.reason, message, |new| assign(new, number, pod))
}

/// Whether what keeps a pod from starting is something else than the status says: other numbers in the same words, or
/// the kubelet's change between a pull that failed and the pause before the next, are not worth a write.
fn needs_report(status: &JobStatus, detail: Option<&str>) -> bool {
    let kind = |words: &str| match words.split(':').next().unwrap_or_default() {
        "ImagePullBackOff" => "ErrImagePull".to_owned(),
        other => other.replace(|c: char| c.is_ascii_digit(), ""),
    };
    detail.is_some_and(|words| Some(kind(words)) != status.message.as_deref().map(kind))
}
