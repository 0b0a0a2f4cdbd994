//! The schema, and who may write the mirror.
//!
//! One process writes: each one that takes over raises `mirror_state.writer`, and every transaction holds that row
//! against a later one. So a leader that was deposed without knowing can't put an old state over a new one.

use std::time::Duration;

use sqlx::PgConnection;
use uuid::Uuid;

use super::{Cause, Error, Pool};

/// Waiting for another process that is migrating, included.
const MIGRATION_DEADLINE: Duration = Duration::from_secs(120);

/// The right to write. The default is nobody's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Writer {
    number: i64,
    /// What the rows that it writes carry.
    pub epoch: i64,
}

/// Brings the schema up to date, under an advisory lock.
///
/// # Errors
/// [`Cause::Migrate`], or when the database is away.
pub async fn migrate(pool: &Pool) -> Result<(), Error> {
    let mut migrator = sqlx::migrate!("src/db/migrations");
    // An older program runs on a newer schema: migrations add, and never take away what it uses.
    migrator.set_ignore_missing(true);
    let work = async {
        let mut session = pool.session().await?;
        migrator.run_direct(None, session.connection()?, false).await?;
        session.release();
        Ok(())
    };
    pool.within_for("bringing the schema up to date", MIGRATION_DEADLINE, work).await
}

/// Takes over the mirror of cluster `cluster_uid` (the UID of its namespace `kube-system`). `held` is what this
/// process held before the connection was lost: it is kept where nobody has taken over since. The flag says whether
/// the right is new, so that nothing may be taken for written.
///
/// # Errors
/// [`Cause::OtherCluster`] when the database mirrors another cluster; [`Cause::Superseded`] when `held` is no longer
/// the last.
pub async fn take_over(
    pool: &Pool,
    cluster_uid: Uuid,
    held: Option<Writer>,
) -> Result<(Writer, bool), Error> {
    let work = async {
        let mut session = pool.session().await?;
        let mut transaction = session.begin().await?;
        let state = sqlx::query!("SELECT cluster_uid, epoch, writer FROM mirror_state FOR UPDATE")
            .fetch_one(&mut *transaction)
            .await?;
        if let Some(theirs) = state.cluster_uid.filter(|uid| *uid != cluster_uid) {
            return Err(Cause::OtherCluster { theirs, ours: cluster_uid });
        }
        // A number below ours: the database was restored from a backup, or made anew.
        if held.is_some_and(|h| h.number < state.writer) {
            return Err(Cause::Superseded);
        }
        let kept = held.is_some_and(|h| h.number == state.writer) && state.cluster_uid.is_some();
        let number = if kept { state.writer } else { state.writer + 1 };
        sqlx::query!(
            "UPDATE mirror_state SET cluster_uid = $1, writer = $2, taken_at = now() WHERE writer <> $2",
            cluster_uid,
            number
        )
        .execute(&mut *transaction)
        .await?;
        transaction.commit().await?;
        session.release();
        Ok((Writer { number, epoch: state.epoch }, !kept))
    };
    pool.within("taking over the mirror", work).await
}

/// Begins a new epoch: what is written from now on is newer than every row, whatever its resource version.
///
/// # Errors
/// [`Cause::Superseded`], or when the database is away.
pub async fn next_epoch(pool: &Pool, writer: Writer) -> Result<Writer, Error> {
    let work = async {
        let mut session = pool.session().await?;
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
    pool.within("beginning an epoch", work).await
}

/// First thing in every writing transaction: holds off whoever takes over until it ends, has the server give up where the
/// caller does, and has a commit outlive a crash of the server, whatever that is set to: what is committed leaves etcd.
pub(super) async fn fence(
    connection: &mut PgConnection,
    writer: Writer,
    statement_timeout: &str,
) -> Result<(), Cause> {
    sqlx::query_scalar!(
        "SELECT set_config('statement_timeout', $2, true) || set_config('synchronous_commit',
             coalesce(nullif(current_setting('synchronous_commit'), 'off'), 'on'), true)
         FROM mirror_state WHERE writer = $1 FOR SHARE",
        writer.number,
        statement_timeout
    )
    .fetch_optional(connection)
    .await?
    .map(drop)
    .ok_or(Cause::Superseded)
}
