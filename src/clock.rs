//! The one place where clocks are read.
//!
//! The operator's time of day is that of the API server ([`ServerTime`]).
//!
//! Rules and builders take a [`Timestamp`]; whoever drives them holds a [`Clock`], which a test sets to what it likes. What
//! users see, and what they gave a point in time for, goes by the time of day. What only waits, paces or measures goes by a
//! clock that does not step: tokio's `Instant`, or [`Clock::steady`] where it meets times of others. What must not last while
//! the machine is suspended, such as leadership, goes by [`Clock::boot`].

mod server_time;

use std::{sync::Arc, time::Instant};

use jiff::{SignedDuration, Timestamp};
use rustix::time::{ClockId, clock_gettime};

pub use self::server_time::ServerTime;

type Read = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Reads the time of day.
#[derive(Clone)]
pub struct Clock {
    now: Read,
    steady: Read,
    boot: Read,
}

impl Clock {
    /// The machine's clock.
    #[must_use]
    pub fn system() -> Self {
        #[expect(clippy::disallowed_methods, reason = "the one place where the time of day is read")]
        let (start, begun) = (Timestamp::now(), Instant::now());
        let steady = move || {
            let passed = SignedDuration::try_from(begun.elapsed()).unwrap_or(SignedDuration::MAX);
            start.saturating_add(passed).unwrap_or(Timestamp::MAX)
        };
        #[expect(clippy::disallowed_methods, reason = "the one place where the time of day is read")]
        Self { now: Arc::new(Timestamp::now), steady: Arc::new(steady), boot: Arc::new(since_boot) }
    }

    /// A clock that returns what `read` returns, and never steps.
    #[must_use]
    pub fn of(read: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        let read: Read = Arc::new(read);
        Self { now: Arc::clone(&read), steady: Arc::clone(&read), boot: read }
    }

    /// The same with a time of day that steps: it is what `read` returns.
    #[must_use]
    pub fn set_to(self, read: impl Fn() -> Timestamp + Send + Sync + 'static) -> Self {
        Self { now: Arc::new(read), ..self }
    }

    /// The time of day.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        (self.now)()
    }

    /// Both clocks.
    #[must_use]
    pub fn read(&self) -> ClockReading {
        ClockReading { wall: self.now(), steady: self.steady() }
    }

    /// A time that only differences are made of: that of this clock's making, and what has passed since, whatever was
    /// done to the time of day.
    #[must_use]
    pub fn steady(&self) -> Timestamp {
        (self.steady)()
    }

    /// A time that only differences are made of, as [`steady`](Self::steady), which also advances while the machine is
    /// suspended: what has passed since its boot.
    #[must_use]
    pub fn boot(&self) -> Timestamp {
        (self.boot)()
    }
}

/// `CLOCK_BOOTTIME`, counted from the epoch.
fn since_boot() -> Timestamp {
    let time = clock_gettime(ClockId::Boottime);
    let nanos = i32::try_from(time.tv_nsec).unwrap_or_default();
    Timestamp::new(time.tv_sec, nanos).unwrap_or(Timestamp::MAX)
}

/// Both clocks at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClockReading {
    /// The time of day, which may be set.
    pub wall: Timestamp,
    /// [`Clock::steady`], which only advances.
    pub steady: Timestamp,
}

impl ClockReading {
    /// A moment of a clock that is never set, such as a simulation's.
    #[must_use]
    pub fn virtual_time(now: Timestamp) -> Self {
        Self { wall: now, steady: now }
    }
}

impl std::fmt::Debug for Clock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Clock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_since_boot_advances_and_is_not_set_with_the_time_of_day() {
        let clock = Clock::system().set_to(|| Timestamp::UNIX_EPOCH);
        let [first, second] = [clock.boot(), clock.boot()];
        assert!(Timestamp::UNIX_EPOCH < first && first <= second, "{first} {second}");
        assert_eq!(clock.now(), Timestamp::UNIX_EPOCH);
    }
}
