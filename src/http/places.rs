//! How many requests are in flight, and how many bodies are being received.
//!
//! Tenants have places of their own, and so have administrators, and users of the cluster whose rights are not reviewed yet; no
//! single caller has more than a part of any. Requests of tenants, of one administrator, or of users without rights therefore
//! leave places for the others. A request has
//! - none before its caller is known: whoever is not authenticated keeps no one out. Routes without credentials, such as those
//!   of probes, need none: their handlers wait for nothing;
//! - none while its body is received, however slowly. Such bodies are counted apart, because the server has them in memory.

use std::{
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    concurrency_limit::{KeyedLimiter, Permit},
    problem::{Code, Problem},
};

/// Most requests of tenants in flight.
pub const MAX_IN_FLIGHT: usize = 512;
/// Most requests of one tenant in flight.
pub const MAX_IN_FLIGHT_PER_TENANT: usize = MAX_IN_FLIGHT / 2;
/// Most bodies of tenants that are being received.
pub const MAX_BODIES: usize = 512;
/// Most bodies of one tenant that are being received.
pub const MAX_BODIES_PER_TENANT: usize = MAX_BODIES / 4;
/// Most requests of administrators in flight, and of one administrator; also of their bodies that are being received.
/// A user whose rights are not reviewed has no more than one administrator.
pub const MAX_OF_ADMINISTRATORS: usize = 128;
const MAX_PER_ADMINISTRATOR: usize = MAX_OF_ADMINISTRATORS / 4;

/// A number of permits in all, and of one caller.
#[derive(Debug)]
struct Limit {
    all: Arc<Semaphore>,
    by_caller: KeyedLimiter,
    per_caller: usize,
}

/// A permit of a caller, which is one of all.
type Held = (Permit, OwnedSemaphorePermit);

impl Limit {
    fn new(all: usize, per_caller: usize) -> Self {
        Self { all: Arc::new(Semaphore::new(all)), by_caller: KeyedLimiter::default(), per_caller }
    }

    fn try_acquire(&self, caller: &str) -> Option<Held> {
        let own = self.by_caller.try_acquire(caller.to_owned(), self.per_caller)?;
        Some((own, Arc::clone(&self.all).try_acquire_owned().ok()?))
    }
}

/// The places of callers of one kind.
#[derive(Debug)]
pub struct Pool {
    requests: Limit,
    bodies: Limit,
}

/// The places of one server.
#[derive(Debug)]
pub struct Places {
    /// Those of tenants, by their UIDs.
    pub tenants: Arc<Pool>,
    /// Those of users who are authorised to what they request, by their names.
    pub administrators: Arc<Pool>,
    /// Those of users until then, by their names. Nothing but reviews happens in these.
    pub users: Arc<Pool>,
}

impl Default for Places {
    fn default() -> Self {
        let pool = |requests, bodies| Arc::new(Pool { requests, bodies });
        let of_administrators = || Limit::new(MAX_OF_ADMINISTRATORS, MAX_PER_ADMINISTRATOR);
        Self {
            tenants: pool(
                Limit::new(MAX_IN_FLIGHT, MAX_IN_FLIGHT_PER_TENANT),
                Limit::new(MAX_BODIES, MAX_BODIES_PER_TENANT),
            ),
            administrators: pool(of_administrators(), of_administrators()),
            users: pool(Limit::new(MAX_IN_FLIGHT, MAX_PER_ADMINISTRATOR), of_administrators()),
        }
    }
}

/// A place that is taken.
#[derive(Debug)]
struct Taken {
    pool: Arc<Pool>,
    caller: String,
    _held: Held,
}

impl Taken {
    fn is_of(&self, pool: &Arc<Pool>, caller: &str) -> bool {
        Arc::ptr_eq(&self.pool, pool) && self.caller == caller
    }
}

/// The place of one request, which it has until all clones are dropped.
#[derive(Clone, Debug, Default)]
pub struct Place(Arc<Mutex<Option<Taken>>>);

impl Place {
    /// Takes a place of this caller and leaves that in another pool, once. Where it fails the request keeps what it has.
    ///
    /// # Errors
    /// `overloaded`.
    pub fn take(&self, pool: &Arc<Pool>, caller: &str) -> Result<(), Problem> {
        if self
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
            .is_some_and(|t| t.is_of(pool, caller))
        {
            return Ok(());
        }
        let held = pool.requests.try_acquire(caller);
        let held = held.ok_or_else(|| overloaded("too many requests are in flight"))?;
        self.replace(Some(Taken { pool: Arc::clone(pool), caller: caller.to_owned(), _held: held }));
        Ok(())
    }

    fn replace(&self, taken: Option<Taken>) -> Option<Taken> {
        std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), taken)
    }

    /// Receives a body. The request leaves its place meanwhile, unless the body is complete at once.
    ///
    /// # Errors
    /// `overloaded`: too many bodies are being received, or no place is free afterwards.
    pub async fn receive<T>(&self, body: impl Future<Output = T>) -> Result<T, Problem> {
        let mut body = pin!(body);
        if let Poll::Ready(done) = futures::poll!(body.as_mut()) {
            return Ok(done);
        }
        let Some(Taken { pool, caller, .. }) = self.replace(None) else { return Ok(body.await) };
        let held = pool.bodies.try_acquire(&caller);
        let held = held.ok_or_else(|| overloaded("too many bodies of requests are being received"))?;
        let done = body.await;
        drop(held);
        self.take(&pool, &caller)?;
        Ok(done)
    }
}

fn overloaded(detail: &str) -> Problem {
    Problem::new(Code::Overloaded, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_caller_has_a_part_of_the_places_and_none_while_its_body_comes() {
        let places = Places::default();
        let take = |caller: &str| {
            let place = Place::default();
            place.take(&places.tenants, caller).map(|()| place)
        };
        // Two tenants have all places of tenants.
        let mut a: Vec<_> = (0..MAX_IN_FLIGHT_PER_TENANT).map(|_| take("a").unwrap()).collect();
        assert_eq!(take("a").unwrap_err().code, Code::Overloaded);
        let b: Vec<_> = (0..MAX_IN_FLIGHT_PER_TENANT).map(|_| take("b").unwrap()).collect();
        assert_eq!(take("c").unwrap_err().code, Code::Overloaded);
        assert!(Place::default().take(&places.administrators, "c").is_ok(), "those of others are apart");
        // While a body comes its place is free, and where another request has it then, this one fails.
        let one = a.pop().unwrap();
        let (end, ended) = tokio::sync::oneshot::channel();
        let mut receiving = Box::pin(one.receive(ended));
        assert!(futures::poll!(receiving.as_mut()).is_pending());
        let another = take("c").unwrap();
        end.send(7).unwrap();
        assert_eq!(receiving.await.unwrap_err().code, Code::Overloaded);
        drop(another);
        assert_eq!(b[0].receive(async { 7 }).await.unwrap(), 7);
        assert!(take("c").is_ok() && take("b").is_err(), "a body that is complete at once leaves no place");
        // The number of bodies is bounded for each caller.
        drop((a, b));
        let slow: Vec<_> = (0..=MAX_BODIES_PER_TENANT).map(|_| take("a").unwrap()).collect();
        let mut slow: Vec<_> =
            slow.iter().map(|one| Box::pin(one.receive(std::future::pending::<()>()))).collect();
        let last = slow.pop().unwrap();
        for one in &mut slow {
            assert!(futures::poll!(one.as_mut()).is_pending());
        }
        assert_eq!(last.await.unwrap_err().code, Code::Overloaded);
    }
}
