//! Watches of single jobs, and of all jobs of a tenant, on the cache of jobs.
//!
//! A watch has no queue: it delivers the latest state, and what a slow reader misses are states in between.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use jiff::Timestamp;
use tokio::sync::watch;
use uuid::Uuid;

use super::{
    JobsIndex,
    change_log::{Entry, Place},
};
use crate::api_types::Job;

/// Changes that a watch of all jobs of a tenant reads under one lock.
const CHANGES_AT_ONCE: usize = 64;

/// What is watched. Nothing that no watch is on takes memory.
#[derive(Default)]
pub(super) struct Watched {
    /// By namespace and name.
    jobs: RwLock<HashMap<(String, String), LatestEvent>>,
    /// By namespace.
    tenants: RwLock<HashMap<String, watch::Sender<()>>>,
}

/// The latest event of a job since the first watch of it began.
type LatestEvent = watch::Sender<Option<JobEvent>>;

/// The latest event of a job.
#[derive(Clone, Debug)]
pub enum JobEvent {
    /// The job was created or updated.
    Updated(Arc<Job>),
    /// The job was deleted; with its last state, where that is known.
    Deleted(Option<Arc<Job>>),
}

impl Watched {
    /// Notifies the watches of a job and of its tenant.
    pub(super) fn notify(&self, namespace: String, name: String, event: JobEvent) {
        let tenants = self.tenants.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = tenants.get(&namespace) {
            sender.send_replace(());
        }
        drop(tenants);
        let jobs = self.jobs.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = jobs.get(&(namespace, name)) {
            sender.send_replace(Some(event));
        }
    }

    /// Whether no watch exists.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.jobs.read().unwrap().is_empty() && self.tenants.read().unwrap().is_empty()
    }
}

/// Watches one job, until it is dropped.
pub struct JobWatch {
    index: JobsIndex,
    key: (String, String),
    events: watch::Receiver<Option<JobEvent>>,
}

impl JobWatch {
    /// The next state of the job with this UID that `matches`; waits for ever where none does.
    pub async fn wait_for(&mut self, uid: &str, matches: impl Fn(&Job) -> bool) -> Option<Arc<Job>> {
        let is_match = |event: &Option<JobEvent>| match event {
            Some(JobEvent::Updated(job)) => job.metadata.uid.as_deref() == Some(uid) && matches(job),
            _ => false,
        };
        match &*self.events.wait_for(is_match).await.ok()? {
            Some(JobEvent::Updated(job)) => Some(Arc::clone(job)),
            _ => None,
        }
    }

    /// The latest event of the job with this UID since the last call, or since the watch began; events before it are
    /// skipped. Cancel safe.
    pub async fn next(&mut self, uid: &str) -> JobEvent {
        let is_it = |job: &Arc<Job>| job.metadata.uid.as_deref() == Some(uid);
        loop {
            if self.events.changed().await.is_err() {
                return JobEvent::Deleted(None);
            }
            match &*self.events.borrow_and_update() {
                Some(JobEvent::Updated(job)) if is_it(job) => return JobEvent::Updated(Arc::clone(job)),
                Some(JobEvent::Deleted(Some(job))) if is_it(job) => {
                    return JobEvent::Deleted(Some(Arc::clone(job)));
                }
                // A new job of the same name.
                Some(JobEvent::Updated(_)) => return JobEvent::Deleted(None),
                Some(JobEvent::Deleted(_)) | None => (),
            }
        }
    }
}

impl Drop for JobWatch {
    fn drop(&mut self) {
        let mut watched = self.index.watched().jobs.write().unwrap_or_else(PoisonError::into_inner);
        // The count includes this receiver.
        if watched.get(&self.key).is_some_and(|sender| sender.receiver_count() <= 1) {
            watched.remove(&self.key);
        }
    }
}

/// A change of one of a tenant's jobs.
#[derive(Clone, Debug)]
pub enum JobChange {
    /// The job was created or updated: its current state.
    Updated(Arc<Job>),
    /// The job with this UID, which was created at this time, was deleted.
    Deleted(Timestamp, Uuid),
}

