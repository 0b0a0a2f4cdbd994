//! How stale the watch of keys may be, measured by the process's own writes. Pure.
//!
//! A watch delivers nothing while nothing changes, and a watch that hangs delivers nothing either. The version of a list is
//! the newest of the whole store, which the watch of one kind never reaches; a bookmark comes once a minute. So the process
//! writes to an object of the same kind, the *probe*, and waits for the watch to deliver that write: the API server
//! delivers the changes of a kind in the order of their versions, so the watch has then delivered everything before it. The
//! cache is then at most as stale as the time since that write began, by this process's monotonic clock; no other clock
//! takes part.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

/// Most writes that the watch has not delivered: at one a second, older ones would prove nothing.
const MAX_PENDING: usize = 16;

/// The staleness of the watch.
#[derive(Debug, Default)]
pub struct Freshness {
    /// The watch has delivered every change before this time.
    confirmed: Option<Instant>,
    /// The newest version of the probe that the watch has delivered.
    delivered: u64,
    /// Writes that the watch has not delivered: version and beginning of each, oldest first.
    pending: VecDeque<(u64, Instant)>,
}

impl Freshness {
    /// Records a write of the probe that began at `begun` and has this version.
    pub fn record_write(&mut self, version: u64, begun: Instant) {
        if self.pending.len() == MAX_PENDING {
            self.pending.pop_front();
        }
        self.pending.push_back((version, begun));
        self.confirm();
    }

    /// Records that the watch has delivered this version of the probe. True where that confirmed a write.
    pub fn record_delivery(&mut self, version: u64) -> bool {
        self.delivered = self.delivered.max(version);
        self.confirm()
    }

    fn confirm(&mut self) -> bool {
        let before = self.confirmed;
        while let Some((_, begun)) = self.pending.pop_front_if(|(version, _)| *version <= self.delivered) {
            self.confirmed = self.confirmed.max(Some(begun));
        }
        self.confirmed != before
    }

    /// The age of the oldest write that the watch has not delivered.
    #[must_use]
    pub fn oldest_pending(&self, now: Instant) -> Duration {
        self.pending.front().map(|(_, begun)| now.duration_since(*begun)).unwrap_or_default()
    }

    /// How stale the watch may be; `None` before the first confirmed write.
    #[must_use]
    pub fn staleness(&self, now: Instant) -> Option<Duration> {
        self.confirmed.map(|at| now.duration_since(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_delivered_write_counts_and_from_its_beginning() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut freshness = Freshness::default();
        assert_eq!(freshness.staleness(at(0)), None);
        freshness.record_write(10, at(0));
        assert_eq!(freshness.staleness(at(1)), None, "written, and not delivered");
        assert!(!freshness.record_delivery(9), "an earlier write, of another process");
        assert!(freshness.record_delivery(12), "a later write, of another process, comes after ours");
        assert_eq!(freshness.staleness(at(3)), Some(Duration::from_secs(3)));
        // The watch was faster than the response.
        assert!(!freshness.record_delivery(20));
        freshness.record_write(20, at(4));
        assert_eq!(freshness.staleness(at(5)), Some(Duration::from_secs(1)));
    }

    #[test]
    fn a_watch_that_is_always_three_writes_late_is_three_seconds_staleness() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut freshness = Freshness::default();
        for n in 0..40 {
            freshness.record_write(n + 1, at(n));
            freshness.record_delivery((n + 1).saturating_sub(3));
        }
        assert_eq!(freshness.staleness(at(39)), Some(Duration::from_secs(3)));
        for n in 40..80 {
            freshness.record_write(n + 1, at(n));
        }
        assert_eq!(freshness.staleness(at(79)), Some(Duration::from_secs(43)));
        assert!(freshness.record_delivery(1000) && freshness.pending.is_empty());
    }
}
