//! One watch and one cache per kind, for all subscribers.
//!
//! Guarantees to every subscriber:
//! - the watch delivers each object that exists as [`Change::Applied`] at least once, and again whenever it has
//!   changed; of changes that come faster than they are taken only the latest is delivered;
//! - it delivers each deleted object as [`Change::Deleted`], also when the object was deleted while the watch was down
//!   (a relist compares the cache before and after), and when another object of the same name has replaced it;
//! - after each full list comes [`Change::Synced`]: from the first one on the cache is synced;
//! - the cache has the state of a change before the change is delivered;
//! - a subscriber that takes nothing keeps nothing from the others (`kube_ext::outbox`).
//!
//! A subscriber that begins later ([`Watch::subscribe_held`]) gets the same, less the objects that were deleted before it
//! began.
//!
//! An object that does not decode stops nothing: it is delivered as [`Change::Invalid`], and its last valid state, if
//! any, stays in the cache. Managed fields are half of the memory and are dropped, but for what `with_prepare` picks
//! out first.

mod foreign;

use std::{collections::HashMap, fmt::Debug, panic::Location, sync::Arc, time::Duration};

use futures::{Stream, StreamExt, TryStreamExt, stream::BoxStream};
use kube::{
    Api, Resource, ResourceExt,
    core::{PartialObjectMeta, error_boundary::InvalidObject},
    runtime::{
        reflector::{self, ObjectRef, Store, store::Writer},
        watcher::{self, Event},
    },
};
use serde::de::DeserializeOwned;
use tokio::{sync::mpsc, task::JoinSet};

use self::foreign::Foreign;
pub use super::change::Change;
use super::{
    guard::Guarded,
    lease::Acquired,
    list_watch::{Interruption, Source, list_watch, retry::retried},
    outbox::{self, Outbox},
    pulse::{Pulse, Watches},
    streams::received,
};

/// Room in a subscriber's channel, behind its outbox.
const CHANNEL: usize = 64;

/// The events of the API server, through failures and back-off. The first poll sends the first request.
type Events<K> = BoxStream<'static, Result<Event<Guarded<K>>, Interruption>>;

/// The watch of one kind before it runs: subscribe first, then [`run`](Self::run) it.
pub struct Watch<K: Resource<DynamicType = ()> + Clone + Debug + 'static> {
    events: Events<K>,
    prepare: fn(&mut K),
    store: Store<K>,
    writer: Writer<K>,
    subscribers: Vec<(Outbox<K>, mpsc::Sender<Change<K>>)>,
    pulse: Pulse,
    /// Where it is known to health and metrics, and under which name.
    known_as: Option<(&'static str, Watches)>,
    foreign: Option<Box<Foreign<K>>>,
}

