//! Objects that a label selector matches and that are foreign all the same: whoever creates an object chooses its
//! labels.
//!
//! They are neither in the watch's cache nor delivered to its subscribers, so that nothing that reads either can take
//! them for its own. They have a cache and subscribers of their own. An object that moves from one side to the other is
//! deleted from the first.

use std::fmt::Debug;

use futures::{StreamExt, stream};
use kube::{
    Resource,
    runtime::{
        reflector::{self, ObjectRef, Store},
        watcher::Event,
    },
};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use super::{Change, Watch};
use crate::kube_ext::{guard::Guarded, lease::Acquired, outbox::Outbox};

/// The foreign objects of a watch.
pub(super) struct Foreign<K: Resource<DynamicType = ()> + Clone + Debug + 'static> {
    is_own: Box<dyn Fn(&K) -> bool + Send + Sync>,
    /// Fed by the watch that it belongs to.
    watch: Watch<K>,
    relist: Option<Vec<Change<K>>>,
}

impl<K> Watch<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    /// Keeps only what `is_own` says; of foreign objects is kept what `prepare` leaves.
    #[must_use]
    pub fn with_foreign(
        mut self,
        is_own: impl Fn(&K) -> bool + Send + Sync + 'static,
        prepare: fn(&mut K),
    ) -> Self {
        let watch = Self::of(stream::pending().boxed(), self.pulse.clone()).with_prepare(prepare);
        self.foreign = Some(Box::new(Foreign { is_own: Box::new(is_own), watch, relist: None }));
        self
    }

    /// The cache of foreign objects; one that is never synced for a watch without them.
    #[must_use]
    pub fn foreign_store(&self) -> Store<K> {
        self.foreign.as_ref().map_or_else(|| reflector::store().0, |foreign| foreign.watch.store())
    }

    /// All changes of foreign objects, as [`subscribe_held`](Self::subscribe_held); ends at once for a watch without foreign
    /// objects.
    #[track_caller]
    pub fn subscribe_foreign_held(&mut self, begins: &Acquired) -> mpsc::Receiver<Change<K>> {
        match &mut self.foreign {
            Some(foreign) => foreign.watch.subscribe_held(begins),
            None => mpsc::channel(1).1,
        }
    }

    /// Delivers the foreign part of an event and returns the own one.
    pub(super) async fn divide(&mut self, event: Event<Guarded<K>>) -> Option<Event<Guarded<K>>> {
        let Some(mut foreign) = self.foreign.take() else { return Some(event) };
        let [own, event] = foreign.parts(event, self);
        let changes = event.map(|event| foreign.watch.take(event, &mut foreign.relist));
        for change in changes.into_iter().flatten() {
            foreign.watch.deliver(change).await;
        }
        self.foreign = Some(foreign);
        own
    }
}

