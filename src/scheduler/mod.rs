//! The scheduler: one actor that tells the [`Dispatcher`] what the watches tell, and others what it decides.
//!
//! It writes nothing to the API server. What it decides stands on the [`Board`], where the job controller, the one
//! writer of every Job, reads it; who is concerned is told by name. An admission is a reservation: it counts until the
//! job's own objects show that it was used or is void, so a cache that lags never makes the scheduler hand out the same
//! room twice. After a restart everything is rebuilt from Tenants, Jobs, Pods and Nodes, and nothing is decided before
//! all caches are whole.

mod board;
mod facts;
mod others;
mod reasons;
#[cfg(test)]
mod tests;
mod why;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use futures::{StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    ResourceExt,
    runtime::reflector::{ObjectRef, Store},
};
use tokio::sync::{mpsc, watch};

pub use self::{board::Board, others::prepare as prepare_other_pods};
use self::{
    facts::{JobPods, PodFacts},
    others::Daemons,
    reasons::Allowance,
};
use crate::{
    api_types::{Job, Plans, Scenarios, Tenant},
    clock::{Clock, ClockReading},
    domain::{
        admission::{Decision, Dispatcher, WorkerView},
        attempt,
        resources::Resources,
        worker::worker,
    },
    kube_ext::{
        finalizer,
        streams::{DistinctSender, received},
        watch::Change,
    },
    metrics::Metrics,
    names,
};

/// Changes that come within this time are decided upon together.
const COALESCE: Duration = Duration::from_millis(20);
/// Changes taken at once from the channels.
const BATCH: usize = 4096;
/// While jobs are to be told why they wait, this often.
const TELLING: Duration = Duration::from_millis(100);

/// What the scheduler reads.
#[derive(Clone)]
pub struct Caches {
    /// All tenants.
    pub tenants: Store<Tenant>,
    /// All jobs.
    pub jobs: Store<Job>,
    /// All pods of ours.
    pub pods: Store<Pod>,
    /// All nodes.
    pub nodes: Store<Node>,
}

/// Changes of what it decides by, as they come from the watches.
pub struct Changes {
    /// Of tenants.
    pub tenants: mpsc::Receiver<Change<Tenant>>,
    /// Of jobs.
    pub jobs: mpsc::Receiver<Change<Job>>,
    /// Of pods of jobs.
    pub pods: mpsc::Receiver<Change<Pod>>,
    /// Of nodes.
    pub nodes: mpsc::Receiver<Change<Node>>,
    /// Of all other pods.
    pub others: mpsc::Receiver<Change<Pod>>,
    /// Of pods that carry Crofter's labels and are foreign.
    pub foreign: mpsc::Receiver<Change<Pod>>,
}

/// Who is to look again after a decision. The scheduler never waits for them: a controller may itself be waiting for a cache
/// that can't be listed.
pub struct Concerned {
    /// Jobs whose verdict changed.
    pub jobs: DistinctSender<ObjectRef<Job>>,
    /// Tenants whose usage changed.
    pub tenants: DistinctSender<ObjectRef<Tenant>>,
}

/// What the scheduler is made of.
pub struct Parts {
    /// What it reads.
    pub caches: Caches,
    /// Where its decisions stand.
    pub board: Board,
    /// Who is told.
    pub concerned: Concerned,
    /// The plan table in force.
    pub plans: watch::Receiver<Arc<Plans>>,
    /// The catalogue of scenarios in force.
    pub scenarios: watch::Receiver<Arc<Scenarios>>,
    /// The extended resource that counts GPUs.
    pub gpu_resource: String,
    /// The time of day.
    pub clock: Clock,
    /// Counters.
    pub metrics: Metrics,
}

/// The actor.
pub struct Scheduler {
    parts: Parts,
    /// Tenants by namespace: name, and the UID of the one whose hourly window was taken over.
    tenants: HashMap<String, (String, String)>,
    /// When tenants are another thing by themselves.
    turns: BTreeSet<(Timestamp, String)>,
    /// Jobs by UID.
    jobs: HashMap<Arc<str>, ObjectRef<Job>>,
    pods: JobPods,
    daemons: Daemons,
    allowance: Allowance,
    ready: bool,
}

/// A change of one of the kinds.
enum Told {
    Tenant(Change<Tenant>),
    Job(Change<Job>),
    Pod(Change<Pod>),
    Node(Change<Node>),
    Other(Change<Pod>),
    Foreign(Change<Pod>),
}

