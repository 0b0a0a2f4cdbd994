//! The cache of jobs by UID and by age, which a watch of Jobs fills, and watches of single jobs and of all jobs of a tenant.
//!
//! Lists read it, and a submit waits here for the verdict on its job. The number of jobs that a request reads is bounded, and
//! no request holds the lock, for which the watch waits, for more than `SCANNED_AT_ONCE` jobs at a time.

pub mod change_log;
pub mod watches;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
    sync::{Arc, PoisonError, RwLock},
};

use jiff::Timestamp;
use kube::ResourceExt;
use tokio::sync::mpsc;
use uuid::Uuid;

pub use self::watches::{JobChange, JobEvent, JobWatch, TenantWatch};
use self::{
    change_log::{ChangeLog, Entry},
    watches::Watched,
};
use crate::{
    api_types::{Job, JobPhase},
    domain::admission::order::Rank,
    kube_ext::watch::Change,
};

/// Jobs that a scan reads under one lock.
const SCANNED_AT_ONCE: usize = 500;
/// The last position in a queue that is counted.
pub const MAX_POSITION: usize = 10_000;

/// A job's position in lists, which have the newest first.
pub type ListPosition = (Timestamp, Uuid);

/// The index. Cheap to clone; all clones share it.
#[derive(Clone, Default)]
pub struct JobsIndex(Arc<Shared>);

#[derive(Default)]
struct Shared {
    cache: RwLock<JobsCache>,
    watched: Watched,
}

#[derive(Default)]
struct JobsCache {
    positions: HashMap<Uuid, (String, Timestamp)>,
    /// By namespace.
    jobs: HashMap<String, BTreeMap<ListPosition, Arc<Job>>>,
    /// Jobs that wait, in the order of their queue, by namespace.
    waiting: HashMap<String, BTreeSet<Rank>>,
    log: ChangeLog,
    synced: bool,
}

/// A job's position in lists.
#[must_use]
pub fn list_position(job: &Job) -> Option<ListPosition> {
    let created = job.metadata.creation_timestamp.as_ref()?.0;
    Some((created, Uuid::parse_str(job.metadata.uid.as_deref()?).ok()?))
}

/// The rank of a job in its tenant's queue.
fn rank(job: &Job) -> Rank {
    let created = job.metadata.creation_timestamp.as_ref().map(|time| time.0).unwrap_or_default();
    Rank::new(job.spec.queue, job.spec.priority, created, job.uid().unwrap_or_default().into())
}

/// The rank of a job that waits; `None` for any other.
fn waiting_rank(job: &Job) -> Option<Rank> {
    let phase = job.status.as_ref().map(|status| status.phase).unwrap_or_default();
    let waits = matches!(phase, JobPhase::Queued | JobPhase::Retrying) && !job.spec.canceled;
    waits.then(|| rank(job))
}

impl JobsCache {
    /// Replaces a job; `None` removes it.
    fn replace(&mut self, namespace: &str, position: ListPosition, job: Option<&Arc<Job>>) {
        let jobs = self.jobs.entry(namespace.to_owned()).or_default();
        let before = match job {
            Some(job) => jobs.insert(position, Arc::clone(job)),
            None => jobs.remove(&position),
        };
        if jobs.is_empty() {
            self.jobs.remove(namespace);
        }
        let (before, after) =
            (before.and_then(|job| waiting_rank(&job)), job.and_then(|job| waiting_rank(job)));
        if before == after {
            return;
        }
        let waiting = self.waiting.entry(namespace.to_owned()).or_default();
        before.iter().for_each(|rank| {
            waiting.remove(rank);
        });
        waiting.extend(after);
        if waiting.is_empty() {
            self.waiting.remove(namespace);
        }
    }
}

/// The result of a scan.
#[derive(Debug)]
pub struct Scan {
    /// The jobs that match, the newest first.
    pub jobs: Vec<Arc<Job>>,
    /// Where the scan stopped at its budget or limit: it did not read older jobs.
    pub stopped_at: Option<ListPosition>,
}

impl JobsIndex {
    /// Applies the changes that the watch delivers, until it ends.
    pub async fn feed(self, mut changes: mpsc::Receiver<Change<Job>>) {
        while let Some(change) = changes.recv().await {
            match change {
                Change::Applied(job) => self.apply(&job),
                Change::Deleted(job) => self.delete(&job),
                // The last valid state stays.
                Change::Invalid(_) => (),
                Change::Synced => self.mark_synced(),
            }
        }
    }

    /// Adds or updates a job.
    pub fn apply(&self, job: &Arc<Job>) {
        let (Some((created, uid)), Some(namespace)) = (list_position(job), job.namespace()) else { return };
        let mut cache = self.write();
        cache.positions.insert(uid, (namespace.clone(), created));
        cache.replace(&namespace, (created, uid), Some(job));
        let version = job.metadata.resource_version.as_deref();
        cache.log.record(&namespace, version, Entry::Job((created, uid)));
        drop(cache);
        self.0.watched.notify(namespace, job.name_any(), JobEvent::Updated(Arc::clone(job)));
    }

