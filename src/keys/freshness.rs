//! How far the watch of keys is behind, by what it has told of our own writes. Pure.
//!
//! Of itself a watch says nothing while nothing changes, and one that hangs looks the same. A list says which version is
//! the newest of the whole store, which no watch of one kind ever reaches; a bookmark comes once a minute. So the process
//! writes to an object of the same kind, the *probe*, and waits for its own write: the API server tells the changes of
//! a kind in the order of their versions, so once a write is told everything before it was. What is known then is the
//! state of when that write was begun, by this process's monotonic clock; no other clock enters.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

/// Writes that are waited for at most: at one a second, what is older than that would be no news.
const WAITED_FOR: usize = 16;

/// What is known of the watch's delay.
#[derive(Debug, Default)]
pub struct Freshness {
    /// Everything up to here was told.
    confirmed: Option<Instant>,
    /// The newest version of the probe that the watch has delivered.
    told: u64,
    /// Writes that the watch has not told of yet: version, and when it was begun; oldest first.
    written: VecDeque<(u64, Instant)>,
}

impl Freshness {
    /// A write of the probe that was begun at `begun` has become this version.
    pub fn wrote(&mut self, version: u64, begun: Instant) {
        if self.written.len() == WAITED_FOR {
            self.written.pop_front();
        }
        self.written.push_back((version, begun));
        self.settle();
    }

    /// The watch has delivered of this version of the probe; true when that confirmed something.
    pub fn told(&mut self, version: u64) -> bool {
        self.told = self.told.max(version);
        self.settle()
    }

    fn settle(&mut self) -> bool {
        let before = self.confirmed;
        while let Some((_, begun)) = self.written.pop_front_if(|(version, _)| *version <= self.told) {
            self.confirmed = self.confirmed.max(Some(begun));
        }
        self.confirmed != before
    }

    /// How long the oldest write that the watch has not delivered has been waited for.
    #[must_use]
    pub fn waits(&self, now: Instant) -> Duration {
        self.written.front().map(|(_, begun)| now.duration_since(*begun)).unwrap_or_default()
    }

    /// How old what the watch has delivered may be; `None` while nothing is known.
    #[must_use]
    pub fn behind(&self, now: Instant) -> Option<Duration> {
        self.confirmed.map(|at| now.duration_since(at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_write_that_was_told_counts_and_from_its_beginning() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut freshness = Freshness::default();
        assert_eq!(freshness.behind(at(0)), None);
        freshness.wrote(10, at(0));
        assert_eq!(freshness.behind(at(1)), None, "written, and not told");
        assert!(!freshness.told(9), "an earlier one, of another process");
        assert!(freshness.told(12), "a later one, of another process, comes after ours");
        assert_eq!(freshness.behind(at(3)), Some(Duration::from_secs(3)));
        // The watch was faster than the answer.
        assert!(!freshness.told(20));
        freshness.wrote(20, at(4));
        assert_eq!(freshness.behind(at(5)), Some(Duration::from_secs(1)));
    }

    #[test]
    fn a_watch_that_is_always_three_writes_late_is_three_seconds_behind() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut freshness = Freshness::default();
        for n in 0..40 {
            freshness.wrote(n + 1, at(n));
            freshness.told((n + 1).saturating_sub(3));
        }
        assert_eq!(freshness.behind(at(39)), Some(Duration::from_secs(3)));
        for n in 40..80 {
            freshness.wrote(n + 1, at(n));
        }
        assert_eq!(freshness.behind(at(79)), Some(Duration::from_secs(43)));
        assert!(freshness.told(1000) && freshness.written.is_empty());
    }
}
