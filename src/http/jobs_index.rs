//! Jobs by UID and by age, as the watch tells of them, and who waits for news of one.
//!
//! Lists of the cache read it, and a submit waits here for the verdict on its job. No request reads more of it than is
//! bounded, nor holds the lock, by which the watch waits, for more than some hundred jobs at a time.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
    sync::{Arc, PoisonError, RwLock},
};

use jiff::Timestamp;
use kube::ResourceExt;
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use crate::{
    api_types::{Job, JobPhase},
    domain::admission::order::Rank,
    kube_ext::watch::Change,
};

/// Jobs that are looked at under one lock.
const SCANNED_AT_ONCE: usize = 500;
/// Places of a queue that are counted at most.
pub const COUNTED: usize = 10_000;

/// A job's place in lists: the newest are first.
pub type Place = (Timestamp, Uuid);

/// The index. Cheap to clone; all clones are one.
#[derive(Clone, Default)]
pub struct JobsIndex(Arc<Shared>);

#[derive(Default)]
struct Shared {
    all: RwLock<All>,
    /// By namespace and name.
    awaited: RwLock<HashMap<(String, String), Latest>>,
}

/// The latest news of a job, if there was any since somebody waits for it.
type Latest = watch::Sender<Option<News>>;

/// The last that is known of a job that somebody waits for.
#[derive(Clone, Debug)]
pub enum News {
    /// It is so.
    Is(Arc<Job>),
    /// It is gone; as last seen, where it was seen.
    Gone(Option<Arc<Job>>),
}

#[derive(Default)]
struct All {
    places: HashMap<Uuid, (String, Timestamp)>,
    /// By namespace.
    jobs: HashMap<String, BTreeMap<Place, Arc<Job>>>,
    /// Jobs that wait, in the order of their queue, by namespace.
    waiting: HashMap<String, BTreeSet<Rank>>,
    whole: bool,
}

/// Waits for news of one job; gone with its drop.
pub struct Awaited {
    index: JobsIndex,
    key: (String, String),
    news: watch::Receiver<Option<News>>,
}

impl Awaited {
    /// The next state of the job of this UID for which `holds`; waits for ever when none comes.
    pub async fn until(&mut self, uid: &str, holds: impl Fn(&Job) -> bool) -> Option<Arc<Job>> {
        let of = |news: &Option<News>| match news {
            Some(News::Is(job)) => job.metadata.uid.as_deref() == Some(uid) && holds(job),
            _ => false,
        };
        match &*self.news.wait_for(of).await.ok()? {
            Some(News::Is(job)) => Some(Arc::clone(job)),
            _ => None,
        }
    }

    /// What is new of the job of this UID since the last call, or since it is waited for: the latest only, however much
    /// happened. Cancel safe.
    pub async fn next(&mut self, uid: &str) -> News {
        let is_it = |job: &Arc<Job>| job.metadata.uid.as_deref() == Some(uid);
        loop {
            if self.news.changed().await.is_err() {
                return News::Gone(None);
            }
            match &*self.news.borrow_and_update() {
                Some(News::Is(job)) if is_it(job) => return News::Is(Arc::clone(job)),
                Some(News::Gone(Some(job))) if is_it(job) => return News::Gone(Some(Arc::clone(job))),
                // Another one of its name.
                Some(News::Is(_)) => return News::Gone(None),
                Some(News::Gone(_)) | None => (),
            }
        }
    }
}

impl Drop for Awaited {
    fn drop(&mut self) {
        let mut awaited = self.index.0.awaited.write().unwrap_or_else(PoisonError::into_inner);
        // Not counted: this receiver itself.
        if awaited.get(&self.key).is_some_and(|sender| sender.receiver_count() <= 1) {
            awaited.remove(&self.key);
        }
    }
}

/// A job's place in lists.
#[must_use]
pub fn place(job: &Job) -> Option<Place> {
    let created = job.metadata.creation_timestamp.as_ref()?.0;
    Some((created, Uuid::parse_str(job.metadata.uid.as_deref()?).ok()?))
}

/// The rank of a job in its tenant's queue.
fn rank(job: &Job) -> Rank {
    let created = job.metadata.creation_timestamp.as_ref().map(|time| time.0).unwrap_or_default();
    Rank::new(job.spec.queue, job.spec.priority, created, job.uid().unwrap_or_default().into())
}