impl<K> Watch<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    /// A watch of what `api` and the selectors of `config` select.
    #[must_use]
    pub fn new(api: Api<Guarded<K>>, config: watcher::Config) -> Self {
        let path = api.resource_url().to_owned();
        Self::fed_by(Source { client: api.into_client(), path, config, metadata: false })
    }

    fn fed_by(source: Source) -> Self {
        let pulse = Pulse::default();
        let seed = format!("{} {:?}", source.path, source.config.label_selector);
        Self::of(retried(list_watch(source, pulse.clone()), seed).boxed(), pulse)
    }

    fn of(events: Events<K>, pulse: Pulse) -> Self {
        let (store, writer) = reflector::store();
        let (prepare, subscribers) = (|_: &mut K| (), Vec::new());
        Self { events, prepare, store, writer, subscribers, pulse, known_as: None, foreign: None }
    }

    /// Makes health and metrics know the watch by this name, from a closed list, once it runs.
    #[must_use]
    pub fn known_as(mut self, name: &'static str, watches: &Watches) -> Self {
        watches.add(name, self.pulse.clone());
        self.known_as = Some((name, watches.clone()));
        self
    }

    /// Lets `prepare` change each object before its managed fields are dropped and it enters the cache.
    #[must_use]
    pub fn with_prepare(mut self, prepare: fn(&mut K)) -> Self {
        self.prepare = prepare;
        self
    }

    /// Its signs of life.
    #[must_use]
    pub fn pulse(&self) -> Pulse {
        self.pulse.clone()
    }

    /// The cache.
    #[must_use]
    pub fn store(&self) -> Store<K> {
        self.store.clone()
    }

    /// All changes from the start of the watch.
    #[track_caller]
    pub fn subscribe(&mut self) -> mpsc::Receiver<Change<K>> {
        self.subscribe_from(None)
    }

    /// For a part that begins later: all that exists then, and all changes from then on.
    #[track_caller]
    pub fn subscribe_held(&mut self, begins: &Acquired) -> mpsc::Receiver<Change<K>> {
        self.subscribe_from(Some(begins.clone()))
    }

    #[track_caller]
    fn subscribe_from(&mut self, begins: Option<Acquired>) -> mpsc::Receiver<Change<K>> {
        let (sender, receiver) = mpsc::channel(CHANNEL);
        let outbox = Outbox::new(Location::caller(), begins);
        self.pulse.feeds(outbox.backlog().clone());
        self.subscribers.push((outbox, sender));
        receiver
    }

    /// All changes as a stream of the objects that they are about, as controllers want them.
    #[track_caller]
    pub fn subscribe_objects(&mut self) -> impl Stream<Item = Arc<K>> + Send + use<K> + 'static {
        objects(self.subscribe())
    }

    /// As [`subscribe_held`](Self::subscribe_held), as [`subscribe_objects`](Self::subscribe_objects).
    #[track_caller]
    pub fn subscribe_objects_held(
        &mut self,
        begins: &Acquired,
    ) -> impl Stream<Item = Arc<K>> + Send + use<K> + 'static {
        objects(self.subscribe_held(begins))
    }

    /// Watches for ever, through failures of the API server (with back-off). Cancel safe.
    pub async fn run(mut self) {
        let kind = K::kind(&());
        let mut relist: Option<Vec<Change<K>>> = None;
        self.pulse.begun();
        // They end with the watch.
        let mut senders = JoinSet::new();
        let foreign = self.foreign.iter().flat_map(|foreign| foreign.subscribers());
        for (outbox, subscriber) in self.subscribers.iter().chain(foreign) {
            senders.spawn(outbox.clone().send_to(subscriber.clone()));
        }
        loop {
            match self.events.try_next().await {
                Ok(Some(event)) => {
                    let own = self.divide(event).await;
                    self.pulse.stepped();
                    let changes = own.map(|event| self.take(event, &mut relist));
                    for change in changes.into_iter().flatten() {
                        self.deliver(change).await;
                        self.pulse.stepped();
                    }
                }
                Ok(None) => return,
                // The stream continues by itself after its back-off.
                Err(error) => {
                    let cause = error.cause();
                    self.pulse.failed(cause);
                    if let Some((name, watches)) = &self.known_as {
                        watches.interrupted(name, cause);
                    }
                    tracing::warn!(%kind, %error, root = error.root(), "the watch was interrupted");
                }
            }
        }
    }

    /// Applies an event to the cache and returns the changes to deliver. `relist` gathers those that must wait for a
    /// list's end.
    fn take(&mut self, event: Event<Guarded<K>>, relist: &mut Option<Vec<Change<K>>>) -> Vec<Change<K>> {
        match event {
            Event::Init => {
                *relist = Some(Vec::new());
                self.writer.apply_watcher_event(&Event::Init);
                Vec::new()
            }
            Event::InitApply(Guarded(Ok(object))) => {
                let object = self.prepared(object);
                self.writer.apply_watcher_event(&Event::InitApply(object));
                Vec::new()
            }
            Event::InitApply(Guarded(Err(invalid))) => {
                if let Some(known) = self.known(&invalid) {
                    self.writer.apply_watcher_event(&Event::InitApply(K::clone(&known)));
                }
                relist.get_or_insert_default().push(Change::Invalid(Arc::new(invalid)));
                Vec::new()
            }
            Event::InitDone => {
                let before = self.store.state();
                self.writer.apply_watcher_event(&Event::InitDone);
                self.pulse.synced();
                let mut changes = difference(&before, &self.store.state());
                changes.extend(relist.take().unwrap_or_default());
                changes.push(Change::Synced);
                changes
            }
            Event::Apply(Guarded(Ok(object))) => {
                let object = self.prepared(object);
                let key = ObjectRef::from_obj(&object);
                let replaced = self.store.get(&key).filter(|old| old.uid() != object.uid());
                self.writer.apply_watcher_event(&Event::Apply(object));
                let applied = self.store.get(&key).map(Change::Applied);
                replaced.map(Change::Deleted).into_iter().chain(applied).collect()
            }
            Event::Apply(Guarded(Err(invalid))) => vec![Change::Invalid(Arc::new(invalid))],
            Event::Delete(Guarded(Ok(object))) => {
                let object = self.prepared(object);
                self.writer.apply_watcher_event(&Event::Delete(object.clone()));
                vec![Change::Deleted(Arc::new(object))]
            }
            Event::Delete(Guarded(Err(invalid))) => {
                let known = self.known(&invalid);
                if let Some(known) = &known {
                    self.writer.apply_watcher_event(&Event::Delete(K::clone(known)));
                } else {
                    let key = outbox::key_of(&invalid.metadata);
                    self.subscribers.iter().for_each(|(outbox, _)| outbox.forget(&key));
                }
                known.map(Change::Deleted).into_iter().collect()
            }
        }
    }

    fn prepared(&self, mut object: K) -> K {
        (self.prepare)(&mut object);
        object.managed_fields_mut().clear();
        object
    }

    fn known(&self, invalid: &InvalidObject) -> Option<Arc<K>> {
        let name = invalid.metadata.name.as_deref()?;
        let reference = ObjectRef::new(name);
        let reference = match invalid.metadata.namespace.as_deref() {
            Some(namespace) => reference.within(namespace),
            None => reference,
        };
        self.store.get(&reference)
    }

    async fn deliver(&mut self, change: Change<K>) {
        // A subscriber that was dropped has ended; whoever runs it ends the process.
        self.subscribers.retain(|(_, subscriber)| !subscriber.is_closed());
        let key = outbox::key(&change);
        for (outbox, _) in &self.subscribers {
            outbox.put(key.clone(), change.clone()).await;
        }
    }
}

