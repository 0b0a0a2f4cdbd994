//! Refused keys and tokens, by address: who guesses is slowed down, who succeeds never is.
//!
//! A bucket for each address (IPv6: for each /64, which is one customer's). The number of buckets is bounded; addresses
//! beyond it share one, so a flood from many addresses slows down those who fail and nobody else.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Failures at once.
const BURST: f64 = 20.0;
/// Failures a second after that.
const PER_SECOND: f64 = 1.0;
/// Addresses that have buckets of their own.
const MOST: usize = 8192;

#[derive(Clone, Copy, Debug)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Bucket {
    fn at(self, now: Instant) -> Self {
        let back = now.saturating_duration_since(self.at).as_secs_f64() * PER_SECOND;
        Self { left: (self.left + back).min(BURST), at: now }
    }
}

/// Buckets by address.
#[derive(Debug, Default)]
pub struct Failures(Mutex<HashMap<IpAddr, Bucket>>);

/// The address that stands for those without a bucket of their own.
const OTHERS: IpAddr = IpAddr::V6(Ipv6Addr::UNSPECIFIED);

impl Failures {
    /// Whether an address has failed too often: how long it is to wait, then.
    #[must_use]
    pub fn barred(&self, address: IpAddr) -> Option<Duration> {
        let buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = group(address);
        let shared = buckets.len() >= MOST;
        let bucket = buckets.get(&key).or_else(|| shared.then(|| buckets.get(&OTHERS)).flatten())?;
        let left = bucket.at(Instant::now()).left;
        (left < 1.0).then(|| Duration::from_secs_f64((1.0 - left) / PER_SECOND))
    }

    /// Counts a failure.
    pub fn count(&self, address: IpAddr) {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let mut key = group(address);
        if buckets.len() >= MOST && !buckets.contains_key(&key) {
            buckets.retain(|_, bucket| bucket.at(now).left < BURST);
            if buckets.len() >= MOST {
                key = OTHERS;
            }
        }
        let bucket = buckets.entry(key).or_insert(Bucket { left: BURST, at: now });
        *bucket = bucket.at(now);
        bucket.left = (bucket.left - 1.0).max(0.0);
    }
}

fn group(address: IpAddr) -> IpAddr {
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
    async fn who_fails_is_slowed_down_and_nobody_else() {
        let failures = Failures::default();
        let (bad, good): (IpAddr, IpAddr) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        for _ in 0..20 {
            assert_eq!(failures.barred(bad), None);
            failures.count(bad);
        }
        assert_eq!(failures.barred(bad), Some(Duration::from_secs(1)));
        assert_eq!(failures.barred(good), None);
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(failures.barred(bad), None);
        failures.count(bad);
        assert!(failures.barred(bad).is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn neighbours_in_one_network_count_as_one_and_the_map_is_bounded() {
        let failures = Failures::default();
        for n in 0..20_u16 {
            failures.count(IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, n)));
        }
        assert!(failures.barred("2001:db8::ffff".parse().unwrap()).is_some());
        assert!(failures.barred("2001:db8:0:1::1".parse().unwrap()).is_none());
        for n in 0..20_000_u32 {
            failures.count(IpAddr::V4(n.into()));
        }
        assert!(failures.0.lock().unwrap().len() <= MOST + 1);
        assert!(failures.barred("198.51.100.1".parse().unwrap()).is_some(), "it shares the others' bucket");
        tokio::time::advance(Duration::from_secs(30)).await;
        failures.count("198.51.100.1".parse().unwrap());
        assert_eq!(failures.0.lock().unwrap().len(), 1);
    }
}
