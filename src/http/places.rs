//! How many requests are in flight, and how many bodies are being received.
//!
//! Tenants have places of their own, and so have administrators, and users of the cluster whose rights are not reviewed yet; no
//! single caller has more than a part of any. Requests of tenants, of one administrator, or of users without rights therefore
//! leave places for the others. A request has
//! - none before its caller is known: whoever is not authenticated keeps no one out. Routes without credentials, such as those
//!   of probes, need none: their handlers wait for nothing;
//! - none while its body is received, however slowly. Such bodies are counted apart, by the memory that they take.

use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Body;
use futures::FutureExt as _;
use http_body_util::{BodyExt as _, Limited};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    concurrency_limit::{KeyedLimiter, Permit},
    problem::{Code, Problem},
};

/// Most requests of tenants in flight.
pub const MAX_IN_FLIGHT: usize = 512;
/// Most requests of one tenant in flight.
pub const MAX_IN_FLIGHT_PER_TENANT: usize = MAX_IN_FLIGHT / 2;
/// Memory that a body which is being received takes at least, and in whose multiples it grows, in bytes.
pub const BLOCK: usize = 64 * 1024;
/// Most blocks of bodies of tenants that are being received: 64 MiB.
pub const MAX_BLOCKS: usize = 1024;
/// Most blocks of bodies of one tenant.
pub const MAX_BLOCKS_PER_TENANT: usize = MAX_BLOCKS / 4;
/// Most requests of administrators in flight, and of one administrator; also blocks of their bodies. A user whose rights are not
/// reviewed has no more than one administrator.
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
    /// Those of users who are authorised to what they request, or were to something in the whole cluster, by their names.
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
                Limit::new(MAX_BLOCKS, MAX_BLOCKS_PER_TENANT),
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

    /// Receives a body of at most `max` bytes. The request leaves its place meanwhile, unless the body is complete at once. Each
    /// frame is copied: a small one would keep the whole buffer that it came in.
    ///
    /// # Errors
    /// `overloaded`: bodies that are being received take too much memory, or no place is free afterwards. The inner error is that
    /// of the body.
    pub async fn receive(&self, body: Body, max: usize) -> Result<Result<Vec<u8>, BodyError>, Problem> {
        let mut body = Limited::new(body, max);
        let (mut bytes, mut left, mut blocks) = (Vec::new(), None, Vec::new());
        loop {
            let next = body.frame().now_or_never();
            if next.is_none() && left.is_none() {
                // The place is free from here on.
                left = self.replace(None).map(|Taken { pool, caller, .. }| (pool, caller));
            }
            if let Some((pool, caller)) = &left {
                while blocks.len() <= bytes.len() / BLOCK {
                    let block = pool.bodies.try_acquire(caller);
                    blocks.push(
                        block.ok_or_else(|| overloaded("too many bodies of requests are being received"))?,
                    );
                }
            }
            let frame = match next {
                Some(frame) => frame,
                None => body.frame().await,
            };
            match frame {
                Some(Ok(frame)) => bytes.extend_from_slice(frame.data_ref().map_or(&[], |data| &**data)),
                Some(Err(error)) => return Ok(Err(error)),
                None => break,
            }
        }
        drop(blocks);
        if let Some((pool, caller)) = left {
            self.take(&pool, &caller)?;
        }
        Ok(Ok(bytes))
    }
}

/// Why a body was not received: it ended early, or is too long (`LengthLimitError`).
pub type BodyError = Box<dyn std::error::Error + Send + Sync>;

fn overloaded(detail: &str) -> Problem {
    Problem::new(Code::Overloaded, detail)
}

#[cfg(test)]
mod tests {
    use futures::StreamExt as _;

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
        let (end, ended) = futures::channel::mpsc::unbounded::<Result<Vec<u8>, std::io::Error>>();
        let mut receiving = Box::pin(one.receive(Body::from_stream(ended), 10));
        assert!(futures::poll!(receiving.as_mut()).is_pending());
        let another = take("c").unwrap();
        end.close_channel();
        assert_eq!(receiving.await.unwrap_err().code, Code::Overloaded);
        drop(another);
        assert_eq!(b[0].receive(Body::from("7"), 10).await.unwrap().unwrap(), b"7");
        assert!(take("c").is_ok() && take("b").is_err(), "a body that is complete at once leaves no place");
        // A caller has a part of the memory for bodies, whether these are many or large.
        drop((a, b));
        let slow: Vec<_> = (0..=MAX_BLOCKS_PER_TENANT).map(|_| Place::default()).collect();
        let mut receiving = Vec::new();
        for (n, place) in slow.iter().enumerate() {
            place.take(&places.tenants, "a").unwrap();
            let sent = if n == 0 { 3 * BLOCK } else { 1 };
            let body = futures::stream::iter([Ok::<_, std::io::Error>(vec![b' '; sent])])
                .chain(futures::stream::pending());
            let mut one = Box::pin(place.receive(Body::from_stream(body), 1 << 20));
            match futures::poll!(one.as_mut()) {
                std::task::Poll::Pending => receiving.push(one),
                std::task::Poll::Ready(done) => {
                    assert_eq!(done.unwrap_err().code, Code::Overloaded);
                    break;
                }
            }
        }
        // One has four blocks.
        assert_eq!(receiving.len(), MAX_BLOCKS_PER_TENANT - 3);
        drop(receiving);
        assert!(places.tenants.bodies.try_acquire("a").is_some());
    }

    #[tokio::test]
    async fn a_body_is_bounded_and_copied_out_of_its_frames() {
        let place = Place::default();
        let whole = |frames: Vec<Vec<u8>>| {
            Body::from_stream(futures::stream::iter(frames.into_iter().map(Ok::<_, std::io::Error>)))
        };
        let one_by_one = (0..1000).map(|_| vec![b' ']).collect();
        let bytes = place.receive(whole(one_by_one), 1000).await.unwrap().unwrap();
        assert_eq!(bytes.len(), 1000);
        assert!(bytes.capacity() <= 2048, "{}", bytes.capacity());
        let error =
            place.receive(whole(vec![vec![b' '; 600], vec![b' '; 401]]), 1000).await.unwrap().unwrap_err();
        assert!(error.is::<http_body_util::LengthLimitError>());
    }
}
