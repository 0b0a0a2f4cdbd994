//! Leader election over the Lease `crofter` of the operator's namespace: the edge that carries out what
//! [`domain::leadership`](crate::domain::leadership) decides.
//!
//! The election has a client of its own, whose connection nothing else fills and which repeats nothing: each call ends
//! within seconds, and the next one begins with a read.

use std::{pin::pin, sync::Arc, time::Duration};

use futures::{FutureExt, future::BoxFuture, future::Shared};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tokio::{sync::watch, time::Instant};

use super::{CallError, call::within_limit};
use crate::{
    clock::Clock,
    domain::leadership::{Elector, LEASE_DURATION, LeaseRecord, RETRY_PERIOD, Step},
    hex::hex,
    names,
    random::{Random, Unavailable},
};

/// The deadline of one call: a leader that gets no answer has time for a second read and write before it resigns.
pub const CALL_LIMIT: Duration = Duration::from_secs(3);
/// How often a leader is checked for the end of its time. A write is checked by itself; this ends the process.
const CHECK_INTERVAL: Duration = Duration::from_millis(500);
/// Of failures in a row, the first is logged, and then one of this number.
const LOGGED_FAILURES: u32 = 30;

/// Waits until this process leads. All clones are one.
pub type Acquired = Shared<BoxFuture<'static, ()>>;

/// Whether this process leads. Cheap to clone; all clones share one state.
#[derive(Clone)]
pub struct Leadership {
    clock: Clock,
    state: Arc<watch::Sender<State>>,
}

#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// Until when, by [`Clock::boot`].
    until: Option<Timestamp>,
    /// Whether it has led, now or before.
    acquired: bool,
    /// The election has ended, and the Lease is released where this process had it.
    ended: bool,
    /// Whether it takes part in the election.
    candidate: bool,
    /// Those of the Lease when it was last read.
    transitions: Option<i32>,
}

impl Leadership {
    /// That of a process that does not lead: one without an [`Election`] never does.
    #[must_use]
    pub fn new(clock: Clock) -> Self {
        Self { clock, state: Arc::default() }
    }

    /// That of a process that leads for ever, for tests.
    #[cfg(test)]
    pub(crate) fn led() -> Self {
        let led = Self::new(Clock::system());
        led.change(|state| {
            (state.until, state.acquired, state.candidate) = (Some(Timestamp::MAX), true, true)
        });
        led
    }

    /// Whether this process leads at this moment. Computed from the clock, not noted by a task: the first answer of a
    /// process that was frozen is right.
    #[must_use]
    pub fn leads(&self) -> bool {
        let until = self.state.borrow().until;
        until.is_some_and(|until| self.clock.boot() < until)
    }

    /// Whether this process has led and does not any more.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        let acquired = self.state.borrow().acquired;
        acquired && !self.leads()
    }

    /// Waits until this process leads for the first time.
    pub fn acquired(&self) -> Acquired {
        let mut state = self.state.subscribe();
        let acquired = async move {
            if state.wait_for(|state| state.acquired).await.is_err() {
                // Everything that could lead has ended.
                std::future::pending::<()>().await;
            }
        };
        acquired.boxed().shared()
    }

    /// Waits until this process has led and does not any more.
    pub async fn lost(&self) {
        let mut state = self.state.subscribe();
        self.acquired().await;
        while self.leads() {
            drop(tokio::time::timeout(CHECK_INTERVAL, state.changed()).await);
        }
    }

    /// Waits until the election has ended, and the Lease is released where this process had it.
    pub async fn ended(&self) {
        drop(self.state.subscribe().wait_for(|state| state.ended).await);
    }

    /// Notes that this process takes part in the election, from its start on.
    pub fn take_part(&self) {
        self.change(|state| state.candidate = true);
    }

    /// Whether this process takes part in the election: one that serves the REST API alone does not.
    #[must_use]
    pub fn is_candidate(&self) -> bool {
        self.state.borrow().candidate
    }

    /// How many times the Lease has had another holder, as it was last read; `None` before that.
    #[must_use]
    pub fn transitions(&self) -> Option<i32> {
        self.state.borrow().transitions
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        self.state.send_modify(change);
    }
}

