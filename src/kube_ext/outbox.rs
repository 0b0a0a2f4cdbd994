//! What a subscriber of a watch has not taken yet.
//!
//! A watch feeds many parts, and one that does not take what it is sent must not keep it from the others. So each has
//! an outbox: of an object that changes again before its change was taken only the latest change is kept, in a slot of
//! its own, so that an outbox never has more changes than objects exist, and the subscriber takes them in the order in
//! which they came, with gaps. (By that order the cache of keys knows how new it is.) A full outbox slows the watch
//! down once ([`DRAIN_TIMEOUT`]), as a channel would, and then no more until it has been emptied.

use std::{
    collections::{HashMap, VecDeque},
    panic::Location,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use kube::{Resource, core::ObjectMeta};
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, timeout},
};

use super::change::Change;

/// The number of changes in an outbox at which the watch waits for its subscriber.
const MAX_QUEUED_CHANGES: usize = 1024;
/// How long the watch waits for the subscriber to empty the outbox.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// Since when a subscriber has taken no change from a non-empty outbox. All clones are one.
#[derive(Clone, Debug)]
pub(super) struct Backlog {
    /// The location in the source where it subscribed.
    pub(super) subscriber: &'static Location<'static>,
    since: Arc<Mutex<Option<Instant>>>,
}

