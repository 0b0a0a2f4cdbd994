//! A status that contradicts the job as it is now: it is written again with the conditions that belong to its phase.

use super::{Step, View, move_to};
use crate::{
    api_types::{JobPhase, JobStatus, Reason},
    domain::job_state::{IllegalMove, is_terminal},
};

/// Whether the status says of the job what is not so any more, and no other step will change that: that it can't be
/// read, that its namespace belongs to no tenant, or, once it has ended, that its newest spec (a late `canceled`) was
/// not observed.
pub(super) fn out_of_date(view: &View<'_>, status: &JobStatus) -> bool {
    let job = view.job;
    let adopted = !view.foreign && status.reason.as_deref() == Some(Reason::NotATenantNamespace.as_str());
    let unread = is_terminal(status.phase)
        && job.metadata.deletion_timestamp.is_none()
        && job.metadata.generation.is_some_and(|generation| generation != status.observed_generation);
    unread || adopted || status.conditions.iter().any(|c| c.reason == Reason::InvalidObject.as_str())
}

/// The same status, with the conditions that belong to it.
pub(super) fn restate(view: &View<'_>, status: &JobStatus) -> Result<Step, IllegalMove> {
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
