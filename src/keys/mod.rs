//! The cache of API keys: authenticates tokens in microseconds from memory, on every replica.
//!
//! Guarantees:
//! - the state of a key is never older than [`MAX_STALENESS`]: a process that can't prove that its watch is up to date
//!   refuses every key ([`Refusal::Unready`]) instead of accepting a revoked one;
//! - a revoked, deleted or unreadable key is refused as soon as the watch delivers the change; expiry needs no event;
//! - a token of the wrong form is refused without a lookup, and beyond that no result says what was wrong with it
//!   ([`index`]).
//!
//! The proof is a small write a second ([`freshness`]), made only while requests authenticate: without use of keys the
//! process writes nothing.

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
pub const MAX_STALENESS: Duration = Duration::from_secs(5);
/// Time between two writes of the probe: several of them may be lost before the cache is stale.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// A watch that has not delivered a write for this long is renewed.
const RENEW_AFTER: Duration = Duration::from_secs(10);
/// Longest time for one write of the probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// The process writes the probe until this long after the last authentication.
const PROBE_IDLE_AFTER: Duration = Duration::from_secs(60);
/// How long [`Keys::authenticate`] waits for a cache that was idle.
const WAKE_TIMEOUT: Duration = Duration::from_secs(2);

/// Authenticates API keys. Cheap to clone; all clones share one cache.
#[derive(Clone)]
pub struct Keys(Arc<Shared>);

struct Shared {
    index: RwLock<Index>,
    state: Mutex<State>,
    /// Changes when the cache may have become up to date.
    confirmed: watch::Sender<()>,
    /// Wakes the probe after idle time.
    wake: Notify,
    peppers: watch::Receiver<pepper::State>,
    clock: Clock,
    metrics: Metrics,
}

#[derive(Default)]
struct State {
    freshness: Freshness,
    /// Whether the first lists of keys and of tenants are complete.
    synced: [bool; 2],
    last_used: Option<Instant>,
}

/// The changes that the cache follows.
pub struct Inputs {
    /// Changes of keys.
    pub keys: mpsc::Receiver<Change<TenantApiKey>>,
    /// Changes of tenants.
    pub tenants: mpsc::Receiver<Change<Tenant>>,
}

impl Keys {
    /// An empty cache; it refuses every key before [`feed`](Self::feed) and [`probe`](Self::probe) run.
    #[must_use]
    pub fn new(peppers: watch::Receiver<pepper::State>, clock: Clock, metrics: Metrics) -> Self {
        Self(Arc::new(Shared {
            index: RwLock::default(),
            state: Mutex::default(),
            confirmed: watch::Sender::new(()),
            wake: Notify::new(),
            peppers,
            clock,
            metrics,
        }))
    }