impl Scheduler {
    /// One that has been told nothing yet.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self {
            parts,
            tenants: HashMap::new(),
            turns: BTreeSet::new(),
            jobs: HashMap::new(),
            pods: JobPods::default(),
            daemons: Daemons::default(),
            allowance: Allowance::default(),
            ready: false,
        }
    }

    /// Decides until the watches end. Cancel safe between decisions: nothing is written anywhere but on the board.
    pub async fn run(mut self, changes: Changes) {
        let mut told = stream::select_all([
            received(changes.tenants).map(Told::Tenant).boxed(),
            received(changes.jobs).map(Told::Job).boxed(),
            received(changes.pods).map(Told::Pod).boxed(),
            received(changes.nodes).map(Told::Node).boxed(),
            received(changes.others).map(Told::Other).boxed(),
            received(changes.foreign).map(Told::Foreign).boxed(),
        ])
        .ready_chunks(BATCH);
        // Each kind is synced once before anything is decided.
        let mut unsynced: BTreeSet<&'static str> = KINDS.into();
        loop {
            // Before all is known nothing is decided, whatever has become due.
            let wait = if unsynced.is_empty() { self.next_look() } else { None };
            tokio::select! {
                batch = told.next() => {
                    let Some(batch) = batch else { return };
                    for kind in batch.iter().filter_map(Told::synced) {
                        unsynced.remove(kind);
                    }
                    self.take(batch);
                }
                changed = self.parts.plans.changed() => {
                    if changed.is_err() { return }
                    self.look_at_all_tenants();
                }
                changed = self.parts.scenarios.changed() => {
                    if changed.is_err() { return }
                    self.look_at_all_jobs();
                }
                () = self.parts.board.settled() => (),
                () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => (),
            }
            if !unsynced.is_empty() {
                continue;
            }
            if !self.ready {
                self.begin();
            }
            self.decide();
            tokio::time::sleep(COALESCE).await;
        }
    }
}

/// Taking in what the watches tell.
impl Scheduler {
    fn take(&mut self, batch: Vec<Told>) {
        let board = self.parts.board.clone();
        let reading = self.parts.clock.read();
        let now = reading.wall;
        board.with(|dispatcher| {
            dispatcher.tick(reading);
            for told in batch {
                match told {
                    Told::Tenant(Change::Applied(tenant)) => self.put_tenant(dispatcher, &tenant, now),
                    Told::Tenant(Change::Deleted(tenant)) => self.remove_tenant(dispatcher, &tenant),
                    Told::Job(Change::Applied(job)) => self.put_job(dispatcher, &job),
                    Told::Job(Change::Deleted(job)) => self.remove_job(dispatcher, &job),
                    Told::Pod(Change::Applied(pod)) => self.put_pod(dispatcher, &pod),
                    Told::Pod(Change::Deleted(pod)) => self.remove_pod(dispatcher, &pod),
                    Told::Node(Change::Applied(node)) => self.put_node(dispatcher, &node),
                    Told::Node(Change::Deleted(node)) => dispatcher.set_worker(&node.name_any(), None),
                    Told::Other(Change::Applied(pod)) | Told::Foreign(Change::Applied(pod)) => {
                        self.put_other(dispatcher, &pod, true);
                    }
                    Told::Other(Change::Deleted(pod)) | Told::Foreign(Change::Deleted(pod)) => {
                        self.put_other(dispatcher, &pod, false);
                    }
                    // What can't be read stays as it was last known.
                    Told::Tenant(Change::Invalid(_) | Change::Synced)
                    | Told::Job(Change::Invalid(_) | Change::Synced)
                    | Told::Pod(Change::Invalid(_) | Change::Synced)
                    | Told::Node(Change::Invalid(_) | Change::Synced)
                    | Told::Other(Change::Invalid(_) | Change::Synced)
                    | Told::Foreign(Change::Invalid(_) | Change::Synced) => (),
                }
            }
        });
    }

    fn put_tenant(&mut self, dispatcher: &mut Dispatcher, tenant: &Tenant, now: Timestamp) {
        let (name, uid) = (tenant.name_any(), tenant.uid().unwrap_or_default());
        let Some(namespace) = tenant.status.as_ref().and_then(|status| status.namespace.clone()) else {
            // It has none, or not any more.
            return self.remove_tenant(dispatcher, tenant);
        };
        let (view, turn) = facts::tenant(tenant, &self.parts.plans.borrow(), now);
        self.turns.retain(|(_, of)| *of != name);
        self.turns.extend(turn.map(|at| (at, name.clone())));
        let known = self.tenants.insert(namespace.clone(), (name, uid.clone()));
        if known.is_none_or(|(_, known)| known != uid) {
            let stored = tenant.status.as_ref().and_then(|status| status.job_window.as_ref());
            stored.into_iter().for_each(|window| dispatcher.restore_window(&namespace, window));
        }
        dispatcher.set_tenant(&namespace, Some(view));
    }

