//! Answers that go on (logs, events): how many there may be, and when they must end.
//!
//! The bound on requests under way ends with the head of an answer, so these are counted apart, by tenant: one tenant's
//! followers take room from nobody else. A stream ends when the server stops, and, by [`end`], within some seconds after its
//! key would not be let in any more. Nothing is held for a slow reader: a stream is asked for more only when there is room
//! in the connection.

use std::time::Duration;

use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};

use super::{
    App,
    auth::{Context, still_holds},
    problem::{Code, Problem},
    shares::{Share, Shares},
};
use crate::{api_types::api_key::Scope, metrics::Metrics};

/// How often it is asked whether a stream's key would still be let in.
pub const CHECK: Duration = Duration::from_secs(2);

/// What goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Logs: each has a connection to the API server of its own.
    Logs,
    /// Events: from memory.
    Events,
}

impl Kind {
    /// How many a tenant may have.
    #[must_use]
    pub fn of_tenant(self) -> usize {
        match self {
            Self::Logs => 20,
            Self::Events => 200,
        }
    }

    /// How many there may be.
    #[must_use]
    pub fn of_all(self) -> usize {
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

    /// The word in metrics.
    fn label(self) -> &'static str {
        match self {
            Self::Logs => "logs",
            Self::Events => "events",
        }
    }
}

/// The streams of one server. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Streams {
    /// By the tenant's UID.
    of_tenants: Shares<(Kind, String)>,
    of_all: Shares<Kind>,
    metrics: Metrics,
    stop: Shared<BoxFuture<'static, ()>>,
}

impl Streams {
    /// None yet; all end at `stop`.
    #[must_use]
    pub fn new(metrics: Metrics, stop: impl Future<Output = ()> + Send + 'static) -> Self {
        for kind in [Kind::Logs, Kind::Events] {
            // Shown from the start, as none.
            metrics.streams_changed(kind.label(), 0);
        }
        let stop = stop.boxed().shared();
        Self { of_tenants: Shares::default(), of_all: Shares::default(), metrics, stop }
    }

    /// A place for one more of a tenant.
    ///
    /// # Errors
    /// `too_many_streams`, `overloaded`.
    pub fn enter(&self, kind: Kind, tenant_uid: &str) -> Result<Place, Problem> {
        let most = kind.of_tenant();
        let own = self.of_tenants.take((kind, tenant_uid.to_owned()), most).ok_or_else(|| {
            let detail = format!("the tenant follows {most} {} already, which is the most here", kind.word());
            Problem::new(Code::TooManyStreams, detail).retry_after(5)
        })?;
        let all = self.of_all.take(kind, kind.of_all()).ok_or_else(|| {
            Problem::new(Code::Overloaded, format!("too many {} are followed", kind.word()))
        })?;
        self.metrics.streams_changed(kind.label(), 1);
        Ok(Place { kind, metrics: self.metrics.clone(), _shares: (own, all) })
    }
}

/// The place of one stream, free again with its drop.
pub struct Place {
    kind: Kind,
    metrics: Metrics,
    _shares: (Share<(Kind, String)>, Share<Kind>),
}

impl Drop for Place {
    fn drop(&mut self) {
        self.metrics.streams_changed(self.kind.label(), -1);
    }
}

/// Why a stream ends though there may be more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum End {
    /// The server stops.
    #[error("the server stops")]
    Stopping,
    /// The key was revoked, has expired or lost its scope, or its tenant is not active any more; or nobody can say.
    #[error("the key is not accepted any more")]
    Closed,
}

/// Ready when a stream of this key must end.
pub fn end(app: &App, context: &Context, scope: Scope) -> BoxFuture<'static, End> {
    // Without the request's place among its tenant's.
    let (app, principal) = (app.clone(), context.principal.clone());
    async move {
        let mut stop = app.streams.stop.clone();
        loop {
            tokio::select! {
                biased;
                () = &mut stop => return End::Stopping,
                () = tokio::time::sleep(CHECK) => (),
            }
            if !still_holds(&app, &principal, scope).await {
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
    fn a_tenant_has_so_many_places_and_takes_none_from_others() {
        let streams = streams();
        let mut held: Vec<Place> =
            (0..Kind::Logs.of_tenant()).map(|_| streams.enter(Kind::Logs, "a").unwrap()).collect();
        let refused = streams.enter(Kind::Logs, "a").err().unwrap();
        assert_eq!(refused.code, Code::TooManyStreams);
        held.push(streams.enter(Kind::Events, "a").unwrap());
        held.push(streams.enter(Kind::Logs, "b").unwrap());
        held.remove(0);
        held.push(streams.enter(Kind::Logs, "a").unwrap());
        assert!(streams.enter(Kind::Logs, "a").is_err());
    }

    #[test]
    fn all_tenants_together_have_so_many() {
        let streams = streams();
        let held: Vec<Place> = (0..Kind::Logs.of_all())
            .map(|n| streams.enter(Kind::Logs, &format!("t{}", n / 10)).unwrap())
            .collect();
        for _ in 0..=Kind::Logs.of_tenant() {
            let refused = streams.enter(Kind::Logs, "new").err().unwrap();
            assert_eq!(refused.code, Code::Overloaded, "what is refused takes no place of the tenant's");
        }
        drop(held);
        assert!(streams.enter(Kind::Logs, "new").is_ok());
    }

    #[test]
    fn those_that_are_open_are_shown_by_kind() {
        let streams = streams();
        let shown = |logs: i64, events: i64| {
            let text = streams.metrics.text().unwrap();
            for (kind, open) in [("logs", logs), ("events", events)] {
                let line = format!("crofter_api_streams{{kind=\"{kind}\"}} {open}\n");
                assert!(text.contains(&line), "{line}{text}");
            }
        };
        shown(0, 0);
        let logs: Vec<Place> =
            (0..Kind::Logs.of_tenant()).map(|_| streams.enter(Kind::Logs, "a").unwrap()).collect();
        let events = streams.enter(Kind::Events, "b").unwrap();
        assert!(streams.enter(Kind::Logs, "a").is_err(), "and is not counted");
        shown(20, 1);
        drop(logs);
        shown(0, 1);
        drop(events);
        shown(0, 0);
    }
}