impl<K> Watch<PartialObjectMeta<K>>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    /// A watch of the metadata of what `api` and `config` select: the rest does not even leave the API server.
    ///
    /// With [`new`](Self::new) it would: kube 5.0 asks for metadata only where the type says so, and a `Guarded`
    /// around it does not.
    #[must_use]
    pub fn of_metadata(api: Api<PartialObjectMeta<K>>, config: watcher::Config) -> Self {
        let path = api.resource_url().to_owned();
        Self::fed_by(Source { client: api.into_client(), path, config, metadata: true })
    }
}

/// What a full list shows to have happened since `before`.
fn difference<K: Resource<DynamicType = ()>>(before: &[Arc<K>], after: &[Arc<K>]) -> Vec<Change<K>> {
    let by_uid = |objects: &[Arc<K>]| -> HashMap<String, Arc<K>> {
        objects.iter().map(|o| (o.uid().unwrap_or_default(), Arc::clone(o))).collect()
    };
    let (old, new) = (by_uid(before), by_uid(after));
    let deleted =
        old.iter().filter(|(uid, _)| !new.contains_key(*uid)).map(|(_, o)| Change::Deleted(Arc::clone(o)));
    let applied = after.iter().filter(|object| {
        let known = old.get(&object.uid().unwrap_or_default());
        known.is_none_or(|k| k.resource_version() != object.resource_version())
    });
    deleted.chain(applied.map(|o| Change::Applied(Arc::clone(o)))).collect()
}

/// Waits until a cache is synced; false when its watch has ended before.
///
/// `Store::wait_until_ready` keeps one waker (kube 5.0, `DelayedInit`): of several tasks that wait, only the last one
/// to be polled is woken. So each asks again after a moment.
pub async fn until_synced<K>(store: &Store<K>) -> bool
where
    K: Resource<DynamicType = ()> + Clone + Send + Sync + 'static,
{
    const POLL_INTERVAL: Duration = Duration::from_millis(50);
    loop {
        if let Ok(ready) = tokio::time::timeout(POLL_INTERVAL, store.wait_until_ready()).await {
            return ready.is_ok();
        }
    }
}

/// Waits until caches are synced; false when a watch has ended, or `shutdown` has come, before.
pub async fn synced_before(whole: impl Future<Output = bool>, shutdown: impl Future<Output = ()>) -> bool {
    tokio::select! {
        whole = whole => whole,
        () = shutdown => false,
    }
}

