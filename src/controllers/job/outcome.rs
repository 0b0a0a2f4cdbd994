//! What a reconcile has come to before its last step.

use std::time::Duration;

use jiff::Timestamp;
use kube::runtime::controller::Action;

use crate::{
    api_types::JobStatus,
    domain::{job_flow::Step, job_state::IllegalMove},
};

/// What a step leaves to be done.
pub(super) enum Outcome {
    /// This status is to be written.
    Status(Box<JobStatus>),
    /// Nothing, until the job is reconciled again.
    Done(Action),
    /// The stored status can't lead where the pods do: it is reported, and the job is left as it is.
    Contradiction(IllegalMove),
}

impl From<Result<Step, IllegalMove>> for Outcome {
    /// The outcome of a step that can only be a status.
    fn from(step: Result<Step, IllegalMove>) -> Self {
        match step {
            Ok(Step::Write(status)) => Self::Status(status),
            Ok(_) => Self::Done(Action::await_change()),
            Err(contradiction) => Self::Contradiction(contradiction),
        }
    }
}

/// The action of a job whose next step is due at a time, if it is.
pub(super) fn requeue_at(until: Option<Timestamp>, now: Timestamp) -> Action {
    match until {
        Some(at) => Action::requeue(Duration::try_from(at.duration_since(now)).unwrap_or_default()),
        None => Action::await_change(),
    }
}
