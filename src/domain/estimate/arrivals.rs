//! What will be submitted: the same as a day ago, give or take a few hours.
//!
//! Jobs that do not exist yet may be first by priority or by fair share, and a queue that is never joined is shorter than
//! the real one. So each run of a forecast has the jobs that each tenant submitted in the last day submitted again, a day
//! later, shifted by a time that is drawn for each tenant: day and night, bursts and heavy tenants are as they were. Of a
//! tenant that submits much only the newest jobs are known, and what these cover repeats instead of a day.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use fastrand::Rng;
use jiff::Timestamp;

use super::job_times::{Expected, JobTimes};
use crate::domain::admission::{JobInput, JobState};

/// Jobs of a tenant that are kept, the newest.
const MAX_JOBS: usize = 256;
const HOUR_MILLIS: i64 = 3_600_000;
const DAY_MILLIS: i64 = 24 * HOUR_MILLIS;

/// Jobs by submission and UID.
type NewestJobs = BTreeMap<(Timestamp, Arc<str>), Arrival>;

/// The newest jobs of each tenant, by namespace.
#[derive(Clone, Debug, Default)]
pub(super) struct Arrivals {
    tenants: HashMap<Arc<str>, NewestJobs>,
    /// When the oldest job of all was submitted that was ever known.
    since: Option<Timestamp>,
}

/// A job as it was submitted.
#[derive(Clone, Debug)]
struct Arrival {
    input: JobInput,
    /// Its kinds and timeout.
    times: JobTimes,
}

impl Arrivals {
    /// Adds a job. Adding it again changes nothing.
    pub(super) fn add(&mut self, input: &JobInput, times: &JobTimes) {
        self.since = Some(self.since.map_or(input.created, |since| since.min(input.created)));
        let newest = self.tenants.entry(Arc::clone(&input.namespace)).or_default();
        newest.entry((input.created, Arc::clone(&input.uid))).or_insert_with(|| Arrival {
            input: JobInput {
                state: JobState::Waiting(1),
                charged_retry: false,
                reported: None,
                ..input.clone()
            },
            times: JobTimes {
                kinds: times.kinds.clone(),
                timeout_seconds: times.timeout_seconds,
                ..JobTimes::default()
            },
        });
        if newest.len() > MAX_JOBS {
            newest.pop_first();
        }
    }

    /// Drops what is known of a namespace.
    pub(super) fn forget(&mut self, namespace: &str) {
        self.tenants.remove(namespace);
    }

    /// What a tenant will submit from `now` on; `None` where it submitted nothing lately.
    pub(super) fn pattern(
        &self,
        namespace: &str,
        now: Timestamp,
        mut expected: impl FnMut(&JobTimes) -> Expected,
    ) -> Option<Pattern> {
        let newest = self.tenants.get(namespace)?;
        let age = |at: Timestamp| now.as_millisecond().saturating_sub(at.as_millisecond());
        let ((oldest, _), _) = newest.first_key_value()?;
        let window = if newest.len() < MAX_JOBS {
            age(self.since?).clamp(HOUR_MILLIS, DAY_MILLIS)
        } else {
            age(*oldest).clamp(1, DAY_MILLIS)
        };
        let jobs = newest.iter().filter(|((at, _), _)| (0..window).contains(&age(*at)));
        let jobs = jobs.map(|((at, _), arrival)| {
            (window - 1 - age(*at), arrival.input.clone(), expected(&arrival.times))
        });
        let jobs: Vec<_> = jobs.collect();
        (!jobs.is_empty()).then_some(Pattern { window, jobs })
    }
}

/// The jobs of one tenant that are submitted again and again; times in milliseconds.
#[derive(Debug)]
pub(super) struct Pattern {
    /// After which time they repeat.
    window: i64,
    /// Since when in the window, the first first.
    jobs: Vec<(i64, JobInput, Expected)>,
}

/// Where a run is in a pattern.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor {
    next: usize,
    /// Added to the time in the window.
    ahead: i64,
}

impl Pattern {
    /// The beginning of a run, at a time shifted by up to an eighth of the window.
    pub(super) fn begin(&self, rng: &mut Rng) -> Cursor {
        let eighth = self.window / 8;
        let shift = rng.i64(-eighth..=eighth);
        // Shifted back, the first ones are before the run; shifted ahead, the last ones of the window before are in it.
        let from = (-shift).rem_euclid(self.window);
        let next = self.jobs.partition_point(|(at, ..)| *at < from);
        let ahead = -from;
        if next < self.jobs.len() {
            Cursor { next, ahead }
        } else {
            Cursor { next: 0, ahead: ahead + self.window }
        }
    }

