//! What a scheduler that began at this moment would know, read from the caches at once: on a replica that does not lead,
//! nothing follows the watches for it.

use futures::FutureExt as _;
use kube::runtime::reflector::Store;

use super::{Caches, SchedulerHandle, Sources, WatchEvent, observer::Observer};
use crate::{
    domain::{admission::Dispatcher, estimate::Outlook},
    kube_ext::watch::Change,
};

/// What is known of all objects, after one decision; `None` before all caches are synced. What a restart forgets is lacking.
pub(super) fn snapshot(sources: &Sources) -> Option<(Dispatcher, Outlook)> {
    let events = sources.caches.events()?;
    let handle = SchedulerHandle::new(sources.dispatcher());
    let mut observer = Observer::new(sources.clone(), handle.clone());
    observer.apply(events);
    observer.begin();
    handle.decide(|dispatcher| drop(dispatcher.decide()));
    Some(handle.take())
}

impl Caches {
    /// All objects, as watches deliver them at first.
    fn events(&self) -> Option<Vec<WatchEvent>> {
        // Jobs come after their pods, so that each is read once.
        let mut events = Vec::new();
        read(&self.tenants, WatchEvent::Tenant, &mut events)?;
        read(&self.nodes, WatchEvent::Node, &mut events)?;
        read(&self.others, WatchEvent::Other, &mut events)?;
        read(&self.foreign, WatchEvent::Foreign, &mut events)?;
        read(&self.pods, WatchEvent::Pod, &mut events)?;
        read(&self.jobs, WatchEvent::Job, &mut events)?;
        Some(events)
    }
}

/// Adds the objects of a cache; `None` before it is synced.
fn read<K>(cache: &Store<K>, event: fn(Change<K>) -> WatchEvent, events: &mut Vec<WatchEvent>) -> Option<()>
where
    K: kube::Resource<DynamicType = ()> + Clone + 'static,
{
    cache.wait_until_ready().now_or_never()?.ok()?;
    let mut objects = cache.state();
    // In an order that is the same on every replica: an estimate draws by it.
    objects.sort_unstable_by(|a, b| a.meta().uid.cmp(&b.meta().uid));
    events.extend(objects.into_iter().map(|object| event(Change::Applied(object))));
    Some(())
}
