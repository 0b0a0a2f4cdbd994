//! A bounded set of connections to a server that takes writes.
//!
//! The server gives up where the caller does: a statement may take a little less than its caller waits, and the server
//! notices a caller that has disconnected, which closes its connection. A transaction whose caller was cut off ends as
//! well, and with it what it locks.
//!
//! Nothing connects before the first call, so a process starts with the database away. A connection is asked whether
//! its server takes writes each time before it is used: after a failover the old primary still answers pings. A
//! connection whose use did not end well is closed, never reused: its state is unknown.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use sqlx::{
    Connection, PgConnection, PgPool, Postgres, Transaction, pool::PoolConnection, postgres::PgPoolOptions,
};
use tokio::time::Instant;

use super::{
    Cause, Error,
    url_source::{CurrentUrl, UrlSource},
};

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
    url: Arc<CurrentUrl>,
    options: Options,
    /// Number of the last transaction of the mirror that this process has seen committed.
    committed: Arc<AtomicI64>,
    /// Whether this process may write the mirror at the moment.
    may_write: Arc<dyn Fn() -> bool + Send + Sync>,
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
    /// [`Cause::Url`] when `url` is no Postgres URL, or a file can't be used.
    pub fn new(url: &UrlSource, options: Options) -> Result<Self, Error> {
        let (url, connect) = CurrentUrl::load(url.clone())
            .map_err(|source| Error { doing: url.doing(), cause: source.into() })?;
        let pool = PgPoolOptions::new()
            .max_connections(options.connections)
            .acquire_timeout(options.connect)
            // `session` asks more than a ping would.
            .test_before_acquire(false)
            .after_connect(move |connection, _| Box::pin(limit(connection, options.call)))
            .connect_lazy_with(connect);
        Ok(Self {
            pool,
            url: Arc::new(url),
            options,
            committed: Arc::default(),
            may_write: Arc::new(|| true),
        })
    }

    /// Lets the mirror be written only while `may_write` says so: it is asked before each transaction.
    #[must_use]
    pub fn written_while(self, may_write: impl Fn() -> bool + Send + Sync + 'static) -> Self {
        Self { may_write: Arc::new(may_write), ..self }
    }

    /// Checks that this process may write the mirror.
    ///
    /// # Errors
    /// [`Cause::NotLeader`].
    pub(super) fn check_leader(&self) -> Result<(), Cause> {
        if (self.may_write)() { Ok(()) } else { Err(Cause::NotLeader) }
    }

    /// Bounds of this pool.
    pub(super) fn options(&self) -> &Options {
        &self.options
    }

    /// Number of the last transaction of the mirror that this process has seen committed.
    #[must_use]
    pub fn committed(&self) -> i64 {
        self.committed.load(Ordering::Acquire)
    }

    /// This transaction of the mirror was committed.
    pub(super) fn saw_committed(&self, number: i64) {
        self.committed.fetch_max(number, Ordering::AcqRel);
    }

    /// The database holds the transactions up to this one, whatever was seen before.
    pub(super) fn found_committed(&self, number: i64) {
        self.committed.store(number, Ordering::Release);
    }

    /// Runs one call under the call's deadline.
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

    /// A connection to a server that takes writes. Idle ones that have died meanwhile are skipped.
    pub(super) async fn session(&self) -> Result<Session, Cause> {
        self.session_until(Instant::now() + self.options.call).await
    }

    /// [`session`](Self::session) for a caller that waits until `deadline`: the server ends a statement a little
    /// earlier.
    pub(super) async fn session_until(&self, deadline: Instant) -> Result<Session, Cause> {
        for _ in 0..self.options.connections {
            let mut session = Session { connection: Some(self.acquire().await?) };
            match session.check(deadline).await {
                Err(Cause::Sql(sqlx::Error::Io(_) | sqlx::Error::Database(_))) => (),
                result => return result.map(|()| session),
            }
        }
        let mut session = Session { connection: Some(self.acquire().await?) };
        session.check(deadline).await?;
        Ok(session)
    }

    /// A connection: an idle one, or a new one by the URL as it is now.
    async fn acquire(&self) -> Result<PoolConnection<Postgres>, Cause> {
        self.url.refresh(&self.pool).await;
        let acquired = self.pool.acquire().await;
        acquired.map_err(|error| Cause::of_connecting(self.pool.connect_options().get_host(), error))
    }
}

/// What a statement may take for a caller that waits for so long: a little less, but something.
fn statement_timeout(wait: Duration) -> String {
    format!("{}ms", (wait * 9 / 10).as_millis().max(1))
}

/// Has the server bound what is done over a new connection: a transaction that nothing is asked of ends within `call`,
/// and all ends soon after the connection is closed. A server older than one of these settings does without it.
async fn limit(connection: &mut PgConnection, call: Duration) -> Result<(), sqlx::Error> {
    let millis = |time: Duration| format!("{}ms", time.as_millis());
    let settings = [
        ("idle_in_transaction_session_timeout", millis(call)),
        ("client_connection_check_interval", millis(NOTICE)),
    ];
    sqlx::query!(
        r#"SELECT set_config(s.name, wanted.setting, false) AS "set!"
           FROM UNNEST($1::text[], $2::text[]) AS wanted (name, setting) JOIN pg_settings s ON s.name = wanted.name"#,
        &settings.each_ref().map(|(name, _)| (*name).to_owned()),
        &settings.each_ref().map(|(_, setting)| setting.clone()),
    )
    .fetch_all(connection)
    .await?;
    Ok(())
}

/// Within which the server notices, in the midst of a statement, that the caller has disconnected.
const NOTICE: Duration = Duration::from_millis(500);
/// How long a connection may take to be found sound when it is given back.
const RETURN: Duration = Duration::from_secs(5);

/// A connection in use; closed on drop unless [`release`](Self::release)d.
pub(super) struct Session {
    connection: Option<PoolConnection<Postgres>>,
}

impl Session {
    async fn check(&mut self, deadline: Instant) -> Result<(), Cause> {
        let left = deadline.saturating_duration_since(Instant::now());
        let writable = sqlx::query_scalar!(
            r#"SELECT current_setting('transaction_read_only') = 'off' AND NOT pg_is_in_recovery()
                      AND set_config('statement_timeout', $1, false) <> '' AS "writable!""#,
            statement_timeout(left)
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

    /// Gives its statements more time than the connections of the pool have. It must not be given back, then.
    pub(super) async fn allow(&mut self, deadline: Duration) -> Result<(), Cause> {
        sqlx::query!(
            r#"SELECT set_config('statement_timeout', $1, false) AS "set!""#,
            format!("{}ms", deadline.as_millis())
        )
        .fetch_one(self.connection()?)
        .await?;
        Ok(())
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
            // Out of the pool, which would wait for the answer to what was under way; the server notices and ends it.
            drop(connection.detach());
        }
    }
}
