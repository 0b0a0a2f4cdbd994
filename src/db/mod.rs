//! Postgres: the only module that speaks SQL.
//!
//! Guarantees: every call ends within its own deadline, and soon after it in the server as well; nothing is ever
//! written through a server that is read-only or has been demoted; text that Postgres can't hold (NUL) is replaced, not
//! refused; passwords are in no error and no log line. Queries are literals checked against the migrations at compile
//! time (`.sqlx/`, see `docs/mirror.md`).

use std::time::Duration;

use tokio_rustls::rustls;
use uuid::Uuid;

mod audit;
mod breaker;
mod jobs;
mod nodes;
mod original;
mod pool;
mod read;
mod state;
mod tenants;
mod text;
mod transaction;
mod url_source;
mod usage;

pub use audit::{
    AuditEntry, AuditWanted, AuditedTenant, CallerKind, PURGE_PORTION, audit_page, purge_audit, write_audit,
};
pub use jobs::{JobRow, job_versions, jobs_with_payload, mark_deleted_jobs, write_jobs};
pub use nodes::{NodeRow, mark_deleted_nodes, node_versions, write_nodes};
pub use original::{ENDED, Original, Table, UnreadableRow};
pub use pool::{Options, Pool};
pub use read::{
    JobRecord, JobsPage, JobsWanted, LONGEST_SCAN, Readers, UsageRecord, job_of, jobs_of, usage_of,
};
pub use state::{Taken, Writer, migrate, next_epoch, pending_migrations, ping, take_over, verify};
pub use tenants::{TenantRow, mark_deleted_tenants, tenant_versions, write_tenants};
pub use url_source::{UrlError, UrlSource};
pub use usage::{AttemptRow, JobSeen, UsageEvent, usage_events, write_attempts};

/// Rows of one transaction at most.
pub const PORTION: usize = 1000;

/// What failed, and why.
#[derive(Debug, thiserror::Error)]
#[error("{doing}: {cause}")]
pub struct Error {
    /// What was being done.
    pub doing: &'static str,
    /// Why it failed.
    #[source]
    pub cause: Cause,
}

