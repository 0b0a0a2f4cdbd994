//! The job controller: takes the next step of every Job, and is the one writer of its status and of its pods.
//!
//! `reconcile` shows the five steps, each in a module of its own: `dereference` (caches and the scheduler's verdict),
//! `validate`, the decision (`domain::job_flow`), `apply` (with `create` and `build` for a pod), `status`. Each is safe to repeat: a pod's
//! name is a function of the Job's UID and the attempt, a status is written only over the version that it was computed
//! from, and a deletion names the UID that it is meant for.

mod ages;
mod api;
mod apply;
mod build;
mod cached;
mod create;
mod dereference;
mod error;
mod expectations;
mod inflight;
mod invalid;
mod outage;
mod outcome;
mod reconcile;
mod status;
#[cfg(test)]
mod tests;
mod triggers;
mod validate;

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, Stream, StreamExt, future};
use jiff::SignedDuration;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Client,
    runtime::{
        Controller, controller,
        reflector::{ObjectRef, Store, store::Writer},
    },
};
use tokio::sync::{mpsc, watch};

use self::reconcile::{error_policy, reconcile};
pub use self::{
    ages::Ages, cached::prepare, error::Error, expectations::PodExpectations, inflight::InflightReconciles,
    outage::Outages,
};
use crate::{
    api_types::{Job, Plans, Scenarios, Tenant},
    clock::Clock,
    config::Settings,
    domain::attempt,
    kube_ext::{
        controller::{Reconciler, log_errors},
        events::Events,
        invalid::{InvalidObjects, Meta, split_invalid},
        mutation_cache::MutationCache,
        streams::{held_until, received},
        watch::{Change, synced_before, until_synced},
    },
    metrics::Metrics,
    scheduler::SchedulerHandle,
};

/// Jobs that are reconciled at once. On two cores an API server does no more with 128 requests in flight than with 32,
/// and sometimes no more than with 16 (`make bench` prints it); each waits the longer.
const CONCURRENCY: u16 = 16;
/// Room between the jobs' watch and the two controllers.
const CHANNEL: usize = 64;
/// The longest delay after failures in a row.
const LONGEST_DELAY: Duration = Duration::from_secs(30);
/// What runs the reconciles of jobs, for [`Context`].
#[must_use]
pub fn reconciler(metrics: Metrics) -> Reconciler {
    Reconciler::new("job", metrics, LONGEST_DELAY)
}

/// Whether a job is in the mirror as it is.
pub type Mirrored = Arc<dyn Fn(&Job) -> bool + Send + Sync>;

/// What the controller works with.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// All jobs.
    pub jobs: Store<Job>,
    /// Which of them can't be read.
    pub invalid: InvalidObjects<Job>,
    /// All pods of ours.
    pub pods: Store<Pod>,
    /// All tenants.
    pub tenants: Store<Tenant>,
    /// The scheduler's decisions.
    pub scheduler: SchedulerHandle,
    /// The plan table in force.
    pub plans: watch::Receiver<Arc<Plans>>,
    /// The scenarios in force.
    pub scenarios: watch::Receiver<Arc<Scenarios>>,
    /// The operator's configuration.
    pub settings: Settings,
    /// A pod must have started this long after it was made.
    pub start_limit: SignedDuration,
    /// Whether the mirror has a job; `None` without a mirror.
    pub mirrored: Option<Mirrored>,
    /// Where Events go.
    pub events: Events,
    /// Reconciles in flight.
    pub inflight: InflightReconciles,
    /// Jobs as last written.
    pub mutations: MutationCache<Job>,
    /// Pods made lately.
    pub expectations: PodExpectations,
    /// When attempts were first seen.
    pub ages: Ages,
    /// Where no pods can be created at the moment.
    pub outages: Outages,
    /// The time of day.
    pub clock: Clock,
    /// Counters.
    pub metrics: Metrics,
    /// Runs the reconciles: see [`reconciler`].
    pub reconciler: Reconciler,
}

/// The changes of jobs.
pub struct Changes {
    /// Of all jobs.
    pub all: mpsc::Receiver<Change<Job>>,
    /// Where the ones that can't be read are kept.
    pub invalid: Writer<Meta<Job>>,
}

/// Runs until `shutdown`; reconciles in flight finish first.
///
/// No job is reconciled before the caches of jobs, pods and tenants are whole: a pod that the cache lacks counts as
/// deleted. Then jobs that were admitted come first, and those that have a pod; all others are reconciled after the
/// first decision, or 100,000 that wait or have ended would delay the first pod by seconds.
pub async fn run(
    context: Arc<Context>,
    jobs: Changes,
    pods: impl Stream<Item = Arc<Pod>> + Send + Sync + 'static,
    tenants: impl Stream<Item = Arc<Tenant>> + Send + 'static,
    requeued: impl Stream<Item = ObjectRef<Job>> + Send + 'static,
    shutdown: impl Future<Output = ()> + Send + Sync + 'static,
) {
    let shutdown = shutdown.boxed().shared();
    let (valid_sender, objects) = mpsc::channel(CHANNEL);
    let (invalid_sender, metas) = mpsc::channel(CHANNEL);
    let forgetful = Arc::clone(&context);
    let forget = move |job: &Job| forgetful.ages.forget(job);
    let splitting = split_invalid(jobs.all, jobs.invalid, valid_sender, invalid_sender, forget);
    let config = controller::Config::default().concurrency(CONCURRENCY);
    let until_decided = || {
        let scheduler = context.scheduler.clone();
        async move { scheduler.until_ready().await }
    };
    let (objects, tenants) =
        (held_until(received(objects), until_decided()), held_until(tenants, until_decided()));
    let controller = Controller::for_shared_stream(objects, context.jobs.clone())
        .with_config(config)
        .watches_shared_stream(pods, |pod: Arc<Pod>| attempt::owner(&pod))
        .reconcile_on(requeued)
        .reconcile_on(triggers::of_changed_tenants(tenants, context.tenants.clone(), context.jobs.clone()))
        .graceful_shutdown_on(shutdown.clone())
        .run(reconcile, error_policy, Arc::clone(&context))
        .for_each(log_errors);
    let invalid_controller = Controller::for_shared_stream(received(metas), context.invalid.store())
        .graceful_shutdown_on(shutdown.clone())
        .run(
            invalid::reconcile,
            |job, error, context| context.reconciler.retry(&*job, error),
            Arc::clone(&context),
        )
        .for_each(log_errors);
    // A pod that the cache lacks still would count as deleted, and another attempt could start while it runs.
    let whole = async {
        until_synced(&context.jobs).await
            && until_synced(&context.pods).await
            && until_synced(&context.tenants).await
    };
    let reconciles = async {
        if synced_before(whole, shutdown).await {
            future::join(controller, invalid_controller).await;
        }
    };
    let endless = splitting.then(|()| future::pending::<()>());
    future::select(Box::pin(reconciles), Box::pin(endless)).await;
}