/// The objects of changes, deleted ones included: a controller then finds them absent.
pub fn objects<K>(changes: mpsc::Receiver<Change<K>>) -> impl Stream<Item = Arc<K>> + Send + 'static
where
    K: Resource + Send + Sync + 'static,
{
    received(changes).filter_map(|change| {
        std::future::ready(match change {
            Change::Applied(object) | Change::Deleted(object) => Some(object),
            Change::Invalid(_) | Change::Synced => None,
        })
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::{Client, client::Body};

    use super::*;

    fn map(name: &str, uid: &str, version: &str) -> ConfigMap {
        let metadata =
            serde_json::json!({"name": name, "namespace": "n", "uid": uid, "resourceVersion": version});
        serde_json::from_value(serde_json::json!({"metadata": metadata})).unwrap()
    }

    fn watch() -> Watch<ConfigMap> {
        let (service, _handle) = tower_test::mock::pair::<http::Request<Body>, http::Response<Body>>();
        Watch::new(Api::all(Client::new(service, "default")), watcher::Config::default())
    }

    fn summary(changes: &[Change<ConfigMap>]) -> Vec<String> {
        let one = |change: &Change<ConfigMap>| match change {
            Change::Applied(o) => format!("+{}", o.uid().unwrap()),
            Change::Deleted(o) => format!("-{}", o.uid().unwrap()),
            Change::Invalid(i) => format!("!{}", i.metadata.name.clone().unwrap()),
            Change::Synced => "=".to_owned(),
        };
        changes.iter().map(one).collect()
    }

    fn list(watch: &mut Watch<ConfigMap>, objects: Vec<Guarded<ConfigMap>>) -> Vec<String> {
        let mut relist = None;
        assert!(watch.take(Event::Init, &mut relist).is_empty());
        for object in objects {
            assert!(watch.take(Event::InitApply(object), &mut relist).is_empty());
        }
        summary(&watch.take(Event::InitDone, &mut relist))
    }

    fn good(name: &str, uid: &str, version: &str) -> Guarded<ConfigMap> {
        Guarded(Ok(map(name, uid, version)))
    }

    fn bad(name: &str, uid: &str) -> Guarded<ConfigMap> {
        Guarded(Err(InvalidObject { error: "bad".into(), metadata: map(name, uid, "9").metadata }))
    }

    #[tokio::test]
    async fn all_who_wait_for_a_cache_are_woken() {
        let mut watch = watch();
        let waiters: Vec<_> = (0..3)
            .map(|_| {
                let store = watch.store();
                tokio::spawn(async move { until_synced(&store).await })
            })
            .collect();
        tokio::task::yield_now().await;
        list(&mut watch, vec![]);
        for waiter in waiters {
            assert!(waiter.await.unwrap());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_subscriber_that_takes_nothing_keeps_nothing_from_the_others() {
        // Given an API server with 3000 objects and a watch with two subscribers, one of which takes nothing.
        let pages = tower::service_fn(|request: http::Request<Body>| async move {
            if request.uri().query().is_some_and(|query| query.contains("watch=true")) {
                std::future::pending::<()>().await;
            }
            let items: Vec<ConfigMap> =
                (0..3000).map(|n| map(&format!("m{n}"), &format!("u{n}"), "1")).collect();
            let list = serde_json::json!({"metadata": {"resourceVersion": "1"}, "items": items});
            let body = Body::from(serde_json::to_vec(&list).unwrap());
            Ok::<_, std::convert::Infallible>(http::Response::new(body))
        });
        let api = Api::all(Client::new(pages, "default"));
        let watches = Watches::default();
        let mut watch = Watch::<ConfigMap>::new(api, watcher::Config::default()).known_as("maps", &watches);
        let (mut silent, mut busy) = (watch.subscribe(), watch.subscribe());
        tokio::spawn(watch.run());
        // The other one gets all objects.
        let mut changes = Vec::new();
        while changes.len() < 3001 {
            changes.push(busy.recv().await.unwrap());
        }
        assert!(matches!(changes.last(), Some(Change::Synced)), "all objects, and then `Synced`");
        // After ten minutes the silent one is reported.
        tokio::time::sleep(Duration::from_secs(601)).await;
        let ailments = watches.ailments();
        assert_eq!(ailments.len(), 1, "{ailments:?}");
        assert!(
            ailments[0].starts_with("what the watch of maps feeds at src/kube_ext/watch.rs:"),
            "{ailments:?}"
        );
        // Once it has taken its changes it is healthy again.
        for _ in 0..3001 {
            silent.recv().await.unwrap();
        }
        tokio::task::yield_now().await;
        assert_eq!(watches.ailments(), [""; 0]);
    }

    #[tokio::test]
    async fn a_relist_delivers_deletions_that_the_watch_missed() {
        let mut watch = watch();
        assert_eq!(list(&mut watch, vec![good("a", "1", "1"), good("b", "2", "1")]).len(), 3);
        let mut again = list(&mut watch, vec![good("a", "1", "1"), good("b", "3", "5")]);
        assert_eq!(again.pop().unwrap(), "=");
        assert_eq!(again, ["-2", "+3"], "a is unchanged, b was replaced");
    }

    #[tokio::test]
    async fn a_replaced_object_is_delivered_as_deleted_first() {
        let mut watch = watch();
        list(&mut watch, vec![good("a", "1", "1")]);
        assert_eq!(summary(&watch.take(Event::Apply(good("a", "2", "3")), &mut None)), ["-1", "+2"]);
        assert_eq!(summary(&watch.take(Event::Delete(good("a", "2", "4")), &mut None)), ["-2"]);
        assert!(watch.store().state().is_empty());
    }

    #[tokio::test]
    async fn what_does_not_decode_keeps_its_last_known_state() {
        let mut watch = watch();
        list(&mut watch, vec![good("a", "1", "1")]);
        assert_eq!(summary(&watch.take(Event::Apply(bad("a", "1")), &mut None)), ["!a"]);
        assert_eq!(list(&mut watch, vec![bad("a", "1"), good("b", "2", "1")]), ["+2", "!a", "="]);
        assert_eq!(watch.store().state().len(), 2);
        assert_eq!(summary(&watch.take(Event::Delete(bad("a", "1")), &mut None)), ["-1"]);
    }
}
