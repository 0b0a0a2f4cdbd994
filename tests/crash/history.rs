//! Every version that an object had, in order, and what must hold of them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt::Debug,
    hash::Hash,
    sync::{Arc, Mutex},
    time::Duration,
};

use crofter::{
    api_types::{Job, JobPhase},
    domain::{attempt, job_state::is_terminal},
};
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Resource, ResourceExt,
    runtime::{
        WatchStreamExt,
        watcher::{self, Event},
    },
};
use serde::de::DeserializeOwned;
use tokio::{sync::watch, task::AbortHandle};

use crate::common::{WAIT_TIMEOUT, phase};

/// One event of a watch.
#[derive(Clone, Debug)]
pub enum Seen<K> {
    Version(K),
    Deleted(K),
}

impl<K> Seen<K> {
    /// The object of the event.
    pub fn object(&self) -> &K {
        let (Self::Version(object) | Self::Deleted(object)) = self;
        object
    }
}

/// Watches objects from the start on, and keeps all events.
pub struct History<K> {
    seen: Arc<Mutex<Vec<Seen<K>>>>,
    received: watch::Receiver<Received>,
    task: AbortHandle,
}

#[derive(Clone, Copy, Debug, Default)]
struct Received {
    events: usize,
    lists: usize,
}

impl<K> Drop for History<K> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<K> History<K>
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + Sync + 'static,
    K::DynamicType: Default + Eq + Hash + Clone,
{
    /// Starts to watch; whatever happens after this is in the history.
    pub async fn start(api: Api<K>, config: watcher::Config) -> Self {
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (sender, mut received) = watch::channel(Received::default());
        let mut stream = watcher::watcher(api, config).default_backoff().boxed();
        let into = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            loop {
                let event = match stream.try_next().await {
                    Ok(Some(Event::InitApply(object) | Event::Apply(object))) => Seen::Version(object),
                    Ok(Some(Event::Delete(object))) => Seen::Deleted(object),
                    Ok(Some(Event::InitDone)) => {
                        sender.send_modify(|received| received.lists += 1);
                        continue;
                    }
                    Ok(Some(Event::Init)) | Err(_) => continue,
                    Ok(None) => return,
                };
                into.lock().unwrap().push(event);
                sender.send_modify(|received| received.events += 1);
            }
        })
        .abort_handle();
        received.wait_for(|received| received.lists == 1).await.unwrap();
        Self { seen, received, task }
    }

    /// Waits until `more` further events were received, for at most `at_most`.
    pub async fn after(&self, more: usize, at_most: Duration) {
        let mut received = self.received.clone();
        let goal = received.borrow().events + more;
        drop(tokio::time::timeout(at_most, received.wait_for(|received| received.events >= goal)).await);
    }

    /// Waits until this version was received, which a client may have read before.
    pub async fn reaches(&self, version: &K) {
        let is_it = |seen: &Seen<K>| {
            let meta = seen.object().meta();
            (&meta.uid, &meta.resource_version) == (&version.meta().uid, &version.meta().resource_version)
        };
        let mut received = self.received.clone();
        let arrival = received.wait_for(|_| self.seen.lock().unwrap().iter().any(is_it));
        drop(tokio::time::timeout(WAIT_TIMEOUT, arrival).await.expect("the watch is far behind"));
    }

    /// All events. There must have been one list only: between a broken watch and the next list something may be lost.
    pub fn whole(&self) -> Vec<Seen<K>> {
        assert_eq!(self.received.borrow().lists, 1, "the watch broke: the history has a gap");
        self.known()
    }

    /// What is known of it.
    pub fn known(&self) -> Vec<Seen<K>> {
        self.seen.lock().unwrap().clone()
    }
}

/// Watches all job pods.
pub async fn of_pods(api: Api<Pod>) -> History<Pod> {
    History::start(api, watcher::Config::default().labels("crofter.io/job-uid")).await
}

/// Whether a pod's container may run, now or later.
fn is_live(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    !matches!(phase, Some("Succeeded" | "Failed"))
}

/// Checks that each attempt had exactly one pod, that no job ever had two live ones, and that none was on a node of
/// another tenant (nodes are named after theirs). Returns the attempts of each job, by UID.
pub fn check_pods(history: &[Seen<Pod>]) -> HashMap<String, BTreeSet<u32>> {
    let mut pods: BTreeMap<(String, u32), BTreeSet<String>> = BTreeMap::new();
    let mut live: HashMap<String, BTreeSet<String>> = HashMap::new();
    for seen in history {
        let pod = seen.object();
        let job = attempt::job_uid(pod).unwrap().to_owned();
        let number = attempt::number(pod).unwrap();
        pods.entry((job.clone(), number)).or_default().insert(pod.uid().unwrap());
        let alive = live.entry(job).or_default();
        if matches!(seen, Seen::Version(_)) && is_live(pod) {
            alive.insert(pod.name_any());
        } else {
            alive.remove(&pod.name_any());
        }
        assert!(alive.len() <= 1, "two live pods of one job: {alive:?}");
        let tenant = pod.namespace().unwrap().strip_prefix("tenant-").unwrap().to_owned();
        // The nodes of a shared pool belong to no tenant.
        let shared =
            pod.labels().get("crofter.io/worker-group").is_some_and(|group| group.starts_with("pool."));
        if let Some(node) = attempt::node(pod).filter(|_| !shared) {
            assert!(node.starts_with(&format!("{tenant}-")), "{} of {tenant} on {node}", pod.name_any());
        }
    }
    let mut attempts: HashMap<String, BTreeSet<u32>> = HashMap::new();
    for ((job, number), uids) in pods {
        assert_eq!(uids.len(), 1, "attempt {number} of job {job} had several pods");
        attempts.entry(job).or_default().insert(number);
    }
    attempts
}

/// Checks that what had ended stayed as it had ended.
pub fn check_jobs(history: &[Seen<Job>]) {
    let mut ends: HashMap<String, Job> = HashMap::new();
    for seen in history {
        let Seen::Version(job) = seen else { continue };
        let uid = job.uid().unwrap();
        if let Some(end) = ends.get(&uid) {
            assert_eq!(
                (phase(job), &job.status.as_ref().unwrap().attempts),
                (phase(end), &end.status.as_ref().unwrap().attempts),
                "{} had ended",
                job.name_any()
            );
        } else if is_terminal(phase(job)) {
            ends.insert(uid, job.clone());
        }
    }
}

/// Every change of a job's phase, with the job as it was then.
pub fn transitions(history: &[Seen<Job>]) -> Vec<(JobPhase, JobPhase, Job)> {
    let mut last: HashMap<String, JobPhase> = HashMap::new();
    let mut found = Vec::new();
    for seen in history {
        let Seen::Version(job) = seen else { continue };
        let now = phase(job);
        let before = last.insert(job.uid().unwrap(), now).unwrap_or(JobPhase::Queued);
        if before != now {
            found.push((before, now, job.clone()));
        }
    }
    found
}

/// Checks that a job completed in its first and only attempt.
pub fn check_completed_once(job: &Job) {
    let status = job.status.clone().unwrap();
    let attempts: Vec<_> = status.attempts.iter().map(|a| (a.attempt, a.exit_code)).collect();
    assert_eq!(
        (status.phase, status.attempt, status.retries, attempts),
        (JobPhase::Completed, 1, 0, vec![(1, Some(0))]),
        "{}",
        job.name_any()
    );
}
