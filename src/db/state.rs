//! The schema, and who may write the mirror.
//!
//! One process writes: each one that takes over raises `mirror_state.writer`, and every transaction holds that row
//! against a later one. So a leader that was deposed without knowing can't put an old state over a new one.

use std::time::Duration;

use sqlx::migrate::Migrate as _;
use uuid::Uuid;

use super::{Cause, Error, Pool, pool::Session};

/// Waiting for another process that is migrating, included.
const MIGRATION_DEADLINE: Duration = Duration::from_secs(120);

/// The right to write. No process has the default one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Writer {
    number: i64,
    /// What the rows that it writes carry.
    pub epoch: i64,
}

impl Writer {
    pub(super) fn number(self) -> i64 {
        self.number
    }
}

/// What taking over has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The right to write.
    pub writer: Writer,
    /// It is a new one, or the database went back: nothing may be taken for written.
    pub new: bool,
    /// Number of the last transaction that the database holds.
    pub commits: i64,
    /// The number of lost transactions that this process has seen committed.
    pub lost: i64,
    /// The server, or its timeline, is not the one of the last time: a standby was promoted, or a backup restored.
    pub moved: bool,
}

/// Brings the schema up to date, under an advisory lock.
///
/// # Errors
/// [`Cause::Migrate`], or when the database is away.
pub async fn migrate(pool: &Pool) -> Result<(), Error> {
    const DOING: &str = "bringing the schema up to date";
    let mut migrator = sqlx::migrate!("src/db/migrations");
    // An older program runs on a newer schema: migrations add, and never take away what it uses.
    migrator.set_ignore_missing(true);
    let ready = async {
        pool.check_leader()?;
        let mut session = pool.session().await?;
        session.allow(MIGRATION_DEADLINE).await?;
        Ok(session)
    };
    // A server that hangs is not waited for as long as one that migrates.
    let mut session = pool.within(DOING, ready).await?;
    let work = async {
        migrator.run_direct(None, session.connection()?, false).await?;
        // Not given back: the next one shall not have as much time.
        Ok(())
    };
    pool.within_for(DOING, MIGRATION_DEADLINE, work).await
}

/// The number of migrations that the schema lacks; the database is only read.
///
/// # Errors
/// When the database is away, or was never migrated.
pub async fn pending_migrations(pool: &Pool) -> Result<usize, Error> {
    let migrator = sqlx::migrate!("src/db/migrations");
    let work = async {
        let mut session = pool.session().await?;
        let applied = session.connection()?.list_applied_migrations(&migrator.table_name).await?;
        session.release();
        let is_pending = |version: &i64| applied.iter().all(|one| one.version != *version);
        Ok(migrator.iter().map(|migration| migration.version).filter(is_pending).count())
    };
    pool.within("reading the version of the schema", work).await
}

/// Takes over the mirror of cluster `cluster_uid` (the UID of its namespace `kube-system`). `held` is what this
/// process held before the connection was lost: it is kept where no other process has taken over since.
///
/// # Errors
/// [`Cause::OtherCluster`] when the database mirrors another cluster; [`Cause::Superseded`] when `held` is no longer
/// the last; [`Cause::NotLeader`].
pub async fn take_over(pool: &Pool, cluster_uid: Uuid, held: Option<Writer>) -> Result<Taken, Error> {
    let work = async {
        let mut session = pool.session().await?;
        let server = server(&mut session).await?;
        pool.check_leader()?;
        let mut transaction = session.begin().await?;
        let state =
            sqlx::query!("SELECT cluster_uid, epoch, writer, commits, server FROM mirror_state FOR UPDATE")
                .fetch_one(&mut *transaction)
                .await?;
        if let Some(theirs) = state.cluster_uid.filter(|uid| *uid != cluster_uid) {
            return Err(Cause::OtherCluster { theirs, ours: cluster_uid });
        }
        // A number below ours: the database was restored from a backup, or made again.
        if held.is_some_and(|h| h.number < state.writer) {
            return Err(Cause::Superseded);
        }
        let kept = held.is_some_and(|h| h.number == state.writer) && state.cluster_uid.is_some();
        let last = held.map_or(state.writer, |h| h.number.max(state.writer));
        let number = if kept { last } else { last + 1 };
        let moved = state.server.is_some() && server.is_some() && state.server != server;
        sqlx::query!(
            "UPDATE mirror_state SET cluster_uid = $1, writer = $2, server = coalesce($3, server), taken_at = now()
             WHERE writer <> $2 OR server IS DISTINCT FROM coalesce($3, server)",
            cluster_uid,
            number,
            server
        )
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        session.release();
        let lost = held.map_or(0, |_| (pool.committed() - state.commits).max(0));
        pool.found_committed(state.commits);
        let writer = Writer { number, epoch: state.epoch };
        Ok(Taken { writer, new: !kept || lost > 0, commits: state.commits, lost, moved })
    };
    pool.within("failed to take over the mirror", work).await
}

