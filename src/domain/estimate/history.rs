//! How long jobs of one kind ran lately, and how long one of them will run.
//!
//! A kind is what a tenant runs again and again: a scenario, or an image. The newest runs of each are kept, a bounded
//! number, and of each tenant a bounded number of kinds.
//!
//! A run is drawn from those before it. Of `n` runs of one kind and the next one, each is as likely as the others to be the
//! longest; so with probability `1 / (n + 1)` the next one is taken to run up to its limit. A job that has run for a
//! while can only end like those that ran longer than that, so the same holds for the rest of its run, whatever it has
//! run already: a job that outlasts all before it is taken to run up to its limit.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher},
    sync::Arc,
};

use fastrand::Rng;
use jiff::{SignedDuration, Timestamp};

use crate::api_types::JobSpec;

/// Fewer runs say nothing: then only the limit is known.
pub const MIN_RUNS: usize = 5;
/// Runs of a kind that are kept, the newest.
const MAX_RUNS: usize = 64;
/// Kinds of a tenant that are kept, those that ran last.
const MAX_KINDS: usize = 16;

/// What a tenant runs again and again, as a number: equal for equal names, in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Kind(u64);

impl Kind {
    /// A scenario of the catalogue, by name.
    #[must_use]
    pub fn scenario(name: &str) -> Self {
        Self::hash("scenario", name)
    }

    /// A container image, by its name with tag or digest.
    #[must_use]
    pub fn image(name: &str) -> Self {
        Self::hash("image", name)
    }

    /// What a job of this spec runs: its scenario, and its own image.
    #[must_use]
    pub fn of_spec(spec: &JobSpec) -> Vec<Self> {
        let scenario = spec.scenario.as_deref().map(Self::scenario);
        scenario.into_iter().chain(spec.image.as_deref().map(Self::image)).collect()
    }

    fn hash(of: &str, name: &str) -> Self {
        Self(BuildHasherDefault::<DefaultHasher>::default().hash_one((of, name)))
    }

    /// Kinds as a text, which [`Self::parse_all`] reads.
    #[must_use]
    pub fn format_all(kinds: &[Self]) -> String {
        let kinds: Vec<String> = kinds.iter().map(|Self(kind)| format!("{kind:x}")).collect();
        kinds.join(",")
    }

    /// The kinds of a text; what is none is left out.
    #[must_use]
    pub fn parse_all(text: &str) -> Vec<Self> {
        text.split(',').filter_map(|kind| u64::from_str_radix(kind, 16).ok().map(Self)).collect()
    }
}

/// An attempt that has ended by itself or at its limit.
#[derive(Clone, Debug)]
pub struct PastRun {
    /// UID of the job.
    pub job: Arc<str>,
    /// Number of the attempt.
    pub attempt: u32,
    /// When it ended.
    pub finished: Timestamp,
    /// How long its container ran.
    pub ran: SignedDuration,
}

/// The newest runs of each kind, by namespace.
#[derive(Clone, Debug, Default)]
pub struct History(HashMap<Arc<str>, HashMap<Kind, Runs>>);

/// The newest runs of one kind, in milliseconds, by their end: adding one again changes nothing.
#[derive(Clone, Debug, Default)]
struct Runs {
    newest: BTreeMap<(Timestamp, Arc<str>, u32), i64>,
    /// The same as a distribution, once it was asked for.
    durations: Option<Durations>,
}

impl History {
    /// Adds a run. Adding it again changes nothing.
    pub fn add(&mut self, namespace: &Arc<str>, kind: Kind, run: &PastRun) {
        let kinds = self.0.entry(Arc::clone(namespace)).or_default();
        let runs = kinds.entry(kind).or_default();
        let millis = i64::try_from(run.ran.as_millis()).unwrap_or(i64::MAX).max(0);
        if runs.newest.insert((run.finished, Arc::clone(&run.job), run.attempt), millis).is_some() {
            return;
        }
        if runs.newest.len() > MAX_RUNS {
            runs.newest.pop_first();
        }
        runs.durations = None;
        if kinds.len() > MAX_KINDS {
            let last = |runs: &Runs| runs.newest.last_key_value().map(|((finished, ..), _)| *finished);
            let oldest = kinds.iter().max_by_key(|(_, runs)| Reverse(last(runs)));
            if let Some(oldest) = oldest.map(|(kind, _)| *kind) {
                kinds.remove(&oldest);
            }
        }
    }

    /// Drops what is known of a namespace.
    pub fn forget(&mut self, namespace: &str) {
        self.0.remove(namespace);
    }

    /// How long runs of the first of these kinds lasted of which enough are known; nothing is known of others.
    pub fn durations(&mut self, namespace: &str, kinds: &[Kind]) -> Durations {
        let Some(known) = self.0.get_mut(namespace) else { return Durations::default() };
        let enough = |kind: &Kind| known.get(kind).is_some_and(|runs| runs.newest.len() >= MIN_RUNS);
        let kind = kinds.iter().find(|kind| enough(kind));
        kind.and_then(|kind| known.get_mut(kind)).map_or_else(Durations::default, Runs::durations)
    }
}

impl Runs {
    fn durations(&mut self) -> Durations {
        let newest = &self.newest;
        self.durations.get_or_insert_with(|| Durations::of(newest.values().copied())).clone()
    }
}

/// How long runs of one kind last, in milliseconds: those before it, the shortest first. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Durations(Arc<[i64]>);

