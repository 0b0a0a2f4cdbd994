//! The attempt controller: lets a job pod go once what it used is counted.
//!
//! A pod carries a finalizer from its creation. It is taken away when the attempt has ended and is on record: in the
//! Job's status, and in Postgres where there is one. When Postgres is behind, the Job itself is held instead (one more
//! write, in an outage only), so that pods don't pile up on the nodes' quotas while the database is away.

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, Stream, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt,
    runtime::{
        Controller,
        controller::{self, Action},
        reflector::{ObjectRef, Store},
    },
};

use crate::{
    api_types::Job,
    domain::{
        attempt::{self, Observed},
        job_flow,
    },
    kube_ext::{
        CallError,
        call::within_opt,
        finalizer, is_paused,
        watch::{until_whole, whole_before},
    },
    metrics::Metrics,
    names,
};

/// Pods that are let go at once.
const CONCURRENCY: u16 = 32;
/// Name in metrics.
const CONTROLLER: &str = "attempt";
/// When to ask the mirror again.
const LATER: Duration = Duration::from_secs(2);

/// What the mirror knows of attempts.
pub trait Accounts: Send + Sync {
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
    /// The mirror; `None` without one.
    pub accounts: Option<Arc<dyn Accounts>>,
    /// Counters.
    pub metrics: Metrics,
}

/// Runs until `shutdown`; what is under way is finished first.
pub async fn run(
    context: Arc<Context>,
    pods: impl Stream<Item = Arc<Pod>> + Send + 'static,
    jobs: impl Stream<Item = Arc<Job>> + Send + Sync + 'static,
    committed: impl Stream<Item = ObjectRef<Pod>> + Send + 'static,
    shutdown: impl Future<Output = ()> + Send + Sync + 'static,
) {
    let shutdown = shutdown.shared();
    // A job that is not in the cache yet would count as gone.
    if !whole_before(until_whole(&context.jobs), shutdown.clone()).await {
        return;
    }
    Controller::for_shared_stream(pods, context.pods.clone())
        .with_config(controller::Config::default().concurrency(CONCURRENCY))
        .watches_shared_stream(jobs, |job: Arc<Job>| current_pod(&job))
        .reconcile_on(committed)
        .graceful_shutdown_on(shutdown)
        .run(reconcile, |_, _, _| Action::requeue(LATER), context)
        .for_each(|_| std::future::ready(()))
        .await;
}

/// The pod that a job's status speaks of.
fn current_pod(job: &Job) -> Option<ObjectRef<Pod>> {
    let name = job.status.as_ref()?.pod.as_ref()?;
    Some(ObjectRef::new(name).within(&job.namespace()?))
}

async fn reconcile(pod: Arc<Pod>, context: Arc<Context>) -> Result<Action, CallError> {
    let begun = tokio::time::Instant::now();
    let result = release(&pod, &context).await;
    let category = result.as_ref().map_or_else(CallError::category, |_| "ok");
    context.metrics.reconciled(CONTROLLER, category, begun.elapsed());
    if let Err(error) = &result
        && !error.is_conflict()
    {
        tracing::warn!(pod = pod.name_any(), namespace = pod.namespace(), %error, "a pod was not let go yet");
    }
    result
}

async fn release(pod: &Pod, context: &Context) -> Result<Action, CallError> {
    let namespace = pod.namespace().unwrap_or_default();
    let (Some(number), Some(job_uid)) = (attempt::number(pod), attempt::job_uid(pod)) else {
        return Ok(Action::await_change());
    };
    if is_paused(pod)
        || !finalizer::has(pod, names::FINALIZER_ACCOUNTED)
        || !matches!(attempt::observe(pod), Observed::Ended(_))
    {
        return Ok(Action::await_change());
    }
    let owner = attempt::owner(pod);
    let job = owner.as_ref().and_then(|owner| context.jobs.get(owner));
    let job = job.filter(|job| job.uid().as_deref() == Some(job_uid));
    if job.as_deref().is_some_and(|job| !recorded(job, number)) {
        return Ok(Action::await_change());
    }
    let api: Api<Pod> = Api::namespaced(context.client.clone(), &namespace);
    let Some(accounts) = context.accounts.as_ref().filter(|a| !a.committed(job_uid, number)) else {
        if let (None, Some(owner)) = (&job, &owner)
            && exists(owner, job_uid, context).await?
        {
            return Ok(Action::requeue(LATER));
        }
        finalizer::remove(&api, pod, names::FINALIZER_ACCOUNTED).await?;
        return Ok(Action::await_change());
    };
    // Only what the Job carries in its status may go before Postgres has it; the Job then stays. One that is being
    // deleted takes no new finalizer.
    let holds = |job: &Arc<Job>| {
        job.metadata.deletion_timestamp.is_none() || finalizer::has(&**job, names::FINALIZER_ACCOUNTED)
    };
    if let (true, Some(job)) = (accounts.behind(), job.filter(holds)) {
        let jobs: Api<Job> = Api::namespaced(context.client.clone(), &namespace);
        finalizer::add(&jobs, &job, names::FINALIZER_ACCOUNTED).await?;
        finalizer::remove(&api, pod, names::FINALIZER_ACCOUNTED).await?;
        return Ok(Action::await_change());
    }
    Ok(Action::requeue(LATER))
}

/// Asks the API server whether a job exists that the cache does not have: one that can't be read, or a new one.
async fn exists(job: &ObjectRef<Job>, uid: &str, context: &Context) -> Result<bool, CallError> {
    let api: Api<Job> = Api::namespaced(context.client.clone(), job.namespace.as_deref().unwrap_or_default());
    let found = within_opt(format!("looking for job {}", job.name), api.get_metadata(&job.name)).await?;
    Ok(found.is_some_and(|found| found.uid().as_deref() == Some(uid)))
}

/// Whether the job's status tells how the attempt ended.
fn recorded(job: &Job, number: u32) -> bool {
    let number = i32::try_from(number).unwrap_or(i32::MAX);
    job.status.as_ref().is_some_and(|status| job_flow::on_record(status, number))
}