/// Whether the database mirrors no other cluster than `ours`; one that was never taken over mirrors none.
///
/// # Errors
/// [`Cause::OtherCluster`], or when the database is away.
pub(super) async fn check_cluster(session: &mut Session, ours: Option<Uuid>) -> Result<(), Cause> {
    let Some(ours) = ours else { return Ok(()) };
    let theirs =
        sqlx::query_scalar!("SELECT cluster_uid FROM mirror_state").fetch_one(session.connection()?).await?;
    match theirs.filter(|uid| *uid != ours) {
        Some(theirs) => Err(Cause::OtherCluster { theirs, ours }),
        None => Ok(()),
    }
}

/// System identifier and timeline of the server, where it says: they change when a standby is promoted or a backup
/// restored. (The timeline that is written to, not that of the last checkpoint, which lags behind a promotion.)
async fn server(session: &mut Session) -> Result<Option<String>, Cause> {
    let asked = sqlx::query_scalar!(
        r#"SELECT system_identifier::text || '/' || left(pg_walfile_name(pg_current_wal_lsn()), 8) AS "server!"
           FROM pg_control_system()"#
    )
    .fetch_one(session.connection()?)
    .await;
    match asked {
        Ok(server) => Ok(Some(server)),
        // A server that grants it to its administrators only, or has no such files.
        Err(sqlx::Error::Database(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether this process may still write, and the database still holds all that it has seen committed.
///
/// # Errors
/// [`Cause::Superseded`], [`Cause::Rewound`], or when the database is away.
pub async fn verify(pool: &Pool, writer: Writer) -> Result<(), Error> {
    let work = async {
        let mut session = pool.session().await?;
        let found = sqlx::query_scalar!("SELECT commits FROM mirror_state WHERE writer = $1", writer.number)
            .fetch_optional(session.connection()?)
            .await?
            .ok_or(Cause::Superseded)?;
        session.release();
        let known = pool.committed();
        if found < known { Err(Cause::Rewound { known, found }) } else { Ok(()) }
    };
    pool.within("failed to compare transactions", work).await
}

/// Whether the database answers, within `deadline`.
///
/// # Errors
/// When it does not.
pub async fn ping(pool: &Pool, deadline: Duration) -> Result<(), Error> {
    let work = async {
        pool.session().await?.release();
        Ok(())
    };
    pool.within_for("asking for an answer", deadline, work).await
}

/// Begins a new epoch: what is written from now on is newer than every row, whatever its resource version.
///
/// # Errors
/// [`Cause::Superseded`], [`Cause::NotLeader`], or when the database is away.
pub async fn next_epoch(pool: &Pool, writer: Writer) -> Result<Writer, Error> {
    let work = async {
        let mut session = pool.session().await?;
        pool.check_leader()?;
        let epoch = sqlx::query_scalar!(
            "UPDATE mirror_state SET epoch = epoch + 1 WHERE writer = $1 RETURNING epoch",
            writer.number
        )
        .fetch_optional(session.connection()?)
        .await?
        .ok_or(Cause::Superseded)?;
        session.release();
        Ok(Writer { epoch, ..writer })
    };
    pool.within("failed to begin an epoch", work).await
}
