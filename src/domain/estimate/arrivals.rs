//! What will be submitted: the same as a day ago, give or take a few hours.
//!
//! Jobs that do not exist yet may be first by priority or by fair share, and a queue that is never joined is shorter than
//! the real one. So each run of a forecast has the jobs that each tenant submitted in the last day submitted again, a day
//! later, shifted by a time that is drawn for each tenant: day and night, bursts and heavy tenants are as they were. Of a
//! tenant that submits much a sample is kept, of which each job represents 2, 4, 8, … and is submitted as often. What
//! is in the sample follows from the UIDs, so a job that is seen again changes nothing, in whatever order they come.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher},
    sync::Arc,
};

use fastrand::Rng;
use jiff::{SignedDuration, Timestamp};

use super::job_times::{Expected, JobTimes};
use crate::domain::admission::{JobInput, JobState};

/// Jobs of a tenant that are kept at most.
const MAX_JOBS: usize = 256;
/// With fewer of the last day, more of the next ones are kept.
const FEW_JOBS: usize = 64;
/// A job represents no more than 2 to the power of this.
const MAX_THINNING: u32 = 32;
const HOUR_MILLIS: i64 = 3_600_000;
const DAY_MILLIS: i64 = 24 * HOUR_MILLIS;

/// The jobs of each tenant, by namespace.
#[derive(Clone, Debug, Default)]
pub(super) struct Arrivals {
    tenants: HashMap<Arc<str>, Sample>,
    /// When the oldest job of all was submitted that was ever known.
    since: Option<Timestamp>,
}

/// Jobs of one tenant.
#[derive(Clone, Debug, Default)]
struct Sample {
    /// By submission and UID.
    jobs: BTreeMap<(Timestamp, Arc<str>), Arrival>,
    /// Of the jobs that come now, one of 2 to the power of this is kept.
    thinning: u32,
}

/// A job as it was submitted.
#[derive(Clone, Debug)]
struct Arrival {
    input: JobInput,
    /// Its kinds and timeout.
    times: JobTimes,
    /// It represents 2 to the power of this.
    thinning: u32,
}

impl Sample {
    fn add(&mut self, input: &JobInput, times: &JobTimes) {
        let key = (input.created, Arc::clone(&input.uid));
        if self.jobs.contains_key(&key) {
            return;
        }
        self.forget_before(input.created);
        if self.jobs.len() < FEW_JOBS {
            self.thinning = self.thinning.saturating_sub(1);
        }
        if !is_kept(&input.uid, self.thinning) {
            return;
        }
        let state = JobState::Waiting(1);
        let input = JobInput { state, charged_retry: false, reported: None, ..input.clone() };
        let (kinds, timeout_seconds) = (times.kinds.clone(), times.timeout_seconds);
        let times = JobTimes { kinds, timeout_seconds, ..JobTimes::default() };
        self.jobs.insert(key, Arrival { input, times, thinning: self.thinning });
        if self.jobs.len() > MAX_JOBS
            && let Some(newest) = self.jobs.last_key_value().map(|((at, _), _)| *at)
        {
            self.forget_before(newest);
        }
        while self.jobs.len() > MAX_JOBS && self.thinning < MAX_THINNING {
            self.thinning += 1;
            let thinning = self.thinning;
            self.jobs.retain(|(_, uid), arrival| {
                let is_kept = arrival.thinning >= thinning || is_kept(uid, thinning);
                arrival.thinning = arrival.thinning.max(thinning);
                is_kept
            });
        }
        while self.jobs.len() > MAX_JOBS {
            self.jobs.pop_first();
        }
    }

    /// Forgets the jobs that are a day older than one of this moment.
    fn forget_before(&mut self, at: Timestamp) {
        let Ok(end) = at.checked_sub(SignedDuration::from_millis(DAY_MILLIS)) else { return };
        while self.jobs.first_key_value().is_some_and(|((at, _), _)| *at < end) {
            self.jobs.pop_first();
        }
    }
}

/// Whether a job is among those of which one of 2 to the power of `thinning` is kept.
fn is_kept(uid: &str, thinning: u32) -> bool {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(uid).trailing_zeros() >= thinning
}

