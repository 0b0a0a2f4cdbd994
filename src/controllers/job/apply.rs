//! Fourth step: pods are created, stopped and deleted as the step says, and the job itself is released and expires.
//!
//! Each of these is safe to repeat: a pod's name is a function of the Job's UID and the attempt, and a deletion names
//! the UID that it is meant for.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{
    Api, ResourceExt,
    api::{ObjectMeta, Patch, PatchParams},
    runtime::controller::Action,
};

use super::{Context, create, dereference::Dereferenced, error::Error};
use crate::{
    api_types::{Job, JobStatus},
    domain::{
        attempt::stop::Stop,
        job_flow::{self, Step, View},
        job_pod::JobPod,
        job_state::IllegalMove,
    },
    kube_ext::{apply::delete_exactly, call::within_opt, finalizer},
    names,
};

/// The delay before a job is reconciled again whose tenant or pod the cache lacks still.
pub(super) const CACHE_REQUEUE: Duration = Duration::from_millis(500);
/// The time between two questions to the mirror whether it has a job.
pub(super) const MIRROR_POLL: Duration = Duration::from_secs(5);

/// What a step leaves to be done.
pub(super) enum Outcome {
    /// This status is to be written.
    Status(Box<JobStatus>),
    /// Nothing, until the job is reconciled again.
    Done(Action),
    /// The stored status can't lead where the pods do: it is reported, and the job is left as it is.
    Contradiction(IllegalMove),
}

impl From<Result<Step, IllegalMove>> for Outcome {
    /// The outcome of a step that can only be a status.
    fn from(step: Result<Step, IllegalMove>) -> Self {
        match step {
            Ok(Step::Write(status)) => Self::Status(status),
            Ok(_) => Self::Done(Action::await_change()),
            Err(contradiction) => Self::Contradiction(contradiction),
        }
    }
}

/// Carries a step out.
pub(super) async fn apply(
    step: Step,
    found: &Dereferenced,
    view: &View<'_>,
    context: &Context,
) -> Result<Outcome, Error> {
    let job = view.job;
    let action = match step {
        Step::Write(status) => return Ok(Outcome::Status(status)),
        Step::ConfirmLost(number) => return confirm_lost(view, number, context).await,
        Step::Create(admission) => match found.tenant.as_deref() {
            Some(tenant) => return create::create(view, tenant, &admission, context).await,
            None => Action::requeue(CACHE_REQUEUE),
        },
        Step::Wait(until) => {
            // No event says that the mirror has caught up.
            let held = !release_job(job, context).await?;
            let poll = view.steady.checked_add(MIRROR_POLL).ok().filter(|_| held);
            requeue_at([until, poll].into_iter().flatten().min(), view.steady)
        }
        Step::Delete { pod, uid } => delete_pod(job, pod, &uid, context).await?,
        Step::Stop { pod, uid, version, stop } => stop_pod(job, pod, &uid, &version, &stop, context).await?,
        Step::Expire => expire(job, context).await?,
    };
    Ok(Outcome::Done(action))
}

/// The action of a job whose next step is due at a time, if it is.
pub(super) fn requeue_at(until: Option<Timestamp>, now: Timestamp) -> Action {
    match until {
        Some(at) => Action::requeue(Duration::try_from(at.duration_since(now)).unwrap_or_default()),
        None => Action::await_change(),
    }
}

async fn delete_pod(job: &Job, pod: String, uid: &str, context: &Context) -> Result<Action, Error> {
    let deleted = delete_exactly(&pods_api(job, context), &pod, uid, None).await;
    deleted.map_err(|source| Error::DeletePod { pod, source })?;
    Ok(Action::await_change())
}

/// Has the kubelet end a pod that stays. Where the API server does not accept that, the pod is deleted.
async fn stop_pod(
    job: &Job,
    pod: String,
    uid: &str,
    version: &str,
    stop: &Stop,
    context: &Context,
) -> Result<Action, Error> {
    let (api, patch) = (pods_api(job, context), stop.patch(uid, version));
    let (params, patch) = (PatchParams::default(), Patch::Merge(&patch));
    match within_opt(format!("failed to stop Pod {pod}"), api.patch(&pod, &params, &patch)).await {
        Ok(_) => Ok(Action::await_change()),
        Err(error) if matches!(error.code(), Some(400 | 403 | 422)) => {
            tracing::warn!(pod, namespace = job.namespace(), %error, "failed to stop a pod, deleting it");
            delete_pod(job, pod, uid, context).await
        }
        Err(source) => Err(Error::StopPod { pod, source }),
    }
}

/// Asks the API server for the pod of an attempt that the cache does not have. One that does not exist was lost.
async fn confirm_lost(view: &View<'_>, number: u32, context: &Context) -> Result<Outcome, Error> {
    let job = view.job;
    let pod = names::pod(&job.name_any(), &job.uid().unwrap_or_default(), number);
    let api = pods_api(job, context);
    match within_opt(format!("failed to read Pod {pod}"), api.get_metadata(&pod)).await {
        // The cache will have it soon.
        Ok(Some(found)) if is_own(&found.metadata, job, context) => {
            Ok(Outcome::Done(Action::requeue(CACHE_REQUEUE)))
        }
        Ok(_) => Ok(job_flow::lost(view).into()),
        Err(source) => Err(Error::ReadPod { pod, source }),
    }
}

/// Deletes a job whose time after its end is over. Nothing leaves etcd before the mirror has it.
async fn expire(job: &Job, context: &Context) -> Result<Action, Error> {
    if !is_mirrored(job, context) {
        return Ok(Action::requeue(MIRROR_POLL));
    }
    release_job(job, context).await?;
    let name = job.name_any();
    let deleted = delete_exactly(&jobs_api(job, context), &name, &job.uid().unwrap_or_default(), None).await;
    deleted.map_err(|source| Error::DeleteJob { job: name, source })?;
    Ok(Action::await_change())
}

/// Removes the finalizer of a job that was held for the mirror, once the mirror has it; false while it is held.
async fn release_job(job: &Job, context: &Context) -> Result<bool, Error> {
    if !finalizer::has(job, names::FINALIZER_ACCOUNTED) {
        return Ok(true);
    }
    let mirrored = is_mirrored(job, context);
    if mirrored {
        let removed = finalizer::remove(&jobs_api(job, context), job, names::FINALIZER_ACCOUNTED).await;
        removed.map_err(|source| Error::RemoveFinalizer { job: job.name_any(), source })?;
    }
    Ok(mirrored)
}

/// Whether the job may leave etcd: it is in the mirror as it is, or no mirror exists.
fn is_mirrored(job: &Job, context: &Context) -> bool {
    context.mirrored.as_ref().is_none_or(|mirrored| mirrored(job))
}

/// Whether a pod that the API server returned is an attempt of the job.
pub(super) fn is_own(pod: &ObjectMeta, job: &Job, context: &Context) -> bool {
    JobPod::of(pod, &context.settings.namespace_prefix).is_some_and(|pod| pod.is_of_job(job))
}

pub(super) fn pods_api(job: &Job, context: &Context) -> Api<Pod> {
    Api::namespaced(context.client.clone(), &job.namespace().unwrap_or_default())
}

pub(super) fn jobs_api(job: &Job, context: &Context) -> Api<Job> {
    Api::namespaced(context.client.clone(), &job.namespace().unwrap_or_default())
}
