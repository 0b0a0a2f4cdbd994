//! The job controller: takes every Job one step further, and is the one writer of its status and of its pods.
//!
//! The steps are `domain::job_flow`'s; here they are carried out. Each is safe to repeat: a pod's name is a function of
//! the Job's UID and the attempt, a status is written only over the version that it was computed from, and a deletion
//! names the UID it means.

mod ages;
mod build;
mod cached;
mod create;
mod inflight;
mod invalid;
mod outage;
#[cfg(test)]
mod tests;
mod triggers;
mod write_cache;

use std::{sync::Arc, time::Duration};

use futures::{FutureExt, Stream, StreamExt, future};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, Client, ResourceExt,
    api::{ObjectMeta, Patch, PatchParams},
    runtime::{
        Controller,
        controller::{self, Action},
        reflector::{ObjectRef, Store, store::Writer},
    },
};
use serde_json::Value;
use tokio::sync::{mpsc, watch};

use self::triggers::Limits;
pub use self::{
    ages::Ages,
    cached::prepare,
    inflight::InflightReconciles,
    outage::Outages,
    write_cache::{MutationCache, PodExpectations},
};
use crate::{
    api_types::{Job, JobPhase, JobStatus, Plans, Reason, Scenarios, Tenant, tenant::SuspendPolicy},
    clock::Clock,
    config::Settings,
    domain::{
        attempt,
        job_flow::{self, Step, View},
        job_pod::JobPod,
        job_state::{IllegalMove, is_terminal},
        tenant_state,
    },
    kube_ext::{
        CallError,
        apply::delete_exactly,
        call::within_opt,
        controller::{ReconcileError, Reconciler, log_errors},
        events::Events,
        finalizer,
        invalid::{InvalidObjects, Meta, sort},
        is_paused,
        status::{self, StatusError},
        streams::{held_until, received},
        watch::{Change, until_whole, whole_before},
    },
    metrics::Metrics,
    names,
    scheduler::SchedulerHandle,
};

/// Jobs that are taken further at once. On two cores an API server does no more with 128 requests in flight than with 32,
/// and sometimes no more than with 16 (`make bench` prints it); each waits the longer.
const CONCURRENCY: u16 = 16;
/// Room between the jobs' watch and the two controllers.
const CHANNEL: usize = 64;
/// The longest delay after failures in a row.
const LONGEST_DELAY: Duration = Duration::from_secs(30);
/// The delay before a job is reconciled again whose tenant or pod the cache lacks still.
const CACHE_REQUEUE: Duration = Duration::from_millis(500);
/// The time between two questions to the mirror whether it has a job.
const MIRROR_POLL: Duration = Duration::from_secs(5);

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
    /// What the administrator set.
    pub settings: Settings,
    /// A pod must have started this long after it was made.
    pub start_limit: SignedDuration,
    /// The mirror's word on a job; `None` without a mirror.
    pub mirrored: Option<Mirrored>,
    /// For people.
    pub events: Events,
    /// Steps under way.
    pub inflight: InflightReconciles,
    /// Jobs as last written.
    pub mutations: MutationCache,
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

/// Why a step was not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A call to the API server failed.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The status was not written.
    #[error(transparent)]
    Status(#[from] StatusError),
}

impl ReconcileError for Error {
    fn category(&self) -> &'static str {
        match self {
            Self::Call(error) | Self::Status(StatusError::Call(error)) => error.category(),
            Self::Status(StatusError::Serialise(_)) => "serialise",
        }
    }
}

/// What the watch delivers jobs.
pub struct Changes {
    /// All of it.
    pub all: mpsc::Receiver<Change<Job>>,
    /// Where the ones that can't be read are kept.
    pub invalid: Writer<Meta<Job>>,
}

