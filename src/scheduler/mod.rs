//! The scheduler: one actor that decides which waiting jobs may start, from the watch caches.
//!
//! It writes nothing to the API server. What it decides stands on the [`Board`], where the job controller, the one
//! writer of every Job, reads it; who is concerned is told by name. An admission is a reservation: it stays on the
//! board, and counts, until the job's own status shows that it was used or is void, so a cache that lags never makes
//! the scheduler hand out the same room twice. After a restart everything is rebuilt from Jobs and Pods, and nothing is
//! decided before all four caches are whole.

mod board;
mod snapshot;

use std::{sync::Arc, time::Duration};

use futures::{Stream, StreamExt, stream};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    Resource,
    runtime::reflector::{ObjectRef, Store},
};
use tokio::sync::{mpsc, watch};

pub use self::board::Board;
use crate::{
    api_types::{Job, Plans, Scenarios, Tenant},
    clock::Clock,
    domain::admission::{Memory, decide},
    kube_ext::{streams::received, watch::Change},
    metrics::Metrics,
};

/// Changes that come within this time are decided upon together.
const COALESCE: Duration = Duration::from_millis(20);
/// Changes taken at once from the channels.
const BATCH: usize = 4096;

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

/// Changes of the four kinds, as they come from the watches.
pub struct Changes {
    /// Of tenants.
    pub tenants: mpsc::Receiver<Change<Tenant>>,
    /// Of jobs.
    pub jobs: mpsc::Receiver<Change<Job>>,
    /// Of pods.
    pub pods: mpsc::Receiver<Change<Pod>>,
    /// Of nodes.
    pub nodes: mpsc::Receiver<Change<Node>>,
}

/// Who is to look again after a decision.
pub struct Concerned {
    /// Jobs whose verdict changed.
    pub jobs: mpsc::Sender<ObjectRef<Job>>,
    /// Tenants whose usage changed.
    pub tenants: mpsc::Sender<ObjectRef<Tenant>>,
}

/// The actor.
pub struct Scheduler {
    /// What it reads.
    pub caches: Caches,
    /// Where its decisions stand.
    pub board: Board,
    /// Who is told.
    pub concerned: Concerned,
    /// The plan table in force.
    pub plans: watch::Receiver<Arc<Plans>>,
    /// The scenarios in force.
    pub scenarios: watch::Receiver<Arc<Scenarios>>,
    /// The extended resource that counts GPUs.
    pub gpu_resource: String,
    /// The time of day.
    pub clock: Clock,
    /// Counters.
    pub metrics: Metrics,
    /// What the last decision left to the next; empty at first.
    pub memory: Memory,
}

/// What a change means to the scheduler.
enum Wake {
    /// Something is different.
    Changed,
    /// A cache is whole.
    Synced(Kind),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Tenants,
    Jobs,
    Pods,
    Nodes,
}

impl Scheduler {
    /// Decides until the watches end. Cancel safe between decisions: nothing is written anywhere but on the board.
    pub async fn run(mut self, changes: Changes) {
        let mut wakes = stream::select_all([
            wakes(changes.tenants, Kind::Tenants).boxed(),
            wakes(changes.jobs, Kind::Jobs).boxed(),
            wakes(changes.pods, Kind::Pods).boxed(),
            wakes(changes.nodes, Kind::Nodes).boxed(),
        ])
        .ready_chunks(BATCH);
        let mut missing = vec![Kind::Tenants, Kind::Jobs, Kind::Pods, Kind::Nodes];
        let mut next: Option<Timestamp> = None;
        loop {
            let wait =
                next.map(|at| Duration::try_from(at.duration_since(self.clock.now())).unwrap_or_default());
            tokio::select! {
                batch = wakes.next() => {
                    let Some(batch) = batch else { return };
                    for wake in batch {
                        if let Wake::Synced(kind) = wake {
                            missing.retain(|k| *k != kind);
                        }
                    }
                }
                changed = self.plans.changed() => if changed.is_err() { return },
                changed = self.scenarios.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(wait.unwrap_or_default()), if wait.is_some() => (),
            }
            if missing.is_empty() {
                next = self.decide().await;
                tokio::time::sleep(COALESCE).await;
            }
        }
    }

    /// One decision; returns when a tenant's standing changes by itself.
    async fn decide(&mut self) -> Option<Timestamp> {
        let plans = Arc::clone(&self.plans.borrow_and_update());
        let scenarios = Arc::clone(&self.scenarios.borrow_and_update());
        let begun = tokio::time::Instant::now();
        let now = self.clock.now();
        let mut snapshot =
            snapshot::take(&self.caches, &self.board, &plans, &scenarios, &self.gpu_resource, now);
        let jobs = std::mem::take(&mut snapshot.jobs);
        let workers = std::mem::take(&mut snapshot.workers);
        let memory = std::mem::take(&mut self.memory);
        let mut decision = decide(&snapshot.tenants, workers, jobs, memory, now);
        self.memory = std::mem::take(&mut decision.memory);
        self.metrics.decided(begun.elapsed(), decision.verdicts.iter().map(|(_, verdict)| verdict));
        let usage = snapshot.usage(&decision.usage);
        let changed = self.board.publish(decision, &snapshot.names, usage);
        for job in changed.jobs {
            // The job controller ends only with the process.
            let _ = self.concerned.jobs.send(job).await;
        }
        for tenant in changed.tenants {
            let _ = self.concerned.tenants.send(ObjectRef::new(&tenant)).await;
        }
        snapshot.next
    }
}

fn wakes<K: Resource + Send + Sync + 'static>(
    changes: mpsc::Receiver<Change<K>>,
    kind: Kind,
) -> impl Stream<Item = Wake> {
    received(changes).map(move |change| match change {
        Change::Synced => Wake::Synced(kind),
        _ => Wake::Changed,
    })
}