impl Backlog {
    fn set(&self, since: Option<Instant>) {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner) = since;
    }

    pub(super) fn since(&self) -> Option<Instant> {
        *self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The outbox for one subscriber. All clones are one.
pub(super) struct Outbox<K: Resource>(Arc<Shared<K>>);

struct Shared<K: Resource> {
    queue: Mutex<Queue<K>>,
    filled: Notify,
    emptied: Notify,
    backlog: Backlog,
}

struct Queue<K: Resource> {
    /// Slots in the order of their numbers; those that are not the latest of their object are void.
    order: VecDeque<(u64, Option<Arc<str>>)>,
    /// The latest change of each object, by its key, and the number of its slot.
    latest: HashMap<Arc<str>, (u64, Change<K>)>,
    /// The slot of [`Change::Synced`], if it is due.
    synced: Option<u64>,
    /// The number of the next slot.
    next: u64,
    /// The watch has waited long enough, and does not again before it is empty.
    behind: bool,
}

/// By what changes are of the same object: its UID. `None` for what is of none.
pub(super) fn key<K: Resource<DynamicType = ()>>(change: &Change<K>) -> Option<Arc<str>> {
    let of = |meta: &ObjectMeta| {
        let name = || {
            let namespace = meta.namespace.as_deref().unwrap_or_default();
            format!("{namespace}/{}", meta.name.as_deref().unwrap_or_default()).into()
        };
        Some(meta.uid.as_deref().map_or_else(name, Arc::from))
    };
    match change {
        Change::Applied(object) | Change::Deleted(object) => of(object.meta()),
        Change::Invalid(invalid) => of(&invalid.metadata),
        Change::Synced => None,
    }
}

impl<K: Resource> Default for Queue<K> {
    fn default() -> Self {
        Self { order: VecDeque::new(), latest: HashMap::new(), synced: None, next: 0, behind: false }
    }
}

impl<K: Resource<DynamicType = ()>> Queue<K> {
    fn len(&self) -> usize {
        self.latest.len() + usize::from(self.synced.is_some())
    }

    fn push_slot(&mut self, key: Option<Arc<str>>) -> u64 {
        let slot = self.next;
        self.next += 1;
        self.order.push_back((slot, key));
        slot
    }

    fn put(&mut self, key: Option<Arc<str>>, change: Change<K>) {
        let Some(key) = key else {
            self.synced = Some(self.push_slot(None));
            return;
        };
        let slot = self.push_slot(Some(Arc::clone(&key)));
        let before = self.latest.insert(key, (slot, change)).map(|(before, _)| before);
        // All that there was comes before it.
        if before < self.synced && before.is_some() {
            self.synced = Some(self.push_slot(None));
        }
        if self.order.len() > 2 * self.len() + MAX_QUEUED_CHANGES {
            let (latest, synced) = (&self.latest, self.synced);
            self.order.retain(|(slot, key)| match key {
                Some(key) => latest.get(key).is_some_and(|(of, _)| of == slot),
                None => synced == Some(*slot),
            });
        }
    }

    fn take(&mut self) -> Option<Change<K>> {
        let change = loop {
            let (slot, key) = self.order.pop_front()?;
            match key {
                None if self.synced == Some(slot) => {
                    self.synced = None;
                    break Change::Synced;
                }
                Some(key) if self.latest.get(&key).is_some_and(|(of, _)| *of == slot) => {
                    break self.latest.remove(&key)?.1;
                }
                _ => (),
            }
        };
        if self.len() == 0 {
            // What a burst took is given back.
            *self = Self { next: self.next, ..Self::default() };
        }
        Some(change)
    }
}

impl<K: Resource<DynamicType = ()>> Outbox<K> {
    pub(super) fn new(subscriber: &'static Location<'static>) -> Self {
        Self(Arc::new(Shared {
            queue: Mutex::default(),
            filled: Notify::new(),
            emptied: Notify::new(),
            backlog: Backlog { subscriber, since: Arc::default() },
        }))
    }

    pub(super) fn backlog(&self) -> &Backlog {
        &self.0.backlog
    }

    fn queue(&self) -> MutexGuard<'_, Queue<K>> {
        // Each method leaves the queue consistent, so a poisoned lock can be used.
        self.0.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts a change in, and waits for a moment where the subscriber is behind.
    pub(super) async fn put(&self, key: Option<Arc<str>>, change: Change<K>) {
        let is_full = {
            let mut queue = self.queue();
            queue.put(key, change);
            queue.len() >= MAX_QUEUED_CHANGES && !queue.behind
        };
        self.0.filled.notify_one();
        if !is_full {
            return;
        }
        let emptied = async {
            while self.queue().len() >= MAX_QUEUED_CHANGES / 2 {
                self.0.emptied.notified().await;
            }
        };
        if timeout(DRAIN_TIMEOUT, emptied).await.is_err() {
            self.queue().behind = true;
            let (kind, subscriber) = (K::kind(&()), self.0.backlog.subscriber);
            tracing::warn!(%kind, %subscriber, "a subscriber does not keep up with the watch, which does not wait for it");
        }
    }

    async fn filled(&self) {
        while self.queue().len() == 0 {
            self.0.filled.notified().await;
        }
    }

    /// Sends what comes to the subscriber, until that is dropped.
    pub(super) async fn send_to(self, subscriber: mpsc::Sender<Change<K>>) {
        loop {
            self.filled().await;
            self.0.backlog.set(Some(Instant::now()));
            let Ok(permit) = subscriber.reserve().await else { return };
            self.0.backlog.set(None);
            if let Some(change) = self.queue().take() {
                permit.send(change);
            }
            self.0.emptied.notify_one();
        }
    }
}

impl<K: Resource> Clone for Outbox<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;

    use super::*;

    fn map(uid: &str, version: usize) -> Arc<ConfigMap> {
        let metadata = serde_json::json!({"name": uid, "uid": uid, "resourceVersion": version.to_string()});
        Arc::new(serde_json::from_value(serde_json::json!({"metadata": metadata})).unwrap())
    }

    fn said(change: &Change<ConfigMap>) -> String {
        let of = |map: &ConfigMap| {
            let metadata = map.metadata.clone();
            format!("{}{}", metadata.uid.unwrap(), metadata.resource_version.unwrap())
        };
        match change {
            Change::Applied(map) => format!("+{}", of(map)),
            Change::Deleted(map) => format!("-{}", of(map)),
            Change::Invalid(_) => "!".to_owned(),
            Change::Synced => "=".to_owned(),
        }
    }

    async fn put(outbox: &Outbox<ConfigMap>, change: Change<ConfigMap>) {
        outbox.put(key(&change), change).await;
    }

    /// What is taken of these changes, all of them put in before.
    async fn taken(changes: impl IntoIterator<Item = Change<ConfigMap>>) -> Vec<String> {
        let outbox = Outbox::new(Location::caller());
        for change in changes {
            put(&outbox, change).await;
        }
        let mut queue = outbox.queue();
        std::iter::from_fn(|| queue.take().as_ref().map(said)).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn of_each_object_the_latest_change_is_taken_in_the_order_in_which_they_came() {
        let changes = [
            Change::Applied(map("probe", 1)),
            Change::Applied(map("key", 2)),
            Change::Deleted(map("key", 3)),
            Change::Applied(map("probe", 4)),
            Change::Applied(map("other", 5)),
        ];
        assert_eq!(taken(changes).await, ["-key3", "+probe4", "+other5"], "none before an earlier one");
    }

    #[tokio::test(start_paused = true)]
    async fn the_cache_is_whole_once_all_that_a_list_had_was_taken() {
        let list = [Change::Applied(map("a", 1)), Change::Applied(map("b", 2)), Change::Synced];
        let then = [Change::Applied(map("c", 3)), Change::Applied(map("a", 4))];
        let all = list.clone().into_iter().chain(then);
        assert_eq!(taken(all).await, ["+b2", "+c3", "+a4", "="]);
        assert_eq!(taken(list.clone()).await, ["+a1", "+b2", "="]);
        assert_eq!(
            taken(list.into_iter().chain([Change::Synced, Change::Applied(map("d", 5))])).await,
            ["+a1", "+b2", "=", "+d5"]
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_changes_over_and_over_takes_no_room() {
        let outbox = Outbox::new(Location::caller());
        for n in 0..100_000 {
            put(&outbox, Change::Applied(map(&(n % 3).to_string(), n))).await;
        }
        assert!(outbox.queue().order.len() <= MAX_QUEUED_CHANGES + 6, "{}", outbox.queue().order.len());
    }

    #[tokio::test(start_paused = true)]
    async fn a_subscriber_that_takes_nothing_holds_the_watch_up_for_a_moment_once_and_is_seen() {
        let outbox = Outbox::new(Location::caller());
        let (sender, mut receiver) = mpsc::channel(1);
        tokio::spawn(outbox.clone().send_to(sender));
        let begun = Instant::now();
        for n in 0..3000 {
            put(&outbox, Change::Applied(map(&n.to_string(), 1))).await;
        }
        assert_eq!(begun.elapsed(), DRAIN_TIMEOUT);
        tokio::time::advance(Duration::from_secs(600)).await;
        let behind = outbox.backlog().since().unwrap().elapsed();
        assert!(behind >= Duration::from_secs(600), "{behind:?}");
        for _ in 0..3000 {
            receiver.recv().await.unwrap();
        }
        tokio::task::yield_now().await;
        assert_eq!(outbox.backlog().since(), None, "and it has all of it in the end");
    }
}
