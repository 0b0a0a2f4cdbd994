//! The scheduler: one actor that gives the events of the watches to the [`Dispatcher`] and requeues what its decisions concern.
//!
//! The path of a job from its watch event to its pod, in six files:
//!
//! 1. Here, [`Scheduler`]'s `put_job` makes the input of it and calls [`Dispatcher::set_job`], which notes the job as an
//!    arrival of its tenant's queue and enqueues the tenant for the next cycle. `decide` runs the cycle.
//! 2. `domain/admission/cycle.rs`: `run_cycle` shows the steps. Each calls a method of `TenantQueue`:
//! 3. `domain/admission/tenant_queue/enqueue.rs`: `enqueue_arrivals` rejects the job, or puts it into its class;
//! 4. `domain/admission/tenant_queue/assess.rs`: `assess` finds whether and where the class can start a job, and
//!    `admit_first` admits it. Back in `decide` here, the Job is requeued.
//! 5. `controllers/job/reconcile.rs`: `dereference` takes the verdict from the [`SchedulerHandle`], `job_flow::next` makes
//!    the step `Step::Create` of an admission, and `apply` carries it out by
//! 6. `controllers/job/create.rs`: `create` claims the admission, has the pod built, and creates it.
//!
//! The job controller also reconciles the Job at the watch event itself; without a verdict it only waits.
//!
//! The scheduler writes nothing to the API server. The job controller, which alone writes Jobs, reads the decisions through the
//! [`SchedulerHandle`]; the scheduler requeues those Jobs and Tenants by name. An admission counts until the job's own
//! objects show that it was used or is void, so a cache that lags never makes the scheduler give the same room to two
//! jobs. After a restart the state is rebuilt from Tenants, Jobs, Pods and Nodes, and nothing is decided before all caches
//! are synced.

mod copies;
mod foreign_pods;
mod from_objects;
mod handle;
#[cfg(test)]
mod tests;
mod times;

