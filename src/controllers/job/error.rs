//! Why a reconcile of a job fails: what was being done, and the cause.

use crate::kube_ext::{CallError, controller::ReconcileError, status::StatusError};

/// Why a reconcile of a job failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The pod of an attempt was not read.
    #[error("failed to read Pod {pod}: {}", .source.cause())]
    ReadPod {
        /// Name of the pod.
        pod: String,
        /// The call's error.
        source: CallError,
    },
    /// A pod was not stopped.
    #[error("failed to stop Pod {pod}: {}", .source.cause())]
    StopPod {
        /// Name of the pod.
        pod: String,
        /// The call's error.
        source: CallError,
    },
    /// A pod was not deleted.
    #[error("failed to delete Pod {pod}: {}", .source.cause())]
    DeletePod {
        /// Name of the pod.
        pod: String,
        /// The call's error.
        source: CallError,
    },
    /// An expired job was not deleted.
    #[error("failed to delete expired Job {job}: {}", .source.cause())]
    DeleteJob {
        /// Name of the job.
        job: String,
        /// The call's error.
        source: CallError,
    },
    /// The finalizer of a job that the mirror has was not removed.
    #[error("failed to remove the finalizer of Job {job}: {}", .source.cause())]
    RemoveFinalizer {
        /// Name of the job.
        job: String,
        /// The call's error.
        source: CallError,
    },
    /// The status was not written.
    #[error("failed to write the status of Job {job}: {}", .source.cause())]
    WriteStatus {
        /// Name of the job.
        job: String,
        /// Why.
        source: StatusError,
    },
    /// The status of a job that can't be read was not written.
    #[error("failed to report invalid Job {job}: {}", .source.cause())]
    ReportInvalid {
        /// Name of the job.
        job: String,
        /// Why.
        source: StatusError,
    },
}

impl ReconcileError for Error {
    fn category(&self) -> &'static str {
        match self {
            Self::ReadPod { source, .. }
            | Self::StopPod { source, .. }
            | Self::DeletePod { source, .. }
            | Self::DeleteJob { source, .. }
            | Self::RemoveFinalizer { source, .. } => source.category(),
            Self::WriteStatus { source, .. } | Self::ReportInvalid { source, .. } => source.category(),
        }
    }
}