    /// Removes a job; with its last state.
    pub fn delete(&self, job: &Arc<Job>) {
        let (Some(position), Some(namespace)) = (list_position(job), job.namespace()) else { return };
        let mut cache = self.write();
        cache.positions.remove(&position.1);
        cache.replace(&namespace, position, None);
        let version = job.metadata.resource_version.as_deref();
        cache.log.record(&namespace, version, Entry::Deleted(position));
        drop(cache);
        self.0.watched.notify(namespace, job.name_any(), JobEvent::Deleted(Some(Arc::clone(job))));
    }

    /// A job of this namespace, by its UID.
    #[must_use]
    pub fn get(&self, namespace: &str, uid: Uuid) -> Option<Arc<Job>> {
        let cache = self.read();
        let (own, created) = cache.positions.get(&uid)?;
        if own != namespace {
            return None;
        }
        cache.jobs.get(own)?.get(&(*created, uid)).cloned()
    }

    /// The newest jobs of a namespace that are older than `before` and that `matches` selects, at most `limit`. The scan
    /// reads at most `budget` jobs. A change during the scan may be in the result or not.
    #[must_use]
    pub fn newest(
        &self,
        namespace: &str,
        before: Option<ListPosition>,
        limit: usize,
        budget: usize,
        matches: impl Fn(&Job) -> bool,
    ) -> Scan {
        let (mut jobs, mut before, mut left) = (Vec::new(), before, budget);
        while left > 0 && jobs.len() < limit {
            let at_once = left.min(SCANNED_AT_ONCE);
            let chunk = self.chunk(namespace, before, at_once);
            left -= chunk.len();
            let last = chunk.last().map(|(position, _)| *position);
            for (position, job) in chunk.iter().filter(|(_, job)| matches(job)) {
                jobs.push(Arc::clone(job));
                if jobs.len() == limit {
                    return Scan { jobs, stopped_at: Some(*position) };
                }
            }
            if chunk.len() < at_once {
                return Scan { jobs, stopped_at: None };
            }
            before = last;
        }
        Scan { jobs, stopped_at: before }
    }

    /// The next jobs of a namespace, older than `before`.
    fn chunk(
        &self,
        namespace: &str,
        before: Option<ListPosition>,
        limit: usize,
    ) -> Vec<(ListPosition, Arc<Job>)> {
        let cache = self.read();
        let Some(jobs) = cache.jobs.get(namespace) else { return Vec::new() };
        let end = before.map_or(Bound::Unbounded, Bound::Excluded);
        let older = jobs.range((Bound::Unbounded, end)).rev().take(limit);
        older.map(|(position, job)| (*position, Arc::clone(job))).collect()
    }

    /// A job's position among the waiting jobs of its namespace, from 1; `None` beyond [`MAX_POSITION`].
    #[must_use]
    pub fn position(&self, namespace: &str, job: &Job) -> Option<usize> {
        let own = rank(job);
        let cache = self.read();
        let ahead =
            cache.waiting.get(namespace).map_or(0, |waiting| waiting.range(..own).take(MAX_POSITION).count());
        (ahead < MAX_POSITION).then_some(ahead + 1)
    }

    /// Marks the first list as complete.
    pub(crate) fn mark_synced(&self) {
        let mut cache = self.write();
        cache.synced = true;
        cache.log.synced();
    }

