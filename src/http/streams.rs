//! Streaming responses (logs, events): their limits, and when they must end.
//!
//! The limit on requests in flight ends with the head of a response, so streaming responses have limits of their own, by
//! tenant: one tenant's streams leave capacity for the others. A stream ends when the server stops, and, by [`end`], within
//! some seconds after the server would no longer accept its key, or its user's token and rights. The server buffers nothing for a slow client: it polls a
//! stream only when the connection accepts more bytes.

use std::time::Duration;

use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};

use super::{
    App,
    administrators::REVIEW_TTL,
    by_tenant::{Context, TenantCaller},
    concurrency_limit::{KeyedLimiter, Permit},
    problem::{Code, Problem},
};
use crate::metrics::Metrics;

/// Time between two checks of a stream's key.
pub const REVALIDATION_INTERVAL: Duration = Duration::from_secs(2);

/// A kind of streaming response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Logs: each has a connection of its own to the API server.
    Logs,
    /// Events: from memory.
    Events,
}

impl Kind {
    /// Most streams of a tenant.
    #[must_use]
    pub fn limit_per_tenant(self) -> usize {
        match self {
            Self::Logs => 20,
            Self::Events => 200,
        }
    }

    /// Most streams of the server.
    #[must_use]
    pub fn limit(self) -> usize {
        match self {
            Self::Logs => 500,
            Self::Events => 4000,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Logs => "logs",
            Self::Events => "streams of events",
        }
    }

    /// The label in metrics.
    fn label(self) -> &'static str {
        match self {
            Self::Logs => "logs",
            Self::Events => "events",
        }
    }
}

/// The streams of one server. Cheap to clone; all clones share the limits.
#[derive(Clone)]
pub struct Streams {
    /// By the tenant's UID.
    by_tenant: KeyedLimiter<(Kind, String)>,
    by_kind: KeyedLimiter<Kind>,
    metrics: Metrics,
    stop: Shared<BoxFuture<'static, ()>>,
}

impl Streams {
    /// No streams. All streams end at `stop`.
    #[must_use]
    pub fn new(metrics: Metrics, stop: impl Future<Output = ()> + Send + 'static) -> Self {
        for kind in [Kind::Logs, Kind::Events] {
            // Credentials from the start, as none.
            metrics.streams_changed(kind.label(), 0);
        }
        let stop = stop.boxed().shared();
        Self { by_tenant: KeyedLimiter::default(), by_kind: KeyedLimiter::default(), metrics, stop }
    }

    /// A permit for a stream of a tenant.
    ///
    /// # Errors
    /// `too_many_streams`, `overloaded`.
    pub fn try_acquire(&self, kind: Kind, tenant_uid: &str) -> Result<StreamPermit, Problem> {
        let limit = kind.limit_per_tenant();
        let own = self.by_tenant.try_acquire((kind, tenant_uid.to_owned()), limit).ok_or_else(|| {
            let detail = format!("the tenant already has {limit} open {}, which is the limit", kind.word());
            Problem::new(Code::TooManyStreams, detail).retry_after(5)
        })?;
        let all = self.by_kind.try_acquire(kind, kind.limit()).ok_or_else(|| {
            Problem::new(Code::Overloaded, format!("the server has too many open {}", kind.word()))
        })?;
        self.metrics.streams_changed(kind.label(), 1);
        Ok(StreamPermit { kind, metrics: self.metrics.clone(), _permits: (own, all) })
    }
}

/// The permit of one stream. Dropping it returns it.
pub struct StreamPermit {
    kind: Kind,
    metrics: Metrics,
    _permits: (Permit<(Kind, String)>, Permit<Kind>),
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        self.metrics.streams_changed(self.kind.label(), -1);
    }
}

/// Why a stream ends before its source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum End {
    /// The server stops.
    #[error("the server is stopping")]
    Stopping,
    /// The key is revoked or expired, has lost its scope, or belongs to an inactive tenant; the token has expired, or the
    /// user has lost a right; or the server can't check it.
    #[error("the server no longer accepts the caller")]
    Closed,
}

/// Completes when a stream of this caller must end.
pub fn end(app: &App, context: &Context) -> BoxFuture<'static, End> {
    let (app, context) = (app.clone(), context.clone());
    let interval = match context.by {
        TenantCaller::Key(..) => REVALIDATION_INTERVAL,
        // More often the reviews of a user would come from their cache.
        TenantCaller::User(_) => REVIEW_TTL,
    };
    async move {
        let mut stop = app.streams.stop.clone();
        loop {
            tokio::select! {
                biased;
                () = &mut stop => return End::Stopping,
                () = tokio::time::sleep(interval) => (),
            }
            if !context.is_still_authorised(&app).await {
                return End::Closed;
            }
        }
    }
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn streams() -> Streams {
        Streams::new(Metrics::default(), std::future::pending())
    }

    #[test]
    fn a_tenant_has_its_limit_and_takes_no_permits_from_others() {
        let streams = streams();
        let mut held: Vec<StreamPermit> = (0..Kind::Logs.limit_per_tenant())
            .map(|_| streams.try_acquire(Kind::Logs, "a").unwrap())
            .collect();
        let refused = streams.try_acquire(Kind::Logs, "a").err().unwrap();
        assert_eq!(refused.code, Code::TooManyStreams);
        held.push(streams.try_acquire(Kind::Events, "a").unwrap());
        held.push(streams.try_acquire(Kind::Logs, "b").unwrap());
        held.remove(0);
        held.push(streams.try_acquire(Kind::Logs, "a").unwrap());
        assert!(streams.try_acquire(Kind::Logs, "a").is_err());
    }

    #[test]
    fn all_tenants_together_have_a_limit() {
        let streams = streams();
        let held: Vec<StreamPermit> = (0..Kind::Logs.limit())
            .map(|n| streams.try_acquire(Kind::Logs, &format!("t{}", n / 10)).unwrap())
            .collect();
        for _ in 0..=Kind::Logs.limit_per_tenant() {
            let refused = streams.try_acquire(Kind::Logs, "new").err().unwrap();
            assert_eq!(refused.code, Code::Overloaded, "a refused stream takes no permit of the tenant");
        }
        drop(held);
        assert!(streams.try_acquire(Kind::Logs, "new").is_ok());
    }

    #[test]
    fn open_streams_are_counted_by_kind() {
        let streams = streams();
        let shown = |logs: i64, events: i64| {
            let text = streams.metrics.text().unwrap();
            for (kind, open) in [("logs", logs), ("events", events)] {
                let line = format!("crofter_api_streams{{kind=\"{kind}\"}} {open}\n");
                assert!(text.contains(&line), "{line}{text}");
            }
        };
        shown(0, 0);
        let logs: Vec<StreamPermit> = (0..Kind::Logs.limit_per_tenant())
            .map(|_| streams.try_acquire(Kind::Logs, "a").unwrap())
            .collect();
        let events = streams.try_acquire(Kind::Events, "b").unwrap();
        assert!(streams.try_acquire(Kind::Logs, "a").is_err(), "a refused stream is not counted");
        shown(20, 1);
        drop(logs);
        shown(0, 1);
        drop(events);
        shown(0, 0);
    }
}
