//! Why a job waits, starts or is rejected: the one place that derives it for responses of the REST API.
//!
//! The scheduler makes the reason and the message of a [`Verdict`], and the job controller writes those of the reported
//! verdict into the status. A response has those of the current verdict, and without one those of the status.

use super::admission::Verdict;
use crate::api_types::{JobStatus, Reason};

/// The message of a job that was admitted and whose status does not say so yet.
const BEING_CREATED: &str = "its pod is being created";

/// Why a job is in its state.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Explanation {
    /// The reason, as in the status: that of an older or newer version may be unknown here.
    pub reason: Option<String>,
    /// The message, with numbers.
    pub message: Option<String>,
}

impl Explanation {
    /// One with a known reason.
    #[must_use]
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason: Some(reason.as_str().to_owned()), message: Some(message.into()) }
    }

    /// The reason, where this version knows it.
    #[must_use]
    pub fn known(&self) -> Option<Reason> {
        self.reason.as_deref()?.parse().ok()
    }
}

impl From<&Verdict> for Explanation {
    fn from(verdict: &Verdict) -> Self {
        match verdict {
            Verdict::Admit(_) => Self::new(Reason::Admitted, BEING_CREATED),
            Verdict::Wait(reason, message) | Verdict::Reject(reason, message) => Self::new(*reason, message),
        }
    }
}

/// Why a job is in its state: by the scheduler's current verdict, else by its status.
#[must_use]
pub fn explain(status: Option<&JobStatus>, verdict: Option<&Verdict>) -> Explanation {
    let of_status =
        |status: &JobStatus| Explanation { reason: status.reason.clone(), message: status.message.clone() };
    verdict.map(Explanation::from).or_else(|| status.map(of_status)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::admission::Admission;

    #[test]
    fn the_current_verdict_has_precedence_over_the_status() {
        let status = JobStatus {
            reason: Some("WaitingForQuota".to_owned()),
            message: Some("62 in use".to_owned()),
            ..JobStatus::default()
        };
        let admit = Verdict::Admit(Admission { attempt: 1, group: "acme".to_owned(), node: None });
        let wait = Verdict::Wait(Reason::WaitingForQuota, "61 in use".to_owned());
        let message = |verdict| explain(Some(&status), verdict).message.unwrap();
        assert_eq!([None, Some(&wait), Some(&admit)].map(message), ["62 in use", "61 in use", BEING_CREATED]);
        assert_eq!(explain(Some(&status), Some(&admit)).known(), Some(Reason::Admitted));
        let newer = JobStatus { reason: Some("OfANewerVersion".to_owned()), ..status };
        let newer = explain(Some(&newer), None);
        assert_eq!((newer.known(), newer.reason.as_deref()), (None, Some("OfANewerVersion")));
        assert_eq!(explain(None, None), Explanation::default());
    }
}