/// Why a call to the database failed.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// The deadline passed.
    #[error("no answer within {0:?}")]
    Deadline(Duration),
    /// The URL can't be used.
    #[error(transparent)]
    Url(#[from] UrlError),
    /// No TLS connection was made.
    #[error("failed to make a TLS connection to {host}: {cause}")]
    Tls {
        /// The host of the URL.
        host: String,
        /// Why not.
        cause: String,
    },
    /// Postgres does not accept the user, the password or the way to connect.
    #[error("Postgres refused the login: {0}")]
    Login(#[source] sqlx::Error),
    /// The server takes no writes.
    #[error("the server is read-only: a standby, or demoted")]
    ReadOnly,
    /// Another process has taken over the mirror.
    #[error("another process writes this mirror now")]
    Superseded,
    /// This process may not write: it does not lead.
    #[error("this replica does not lead")]
    NotLeader,
    /// The database went back: transactions that this process has seen committed are lost.
    #[error(
        "the database holds {found} transactions of the mirror and {known} were committed: a standby was promoted that \
         lacked the last ones, or a backup was restored"
    )]
    Rewound {
        /// Number of the last transaction that was seen committed.
        known: i64,
        /// Number of the last one that the database holds.
        found: i64,
    },
    /// The database did not answer the last time, and is asked again in the background.
    #[error("the database does not answer; it is asked again in the background")]
    CircuitOpen,
    /// The database belongs to another cluster.
    #[error(
        "this database mirrors cluster {theirs} and this is cluster {ours}: give this cluster a database of its own, \
         or hand this one over with `UPDATE mirror_state SET cluster_uid = NULL`"
    )]
    OtherCluster {
        /// UID of the cluster that it mirrors.
        theirs: Uuid,
        /// UID of this cluster.
        ours: Uuid,
    },
    /// The schema could not be brought up to date.
    #[error(transparent)]
    Migrate(#[from] sqlx::migrate::MigrateError),
    /// Anything else that Postgres or the way to it says.
    #[error(transparent)]
    Sql(#[from] sqlx::Error),
    /// The database to import is one that Crofter mirrors into.
    #[error("it is a database of Crofter's own mirror: give that of the service that is replaced")]
    OwnDatabase,
    /// The database to import has no table `jobs`.
    #[error("it has no table `jobs`: see whether the URL names the right database and schema (search_path)")]
    NoJobs,
    /// A number in the database is not of the form that this program writes.
    #[error("`{0}` is no whole number")]
    Number(String),
}

impl Cause {
    /// Why no connection to `host` was made.
    fn of_connecting(host: &str, error: sqlx::Error) -> Self {
        let tls =
            |cause: &dyn std::fmt::Display| Self::Tls { host: host.to_owned(), cause: cause.to_string() };
        match &error {
            sqlx::Error::Tls(cause) => tls(cause),
            sqlx::Error::Io(cause) if cause.get_ref().is_some_and(|inner| inner.is::<rustls::Error>()) => {
                tls(cause)
            }
            // Invalid authorization specification.
            sqlx::Error::Database(cause) if cause.code().is_some_and(|code| code.starts_with("28")) => {
                Self::Login(error)
            }
            _ => Self::Sql(error),
        }
    }
}

impl Error {
    /// Whether the rows themselves were refused (as opposed to the database being away): trying the same again
    /// can't help, and the others of the batch may be fine.
    #[must_use]
    pub fn refused_rows(&self) -> bool {
        match &self.cause {
            Cause::Sql(sqlx::Error::Encode(_)) => true,
            Cause::Sql(sqlx::Error::Database(error)) => error.code().is_some_and(|code| {
                // Data exception, integrity violation, program limit exceeded (a value too large for an index).
                ["22", "23", "54"].iter().any(|class| code.starts_with(class))
            }),
            _ => false,
        }
    }
}

impl Error {
    /// Whether the call took too long or was broken off, which may be because of its rows (too many or too large for
    /// the time, or one that the server can't take) or because of the server: a second call shows which.
    #[must_use]
    pub fn may_be_of_the_rows(&self) -> bool {
        match &self.cause {
            Cause::Deadline(_) => true,
            Cause::Sql(sqlx::Error::Io(_) | sqlx::Error::Protocol(_)) => true,
            // Canceled by its timeout; shut down by an administrator or a crash; raised by a trigger; internal errors.
            Cause::Sql(sqlx::Error::Database(error)) => error.code().is_some_and(|code| {
                code == "57014" || ["57P", "P0", "XX"].iter().any(|class| code.starts_with(class))
            }),
            _ => false,
        }
    }

    /// Whether the server answered to the call with an error that may be because of its rows: a trigger's, an internal one, a
    /// statement that took too long.
    #[must_use]
    pub fn is_answer_to_rows(&self) -> bool {
        let is_answer = matches!(&self.cause, Cause::Sql(sqlx::Error::Database(_)));
        is_answer && self.may_be_of_the_rows() && !self.is_away()
    }

    /// Whether the server did not answer, or is none that may be asked: as opposed to one that answers with an error.
    #[must_use]
    pub fn is_away(&self) -> bool {
        match &self.cause {
            Cause::Deadline(_)
            | Cause::ReadOnly
            | Cause::CircuitOpen
            | Cause::Tls { .. }
            | Cause::Login(_) => true,
            Cause::Sql(sqlx::Error::Database(error)) => error.code().is_some_and(|code| {
                // Connection exception, too many connections, shut down or starting up.
                ["08", "53300", "57P"].iter().any(|class| code.starts_with(class))
            }),
            Cause::Sql(error) => !matches!(
                error,
                sqlx::Error::Encode(_)
                    | sqlx::Error::Decode(_)
                    | sqlx::Error::ColumnDecode { .. }
                    | sqlx::Error::RowNotFound
            ),
            _ => false,
        }
    }
}

/// How new the row of an object is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowVersion {
    /// UID of the object.
    pub uid: Uuid,
    /// Epoch in which it was written.
    pub epoch: i64,
    /// The object's resource version.
    pub resource_version: i64,
    /// Whether the row says that the object exists.
    pub living: bool,
}

/// One field of every row, as the array that UNNEST takes.
fn column<R, T>(rows: &[R], field: impl Fn(&R) -> T) -> Vec<T> {
    rows.iter().map(field).collect()
}
