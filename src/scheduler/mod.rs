//! The scheduler: one actor that gives the events of the watches to the [`Dispatcher`] and requeues what its decisions concern.
//!
//! The path of a job from its watch event to its pod:
//!
//! 1. In `observer.rs`, `put_job` makes the input of it and calls [`Dispatcher::set_job`], which notes the job as an arrival
//!    of its tenant's queue and enqueues the tenant for the next cycle. Here, [`Scheduler`]'s `decide` runs the cycle.
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
//!
//! A process that does not schedule knows what a scheduler would that began at this moment (`snapshot`): estimates of starts
//! need no more.

mod copies;
mod foreign_pods;
mod from_objects;
mod handle;
mod observer;
mod snapshot;
#[cfg(test)]
pub(crate) mod tests;
mod times;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use futures::{StreamExt, stream};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::runtime::reflector::{ObjectRef, Store};
use tokio::sync::{mpsc, watch};

use self::observer::Observer;
pub use self::{foreign_pods::prepare as prepare_foreign_pods, handle::SchedulerHandle};
use crate::{
    api_types::{Job, Plans, Scenarios, Tenant},
    clock::{Clock, ClockReading},
    domain::admission::{Decision, Dispatcher},
    kube_ext::{
        courtesy::{Courtesy, CourtesyBudget},
        streams::{DistinctSender, received},
        watch::Change,
    },
    metrics::Metrics,
};

/// Events within this time are decided upon together.
const COALESCE: Duration = Duration::from_millis(20);
/// Events taken at once from the channels.
const MAX_BATCH: usize = 4096;
/// How often waiting jobs get new reasons, while some have to.
const REASON_INTERVAL: Duration = Duration::from_millis(100);

/// The caches that the scheduler reads.
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
    /// All other pods.
    pub others: Store<Pod>,
    /// Pods that carry Crofter's labels and are foreign.
    pub foreign: Store<Pod>,
}

/// What the scheduler reads.
#[derive(Clone)]
pub struct Sources {
    /// The objects.
    pub caches: Caches,
    /// The plan table in force.
    pub plans: watch::Receiver<Arc<Plans>>,
    /// The catalogue of scenarios in force.
    pub scenarios: watch::Receiver<Arc<Scenarios>>,
    /// The extended resource that counts GPUs.
    pub gpu_resource: String,
    /// The groups whose pools get nodes for jobs that wait.
    pub elastic: Vec<String>,
    /// The time of day.
    pub clock: Clock,
}

impl Sources {
    /// A dispatcher that has no objects yet.
    fn dispatcher(&self) -> Dispatcher {
        Dispatcher::new(self.elastic.iter().map(String::as_str))
    }
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

/// Where the scheduler's decisions go.
pub struct Outputs {
    /// The controllers' queues.
    pub requeue: RequeueSenders,
    /// The budget of status writes that no client waits for.
    pub courtesy: CourtesyBudget,
    /// Counters.
    pub metrics: Metrics,
}

/// The actor.
pub struct Scheduler {
    observer: Observer,
    sources: Sources,
    handle: SchedulerHandle,
    outputs: Outputs,
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
    /// One that has seen no event yet, and whose decisions `handle` shows.
    #[must_use]
    pub fn new(sources: Sources, handle: SchedulerHandle, outputs: Outputs) -> Self {
        Self { observer: Observer::new(sources.clone(), handle.clone()), sources, handle, outputs }
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
                    self.observer.apply(batch);
                }
                changed = self.sources.plans.changed() => {
                    if changed.is_err() { return }
                    self.observer.requeue_all_tenants();
                }
                changed = self.sources.scenarios.changed() => {
                    if changed.is_err() { return }
                    self.observer.requeue_all_jobs();
                }
                () = self.handle.changed() => (),
                () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => (),
            }
            if !unsynced.is_empty() {
                continue;
            }
            if !self.observer.is_ready() {
                self.observer.begin();
            }
            self.decide();
            tokio::time::sleep(COALESCE).await;
        }
    }
}

/// Decisions.
impl Scheduler {
    /// How long until something changes by itself.
    fn next_wakeup(&self) -> Option<Duration> {
        let now = self.sources.clock.read();
        let (wake, has_reasons) = self.handle.with(|d| (d.next_wakeup(now), d.has_reason_updates()));
        let next_change = self.observer.next_phase_change().map(|at| at.duration_since(now.wall));
        let waits = [wake, next_change].into_iter().flatten();
        let waits = waits.map(|wait| Duration::try_from(wait).unwrap_or_default());
        waits.chain(has_reasons.then_some(REASON_INTERVAL)).min()
    }

    fn decide(&mut self) {
        let ClockReading { wall: now, steady } = self.sources.clock.read();
        self.observer.apply_phase_changes(now);
        let begun = tokio::time::Instant::now();
        let Outputs { requeue, courtesy, metrics } = &self.outputs;
        let (Decision { decided, usage }, reasons) = self.handle.decide(|dispatcher| {
            let decision = dispatcher.decide();
            courtesy.admitted(steady, decision.decided.len());
            let reasons = dispatcher.take_reason_updates(courtesy.available(Courtesy::Reason, steady));
            courtesy.take(Courtesy::Reason, reasons.len());
            (decision, reasons)
        });
        metrics.decided(begun.elapsed());
        for uid in decided.into_iter().chain(reasons) {
            if let Some(job) = self.observer.job(&uid) {
                requeue.jobs.send(job.clone());
            }
        }
        for namespace in usage {
            if let Some(tenant) = self.observer.tenant(&namespace) {
                requeue.tenants.send(ObjectRef::new(tenant));
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
