//! Jobs by UID and by age, as the watch tells of them, and who waits for news of one.
//!
//! Lists of the cache read it, and a submit waits here for the verdict on its job.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, PoisonError, RwLock},
};

use jiff::Timestamp;
use kube::ResourceExt;
use tokio::sync::{mpsc, watch};
use uuid::Uuid;

use crate::{api_types::Job, kube_ext::watch::Change};

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

fn place(job: &Job) -> Option<Place> {
    let created = job.metadata.creation_timestamp.as_ref()?.0;
    Some((created, Uuid::parse_str(job.metadata.uid.as_deref()?).ok()?))
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
        all.jobs.entry(namespace.clone()).or_default().insert((created, uid), Arc::clone(job));
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
        if let Some(jobs) = all.jobs.get_mut(&namespace) {
            jobs.remove(&place);
            if jobs.is_empty() {
                all.jobs.remove(&namespace);
            }
        }
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

    /// The newest jobs of a namespace that `holds` picks, at most `most`, older than `before`.
    #[must_use]
    pub fn newest(
        &self,
        namespace: &str,
        before: Option<Place>,
        most: usize,
        holds: impl Fn(&Job) -> bool,
    ) -> Vec<Arc<Job>> {
        let all = self.read();
        let Some(jobs) = all.jobs.get(namespace) else { return Vec::new() };
        let picked = |job: &&Arc<Job>| holds(job);
        match before {
            Some(before) => {
                jobs.range(..before).rev().map(|(_, job)| job).filter(picked).take(most).cloned().collect()
            }
            None => jobs.values().rev().filter(picked).take(most).cloned().collect(),
        }
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
            index.newest("a", before, 2, |_| true).iter().map(|job| job.name_any()).collect()
        };
        assert_eq!(names(None), ["j3", "j2"]);
        assert_eq!(names(Some((Timestamp::from_second(30).unwrap(), uid(2)))), ["j1"]);
        index.delete(&job("a", 3, 30));
        assert_eq!(names(None), ["j2", "j1"]);
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