/// Watches all jobs of a namespace, until it is dropped.
pub struct TenantWatch {
    index: JobsIndex,
    namespace: String,
    place: Place,
    /// Deletions of older versions were before the watch, and the reader knows of none of their jobs.
    deletions_after: u64,
    changed: watch::Receiver<()>,
}

impl TenantWatch {
    /// The next changes, the oldest first, each with its version; of a job that changed several times only the last. Waits
    /// until there is one. Cancel safe.
    pub async fn next(&mut self) -> Vec<(u64, JobChange)> {
        loop {
            self.changed.borrow_and_update();
            let changes = self.index.changes_after(&self.namespace, self.place);
            let is_end = changes.is_empty();
            self.place = changes.last().map_or(self.place, |(place, _)| *place);
            let is_known = |(place, change): &(Place, JobChange)| {
                matches!(change, JobChange::Updated(_)) || place.version > self.deletions_after
            };
            let changes = changes.into_iter().filter(is_known);
            let changes: Vec<_> = changes.map(|(place, change)| (place.version, change)).collect();
            if !changes.is_empty() {
                return changes;
            }
            if is_end && self.changed.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }
}

impl Drop for TenantWatch {
    fn drop(&mut self) {
        let mut watched = self.index.watched().tenants.write().unwrap_or_else(PoisonError::into_inner);
        // The count includes this receiver.
        if watched.get(&self.namespace).is_some_and(|sender| sender.receiver_count() <= 1) {
            watched.remove(&self.namespace);
        }
    }
}

impl JobsIndex {
    fn watched(&self) -> &Watched {
        &self.0.watched
    }

    /// Watches a job from now on, whether it exists or not.
    #[must_use]
    pub fn watch(&self, namespace: &str, name: &str) -> JobWatch {
        let key = (namespace.to_owned(), name.to_owned());
        let mut watched = self.watched().jobs.write().unwrap_or_else(PoisonError::into_inner);
        let events = watched.entry(key.clone()).or_insert_with(|| watch::Sender::new(None)).subscribe();
        JobWatch { index: self.clone(), key, events }
    }

    /// Watches all jobs of a namespace. The first changes are all jobs that exist.
    #[must_use]
    pub fn watch_tenant(&self, namespace: &str) -> TenantWatch {
        let newest = self.read().log.newest();
        self.watch_tenant_from(namespace, Place::default(), newest)
    }

    /// Watches all jobs of a namespace, after the change of this version; `None` where the server does not know all deletions
    /// since.
    #[must_use]
    pub fn resume_tenant(&self, namespace: &str, version: u64) -> Option<TenantWatch> {
        let place = self.read().log.resume(version)?;
        Some(self.watch_tenant_from(namespace, place, 0))
    }

    fn watch_tenant_from(&self, namespace: &str, place: Place, deletions_after: u64) -> TenantWatch {
        let mut watched = self.watched().tenants.write().unwrap_or_else(PoisonError::into_inner);
        let sender = watched.entry(namespace.to_owned()).or_insert_with(|| watch::Sender::new(()));
        TenantWatch {
            index: self.clone(),
            namespace: namespace.to_owned(),
            place,
            deletions_after,
            changed: sender.subscribe(),
        }
    }

    /// Changes of a namespace after this place: all, or as many as are read at a time.
    fn changes_after(&self, namespace: &str, place: Place) -> Vec<(Place, JobChange)> {
        let cache = self.read();
        let jobs = cache.jobs.get(namespace);
        let change = |(place, entry)| {
            let change = match entry {
                Entry::Job(position) => JobChange::Updated(Arc::clone(jobs?.get(&position)?)),
                Entry::Deleted((created, uid)) => JobChange::Deleted(created, uid),
            };
            Some((place, change))
        };
        cache.log.after(namespace, place, CHANGES_AT_ONCE).filter_map(change).collect()
    }
}