    fn remove_tenant(&mut self, dispatcher: &mut Dispatcher, tenant: &Tenant) {
        let (name, uid) = (tenant.name_any(), tenant.uid().unwrap_or_default());
        self.turns.retain(|(_, of)| *of != name);
        // One of that name may be there already.
        let gone: Vec<String> = self
            .tenants
            .iter()
            .filter(|(_, known)| **known == (name.clone(), uid.clone()))
            .map(|(namespace, _)| namespace.clone())
            .collect();
        for namespace in gone {
            self.tenants.remove(&namespace);
            dispatcher.set_tenant(&namespace, None);
        }
    }

    fn put_job(&mut self, dispatcher: &mut Dispatcher, job: &Job) {
        let asked = |job: &Job| Resources::of_job(&job.spec, &self.parts.scenarios.borrow());
        if let Some(view) = facts::job(job, &self.pods, asked) {
            self.jobs.insert(Arc::clone(&view.uid), ObjectRef::from_obj(job));
            dispatcher.set_job(view);
        }
    }

    fn remove_job(&mut self, dispatcher: &mut Dispatcher, job: &Job) {
        let uid = job.uid().unwrap_or_default();
        self.jobs.remove(uid.as_str());
        self.put_remains(dispatcher, &uid);
    }

    /// What is left of a job that does not exist (any more): its pod counts until it has ended.
    fn put_remains(&self, dispatcher: &mut Dispatcher, job_uid: &str) {
        match self.pods.remains(job_uid) {
            Some(view) => dispatcher.set_job(view),
            None => dispatcher.remove_job(job_uid),
        }
    }

    fn put_pod(&mut self, dispatcher: &mut Dispatcher, pod: &Pod) {
        let (Some(uid), Some(namespace)) = (pod.uid(), pod.namespace()) else { return };
        let Some((job_uid, facts)) = PodFacts::of(pod, &self.parts.gpu_resource) else { return };
        let uid: Arc<str> = uid.into();
        dispatcher.set_pod(&uid, facts.place());
        if facts.attempt == 1 {
            if facts.held {
                dispatcher.charge(&namespace, &job_uid, facts.created);
            } else {
                dispatcher.released(&namespace, &job_uid);
            }
        }
        if self.pods.put(&job_uid, &uid, facts) {
            self.look_at_job_of(dispatcher, pod, &job_uid);
        }
    }

    fn remove_pod(&mut self, dispatcher: &mut Dispatcher, pod: &Pod) {
        let (Some(uid), Some(namespace)) = (pod.uid(), pod.namespace()) else { return };
        let Some((job_uid, facts)) = PodFacts::of(pod, &self.parts.gpu_resource) else { return };
        dispatcher.set_pod(&uid.as_str().into(), None);
        if facts.attempt == 1 {
            dispatcher.released(&namespace, &job_uid);
        }
        self.pods.remove(&job_uid, &uid);
        self.look_at_job_of(dispatcher, pod, &job_uid);
    }

    fn look_at_job_of(&mut self, dispatcher: &mut Dispatcher, pod: &Pod, job_uid: &str) {
        let job = attempt::owner(pod).and_then(|owner| self.parts.caches.jobs.get(&owner));
        match job.filter(|job| job.uid().as_deref() == Some(job_uid)) {
            Some(job) => self.put_job(dispatcher, &job),
            // Until all jobs are known, its job may be one that the watch has not delivered yet.
            None if self.ready && !self.jobs.contains_key(job_uid) => self.put_remains(dispatcher, job_uid),
            None => (),
        }
    }

    fn put_node(&mut self, dispatcher: &mut Dispatcher, node: &Node) {
        let view = worker(node, &self.parts.gpu_resource).map(|worker| WorkerView {
            capacity: worker.allocatable - self.daemons.on(&worker.name),
            open: worker.ready,
            group: worker.group,
        });
        dispatcher.set_worker(&node.name_any(), view);
    }

