//! The way of a job: from what is known of it, the one next step.
//!
//! Level-triggered: every call looks at the whole job and all its pods, so that a step that was lost, repeated or
//! interrupted anywhere is found again. Steps are ordered so that nothing runs twice: attempt n+1 is created only when
//! no pod of attempt n exists, and what ended is in the status before its pod is let go.

mod finish;
mod start;
#[cfg(test)]
mod tests;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Time};
use kube::ResourceExt;

pub use self::finish::on_record;
use self::{
    finish::{finish, put_on_record},
    start::waiting,
};
use super::{
    admission::{Admission, Verdict},
    attempt::{self, Bounds, Cause, Ending, Observed, stop::Stop},
    job_state::{IllegalMove, check_way, is_terminal},
};
use crate::api_types::{
    Job, JobPhase, JobStatus, Reason,
    conditions::{self, Wanted},
    job::RetryPolicy,
    plan::Limit,
};

/// While others wait for the API server, `Assigned` and `Running` are written only where the pod has not gone further by
/// then: starts and ends go first, and short jobs have ended by then. Under load a job of 4 s is there for 6: its end, too,
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
    /// Whether many jobs are being taken further, or were just now, so that what can wait should.
    pub busy: bool,
    /// Whether the job's namespace belongs to no tenant, so that the job can't run there.
    pub foreign: bool,
    /// The time of day, for what is written.
    pub now: Timestamp,
    /// The time by which waiting and running are measured: as `now` was when the current attempt was first seen, and what
    /// has passed since by a clock that does not step. A clock that is set ends no attempt and holds none up.
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
    /// The pod of this attempt is not in the cache: ask the API server, and call [`lost`] if it is gone.
    Look(u32),
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
            None => Ok(Step::Look(attempt)),
        },
    }
}

