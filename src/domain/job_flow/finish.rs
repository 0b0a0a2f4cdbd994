//! Where the end of an attempt takes its job: the phase, whether there is a retry, and the record of the attempt.

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Time};
use kube::ResourceExt;

use super::{
    Step, View, assign, canceled,
    limits::running_left,
    move_to,
    stored::{closed, placed, stopping, unstartable},
};
use crate::{
    api_types::{
        JobPhase, JobStatus, Reason,
        job::{AttemptRecord, RetryPolicy},
    },
    domain::{
        attempt::{self, Cause, Ending},
        job_state::IllegalMove,
        retry,
    },
};

/// Records of attempts that a status holds.
const RECORDS: usize = 16;

/// Where an attempt that ended takes the job.
pub(super) fn finish(
    view: &View<'_>,
    status: &JobStatus,
    number: u32,
    mut ending: Ending,
    record: Option<AttemptRecord>,
) -> Result<Step, IllegalMove> {
    // Without its pod an end is known by this machine's clock alone, which may be behind the start.
    let running = ending.started_at.map(|start| ending.finished_at.duration_since(start));
    let running = running.unwrap_or_default().max(SignedDuration::ZERO);
    let total = SignedDuration::from_millis(status.running_millis).saturating_add(running);
    let pod = view.pods.iter().find(|p| attempt::number(p) == Some(number));
    if ending.cause == Cause::Deletion {
        let allowed = match pod {
            Some(pod) => attempt::allowance(pod),
            None => running_left(view),
        };
        let late = allowed.is_some_and(|allowed| running >= allowed);
        name_deletion(view, status, pod.map(AsRef::as_ref), &mut ending, late);
    }
    let outcome = outcome(view, status, &ending);
    let assigned = (status.phase == JobPhase::Queued).then_some(JobPhase::Assigned);
    let timed_out = (ending.cause == Cause::Timeout).then_some(JobPhase::TimedOut);
    let way: Vec<JobPhase> = assigned.into_iter().chain(timed_out).chain([outcome.phase]).collect();
    move_to(view, status, &way, outcome.reason, outcome.message, |new| {
        if let Some(pod) = pod {
            assign(new, number, pod);
        }
        new.started_at = ending.started_at.map(Time);
        new.exit_code = ending.exit_code;
        new.running_millis = i64::try_from(total.as_millis()).unwrap_or(i64::MAX);
        if let Some(mut record) = record {
            record.reason = ending.reason.as_str().to_owned();
            (record.started_at, record.finished_at) = (ending.started_at.map(Time), Time(ending.finished_at));
            put_on_record(new, record);
        }
        match outcome.phase {
            JobPhase::Retrying => {
                let nth = outcome.charge.to(new);
                // The time is counted over all attempts; one that used it up gives the next a whole new allowance.
                if ending.cause == Cause::Timeout {
                    new.running_millis = 0;
                }
                new.not_before = nth.map(|nth| Time(retry_at(view, nth, ending.finished_at)));
            }
            _ => new.finished_at = Some(Time(ending.finished_at)),
        }
    })
}

pub(super) fn put_on_record(new: &mut JobStatus, record: AttemptRecord) {
    new.attempts.push(record);
    let surplus = new.attempts.len().saturating_sub(RECORDS);
    new.attempts.drain(..surplus);
}

/// Whether a status has, or had, the record of an attempt that ended.
#[must_use]
pub fn on_record(status: &JobStatus, attempt: i32) -> bool {
    status.attempt > attempt || status.attempts.iter().any(|record| record.attempt == attempt)
}

fn retry_at(view: &View<'_>, nth: u32, finished_at: Timestamp) -> Timestamp {
    let wait = retry::backoff(&view.job.uid().unwrap_or_default(), nth);
    finished_at.checked_add(wait).unwrap_or(finished_at)
}