/// Runs until `shutdown`; reconciles in flight finish first.
///
/// Nothing happens before the caches of jobs, pods and tenants are whole: a pod that is not there is taken for gone. Then
/// jobs that were admitted come first, and those that have a pod; all others are looked at after the first decision, or
/// 100,000 that wait or have ended would keep the first one from its pod for seconds.
pub async fn run(
    context: Arc<Context>,
    jobs: Changes,
    pods: impl Stream<Item = Arc<Pod>> + Send + Sync + 'static,
    tenants: impl Stream<Item = Arc<Tenant>> + Send + 'static,
    concerned: impl Stream<Item = ObjectRef<Job>> + Send + 'static,
    shutdown: impl Future<Output = ()> + Send + Sync + 'static,
) {
    let shutdown = shutdown.boxed().shared();
    let (valid_sender, objects) = mpsc::channel(CHANNEL);
    let (invalid_sender, metas) = mpsc::channel(CHANNEL);
    let forgetful = Arc::clone(&context);
    let gone = move |job: &Job| forgetful.ages.forget(job);
    let sorting = sort(jobs.all, jobs.invalid, valid_sender, invalid_sender, gone);
    let config = controller::Config::default().concurrency(CONCURRENCY);
    let decided = || {
        let scheduler = context.scheduler.clone();
        async move { scheduler.until_ready().await }
    };
    let (objects, tenants) = (held_until(received(objects), decided()), held_until(tenants, decided()));
    let controller = Controller::for_shared_stream(objects, context.jobs.clone())
        .with_config(config)
        .watches_shared_stream(pods, |pod: Arc<Pod>| attempt::owner(&pod))
        .reconcile_on(concerned)
        .reconcile_on(triggers::of_changed_tenants(tenants, context.tenants.clone(), context.jobs.clone()))
        .graceful_shutdown_on(shutdown.clone())
        .run(reconcile, error_policy, Arc::clone(&context))
        .for_each(log_errors);
    let second = Controller::for_shared_stream(received(metas), context.invalid.store())
        .graceful_shutdown_on(shutdown.clone())
        .run(
            invalid::reconcile,
            |job, error, context| context.reconciler.retry(&*job, error),
            Arc::clone(&context),
        )
        .for_each(log_errors);
    // A pod that is not in the cache yet would count as gone, and another attempt could start beside it.
    let whole = async {
        until_whole(&context.jobs).await
            && until_whole(&context.pods).await
            && until_whole(&context.tenants).await
    };
    let reconciles = async {
        if whole_before(whole, shutdown).await {
            future::join(controller, second).await;
        }
    };
    let endless = sorting.then(|()| future::pending::<()>());
    future::select(Box::pin(reconciles), Box::pin(endless)).await;
}

async fn reconcile(job: Arc<Job>, context: Arc<Context>) -> Result<Action, Error> {
    let _inflight = context.inflight.begin();
    context.reconciler.run(&*job, advance(Arc::clone(&job), &context)).await
}

#[expect(clippy::needless_pass_by_value, reason = "the signature that a Controller asks for")]
fn error_policy(job: Arc<Job>, error: &Error, context: Arc<Context>) -> Action {
    context.reconciler.retry(&*job, error)
}

/// Finds out how the job is, and takes its next step.
async fn advance(cached: Arc<Job>, context: &Context) -> Result<Action, Error> {
    let job = &*context.mutations.newest(cached);
    if context.invalid.contains(job) {
        // What the cache holds is out of date; `unreadable` looks after it.
        return Ok(Action::await_change());
    }
    let now = context.clock.now();
    let tenant = tenant(job, context);
    let pods = pods(job, context);
    let steady = context.ages.now(job, &pods, &context.clock);
    let verdict = context.scheduler.verdict(&job.uid().unwrap_or_default());
    let view = View {
        job,
        pods: &pods,
        verdict: verdict.as_ref(),
        running_limit: Limits::in_force(context).running(job, tenant.as_deref()),
        drain: tenant.as_deref().and_then(|t| drains(t, now)),
        start_limit: context.start_limit,
        gpu_resource: &context.settings.gpu_resource,
        busy: context.inflight.is_saturated(),
        foreign: is_foreign(job, context),
        now,
        steady,
    };
    if is_paused(job) && !leaves(&view, tenant.as_deref()) {
        return Ok(look_again(job_flow::time_is_up(&view), steady));
    }
    match job_flow::next(&view) {
        Ok(step) => carry_out(step, &view, tenant.as_deref(), context).await,
        Err(error) => report(job, &error, context).await,
    }
}

/// Whether the job is on its way out, from which being paused does not keep it: its tenant goes or drains, it is canceled
/// or deleted, or its time is up.
fn leaves(view: &View<'_>, tenant: Option<&Tenant>) -> bool {
    let ends = |pod: &Arc<Pod>| pod.metadata.deletion_timestamp.is_some();
    job_flow::canceled(view.job)
        || tenant.is_some_and(tenant_state::terminating)
        || view.drain.is_some()
        || view.pods.iter().any(ends)
        || job_flow::time_is_up(view).is_some_and(|at| at <= view.steady)
}

