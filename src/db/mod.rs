//! Postgres: the only module that speaks SQL.
//!
//! Guarantees: every call ends within its own deadline; nothing is ever written through a server that is read-only or
//! has been demoted; text that Postgres can't hold (NUL) is replaced, not refused; passwords are in no error and no
//! log line. Queries are literals checked against the migrations at compile time (`.sqlx/`, see `docs/mirror.md`).

use std::time::Duration;

use uuid::Uuid;

mod jobs;
mod nodes;
mod pool;
mod read;
mod state;
mod tenants;
mod text;
mod turns;
mod usage;

pub use jobs::{JobRow, bury_jobs, job_versions, write_jobs};
pub use nodes::{NodeRow, bury_nodes, node_versions, write_nodes};
pub use pool::{Options, Pool};
pub use read::{JobRecord, JobsWanted, Readers, UsageRecord, job_of, jobs_of, usage_of};
pub use state::{Writer, migrate, next_epoch, take_over};
pub use tenants::{TenantRow, bury_tenants, tenant_versions, write_tenants};
pub use usage::{AttemptRow, JobSeen, UsageEvent, usage_events, write_attempts};

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
    /// The server takes no writes.
    #[error("the server is read-only: a standby, or demoted")]
    ReadOnly,
    /// Another process has taken over the mirror.
    #[error("another process writes this mirror now")]
    Superseded,
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
    /// A number in the database is not of the form that this program writes.
    #[error("`{0}` is no whole number")]
    Number(String),
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