impl Durations {
    /// Of these runs.
    #[must_use]
    pub fn of(millis: impl IntoIterator<Item = i64>) -> Self {
        let mut all: Vec<i64> = millis.into_iter().collect();
        all.sort_unstable();
        Self(all.into())
    }

    /// Draws how much longer a run lasts that has lasted `ran` milliseconds and may last `limit`; `None` where it may run for
    /// ever and nothing is known of it. One without a limit that outlasts all before it is taken to last twice as long as
    /// it has.
    pub fn draw_rest(&self, ran: i64, limit: Option<i64>, rng: &mut Rng) -> Option<i64> {
        // A clock that was set back makes no run longer than a new one.
        let ran = ran.max(0);
        let left = limit.map(|limit| limit.saturating_sub(ran).max(0));
        if self.0.len() < MIN_RUNS {
            return left;
        }
        let longer = &self.0[self.0.partition_point(|run| *run <= ran)..];
        let rest = match longer.get(rng.usize(..=longer.len())) {
            Some(run) => Some(run - ran),
            None => left.or_else(|| self.0.last().map(|longest| ran.max(*longest).saturating_mul(2) - ran)),
        };
        left.map_or(rest, |left| rest.map(|rest| rest.min(left)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(job: &str, second: i64, seconds: i64) -> PastRun {
        let (finished, ran) = (Timestamp::from_second(second).unwrap(), SignedDuration::from_secs(seconds));
        PastRun { job: job.into(), attempt: 1, finished, ran }
    }

    fn image(name: &str) -> Kind {
        Kind::image(name)
    }

    #[test]
    fn the_newest_runs_of_the_first_kind_with_enough_of_them_count() {
        let (mut history, tenant) = (History::default(), "t".into());
        let scenario = Kind::scenario("i");
        for n in 0..100 {
            history.add(&tenant, image("i"), &run(&n.to_string(), n, n));
        }
        for n in 0..4 {
            history.add(&tenant, scenario, &run(&n.to_string(), n, 1000));
            history.add(&tenant, scenario, &run(&n.to_string(), n, 1000));
        }
        let mut shortest = |kinds: &[Kind]| history.durations("t", kinds).0.first().copied();
        assert_eq!(shortest(&[scenario, image("i")]), Some(36_000), "four runs are too few");
        assert_eq!(shortest(&[scenario]), None);
        history.add(&tenant, scenario, &run("last", 9, 1000));
        assert_eq!(history.durations("t", &[scenario, image("i")]).0.len(), 5);
        assert_eq!(history.durations("other", &[image("i")]).0.len(), 0, "a tenant has its own runs only");
        history.forget("t");
        assert_eq!(history.durations("t", &[image("i")]).0.len(), 0);
    }

    #[test]
    fn kinds_differ_by_name_and_are_read_as_they_are_written() {
        let kinds = [Kind::scenario("a"), Kind::image("a"), Kind::image("b")];
        assert!(kinds[0] != kinds[1] && kinds[1] != kinds[2] && kinds[2] == Kind::image("b"));
        assert_eq!(Kind::parse_all(&Kind::format_all(&kinds)), kinds);
        assert_eq!(Kind::parse_all("x,,1"), [Kind(1)]);
    }

    #[test]
    fn a_tenant_of_many_images_keeps_those_that_ran_last() {
        let (mut history, tenant) = (History::default(), "t".into());
        for n in 0..10_000 {
            history.add(&tenant, image(&n.to_string()), &run("j", n, 1));
        }
        let kept = &history.0["t"];
        assert_eq!(kept.len(), MAX_KINDS);
        assert!(kept.contains_key(&image("9999")) && !kept.contains_key(&image("9900")));
    }

    #[test]
    fn a_run_ends_like_those_that_lasted_longer_or_at_its_limit() {
        let durations = Durations::of((1..=9).map(|n| n * 1000));
        let mut rng = Rng::with_seed(1);
        let mut draw = |ran: i64, limit: Option<i64>| -> Vec<i64> {
            let mut all: Vec<_> =
                (0..1000).map(|_| durations.draw_rest(ran, limit, &mut rng).unwrap()).collect();
            all.sort_unstable();
            all
        };
        let new = draw(0, Some(60_000));
        assert_eq!((new[0], new[999]), (1000, 60_000));
        assert_eq!(new[500], 5000, "the median of nine, and the limit");
        let at_limit = new.iter().filter(|rest| **rest == 60_000).count();
        assert!((60..140).contains(&at_limit), "one of ten: {at_limit}");
        let late = draw(7500, Some(60_000));
        assert_eq!((late[0], late[999]), (500, 52_500), "it outlasted seven of nine");
        assert_eq!(draw(9500, Some(60_000))[0], 50_500, "it outlasted all");
        assert_eq!(draw(70_000, Some(60_000))[999], 0, "its limit has passed");
        assert_eq!(draw(9500, None)[0], 9500, "twice as long as it has");
        assert_eq!(draw(-5000, None)[999], 18_000, "a clock that was set back");
        assert_eq!(draw(0, Some(500))[0], 500, "no run outlasts its limit");
    }

    #[test]
    fn without_runs_the_limit_is_all_that_is_known() {
        let mut rng = Rng::with_seed(1);
        let few = Durations::of([1, 2, 3, 4]);
        assert_eq!(few.draw_rest(10_000, Some(60_000), &mut rng), Some(50_000));
        assert_eq!(few.draw_rest(10_000, None, &mut rng), None);
        let giant = Durations::of([i64::MAX; 5]);
        assert_eq!(giant.draw_rest(i64::MAX, None, &mut rng), Some(0), "it is over when time is");
    }
}
