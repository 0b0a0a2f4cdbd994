//! Objects as this process wrote them last, for as long as the cache may be behind (client-go's `MutationCache`).
//!
//! Another event may requeue an object before the watch delivers the object's own last write. Computed from the cache, the
//! next status would be refused (409), and what was written already might be taken for what never was.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use kube::{Resource, ResourceExt};
use tokio::time::Instant;

/// When an object is forgotten though the cache never had it: it is deleted, or the watch is down.
const KEPT: Duration = Duration::from_secs(30);

/// The objects of a kind as last written, by UID.
pub struct MutationCache<K>(Mutex<HashMap<String, (Instant, Arc<K>)>>);

// Derived `Default` would ask for `K: Default`, which an empty map does not need.
impl<K> Default for MutationCache<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<K: Resource> MutationCache<K> {
    /// Records an object as it was written.
    pub fn put(&self, object: K) {
        let Some(uid) = object.uid() else { return };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, (at, _)| at.elapsed() < KEPT);
        all.insert(uid, (Instant::now(), Arc::new(object)));
    }

    /// The newer one of an object as cached and as written.
    #[must_use]
    pub fn newest(&self, cached: Arc<K>) -> Arc<K> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let uid = cached.meta().uid.as_deref().unwrap_or_default();
        let Some((_, written)) = all.get(uid) else { return cached };
        match (version(&**written), version(&*cached)) {
            (Some(written_version), Some(cached_version)) if written_version > cached_version => {
                Arc::clone(written)
            }
            _ => {
                all.remove(uid);
                cached
            }
        }
    }
}

/// Versions of one resource are numbers that grow (KEP 5504).
fn version<K: Resource>(object: &K) -> Option<u64> {
    object.meta().resource_version.as_deref()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api_types::Job;

    fn job(uid: &str, version: &str) -> Job {
        let mut job = Job::new("render", serde_json::from_value(serde_json::json!({"image": "i"})).unwrap());
        job.metadata.uid = Some(uid.to_owned());
        job.metadata.resource_version = Some(version.to_owned());
        job
    }

    fn newest(written: &MutationCache<Job>, uid: &str, version: &str) -> String {
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