impl std::fmt::Debug for Leadership {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leadership").field("state", &*self.state.borrow()).finish_non_exhaustive()
    }
}

/// A name that no other process has: that of the pod, else of the machine, and a random suffix.
///
/// # Errors
/// [`Unavailable`].
pub fn identity(pod: Option<&str>, random: &Random) -> Result<String, Unavailable> {
    let mut suffix = [0; 4];
    random.fill(&mut suffix)?;
    let machine = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    Ok(format!("{}_{}", pod.map_or_else(machine, str::to_owned), hex(&suffix)))
}

/// One replica's part in the election.
pub struct Election {
    api: Api<Lease>,
    namespace: String,
    elector: Elector,
    leadership: Leadership,
    /// The holder that was last logged.
    holder: Option<String>,
    /// When this process took the Lease, for people.
    taken_at: Timestamp,
    failures: u32,
}

/// Whether the election continues.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    Next,
    Resigned,
}

impl Election {
    /// A follower of this name that reads and writes the Lease of `namespace` with `client`, and whose success `leadership`
    /// shows.
    #[must_use]
    pub fn new(client: Client, namespace: &str, identity: String, leadership: Leadership) -> Self {
        let taken_at = leadership.clock.now();
        Self {
            api: Api::namespaced(client, namespace),
            namespace: namespace.to_owned(),
            elector: Elector::new(identity),
            leadership,
            holder: None,
            taken_at,
            failures: 0,
        }
    }

    /// Takes part until `release`, and then releases the Lease if this process has it; or until this process has led and
    /// does not any more.
    pub async fn run(mut self, release: impl Future<Output = ()>) {
        let mut release = pin!(release);
        loop {
            let begun = Instant::now();
            match self.round().await {
                Ok(Round::Resigned) => break,
                Ok(Round::Next) => self.failures = 0,
                Err(error) => self.log(&error),
            }
            tokio::select! {
                biased;
                () = &mut release => {
                    self.release().await;
                    break;
                }
                () = tokio::time::sleep_until(begun + RETRY_PERIOD) => (),
            }
        }
        self.leadership.change(|state| (state.until, state.ended) = (None, true));
    }

    /// Reads the Lease and takes the next step.
    async fn round(&mut self) -> Result<Round, CallError> {
        let read = self.read().await;
        let now = self.leadership.clock.boot();
        let lease = match read {
            Ok(lease) => lease,
            Err(_) if self.elector.is_over(now) => return Ok(Round::Resigned),
            Err(error) => return Err(error),
        };
        let record = lease.as_ref().map(record);
        self.note(record.as_ref());
        let step = self.elector.decide(record.as_ref(), now);
        let (lease, transitions) = match (step, lease) {
            (Step::Resign, _) => return Ok(Round::Resigned),
            (Step::Replace { transitions, .. }, Some(lease)) => (lease, transitions),
            (Step::Create, _) => (self.first(), 0),
            (Step::Wait | Step::Replace { .. }, _) => return Ok(Round::Next),
        };
        match self.write(lease, transitions).await {
            // Another replica was faster, or the Lease was deleted or changed meanwhile.
            Err(error) if error.is_conflict() || error.is_not_found() => Ok(Round::Next),
            written => written.map(|()| Round::Next),
        }
    }

    async fn read(&self) -> Result<Option<Lease>, CallError> {
        let what = format!("failed to read Lease {} in {}", names::LEASE, self.namespace);
        match within_limit(CALL_LIMIT, what, self.api.get(names::LEASE)).await {
            Err(error) if error.is_not_found() => Ok(None),
            read => read.map(Some),
        }
    }