    fn put_other(&mut self, dispatcher: &mut Dispatcher, pod: &Pod, exists: bool) {
        let Some(uid) = pod.uid().map(Arc::<str>::from) else { return };
        let place = others::place(pod, &self.parts.gpu_resource).filter(|_| exists);
        if others::is_daemon(pod) {
            for node in self.daemons.set(&uid, place) {
                if let Some(node) = self.parts.caches.nodes.get(&ObjectRef::new(&node)) {
                    self.put_node(dispatcher, &node);
                }
            }
        } else {
            dispatcher.set_pod(&uid, place.as_ref().map(|(node, takes)| (node.as_str(), *takes)));
        }
    }

    /// What jobs ask for may be another thing: the scenarios were replaced.
    fn look_at_all_jobs(&mut self) {
        self.parts.scenarios.borrow_and_update();
        let jobs = self.parts.caches.jobs.state_filter(|job| job.spec.scenario.is_some());
        self.take(jobs.into_iter().map(|job| Told::Job(Change::Applied(job))).collect());
    }

    fn look_at_all_tenants(&mut self) {
        self.parts.plans.borrow_and_update();
        let tenants = self.parts.caches.tenants.state();
        self.take(tenants.into_iter().map(|tenant| Told::Tenant(Change::Applied(tenant))).collect());
    }
}

/// Deciding, and telling.
impl Scheduler {
    /// The caches are whole.
    fn begin(&mut self) {
        self.ready = true;
        let held: BTreeSet<String> = self
            .parts
            .caches
            .pods
            .state()
            .iter()
            .filter(|pod| {
                attempt::number(pod) == Some(1) && finalizer::has(&***pod, names::FINALIZER_ACCOUNTED)
            })
            .filter_map(|pod| attempt::job_uid(pod).map(str::to_owned))
            .collect();
        let board = self.parts.board.clone();
        board.with(|dispatcher| {
            dispatcher.keep_settling(|uid| held.contains(uid));
            let orphans = self.pods.jobs().filter(|uid| !self.jobs.contains_key(*uid));
            orphans.for_each(|uid| self.put_remains(dispatcher, uid));
        });
    }

    /// How long until something changes by itself.
    fn next_look(&self) -> Option<Duration> {
        let now = self.parts.clock.read();
        let (wake, tells) = self.parts.board.with(|d| (d.next_wake(now), d.has_reasons()));
        let turn = self.turns.first().map(|(at, _)| at.duration_since(now.wall));
        let waits = [wake, turn].into_iter().flatten();
        let waits = waits.map(|wait| Duration::try_from(wait).unwrap_or_default());
        waits.chain(tells.then_some(TELLING)).min()
    }

    fn decide(&mut self) {
        let ClockReading { wall: now, steady } = self.parts.clock.read();
        let mut turned = Vec::new();
        while let Some((_, tenant)) = self.turns.first().filter(|(at, _)| *at <= now).cloned() {
            self.turns.pop_first();
            let tenant = self.parts.caches.tenants.get(&ObjectRef::new(&tenant));
            turned.extend(tenant.map(|tenant| Told::Tenant(Change::Applied(tenant))));
        }
        self.take(turned);
        let begun = tokio::time::Instant::now();
        let board = self.parts.board.clone();
        let (Decision { decided, usage }, reasons) = board.decide(|dispatcher| {
            let decision = dispatcher.decide();
            let may_tell = self.allowance.at(steady, decision.decided.len());
            let reasons = dispatcher.reasons(may_tell);
            self.allowance.told(reasons.len());
            (decision, reasons)
        });
        self.parts.metrics.decided(begun.elapsed());
        for uid in decided.into_iter().chain(reasons) {
            if let Some(job) = self.jobs.get(&uid) {
                self.parts.concerned.jobs.send(job.clone());
            }
        }
        for namespace in usage {
            if let Some((tenant, _)) = self.tenants.get(&*namespace) {
                self.parts.concerned.tenants.send(ObjectRef::new(tenant));
            }
        }
    }
}

/// The kinds of [`Told`].
const KINDS: [&str; 6] = ["tenants", "jobs", "pods", "nodes", "others", "foreign"];

impl Told {
    /// The kind that is whole now.
    fn synced(&self) -> Option<&'static str> {
        let kind = match self {
            Self::Tenant(Change::Synced) => 0,
            Self::Job(Change::Synced) => 1,
            Self::Pod(Change::Synced) => 2,
            Self::Node(Change::Synced) => 3,
            Self::Other(Change::Synced) => 4,
            Self::Foreign(Change::Synced) => 5,
            _ => return None,
        };
        Some(KINDS[kind])
    }
}
