//! Why a reconcile of a node fails: what was being done, and the cause.

use crate::kube_ext::{CallError, controller::ReconcileError};

/// Why a reconcile of a node failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The job pods on a node were not listed, which decide whether it is drained.
    #[error("failed to list the job pods on Node {node}: {}", .source.cause())]
    ListPods {
        /// Name of the node.
        node: String,
        /// The call's error.
        source: CallError,
    },
    /// The tenant that a node is labelled for was not read.
    #[error("failed to read Tenant {tenant}: {}", .source.cause())]
    ReadTenant {
        /// Name of the tenant.
        tenant: String,
        /// The call's error.
        source: CallError,
    },
    /// A node was not written.
    #[error("failed to {action}: {}", .source.cause())]
    Write {
        /// What the write was to do, as in `admit Node n1 to tenant acme`.
        action: String,
        /// The call's error.
        source: CallError,
    },
}

impl ReconcileError for Error {
    fn category(&self) -> &'static str {
        match self {
            Self::ListPods { source, .. } | Self::ReadTenant { source, .. } | Self::Write { source, .. } => {
                source.category()
            }
        }
    }
}
