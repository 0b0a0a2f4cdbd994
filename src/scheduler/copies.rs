//! How often the scheduler's state is copied for estimates of starts, however many are requested.
//!
//! The scheduler waits while its state is copied, which takes milliseconds where thousands of jobs run and wait. So estimates
//! share a copy for [`MAX_AGE`], and the scheduler has [`REST`] times as long for itself as the last copy took. Where it does
//! not decide, a copy is a snapshot of the caches, which takes longer, and other parts have that time for themselves.

use jiff::{SignedDuration, Timestamp};

use crate::{
    clock::Clock,
    domain::{
        admission::{Dispatcher, PoolShare},
        estimate::{Contention, Forecast, Outlook, StateCopy, Unknown},
    },
};

/// How old a copy may be that is used.
const MAX_AGE: SignedDuration = SignedDuration::from_secs(1);
/// How many times as long as a copy took the next one waits.
const REST: i32 = 10;
/// How old a copy is freed, where the next one may be made.
const MAX_KEPT: SignedDuration = SignedDuration::from_secs(10);

/// The last copy.
#[derive(Debug, Default)]
pub(super) struct Copies {
    last: Option<LastCopy>,
    /// By the steady clock: when the next one may be made.
    next: Option<Timestamp>,
}

/// A copy of the scheduler's state.
#[derive(Debug)]
struct LastCopy {
    state: StateCopy,
    /// What estimates go by, in addition; `None` where that is the scheduler's own, of which each copies what it needs.
    outlook: Option<Outlook>,
}

impl Copies {
    /// What is needed to estimate the start of a job, by UID: from the last copy, or from a new one where that is too old or
    /// lacks the job. `copy` has none before the first decision.
    pub(super) fn forecast(
        &mut self,
        job_uid: &str,
        clock: &Clock,
        copy: impl FnOnce() -> Option<(Dispatcher, Option<Outlook>)>,
        contention: impl FnOnce(&StateCopy, &str) -> Contention,
    ) -> Result<Forecast, Unknown> {
        let begun = clock.read();
        let age = |copy: &StateCopy| begun.steady.duration_since(copy.now().steady);
        let is_usable = |LastCopy { state, .. }: &LastCopy| age(state) < MAX_AGE && state.has(job_uid);
        let is_usable = self.last.as_ref().is_some_and(is_usable);
        if !is_usable && self.next.is_none_or(|next| next <= begun.steady) {
            // It takes much memory, and is not used any more.
            self.last = None;
            let copied = copy();
            let now = clock.read();
            self.next = after(now.steady, begun.steady);
            self.last = copied
                .map(|(dispatcher, outlook)| LastCopy { state: StateCopy::new(dispatcher, now), outlook });
        }
        let LastCopy { state, outlook } = self.last.as_mut().ok_or(Unknown::NotScheduled)?;
        let begun = clock.steady();
        let Some(outlook) = outlook else {
            let forecast = state.forecast(job_uid, contention);
            // What is copied of the times of jobs keeps the scheduler waiting, too.
            self.next = self.next.max(after(clock.steady(), begun));
            return forecast;
        };
        state.forecast(job_uid, |copy, namespace| outlook.contention(copy, namespace))
    }

    /// What the tenant of a job, by UID, has of each shared pool that the job may use, by the last copy.
    pub(super) fn pool_shares(&self, job_uid: &str) -> Vec<PoolShare> {
        self.last.as_ref().map(|LastCopy { state, .. }| state.pool_shares(job_uid)).unwrap_or_default()
    }

    /// Drops a snapshot: the scheduler decides by now, and knows more.
    pub(super) fn drop_snapshot(&mut self) {
        if self.last.as_ref().is_some_and(|last| last.outlook.is_some()) {
            *self = Self::default();
        }
    }

    /// Frees the memory of the last copy where that is old and may be replaced; whether none is left.
    pub(super) fn forget(&mut self, now: Timestamp) -> bool {
        let may_replace = self.next.is_none_or(|next| next <= now);
        self.last.take_if(|last| may_replace && now.duration_since(last.state.now().steady) >= MAX_KEPT);
        self.last.is_none()
    }
}

/// When the next copy may be made after one that took from `begun` to `end`.
fn after(end: Timestamp, begun: Timestamp) -> Option<Timestamp> {
    end.checked_add(end.duration_since(begun).saturating_mul(REST)).ok()
}

