//! Why a request of the command line was not carried out: in words, as an exit code, and with the command to run next.

use std::fmt;

/// The class of an error. Each has an exit code of its own, which scripts may rely on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, strum::EnumIter)]
pub enum Kind {
    /// Something failed that is none of the others.
    Failed,
    /// What was typed does not make sense; the code of clap.
    Usage,
    /// The object does not exist, or not for this caller.
    NotFound,
    /// The credentials are absent, not accepted, or do not allow it.
    Denied,
    /// The server refuses the request as it is: a quota, a state, an invalid object.
    Refused,
    /// No server answered.
    Unreachable,
    /// What was waited for did not happen in time.
    TimedOut,
    /// Only the REST API has it, and a kubeconfig is all that is known.
    NeedsRest,
}

impl Kind {
    /// The exit code.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Failed => 1,
            Self::Usage => 2,
            Self::NotFound => 3,
            Self::Denied => 4,
            Self::Refused => 5,
            Self::Unreachable => 6,
            Self::TimedOut => 7,
            Self::NeedsRest => 8,
        }
    }

    /// The kind of a refusal with this HTTP status.
    #[must_use]
    pub fn of_status(status: u16) -> Self {
        match status {
            401 | 403 => Self::Denied,
            404 => Self::NotFound,
            400..=499 => Self::Refused,
            _ => Self::Failed,
        }
    }
}

/// A request that was not carried out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Its class.
    pub kind: Kind,
    /// What failed, and why: `failed to <verb> <object>: <cause>`.
    pub message: String,
    /// The command to run next, without the program's name.
    pub next: Option<String>,
    /// The code of the REST API's problem, such as `not_started`.
    pub code: Option<String>,
}

/// The result of a request.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error of this class.
    #[must_use]
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), next: None, code: None }
    }

    /// What was typed does not make sense.
    #[must_use]
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    /// The same with the command to run next, such as `jobs`.
    #[must_use]
    pub fn next(mut self, command: impl Into<String>) -> Self {
        self.next = Some(command.into());
        self
    }

    /// The same, unless it names a command already.
    #[must_use]
    pub fn or_next(self, command: impl Into<String>) -> Self {
        if self.next.is_some() { self } else { self.next(command) }
    }

    /// The error of what only the REST API has.
    #[must_use]
    pub fn needs_rest(what: &str) -> Self {
        let message = format!("failed to {what}: the cluster's API does not have it, only the REST API has");
        Self::new(Kind::NeedsRest, message).next("login --server URL")
    }

    /// The error of what only the cluster's API has.
    #[must_use]
    pub fn needs_cluster(what: &str) -> Self {
        let message = format!(
            "failed to {what}: the REST API does not have it, only the cluster's API has: give --context"
        );
        Self::new(Kind::Usage, message).next("--context NAME status")
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use strum::IntoEnumIterator;

    use super::*;

    #[test]
    fn each_class_has_an_exit_code_of_its_own() {
        let codes: BTreeSet<u8> = Kind::iter().map(Kind::exit_code).collect();
        assert_eq!(codes.len(), Kind::iter().count());
        assert!(!codes.contains(&0));
    }

    #[test]
    fn what_only_rest_has_ends_with_the_command_to_run_next() {
        let error = Error::needs_rest("read the usage");
        assert_eq!((error.kind.exit_code(), error.next.as_deref()), (8, Some("login --server URL")));
    }
}