/// The same of a job that waits.
fn waiting_rank(job: &Job) -> Option<Rank> {
    let phase = job.status.as_ref().map(|status| status.phase).unwrap_or_default();
    let waits = matches!(phase, JobPhase::Queued | JobPhase::Retrying) && !job.spec.canceled;
    waits.then(|| rank(job))
}

impl All {
    /// Puts a job in the place of what was known of it.
    fn put(&mut self, namespace: &str, place: Place, job: Option<&Arc<Job>>) {
        let jobs = self.jobs.entry(namespace.to_owned()).or_default();
        let before = match job {
            Some(job) => jobs.insert(place, Arc::clone(job)),
            None => jobs.remove(&place),
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

/// What was found of a list.
#[derive(Debug)]
pub struct Scan {
    /// The newest first.
    pub jobs: Vec<Arc<Job>>,
    /// Where it was given up, after as many jobs as may be looked at: what is older was not looked at.
    pub stopped_at: Option<Place>,
}

impl JobsIndex {
    /// Takes in what the watch tells, until it ends.
    pub async fn feed(self, mut changes: mpsc::Receiver<Change<Job>>) {
        while let Some(change) = changes.recv().await {
            match change {
                Change::Applied(job) => self.apply(&job),
                Change::Deleted(job) => self.delete(&job),
                // As last known.
                Change::Invalid(_) => (),
                Change::Synced => self.write().whole = true,
            }
        }
    }

    /// A job is as given.
    pub fn apply(&self, job: &Arc<Job>) {
        let (Some((created, uid)), Some(namespace)) = (place(job), job.namespace()) else { return };
        let mut all = self.write();
        all.places.insert(uid, (namespace.clone(), created));
        all.put(&namespace, (created, uid), Some(job));
        drop(all);
        self.tell(namespace, job.name_any(), News::Is(Arc::clone(job)));
    }

    fn tell(&self, namespace: String, name: String, news: News) {
        let awaited = self.0.awaited.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = awaited.get(&(namespace, name)) {
            sender.send_replace(Some(news));
        }
    }

    /// A job is gone; as last seen.
    pub fn delete(&self, job: &Arc<Job>) {
        let (Some(place), Some(namespace)) = (place(job), job.namespace()) else { return };
        let mut all = self.write();
        all.places.remove(&place.1);
        all.put(&namespace, place, None);
        drop(all);
        self.tell(namespace, job.name_any(), News::Gone(Some(Arc::clone(job))));
    }

    /// Waits for news of a job from now on, whether it exists yet or not.
    #[must_use]
    pub fn awaiting(&self, namespace: &str, name: &str) -> Awaited {
        let key = (namespace.to_owned(), name.to_owned());
        let mut awaited = self.0.awaited.write().unwrap_or_else(PoisonError::into_inner);
        let news = awaited.entry(key.clone()).or_insert_with(|| watch::Sender::new(None)).subscribe();
        Awaited { index: self.clone(), key, news }
    }

    /// A job of this namespace.
    #[must_use]
    pub fn get(&self, namespace: &str, uid: Uuid) -> Option<Arc<Job>> {
        let all = self.read();
        let (home, created) = all.places.get(&uid)?;
        if home != namespace {
            return None;
        }
        all.jobs.get(home)?.get(&(*created, uid)).cloned()
    }

    /// The newest jobs of a namespace that `holds` picks, at most `most`, older than `before`; after `budget` jobs were
    /// looked at, what was found among them. A change while it is read may show or not.
    #[must_use]
    pub fn newest(
        &self,
        namespace: &str,
        before: Option<Place>,
        most: usize,
        budget: usize,
        holds: impl Fn(&Job) -> bool,
    ) -> Scan {
        let (mut jobs, mut before, mut left) = (Vec::new(), before, budget);
        while left > 0 && jobs.len() < most {
            let at_once = left.min(SCANNED_AT_ONCE);
            let chunk = self.chunk(namespace, before, at_once);
            left -= chunk.len();
            let last = chunk.last().map(|(place, _)| *place);
            for (place, job) in chunk.iter().filter(|(_, job)| holds(job)) {
                jobs.push(Arc::clone(job));
                if jobs.len() == most {
                    return Scan { jobs, stopped_at: Some(*place) };
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
    fn chunk(&self, namespace: &str, before: Option<Place>, most: usize) -> Vec<(Place, Arc<Job>)> {
        let all = self.read();
        let Some(jobs) = all.jobs.get(namespace) else { return Vec::new() };
        let end = before.map_or(Bound::Unbounded, Bound::Excluded);
        let older = jobs.range((Bound::Unbounded, end)).rev().take(most);
        older.map(|(place, job)| (*place, Arc::clone(job))).collect()
    }

    /// A job's place among the waiting ones of its namespace, from 1; `None` beyond [`COUNTED`].
    #[must_use]
    pub fn position(&self, namespace: &str, job: &Job) -> Option<usize> {
        let own = rank(job);
        let all = self.read();
        let ahead =
            all.waiting.get(namespace).map_or(0, |waiting| waiting.range(..own).take(COUNTED).count());
        (ahead < COUNTED).then_some(ahead + 1)
    }

    /// All jobs that exist were told.
    #[cfg(test)]
    pub(crate) fn whole(&self) {
        self.write().whole = true;
    }

    /// Whether all jobs that exist were told.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.read().whole
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, All> {
        self.0.all.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, All> {
        self.0.all.write().unwrap_or_else(PoisonError::into_inner)
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
        // Every thousandth, of which the second is the 1,001st that is looked at.
        let rare = |job: &Job| job.metadata.creation_timestamp.as_ref().unwrap().0.as_second() % 1000 == 999;
        let looked = std::cell::Cell::new(0);
        let scan = |before, most, budget| {
            looked.set(0);
            let scan = index.newest("a", before, most, budget, |job| {
                looked.set(looked.get() + 1);
                rare(job)
            });
            (scan.jobs.len(), scan.stopped_at)
        };
        let (found, stopped) = scan(None, 9, 800);
        assert_eq!((found, looked.get()), (1, 800));
        assert_eq!(stopped.unwrap().0.as_second(), 1200, "the 800th of 2,000");
        let (found, stopped) = scan(stopped, 9, 800);
        assert_eq!((found, stopped.unwrap().0.as_second(), looked.get()), (1, 400, 800));
        assert_eq!((scan(stopped, 9, 800), looked.get()), ((0, None), 400), "the end");
        assert_eq!(scan(None, 2, 9999).0, 2);
        assert!(looked.get() <= 1500, "it stops soon after the last one that is wanted: {}", looked.get());
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
        assert_eq!(at(3), Some(4), "a retry keeps its place, and a higher priority goes before");
        index.delete(&with(1, "Retrying", "medium"));
        index.delete(&with(4, "Queued", "high"));
        assert_eq!([at(2), at(3)], [Some(1), Some(2)]);
        index.apply(&with(2, "Completed", "medium"));
        index.delete(&with(3, "Queued", "medium"));
        assert!(index.read().waiting.is_empty());
    }

    #[test]
    fn no_more_places_are_counted_than_are_bounded() {
        let index = JobsIndex::default();
        let mut last = job("a", 1, 0);
        for n in 0..=COUNTED {
            let mut one = Job::clone(&last);
            one.metadata.uid = Some(Uuid::from_u128(n as u128).to_string());
            last = Arc::new(one);
            index.apply(&last);
            if n + 1 == COUNTED {
                assert_eq!(index.position("a", &last), Some(COUNTED));
            }
        }
        assert_eq!(index.position("a", &last), None);
    }

    #[tokio::test]
    async fn who_waits_is_told_also_of_what_came_before_he_asked() {
        let index = JobsIndex::default();
        let mut awaited = index.awaiting("a", "j1");
        index.apply(&job("a", 1, 1));
        let uid = Uuid::from_bytes([1; 16]).to_string();
        assert_eq!(awaited.until(&uid, |_| true).await.unwrap().name_any(), "j1");
        let first = job("a", 1, 1);
        index.apply(&first);
        index.apply(&job("a", 1, 1));
        index.delete(&first);
        assert!(
            matches!(awaited.next(&uid).await, News::Gone(Some(job)) if Arc::ptr_eq(&job, &first)),
            "the latest"
        );
        let mut another = Job::clone(&first);
        another.metadata.uid = Some(Uuid::from_bytes([9; 16]).to_string());
        index.apply(&Arc::new(another));
        assert!(matches!(awaited.next(&uid).await, News::Gone(None)), "one of its name has taken its place");
        drop(awaited);
        assert!(index.0.awaited.read().unwrap().is_empty());
    }
}