#[cfg(test)]
mod tests {
    use std::{
        cell::Cell,
        sync::{
            Arc,
            atomic::{AtomicI64, Ordering},
        },
    };

    use super::*;
    use crate::domain::{admission::JobInput, estimate::Outlook};

    /// A scheduler whose state takes a while to be copied.
    struct Lab {
        copies: Copies,
        dispatcher: Dispatcher,
        outlook: Outlook,
        millis: Arc<AtomicI64>,
        takes: i64,
        made: Cell<usize>,
    }

    impl Lab {
        fn new(takes: i64) -> Self {
            let (copies, dispatcher, outlook) =
                (Copies::default(), Dispatcher::default(), Outlook::default());
            Self { copies, dispatcher, outlook, millis: Arc::default(), takes, made: Cell::new(0) }
        }

        fn submit(&mut self, uid: &str) {
            self.dispatcher.set_job(JobInput {
                uid: uid.into(),
                namespace: "t".into(),
                ..JobInput::default()
            });
        }

        /// Lets time pass, and frees an old copy.
        fn forget(&mut self, after: i64) -> bool {
            let now = self.millis.fetch_add(after, Ordering::Relaxed) + after;
            self.copies.forget(Timestamp::from_millisecond(now).unwrap())
        }

        /// Lets time pass, and asks about a job: whether it is known, and how many copies were made by then.
        fn ask(&mut self, after: i64, uid: &str) -> (bool, usize) {
            self.millis.fetch_add(after, Ordering::Relaxed);
            let millis = Arc::clone(&self.millis);
            let clock =
                Clock::of(move || Timestamp::from_millisecond(millis.load(Ordering::Relaxed)).unwrap());
            let copy = || {
                self.made.set(self.made.get() + 1);
                self.millis.fetch_add(self.takes, Ordering::Relaxed);
                Some((self.dispatcher.clone(), None))
            };
            let contention = |copy: &StateCopy, namespace: &str| self.outlook.contention(copy, namespace);
            let forecast = self.copies.forecast(uid, &clock, copy, contention);
            // The namespace is no tenant's, which is known of a job that is.
            (!matches!(forecast, Err(Unknown::NotScheduled)), self.made.get())
        }
    }

    #[test]
    fn many_estimates_share_a_copy_for_a_second() {
        let mut lab = Lab::new(5);
        ["a", "b"].into_iter().for_each(|job| lab.submit(job));
        assert_eq!(lab.ask(0, "a"), (true, 1));
        assert_eq!((lab.ask(0, "b"), lab.ask(900, "a")), ((true, 1), (true, 1)));
        assert_eq!(lab.ask(200, "a"), (true, 2), "it is too old");
        assert!(!lab.forget(9_990) && lab.forget(10));
        assert_eq!(lab.ask(0, "a"), (true, 3));
    }

    #[test]
    fn what_is_just_copied_is_kept_though_it_is_time_to_free_the_one_before() {
        // Given a copy that takes 0.8 s, the one before which is ten seconds old.
        let mut lab = Lab::new(800);
        lab.submit("a");
        assert_eq!(lab.ask(0, "a"), (true, 1));
        assert_eq!(lab.ask(9_000, "a"), (true, 2));
        assert!(!lab.forget(1_000));
        // Then it is there until the next one may be made, ten times as long as it took.
        for _ in 0..69 {
            assert_eq!(lab.ask(100, "a"), (true, 2));
            assert!(!lab.forget(0));
        }
        assert_eq!(lab.ask(200, "a"), (true, 3));
    }

    #[test]
    fn the_scheduler_has_ten_times_as_long_for_itself_as_a_copy_took() {
        // Given a copy that takes 300 ms, which a job is not in that is submitted after it.
        let mut lab = Lab::new(300);
        lab.submit("a");
        assert_eq!(lab.ask(0, "a"), (true, 1));
        lab.submit("b");
        // Then nothing is copied for 3 s, whoever asks, and those that it has are answered from it.
        for _ in 0..29 {
            assert_eq!((lab.ask(50, "b"), lab.ask(50, "a")), ((false, 1), (true, 1)));
        }
        assert_eq!(lab.ask(100, "b"), (true, 2));
        assert_eq!(lab.ask(0, "c"), (false, 2));
    }
}
