//! How old attempts are, by a clock that does not step.
//!
//! Pods carry the times of the API server and of their node. They are compared with the time of day once, when this
//! process first sees an attempt; from then on its age grows with a clock that does not step. So neither a clock that
//! jumps an hour ahead ends what has an hour left, nor one that is set back keeps an attempt running, or a retry
//! waiting, for an hour. After a restart they are compared again.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::ResourceExt;

use crate::{
    api_types::{Job, JobPhase},
    clock::Clock,
    domain::attempt,
};

/// By the job's UID: the attempt, and how far the time of day was from the steady clock when it was first seen.
#[derive(Default)]
pub struct Ages(Mutex<HashMap<String, (u32, SignedDuration)>>);

impl Ages {
    fn all(&self) -> MutexGuard<'_, HashMap<String, (u32, SignedDuration)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time by which the job's attempt is measured; the time of day where there is none.
    pub(super) fn now(&self, job: &Job, pods: &[Arc<Pod>], clock: &Clock) -> Timestamp {
        let (now, steady) = (clock.now(), clock.steady());
        let Some(uid) = job.metadata.uid.as_deref() else { return now };
        let Some(attempt) = under_way(job, pods) else {
            self.forget(job);
            return now;
        };
        let mut all = self.all();
        let known = all.get(uid).filter(|(of, _)| *of == attempt).map(|(_, ahead)| *ahead);
        let ahead = known.unwrap_or_else(|| {
            let ahead = now.duration_since(steady);
            all.insert(uid.to_owned(), (attempt, ahead));
            ahead
        });
        steady.saturating_add(ahead).unwrap_or(now)
    }

    /// The job is deleted.
    pub(super) fn forget(&self, job: &Job) {
        if let Some(uid) = job.uid() {
            self.all().remove(&uid);
        }
    }
}

/// The attempt that has a pod, or whose retry waits.
fn under_way(job: &Job, pods: &[Arc<Pod>]) -> Option<u32> {
    let status = job.status.as_ref();
    let made = pods.iter().filter_map(|pod| attempt::number(pod)).max();
    let current = || status.and_then(|status| u32::try_from(status.attempt).ok());
    match status.map(|status| status.phase).unwrap_or_default() {
        JobPhase::Queued => made,
        JobPhase::Assigned | JobPhase::Running | JobPhase::Retrying => made.or_else(current),
        _ => None,
    }
}
