//! Limits failed authentications by address. A request with a valid key is never throttled.
//!
//! Each address has a token bucket (in IPv6 each /64, which belongs to one customer). The number of buckets is bounded;
//! addresses beyond it share one, so that a flood from many addresses throttles only requests that fail.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Failures that are allowed at once.
const BURST: f64 = 20.0;
/// Failures a second that are allowed after a burst.
const REFILL_PER_SECOND: f64 = 1.0;
/// Most addresses with a bucket of their own.
const MAX_BUCKETS: usize = 8192;

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

/// Token buckets by address.
#[derive(Debug, Default)]
pub struct AuthThrottle(Mutex<HashMap<IpAddr, Bucket>>);

/// The key of the bucket that addresses without one of their own share.
const SHARED_BUCKET: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

impl AuthThrottle {
    /// The time until an address may fail again; `None` where it may now.
    #[must_use]
    pub fn retry_after(&self, address: IpAddr) -> Option<Duration> {
        let buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_full = buckets.len() >= MAX_BUCKETS;
        let shared = || is_full.then(|| buckets.get(&SHARED_BUCKET)).flatten();
        let bucket = buckets.get(&network(address)).or_else(shared)?;
        let tokens = bucket.at(Instant::now()).tokens;
        (tokens < 1.0).then(|| Duration::from_secs_f64((1.0 - tokens) / REFILL_PER_SECOND))
    }

    /// Counts a failure of an address.
    pub fn record_failure(&self, address: IpAddr) {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
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
        bucket.tokens = (bucket.tokens - 1.0).max(0.0);
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
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_address_that_fails_is_throttled_and_no_other_is() {
        let throttle = AuthThrottle::default();
        let (bad, good): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        for _ in 0..20 {
            assert_eq!(throttle.retry_after(bad), None);
            throttle.record_failure(bad);
        }
        assert_eq!(throttle.retry_after(bad), Some(Duration::from_secs(1)));
        assert_eq!(throttle.retry_after(good), None);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(throttle.retry_after(bad), None);
        throttle.record_failure(bad);
        assert!(throttle.retry_after(bad).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn an_ipv6_network_has_one_bucket_and_the_number_of_buckets_is_bounded() {
        let throttle = AuthThrottle::default();
        for n in 0..20_u16 {
            throttle.record_failure(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n)));
        }
        assert!(throttle.retry_after("2001:db8::ffff".parse().unwrap()).is_some());
        assert!(throttle.retry_after("2001:db8:0:1::1".parse().unwrap()).is_none());
        for n in 0..20_000_u32 {
            throttle.record_failure(IpAddr::V4(n.into()));
        }
        assert!(throttle.0.lock().unwrap().len() <= MAX_BUCKETS + 1);
        assert!(throttle.retry_after("198.51.100.1".parse().unwrap()).is_some(), "it has the shared bucket");
        tokio::time::advance(Duration::from_secs(30)).await;
        throttle.record_failure("198.51.100.1".parse().unwrap());
        assert_eq!(throttle.0.lock().unwrap().len(), 1);
    }
}
