//! Why a reconcile of an API key fails: what was being done, and the cause.

use crate::{
    keys::pepper,
    kube_ext::{CallError, controller::ReconcileError, status::StatusError},
    random,
};

/// Why a reconcile of an API key failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The Secret of a key was not read.
    #[error("failed to read Secret {secret}: {}", .source.cause())]
    ReadSecret {
        /// Name of the Secret.
        secret: String,
        /// The call's error.
        source: CallError,
    },
    /// The Secret of a key was not written.
    #[error("failed to write Secret {secret}: {}", .source.cause())]
    WriteSecret {
        /// Name of the Secret.
        secret: String,
        /// The call's error.
        source: CallError,
    },
    /// No pepper exists, and none could be made.
    #[error("failed to create the pepper of the first TenantApiKey: {source}")]
    CreatePepper {
        /// Why.
        source: pepper::Error,
    },
    /// There is no randomness to make a token of.
    #[error("failed to make a token of TenantApiKey {key}: {source}")]
    MakeToken {
        /// Name of the key.
        key: String,
        /// Why.
        source: random::Unavailable,
    },
    /// The status was not written.
    #[error("failed to write the status of TenantApiKey {key}: {}", .source.cause())]
    WriteStatus {
        /// Name of the key.
        key: String,
        /// Why.
        source: StatusError,
    },
    /// The status of a key that can't be read was not written.
    #[error("failed to report invalid TenantApiKey {key}: {}", .source.cause())]
    ReportInvalid {
        /// Name of the key.
        key: String,
        /// Why.
        source: StatusError,
    },
}

impl ReconcileError for Error {
    fn category(&self) -> &'static str {
        match self {
            Self::ReadSecret { source, .. }
            | Self::WriteSecret { source, .. }
            | Self::CreatePepper { source: pepper::Error::Call(source) } => source.category(),
            Self::CreatePepper { source: pepper::Error::Random(_) } | Self::MakeToken { .. } => "random",
            Self::WriteStatus { source, .. } | Self::ReportInvalid { source, .. } => source.category(),
        }
    }
}
