//! Limits failed authentications by address. A valid key is not throttled at all, and a valid token waits at most for its turn;
//! only where the line of those that wait is full, one that was not accepted within the last hour is refused.
//!
//! Each address has a token bucket (in IPv6 each /64, which belongs to one customer). The number of buckets is bounded;
//! addresses beyond it share one, so that a flood from many addresses throttles only requests that fail.
//!
//! A key is checked in memory. A token that the server does not know costs the API server a review, and only the review
//! says whether it is valid. So it takes its failure from the bucket beforehand, and returns it where it was none. Where the
//! bucket is empty it waits in one line of all such requests, whose reviews are made at a fixed rate: a valid token is
//! reviewed within `MAX_WAITING` times `REVIEW_INTERVAL`, and a flood of invalid ones costs the API server no more than
//! that rate.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::Semaphore, time::Instant};

/// Failures that are allowed at once.
const BURST: f64 = 20.0;
/// Failures a second that are allowed after a burst.
const REFILL_PER_SECOND: f64 = 1.0;
/// Most addresses with a bucket of their own.
const MAX_BUCKETS: usize = 8192;
/// Time between two reviews for addresses that fail too often: 50 a second.
const REVIEW_INTERVAL: Duration = Duration::from_millis(20);
/// Most requests that wait for such a review: 20 s of them, less than a request may take.
const MAX_WAITING: usize = 1000;

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn at(self, now: Instant) -> Self {
        let refilled = now.saturating_duration_since(self.at).as_secs_f64() * REFILL_PER_SECOND;
        Self { tokens: (self.tokens + refilled).min(BURST), at: now }
    }
}

/// Token buckets by address, and the line of reviews.
#[derive(Debug)]
pub struct AuthThrottle {
    buckets: Mutex<HashMap<IpAddr, Bucket>>,
    /// Places in the line.
    waiting: Semaphore,
    /// The turn of the first in the line. It is fair: who comes first has it first.
    turn: Arc<Semaphore>,
}

impl Default for AuthThrottle {
    fn default() -> Self {
        let (waiting, turn) = (Semaphore::new(MAX_WAITING), Arc::new(Semaphore::new(1)));
        Self { buckets: Mutex::default(), waiting, turn }
    }
}

/// The key of the bucket that addresses without one of their own share.
const SHARED_BUCKET: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

impl AuthThrottle {
    /// Takes a failure from the bucket of an address.
    ///
    /// # Errors
    /// The bucket is empty: the time until it is not.
    pub fn take(&self, address: IpAddr) -> Result<(), Duration> {
        self.with_bucket(address, |tokens| {
            if *tokens < 1.0 {
                return Err(Duration::from_secs_f64((1.0 - *tokens) / REFILL_PER_SECOND));
            }
            *tokens -= 1.0;
            Ok(())
        })
    }

    /// Returns what was [taken](Self::take) for what was no failure.
    pub fn give_back(&self, address: IpAddr) {
        self.with_bucket(address, |tokens| *tokens += 1.0);
    }

    fn with_bucket<T>(&self, address: IpAddr, change: impl FnOnce(&mut f64) -> T) -> T {
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let mut key = network(address);
        if buckets.len() >= MAX_BUCKETS && !buckets.contains_key(&key) {
            buckets.retain(|_, bucket| bucket.at(now).tokens < BURST);
            if buckets.len() >= MAX_BUCKETS {
                key = SHARED_BUCKET;
            }
        }
        let bucket = buckets.entry(key).or_insert(Bucket { tokens: BURST, at: now });
        *bucket = bucket.at(now);
        change(&mut bucket.tokens)
    }

    /// Waits for the turn of a review for an address whose bucket is empty. A request that ends while it waits leaves the line.
    ///
    /// # Errors
    /// Too many wait: the time within which they all have had their turn.
    pub async fn wait_for_turn(&self) -> Result<(), Duration> {
        let full = || REVIEW_INTERVAL * u32::try_from(MAX_WAITING).unwrap_or(u32::MAX);
        let _place = self.waiting.try_acquire().map_err(|_| full())?;
        let turn = Arc::clone(&self.turn).acquire_owned().await.map_err(|_| full())?;
        tokio::spawn(async move {
            tokio::time::sleep(REVIEW_INTERVAL).await;
            drop(turn);
        });
        Ok(())
    }
}

/// The key of an address: the address itself in IPv4, its /64 in IPv6.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let [a, b, c, d, ..] = v6.segments();
            IpAddr::V6(Ipv6Addr::new(a, b, c, d, 0, 0, 0, 1))
        }
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt as _, future::join_all};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_address_that_fails_is_throttled_and_no_other_is() {
        let throttle = AuthThrottle::default();
        let (bad, good): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        for _ in 0..20 {
            assert_eq!(throttle.take(bad), Ok(()));
        }
        assert_eq!(throttle.take(bad), Err(Duration::from_secs(1)));
        assert_eq!(throttle.take(good), Ok(()));
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(throttle.take(bad), Ok(()));
        assert!(throttle.take(bad).is_err());
        throttle.give_back(bad);
        assert_eq!(throttle.take(bad), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn an_ipv6_network_has_one_bucket_and_the_number_of_buckets_is_bounded() {
        let throttle = AuthThrottle::default();
        for n in 0..20_u16 {
            throttle.take(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n))).unwrap();
        }
        assert!(throttle.take("2001:db8::ffff".parse().unwrap()).is_err());
        assert!(throttle.take("2001:db8:0:1::1".parse().unwrap()).is_ok());
        for n in 0..20_000_u32 {
            let _ = throttle.take(IpAddr::V4(n.into()));
        }
        assert!(throttle.buckets.lock().unwrap().len() <= MAX_BUCKETS + 1);
        assert!(throttle.take("198.51.100.1".parse().unwrap()).is_err(), "it has the shared bucket");
        tokio::time::advance(Duration::from_secs(30)).await;
        throttle.take("198.51.100.1".parse().unwrap()).unwrap();
        assert_eq!(throttle.buckets.lock().unwrap().len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn reviews_have_a_rate_an_order_and_a_bounded_line() {
        let throttle = AuthThrottle::default();
        let begun = Instant::now();
        let turns = join_all((0..MAX_WAITING).map(async |n| {
            throttle.wait_for_turn().await.unwrap();
            (n, begun.elapsed())
        }));
        let mut turns = std::pin::pin!(turns);
        assert!(turns.as_mut().now_or_never().is_none());
        // One has had its turn; the next place is the last.
        let last = throttle.wait_for_turn();
        let mut last = std::pin::pin!(last);
        assert!(last.as_mut().now_or_never().is_none());
        assert_eq!(throttle.wait_for_turn().await, Err(Duration::from_secs(20)));
        let turns = turns.await;
        for (n, at) in &turns {
            let expected = REVIEW_INTERVAL * u32::try_from(*n).unwrap();
            assert!(
                *at >= expected && *at < expected + 2 * REVIEW_INTERVAL * u32::try_from(n + 1).unwrap(),
                "{n} at {at:?}"
            );
        }
        last.await.unwrap();
        // One that ends while it waits leaves the line.
        throttle.wait_for_turn().await.unwrap();
        assert!(throttle.wait_for_turn().now_or_never().is_none());
        assert_eq!(throttle.waiting.available_permits(), MAX_WAITING);
    }
}
