//! Limits failed authentications by address. What is valid is not slowed by what fails: a valid key is not throttled at all, and
//! a valid token waits at most for the reviews before it.
//!
//! Each address has a token bucket (in IPv6 each /64, which belongs to one customer). The number of buckets is bounded;
//! addresses beyond it share one, so that a flood from many addresses throttles only requests that fail.
//!
//! A key is checked in memory. A token that the server does not know costs the API server a review, and only the review
//! says whether it is valid. So it takes its failure from the bucket beforehand, and returns it where it was none. Where the
//! bucket is empty, its review is one of at most `MAX_REVIEWS` at once, which is all that a flood of invalid tokens costs the
//! API server. A rate would cost it less, and would let a slow flood keep everyone else behind the same proxy out.
//! Requests for such a review wait in order, at most `MAX_WAITING` of them. Only a flood that is faster than the API server
//! makes the line full. Then a token is refused unless it was accepted within the last hour: no choice among requests that
//! look the same would help a valid one.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::Instant,
};

/// Failures that are allowed at once.
const BURST: f64 = 20.0;
/// Failures a second that are allowed after a burst.
const REFILL_PER_SECOND: f64 = 1.0;
/// Most addresses with a bucket of their own.
const MAX_BUCKETS: usize = 8192;
/// Most reviews at once for addresses that fail too often.
pub const MAX_REVIEWS: usize = 8;
/// Most requests that wait for such a review.
pub const MAX_WAITING: usize = 1000;
/// When a request that was not let into the line may try again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

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

/// Token buckets by address, and the line for reviews.
#[derive(Debug)]
pub struct AuthThrottle {
    buckets: Mutex<HashMap<IpAddr, Bucket>>,
    /// Places in the line.
    waiting: Semaphore,
    /// Reviews for those in the line. It is fair: who comes first has it first.
    reviews: Semaphore,
}

impl Default for AuthThrottle {
    fn default() -> Self {
        let (waiting, reviews) = (Semaphore::new(MAX_WAITING), Semaphore::new(MAX_REVIEWS));
        Self { buckets: Mutex::default(), waiting, reviews }
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

    /// Waits for the permit of a review for an address whose bucket is empty. A request that ends while it waits leaves the line.
    ///
    /// # Errors
    /// Too many wait: when to try again.
    pub async fn wait_for_review(&self) -> Result<SemaphorePermit<'_>, Duration> {
        let _place = self.waiting.try_acquire().map_err(|_| RETRY_AFTER)?;
        self.reviews.acquire().await.map_err(|_| RETRY_AFTER)
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
    use futures::FutureExt as _;

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

    // Outside of a runtime, which yields after a number of polls.
    #[test]
    fn reviews_are_few_at_once_in_order_and_their_line_is_bounded() {
        let throttle = AuthThrottle::default();
        let begin = || Box::pin(throttle.wait_for_review());
        // Given: as many reviews as there may be at once, and a full line.
        let mut running: Vec<_> =
            (0..MAX_REVIEWS).map(|_| begin().now_or_never().unwrap().unwrap()).collect();
        let mut line: Vec<_> = (0..MAX_WAITING).map(|_| begin()).collect();
        assert!(line.iter_mut().all(|one| one.as_mut().now_or_never().is_none()));
        assert_eq!(begin().now_or_never().unwrap().err(), Some(RETRY_AFTER));
        // When: one in the middle of the line gives up. Then: another one has its place, the last.
        drop(line.remove(7));
        line.push(begin());
        assert!(line.last_mut().unwrap().as_mut().now_or_never().is_none());
        // Then: each review that ends lets the first one in, and no other.
        for first in line {
            running.pop();
            running.push(first.now_or_never().unwrap().unwrap());
            assert!(begin().now_or_never().is_none());
        }
        drop(running);
        assert_eq!(
            (throttle.waiting.available_permits(), throttle.reviews.available_permits()),
            (MAX_WAITING, MAX_REVIEWS)
        );
    }
}
