//! The pod-finalizer controller: removes the finalizer of a job pod once what it used is counted.
//!
//! A pod carries the finalizer from its creation. It is removed when the attempt has ended and is on record: in the
//! Job's status, in Postgres where there is one, and, for first attempts and retries, in the hourly window of Tenant status
//! (`waiting`). When Postgres is behind, the Job itself is held instead (one more write, in an outage only), so that pods
//! don't pile up on the nodes' quotas while the database is away.
//!
//! A pod that is being deleted loses the finalizer as soon as that holds: a client waits for it. One that no client
//! deletes keeps it for [`FINALIZER_DELAY`] after its end. Most pods are deleted with their job before that or long
//! after, so this write does not compete with those that start and end jobs, and one write of Tenant status counts
//! many. It is removed all the same, so that no finalizer is in the way when the operator is uninstalled.

mod apply;
mod dereference;
mod error;
mod reconcile;
mod record;
#[cfg(test)]
mod tests;
mod validate;
mod waiting;

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, Stream, StreamExt};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Client, ResourceExt,
    runtime::{
        Controller, controller,
        reflector::{ObjectRef, Store},
    },
};

use self::reconcile::{error_policy, reconcile};
pub use self::{
    error::Error,
    waiting::{RateWindows, Tenants, Waiting},
};
pub use crate::domain::attempt::prepare;
use crate::{
    api_types::{Job, Tenant},
    clock::Clock,
    kube_ext::{
        controller::{Reconciler, log_errors},
        watch::{synced_before, until_synced},
    },
    metrics::Metrics,
};

/// Pods that are reconciled at once.
const CONCURRENCY: u16 = 8;
/// The longest delay after failures in a row.
const LONGEST_DELAY: Duration = Duration::from_secs(30);
/// A pod that no client deletes keeps its finalizer for this long after its end.
pub const FINALIZER_DELAY: SignedDuration = SignedDuration::from_secs(60);

/// What runs the reconciles of pods, for [`Context`].
#[must_use]
pub fn reconciler(metrics: Metrics) -> Reconciler {
    Reconciler::new("attempt", metrics, LONGEST_DELAY)
}

/// What the mirror knows of attempts.
pub trait ChargeStatus: Send + Sync {
    /// Whether the attempt of that job (by UID) is committed.
    fn committed(&self, job_uid: &str, attempt: u32) -> bool;
    /// Whether the mirror is behind, so that waiting for it may take long.
    fn behind(&self) -> bool;
}

/// What the controller works with.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// All jobs.
    pub jobs: Store<Job>,
    /// All pods of ours.
    pub pods: Store<Pod>,
    /// All tenants.
    pub tenants: Tenants,
    /// The mirror; `None` without one.
    pub accounts: Option<Arc<dyn ChargeStatus>>,
    /// Where a charge is asked to be counted.
    pub windows: Arc<dyn RateWindows>,
    /// The pods that wait for their tenant; empty at first.
    pub waiting: Waiting,
    /// The time of day.
    pub clock: Clock,
    /// Runs the reconciles: see [`reconciler`].
    pub reconciler: Reconciler,
}

/// Runs until `shutdown`; reconciles in flight finish first.
pub async fn run(
    context: Arc<Context>,
    pods: impl Stream<Item = Arc<Pod>> + Send + 'static,
    jobs: impl Stream<Item = Arc<Job>> + Send + Sync + 'static,
    tenants: impl Stream<Item = Arc<Tenant>> + Send + Sync + 'static,
    committed: impl Stream<Item = ObjectRef<Pod>> + Send + 'static,
    shutdown: impl Future<Output = ()> + Send + Sync + 'static,
) {
    let shutdown = shutdown.shared();
    // A job or a tenant that the cache lacks still would count as deleted.
    let both = async { until_synced(&context.jobs).await && until_synced(&context.tenants.known).await };
    if !synced_before(both, shutdown.clone()).await {
        return;
    }
    let waiting = Arc::clone(&context);
    let freed = move |tenant: Arc<Tenant>| {
        let Context { waiting, tenants, windows, pods, clock, .. } = &*waiting;
        waiting.freed(&tenant, tenants, &**windows, pods, clock.now())
    };
    Controller::for_shared_stream(pods, context.pods.clone())
        .with_config(controller::Config::default().concurrency(CONCURRENCY))
        .watches_shared_stream(jobs, |job: Arc<Job>| current_pod(&job))
        .watches_shared_stream(tenants, freed)
        .reconcile_on(committed)
        .graceful_shutdown_on(shutdown)
        .run(reconcile, error_policy, context)
        .for_each(log_errors)
        .await;
}

/// The pod that a job's status speaks of.
fn current_pod(job: &Job) -> Option<ObjectRef<Pod>> {
    let name = job.status.as_ref()?.pod.as_ref()?;
    Some(ObjectRef::new(name).within(&job.namespace()?))
}