impl Arrivals {
    /// Adds a job. Adding it again changes nothing.
    pub(super) fn add(&mut self, input: &JobInput, times: &JobTimes) {
        self.since = Some(self.since.map_or(input.created, |since| since.min(input.created)));
        self.tenants.entry(Arc::clone(&input.namespace)).or_default().add(input, times);
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
        let sample = self.tenants.get(namespace)?;
        let age = |at: Timestamp| now.as_millisecond().saturating_sub(at.as_millisecond());
        let window = age(self.since?).clamp(HOUR_MILLIS, DAY_MILLIS);
        let jobs = sample.jobs.iter().filter(|((at, _), _)| (0..window).contains(&age(*at)));
        let jobs = jobs.map(|((at, _), arrival)| PatternJob {
            at: window - 1 - age(*at),
            times: 1 << arrival.thinning,
            input: arrival.input.clone(),
            expected: expected(&arrival.times),
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
    /// The first first.
    jobs: Vec<PatternJob>,
}

#[derive(Debug)]
struct PatternJob {
    /// Since when in the window.
    at: i64,
    /// How often it is submitted: evenly up to the next one.
    times: i64,
    input: JobInput,
    expected: Expected,
}

/// Where a run is in a pattern.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor {
    next: usize,
    /// How often the next job was submitted.
    submitted: i64,
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
        let next = self.jobs.partition_point(|job| job.at < from);
        let ahead = -from;
        if next < self.jobs.len() {
            Cursor { next, submitted: 0, ahead }
        } else {
            Cursor { next: 0, submitted: 0, ahead: ahead + self.window }
        }
    }

    /// When the next job is submitted.
    pub(super) fn next_time(&self, cursor: Cursor) -> i64 {
        let Some(job) = self.jobs.get(cursor.next) else { return i64::MAX };
        let next = self.jobs.get(cursor.next + 1).map_or(self.window, |next| next.at);
        let since = (next - job.at).saturating_mul(cursor.submitted) / job.times;
        job.at.saturating_add(since).saturating_add(cursor.ahead)
    }

    /// The next job, what a run has to know of it, and the cursor after it.
    pub(super) fn take(&self, cursor: Cursor) -> Option<(&JobInput, &Expected, Cursor)> {
        let PatternJob { times, input, expected, .. } = self.jobs.get(cursor.next)?;
        let submitted = cursor.submitted + 1;
        let after = if submitted < *times {
            Cursor { submitted, ..cursor }
        } else if cursor.next + 1 < self.jobs.len() {
            Cursor { next: cursor.next + 1, submitted: 0, ..cursor }
        } else {
            Cursor { next: 0, submitted: 0, ahead: cursor.ahead.saturating_add(self.window) }
        };
        Some((input, expected, after))
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
            cursor = pattern.take(cursor).unwrap().2;
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
    fn of_much_a_sample_is_kept_that_represents_all() {
        let busy = submitted((0..10_000).map(|n| n * 10 - 100_000));
        let kept = busy.tenants["t"].jobs.len();
        assert!((MAX_JOBS / 4..=MAX_JOBS).contains(&kept), "{kept}");
        let times = first(&busy, 1, 5000);
        assert!((40_000..60_000).contains(times.last().unwrap()), "{:?}", times.last());
        // A burst of a minute is one of the whole day, however short ago it was.
        let burst = submitted((0..10_000).map(|n| -60 + n * 60 / 10_000));
        let mut days = submitted([-100_000]);
        days.tenants.extend(burst.tenants);
        let times = first(&days, 1, 20_000);
        let in_a_day = times.iter().filter(|time| **time < 86_400).count();
        assert!((8_000..12_000).contains(&in_a_day), "{in_a_day}");
    }

    #[test]
    fn a_sample_depends_on_no_order_and_later_has_each_job_again() {
        let kept = |arrivals: &Arrivals| -> Vec<(String, u32)> {
            let kept = arrivals.tenants["t"].jobs.iter();
            kept.map(|((_, uid), job)| (uid.to_string(), job.thinning)).collect()
        };
        let in_order = |order: &mut dyn Iterator<Item = i64>| {
            let mut arrivals = Arrivals::default();
            for n in order {
                let (uid, namespace) = (n.to_string().into(), "t".into());
                let input = JobInput { uid, namespace, created: at(n - 80_000), ..JobInput::default() };
                arrivals.add(&input, &JobTimes::default());
            }
            arrivals
        };
        let mut arrivals = in_order(&mut (0..5_000));
        let expected = kept(&arrivals);
        assert!(expected.len() > FEW_JOBS && expected.iter().all(|(_, thinning)| *thinning == expected[0].1));
        assert_eq!(kept(&in_order(&mut (0..5_000).rev())), expected);
        assert_eq!(kept(&in_order(&mut (0..5_000).map(|n| n * 7 % 5_000))), expected);
        assert_eq!(kept(&in_order(&mut (0..10_000).map(|n| n % 5_000))), expected, "seen again");
        // A day later it submits little, of which nothing is left out soon.
        for n in 0..300 {
            let (uid, namespace) = (format!("later-{n}").into(), "t".into());
            let input = JobInput { uid, namespace, created: at(20_000 + n), ..JobInput::default() };
            arrivals.add(&input, &JobTimes::default());
        }
        let later = kept(&arrivals);
        assert!(later.len() > 100, "{}", later.len());
        assert!(later.iter().all(|(uid, _)| uid.starts_with("later-")), "{later:?}");
    }

    #[test]
    fn of_a_young_cluster_an_hour_repeats() {
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
