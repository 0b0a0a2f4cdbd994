//! The life of a job: from what is known of it, the one next step.
//!
//! Level-triggered: every call reads the whole job and all its pods, so that a step that was lost, repeated or
//! interrupted anywhere is found again. Steps are ordered so that nothing runs twice: attempt n+1 is created only when
//! no pod of attempt n exists, and the end of an attempt is in the status before the finalizer of its pod is removed.

mod ended;
mod finish;
mod limits;
mod queued;
mod restate;
mod running;
mod start;
mod stored;
#[cfg(test)]
mod tests;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Time};
use kube::ResourceExt;

use self::{
    ended::after_the_end,
    finish::finish,
    queued::{queued, retrying},
    restate::{out_of_date, restate},
    running::at_work,
};
pub use self::{
    finish::on_record,
    limits::{running_left, running_limit},
    running::time_is_up,
};
use super::{
    admission::{Admission, Verdict},
    attempt::{self, Bounds, Cause, Ending, stop::Stop},
    job_state::{IllegalMove, check_way, is_terminal},
    resources::Resources,
};
use crate::api_types::{
    Job, JobPhase, JobStatus, Reason,
    conditions::{self, Wanted},
};

/// While others wait for the API server, `Assigned` and `Running` are written only where the pod has not advanced by
/// then: starts and ends come first, and short jobs have ended by then. Under load a job of 4 s takes 6: its end, too,
/// waits for the API server.
pub const UNDER_LOAD_AFTER: SignedDuration = SignedDuration::from_secs(8);

/// Everything that the next step depends on.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The job.
    pub job: &'a Job,
    /// All its pods that exist.
    pub pods: &'a [std::sync::Arc<Pod>],
    /// What admission says, while the job waits.
    pub verdict: Option<&'a Verdict>,
    /// The running time that is allowed in all, by [`running_limit`]; `None` is unlimited.
    pub running_limit: Option<SignedDuration>,
    /// Why running jobs are to be stopped and requeued, uncharged, if they are (a tenant that drains).
    pub drain: Option<Reason>,
    /// A pod must have started this long after it was made; otherwise the attempt is given up.
    pub start_limit: SignedDuration,
    /// The extended resource that counts GPUs.
    pub gpu_resource: &'a str,
    /// Whether the controller is saturated, or was just now, so that writes that can wait should.
    pub busy: bool,
    /// Whether the job's namespace belongs to no tenant, so that the job can't run there.
    pub foreign: bool,
    /// The time of day, for what is written.
    pub now: Timestamp,
    /// The time by which waiting and running are measured: as `now` was when the current attempt was first seen, and
    /// what has passed since by a clock that does not step. A clock that is set ends no attempt and holds none up.
    pub steady: Timestamp,
}

/// One step.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Nothing, until something changes or the time comes.
    Wait(Option<Timestamp>),
    /// Write this status.
    Write(Box<JobStatus>),
    /// Create the pod of this attempt.
    Create(Admission),
    /// Delete this pod, with its grace.
    Delete {
        /// Name of the pod.
        pod: String,
        /// Its UID.
        uid: String,
        /// Its grace in seconds, where it was deleted with more.
        grace: Option<u32>,
    },
    /// End this pod with its grace, and keep it for its log.
    Stop {
        /// Name of the pod.
        pod: String,
        /// Its UID.
        uid: String,
        /// The version that this was decided by.
        version: String,
        /// When and why.
        stop: Stop,
    },
    /// The cache lacks the pod of this attempt: ask the API server, and call [`lost`] if it does not exist.
    ConfirmLost(u32),
    /// Delete the job: its time after the end is up.
    Expire,
}

/// The next step.
///
/// # Errors
/// [`IllegalMove`] when the stored status can't lead where the facts do; the job is then left alone and reported.
pub fn next(view: &View<'_>) -> Result<Step, IllegalMove> {
    let status = status(view.job);
    if out_of_date(view, &status) {
        return restate(view, &status);
    }
    if is_terminal(status.phase) {
        return Ok(after_the_end(view, &status));
    }
    let attempt = u32::try_from(status.attempt).unwrap_or(0);
    match status.phase {
        JobPhase::Queued => match pod_of(view, attempt + 1) {
            Some(pod) => at_work(view, &status, attempt + 1, pod),
            None => queued(view, &status, attempt + 1),
        },
        JobPhase::Retrying => retrying(view, &status, attempt),
        _ => match pod_of(view, attempt) {
            Some(pod) => at_work(view, &status, attempt, pod),
            None => Ok(Step::ConfirmLost(attempt)),
        },
    }
}