    /// When the next job is submitted.
    pub(super) fn next_time(&self, cursor: Cursor) -> i64 {
        self.jobs.get(cursor.next).map_or(i64::MAX, |(at, ..)| at.saturating_add(cursor.ahead))
    }

    /// The next job, and the cursor after it.
    pub(super) fn take(&self, cursor: Cursor) -> Option<(&JobInput, Cursor)> {
        let (_, input, _) = self.jobs.get(cursor.next)?;
        let next = cursor.next + 1;
        let is_last = next == self.jobs.len();
        let after = if is_last {
            Cursor { next: 0, ahead: cursor.ahead.saturating_add(self.window) }
        } else {
            Cursor { next, ..cursor }
        };
        Some((input, after))
    }

    /// What a run has to know of the job that [`Self::take`] returns at this cursor.
    pub(super) fn expected(&self, cursor: Cursor) -> Option<&Expected> {
        self.jobs.get(cursor.next).map(|(.., expected)| expected)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_000_000 + second).unwrap()
    }

    fn submitted(seconds: impl IntoIterator<Item = i64>) -> Arrivals {
        let mut arrivals = Arrivals::default();
        for (n, second) in seconds.into_iter().enumerate() {
            let (uid, namespace) = (n.to_string().into(), "t".into());
            let input = JobInput { uid, namespace, created: at(second), ..JobInput::default() };
            arrivals.add(&input, &JobTimes::default());
            arrivals.add(&input, &JobTimes::default());
        }
        arrivals
    }

    /// The seconds at which a run has its first jobs.
    fn first(arrivals: &Arrivals, seed: u64, count: usize) -> Vec<i64> {
        let pattern = arrivals.pattern("t", at(0), |_| Expected::default()).unwrap();
        let mut cursor = pattern.begin(&mut Rng::with_seed(seed));
        let take = |_| {
            let time = pattern.next_time(cursor);
            cursor = pattern.take(cursor).unwrap().1;
            time / 1000
        };
        (0..count).map(take).collect()
    }

    #[test]
    fn what_was_submitted_a_day_ago_is_submitted_again_give_or_take_three_hours() {
        let hours = |hours: i64| hours * 3600;
        let arrivals = submitted([-hours(20), -hours(20) + 5, -hours(12), -hours(30)]);
        for seed in 0..50 {
            let times = first(&arrivals, seed, 5);
            let shift = times[0] - hours(4);
            assert!(shift.abs() <= hours(3), "{times:?}");
            assert!((times[1] - times[0] - 5).abs() <= 1, "a burst stays one: {times:?}");
            assert!((times[2] - hours(12) - shift).abs() <= 1, "{times:?}");
            assert!((times[3] - times[0] - hours(24)).abs() <= 1, "and the day after: {times:?}");
        }
        assert_ne!(first(&arrivals, 1, 1), first(&arrivals, 2, 1));
    }

    #[test]
    fn times_never_lie_before_the_run_and_never_go_back() {
        let arrivals = submitted((0..200).map(|n| -n * 430));
        for seed in 0..50 {
            let times = first(&arrivals, seed, 500);
            assert!(times[0] >= 0 && times.is_sorted(), "{times:?}");
            let in_a_day = times.iter().filter(|time| **time < 86_400).count();
            assert!((198..=202).contains(&in_a_day), "as many as in the day before: {in_a_day}");
        }
    }

    #[test]
    fn of_much_the_newest_repeat_and_of_a_young_cluster_an_hour() {
        let busy = submitted((0..10_000).map(|n| n * 10 - 100_000));
        assert_eq!(busy.tenants["t"].len(), MAX_JOBS);
        let times = first(&busy, 1, 1000);
        assert!((9_000..11_000).contains(times.last().unwrap()), "{:?}", times.last());
        let young = submitted([-60]);
        let times = first(&young, 1, 2);
        assert!((times[1] - times[0] - 3600).abs() <= 1, "{times:?}");
        assert!(
            submitted([50]).pattern("t", at(0), |_| Expected::default()).is_none(),
            "the clock was set back"
        );
        let mut gone = young;
        gone.forget("t");
        assert!(gone.pattern("t", at(0), |_| Expected::default()).is_none());
    }
}
