//! Why a reconcile of a tenant fails: what was being done, and the cause.

use crate::kube_ext::{CallError, controller::ReconcileError, status::StatusError};

/// Why a reconcile of a tenant failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The namespace of a tenant was not read.
    #[error("failed to read Namespace {namespace}: {}", .source.cause())]
    ReadNamespace {
        /// Its name.
        namespace: String,
        /// The call's error.
        source: CallError,
    },
    /// The namespace of a tenant was not created.
    #[error("failed to create Namespace {namespace}: {}", .source.cause())]
    CreateNamespace {
        /// Its name.
        namespace: String,
        /// The call's error.
        source: CallError,
    },
    /// A child was not applied.
    #[error("failed to apply {kind} {name}: {}", .source.cause())]
    ApplyChild {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
        /// The call's error.
        source: CallError,
    },
    /// A child was not deleted.
    #[error("failed to delete {kind} {name}: {}", .source.cause())]
    DeleteChild {
        /// Its kind.
        kind: String,
        /// Its name.
        name: String,
        /// The call's error.
        source: CallError,
    },
    /// The labels of a namespace that is retained were not removed.
    #[error("failed to remove the labels of Namespace {namespace}: {}", .source.cause())]
    DisownNamespace {
        /// Its name.
        namespace: String,
        /// The call's error.
        source: CallError,
    },
    /// A job of a tenant that is being deleted was not canceled.
    #[error("failed to cancel Job {job}: {}", .source.cause())]
    CancelJob {
        /// Its name.
        job: String,
        /// The call's error.
        source: CallError,
    },
    /// An API key of a tenant that is being deleted was not revoked.
    #[error("failed to revoke TenantApiKey {key}: {}", .source.cause())]
    RevokeKey {
        /// Its name.
        key: String,
        /// The call's error.
        source: CallError,
    },
    /// The finalizer of a tenant was not added.
    #[error("failed to add the finalizer of Tenant {tenant}: {}", .source.cause())]
    AddFinalizer {
        /// Name of the tenant.
        tenant: String,
        /// The call's error.
        source: CallError,
    },
    /// The finalizer of a tenant of which nothing is left was not removed.
    #[error("failed to remove the finalizer of Tenant {tenant}: {}", .source.cause())]
    RemoveFinalizer {
        /// Name of the tenant.
        tenant: String,
        /// The call's error.
        source: CallError,
    },
    /// The children can't be put into JSON.
    #[error("failed to serialise the children of Tenant {tenant}: {source}")]
    SerialiseChildren {
        /// Name of the tenant.
        tenant: String,
        /// Why.
        source: serde_json::Error,
    },
    /// The status was not written.
    #[error("failed to write the status of Tenant {tenant}: {}", .source.cause())]
    WriteStatus {
        /// Name of the tenant.
        tenant: String,
        /// Why.
        source: StatusError,
    },
    /// A tenant that can't be read was not read raw, or its status was not written.
    #[error("failed to report invalid Tenant {tenant}: {}", .source.cause())]
    ReportInvalid {
        /// Name of the tenant.
        tenant: String,
        /// Why.
        source: StatusError,
    },
}

impl ReconcileError for Error {
    fn category(&self) -> &'static str {
        match self {
            Self::ReadNamespace { source, .. }
            | Self::CreateNamespace { source, .. }
            | Self::ApplyChild { source, .. }
            | Self::DeleteChild { source, .. }
            | Self::DisownNamespace { source, .. }
            | Self::CancelJob { source, .. }
            | Self::RevokeKey { source, .. }
            | Self::AddFinalizer { source, .. }
            | Self::RemoveFinalizer { source, .. } => source.category(),
            Self::SerialiseChildren { .. } => "serialise",
            Self::WriteStatus { source, .. } | Self::ReportInvalid { source, .. } => source.category(),
        }
    }
}
