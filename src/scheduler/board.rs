//! What the scheduler knows and has decided, for others to read and to act upon.

use std::{
    collections::BTreeMap,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use tokio::sync::Notify;

use crate::{
    api_types::{
        JobPhase, Reason,
        tenant::{EndedJobs, JobWindow, TenantUsage},
    },
    domain::{
        admission::{Account, Admission, Dispatcher, ProspectiveJob, Verdict},
        pod_create::Meaning,
    },
};

/// The scheduler's state. Cheap to clone; all clones show the same.
#[derive(Clone, Default)]
pub struct Board {
    state: Arc<Mutex<State>>,
    /// Something was settled, or an admission was given back: a change that no watch reports.
    settled: Arc<Notify>,
    /// A decision was made.
    decided: Arc<Notify>,
}

#[derive(Default)]
struct State {
    dispatcher: Dispatcher,
    /// Whether a first decision was made.
    ready: bool,
    /// What tests want to be shown, by job UID.
    #[cfg(test)]
    shown: std::collections::HashMap<String, Verdict>,
}

impl Board {
    /// One with an empty dispatcher.
    #[must_use]
    pub fn new(dispatcher: Dispatcher) -> Self {
        Self::of(State { dispatcher, ..State::default() })
    }

    /// A board that shows these verdicts, by job UID.
    #[cfg(test)]
    pub(crate) fn showing(verdicts: impl IntoIterator<Item = (&'static str, Verdict)>) -> Self {
        let shown = verdicts.into_iter().map(|(uid, verdict)| (uid.to_owned(), verdict)).collect();
        Self::of(State { shown, ready: true, ..State::default() })
    }

    /// Shows another verdict on a job from now on.
    #[cfg(test)]
    pub(crate) fn show(&self, job_uid: &str, verdict: Verdict) {
        self.lock().shown.insert(job_uid.to_owned(), verdict);
    }

    /// A board whose caches are whole, for tests.
    #[cfg(test)]
    pub(crate) fn ready(dispatcher: Dispatcher) -> Self {
        Self::of(State { dispatcher, ready: true, ..State::default() })
    }

    /// Why a job would be refused at once if it were created now; `None` where it would not, and until the caches are
    /// whole. It reserves nothing: the verdict on the Job itself decides.
    #[must_use]
    pub fn assess(&self, job: &ProspectiveJob<'_>, now: Timestamp) -> Option<(Reason, String)> {
        let state = self.lock();
        state.ready.then(|| state.dispatcher.assess(job, now)).flatten()
    }

    /// What was decided of a job, by UID; `None` while there is nothing that its owner is to know.
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
    /// given back and the job waits with `sentence`; see [`Dispatcher::refused`].
    #[must_use]
    pub fn refused(
        &self,
        job_uid: &str,
        attempt: u32,
        meaning: Meaning,
        sentence: String,
    ) -> Option<Duration> {
        let mut state = self.lock();
        #[cfg(test)]
        if state.shown.contains_key(job_uid) {
            if meaning == Meaning::TryAgain {
                return Some(Duration::from_millis(100));
            }
            state.shown.insert(job_uid.to_owned(), Verdict::Wait(Reason::PodRefused, sentence));
            return None;
        }
        let wait = state.dispatcher.refused(job_uid, attempt, meaning, sentence);
        drop(state);
        if wait.is_none() {
            // The job gets its reason, its place goes to others, and the time of its next try is known.
            self.settled.notify_one();
        }
        wait
    }

    /// The first pod of a job is to be let go, by the namespace and the job's UID: its charge is to be stored first, soon
    /// where somebody waits for it.
    pub fn settle(&self, namespace: &str, job_uid: &str, soon: bool) {
        self.lock().dispatcher.settle(namespace, job_uid, soon);
        self.settled.notify_one();
    }

    /// Whether what is stored of a namespace's hourly window allows the first pod of a job, by UID and creation, to go;
    /// not until the caches are whole.
    #[must_use]
    pub fn may_let_go(
        &self,
        namespace: &str,
        stored: Option<&JobWindow>,
        job_uid: &str,
        created: Timestamp,
        now: Timestamp,
    ) -> bool {
        let state = self.lock();
        state.ready && state.dispatcher.may_let_go(namespace, stored, job_uid, created, now)
    }

    /// What the jobs of a namespace come to, as its tenant's status shows it; `None` until the caches are whole.
    #[must_use]
    pub fn usage(&self, namespace: &str) -> Option<TenantUsage> {
        self.ledger(namespace).map(|(usage, ..)| usage)
    }

    /// The same with the hourly window as it is to be stored, and whether somebody waits for that.
    #[must_use]
    pub fn ledger(&self, namespace: &str) -> Option<(TenantUsage, Option<JobWindow>, bool)> {
        let state = self.lock();
        let account = state.ready.then(|| state.dispatcher.account(namespace)).flatten()?;
        Some((shown(&account), account.window, account.awaited))
    }

    /// How many jobs wait, by reason.
    #[must_use]
    pub fn waiting(&self) -> BTreeMap<Reason, u64> {
        self.lock().dispatcher.waiting()
    }

    /// Whether a first decision was made, from whole caches.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.lock().ready
    }

    /// Waits for a first decision; for ever where this process does not schedule.
    pub async fn until_ready(&self) {
        loop {
            // Listening before looking: no decision is missed.
            let mut next = pin!(self.decided.notified());
            next.as_mut().enable();
            if self.is_ready() {
                return;
            }
            next.await;
        }
    }

    /// Works on the dispatcher.
    pub(super) fn with<T>(&self, work: impl FnOnce(&mut Dispatcher) -> T) -> T {
        work(&mut self.lock().dispatcher)
    }

    /// Decides upon all that was taken in.
    pub(super) fn decide<T>(&self, decision: impl FnOnce(&mut Dispatcher) -> T) -> T {
        let decision = {
            let mut state = self.lock();
            state.ready = true;
            decision(&mut state.dispatcher)
        };
        self.decided.notify_waiters();
        decision
    }

    /// Waits until a job was decided upon, by UID, and tells what will be written about it; for ever where this process
    /// does not schedule, and for a job that does not wait.
    pub async fn foretold(&self, job_uid: &str) -> Verdict {
        loop {
            // Listening before looking: no decision is missed.
            let mut next = pin!(self.decided.notified());
            next.as_mut().enable();
            match self.standing(job_uid) {
                Some(verdict) => return verdict,
                None => next.await,
            }
        }
    }

    /// Waits until something was settled or given back.
    pub(super) async fn settled(&self) {
        self.settled.notified().await;
    }

    fn of(state: State) -> Self {
        Self { state: Arc::new(Mutex::new(state)), ..Self::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn shown(account: &Account) -> TenantUsage {
    let signed = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let ended = |phase| account.ended.get(&phase).copied().map_or(0, signed);
    let Account { usage, started, resets_at, .. } = account;
    TenantUsage {
        queued_jobs: signed(usage.queued),
        active_jobs: signed(usage.active),
        cpu_millicores: signed(usage.held.cpu_milli),
        memory_bytes: signed(usage.held.memory_bytes),
        gpus: signed(usage.held.gpus),
        bandwidth_mbps: signed(usage.held.bandwidth_mbps),
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
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::{
        api_types::job::{OnQuota, Priority, Queue},
        domain::{
            admission::{JobStanding, JobView},
            resources::Resources,
        },
    };

    fn job(uid: &str) -> JobView {
        JobView {
            uid: uid.into(),
            namespace: "nobody".into(),
            created: jiff::Timestamp::UNIX_EPOCH,
            queue: Queue::Default,
            priority: Priority::Medium,
            asked: Ok(Resources::default()),
            group: None,
            on_quota: OnQuota::Queue,
            state: JobStanding::Waiting(1),
            told: None,
        }
    }

    #[tokio::test]
    async fn it_is_ready_with_the_first_decision() {
        let board = Board::default();
        let mut ready = pin!(board.until_ready());
        assert!(ready.as_mut().now_or_never().is_none());
        board.decide(|dispatcher| drop(dispatcher.decide()));
        assert!(ready.as_mut().now_or_never().is_some());
        assert!(board.until_ready().now_or_never().is_some(), "and stays so");
    }

    #[tokio::test]
    async fn nothing_is_foretold_between_news_and_the_decision_on_it() {
        let board = Board::default();
        let mut first = pin!(board.foretold("a"));
        board.with(|dispatcher| dispatcher.set_job(job("a")));
        assert!(first.as_mut().now_or_never().is_none(), "no decision yet");
        board.decide(|dispatcher| drop(dispatcher.decide()));
        let verdict = first.as_mut().now_or_never();
        assert!(matches!(verdict, Some(Verdict::Wait(Reason::NotATenantNamespace, _))), "{verdict:?}");
        board.with(|dispatcher| dispatcher.set_job(job("b")));
        let mut second = pin!(board.foretold("b"));
        assert!(second.as_mut().now_or_never().is_none(), "the decision before it says nothing of it");
        board.decide(|dispatcher| drop(dispatcher.decide()));
        assert!(second.as_mut().now_or_never().is_some());
    }
}