impl<K> Foreign<K>
where
    K: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
{
    pub(super) fn subscribers(&self) -> impl Iterator<Item = &(Outbox<K>, mpsc::Sender<Change<K>>)> {
        self.watch.subscribers.iter()
    }

    /// What an event means for `own` objects, and for foreign ones.
    fn parts(&self, event: Event<Guarded<K>>, own: &Watch<K>) -> [Option<Event<Guarded<K>>>; 2] {
        let deleted = |from: &Watch<K>, object: &K| {
            let known = from.store.get(&ObjectRef::from_obj(object))?;
            Some(Event::Delete(Guarded(Ok(K::clone(&known)))))
        };
        match event {
            Event::Init => [Some(Event::Init), Some(Event::Init)],
            Event::InitDone => [Some(Event::InitDone), Some(Event::InitDone)],
            Event::InitApply(Guarded(Ok(object))) if !(self.is_own)(&object) => {
                [None, Some(Event::InitApply(Guarded(Ok(object))))]
            }
            Event::Apply(Guarded(Ok(object))) => {
                if (self.is_own)(&object) {
                    let deleted = deleted(&self.watch, &object);
                    [Some(Event::Apply(Guarded(Ok(object)))), deleted]
                } else {
                    [deleted(own, &object), Some(Event::Apply(Guarded(Ok(object))))]
                }
            }
            Event::Delete(Guarded(Ok(object))) if deleted(&self.watch, &object).is_some() => {
                [None, Some(Event::Delete(Guarded(Ok(object))))]
            }
            // What can't be read stays what it was last known as.
            own => [Some(own), None],
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::ready;

    use futures::FutureExt;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::ResourceExt;
    use serde_json::json;

    use super::*;
    use crate::kube_ext::pulse::Pulse;

    /// A map that is own where it says so itself.
    fn map(name: &str, uid: &str, version: &str, own: bool) -> Guarded<ConfigMap> {
        let labels = json!({"own": own.to_string()});
        let metadata =
            json!({"name": name, "namespace": "n", "uid": uid, "resourceVersion": version, "labels": labels});
        Guarded(Ok(serde_json::from_value(json!({"metadata": metadata, "data": {"a": "b"}})).unwrap()))
    }

    fn is_own(map: &ConfigMap) -> bool {
        map.labels().get("own").is_some_and(|own| own == "true")
    }

    /// What was delivered, sorted.
    fn delivered(changes: &mut mpsc::Receiver<Change<ConfigMap>>) -> Vec<String> {
        let mut all: Vec<String> = std::iter::from_fn(|| changes.try_recv().ok())
            .map(|change| match change {
                Change::Applied(o) => format!("+{}", o.uid().unwrap()),
                Change::Deleted(o) => format!("-{}", o.uid().unwrap()),
                Change::Invalid(_) => "!".to_owned(),
                Change::Synced => "=".to_owned(),
            })
            .collect();
        all.sort_unstable();
        all
    }

    #[tokio::test]
    async fn foreign_objects_are_in_no_cache_and_no_channel_but_their_own() {
        let list = [map("a", "1", "1", true), map("b", "2", "1", false)];
        let listed = |list: Vec<Guarded<ConfigMap>>| {
            std::iter::once(Event::Init)
                .chain(list.into_iter().map(Event::InitApply))
                .chain([Event::InitDone])
        };
        let (mut feed, events) = futures::channel::mpsc::unbounded();
        let mut watch = Watch::<ConfigMap>::of(events.map(Ok).boxed(), Pulse::default())
            .with_foreign(is_own, |map| map.data = None);
        let (mut own, mut foreign) =
            (watch.subscribe(), watch.subscribe_foreign_held(&ready(()).boxed().shared()));
        let store = watch.store();
        let kept = watch.foreign.as_ref().unwrap().watch.store();
        let running = tokio::spawn(watch.run());
        let mut step = async |events: Vec<Event<Guarded<ConfigMap>>>| {
            events.into_iter().for_each(|event| feed.start_send(event).unwrap());
            // The watch, and those who send to its two subscribers.
            for _ in 0..64 {
                tokio::task::yield_now().await;
            }
            [delivered(&mut own), delivered(&mut foreign)]
        };

        assert_eq!(step(listed(list.to_vec()).collect()).await, [["+1", "="], ["+2", "="]]);
        assert_eq!(store.state().len(), 1);
        assert!(kept.state()[0].data.is_none() && store.state()[0].data.is_some());

        let events = vec![Event::Apply(map("b", "2", "2", true)), Event::Apply(map("a", "1", "2", false))];
        assert_eq!(step(events).await, [["+2", "-1"], ["+1", "-2"]]);
        let replaced = vec![Event::Apply(map("a", "3", "3", true)), Event::Delete(map("b", "2", "3", true))];
        assert_eq!(step(replaced).await, [vec!["+3", "-2"], vec!["-1"]]);
        assert_eq!(step(vec![Event::Apply(map("c", "4", "4", false))]).await, [vec![], vec!["+4"]]);
        assert_eq!(step(vec![Event::Delete(map("c", "4", "5", false))]).await, [vec![], vec!["-4"]]);

        let again = vec![map("a", "3", "6", false), map("d", "5", "6", false)];
        assert_eq!(step(listed(again).collect()).await, [vec!["-3", "="], vec!["+3", "+5", "="]]);
        assert_eq!(step(listed(vec![]).collect()).await, [vec!["="], vec!["-3", "-5", "="]]);
        running.abort();
    }
}