async fn carry_out(
    step: Step,
    view: &View<'_>,
    tenant: Option<&Tenant>,
    context: &Context,
) -> Result<Action, Error> {
    let job = view.job;
    match step {
        Step::Wait(until) => {
            // The mirror tells nobody when it has caught up.
            let held = !release_job(job, context).await?;
            let ask = view.steady.checked_add(MIRROR_POLL).ok().filter(|_| held);
            Ok(look_again([until, ask].into_iter().flatten().min(), view.steady))
        }
        Step::Write(status) => write(job, &status, context).await,
        Step::Create(admission) => match tenant {
            Some(tenant) => create::create(view, tenant, &admission, context).await,
            None => Ok(Action::requeue(CACHE_REQUEUE)),
        },
        Step::Delete { pod, uid } => {
            delete_exactly(&pods_api(job, context), &pod, &uid, None).await?;
            Ok(Action::await_change())
        }
        Step::Stop { pod, uid, version, stop } => {
            let patch = stop.patch(&uid, &version);
            stop_pod(job, &pod, &uid, &patch, context).await
        }
        Step::Look(number) => look(view, number, context).await,
        Step::Expire => {
            // Nothing leaves etcd before it is counted.
            if !is_mirrored(job, context) {
                return Ok(Action::requeue(MIRROR_POLL));
            }
            release_job(job, context).await?;
            let uid = job.uid().unwrap_or_default();
            delete_exactly(&jobs_api(job, context), &job.name_any(), &uid, None).await?;
            Ok(Action::await_change())
        }
    }
}

/// The tenant of the job's namespace, if the namespace is one's.
fn tenant(job: &Job, context: &Context) -> Option<Arc<Tenant>> {
    let namespace = job.namespace()?;
    let name = namespace.strip_prefix(&context.settings.namespace_prefix)?;
    let tenant = context.tenants.get(&ObjectRef::new(name))?;
    // The tenant controller writes the namespace only once it carries the tenant's UID.
    (tenant.status.as_ref()?.namespace.as_ref() == Some(&namespace)).then_some(tenant)
}

/// Whether the job's namespace belongs to no tenant, nor will once a tenant is provisioned.
fn is_foreign(job: &Job, context: &Context) -> bool {
    let namespace = job.namespace().unwrap_or_default();
    let name = namespace.strip_prefix(&context.settings.namespace_prefix);
    let tenant = name.and_then(|name| context.tenants.get(&ObjectRef::new(name)));
    let conflict = |tenant: &Tenant| {
        let conditions = tenant.status.iter().flat_map(|status| &status.conditions);
        conditions.into_iter().any(|c| c.reason == Reason::NamespaceConflict.as_str())
    };
    tenant.is_none_or(|tenant| conflict(&tenant))
}

/// Has the kubelet end a pod that stays. Where the API server does not take that, the pod is deleted.
async fn stop_pod(
    job: &Job,
    pod: &str,
    uid: &str,
    patch: &Value,
    context: &Context,
) -> Result<Action, Error> {
    let api = pods_api(job, context);
    let (params, patch) = (PatchParams::default(), Patch::Merge(patch));
    match within_opt(format!("failed to stop pod {pod}"), api.patch(pod, &params, &patch)).await {
        Err(error) if matches!(error.code(), Some(400 | 403 | 422)) => {
            tracing::warn!(pod, namespace = job.namespace(), %error, "failed to stop a pod, deleting it");
            delete_exactly(&api, pod, uid, None).await?;
        }
        other => drop(other?),
    }
    Ok(Action::await_change())
}

/// Why what runs is to be stopped, if it is.
fn drains(tenant: &Tenant, now: Timestamp) -> Option<Reason> {
    let reason = tenant_state::decide(tenant, now).reason;
    let stands_still = matches!(reason, Reason::TenantSuspended | Reason::TenantExpired);
    (stands_still && tenant.spec.suspend_policy == SuspendPolicy::Drain).then_some(reason)
}

/// The pods that can exist: of the current attempt and the next.
fn pods(job: &Job, context: &Context) -> Vec<Arc<Pod>> {
    let current = job.status.as_ref().map_or(0, |s| u32::try_from(s.attempt).unwrap_or(0));
    let uid = job.uid().unwrap_or_default();
    let named = [current, current + 1].map(|number| names::pod(&job.name_any(), &uid, number));
    let found = named.iter().filter_map(|name| {
        context.pods.get(&ObjectRef::new(name).within(&job.namespace().unwrap_or_default()))
    });
    found.filter(|pod| attempt::job_uid(pod) == Some(&uid)).collect()
}

