//! The hourly window of a tenant: how many of its jobs were started in it, whatever happened since.
//!
//! A job is charged when its first pod is created, and once more for each retry, when the pod of that is created; what
//! follows after the cluster ended an attempt is free. Below, "a job" is what is charged, by its [`charge_id`]. The window
//! lasts 60 minutes from the first job charged; the first one charged at or after its end opens the next. All of this is a
//! function of the times at which these pods were created, so the order and number of the events about them does not
//! matter.
//!
//! It can be rebuilt at any moment from the API server, whatever was deleted and created again meanwhile. Such a pod
//! is held by a finalizer until Tenant status (`status.jobWindow`) says that it is counted, so every job charged is to
//! be found in one of two places: among the pods held, or in the number `settled`. Those that are in both while a
//! finalizer is taken away are named in `settling`, and counted once. Status also says where the window before ended
//! (`notBefore`): what is older belongs to no window that still runs, and without that the rest of an old window would
//! be taken for the beginning of a new one.
//!
//! An event within an hour of the pod's creation is counted exactly: even when the first job of a window comes last, it
//! moves the window's start. (Later than that, jobs that it would have pushed into the next window may have been
//! settled in this one.) Times are those of the API server; where they are compared with our own clock, a window lasts
//! `LEEWAY` longer, so that a pod created at its end by our clock is not stamped into it by a clock that is behind, and
//! then counted nowhere.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap},
    sync::OnceLock,
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::api_types::tenant::JobWindow;

/// How long a window lasts.
const LENGTH: SignedDuration = SignedDuration::from_hours(1);
/// How far the API server's clock may be behind ours.
const LEEWAY: SignedDuration = SignedDuration::from_secs(2);
/// UIDs in `settling` at most: what one status has room for.
pub const MAX_SETTLING: usize = 512;

/// What a window counts an attempt as: a first one as its job, by UID, the nth retry as `<uid>/<n>`; `None` for one that
/// is free.
#[must_use]
pub fn charge_id(job_uid: &str, attempt: u32, retry: Option<u32>) -> Option<Cow<'_, str>> {
    match (attempt, retry) {
        (1, _) => Some(job_uid.into()),
        (_, Some(retry)) => Some(format!("{job_uid}/{retry}").into()),
        _ => None,
    }
}

/// The window of one tenant. Begins empty; see [`RateWindow::restore`].
#[derive(Clone, Debug, Default)]
pub struct RateWindow {
    /// What Tenant status says, or is to say.
    recorded: Option<StoredWindow>,
    /// Jobs whose first pods are held and not settled, by UID, with the pod's creation. None is older than
    /// `recorded.not_before`.
    open: HashMap<Box<str>, Timestamp>,
    /// The newest window that the two above make, once it was asked for.
    newest: OnceLock<Option<Window>>,
    /// Where the window of `recorded` begins, once it was asked for: an older job of it may have been charged since.
    stored_start: OnceLock<Timestamp>,
}

/// What outlives the pods.
#[derive(Clone, Debug)]
struct StoredWindow {
    not_before: Option<Timestamp>,
    start: Timestamp,
    settled: u64,
    settling: BTreeSet<Box<str>>,
}

#[derive(Clone, Copy, Debug)]
struct Window {
    /// End of the one before.
    not_before: Option<Timestamp>,
    start: Timestamp,
    used: u64,
}

impl RateWindow {
    /// Takes over what Tenant status has: once after a start, before anything is settled. Pods may have been
    /// charged already. Any further call changes nothing: from then on status follows this.
    pub fn restore(&mut self, stored: &JobWindow) {
        if self.recorded.is_some() {
            return;
        }
        let recorded = StoredWindow {
            not_before: stored.not_before.as_ref().map(|t| t.0),
            start: start_of(stored),
            settled: u64::try_from(stored.settled).unwrap_or(0),
            settling: stored.settling.iter().map(|uid| uid.as_str().into()).collect(),
        };
        self.open.retain(|uid, _| !recorded.settling.contains(uid));
        self.record(recorded);
        self.newest.take();
    }