use std::{
    borrow::Cow,
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

use self::{
    foreign_pods::DaemonUsage,
    from_objects::{JobPods, PodState},
};
pub use self::{foreign_pods::prepare as prepare_foreign_pods, handle::SchedulerHandle};
use crate::{
    api_types::{Job, Plans, Scenarios, Tenant},
    clock::{Clock, ClockReading},
    domain::{
        admission::{Decision, Dispatcher, WorkerInput},
        attempt,
        estimate::JobTimes,
        resources::Resources,
        worker::worker,
    },
    kube_ext::{
        courtesy::{Courtesy, CourtesyBudget},
        finalizer,
        streams::{DistinctSender, received},
        watch::Change,
    },
    metrics::Metrics,
    names,
};

/// Events within this time are decided upon together.
const COALESCE: Duration = Duration::from_millis(20);
/// Events taken at once from the channels.
const MAX_BATCH: usize = 4096;
/// How often waiting jobs get new reasons, while some have to.
const REASON_INTERVAL: Duration = Duration::from_millis(100);

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

/// The events of the watches.
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

/// Where the scheduler requeues objects after a decision. It never waits for the controllers: one may itself be waiting for
/// a cache that can't be listed.
pub struct RequeueSenders {
    /// Jobs whose verdict changed.
    pub jobs: DistinctSender<ObjectRef<Job>>,
    /// Tenants whose usage changed.
    pub tenants: DistinctSender<ObjectRef<Tenant>>,
}

/// What the scheduler works with.
pub struct Context {
    /// What it reads.
    pub caches: Caches,
    /// Gives others access to its decisions.
    pub handle: SchedulerHandle,
    /// The controllers' queues.
    pub requeue: RequeueSenders,
    /// The plan table in force.
    pub plans: watch::Receiver<Arc<Plans>>,
    /// The catalogue of scenarios in force.
    pub scenarios: watch::Receiver<Arc<Scenarios>>,
    /// The budget of status writes that no client waits for.
    pub courtesy: CourtesyBudget,
    /// The extended resource that counts GPUs.
    pub gpu_resource: String,
    /// The time of day.
    pub clock: Clock,
    /// Counters.
    pub metrics: Metrics,
}

/// The actor.
pub struct Scheduler {
    context: Context,
    /// Tenants by namespace: name, and the UID of the one whose hourly window was taken over.
    tenants: HashMap<String, (String, String)>,
    /// When tenants change their phase by themselves.
    phase_changes: BTreeSet<(Timestamp, String)>,
    /// Jobs by UID.
    jobs: HashMap<Arc<str>, ObjectRef<Job>>,
    pods: JobPods,
    daemons: DaemonUsage,
    ready: bool,
}

/// An event of one of the watches.
enum WatchEvent {
    Tenant(Change<Tenant>),
    Job(Change<Job>),
    Pod(Change<Pod>),
    Node(Change<Node>),
    Other(Change<Pod>),
    Foreign(Change<Pod>),
}

impl Scheduler {
    /// One that has seen no event yet.
    #[must_use]
    pub fn new(context: Context) -> Self {
        Self {
            context,
            tenants: HashMap::new(),
            phase_changes: BTreeSet::new(),
            jobs: HashMap::new(),
            pods: JobPods::default(),
            daemons: DaemonUsage::default(),
            ready: false,
        }
    }

    /// Decides until the watches end. Cancel safe between decisions: nothing is written but the handle's state.
    pub async fn run(mut self, changes: Changes) {
        let mut events = stream::select_all([
            received(changes.tenants).map(WatchEvent::Tenant).boxed(),
            received(changes.jobs).map(WatchEvent::Job).boxed(),
            received(changes.pods).map(WatchEvent::Pod).boxed(),
            received(changes.nodes).map(WatchEvent::Node).boxed(),
            received(changes.others).map(WatchEvent::Other).boxed(),
            received(changes.foreign).map(WatchEvent::Foreign).boxed(),
        ])
        .ready_chunks(MAX_BATCH);
        // Each kind is synced once before anything is decided.
        let mut unsynced: BTreeSet<&'static str> = KINDS.into();
        loop {
            // Nothing is decided before all caches are synced, whatever has become due.
            let wait = if unsynced.is_empty() { self.next_wakeup() } else { None };
            tokio::select! {
                batch = events.next() => {
                    let Some(batch) = batch else { return };
                    for kind in batch.iter().filter_map(WatchEvent::synced) {
                        unsynced.remove(kind);
                    }
                    self.apply(batch);
                }
                changed = self.context.plans.changed() => {
                    if changed.is_err() { return }
                    self.requeue_all_tenants();
                }
                changed = self.context.scenarios.changed() => {
                    if changed.is_err() { return }
                    self.requeue_all_jobs();
                }
                () = self.context.handle.changed() => (),
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

/// Applying events.
impl Scheduler {
    fn apply(&mut self, batch: Vec<WatchEvent>) {
        let handle = self.context.handle.clone();
        let reading = self.context.clock.read();
        let now = reading.wall;
        handle.with(|dispatcher| {
            dispatcher.tick(reading);
            for event in batch {
                match event {
                    WatchEvent::Tenant(Change::Applied(tenant)) => self.put_tenant(dispatcher, &tenant, now),
                    WatchEvent::Tenant(Change::Deleted(tenant)) => self.remove_tenant(dispatcher, &tenant),
                    WatchEvent::Job(Change::Applied(job)) => self.put_job(dispatcher, &job),
                    WatchEvent::Job(Change::Deleted(job)) => self.remove_job(dispatcher, &job),
                    WatchEvent::Pod(Change::Applied(pod)) => self.put_pod(dispatcher, &pod),
                    WatchEvent::Pod(Change::Deleted(pod)) => self.remove_pod(dispatcher, &pod),
                    WatchEvent::Node(Change::Applied(node)) => self.put_node(dispatcher, &node),
                    WatchEvent::Node(Change::Deleted(node)) => dispatcher.set_worker(&node.name_any(), None),
                    WatchEvent::Other(Change::Applied(pod)) | WatchEvent::Foreign(Change::Applied(pod)) => {
                        self.put_foreign_pod(dispatcher, &pod, true);
                    }
                    WatchEvent::Other(Change::Deleted(pod)) | WatchEvent::Foreign(Change::Deleted(pod)) => {
                        self.put_foreign_pod(dispatcher, &pod, false);
                    }
                    // An object that can't be read counts as it was last.
                    WatchEvent::Tenant(Change::Invalid(_) | Change::Synced)
                    | WatchEvent::Job(Change::Invalid(_) | Change::Synced)
                    | WatchEvent::Pod(Change::Invalid(_) | Change::Synced)
                    | WatchEvent::Node(Change::Invalid(_) | Change::Synced)
                    | WatchEvent::Other(Change::Invalid(_) | Change::Synced)
                    | WatchEvent::Foreign(Change::Invalid(_) | Change::Synced) => (),
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
        let (input, next_change) = from_objects::tenant(tenant, &self.context.plans.borrow(), now);
        self.phase_changes.retain(|(_, of)| *of != name);
        self.phase_changes.extend(next_change.map(|at| (at, name.clone())));
        let registered = self.tenants.insert(namespace.clone(), (name, uid.clone()));
        if registered.is_none_or(|(_, registered)| registered != uid) {
            let stored = tenant.status.as_ref().and_then(|status| status.job_window.as_ref());
            stored.into_iter().for_each(|window| dispatcher.restore_window(&namespace, window));
        }
        dispatcher.set_tenant(&namespace, Some(input));
    }

    fn remove_tenant(&mut self, dispatcher: &mut Dispatcher, tenant: &Tenant) {
        let (name, uid) = (tenant.name_any(), tenant.uid().unwrap_or_default());
        self.phase_changes.retain(|(_, of)| *of != name);
        // A new tenant of that name may exist already.
        let deleted: Vec<String> = self
            .tenants
            .iter()
            .filter(|(_, registered)| **registered == (name.clone(), uid.clone()))
            .map(|(namespace, _)| namespace.clone())
            .collect();
        for namespace in deleted {
            self.tenants.remove(&namespace);
            self.context.handle.outlook().forget(&namespace);
            dispatcher.set_tenant(&namespace, None);
        }
    }

    fn put_job(&mut self, dispatcher: &mut Dispatcher, job: &Job) {
        let asked = |job: &Job| Resources::of_job(&job.spec, &self.context.scenarios.borrow());
        if let Some(input) = from_objects::job(job, &self.pods, asked) {
            self.jobs.insert(Arc::clone(&input.uid), ObjectRef::from_obj(job));
            let scenarios = self.context.scenarios.borrow();
            times::update(&mut self.context.handle.outlook(), job, &input, &self.pods, &scenarios);
            dispatcher.set_job(input);
        }
    }

    fn remove_job(&mut self, dispatcher: &mut Dispatcher, job: &Job) {
        let uid = job.uid().unwrap_or_default();
        self.jobs.remove(uid.as_str());
        self.put_orphan(dispatcher, &uid);
    }

    /// A job without an object: its pod counts until it has ended.
    fn put_orphan(&self, dispatcher: &mut Dispatcher, job_uid: &str) {
        let mut outlook = self.context.handle.outlook();
        match self.pods.orphan(job_uid) {
            Some(input) => {
                let pod = self.pods.live(&input.namespace, job_uid).cloned();
                outlook.set(&input, JobTimes { pod, ..JobTimes::default() });
                dispatcher.set_job(input);
            }
            None => {
                outlook.remove(job_uid);
                dispatcher.remove_job(job_uid);
            }
        }
    }

    fn put_pod(&mut self, dispatcher: &mut Dispatcher, pod: &Pod) {
        let (Some(uid), Some(namespace)) = (pod.uid(), pod.namespace()) else { return };
        let Some((job_uid, state)) = PodState::of(pod, &self.context.gpu_resource) else { return };
        let uid: Arc<str> = uid.into();
        dispatcher.set_pod(&uid, state.usage_on_node());
        if let Some(charge) = attempt::charge_id(pod) {
            if state.held {
                dispatcher.charge(&namespace, &charge, state.created);
            } else {
                dispatcher.finalizer_removed(&namespace, &charge);
            }
        }
        if self.pods.put(&job_uid, &uid, state) {
            self.update_job_of(dispatcher, pod, &job_uid);
        }
    }

    fn remove_pod(&mut self, dispatcher: &mut Dispatcher, pod: &Pod) {
        let (Some(uid), Some(namespace)) = (pod.uid(), pod.namespace()) else { return };
        let Some((job_uid, _)) = PodState::of(pod, &self.context.gpu_resource) else { return };
        dispatcher.set_pod(&uid.as_str().into(), None);
        if let Some(charge) = attempt::charge_id(pod) {
            dispatcher.finalizer_removed(&namespace, &charge);
        }
        self.pods.remove(&job_uid, &uid);
        self.update_job_of(dispatcher, pod, &job_uid);
    }

    fn update_job_of(&mut self, dispatcher: &mut Dispatcher, pod: &Pod, job_uid: &str) {
        let job = attempt::owner(pod).and_then(|owner| self.context.caches.jobs.get(&owner));
        match job.filter(|job| job.uid().as_deref() == Some(job_uid)) {
            Some(job) => self.put_job(dispatcher, &job),
            // Before all caches are synced, the watch may not have delivered the job yet.
            None if self.ready && !self.jobs.contains_key(job_uid) => self.put_orphan(dispatcher, job_uid),
            None => (),
        }
    }

    fn put_node(&mut self, dispatcher: &mut Dispatcher, node: &Node) {
        let input = worker(node, &self.context.gpu_resource).map(|worker| WorkerInput {
            capacity: worker.allocatable - self.daemons.on(&worker.name),
            open: worker.ready,
            group: worker.group,
        });
        dispatcher.set_worker(&node.name_any(), input);
    }

    fn put_foreign_pod(&mut self, dispatcher: &mut Dispatcher, pod: &Pod, exists: bool) {
        let Some(uid) = pod.uid().map(Arc::<str>::from) else { return };
        let usage = foreign_pods::usage_on_node(pod, &self.context.gpu_resource).filter(|_| exists);
        if foreign_pods::is_daemon(pod) {
            for node in self.daemons.set(&uid, usage) {
                if let Some(node) = self.context.caches.nodes.get(&ObjectRef::new(&node)) {
                    self.put_node(dispatcher, &node);
                }
            }
        } else {
            dispatcher.set_pod(&uid, usage.as_ref().map(|(node, used)| (node.as_str(), *used)));
        }
    }

    /// The scenarios have changed, and so may what jobs ask for.
    fn requeue_all_jobs(&mut self) {
        self.context.scenarios.borrow_and_update();
        let jobs = self.context.caches.jobs.state_filter(|job| job.spec.scenario.is_some());
        self.apply(jobs.into_iter().map(|job| WatchEvent::Job(Change::Applied(job))).collect());
    }

    /// The plans have changed.
    fn requeue_all_tenants(&mut self) {
        self.context.plans.borrow_and_update();
        let tenants = self.context.caches.tenants.state();
        self.apply(tenants.into_iter().map(|tenant| WatchEvent::Tenant(Change::Applied(tenant))).collect());
    }
}

/// Decisions.
impl Scheduler {
    /// All caches are synced.
    fn begin(&mut self) {
        self.ready = true;
        let held: BTreeSet<String> = self
            .context
            .caches
            .pods
            .state()
            .iter()
            .filter(|pod| finalizer::has(&***pod, names::FINALIZER_ACCOUNTED))
            .filter_map(|pod| attempt::charge_id(pod).map(Cow::into_owned))
            .collect();
        let handle = self.context.handle.clone();
        handle.with(|dispatcher| {
            dispatcher.retain_settling(|charge| held.contains(charge));
            let orphans = self.pods.jobs().filter(|uid| !self.jobs.contains_key(*uid));
            orphans.for_each(|uid| self.put_orphan(dispatcher, uid));
        });
    }

    /// How long until something changes by itself.
    fn next_wakeup(&self) -> Option<Duration> {
        let now = self.context.clock.read();
        let (wake, has_reasons) = self.context.handle.with(|d| (d.next_wakeup(now), d.has_reason_updates()));
        let next_change = self.phase_changes.first().map(|(at, _)| at.duration_since(now.wall));
        let waits = [wake, next_change].into_iter().flatten();
        let waits = waits.map(|wait| Duration::try_from(wait).unwrap_or_default());
        waits.chain(has_reasons.then_some(REASON_INTERVAL)).min()
    }

    fn decide(&mut self) {
        let ClockReading { wall: now, steady } = self.context.clock.read();
        let mut changed_tenants = Vec::new();
        while let Some((_, tenant)) = self.phase_changes.first().filter(|(at, _)| *at <= now).cloned() {
            self.phase_changes.pop_first();
            let tenant = self.context.caches.tenants.get(&ObjectRef::new(&tenant));
            changed_tenants.extend(tenant.map(|tenant| WatchEvent::Tenant(Change::Applied(tenant))));
        }
        self.apply(changed_tenants);
        let begun = tokio::time::Instant::now();
        let (handle, courtesy) = (self.context.handle.clone(), &self.context.courtesy);
        let (Decision { decided, usage }, reasons) = handle.decide(|dispatcher| {
            let decision = dispatcher.decide();
            courtesy.admitted(steady, decision.decided.len());
            let reasons = dispatcher.take_reason_updates(courtesy.available(Courtesy::Reason, steady));
            courtesy.take(Courtesy::Reason, reasons.len());
            (decision, reasons)
        });
        self.context.metrics.decided(begun.elapsed());
        for uid in decided.into_iter().chain(reasons) {
            if let Some(job) = self.jobs.get(&uid) {
                self.context.requeue.jobs.send(job.clone());
            }
        }
        for namespace in usage {
            if let Some((tenant, _)) = self.tenants.get(&*namespace) {
                self.context.requeue.tenants.send(ObjectRef::new(tenant));
            }
        }
    }
}

/// The kinds of [`WatchEvent`].
const KINDS: [&str; 6] = ["tenants", "jobs", "pods", "nodes", "others", "foreign"];

impl WatchEvent {
    /// The kind whose cache is synced by this event.
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
