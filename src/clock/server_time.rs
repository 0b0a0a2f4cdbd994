//! The time of day as the API server has it.
//!
//! The times on objects are the API server's. Compared with a clock of this machine that is an hour ahead, each pod would
//! have waited for an hour to start; and of two replicas with different clocks each would go by its own. So the time of day
//! is that of the API server's answers, advanced in between by [`Clock::boot`], and setting the clock of this machine changes
//! nothing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};

use super::Clock;

/// What is cut off a `Date`, which has whole seconds.
const RESOLUTION: SignedDuration = SignedDuration::from_secs(1);
/// How far the time of day may be from all that an answer allows before it is corrected.
const TOLERANCE: SignedDuration = SignedDuration::from_secs(2);
/// The shortest time between corrections: the clocks of several API servers may differ.
const CORRECTION_INTERVAL: SignedDuration = SignedDuration::from_secs(10);

/// The time of day of the API server: that of this machine until the first answer. All clones are one.
#[derive(Clone)]
pub struct ServerTime {
    clock: Clock,
    state: Arc<Mutex<State>>,
}

#[derive(Clone, Copy)]
struct State {
    /// The time of day less [`Clock::boot`].
    ahead: SignedDuration,
    /// When it was corrected last, by [`Clock::boot`].
    corrected: Option<Timestamp>,
}

impl ServerTime {
    /// The time of day of `clock`, until an answer says another one.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        let ahead = clock.now().duration_since(clock.boot());
        Self { clock, state: Arc::new(Mutex::new(State { ahead, corrected: None })) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each write is a whole one, so a poisoned lock holds nothing broken.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The clock with this time of day.
    #[must_use]
    pub fn clock(&self) -> Clock {
        let time = self.clone();
        self.clock.clone().set_to(move || time.now())
    }

    fn now(&self) -> Timestamp {
        let ahead = self.state().ahead;
        self.clock.boot().saturating_add(ahead).unwrap_or(Timestamp::MAX)
    }

    /// When a request is sent, for [`answered`](Self::answered).
    #[must_use]
    pub fn sent(&self) -> Timestamp {
        self.clock.boot()
    }

    /// The answer to a request that was sent at `sent` has this `Date`: a moment between then and now. So a slow answer, or
    /// one that a frozen process reads late, says less than a fast one, and nothing wrong.
    pub fn answered(&self, date: Timestamp, sent: Timestamp) {
        let boot = self.clock.boot();
        let (least, most) = (date.duration_since(boot), date.duration_since(sent) + RESOLUTION);
        let mut state = self.state();
        let (ahead, nearest) = (least + (most - least) / 2, state.ahead.max(least).min(most));
        let error = nearest - state.ahead;
        let is_early = state.corrected.is_some_and(|at| boot.duration_since(at) < CORRECTION_INTERVAL);
        if error.abs() <= TOLERANCE || is_early {
            return;
        }
        *state = State { ahead, corrected: Some(boot) };
        drop(state);
        let machine = self.clock.now().duration_since(date);
        tracing::warn!(
            seconds = error.as_secs(),
            machine_ahead_seconds = machine.as_secs(),
            "the time of day was corrected to that of the API server"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A machine, with seconds since its boot and its time of day.
    fn machine(boot: i64, now: i64) -> (ServerTime, Arc<Mutex<(i64, i64)>>) {
        let state = Arc::new(Mutex::new((boot, now)));
        let (boot, wall) = (Arc::clone(&state), Arc::clone(&state));
        let at = |seconds| Timestamp::from_second(seconds).unwrap();
        let clock = Clock::of(move || at(boot.lock().unwrap().0)).set_to(move || at(wall.lock().unwrap().1));
        (ServerTime::new(clock), state)
    }

    fn seconds(time: &ServerTime) -> i64 {
        time.clock().now().as_second()
    }

    fn answered(time: &ServerTime, date: i64) {
        time.answered(Timestamp::from_second(date).unwrap(), time.sent());
    }

    #[test]
    fn the_time_of_day_is_the_api_servers_however_the_machine_is_set() {
        let (time, machine) = machine(100, 10_000);
        assert_eq!(seconds(&time), 10_000, "that of the machine at first");
        for (boot, wall, date) in [(101, 13_601, 10_001), (102, 13_602, 10_002), (103, 6_403, 10_003)] {
            *machine.lock().unwrap() = (boot, wall);
            assert_eq!(seconds(&time), date, "whatever the machine is set to");
            answered(&time, date);
            assert_eq!(seconds(&time), date);
        }
        // It was an hour off at the start.
        let (time, _) = self::machine(100, 13_600);
        answered(&time, 10_000);
        assert_eq!(seconds(&time), 10_000);
    }

    #[test]
    fn a_small_difference_changes_nothing() {
        let (time, _) = machine(100, 10_000);
        for date in [9_998, 10_000, 10_002] {
            answered(&time, date);
            assert_eq!(seconds(&time), 10_000);
        }
    }

    #[test]
    fn an_answer_that_is_read_late_changes_nothing() {
        let (time, machine) = machine(100, 10_000);
        let sent = time.sent();
        *machine.lock().unwrap() = (3_700, 13_600);
        time.answered(Timestamp::from_second(10_000).unwrap(), sent);
        assert_eq!(seconds(&time), 13_600);
    }

    #[test]
    fn slow_answers_correct_what_is_far_off() {
        let (time, machine) = machine(100, 13_600);
        let sent = time.sent();
        *machine.lock().unwrap() = (103, 13_603);
        time.answered(Timestamp::from_second(10_001).unwrap(), sent);
        let now = seconds(&time);
        assert!((10_001..=10_004).contains(&now), "{now}");
    }

    #[test]
    fn servers_that_differ_move_it_once_in_a_while() {
        let (time, machine) = machine(100, 10_000);
        answered(&time, 10_060);
        for boot in 101..110 {
            machine.lock().unwrap().0 = boot;
            answered(&time, 9_900 + boot);
            assert_eq!(seconds(&time), 9_960 + boot);
        }
        machine.lock().unwrap().0 = 110;
        answered(&time, 10_010);
        assert_eq!(seconds(&time), 10_010);
    }
}
