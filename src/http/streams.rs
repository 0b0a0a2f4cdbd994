//! Answers that go on (logs, events): how many there may be, and when they must end.
//!
//! The bound on requests under way ends with the head of an answer, so these are counted apart, by tenant: one tenant's
//! followers take room from nobody else. A stream ends when the server stops, and, by [`end`], within some seconds after its
//! key would not be let in any more. Nothing is held for a slow reader: a stream is asked for more only when there is room
//! in the connection.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{
    FutureExt,
    future::{BoxFuture, Shared},
};

use super::{
    App,
    auth::{Context, still_holds},
    problem::{Code, Problem},
};
use crate::api_types::api_key::Scope;

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
}

/// The streams of one server. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Streams {
    open: Arc<Mutex<Open>>,
    stop: Shared<BoxFuture<'static, ()>>,
}

#[derive(Default)]
struct Open {
    /// By the tenant's UID; none is 0.
    of_tenants: HashMap<(Kind, String), usize>,
    of_all: HashMap<Kind, usize>,
}

impl Streams {
    /// None yet; all end at `stop`.
    #[must_use]
    pub fn new(stop: impl Future<Output = ()> + Send + 'static) -> Self {
        Self { open: Arc::default(), stop: stop.boxed().shared() }
    }

    /// A place for one more of a tenant.
    ///
    /// # Errors
    /// `too_many_streams`, `overloaded`.
    pub fn enter(&self, kind: Kind, tenant_uid: &str) -> Result<Place, Problem> {
        let key = (kind, tenant_uid.to_owned());
        let mut open = self.open();
        let (own, all) = (
            open.of_tenants.get(&key).copied().unwrap_or_default(),
            open.of_all.get(&kind).copied().unwrap_or_default(),
        );
        if own >= kind.of_tenant() {
            let detail = format!("the tenant follows {own} {} already, which is the most here", kind.word());
            return Err(Problem::new(Code::TooManyStreams, detail).retry_after(5));
        }
        if all >= kind.of_all() {
            return Err(Problem::new(Code::Overloaded, format!("too many {} are followed", kind.word())));
        }
        open.of_all.insert(kind, all + 1);
        open.of_tenants.insert(key.clone(), own + 1);
        drop(open);
        Ok(Place { streams: self.clone(), key })
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The place of one stream, free again with its drop.
pub struct Place {
    streams: Streams,
    key: (Kind, String),
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.streams.open();
        if let Some(all) = open.of_all.get_mut(&self.key.0) {
            *all = all.saturating_sub(1);
        }
        match open.of_tenants.get_mut(&self.key) {
            Some(own) if *own > 1 => *own -= 1,
            _ => drop(open.of_tenants.remove(&self.key)),
        }
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

    #[test]
    fn a_tenant_has_so_many_places_and_takes_none_from_others() {
        let streams = Streams::new(std::future::pending());
        let mut held: Vec<Place> =
            (0..Kind::Logs.of_tenant()).map(|_| streams.enter(Kind::Logs, "a").unwrap()).collect();
        let refused = streams.enter(Kind::Logs, "a").err().unwrap();
        assert_eq!(refused.code, Code::TooManyStreams);
        held.push(streams.enter(Kind::Events, "a").unwrap());
        held.push(streams.enter(Kind::Logs, "b").unwrap());
        held.remove(0);
        held.push(streams.enter(Kind::Logs, "a").unwrap());
        assert!(streams.enter(Kind::Logs, "a").is_err());
        held.clear();
        assert!(streams.open().of_tenants.is_empty(), "nothing is kept of who is gone");
        assert!(streams.open().of_all.values().all(|all| *all == 0));
    }

    #[test]
    fn all_tenants_together_have_so_many() {
        let streams = Streams::new(std::future::pending());
        let held: Vec<Place> = (0..Kind::Logs.of_all())
            .map(|n| streams.enter(Kind::Logs, &format!("t{}", n / 10)).unwrap())
            .collect();
        assert_eq!(streams.enter(Kind::Logs, "new").err().unwrap().code, Code::Overloaded);
        drop(held);
        assert!(streams.enter(Kind::Logs, "new").is_ok());
    }
}