/// Whether a pod that the API server returned is an attempt of the job.
fn is_own(pod: &ObjectMeta, job: &Job, context: &Context) -> bool {
    JobPod::of(pod, &context.settings.namespace_prefix).is_some_and(|pod| pod.is_of_job(job))
}

fn pods_api(job: &Job, context: &Context) -> Api<Pod> {
    Api::namespaced(context.client.clone(), &job.namespace().unwrap_or_default())
}

fn jobs_api(job: &Job, context: &Context) -> Api<Job> {
    Api::namespaced(context.client.clone(), &job.namespace().unwrap_or_default())
}

fn look_again(until: Option<Timestamp>, now: Timestamp) -> Action {
    match until {
        Some(at) => Action::requeue(Duration::try_from(at.duration_since(now)).unwrap_or_default()),
        None => Action::await_change(),
    }
}

async fn write(job: &Job, status: &JobStatus, context: &Context) -> Result<Action, Error> {
    let written = status::write(&jobs_api(job, context), job, job.status.as_ref(), status).await?;
    written.into_iter().for_each(|job| context.mutations.put(job));
    let before = job.status.as_ref().map_or(JobPhase::Queued, |s| s.phase);
    if status.phase != before && (is_terminal(status.phase) || status.phase == JobPhase::Retrying) {
        context.metrics.ended(status.phase.into());
    }
    tell(job, status, context);
    Ok(Action::await_change())
}

/// An Event for what a user may have to act upon: an attempt that ended badly, and a pod that is refused for the moment.
fn tell(job: &Job, status: &JobStatus, context: &Context) {
    let old = job.status.as_ref();
    let Some(reason) = status.reason.as_deref().and_then(|r| r.parse::<Reason>().ok()) else { return };
    let worth = match status.phase {
        JobPhase::Failed | JobPhase::TimedOut | JobPhase::Rejected | JobPhase::Retrying => {
            old.map_or(JobPhase::Queued, |old| old.phase) != status.phase
        }
        JobPhase::Queued => {
            reason == Reason::PodRefused && old.and_then(|old| old.reason.as_ref()) != status.reason.as_ref()
        }
        _ => false,
    };
    if worth {
        context.events.warning(job, reason, status.message.clone().unwrap_or_default());
    }
}

async fn report(job: &Job, error: &IllegalMove, context: &Context) -> Result<Action, Error> {
    tracing::error!(job = job.name_any(), namespace = job.namespace(), %error, "the stored status contradicts what is");
    context.events.warning(job, Reason::InvalidObject, error.to_string());
    Ok(Action::await_change())
}

async fn look(view: &View<'_>, number: u32, context: &Context) -> Result<Action, Error> {
    let job = view.job;
    let name = names::pod(&job.name_any(), &job.uid().unwrap_or_default(), number);
    let found =
        within_opt(format!("failed to look up pod {name}"), pods_api(job, context).get_metadata(&name))
            .await?;
    match found {
        // The cache will have it soon.
        Some(found) if is_own(&found.metadata, job, context) => Ok(Action::requeue(CACHE_REQUEUE)),
        _ => settle(job_flow::lost(view), job, context).await,
    }
}

async fn settle(step: Result<Step, IllegalMove>, job: &Job, context: &Context) -> Result<Action, Error> {
    match step {
        Ok(Step::Write(status)) => write(job, &status, context).await,
        Ok(_) => Ok(Action::await_change()),
        Err(error) => report(job, &error, context).await,
    }
}

/// Whether the job may leave etcd: it is in the mirror as it is, or there is no mirror.
fn is_mirrored(job: &Job, context: &Context) -> bool {
    context.mirrored.as_ref().is_none_or(|mirrored| mirrored(job))
}

/// Lets a job go that was held for the mirror, once the mirror has it; false while it is still held.
async fn release_job(job: &Job, context: &Context) -> Result<bool, Error> {
    if !finalizer::has(job, names::FINALIZER_ACCOUNTED) {
        return Ok(true);
    }
    let mirrored = is_mirrored(job, context);
    if mirrored {
        finalizer::remove(&jobs_api(job, context), job, names::FINALIZER_ACCOUNTED).await?;
    }
    Ok(mirrored)
}
