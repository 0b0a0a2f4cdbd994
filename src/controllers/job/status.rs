//! Last step: the status that a step leads to is written, with the Event that users may have to act upon.

use kube::{ResourceExt, runtime::controller::Action};

use super::{Context, api::jobs_api, error::Error, outcome::Outcome};
use crate::{
    api_types::{Job, JobPhase, JobStatus, Reason},
    domain::{job_state::IllegalMove, job_state::is_terminal},
    kube_ext::status,
};

/// Writes what a step left to be written. A status is written only over the version that it was computed from.
pub(super) async fn update(job: &Job, outcome: Outcome, context: &Context) -> Result<Action, Error> {
    match outcome {
        Outcome::Done(action) => Ok(action),
        Outcome::Status(new) => {
            write(job, &new, context).await?;
            Ok(Action::await_change())
        }
        Outcome::Contradiction(error) => {
            report_contradiction(job, &error, context);
            Ok(Action::await_change())
        }
    }
}

async fn write(job: &Job, new: &JobStatus, context: &Context) -> Result<(), Error> {
    let written = status::write(&jobs_api(job, context), job, job.status.as_ref(), new).await;
    let written = written.map_err(|source| Error::WriteStatus { job: job.name_any(), source })?;
    written.into_iter().for_each(|job| context.mutations.put(job));
    let before = job.status.as_ref().map_or(JobPhase::Queued, |s| s.phase);
    if new.phase != before && (is_terminal(new.phase) || new.phase == JobPhase::Retrying) {
        context.metrics.ended(new.phase.into());
    }
    publish_event(job, new, context);
    Ok(())
}

/// An Event for what a user may have to act upon: an attempt that ended badly, and a pod that is refused for the
/// moment.
fn publish_event(job: &Job, new: &JobStatus, context: &Context) {
    let old = job.status.as_ref();
    let Some(reason) = new.reason.as_deref().and_then(|r| r.parse::<Reason>().ok()) else { return };
    let is_published = match new.phase {
        JobPhase::Failed | JobPhase::TimedOut | JobPhase::Rejected | JobPhase::Retrying => {
            old.map_or(JobPhase::Queued, |old| old.phase) != new.phase
        }
        JobPhase::Queued => {
            reason == Reason::PodRefused && old.and_then(|old| old.reason.as_ref()) != new.reason.as_ref()
        }
        _ => false,
    };
    if is_published {
        context.events.warning(job, reason, new.message.clone().unwrap_or_default());
    }
}

fn report_contradiction(job: &Job, error: &IllegalMove, context: &Context) {
    tracing::error!(job = job.name_any(), namespace = job.namespace(), %error, "the stored status contradicts what is");
    context.events.warning(job, Reason::InvalidObject, error.to_string());
}