/// A pod that was deleted was mostly deleted by us; the reason is then ours.
fn name_deletion(view: &View<'_>, status: &JobStatus, pod: Option<&Pod>, ending: &mut Ending, late: bool) {
    let never_started = ending.started_at.is_none();
    let start_limit = pod.and_then(|pod| attempt::created(pod).checked_add(view.start_limit).ok());
    if canceled(view.job) {
        ending.reason = Reason::Canceled;
        let when = if never_started { "before it ran" } else { "while it ran" };
        ending.message = format!("canceled {when}");
    } else if late {
        (ending.reason, ending.cause) = (Reason::DeadlineExceeded, Cause::Timeout);
        "ran longer than its timeout".clone_into(&mut ending.message);
    } else if let Some(reason) = stopping(status).or(view.drain) {
        ending.reason = reason;
        ending.message = format!("stopped because the tenant is {}", closed(reason));
    } else if let Some(reason) = unstartable(status)
        && never_started
    {
        (ending.reason, ending.cause) = (reason, Cause::Invalid);
        ending.message = status.message.clone().unwrap_or_default();
    } else if let Some(pod) = pod
        && never_started
        && start_limit.is_some_and(|limit| limit <= view.steady)
    {
        (ending.reason, ending.cause) = (Reason::StartTimeout, Cause::Infrastructure);
        ending.message = format!("the pod did not start within {:#}", view.start_limit);
        let number = attempt::number(pod).unwrap_or_default();
        if let Some(said) = status.message.as_ref().filter(|_| status.phase == JobPhase::Assigned)
            && *said != placed(number, pod)
        {
            ending.message = format!("{}: {said}", ending.message);
        }
    }
}

struct Outcome {
    phase: JobPhase,
    reason: Reason,
    message: String,
    /// What another attempt counts as.
    charge: Charge,
}

/// What another attempt counts as.
#[derive(Clone, Copy)]
enum Charge {
    /// Nothing, and it follows without a pause: the tenant drains.
    Nothing,
    /// One of `maxRetries`.
    Retry,
    /// One of [`retry::MAX_DISRUPTIONS`].
    Disruption,
}

impl Charge {
    /// Counts it, and returns the number of its kind, this one included.
    fn to(self, status: &mut JobStatus) -> Option<u32> {
        let count = match self {
            Self::Nothing => return None,
            Self::Retry => &mut status.retries,
            Self::Disruption => &mut status.disruptions,
        };
        *count = count.saturating_add(1);
        u32::try_from(*count).ok()
    }
}

/// Whether the cluster ended an attempt that could have succeeded; a pod that did not start in time could not.
fn is_disruption(ending: &Ending) -> bool {
    matches!(ending.cause, Cause::Infrastructure | Cause::Deletion) && ending.reason != Reason::StartTimeout
}

fn outcome(view: &View<'_>, status: &JobStatus, ending: &Ending) -> Outcome {
    let spec = &view.job.spec;
    let end = |phase| Outcome {
        phase,
        reason: ending.reason,
        message: ending.message.clone(),
        charge: Charge::Nothing,
    };
    let always = spec.retry_policy == RetryPolicy::Always;
    let retried = match ending.cause {
        Cause::Success => return end(JobPhase::Completed),
        Cause::Invalid => return end(JobPhase::Failed),
        Cause::Deletion if ending.reason == Reason::Canceled => return end(JobPhase::Canceled),
        Cause::Deletion if matches!(ending.reason, Reason::TenantSuspended | Reason::TenantExpired) => {
            return end(JobPhase::Retrying);
        }
        Cause::Infrastructure | Cause::Deletion => true,
        Cause::Timeout | Cause::Job => always,
    };
    let last = if ending.cause == Cause::Timeout { JobPhase::TimedOut } else { JobPhase::Failed };
    if canceled(view.job) && retried && last == JobPhase::Failed {
        return Outcome { reason: Reason::Canceled, ..end(JobPhase::Canceled) };
    }
    if !retried || canceled(view.job) {
        return end(last);
    }
    let (charge, most) = match is_disruption(ending) {
        // Zero is no small number of retries but the wish for no second run.
        true if spec.max_retries > 0 => (Charge::Disruption, retry::MAX_DISRUPTIONS),
        _ => (Charge::Retry, spec.max_retries),
    };
    let message = match charge {
        Charge::Disruption if status.disruptions >= most => {
            format!("{}; the cluster has ended {most} attempts before, and no other follows", ending.message)
        }
        Charge::Retry if status.retries >= most => {
            format!("{}; no retry is left ({} of {most})", ending.message, status.retries)
        }
        _ => return Outcome { charge, ..end(JobPhase::Retrying) },
    };
    Outcome { message, ..end(last) }
}
