//! The pods that this process has created, for as long as the cache may be behind.
//!
//! The watch may deliver a job's event before the event of the job's pod. Created again, the pod would be refused (409), but
//! not before the namespace's ResourceQuota has counted it once more; that count stays until the quota controller's next
//! full resync, after five minutes, and keeps other pods of the tenant out.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// When a pod is forgotten though the cache never had it: it is deleted, or the watch is down.
const KEPT: Duration = Duration::from_secs(30);

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