/// The status to write when the pod of the current attempt does not exist any more, and its end was not seen: whoever removed its
/// finalizer. It is on record with what it `asked` for, as having run until now, and for no longer than it might.
///
/// # Errors
/// [`IllegalMove`], as [`next`].
pub fn lost(view: &View<'_>, asked: Resources) -> Result<Step, IllegalMove> {
    let status = status(view.job);
    let started_at = status.started_at.as_ref().map(|t| t.0);
    let latest = started_at.zip(running_left(view)).and_then(|(start, left)| start.checked_add(left).ok());
    let ending = Ending {
        reason: Reason::PodDeleted,
        message: "the pod was deleted before its end was seen".to_owned(),
        cause: Cause::Deletion,
        exit_code: None,
        started_at,
        finished_at: latest.map_or(view.steady, |latest| latest.min(view.steady)),
    };
    let pod = status.pod.clone().unwrap_or_default();
    let record = attempt::record_of(status.attempt, pod, status.node.clone(), &ending, asked);
    finish(view, &status, u32::try_from(status.attempt).unwrap_or(0), ending, Some(record))
}

/// The status when no pod can be made of the job, or the API server refuses it for good.
///
/// # Errors
/// [`IllegalMove`], as [`next`].
pub fn refused(view: &View<'_>, reason: Reason, message: String) -> Result<Step, IllegalMove> {
    move_to(view, &status(view.job), &[JobPhase::Rejected], reason, message, |_| ())
}

fn status(job: &Job) -> JobStatus {
    job.status.clone().unwrap_or_else(|| JobStatus { observed_generation: -1, ..JobStatus::default() })
}

fn pod_of<'a>(view: &View<'a>, number: u32) -> Option<&'a Pod> {
    view.pods.iter().map(AsRef::as_ref).find(|pod| attempt::number(pod) == Some(number))
}

/// Whether the job was asked to end.
#[must_use]
pub fn canceled(job: &Job) -> bool {
    job.spec.canceled || job.metadata.deletion_timestamp.is_some()
}

/// What is known of an attempt's times from others than its node.
fn bounds(view: &View<'_>, status: &JobStatus, number: u32, pod: &Pod) -> Bounds {
    let recorded = status.started_at.as_ref().filter(|_| u32::try_from(status.attempt) == Ok(number));
    Bounds { started: recorded.map(|time| time.0), now: Some(view.steady), ..Bounds::of(pod) }
}

fn delete(pod: &Pod) -> Step {
    Step::Delete { pod: pod.name_any(), uid: pod.uid().unwrap_or_default(), grace: excess_grace(pod) }
}

/// The grace of a pod that was deleted with more: the API server lets it be shortened. A pod that was not gets none named, as the
/// API server would take it also for one that has ended.
fn excess_grace(pod: &Pod) -> Option<u32> {
    let own = pod.spec.as_ref()?.termination_grace_period_seconds?;
    pod.metadata.deletion_grace_period_seconds.filter(|grace| *grace > own)?;
    u32::try_from(own).ok()
}

fn assign(new: &mut JobStatus, number: u32, pod: &Pod) {
    new.attempt = i32::try_from(number).unwrap_or(i32::MAX);
    new.pod = Some(pod.name_any());
    new.node = attempt::node(pod).map(str::to_owned);
    new.worker_group = pod.labels().get(crate::names::LABEL_GROUP).cloned();
    new.assigned_at = Some(Time(attempt::created(pod)));
    new.charged_retries =
        attempt::retry(pod).and_then(|retry| i32::try_from(retry).ok()).or(new.charged_retries);
    (new.started_at, new.not_before, new.exit_code) = (None, None, None);
}

/// The status after a move along `way`, with the reason, conditions and what `change` adds.
fn move_to(
    view: &View<'_>,
    old: &JobStatus,
    way: &[JobPhase],
    reason: Reason,
    message: String,
    change: impl FnOnce(&mut JobStatus),
) -> Result<Step, IllegalMove> {
    check_way(old.phase, way)?;
    let mut new = old.clone();
    new.phase = way.last().copied().unwrap_or(old.phase);
    new.observed_generation = view.job.metadata.generation.unwrap_or(0);
    new.reason = Some(reason.as_str().to_owned());
    new.message = Some(message.clone());
    change(&mut new);
    if is_terminal(new.phase) && new.finished_at.is_none() {
        new.finished_at = Some(Time(view.now));
    }
    let yes = |kind| Wanted::yes(kind, reason, message.clone());
    let wanted = match new.phase {
        JobPhase::Completed => vec![yes(conditions::FINISHED), yes(conditions::COMPLETE)],
        JobPhase::Canceled => vec![yes(conditions::FINISHED)],
        JobPhase::Failed | JobPhase::TimedOut | JobPhase::Rejected => {
            vec![yes(conditions::FINISHED), yes(conditions::FAILED), yes(conditions::STALLED)]
        }
        _ if reason == Reason::NotATenantNamespace => vec![yes(conditions::STALLED)],
        _ => vec![yes(conditions::RECONCILING)],
    };
    new.conditions = conditions::merge(&old.conditions, wanted, view.job.metadata.generation, view.now);
    Ok(Step::Write(Box::new(new)))
}