    /// Whether the first list of jobs is complete.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.read().synced
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, JobsCache> {
        self.0.cache.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, JobsCache> {
        self.0.cache.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn job(namespace: &str, n: u8, second: i64) -> Arc<Job> {
        let uid = Uuid::from_bytes([n; 16]).to_string();
        let created = Timestamp::from_second(second).unwrap().to_string();
        Arc::new(
            serde_json::from_value(json!({
                "apiVersion": "crofter.io/v1alpha1", "kind": "Job",
                "metadata": {"name": format!("j{n}"), "namespace": namespace, "uid": uid, "creationTimestamp": created},
                "spec": {"image": "i"},
            }))
            .unwrap(),
        )
    }

    #[tokio::test]
    async fn jobs_are_found_by_uid_in_their_own_namespace_and_listed_newest_first() {
        let index = JobsIndex::default();
        for (namespace, n, second) in [("a", 1, 10), ("a", 2, 30), ("a", 3, 30), ("b", 4, 40)] {
            index.apply(&job(namespace, n, second));
        }
        let uid = |n| Uuid::from_bytes([n; 16]);
        assert!(index.get("a", uid(1)).is_some() && index.get("b", uid(1)).is_none());
        let names = |before| -> Vec<String> {
            index.newest("a", before, 2, 9, |_| true).jobs.iter().map(|job| job.name_any()).collect()
        };
        assert_eq!(names(None), ["j3", "j2"]);
        assert_eq!(names(Some((Timestamp::from_second(30).unwrap(), uid(2)))), ["j1"]);
        index.delete(&job("a", 3, 30));
        assert_eq!(names(None), ["j2", "j1"]);
    }

    #[test]
    fn a_list_scans_no_more_jobs_than_its_budget_and_resumes_where_it_stopped() {
        let index = JobsIndex::default();
        for n in 0..2000_u32 {
            let mut one = Job::clone(&job("a", 1, i64::from(n)));
            one.metadata.uid = Some(Uuid::from_u128(n.into()).to_string());
            index.apply(&Arc::new(one));
        }
        // Every thousandth job matches, so the second match is the 1,001st that the scan reads.
        let rare = |job: &Job| job.metadata.creation_timestamp.as_ref().unwrap().0.as_second() % 1000 == 999;
        let scanned = std::cell::Cell::new(0);
        let scan = |before, most, budget| {
            scanned.set(0);
            let scan = index.newest("a", before, most, budget, |job| {
                scanned.set(scanned.get() + 1);
                rare(job)
            });
            (scan.jobs.len(), scan.stopped_at)
        };
        // Step 1: each scan ends at its budget, and the next one resumes there.
        let (found, stopped) = scan(None, 9, 800);
        assert_eq!((found, scanned.get()), (1, 800));
        assert_eq!(stopped.unwrap().0.as_second(), 1200, "the 800th of 2,000");
        let (found, stopped) = scan(stopped, 9, 800);
        assert_eq!((found, stopped.unwrap().0.as_second(), scanned.get()), (1, 400, 800));
        assert_eq!((scan(stopped, 9, 800), scanned.get()), ((0, None), 400), "the end");
        // Step 2: a scan ends once it has enough matches.
        assert_eq!(scan(None, 2, 9999).0, 2);
        assert!(scanned.get() <= 1500, "it stops soon after the last match: {}", scanned.get());
        // Step 3: a budget that ends with the last job, and an empty namespace.
        assert_eq!(scan(None, 9, 2000), (2, Some((Timestamp::from_second(0).unwrap(), Uuid::from_u128(0)))));
        assert_eq!(index.newest("b", None, 9, 800, rare).stopped_at, None);
    }

    #[test]
    fn a_position_counts_the_waiting_jobs_ahead_and_no_others() {
        let index = JobsIndex::default();
        let with = |n: u8, phase: &str, priority: &str| {
            let mut value = serde_json::to_value(&*job("a", n, n.into())).unwrap();
            value["spec"]["priority"] = json!(priority);
            value["status"] = json!({"phase": phase});
            let job: Job = serde_json::from_value(value).unwrap();
            Arc::new(job)
        };
        for n in 1..=3 {
            index.apply(&with(n, "Queued", "medium"));
        }
        let at = |n| index.position("a", &with(n, "Queued", "medium"));
        assert_eq!([at(1), at(2), at(3)], [Some(1), Some(2), Some(3)]);
        index.apply(&with(1, "Running", "medium"));
        assert_eq!([at(2), at(3)], [Some(1), Some(2)]);
        index.apply(&with(1, "Retrying", "medium"));
        index.apply(&with(4, "Queued", "high"));
        assert_eq!(at(3), Some(4), "a retry keeps its position, and a higher priority is ahead");
        index.delete(&with(1, "Retrying", "medium"));
        index.delete(&with(4, "Queued", "high"));
        assert_eq!([at(2), at(3)], [Some(1), Some(2)]);
        index.apply(&with(2, "Completed", "medium"));
        index.delete(&with(3, "Queued", "medium"));
        assert!(index.read().waiting.is_empty());
    }

    #[test]
    fn positions_are_counted_up_to_a_bound() {
        let index = JobsIndex::default();
        let mut last = job("a", 1, 0);
        for n in 0..=MAX_POSITION {
            let mut one = Job::clone(&last);
            one.metadata.uid = Some(Uuid::from_u128(n as u128).to_string());
            last = Arc::new(one);
            index.apply(&last);
            if n + 1 == MAX_POSITION {
                assert_eq!(index.position("a", &last), Some(MAX_POSITION));
            }
        }
        assert_eq!(index.position("a", &last), None);
    }

    #[tokio::test]
    async fn a_watch_receives_changes_since_its_beginning_and_only_the_latest() {
        let index = JobsIndex::default();
        let mut watch = index.watch("a", "j1");
        index.apply(&job("a", 1, 1));
        let uid = Uuid::from_bytes([1; 16]).to_string();
        assert_eq!(watch.wait_for(&uid, |_| true).await.unwrap().name_any(), "j1");
        let first = job("a", 1, 1);
        index.apply(&first);
        index.apply(&job("a", 1, 1));
        index.delete(&first);
        assert!(
            matches!(watch.next(&uid).await, JobEvent::Deleted(Some(job)) if Arc::ptr_eq(&job, &first)),
            "the latest"
        );
        let mut another = Job::clone(&first);
        another.metadata.uid = Some(Uuid::from_bytes([9; 16]).to_string());
        index.apply(&Arc::new(another));
        assert!(matches!(watch.next(&uid).await, JobEvent::Deleted(None)), "the name belongs to a new job");
        drop(watch);
        assert!(index.0.watched.is_empty());
    }
}
