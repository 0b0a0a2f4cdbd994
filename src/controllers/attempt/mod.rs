//! The attempt controller: lets a job pod go once what it used is counted.
//!
//! A pod carries a finalizer from its creation. It is taken away when the attempt has ended and is on record: in the
//! Job's status, in Postgres where there is one, and, where it is the first attempt, in the hourly window of Tenant
//! status ([`waiting`]). When Postgres is behind, the Job itself is held instead (one more write, in an outage only), so
//! that pods don't pile up on the nodes' quotas while the database is away.
//!
//! A pod that is being deleted goes as soon as that holds: a client waits for it. One that no client deletes is left for
//! [`FINALIZER_DELAY`] after its end. Most pods are deleted with their job before that or long after, so the write that takes the
//! finalizer away is off the way on which jobs come and go, and one write of Tenant status counts many. It is taken away
//! all the same, so that nothing of ours is in the way when the operator is uninstalled.

#[cfg(test)]
mod tests;
mod waiting;

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, Stream, StreamExt};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt,
    runtime::{
        Controller,
        controller::{self, Action},
        reflector::{ObjectRef, Store},
    },
};

use self::waiting::{Charge, Wait};
pub use self::waiting::{RateWindows, Tenants, Waiting};
use crate::{
    api_types::{Job, Tenant},
    clock::Clock,
    domain::{
        attempt::{self, Ending, Observed},
        job_flow,
    },
    kube_ext::{
        CallError,
        apply::delete_exactly,
        call::within_opt,
        controller::{Reconciler, log_errors},
        finalizer, is_paused,
        watch::{until_whole, whole_before},
    },
    metrics::Metrics,
    names,
};

/// Pods that are let go at once.
const CONCURRENCY: u16 = 8;
/// The longest delay after failures in a row.
const LONGEST_DELAY: Duration = Duration::from_secs(30);
/// The time between two questions to the mirror whether it has an attempt.
const MIRROR_POLL: Duration = Duration::from_secs(2);
/// When to ask again for a pod to be counted: the tenant's change should have told of it, but the window lets only so
/// many be on their way at once.
const CHARGE_POLL: Duration = Duration::from_secs(5);
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
    // A job or a tenant that is not in the cache yet would count as gone.
    let both = async { until_whole(&context.jobs).await && until_whole(&context.tenants.known).await };
    if !whole_before(both, shutdown.clone()).await {
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

async fn reconcile(pod: Arc<Pod>, context: Arc<Context>) -> Result<Action, CallError> {
    context.reconciler.run(&*pod, release(&pod, &context)).await
}

#[expect(clippy::needless_pass_by_value, reason = "the signature that a Controller asks for")]
fn error_policy(pod: Arc<Pod>, error: &CallError, context: Arc<Context>) -> Action {
    context.reconciler.retry(&*pod, error)
}

/// Removes the finalizer of a pod whose attempt is on record.
async fn release(pod: &Pod, context: &Context) -> Result<Action, CallError> {
    let namespace = pod.namespace().unwrap_or_default();
    let (Some(number), Some(job_uid)) = (attempt::number(pod), attempt::job_uid(pod)) else {
        return Ok(Action::await_change());
    };
    context.waiting.remove(pod);
    if !finalizer::has(pod, names::FINALIZER_ACCOUNTED) {
        return Ok(Action::await_change());
    }
    // Nothing keeps a pod from its end: its node and its tenant wait for it.
    let leaves = pod.metadata.deletion_timestamp.is_some() || context.tenants.charged(pod).is_none();
    if is_paused(pod) && !leaves {
        return Ok(Action::await_change());
    }
    let owner = attempt::owner(pod);
    let Some(ending) = over(pod) else {
        if owner.is_none() && pod.metadata.deletion_timestamp.is_none() {
            end_orphan(pod, job_uid, context).await?;
        }
        return Ok(Action::await_change());
    };
    let job = owner.as_ref().and_then(|owner| context.jobs.get(owner));
    let job = job.filter(|job| job.uid().as_deref() == Some(job_uid));
    if job.as_deref().is_some_and(|job| !recorded(job, number)) {
        return Ok(Action::await_change());
    }
    if let Some(left) = delays_finalizer(pod, &ending, context) {
        return Ok(Action::requeue(left));
    }
    let hold = match context.accounts.as_ref().filter(|a| !a.committed(job_uid, number)) {
        None => {
            if let (None, Some(owner)) = (&job, &owner)
                && exists(owner, job_uid, context).await?
            {
                return Ok(Action::requeue(MIRROR_POLL));
            }
            None
        }
        Some(accounts) => match job.filter(|job| accounts.behind() && can_be_held(job)) {
            None => return Ok(Action::requeue(MIRROR_POLL)),
            held => held,
        },
    };
    if !charge_stored(pod, context) {
        return Ok(Action::requeue(CHARGE_POLL));
    }
    if let Some(job) = hold {
        let jobs: Api<Job> = Api::namespaced(context.client.clone(), &namespace);
        finalizer::add(&jobs, &job, names::FINALIZER_ACCOUNTED).await?;
    }
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &namespace);
    finalizer::remove(&api, pod, names::FINALIZER_ACCOUNTED).await?;
    Ok(Action::await_change())
}

