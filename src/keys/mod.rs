//! The cache of API keys: who presents a key, answered in microseconds from memory, on every replica.
//!
//! Guarantees:
//! - what is answered is never older than [`MOST_BEHIND`]: a process that can't prove that its watch is closer refuses
//!   every key ([`Refusal::Unready`]) instead of letting a revoked one in;
//! - a revoked, deleted or unreadable key is refused as soon as the watch delivers it; expiry needs nobody's word;
//! - a text of the wrong form is refused without a look-up, and beyond that nothing tells what was wrong with it
//!   ([`index`]).
//!
//! The proof is a small write a second ([`freshness`]), made only while somebody asks: without use of keys there is none.

pub mod freshness;
pub mod index;
pub mod pepper;

#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use kube::{
    Api, Client, ResourceExt,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::{
    sync::{Notify, mpsc, watch},
    time::Instant,
};

pub use self::index::{Principal, Refusal, TenantOf};
use self::{freshness::Freshness, index::Index};
use crate::{
    api_types::{Tenant, TenantApiKey, api_key::TenantApiKeySpec},
    clock::Clock,
    domain::api_key::Key,
    kube_ext::{CallError, pulse::Pulse, watch::Change, within},
    metrics::Metrics,
    names,
};

/// A cache that may be older than this refuses every key.
pub const MOST_BEHIND: Duration = Duration::from_secs(5);
/// Between two writes of the probe: several of them may be lost before the cache counts as behind.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// A watch that has not delivered a write for so long is opened again.
const RENEW_AFTER: Duration = Duration::from_secs(10);
/// Longest time for one write of the probe.
const PROBE_LIMIT: Duration = Duration::from_secs(2);
/// The probe is written as long as somebody has asked within this time.
const IN_USE: Duration = Duration::from_secs(60);
/// How long [`Keys::principal`] waits for a cache that nobody has asked for a while.
const WAKE_LIMIT: Duration = Duration::from_secs(2);

/// Answers who presents a key. Cheap to clone; all clones are one cache.
#[derive(Clone)]
pub struct Keys(Arc<Shared>);

struct Shared {
    index: RwLock<Index>,
    state: Mutex<State>,
    /// Something was confirmed.
    confirmed: watch::Sender<()>,
    /// Somebody asks after a time of rest.
    wanted: Notify,
    peppers: watch::Receiver<pepper::Known>,
    clock: Clock,
    metrics: Metrics,
}

#[derive(Default)]
struct State {
    freshness: Freshness,
    /// The first full list of keys, and of tenants, was told.
    whole: [bool; 2],
    asked: Option<Instant>,
}

/// What the cache is fed with.
pub struct Inputs {
    /// Changes of keys.
    pub keys: mpsc::Receiver<Change<TenantApiKey>>,
    /// Changes of tenants.
    pub tenants: mpsc::Receiver<Change<Tenant>>,
}

impl Keys {
    /// An empty cache; it refuses every key before [`feed`](Self::feed) and [`probe`](Self::probe) run.
    #[must_use]
    pub fn new(peppers: watch::Receiver<pepper::Known>, clock: Clock, metrics: Metrics) -> Self {
        Self(Arc::new(Shared {
            index: RwLock::default(),
            state: Mutex::default(),
            confirmed: watch::Sender::new(()),
            wanted: Notify::new(),
            peppers,
            clock,
            metrics,
        }))
    }

