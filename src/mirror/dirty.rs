//! What has changed and is not written yet: one mark per object, however often it changes.
//!
//! The marks are bounded by the number of objects, not of events, and written in batches of at most
//! [`MAX_MARKS_PER_BATCH`] of a kind. A deleted object keeps its mark until the deletion is written; at most
//! [`MAX_DELETED_WITH_STATE`] of those keep their last state, the others keep the UID alone.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use k8s_openapi::api::core::v1::{Node, Pod};
use tokio::time::Instant;
use uuid::Uuid;

use crate::api_types::{Job, Tenant};

/// Deleted objects of a kind that keep their last state while they wait: about 50 MB of jobs.
const MAX_DELETED_WITH_STATE: usize = 10_000;

/// Marks of a kind that are written at once, at most: what is written so far counts, whatever becomes of the rest.
const MAX_MARKS_PER_BATCH: usize = 2_000;

/// What is to be written of one object.
#[derive(Debug)]
pub(super) enum Mark<K> {
    /// The object exists, in this state.
    Exists(Arc<K>),
    /// The object is deleted; its last state, if there was room to keep it.
    Deleted(Option<Arc<K>>),
}

impl<K> Clone for Mark<K> {
    fn clone(&self) -> Self {
        match self {
            Self::Exists(object) => Self::Exists(Arc::clone(object)),
            Self::Deleted(object) => Self::Deleted(object.clone()),
        }
    }
}

impl<K> Mark<K> {
    /// The object's last state, as far as it is known.
    pub(super) fn object(&self) -> Option<&Arc<K>> {
        match self {
            Self::Exists(object) => Some(object),
            Self::Deleted(object) => object.as_ref(),
        }
    }
}

/// The marks of one kind, by UID.
#[derive(Debug)]
pub(super) struct DirtySet<K> {
    marks: HashMap<Uuid, Mark<K>>,
    with_state: usize,
}

impl<K> Default for DirtySet<K> {
    fn default() -> Self {
        Self { marks: HashMap::new(), with_state: 0 }
    }
}

impl<K> DirtySet<K> {
    /// Records that an object was created or changed.
    pub(super) fn changed(&mut self, uid: Uuid, object: Arc<K>) {
        self.put(uid, Mark::Exists(object));
    }

    /// Records that an object was deleted.
    pub(super) fn deleted(&mut self, uid: Uuid, object: Arc<K>) {
        self.put(uid, Mark::Deleted(Some(object)));
    }

    fn put(&mut self, uid: Uuid, mut mark: Mark<K>) {
        let has_state = |mark: &Mark<K>| matches!(mark, Mark::Deleted(Some(_)));
        self.with_state -= usize::from(self.marks.get(&uid).is_some_and(has_state));
        if has_state(&mark) && self.with_state == MAX_DELETED_WITH_STATE {
            mark = Mark::Deleted(None);
        }
        self.with_state += usize::from(has_state(&mark));
        self.marks.insert(uid, mark);
    }

    /// Puts (back) what is to be written; what is marked already is newer and stays as it is.
    pub(super) fn put_back(&mut self, marks: HashMap<Uuid, Mark<K>>) {
        for (uid, mark) in marks {
            if !self.marks.contains_key(&uid) {
                self.put(uid, mark);
            }
        }
    }

    fn take(&mut self) -> HashMap<Uuid, Mark<K>> {
        self.with_state = 0;
        std::mem::take(&mut self.marks)
    }

    /// Takes at most `most` marks.
    fn take_some(&mut self, most: usize) -> HashMap<Uuid, Mark<K>> {
        if self.marks.len() <= most {
            return self.take();
        }
        let taken: HashMap<Uuid, Mark<K>> = self.marks.extract_if(|_, _| true).take(most).collect();
        self.with_state -= taken.values().filter(|mark| matches!(mark, Mark::Deleted(Some(_)))).count();
        taken
    }

    fn is_empty(&self) -> bool {
        self.marks.is_empty()
    }
}

/// All that is to be written at once.
#[derive(Clone, Debug, Default)]
pub(super) struct Batch {
    pub(super) tenants: HashMap<Uuid, Mark<Tenant>>,
    pub(super) nodes: HashMap<Uuid, Mark<Node>>,
    pub(super) jobs: HashMap<Uuid, Mark<Job>>,
    pub(super) pods: HashMap<Uuid, Mark<Pod>>,
}