/// How the attempt ended, of a pod that can't run any more.
fn over(pod: &Pod) -> Option<Ending> {
    match attempt::observe(pod) {
        Observed::Ended(ending) if attempt::is_over(pod) => Some(ending),
        _ => None,
    }
}

/// Ends a pod whose Job was deleted with `--cascade=orphan`: to delete a job is to cancel it, whatever the cascade.
async fn end_orphan(pod: &Pod, job_uid: &str, context: &Context) -> Result<(), CallError> {
    if context.jobs.find(|job| job.metadata.uid.as_deref() == Some(job_uid)).is_some() {
        return Ok(());
    }
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &pod.namespace().unwrap_or_default());
    delete_exactly(&api, &pod.name_any(), &pod.uid().unwrap_or_default(), None).await
}

/// How long a pod that no client deletes is left as it is. The pods of a tenant that goes are not: it waits for them.
fn delays_finalizer(pod: &Pod, ending: &Ending, context: &Context) -> Option<Duration> {
    let left = finalizer_delay_left(ending.finished_at, context.clock.now())
        .filter(|_| pod.metadata.deletion_timestamp.is_none())?;
    context.waiting.add(pod, Wait::Time);
    if context.tenants.charged(pod).is_none() {
        context.waiting.remove(pod);
        return None;
    }
    Some(left)
}

/// `None` when it is over. A node whose clock is far ahead is not believed.
fn finalizer_delay_left(finished_at: Timestamp, now: Timestamp) -> Option<Duration> {
    let since = now.duration_since(finished_at);
    let delays_finalizer = -FINALIZER_DELAY <= since && since < FINALIZER_DELAY;
    delays_finalizer.then(|| (FINALIZER_DELAY - since).unsigned_abs())
}

/// Whether the tenant's status counts the pod's charge, where there is one. Asks for it where it does not.
fn charge_stored(pod: &Pod, context: &Context) -> bool {
    let Some(charge) = Charge::of(pod) else { return true };
    context.waiting.add(pod, Wait::Stored(charge.clone()));
    let stored = |tenant: Arc<Tenant>| charge.is_stored(&tenant, &*context.windows, context.clock.now());
    if context.tenants.charged(pod).is_none_or(stored) {
        context.waiting.remove(pod);
        return true;
    }
    charge.store(&*context.windows, pod.metadata.deletion_timestamp.is_some());
    false
}

/// Whether a job can be held in place of its pod: only what the Job carries in its status may go before Postgres has
/// it, and one that is being deleted takes no new finalizer.
fn can_be_held(job: &Job) -> bool {
    job.metadata.deletion_timestamp.is_none() || finalizer::has(job, names::FINALIZER_ACCOUNTED)
}

/// Asks the API server whether a job exists that the cache does not have: one that can't be read, or a new one.
async fn exists(job: &ObjectRef<Job>, uid: &str, context: &Context) -> Result<bool, CallError> {
    let api: Api<Job> = Api::namespaced(context.client.clone(), job.namespace.as_deref().unwrap_or_default());
    let found =
        within_opt(format!("failed to look up job {}", job.name), api.get_metadata(&job.name)).await?;
    Ok(found.is_some_and(|found| found.uid().as_deref() == Some(uid)))
}

/// Whether the job's status tells how the attempt ended.
fn recorded(job: &Job, number: u32) -> bool {
    let number = i32::try_from(number).unwrap_or(i32::MAX);
    job.status.as_ref().is_some_and(|status| job_flow::on_record(status, number))
}
