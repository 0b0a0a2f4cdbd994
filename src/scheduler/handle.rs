//! Access to the scheduler's state and decisions, for controllers and the REST API.

use std::{
    collections::BTreeMap,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use tokio::sync::Notify;

use super::{Sources, copies::Copies, snapshot::snapshot};
use crate::{
    api_types::{
        JobPhase, Reason,
        quota::QuotaDimension,
        tenant::{EndedJobs, JobWindow, TenantUsage},
    },
    clock::{Clock, ClockReading},
    domain::{
        admission::{Admission, Dispatcher, PoolShare, ProspectiveJob, UsageSnapshot, Verdict},
        estimate::{Forecast, Outlook, StateCopy, Unknown},
        pod_create::Meaning,
    },
};

/// The scheduler's state. Cheap to clone; all clones show the same.
#[derive(Clone, Default)]
pub struct SchedulerHandle {
    state: Arc<Mutex<State>>,
    /// What estimates of starts go by; where both are locked, the state is locked first.
    outlook: Arc<Mutex<Outlook>>,
    /// What estimates share; nothing else locks it.
    copies: Arc<Mutex<Copies>>,
    /// A change that no watch delivers: a charge is to be stored, or an admission was given back.
    changed: Arc<Notify>,
    /// A decision was made.
    decided: Arc<Notify>,
    /// What estimates go by where nothing is decided.
    sources: Option<Arc<Sources>>,
}

#[derive(Default)]
struct State {
    dispatcher: Dispatcher,
    /// Whether a first decision was made.
    ready: bool,
    /// Verdicts set by tests, by job UID.
    #[cfg(test)]
    shown: std::collections::HashMap<String, Verdict>,
}

impl SchedulerHandle {
    /// One with an empty dispatcher.
    #[must_use]
    pub fn new(dispatcher: Dispatcher) -> Self {
        Self::of(State { dispatcher, ..State::default() })
    }

    /// The handle of a scheduler of these objects, from which it estimates starts also while that decides nothing.
    #[must_use]
    pub fn of_sources(sources: Sources) -> Self {
        let dispatcher = sources.dispatcher();
        Self { sources: Some(Arc::new(sources)), ..Self::new(dispatcher) }
    }

    /// A handle that returns these verdicts, by job UID.
    #[cfg(test)]
    pub(crate) fn showing(verdicts: impl IntoIterator<Item = (&'static str, Verdict)>) -> Self {
        let shown = verdicts.into_iter().map(|(uid, verdict)| (uid.to_owned(), verdict)).collect();
        Self::of(State { shown, ready: true, ..State::default() })
    }

    /// Returns this verdict on a job from now on.
    #[cfg(test)]
    pub(crate) fn show(&self, job_uid: &str, verdict: Verdict) {
        self.lock().shown.insert(job_uid.to_owned(), verdict);
    }

    /// A handle that has decided before, for tests.
    #[cfg(test)]
    pub(crate) fn ready(dispatcher: Dispatcher) -> Self {
        Self::of(State { dispatcher, ready: true, ..State::default() })
    }

    /// Why a job would be rejected at once if it were created now; `None` where it would not, and until the caches are
    /// synced. It reserves nothing: the verdict on the Job itself decides.
    #[must_use]
    pub fn assess_prospective(
        &self,
        job: &ProspectiveJob<'_>,
        now: ClockReading,
    ) -> Option<(Reason, String)> {
        let state = self.lock();
        state.ready.then(|| state.dispatcher.assess_prospective(job, now)).flatten()
    }

    /// What was decided of a job, by UID, for its status; `None` while that has it, or nothing is decided.
    #[must_use]
    pub fn verdict(&self, job_uid: &str) -> Option<Verdict> {
        let state = self.lock();
        #[cfg(test)]
        if let Some(shown) = state.shown.get(job_uid) {
            return Some(shown.clone());
        }
        state.dispatcher.verdict(job_uid)
    }

    /// Takes an admission into use, by job UID and attempt; `None` where it was taken back meanwhile. Then no pod may be
    /// created.
    #[must_use]
    pub fn claim(&self, job_uid: &str, attempt: u32) -> Option<Admission> {
        let mut state = self.lock();
        #[cfg(test)]
        if let Some(Verdict::Admit(shown)) = state.shown.get(job_uid) {
            return Some(shown.clone());
        }
        state.dispatcher.claim(job_uid, attempt)
    }

    /// The API server refused the pod of an admission for the moment: when to try again, or `None` where the admission is
    /// given back and the job waits with `message`; see [`Dispatcher::pod_create_failed`].
    #[must_use]
    pub fn pod_create_failed(
        &self,
        job_uid: &str,
        attempt: u32,
        meaning: Meaning,
        message: String,
    ) -> Option<Duration> {
        let mut state = self.lock();
        #[cfg(test)]
        if state.shown.contains_key(job_uid) {
            match meaning {
                Meaning::TryAgain => return Some(Duration::from_millis(100)),
                Meaning::Keep => return Some(Duration::from_secs(5)),
                Meaning::GiveBack | Meaning::Final => (),
            }
            state.shown.insert(job_uid.to_owned(), Verdict::Wait(Reason::PodRefused, message));
            return None;
        }
        let wait = state.dispatcher.pod_create_failed(job_uid, attempt, meaning, message);
        drop(state);
        if wait.is_none() {
            // The job gets its reason, its room goes to others, and the time of its next retry is known.
            self.changed.notify_one();
        }
        wait
    }

    /// Requests that a charge, by namespace and id, is stored, so that its pod may lose its finalizer; `soon` where a caller
    /// waits for that.
    pub fn request_charge(&self, namespace: &str, charge: &str, soon: bool) {
        self.lock().dispatcher.request_charge(namespace, charge, soon);
        self.changed.notify_one();
    }

    /// Whether what is stored of a namespace's hourly window allows to remove the finalizer of the pod of a charge, by id and
    /// creation; not until the caches are synced.
    #[must_use]
    pub fn may_remove_finalizer(
        &self,
        namespace: &str,
        stored: Option<&JobWindow>,
        charge: &str,
        created: Timestamp,
        now: Timestamp,
    ) -> bool {
        let state = self.lock();
        state.ready && state.dispatcher.may_remove_finalizer(namespace, stored, charge, created, now)
    }

    /// What the jobs of a namespace use, as its tenant's status has it; `None` until the caches are synced.
    #[must_use]
    pub fn usage(&self, namespace: &str) -> Option<TenantUsage> {
        self.usage_snapshot(namespace).map(|(usage, ..)| usage)
    }

    /// The same with the hourly window as it is to be stored, and whether that is urgent.
    #[must_use]
    pub fn usage_snapshot(&self, namespace: &str) -> Option<(TenantUsage, Option<JobWindow>, bool)> {
        let state = self.lock();
        let snapshot = state.ready.then(|| state.dispatcher.usage_snapshot(namespace)).flatten()?;
        Some((shown(&snapshot), snapshot.window, snapshot.urgent))
    }

    /// What the scheduler decides of a job at this moment, by UID, whether that is reported or not; `None` before the
    /// first decision, and for a job that does not wait.
    #[must_use]
    pub fn current_verdict(&self, job_uid: &str) -> Option<Verdict> {
        self.is_ready().then(|| self.with(|dispatcher| dispatcher.current_verdict(job_uid))).flatten()
    }

    /// What the tenant of a job, by UID, has of each shared pool that the job may use; `None` before the first decision.
    #[must_use]
    pub fn pool_shares(&self, job_uid: &str) -> Option<Vec<PoolShare>> {
        self.is_ready().then(|| self.with(|dispatcher| dispatcher.pool_shares(job_uid)))
    }

    /// The same by the last copy for [`forecast`](Self::forecast), for which it waits while one is made.
    #[must_use]
    pub fn copied_pool_shares(&self, job_uid: &str) -> Vec<PoolShare> {
        self.copies.lock().unwrap_or_else(PoisonError::into_inner).pool_shares(job_uid)
    }

    /// What is needed to estimate when a job, by UID, starts. The state is locked while it is copied, and `Copies` says how
    /// seldom that is. Where nothing is decided, the copy is a snapshot of the caches.
    ///
    /// # Errors
    /// Where it is known without any forecast that the start can't be; also before the caches are synced.
    pub fn forecast(&self, job_uid: &str, clock: &Clock) -> Result<Forecast, Unknown> {
        let mut copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        let contention = |copy: &StateCopy, namespace: &str| self.outlook().contention(copy, namespace);
        if self.is_ready() {
            copies.drop_snapshot();
            let copy = || Some((self.lock().dispatcher.clone(), None));
            return copies.forecast(job_uid, clock, copy, contention);
        }
        let copy =
            || snapshot(self.sources.as_ref()?).map(|(dispatcher, outlook)| (dispatcher, Some(outlook)));
        copies.forecast(job_uid, clock, copy, contention)
    }

    /// Frees the memory of the copy for estimates where that is old; whether none is left.
    pub fn forget_copy(&self, clock: &Clock) -> bool {
        self.copies.lock().unwrap_or_else(PoisonError::into_inner).forget(clock.steady())
    }

    /// Gives access to what estimates of starts go by.
    pub(super) fn outlook(&self) -> MutexGuard<'_, Outlook> {
        self.outlook.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many jobs wait, by reason.
    #[must_use]
    pub fn waiting(&self) -> BTreeMap<Reason, u64> {
        self.lock().dispatcher.waiting()
    }

    /// Whether a first decision was made, from synced caches.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.lock().ready
    }

    /// Waits for a first decision; for ever where this process does not schedule.
    pub async fn until_ready(&self) {
        loop {
            // Registered before the check, so that no decision is missed.
            let mut next = pin!(self.decided.notified());
            next.as_mut().enable();
            if self.is_ready() {
                return;
            }
            next.await;
        }
    }

    /// Gives access to the dispatcher.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut Dispatcher) -> T) -> T {
        work(&mut self.lock().dispatcher)
    }

    /// Makes a decision, and wakes those that wait for one.
    pub(super) fn decide<T>(&self, decision: impl FnOnce(&mut Dispatcher) -> T) -> T {
        let decision = {
            let mut state = self.lock();
            state.ready = true;
            decision(&mut state.dispatcher)
        };
        self.decided.notify_waiters();
        decision
    }

    /// Waits for the verdict on a job, by UID, which its status will get; for ever where this process does not schedule, and
    /// for a job that does not wait.
    pub async fn wait_for_verdict(&self, job_uid: &str) -> Verdict {
        loop {
            // Registered before the check, so that no decision is missed.
            let mut next = pin!(self.decided.notified());
            next.as_mut().enable();
            match self.current_verdict(job_uid) {
                Some(verdict) => return verdict,
                None => next.await,
            }
        }
    }

    /// Takes all that is known out of it.
    pub(super) fn take(&self) -> (Dispatcher, Outlook) {
        (std::mem::take(&mut self.lock().dispatcher), std::mem::take(&mut self.outlook()))
    }

    /// Waits until a charge is to be stored, or an admission was given back.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    fn of(state: State) -> Self {
        Self { state: Arc::new(Mutex::new(state)), ..Self::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn shown(snapshot: &UsageSnapshot) -> TenantUsage {
    let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let ended = |phase| snapshot.ended.get(&phase).copied().map_or(0, signed);
    let UsageSnapshot { usage, started, resets_at, .. } = snapshot;
    let mut shown = TenantUsage {
        queued_jobs: signed(usage.queued),
        active_jobs: signed(usage.active),
        jobs_this_hour: signed(*started),
        jobs_hour_reset_at: resets_at.map(Time),
        ended: EndedJobs {
            completed: ended(JobPhase::Completed),
            failed: ended(JobPhase::Failed),
            canceled: ended(JobPhase::Canceled),
            rejected: ended(JobPhase::Rejected),
            timed_out: ended(JobPhase::TimedOut),
        },
        ..TenantUsage::default()
    };
    for dimension in QuotaDimension::all() {
        if let (Some(held), Some(used)) = (usage.held.amount(dimension), dimension.used_mut(&mut shown)) {
            *used = signed(held);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::domain::admission::JobInput;

    fn job(uid: &str) -> JobInput {
        JobInput { uid: uid.into(), namespace: "no-tenant".into(), ..JobInput::default() }
    }

    #[tokio::test]
    async fn it_is_ready_with_the_first_decision() {
        let handle = SchedulerHandle::default();
        let mut ready = pin!(handle.until_ready());
        assert!(ready.as_mut().now_or_never().is_none());
        handle.decide(|dispatcher| drop(dispatcher.decide()));
        assert!(ready.as_mut().now_or_never().is_some());
        assert!(handle.until_ready().now_or_never().is_some(), "and stays so");
    }

    #[tokio::test]
    async fn no_verdict_is_returned_between_an_event_and_the_decision_on_it() {
        let handle = SchedulerHandle::default();
        let mut first = pin!(handle.wait_for_verdict("a"));
        handle.with(|dispatcher| dispatcher.set_job(job("a")));
        assert!(first.as_mut().now_or_never().is_none(), "no decision yet");
        handle.decide(|dispatcher| drop(dispatcher.decide()));
        let verdict = first.as_mut().now_or_never();
        assert!(matches!(verdict, Some(Verdict::Wait(Reason::NotATenantNamespace, _))), "{verdict:?}");
        handle.with(|dispatcher| dispatcher.set_job(job("b")));
        let mut second = pin!(handle.wait_for_verdict("b"));
        assert!(second.as_mut().now_or_never().is_none(), "the decision before it says nothing of it");
        handle.decide(|dispatcher| drop(dispatcher.decide()));
        assert!(second.as_mut().now_or_never().is_some());
    }
}