impl Batch {
    /// Number of marks.
    pub(super) fn len(&self) -> usize {
        self.tenants.len() + self.nodes.len() + self.jobs.len() + self.pods.len()
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes in the marks of another.
    pub(super) fn extend(&mut self, other: Self) {
        let Self { tenants, nodes, jobs, pods } = other;
        self.tenants.extend(tenants);
        self.nodes.extend(nodes);
        self.jobs.extend(jobs);
        self.pods.extend(pods);
    }

    /// Two halves, the same number of marks in each.
    pub(super) fn halves(self) -> [Self; 2] {
        fn deal<K>(marks: HashMap<Uuid, Mark<K>>, left: &mut bool) -> [HashMap<Uuid, Mark<K>>; 2] {
            let (first, second): (Vec<_>, Vec<_>) = marks.into_iter().partition(|_| {
                *left = !*left;
                *left
            });
            [first.into_iter().collect(), second.into_iter().collect()]
        }
        let left = &mut false;
        let [tenants, other_tenants] = deal(self.tenants, left);
        let [nodes, other_nodes] = deal(self.nodes, left);
        let [jobs, other_jobs] = deal(self.jobs, left);
        let [pods, other_pods] = deal(self.pods, left);
        let other = Self { tenants: other_tenants, nodes: other_nodes, jobs: other_jobs, pods: other_pods };
        [Self { tenants, nodes, jobs, pods }, other]
    }
}

/// All marks, and since when the oldest of them waits.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    pub(super) tenants: DirtySet<Tenant>,
    pub(super) nodes: DirtySet<Node>,
    pub(super) jobs: DirtySet<Job>,
    pub(super) pods: DirtySet<Pod>,
    since: Option<Instant>,
    in_flight_since: Option<Instant>,
}

impl Dirty {
    /// To be called after marking.
    pub(super) fn waits_since(&mut self, now: Instant) {
        self.since.get_or_insert(now);
    }

    /// Whether there is nothing to write.
    pub(super) fn is_empty(&self) -> bool {
        self.tenants.is_empty() && self.nodes.is_empty() && self.jobs.is_empty() && self.pods.is_empty()
    }

    /// Takes at most [`MAX_MARKS_PER_BATCH`] marks of a kind, but all of tenants, whose rows the others need; the
    /// caller then calls [`written`](Self::written) or [`put_back`](Self::put_back).
    pub(super) fn take(&mut self, now: Instant) -> Batch {
        let since = self.since.take().unwrap_or(now);
        self.in_flight_since = Some(since);
        let batch = Batch {
            tenants: self.tenants.take(),
            nodes: self.nodes.take_some(MAX_MARKS_PER_BATCH),
            jobs: self.jobs.take_some(MAX_MARKS_PER_BATCH),
            pods: self.pods.take_some(MAX_MARKS_PER_BATCH),
        };
        // Which of those that are left is the oldest is not known: none is older.
        self.since = Some(since).filter(|_| !self.is_empty());
        batch
    }

    /// What was taken is written.
    pub(super) fn written(&mut self) {
        self.in_flight_since = None;
    }

    /// What was taken is not, or not all of it, written.
    pub(super) fn put_back(&mut self, batch: Batch) {
        self.since = self.in_flight_since.take().or(self.since);
        self.tenants.put_back(batch.tenants);
        self.nodes.put_back(batch.nodes);
        self.jobs.put_back(batch.jobs);
        self.pods.put_back(batch.pods);
    }

    /// Whether there is nothing to write and nothing in flight.
    pub(super) fn at_rest(&self) -> bool {
        self.is_empty() && self.in_flight_since.is_none()
    }

    /// Since when the oldest mark waits, those in flight included.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.in_flight_since.or(self.since)
    }
}

/// Invalid objects of one kind: they exist, but the cache does not have them.
///
/// A relist delivers all of them again before its end, so those that were listed between two ends are those that exist.
#[derive(Debug, Default)]
pub(super) struct InvalidObjects {
    known: HashSet<Uuid>,
    listed: HashSet<Uuid>,
}

impl InvalidObjects {
    /// Records an invalid object.
    pub(super) fn insert(&mut self, uid: Uuid) {
        self.listed.insert(uid);
    }

    /// Removes an object that is valid again or deleted.
    pub(super) fn forget(&mut self, uid: Uuid) {
        self.known.remove(&uid);
        self.listed.remove(&uid);
    }

    /// A list has ended.
    pub(super) fn synced(&mut self) {
        self.known = std::mem::take(&mut self.listed);
    }

