//! What the mirror has written, for controllers and the REST API: is an object's state committed, is the mirror behind?

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::{Stream, stream};
use k8s_openapi::api::core::v1::Pod;
use kube::runtime::reflector::ObjectRef;
use tokio::{sync::Notify, time::Instant};
use uuid::Uuid;

use super::dirty::{Dirty, InvalidObjects};

/// An attempt: UID of its job, and its number.
pub(super) type AttemptKey = (Uuid, i32);

/// What the mirror has written, for others to ask. Cheap to clone.
#[derive(Clone, Debug)]
pub struct MirrorHandle {
    pub(super) shared: Arc<Shared>,
}

impl MirrorHandle {
    /// Whether the attempt is committed in Postgres, charge included. Known only while its pod is in the cache.
    #[must_use]
    pub fn committed(&self, job_uid: &str, attempt: u32) -> bool {
        let (Ok(uid), Ok(attempt)) = (Uuid::parse_str(job_uid), i32::try_from(attempt)) else {
            return false;
        };
        self.shared.lock().is_committed((uid, attempt))
    }

    /// Whether this state of a job, or a later one, is committed in Postgres with all the attempts in it.
    #[must_use]
    pub fn job_mirrored(&self, uid: &str, resource_version: &str) -> bool {
        let (Ok(uid), Ok(version)) = (Uuid::parse_str(uid), resource_version.parse::<i64>()) else {
            return false;
        };
        self.shared.lock().mirrored.get(&uid).is_some_and(|written| *written >= version)
    }

    /// Whether the mirror is behind: the database has been away, or something has been waiting to be written, for
    /// longer than [`Config::behind_after`](super::Config::behind_after).
    #[must_use]
    pub fn behind(&self) -> bool {
        let state = self.shared.lock();
        let since = [state.lost, state.dirty.oldest()].into_iter().flatten().min();
        since.is_some_and(|since| since.elapsed() > self.shared.behind_after)
    }

    /// Waits until all recorded changes are written: before a stop, with a timeout of the caller's own.
    pub async fn written(&self) {
        loop {
            let more = self.shared.rest.notified();
            tokio::pin!(more);
            // Registered before the check.
            more.as_mut().enable();
            if self.shared.lock().dirty.at_rest() {
                return;
            }
            more.await;
        }
    }

    /// Pods whose attempts were committed, to be requeued. For one consumer: what one takes, another does not get. A
    /// slow consumer loses nothing; a waiting pod is delivered once.
    pub fn commits(&self) -> impl Stream<Item = ObjectRef<Pod>> + Send + 'static {
        stream::unfold(Arc::clone(&self.shared), |shared| async move {
            loop {
                // Registered before the check: a commit in between wakes it.
                let more = shared.commits.notified();
                let next = shared.lock().next_commit();
                if let Some(pod) = next {
                    return Some((pod, Arc::clone(&shared)));
                }
                more.await;
            }
        })
    }
}

/// Shared by the task that receives changes, the task that writes them, and the handles.
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    behind_after: Duration,
    /// Marks wait to be written.
    pub(super) work: Notify,
    commits: Notify,
    /// All is written.
    rest: Notify,
}

/// A set of kinds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Kinds {
    pub(super) tenants: bool,
    pub(super) nodes: bool,
    pub(super) jobs: bool,
}

/// See [`Shared`].
#[derive(Debug, Default)]
pub(super) struct State {
    pub(super) dirty: Dirty,
    /// Kinds whose cache has been synced at least once. Before all are, the mirror writes nothing: an object that a
    /// cache still lacks would be marked as deleted, and a job whose tenant is missing would be taken for a job of no
    /// tenant.
    pub(super) synced: Kinds,
    pub(super) resyncs: Kinds,
    pub(super) invalid_tenants: InvalidObjects,
    pub(super) invalid_nodes: InvalidObjects,
    pub(super) invalid_jobs: InvalidObjects,
    /// Since when the database is away.
    lost: Option<Instant>,
    pods: HashMap<AttemptKey, ObjectRef<Pod>>,
    committed: HashSet<AttemptKey>,
    unreported: HashSet<ObjectRef<Pod>>,
    mirrored: HashMap<Uuid, i64>,
}