/// The status to write when the pod of the current attempt does not exist any more, and nobody saw it end.
///
/// # Errors
/// [`IllegalMove`], as [`next`].
pub fn lost(view: &View<'_>) -> Result<Step, IllegalMove> {
    let status = status(view.job);
    let started_at = status.started_at.as_ref().map(|t| t.0);
    let ending = Ending {
        reason: Reason::PodDeleted,
        message: "the pod is gone and nobody saw it end".to_owned(),
        cause: Cause::Deletion,
        exit_code: None,
        started_at,
        finished_at: view.steady,
    };
    finish(view, &status, u32::try_from(status.attempt).unwrap_or(0), ending, None)
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

fn queued(view: &View<'_>, status: &JobStatus, attempt: u32) -> Result<Step, IllegalMove> {
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
        Some(Verdict::Reject(reason, sentence)) => {
            move_to(view, status, &[JobPhase::Rejected], *reason, sentence.clone(), |_| ())
        }
        // A new sentence alone (other numbers, the same reason) is not worth a write.
        Some(Verdict::Wait(reason, sentence)) if status.reason.as_deref() != Some(reason.as_str()) => {
            move_to(view, status, &[JobPhase::Queued], *reason, sentence.clone(), |_| ())
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

/// What is known of an attempt's times from others than its node.
fn bounds(view: &View<'_>, status: &JobStatus, number: u32, pod: &Pod) -> Bounds {
    let recorded = status.started_at.as_ref().filter(|_| u32::try_from(status.attempt) == Ok(number));
    Bounds { started: recorded.map(|time| time.0), now: Some(view.steady), ..Bounds::of(pod) }
}

fn at_work(view: &View<'_>, status: &JobStatus, number: u32, pod: &Pod) -> Result<Step, IllegalMove> {
    let going = pod.metadata.deletion_timestamp.is_some();
    let bounds = bounds(view, status, number, pod);
    match (attempt::observe_within(pod, &bounds), view.drain) {
        (Observed::Ended(ending), _) => {
            finish(view, status, number, ending, attempt::record_within(pod, view.gpu_resource, &bounds))
        }
        _ if going => Ok(Step::Wait(None)),
        (Observed::Running { .. }, _) if canceled(view.job) => Ok(stop_pod(view, pod, Reason::Canceled)),
        // Kubelets forget what they have reported.
        _ if canceled(view.job) && status.phase == JobPhase::Running => {
            Ok(stop_pod(view, pod, Reason::Canceled))
        }
        _ if canceled(view.job) => Ok(delete(pod)),
        (_, Some(reason)) => stop(view, status, number, pod, reason),
        // Kubelets forget what they have told, but make no container twice.
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
    let told = started_at.saturating_add(UNDER_LOAD_AFTER).unwrap_or(started_at);
    if view.busy && status.phase != JobPhase::Running && (started_at..told).contains(&view.steady) {
        return Ok(Step::Wait(Some(told)));
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
fn stop_pod(view: &View<'_>, pod: &Pod, reason: Reason) -> Step {
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

/// Stops an attempt of a tenant that drains. The status says so first: the pod takes its time to end, and the attempt is
/// to cost no retry even when the tenant has been opened again by then.
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

/// Why the current attempt is being stopped, if it is.
fn stopping(status: &JobStatus) -> Option<Reason> {
    if !matches!(status.phase, JobPhase::Assigned | JobPhase::Running) {
        return None;
    }
    let reason: Reason = status.reason.as_deref()?.parse().ok()?;
    matches!(reason, Reason::TenantSuspended | Reason::TenantExpired).then_some(reason)
}

/// What a tenant is that drains.
fn closed(reason: Reason) -> &'static str {
    if reason == Reason::TenantExpired { "expired" } else { "suspended" }
}

fn retrying(view: &View<'_>, status: &JobStatus, attempt: u32) -> Result<Step, IllegalMove> {
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

/// That earlier attempts have used up the running time, in numbers. Where no job may run at all that is not why.
fn used_up(view: &View<'_>) -> Option<String> {
    let allowed = view.running_limit.filter(|limit| limit.is_positive())?;
    running_left(view).filter(|left| left.as_secs() == 0)?;
    let used = SignedDuration::from_millis(view.job.status.as_ref().map_or(0, |s| s.running_millis));
    Some(format!("{:#} of {allowed:#} are used", SignedDuration::from_secs(used.as_secs())))
}

/// Whether the status says of the job what is not so any more, and no other step will change that: that it can't be read,
/// that its namespace belongs to no tenant, or, once it has ended, that its newest spec (a late `canceled`) was not looked at.
fn out_of_date(view: &View<'_>, status: &JobStatus) -> bool {
    let job = view.job;
    let adopted = !view.foreign && status.reason.as_deref() == Some(Reason::NotATenantNamespace.as_str());
    let unread = is_terminal(status.phase)
        && job.metadata.deletion_timestamp.is_none()
        && job.metadata.generation.is_some_and(|generation| generation != status.observed_generation);
    unread || adopted || status.conditions.iter().any(|c| c.reason == Reason::InvalidObject.as_str())
}

/// The same status, with the conditions that belong to it.
fn restate(view: &View<'_>, status: &JobStatus) -> Result<Step, IllegalMove> {
    let reported: Option<Reason> = status.reason.as_deref().and_then(|reason| reason.parse().ok());
    let over = [Reason::InvalidObject, Reason::NotATenantNamespace];
    let (reason, message) = match reported.filter(|reason| !over.contains(reason)) {
        Some(reason) => (reason, status.message.clone().unwrap_or_default()),
        None if reported == Some(Reason::NotATenantNamespace) => {
            (usual_reason(status.phase), "the namespace belongs to a tenant".to_owned())
        }
        None => (usual_reason(status.phase), "the job can be read again".to_owned()),
    };
    move_to(view, status, &[status.phase], reason, message, |_| ())
}

fn usual_reason(phase: JobPhase) -> Reason {
    match phase {
        JobPhase::Queued => Reason::Queued,
        JobPhase::Assigned => Reason::Admitted,
        JobPhase::Running => Reason::Running,
        JobPhase::Retrying => Reason::BackingOff,
        JobPhase::Completed => Reason::Succeeded,
        JobPhase::Failed => Reason::NonZeroExit,
        JobPhase::TimedOut => Reason::DeadlineExceeded,
        JobPhase::Canceled => Reason::Canceled,
        JobPhase::Rejected => Reason::PodRefused,
    }
}

/// A job that has ended keeps its pods for their logs, but none that could still run, and what ran all the same (its
/// pod was made just before the job was canceled) goes on record.
fn after_the_end(view: &View<'_>, status: &JobStatus) -> Step {
    let record = |pod: &std::sync::Arc<Pod>| {
        let bounds = bounds(view, status, attempt::number(pod)?, pod);
        attempt::record_within(pod, view.gpu_resource, &bounds)
    };
    let records = view.pods.iter().filter_map(record);
    if let Some(missing) = records.into_iter().find(|record| !on_record(status, record.attempt)) {
        let mut new = status.clone();
        (new.attempt, new.pod, new.node) = (missing.attempt, Some(missing.pod.clone()), missing.node.clone());
        new.running_millis = new.running_millis.saturating_add(missing.running_millis());
        put_on_record(&mut new, missing);
        return Step::Write(Box::new(new));
    }
    let live = view.pods.iter().find(|pod| {
        pod.metadata.deletion_timestamp.is_none() && !matches!(attempt::observe(pod), Observed::Ended(_))
    });
    if let Some(pod) = live {
        return delete(pod);
    }
    let kept =
        |pod: &&std::sync::Arc<Pod>| pod.metadata.deletion_timestamp.is_none() && attempt::others_run(pod);
    if let Some(pod) = view.pods.iter().find(kept) {
        // The attempt has its end: this one is the sidecar's.
        return stop_pod(view, pod, Reason::Succeeded);
    }
    let Some(seconds) = view.job.spec.ttl_seconds_after_finished else { return Step::Wait(None) };
    let Some(Time(end)) = status.finished_at else { return Step::Wait(None) };
    match end.saturating_add(SignedDuration::from_secs(seconds)) {
        Ok(at) if at <= view.now => Step::Expire,
        Ok(at) => Step::Wait(Some(at)),
        Err(_) => Step::Wait(None),
    }
}

fn delete(pod: &Pod) -> Step {
    Step::Delete { pod: pod.name_any(), uid: pod.uid().unwrap_or_default() }
}

fn assign(new: &mut JobStatus, number: u32, pod: &Pod) {
    new.attempt = i32::try_from(number).unwrap_or(i32::MAX);
    new.pod = Some(pod.name_any());
    new.node = attempt::node(pod).map(str::to_owned);
    new.worker_group = pod.labels().get(crate::names::LABEL_GROUP).cloned();
    new.assigned_at = Some(Time(attempt::created(pod)));
    (new.started_at, new.not_before, new.exit_code) = (None, None, None);
}

/// The running time that is allowed in all: the job's or its scenario's, at most the plan's. It is handed to an attempt
/// when its pod is made ([`attempt::allowance`]): a plan that changes concerns the attempts after it, and ends nothing
/// that runs.
#[must_use]
pub fn running_limit(timeout_seconds: Option<i64>, plan_minutes: Limit) -> Option<SignedDuration> {
    let plan = plan_minutes.times(60).at_most().and_then(|s| i64::try_from(s).ok());
    let seconds = [timeout_seconds, plan].into_iter().flatten().min()?;
    Some(SignedDuration::from_secs(seconds))
}

/// What is left of it for the next attempt.
#[must_use]
pub fn running_left(view: &View<'_>) -> Option<SignedDuration> {
    let used = SignedDuration::from_millis(view.job.status.as_ref().map_or(0, |s| s.running_millis));
    Some(view.running_limit?.saturating_sub(used).max(SignedDuration::ZERO))
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
