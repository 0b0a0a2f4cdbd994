//! Every call to the API server sits under a deadline and says what it was doing.
//!
//! The client has no read timeout of its own and repeats what is refused with 429, 503 or 504: without a deadline an
//! API server that stops answering would hold a reconcile for ever.

use std::{future::Future, time::Duration};

/// Longest time that one call may take, retries of the client included.
const LIMIT: Duration = Duration::from_secs(20);

/// A write was refused: this process does not lead.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("this replica does not lead")]
pub struct NotLeader;

/// Whether the client refused a write because this process does not lead.
fn is_refusal(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Service(source) if source.is::<NotLeader>())
}

/// A call to the API server that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    /// No answer in time.
    #[error("{what}: {}", no_answer(*limit))]
    Timeout {
        /// What was being done.
        what: String,
        /// The deadline of the call.
        limit: Duration,
    },
    /// The API server refused, or could not be reached.
    #[error("{what}: {source}")]
    Api {
        /// What was being done.
        what: String,
        /// The client's error.
        source: Box<kube::Error>,
    },
}

fn no_answer(limit: Duration) -> String {
    format!("no answer from the API server within {} s", limit.as_secs())
}

impl CallError {
    /// Why the call failed, without what was being done: for an error that says that itself.
    #[must_use]
    pub fn cause(&self) -> String {
        match self {
            Self::Timeout { limit, .. } => no_answer(*limit),
            Self::Api { source, .. } => source.to_string(),
        }
    }

    /// The HTTP status of a refusal.
    #[must_use]
    pub fn code(&self) -> Option<u16> {
        match self {
            Self::Api { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some(status.code),
                _ => None,
            },
            Self::Timeout { .. } => None,
        }
    }

    /// The API server's own message of a refusal.
    #[must_use]
    pub fn refusal(&self) -> Option<&str> {
        match self {
            Self::Api { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => Some(&status.message),
                _ => None,
            },
            Self::Timeout { .. } => None,
        }
    }

    /// What the API server says of single fields of an object that it refuses: each field and its message.
    #[must_use]
    pub fn causes(&self) -> Vec<(&str, &str)> {
        let status = match self {
            Self::Api { source, .. } => match source.as_ref() {
                kube::Error::Api(status) => status,
                _ => return Vec::new(),
            },
            Self::Timeout { .. } => return Vec::new(),
        };
        let causes = status.details.iter().flat_map(|details| &details.causes);
        causes.map(|cause| (cause.field.as_str(), cause.message.as_str())).collect()
    }

    /// The object does not exist (404).
    #[must_use]
    pub fn is_not_found(&self) -> bool {
        self.code() == Some(404)
    }

    /// The object exists already, or was changed meanwhile (409).
    #[must_use]
    pub fn is_conflict(&self) -> bool {
        self.code() == Some(409)
    }

    /// A word from a closed list, for metrics.
    #[must_use]
    pub fn category(&self) -> &'static str {
        match (self, self.code()) {
            (Self::Timeout { .. }, _) => "timeout",
            (Self::Api { source, .. }, None) if is_refusal(source) => "not_leader",
            (_, None) => "unreachable",
            (_, Some(403)) => "forbidden",
            (_, Some(404)) => "not_found",
            (_, Some(409)) => "conflict",
            (_, Some(400 | 422)) => "invalid",
            (_, Some(429)) => "throttled",
            (_, Some(_)) => "server_error",
        }
    }
}

/// Runs a call under the deadline; errors begin with `what`, as in `failed to read Namespace x`.
///
/// # Errors
/// [`CallError`] when the call fails or takes too long. A call that took too long may still have had its effect.
pub async fn within<T>(
    what: impl Into<String>,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, CallError> {
    within_limit(LIMIT, what, call).await
}

/// As [`within`], with a deadline of the caller's own.
///
/// # Errors
/// As [`within`].
pub async fn within_limit<T>(
    limit: Duration,
    what: impl Into<String>,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, CallError> {
    match tokio::time::timeout(limit, call).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(source)) => Err(CallError::Api { what: what.into(), source: Box::new(source) }),
        Err(_) => Err(CallError::Timeout { what: what.into(), limit }),
    }
}

/// As [`within`], with an absent object (404) as `None`.
///
/// # Errors
/// [`CallError`] for everything but 404.
pub async fn within_opt<T>(
    what: impl Into<String>,
    call: impl Future<Output = Result<T, kube::Error>>,
) -> Result<Option<T>, CallError> {
    match within(what, call).await {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_call_without_an_answer_ends() {
        let error =
            within("failed to read x", std::future::pending::<Result<(), kube::Error>>()).await.unwrap_err();
        assert_eq!(error.category(), "timeout");
        assert_eq!(error.to_string(), "failed to read x: no answer from the API server within 20 s");
        assert_eq!(error.cause(), "no answer from the API server within 20 s");
    }
}
