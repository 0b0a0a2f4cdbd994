//! Why a reconcile of a tenant fails.

use crate::kube_ext::{CallError, controller::ReconcileError, status::StatusError};

/// Why a reconcile of a tenant failed.
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

impl ReconcileError for Error {
    fn category(&self) -> &'static str {
        match self {
            Self::Call(call) => call.category(),
            Self::Serialise(_) => "serialise",
        }
    }
}