    /// Writes the Lease with this process as its holder: a new one, or under the resource version of the one that was read.
    async fn write(&mut self, mut lease: Lease, transitions: i32) -> Result<(), CallError> {
        let now = self.leadership.clock.now();
        if !self.elector.leads(self.leadership.clock.boot()) {
            self.taken_at = now;
        }
        let spec = lease.spec.get_or_insert_default();
        spec.holder_identity = Some(self.elector.identity().to_owned());
        spec.lease_duration_seconds = i32::try_from(LEASE_DURATION.as_secs()).ok();
        spec.acquire_time = Some(MicroTime(self.taken_at));
        spec.renew_time = Some(MicroTime(now));
        spec.lease_transitions = Some(transitions);
        let sent = self.leadership.clock.boot();
        let written = self.put(&lease).await?;
        let (record, was_leader) = (record(&written), self.elector.leads_until().is_some());
        self.elector.accepted(&record, sent, self.leadership.clock.boot());
        let until = self.elector.leads_until();
        self.leadership.change(|state| {
            (state.until, state.acquired, state.transitions) = (until, true, Some(record.transitions));
        });
        if !was_leader {
            let identity = self.elector.identity();
            tracing::info!(identity, transitions, "this replica leads");
        }
        Ok(())
    }

    async fn put(&self, lease: &Lease) -> Result<Lease, CallError> {
        let (name, params) = (names::LEASE, PostParams::default());
        if lease.metadata.resource_version.is_none() {
            let what = format!("failed to create Lease {name} in {}", self.namespace);
            return within_limit(CALL_LIMIT, what, self.api.create(&params, lease)).await;
        }
        let what = format!("failed to replace Lease {name} in {}", self.namespace);
        within_limit(CALL_LIMIT, what, self.api.replace(name, &params, lease)).await
    }

    fn first(&self) -> Lease {
        let labels = [(names::LABEL_MANAGED_BY.to_owned(), names::MANAGER.to_owned())];
        let metadata = ObjectMeta {
            name: Some(names::LEASE.to_owned()),
            namespace: Some(self.namespace.clone()),
            labels: Some(labels.into()),
            ..ObjectMeta::default()
        };
        Lease { metadata, spec: Some(LeaseSpec::default()) }
    }

    /// Leaves the Lease without a holder, so that the next leader need not wait until it expires.
    async fn release(&mut self) {
        // Nothing of this process writes any more, whether the Lease is released or not.
        self.leadership.change(|state| state.until = None);
        // A second attempt succeeds where the Lease was changed in between.
        for _ in 0..2 {
            let Ok(Some(mut lease)) = self.read().await else { return };
            if record(&lease).holder != self.elector.identity() {
                return;
            }
            let spec = lease.spec.get_or_insert_default();
            spec.holder_identity = Some(String::new());
            spec.renew_time = Some(MicroTime(self.leadership.clock.now()));
            match self.put(&lease).await {
                Ok(_) => return tracing::info!(identity = self.elector.identity(), "released the Lease"),
                Err(error) => tracing::warn!(%error, "failed to release the Lease"),
            }
        }
    }

    /// Shows the Lease as it was read.
    fn note(&mut self, record: Option<&LeaseRecord>) {
        let Some(record) = record else { return };
        self.leadership.change(|state| state.transitions = Some(record.transitions));
        if self.holder.as_ref() != Some(&record.holder) {
            self.holder = Some(record.holder.clone());
            if record.holder != self.elector.identity() {
                tracing::info!(holder = record.holder, "read the holder of the Lease");
            }
        }
    }

    fn log(&mut self, error: &CallError) {
        if self.failures.is_multiple_of(LOGGED_FAILURES) {
            let until = self.elector.leads_until();
            let left = until.map(|until| until.duration_since(self.leadership.clock.boot()));
            let seconds_left = left.as_ref().map(SignedDuration::as_secs);
            tracing::warn!(%error, failures = self.failures + 1, seconds_left, "leader election failed, will retry");
        }
        self.failures = self.failures.saturating_add(1);
    }
}

fn record(lease: &Lease) -> LeaseRecord {
    let spec = lease.spec.as_ref();
    LeaseRecord {
        holder: spec.and_then(|spec| spec.holder_identity.clone()).unwrap_or_default(),
        transitions: spec.and_then(|spec| spec.lease_transitions).unwrap_or_default(),
        version: lease.metadata.resource_version.clone().unwrap_or_default(),
    }
}

#[cfg(test)]
pub(crate) mod tests;
