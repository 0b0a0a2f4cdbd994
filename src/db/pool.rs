//! A bounded set of connections to a server that takes writes.
//!
//! Nothing connects before the first call, so a process starts with the database away. A connection is asked whether
//! its server takes writes each time before it is used: after a failover the old primary goes on answering pings. A
//! connection whose use did not end well is closed, never reused: its state is unknown.

use std::{future::Future, str::FromStr, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use sqlx::{
    ConnectOptions, Connection, PgConnection, PgPool, Postgres, Transaction,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use super::{Cause, Error};

/// Bounds of a [`Pool`].
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Connections at most.
    pub connections: u32,
    /// Within which a connection must be there.
    pub connect: Duration,
    /// Within which one call must end, connecting included.
    pub call: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { connections: 4, connect: Duration::from_secs(3), call: Duration::from_secs(10) }
    }
}

/// Connections to Postgres. Cheap to clone.
#[derive(Clone)]
pub struct Pool {
    pool: PgPool,
    options: Options,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Pool {
    /// A pool for `url` (`postgres://user:password@host:port/database?sslmode=…`). Connects to nothing yet; call it
    /// within a tokio runtime.
    ///
    /// # Errors
    /// [`Cause::Sql`] when `url` is no Postgres URL.
    pub fn new(url: &SecretString, options: Options) -> Result<Self, Error> {
        let connect = PgConnectOptions::from_str(url.expose_secret())
            .map_err(|source| Error { doing: "reading DATABASE_URL", cause: source.into() })?
            .application_name("crofter")
            .disable_statement_logging();
        let pool = PgPoolOptions::new()
            .max_connections(options.connections)
            .acquire_timeout(options.connect)
            // `session` asks more than a ping would.
            .test_before_acquire(false)
            .connect_lazy_with(connect);
        Ok(Self { pool, options })
    }

    /// Runs one call under the call's deadline; the server is told to give up by then as well.
    pub(super) async fn within<T>(
        &self,
        doing: &'static str,
        work: impl Future<Output = Result<T, Cause>>,
    ) -> Result<T, Error> {
        self.within_for(doing, self.options.call, work).await
    }

    /// [`within`](Self::within) with a deadline of its own.
    pub(super) async fn within_for<T>(
        &self,
        doing: &'static str,
        deadline: Duration,
        work: impl Future<Output = Result<T, Cause>>,
    ) -> Result<T, Error> {
        let ended = tokio::time::timeout(deadline, work).await;
        ended.unwrap_or(Err(Cause::Deadline(deadline))).map_err(|cause| Error { doing, cause })
    }

    /// A connection to a server that takes writes. Idle ones that have died meanwhile are passed over.
    pub(super) async fn session(&self) -> Result<Session, Cause> {
        for _ in 0..self.options.connections {
            let mut session = Session { connection: Some(self.pool.acquire().await?) };
            match session.check().await {
                Err(Cause::Sql(sqlx::Error::Io(_) | sqlx::Error::Database(_))) => (),
                result => return result.map(|()| session),
            }
        }
        let mut session = Session { connection: Some(self.pool.acquire().await?) };
        session.check().await?;
        Ok(session)
    }

    /// What the server shall allow one transaction, as `statement_timeout` takes it.
    pub(super) fn statement_timeout(&self) -> String {
        format!("{}ms", self.options.call.as_millis())
    }
}

/// How long a connection may take to be found sound when it is given back.
const RETURN: Duration = Duration::from_secs(5);

/// A connection in use; closed on drop unless [`release`](Self::release)d.
pub(super) struct Session {
    connection: Option<PoolConnection<Postgres>>,
}

impl Session {
    async fn check(&mut self) -> Result<(), Cause> {
        let writable = sqlx::query_scalar!(
            r#"SELECT current_setting('transaction_read_only') = 'off' AND NOT pg_is_in_recovery() AS "writable!""#
        )
        .fetch_one(self.connection()?)
        .await?;
        if writable { Ok(()) } else { Err(Cause::ReadOnly) }
    }

    /// The connection.
    pub(super) fn connection(&mut self) -> Result<&mut PgConnection, Cause> {
        self.connection.as_deref_mut().ok_or(Cause::Sql(sqlx::Error::PoolClosed))
    }

    /// Begins a transaction.
    pub(super) async fn begin(&mut self) -> Result<Transaction<'_, Postgres>, Cause> {
        Ok(self.connection()?.begin().await?)
    }

    /// Gives the connection back for the next: all went well.
    pub(super) fn release(mut self) {
        if let Some(mut connection) = self.connection.take() {
            // What its drop would do, but not for ever: the pool pings it, and a server that just then stops answering
            // would keep the connection's place.
            tokio::spawn(tokio::time::timeout(RETURN, connection.return_to_pool()));
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            // Out of the pool, which would wait for the answer to what was under way.
            drop(connection.detach());
        }
    }
}