    /// Drops from the settling jobs those whose pods are not held any more. To be called once after a start, when all
    /// pods are known: no event will come of a finalizer that was removed before the start.
    pub fn retain_settling(&mut self, mut held: impl FnMut(&str) -> bool) {
        if let Some(recorded) = &mut self.recorded {
            recorded.settling.retain(|uid| held(uid));
        }
    }

    /// Charges a job whose first pod was created at `created` and is held by its finalizer. Charging it again changes
    /// nothing.
    pub fn charge(&mut self, job_uid: &str, created: Timestamp) {
        let counted = self
            .recorded
            .as_ref()
            .is_some_and(|k| k.settling.contains(job_uid) || k.not_before.is_some_and(|end| created < end));
        if counted || self.open.contains_key(job_uid) {
            return;
        }
        self.open.insert(job_uid.into(), created);
        if self.recorded.as_ref().is_some_and(|recorded| created < recorded.start) {
            self.stored_start.take();
        }
        match self.newest.get_mut() {
            Some(Some(window)) if created >= window.start => *window = window.and(created, 1),
            _ => drop(self.newest.take()),
        }
    }

    /// Jobs charged to the window in force; 0 when there is none.
    #[must_use]
    pub fn used(&self, now: Timestamp) -> u64 {
        self.in_force(now).map_or(0, |window| window.used)
    }

    /// When the window in force ends by our clock, `LEEWAY` included: from then on nothing is used.
    #[must_use]
    pub fn resets_at(&self, now: Timestamp) -> Option<Timestamp> {
        self.in_force(now).map(|window| over_at(window.start))
    }

    /// Makes [`RateWindow::stored`] allow to remove the finalizer of the job's pod; true where that has changed. It has
    /// not where it was allowed already, where the job is unknown, and while too many others are settling: call it
    /// again then.
    pub fn settle(&mut self, job_uid: &str) -> bool {
        let settling = self.recorded.as_ref().map_or(0, |recorded| recorded.settling.len());
        let Some((created, window)) = self.open.get(job_uid).copied().zip(self.newest()) else {
            return false;
        };
        let same = self.recorded.as_ref().is_some_and(|recorded| recorded.start >= window.start);
        if created >= window.start && same && settling >= MAX_SETTLING {
            return false;
        }
        self.count(job_uid, true);
        true
    }

    /// The job's pod was seen without its finalizer, or was deleted. One that was not settled, because the finalizer
    /// was removed by hand, stays counted.
    pub fn finalizer_removed(&mut self, job_uid: &str) {
        let settling = self.recorded.as_mut().is_some_and(|recorded| recorded.settling.remove(job_uid));
        if !settling {
            self.count(job_uid, false);
        }
    }

    /// What Tenant status should say; `None` while nothing was settled. Of a window that is over only the end matters.
    #[must_use]
    pub fn stored(&self, now: Timestamp) -> Option<JobWindow> {
        let recorded = self.recorded.as_ref()?;
        let start = self.stored_start(recorded);
        let runs = now < over_at(start);
        Some(JobWindow {
            resets_at: Time(end_of(start)),
            not_before: recorded.not_before.map(Time),
            settled: if runs { i64::try_from(recorded.settled).unwrap_or(i64::MAX) } else { 0 },
            settling: recorded.settling.iter().filter(|_| runs).map(|uid| String::from(&**uid)).collect(),
        })
    }

    /// Whether Tenant status, as it is stored, allows to remove the finalizer of a job's first pod, created at
    /// `created`: it is counted there, or belongs to a window that is over there, and not only there: an end that has
    /// moved may not be stored yet, and the pod belong to the window after it.
    #[must_use]
    pub fn may_remove_finalizer(
        &self,
        stored: Option<&JobWindow>,
        job_uid: &str,
        created: Timestamp,
        now: Timestamp,
    ) -> bool {
        stored.is_some_and(|stored| {
            let settled = stored.settling.iter().any(|uid| uid == job_uid);
            let over = now >= over_at(start_of(stored)) && created < stored.resets_at.0;
            let unchanged = || {
                self.recorded
                    .as_ref()
                    .is_some_and(|recorded| end_of(self.stored_start(recorded)) == stored.resets_at.0)
            };
            settled || over && unchanged() || stored.not_before.as_ref().is_some_and(|end| created < end.0)
        })
    }