    /// Authenticates a token, as it follows `Bearer `. After idle time it waits up to 2 s until the cache is up to date.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn authenticate(&self, token: &str) -> Result<Principal, Refusal> {
        let result = match self.authenticate_now(token) {
            Err(Refusal::Unready) if self.wait_until_current(WAKE_TIMEOUT).await => {
                self.authenticate_now(token)
            }
            result => result,
        };
        self.0.metrics.authenticated(result.as_ref().map_or_else(|refusal| (*refusal).into(), |_| "ok"));
        result
    }

    /// Authenticates a token by the current state of the cache, without waiting.
    ///
    /// # Errors
    /// [`Refusal`].
    pub fn authenticate_now(&self, token: &str) -> Result<Principal, Refusal> {
        let key = Key::parse(token).map_err(|_| Refusal::Malformed)?;
        if !self.is_current() {
            return Err(Refusal::Unready);
        }
        let peppers = match &*self.0.peppers.borrow() {
            pepper::State::InForce(peppers) => Arc::clone(peppers),
            // Without a pepper no key exists; with an unreadable one no key can be checked.
            pepper::State::Absent => return Err(Refusal::Unknown),
            pepper::State::Pending | pepper::State::Unusable(_) => return Err(Refusal::Unready),
        };
        let index = self.0.index.read().unwrap_or_else(PoisonError::into_inner);
        index.authenticate(&key, &peppers, self.0.clock.now())
    }

    /// The current state of a principal that was authenticated before: for responses that outlast their request. Waits as
    /// [`authenticate`](Self::authenticate) does.
    ///
    /// # Errors
    /// [`Refusal`].
    pub async fn revalidate(&self, before: &Principal) -> Result<Principal, Refusal> {
        if !self.is_current() && !self.wait_until_current(WAKE_TIMEOUT).await {
            return Err(Refusal::Unready);
        }
        let index = self.0.index.read().unwrap_or_else(PoisonError::into_inner);
        index.revalidate(before, self.0.clock.now())
    }

    /// Waits until the cache is up to date; false where it is not within `limit`.
    pub async fn wait_until_current(&self, limit: Duration) -> bool {
        let mut confirmed = self.0.confirmed.subscribe();
        let current = async {
            while !self.is_current() {
                if confirmed.changed().await.is_err() {
                    return false;
                }
            }
            true
        };
        tokio::time::timeout(limit, current).await.unwrap_or(false)
    }

    /// How stale the cache may be; `None` before the first proof.
    #[must_use]
    pub fn staleness(&self) -> Option<Duration> {
        self.state().freshness.staleness(Instant::now())
    }

    fn is_current(&self) -> bool {
        let mut state = self.state();
        let now = Instant::now();
        let was_idle =
            state.last_used.replace(now).is_none_or(|used| now.duration_since(used) >= PROBE_IDLE_AFTER);
        let fresh = state.freshness.staleness(now).is_some_and(|staleness| staleness <= MAX_STALENESS);
        let is_current = fresh && state.synced == [true; 2];
        drop(state);
        if was_idle || !fresh {
            self.0.wake.notify_one();
        }
        is_current
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies the changes that the watches deliver, until one of them ends. `namespace` is that of the probe.
    pub async fn feed(self, namespace: String, inputs: Inputs) {
        let Inputs { mut keys, mut tenants } = inputs;
        loop {
            let applied = tokio::select! {
                change = keys.recv() => change.map(|change| self.apply_key(&namespace, &change)),
                change = tenants.recv() => change.map(|change| self.apply_tenant(&change)),
            };
            if applied.is_none() {
                return;
            }
        }
    }

    fn apply_key(&self, probe: &str, change: &Change<TenantApiKey>) {
        let object_key = |key: &TenantApiKey| (key.namespace().unwrap_or_default(), key.name_any());
        let mut index = self.0.index.write().unwrap_or_else(PoisonError::into_inner);
        match change {
            Change::Applied(key) => {
                let (namespace, name) = object_key(key);
                index.apply(key);
                if namespace == probe && name == names::KEY_PROBE {
                    drop(index);
                    self.record_delivery(key.resource_version().as_deref());
                    return;
                }
            }
            Change::Deleted(key) => {
                let (namespace, name) = object_key(key);
                index.delete(&namespace, &name);
            }
            Change::Invalid(invalid) => {
                let metadata = &invalid.metadata;
                let namespace = metadata.namespace.as_deref().unwrap_or_default();
                index.delete(namespace, metadata.name.as_deref().unwrap_or_default());
            }
            Change::Synced => self.mark_synced(0),
        }
        self.0.metrics.show_key_versions(index.len());
    }

    fn apply_tenant(&self, change: &Change<Tenant>) {
        let mut index = self.0.index.write().unwrap_or_else(PoisonError::into_inner);
        match change {
            Change::Applied(tenant) => index.apply_tenant(tenant),
            Change::Deleted(tenant) => index.delete_tenant(&tenant.name_any()),
            // The last valid state stays: the namespace of a tenant does not change.
            Change::Invalid(_) => (),
            Change::Synced => self.mark_synced(1),
        }
    }

    fn mark_synced(&self, which: usize) {
        self.state().synced[which] = true;
        self.0.confirmed.send_replace(());
    }

    fn record_delivery(&self, version: Option<&str>) {
        if let Some(version) = version.and_then(|version| version.parse().ok())
            && self.state().freshness.record_delivery(version)
        {
            self.0.confirmed.send_replace(());
        }
    }

    /// Writes the probe while keys are in use, for ever. Renews a `watch` that does not deliver the writes: one that is
    /// connected to a working API server delivers them within seconds. Cancel safe.
    pub async fn probe(self, client: Client, namespace: String, watch: Pulse) {
        let api: Api<TenantApiKey> = Api::namespaced(client, &namespace);
        // Each write must change the probe, whatever other processes write: else the write has an old version.
        let (run, mut count, mut failures) = (self.0.clock.now().as_nanosecond(), 0_u64, 0_u64);
        let mut renewed = Instant::now();
        loop {
            let in_use = self.state().last_used.is_some_and(|used| used.elapsed() < PROBE_IDLE_AFTER);
            if !in_use {
                self.0.wake.notified().await;
            }
            let begun = Instant::now();
            count += 1;
            match tokio::time::timeout(PROBE_TIMEOUT, write_probe(&api, &format!("{run}-{count}"))).await {
                Ok(Ok(Some(version))) => {
                    failures = 0;
                    let pending = {
                        let mut state = self.state();
                        state.freshness.record_write(version, begun);
                        state.freshness.oldest_pending(Instant::now())
                    };
                    self.0.confirmed.send_replace(());
                    if pending >= RENEW_AFTER && renewed.elapsed() >= RENEW_AFTER {
                        renewed = Instant::now();
                        watch.renew();
                    }
                }
                failed => {
                    failures += 1;
                    // Logs the first failure, and then one a minute.
                    if failures % 60 == 1 {
                        let why = match failed {
                            Ok(Err(error)) => error.to_string(),
                            Ok(Ok(_)) => "the API server's resource versions are not numbers".to_owned(),
                            Err(_) => format!("no answer within {} s", PROBE_TIMEOUT.as_secs()),
                        };
                        tracing::warn!(
                            why,
                            failures,
                            "failed to write the probe of API keys: the cache may be stale"
                        );
                    }
                }
            }
            tokio::time::sleep_until(begun + PROBE_INTERVAL).await;
        }
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("staleness", &self.staleness()).finish_non_exhaustive()
    }
}

/// Changes or creates the probe. Its new version; `None` where the API server's versions are not numbers.
async fn write_probe(api: &Api<TenantApiKey>, value: &str) -> Result<Option<u64>, CallError> {
    let patch = json!({"metadata": {"annotations": {names::ANNOTATION_PROBE: value}}});
    let what = format!("failed to write TenantApiKey {}", names::KEY_PROBE);
    let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
    let call = within(what.clone(), api.patch_metadata(names::KEY_PROBE, &params, &patch));
    let version = match call.await {
        Err(error) if error.is_not_found() => {
            let spec = TenantApiKeySpec { revoked: true, ..TenantApiKeySpec::default() };
            let mut probe = TenantApiKey::new(names::KEY_PROBE, spec);
            // The key belongs to no tenant, and its controller must not reconcile it.
            let paused = [(names::ANNOTATION_PAUSED.to_owned(), "true".to_owned())];
            probe.metadata.annotations = Some(paused.into());
            within(what, api.create(&PostParams::default(), &probe)).await?.resource_version()
        }
        written => written?.resource_version(),
    };
    Ok(version.and_then(|version| version.parse().ok()))
}
