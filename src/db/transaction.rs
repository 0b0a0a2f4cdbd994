//! Transactions of the mirror's writer: each holds off whoever takes over until it ends, and has a number.
//!
//! The numbers grow by one with each commit. One that is not above what this process has already seen committed shows
//! that the database went back (a standby was promoted that lacked the last transactions, or a backup was restored):
//! then nothing is written, as nothing may count as written any more.

use sqlx::PgConnection;

use super::{Cause, Pool, Writer, pool::Session};

/// A transaction under way; rolled back on drop unless [`commit`](Self::commit)ted.
pub(super) struct Fenced<'a> {
    pool: &'a Pool,
    session: Session,
    number: i64,
}

impl<'a> Fenced<'a> {
    /// Begins. The commit will outlive a crash of the server, whatever that is set to: what is committed leaves etcd.
    ///
    /// # Errors
    /// [`Cause::Superseded`], [`Cause::NotLeader`], [`Cause::Rewound`], or when the database is away.
    pub(super) async fn begin(pool: &'a Pool, writer: Writer) -> Result<Self, Cause> {
        let mut session = pool.session().await?;
        let connection = session.connection()?;
        pool.check_leader()?;
        sqlx::raw_sql("BEGIN").execute(&mut *connection).await?;
        let number = sqlx::query_scalar!(
            "WITH durable AS (
                 SELECT set_config('synchronous_commit',
                                   coalesce(nullif(current_setting('synchronous_commit'), 'off'), 'on'), true)
             )
             UPDATE mirror_state SET commits = commits + 1 FROM durable WHERE writer = $1 RETURNING commits",
            writer.number()
        )
        .fetch_optional(connection)
        .await?
        .ok_or(Cause::Superseded)?;
        let known = pool.committed();
        if number <= known {
            return Err(Cause::Rewound { known, found: number - 1 });
        }
        Ok(Self { pool, session, number })
    }

    /// The connection, within the transaction.
    pub(super) fn connection(&mut self) -> Result<&mut PgConnection, Cause> {
        self.session.connection()
    }

    /// Commits. Only once all statements went well: of a transaction that failed, Postgres takes a commit for a
    /// rollback without a word.
    pub(super) async fn commit(mut self) -> Result<(), Cause> {
        sqlx::raw_sql("COMMIT").execute(self.session.connection()?).await?;
        self.pool.saw_committed(self.number);
        self.session.release();
        Ok(())
    }
}