    /// All of them.
    pub(super) fn all(&self) -> HashSet<Uuid> {
        self.known.union(&self.listed).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn uid(n: u128) -> Uuid {
        Uuid::from_u128(n)
    }

    #[test]
    fn many_events_are_one_mark_and_the_last_wins() {
        let mut marks = DirtySet::<u32>::default();
        for n in 0..1000 {
            marks.changed(uid(1), Arc::new(n));
        }
        assert_eq!(marks.marks.len(), 1);
        marks.deleted(uid(1), Arc::new(1000));
        assert!(matches!(&marks.take()[&uid(1)], Mark::Deleted(Some(n)) if **n == 1000));
        assert!(marks.is_empty());
    }

    #[test]
    fn what_is_put_back_does_not_hide_what_came_since() {
        let mut marks = DirtySet::<u32>::default();
        marks.changed(uid(1), Arc::new(1));
        marks.changed(uid(2), Arc::new(1));
        let taken = marks.take();
        marks.deleted(uid(1), Arc::new(2));
        marks.put_back(taken);
        let now = marks.take();
        assert!(matches!(&now[&uid(1)], Mark::Deleted(_)));
        assert!(matches!(&now[&uid(2)], Mark::Exists(_)));
    }

    #[test]
    fn deleted_objects_keep_their_state_up_to_the_limit() {
        let mut marks = DirtySet::<u128>::default();
        for n in 0..MAX_DELETED_WITH_STATE as u128 + 5 {
            marks.deleted(uid(n), Arc::new(n));
            marks.deleted(uid(n), Arc::new(n));
        }
        let kept = |marks: &HashMap<Uuid, Mark<u128>>| {
            marks.values().filter(|m| matches!(m, Mark::Deleted(Some(_)))).count()
        };
        let taken = marks.take();
        assert_eq!((taken.len(), kept(&taken)), (MAX_DELETED_WITH_STATE + 5, MAX_DELETED_WITH_STATE));
        let other = MAX_DELETED_WITH_STATE as u128 + 9;
        marks.deleted(uid(other), Arc::new(other));
        marks.put_back(taken);
        let again = marks.take();
        assert!(matches!(again[&uid(other)], Mark::Deleted(Some(_))), "there is room again");
        assert_eq!(kept(&again), MAX_DELETED_WITH_STATE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_round_is_bounded_and_what_is_left_keeps_its_age() {
        let mut dirty = Dirty::default();
        let pod = Arc::new(Pod::default());
        for n in 0..MAX_MARKS_PER_BATCH as u128 + 5 {
            dirty.pods.deleted(uid(n), Arc::clone(&pod));
        }
        let began = Instant::now();
        dirty.waits_since(began);
        tokio::time::advance(Duration::from_secs(3)).await;
        let first = dirty.take(Instant::now());
        assert_eq!((first.len(), dirty.pods.marks.len(), dirty.pods.with_state), (MAX_MARKS_PER_BATCH, 5, 5));
        dirty.written();
        assert_eq!(dirty.oldest(), Some(began));
        let second = dirty.take(Instant::now());
        dirty.written();
        assert_eq!((second.len(), dirty.oldest()), (5, None));
        assert!(first.pods.keys().all(|uid| !second.pods.contains_key(uid)));
        let [left, right] = second.halves().map(|half| half.len());
        assert_eq!((left, right), (3, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_mark_keeps_its_age_when_put_back() {
        let mut dirty = Dirty::default();
        let began = Instant::now();
        dirty.waits_since(began);
        let batch = dirty.take(Instant::now());
        assert_eq!(dirty.oldest(), Some(began), "in flight");
        tokio::time::advance(Duration::from_secs(3)).await;
        dirty.waits_since(Instant::now());
        dirty.put_back(batch);
        assert_eq!(dirty.oldest(), Some(began));
        drop(dirty.take(Instant::now()));
        dirty.written();
        assert_eq!(dirty.oldest(), None);
    }

    #[test]
    fn the_invalid_objects_are_those_of_the_last_list_and_since() {
        let mut invalid = InvalidObjects::default();
        invalid.insert(uid(1));
        invalid.insert(uid(2));
        invalid.synced();
        invalid.insert(uid(3));
        invalid.forget(uid(2));
        assert_eq!(invalid.all(), HashSet::from([uid(1), uid(3)]));
        invalid.synced();
        assert_eq!(invalid.all(), HashSet::from([uid(3)]), "1 was not listed again: it is deleted");
    }
}
