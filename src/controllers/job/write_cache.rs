//! What this process has written, for as long as the cache may be behind.
//!
//! The watch may deliver a pod's event before the job's own last write ([`MutationCache`]). Computed from the cache,
//! the next status would be refused (409), and an attempt whose end was written already might be taken for one that
//! never was.
//!
//! It may deliver a job's event before the event of the job's pod ([`PodExpectations`]). Created again, the pod would
//! be refused (409), but not before the namespace's ResourceQuota has counted it once more; that count stays until the
//! quota controller's next full resync, after five minutes, and keeps other pods of the tenant out.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use kube::{Resource, ResourceExt};
use tokio::time::Instant;

use crate::api_types::Job;

/// When what was written is forgotten though the cache never had it: job or pod is deleted, or the watch is down.
const KEPT: Duration = Duration::from_secs(30);

/// The jobs as last written, by UID.
#[derive(Default)]
pub struct MutationCache(Mutex<HashMap<String, (Instant, Arc<Job>)>>);

impl MutationCache {
    /// Records a job as it was written.
    pub(super) fn put(&self, job: Job) {
        let Some(uid) = job.uid() else { return };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, (at, _)| at.elapsed() < KEPT);
        all.insert(uid, (Instant::now(), Arc::new(job)));
    }

    /// The newer one of a job as cached and as written.
    pub(super) fn newest(&self, cached: Arc<Job>) -> Arc<Job> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let uid = cached.meta().uid.as_deref().unwrap_or_default();
        match all.get(uid) {
            Some((_, written)) if version(written) > version(&cached) => Arc::clone(written),
            Some(_) => {
                all.remove(uid);
                cached
            }
            None => cached,
        }
    }
}

/// When the pods of attempts were made, by the job's UID and the attempt.
#[derive(Default)]
pub struct PodExpectations(Mutex<HashMap<(String, u32), Instant>>);

impl PodExpectations {
    /// The pod was created.
    pub(super) fn put(&self, job_uid: &str, attempt: u32) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, at| at.elapsed() < KEPT);
        all.insert((job_uid.to_owned(), attempt), Instant::now());
    }

    /// How long the watch may still take to deliver it, if it was created lately.
    pub(super) fn pending_for(&self, job_uid: &str, attempt: u32) -> Option<Duration> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = all.get(&(job_uid.to_owned(), attempt))?;
        KEPT.checked_sub(at.elapsed()).filter(|left| !left.is_zero())
    }
}

/// Versions of one resource are numbers that grow (KEP 5504).
fn version(job: &Job) -> Option<u64> {
    job.meta().resource_version.as_deref()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(uid: &str, version: &str) -> Job {
        let mut job = Job::new("render", serde_json::from_value(serde_json::json!({"image": "i"})).unwrap());
        job.metadata.uid = Some(uid.to_owned());
        job.metadata.resource_version = Some(version.to_owned());
        job
    }

    fn newest(written: &MutationCache, uid: &str, version: &str) -> String {
        written.newest(Arc::new(job(uid, version))).resource_version().unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_written_counts_until_the_cache_has_it() {
        let written = MutationCache::default();
        written.put(job("a", "10"));
        assert_eq!(newest(&written, "a", "9"), "10", "as numbers, not as text");
        assert_eq!(newest(&written, "b", "9"), "9", "another one of its name");
        assert_eq!(newest(&written, "a", "11"), "11");
        assert_eq!(newest(&written, "a", "9"), "9", "it was forgotten with that");
    }

    #[tokio::test(start_paused = true)]
    async fn deleted_jobs_are_forgotten() {
        let written = MutationCache::default();
        written.put(job("a", "10"));
        tokio::time::advance(KEPT).await;
        written.put(job("b", "11"));
        assert_eq!(written.0.lock().unwrap().len(), 1);
    }
}