    /// Moves an open job out of `open` into what is recorded: into the count where it belongs to the newest window, and
    /// otherwise beyond `not_before`.
    fn count(&mut self, job_uid: &str, settling: bool) {
        let Some((created, window)) = self.open.get(job_uid).copied().zip(self.newest()) else { return };
        let Window { not_before, start, .. } = window;
        let same = self.recorded.as_mut().filter(|recorded| recorded.start >= start);
        let (settled, names) = same.map_or_else(Default::default, |recorded| {
            (recorded.settled, std::mem::take(&mut recorded.settling))
        });
        let mut recorded = StoredWindow { not_before, start, settled, settling: names };
        if created >= start {
            self.open.remove(job_uid);
            recorded.settled = recorded.settled.saturating_add(1);
            recorded.settling.extend(settling.then(|| job_uid.into()));
        }
        self.record(recorded);
    }

    fn record(&mut self, recorded: StoredWindow) {
        let before = self.recorded.as_ref().and_then(|recorded| recorded.not_before);
        if let Some(end) = recorded.not_before.filter(|end| Some(*end) != before) {
            self.open.retain(|_, created| *created >= end);
        }
        self.recorded = Some(recorded);
        self.stored_start.take();
    }

    fn stored_start(&self, recorded: &StoredWindow) -> Timestamp {
        *self
            .stored_start
            .get_or_init(|| self.fold(recorded.start).map_or(recorded.start, |window| window.start))
    }

    fn in_force(&self, now: Timestamp) -> Option<Window> {
        self.newest().filter(|window| now < over_at(window.start))
    }

    fn newest(&self) -> Option<Window> {
        *self.newest.get_or_init(|| self.fold(Timestamp::MAX))
    }

    /// The newest window that the charges up to a time make, in the order of their times. Those settled count
    /// at the start of their window, which is as good as their own times: a window has the same start with them.
    fn fold(&self, last: Timestamp) -> Option<Window> {
        let open = self.open.values().map(|created| (*created, 1));
        let recorded = self.recorded.as_ref().map(|recorded| (recorded.start, recorded.settled));
        let mut charges: Vec<(Timestamp, u64)> = open.chain(recorded).filter(|(at, _)| *at <= last).collect();
        charges.sort_unstable();
        let not_before = self.recorded.as_ref().and_then(|recorded| recorded.not_before);
        charges.into_iter().fold(None, |window, (at, jobs)| match window {
            Some(window) => Some(Window::and(window, at, jobs)),
            None => Some(Window { not_before, start: at, used: jobs }),
        })
    }
}

impl Window {
    /// The newest window after a charge that is not older than this one's start.
    fn and(self, at: Timestamp, jobs: u64) -> Self {
        let end = end_of(self.start);
        if at < end {
            Self { used: self.used.saturating_add(jobs), ..self }
        } else {
            Self { not_before: Some(end), start: at, used: jobs }
        }
    }
}

/// The end of a window by the API server's clock.
fn end_of(start: Timestamp) -> Timestamp {
    start.checked_add(LENGTH).unwrap_or(Timestamp::MAX)
}

/// The end of a window by ours.
fn over_at(start: Timestamp) -> Timestamp {
    end_of(start).checked_add(LEEWAY).unwrap_or(Timestamp::MAX)
}

fn start_of(stored: &JobWindow) -> Timestamp {
    stored.resets_at.0.checked_sub(LENGTH).unwrap_or(Timestamp::MIN)
}

#[cfg(test)]
mod tests;