impl Shared {
    pub(super) fn new(behind_after: Duration) -> Self {
        let state = State { lost: Some(Instant::now()), ..State::default() };
        Self {
            state: Mutex::new(state),
            behind_after,
            work: Notify::new(),
            commits: Notify::new(),
            rest: Notify::new(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // No code that could panic runs under the lock; were it so, the state is still the best there is.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The database is away, since now if it was not before.
    pub(super) fn lost(&self) {
        self.lock().lost.get_or_insert_with(Instant::now);
    }

    /// What was taken is written, and it works.
    pub(super) fn written(&self) {
        let mut state = self.lock();
        state.dirty.written();
        state.lost = None;
        drop(state);
        self.rest.notify_waiters();
    }

    /// Records that these attempts are committed.
    pub(super) fn attempts_committed(&self, keys: impl Iterator<Item = AttemptKey>) {
        let mut state = self.lock();
        for key in keys {
            let Some(pod) = state.pods.get(&key).cloned() else { continue };
            if state.committed.insert(key) {
                state.unreported.insert(pod);
            }
        }
        drop(state);
        self.commits.notify_one();
    }
}

impl State {
    /// Records that a pod exists, and is this attempt.
    pub(super) fn pod_exists(&mut self, key: AttemptKey, pod: ObjectRef<Pod>) {
        self.pods.insert(key, pod);
    }

    /// Records that a pod was deleted.
    pub(super) fn pod_deleted(&mut self, key: AttemptKey) {
        if let Some(pod) = self.pods.remove(&key) {
            self.unreported.remove(&pod);
        }
        self.committed.remove(&key);
    }

    /// Whether this attempt is known to be committed.
    pub(super) fn is_committed(&self, key: AttemptKey) -> bool {
        self.committed.contains(&key)
    }

    /// A job is committed up to this resource version, with its attempts.
    pub(super) fn job_written(&mut self, uid: Uuid, resource_version: i64) {
        let written = self.mirrored.entry(uid).or_insert(resource_version);
        *written = resource_version.max(*written);
    }

    /// Records that a job was deleted.
    pub(super) fn job_deleted(&mut self, uid: Uuid) {
        self.mirrored.remove(&uid);
    }

    /// Forgets what was written: the database no longer has all of it.
    pub(super) fn forget_written(&mut self) {
        self.committed.clear();
        self.unreported.clear();
        self.mirrored.clear();
    }

    fn next_commit(&mut self) -> Option<ObjectRef<Pod>> {
        let next = self.unreported.iter().next().cloned()?;
        self.unreported.take(&next)
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, StreamExt};

    use super::*;

    const JOB: &str = "0b8e9a52-6a5e-4d5c-9c0e-6a1f6c0a9f11";

    fn handle() -> MirrorHandle {
        MirrorHandle { shared: Arc::new(Shared::new(Duration::from_secs(5))) }
    }

    #[tokio::test]
    async fn a_commit_is_reported_once_and_forgotten_with_its_pod() {
        let handle = handle();
        let key = (Uuid::parse_str(JOB).unwrap(), 1);
        let pod = ObjectRef::new("p").within("n");
        handle.shared.attempts_committed([key].into_iter());
        assert!(!handle.committed(JOB, 1), "no pod is known");

        handle.shared.lock().pod_exists(key, pod.clone());
        handle.shared.attempts_committed([key, key].into_iter());
        handle.shared.attempts_committed([key].into_iter());
        assert!(handle.committed(JOB, 1));
        assert!(!handle.committed(JOB, 2));
        let mut commits = Box::pin(handle.commits());
        assert_eq!(commits.next().await, Some(pod));
        assert!(commits.next().now_or_never().is_none());

        handle.shared.lock().pod_deleted(key);
        assert!(!handle.committed(JOB, 1));
    }

    #[tokio::test]
    async fn a_waiting_consumer_is_woken() {
        let handle = handle();
        let key = (Uuid::parse_str(JOB).unwrap(), 1);
        handle.shared.lock().pod_exists(key, ObjectRef::new("p"));
        let mut commits = Box::pin(handle.commits());
        assert!(commits.next().now_or_never().is_none());
        let waiting = tokio::spawn(async move { commits.next().await });
        tokio::task::yield_now().await;
        handle.shared.attempts_committed([key].into_iter());
        assert!(waiting.await.unwrap().is_some());
    }

    #[test]
    fn a_job_is_mirrored_up_to_what_was_written() {
        let handle = handle();
        let uid = Uuid::parse_str(JOB).unwrap();
        handle.shared.lock().job_written(uid, 10);
        handle.shared.lock().job_written(uid, 9);
        assert!(handle.job_mirrored(JOB, "9") && handle.job_mirrored(JOB, "10"));
        assert!(
            !handle.job_mirrored(JOB, "11")
                && !handle.job_mirrored(JOB, "")
                && !handle.job_mirrored("x", "1")
        );
        handle.shared.lock().job_deleted(uid);
        assert!(!handle.job_mirrored(JOB, "9"));
    }

    #[tokio::test(start_paused = true)]
    async fn behind_means_away_or_waiting_for_too_long() {
        let handle = handle();
        assert!(!handle.behind(), "it has only just begun");
        tokio::time::advance(Duration::from_secs(6)).await;
        assert!(handle.behind(), "the database never answered");
        handle.shared.written();
        assert!(!handle.behind());
        handle.shared.lock().dirty.waits_since(Instant::now());
        tokio::time::advance(Duration::from_secs(6)).await;
        assert!(handle.behind(), "something waits");
        drop(handle.shared.lock().dirty.take(Instant::now()));
        assert!(handle.behind(), "still, while in flight");
        handle.shared.written();
        assert!(!handle.behind());
    }
}
