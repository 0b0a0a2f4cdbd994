//! Why a reconcile of a job pod fails: what was being done, and the cause.

use crate::kube_ext::{CallError, controller::ReconcileError};

/// Why a reconcile of a job pod failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The job of a pod was not read, which the cache does not have.
    #[error("failed to read Job {job}: {}", .source.cause())]
    ReadJob {
        /// Name of the job.
        job: String,
        /// The call's error.
        source: CallError,
    },
    /// A pod whose job is deleted was not deleted.
    #[error("failed to delete orphaned Pod {pod}: {}", .source.cause())]
    DeleteOrphan {
        /// Name of the pod.
        pod: String,
        /// The call's error.
        source: CallError,
    },
    /// The finalizer was not added to a job, which holds it in place of its pod.
    #[error("failed to add the finalizer of Job {job}: {}", .source.cause())]
    AddFinalizer {
        /// Name of the job.
        job: String,
        /// The call's error.
        source: CallError,
    },
    /// The finalizer of a pod was not removed.
    #[error("failed to remove the finalizer of Pod {pod}: {}", .source.cause())]
    RemoveFinalizer {
        /// Name of the pod.
        pod: String,
        /// The call's error.
        source: CallError,
    },
}

impl ReconcileError for Error {
    fn category(&self) -> &'static str {
        match self {
            Self::ReadJob { source, .. }
            | Self::DeleteOrphan { source, .. }
            | Self::AddFinalizer { source, .. }
            | Self::RemoveFinalizer { source, .. } => source.category(),
        }
    }
}