    /// Who presents this text, which is what stands behind `Bearer `. After a time of rest it waits up to 2 s until the
    /// cache is known to be up to date.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn principal(&self, text: &str) -> Result<Principal, Refusal> {
        let answer = match self.authenticate(text) {
            Err(Refusal::Unready) if self.caught_up(WAKE_LIMIT).await => self.authenticate(text),
            answer => answer,
        };
        self.0.metrics.authenticated(answer.as_ref().map_or_else(|refusal| (*refusal).into(), |_| "ok"));
        answer
    }

    /// Who presents this text, by what is known now.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn authenticate(&self, text: &str) -> Result<Principal, Refusal> {
        let key = Key::parse(text).map_err(|_| Refusal::Malformed)?;
        if !self.is_up_to_date() {
            return Err(Refusal::Unready);
        }
        let peppers = match &*self.0.peppers.borrow() {
            pepper::Known::InForce(peppers) => Arc::clone(peppers),
            // Where there is no pepper there is no key; and where it can't be read nobody knows.
            pepper::Known::Absent => return Err(Refusal::Unknown),
            pepper::Known::Nothing | pepper::Known::Unusable(_) => return Err(Refusal::Unready),
        };
        let index = self.0.index.read().unwrap_or_else(PoisonError::into_inner);
        index.authenticate(&key, &peppers, self.0.clock.now())
    }

    /// Who presented a key that was let in before, by what is known now: for what goes on for longer than a request. Waits as
    /// [`principal`](Self::principal) does.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn again(&self, before: &Principal) -> Result<Principal, Refusal> {
        if !self.is_up_to_date() && !self.caught_up(WAKE_LIMIT).await {
            return Err(Refusal::Unready);
        }
        let index = self.0.index.read().unwrap_or_else(PoisonError::into_inner);
        index.again(before, self.0.clock.now())
    }

    /// Waits until the cache is known to be up to date; false when it is not after `limit`.
    pub async fn caught_up(&self, limit: Duration) -> bool {
        let mut confirmed = self.0.confirmed.subscribe();
        let caught_up = async {
            while !self.is_up_to_date() {
                if confirmed.changed().await.is_err() {
                    return false;
                }
            }
            true
        };
        tokio::time::timeout(limit, caught_up).await.unwrap_or(false)
    }

    /// How old what the cache holds may be; `None` while nothing is known, or nobody has asked for long.
    #[must_use]
    pub fn behind(&self) -> Option<Duration> {
        self.state().freshness.behind(Instant::now())
    }

    fn is_up_to_date(&self) -> bool {
        let mut state = self.state();
        let now = Instant::now();
        let rested = state.asked.replace(now).is_none_or(|asked| now.duration_since(asked) >= IN_USE);
        let fresh = state.freshness.behind(now).is_some_and(|behind| behind <= MOST_BEHIND);
        let is_up_to_date = fresh && state.whole == [true; 2];
        drop(state);
        if rested || !fresh {
            self.0.wanted.notify_one();
        }
        is_up_to_date
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what the watches tell, until one of them ends. `namespace` is the one of the probe.
    pub async fn feed(self, namespace: String, inputs: Inputs) {
        let Inputs { mut keys, mut tenants } = inputs;
        loop {
            let told = tokio::select! {
                change = keys.recv() => change.map(|change| self.take_key(&namespace, &change)),
                change = tenants.recv() => change.map(|change| self.take_tenant(&change)),
            };
            if told.is_none() {
                return;
            }
        }
    }

    fn take_key(&self, probe: &str, change: &Change<TenantApiKey>) {
        let place = |key: &TenantApiKey| (key.namespace().unwrap_or_default(), key.name_any());
        let mut index = self.0.index.write().unwrap_or_else(PoisonError::into_inner);
        match change {
            Change::Applied(key) => {
                let (namespace, name) = place(key);
                index.apply(key);
                if namespace == probe && name == names::KEY_PROBE {
                    drop(index);
                    self.told(key.resource_version().as_deref());
                    return;
                }
            }
            Change::Deleted(key) => {
                let (namespace, name) = place(key);
                index.delete(&namespace, &name);
            }
            Change::Invalid(invalid) => {
                let metadata = &invalid.metadata;
                let namespace = metadata.namespace.as_deref().unwrap_or_default();
                index.delete(namespace, metadata.name.as_deref().unwrap_or_default());
            }
            Change::Synced => self.whole(0),
        }
        self.0.metrics.show_key_versions(index.len());
    }

    fn take_tenant(&self, change: &Change<Tenant>) {
        let mut index = self.0.index.write().unwrap_or_else(PoisonError::into_inner);
        match change {
            Change::Applied(tenant) => index.apply_tenant(tenant),
            Change::Deleted(tenant) => index.delete_tenant(&tenant.name_any()),
            // As last known: where its namespace is does not change.
            Change::Invalid(_) => (),
            Change::Synced => self.whole(1),
        }
    }

    fn whole(&self, which: usize) {
        self.state().whole[which] = true;
        self.0.confirmed.send_replace(());
    }

    fn told(&self, version: Option<&str>) {
        if let Some(version) = version.and_then(|version| version.parse().ok())
            && self.state().freshness.told(version)
        {
            self.0.confirmed.send_replace(());
        }
    }

    /// Writes the probe while somebody asks, for ever. A `watch` that does not deliver the writes is opened again: what is
    /// connected to an API server that answers has them within seconds. Cancel safe.
    pub async fn probe(self, client: Client, namespace: String, watch: Pulse) {
        let api: Api<TenantApiKey> = Api::namespaced(client, &namespace);
        // Each write must change something, also beside those of other processes: else its version is an old one.
        let (run, mut count, mut failures) = (self.0.clock.now().as_nanosecond(), 0_u64, 0_u64);
        let mut renewed = Instant::now();
        loop {
            let in_use = self.state().asked.is_some_and(|asked| asked.elapsed() < IN_USE);
            if !in_use {
                self.0.wanted.notified().await;
            }
            let begun = Instant::now();
            count += 1;
            match tokio::time::timeout(PROBE_LIMIT, touch(&api, &format!("{run}-{count}"))).await {
                Ok(Ok(Some(version))) => {
                    failures = 0;
                    let waits = {
                        let mut state = self.state();
                        state.freshness.wrote(version, begun);
                        state.freshness.waits(Instant::now())
                    };
                    self.0.confirmed.send_replace(());
                    if waits >= RENEW_AFTER && renewed.elapsed() >= RENEW_AFTER {
                        renewed = Instant::now();
                        watch.renew();
                    }
                }
                failed => {
                    failures += 1;
                    // The first, and then one a minute.
                    if failures % 60 == 1 {
                        let why = match failed {
                            Ok(Err(error)) => error.to_string(),
                            Ok(Ok(_)) => "the API server's versions can't be compared".to_owned(),
                            Err(_) => format!("no answer within {} s", PROBE_LIMIT.as_secs()),
                        };
                        tracing::warn!(why, failures, "how far the cache of keys is behind is not known");
                    }
                }
            }
            tokio::time::sleep_until(begun + PROBE_INTERVAL).await;
        }
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("behind", &self.behind()).finish_non_exhaustive()
    }
}

/// Changes the probe, or makes it; the version that it has then, where the API server's versions can be compared.
async fn touch(api: &Api<TenantApiKey>, value: &str) -> Result<Option<u64>, CallError> {
    let patch = json!({"metadata": {"annotations": {names::ANNOTATION_PROBE: value}}});
    let what = format!("failed to write TenantApiKey {}", names::KEY_PROBE);
    let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
    let call = within(what.clone(), api.patch_metadata(names::KEY_PROBE, &params, &patch));
    let version = match call.await {
        Err(error) if error.is_not_found() => {
            let spec = TenantApiKeySpec { revoked: true, ..TenantApiKeySpec::default() };
            let mut probe = TenantApiKey::new(names::KEY_PROBE, spec);
            // It is nobody's key: the controller leaves it alone.
            let paused = [(names::ANNOTATION_PAUSED.to_owned(), "true".to_owned())];
            probe.metadata.annotations = Some(paused.into());
            within(what, api.create(&PostParams::default(), &probe)).await?.resource_version()
        }
        written => written?.resource_version(),
    };
    Ok(version.and_then(|version| version.parse().ok()))
}
