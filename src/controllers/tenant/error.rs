//! What can go wrong in a pass over a tenant.

use crate::kube_ext::{CallError, status::StatusError};

/// Why a pass over a tenant did not reach its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A call to the API server failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The children can't be put into JSON.
    #[error("serialising the children: {0}")]
    Serialise(#[from] serde_json::Error),
}

impl From<StatusError> for Error {
    fn from(error: StatusError) -> Self {
        match error {
            StatusError::Serialise(error) => Self::Serialise(error),
            StatusError::Call(error) => Self::Call(error),
        }
    }
}

impl Error {
    /// A word from a closed list, for metrics.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match self {
            Self::Call(call) => call.category(),
            Self::Serialise(_) => "serialise",
        }
    }

    /// What was looked at is not the newest: look again, nothing is wrong.
    pub(super) fn is_conflict(&self) -> bool {
        self.category() == "conflict"
    }

    /// It may well pass by itself within seconds.
    pub(super) fn is_transient(&self) -> bool {
        matches!(self.category(), "timeout" | "unreachable" | "throttled" | "server_error")
    }
}
