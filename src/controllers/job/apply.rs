//! Fourth step, but for `create`: pods are stopped and deleted, and the job itself is released and expires.
//!
//! Each of these is safe to repeat: a pod's name is a function of the Job's UID and the attempt, and a deletion names
//! the UID that it is meant for.

use std::time::Duration;

use kube::{
    ResourceExt,
    api::{Patch, PatchParams},
    runtime::controller::Action,
};

use super::{
    Context,
    api::{is_own, jobs_api, pods_api},
    error::Error,
    outcome::Outcome,
};
use crate::{
    api_types::Job,
    domain::{
        attempt::stop::Stop,
        job_flow::{self, View},
        resources::Resources,
    },
    kube_ext::{apply::delete_exactly, call::within_opt, finalizer},
    names,
};

/// The delay before a job is reconciled again whose tenant or pod the cache lacks still.
pub(super) const CACHE_REQUEUE: Duration = Duration::from_millis(500);
/// The time between two questions to the mirror whether it has a job.
pub(super) const MIRROR_POLL: Duration = Duration::from_secs(5);

/// Deletes a pod of the job, by its UID.
pub(super) async fn delete_pod(
    job: &Job,
    pod: String,
    uid: &str,
    grace: Option<u32>,
    context: &Context,
) -> Result<Action, Error> {
    let deleted = delete_exactly(&pods_api(job, context), &pod, uid, grace).await;
    deleted.map_err(|source| Error::DeletePod { pod, source })?;
    Ok(Action::await_change())
}

/// Has the kubelet end a pod that stays. Where the API server does not accept that, the pod is deleted.
pub(super) async fn stop_pod(
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
            delete_pod(job, pod, uid, None, context).await
        }
        Err(source) => Err(Error::StopPod { pod, source }),
    }
}

/// Asks the API server for the pod of an attempt that the cache does not have. One that does not exist was lost.
pub(super) async fn confirm_lost(view: &View<'_>, number: u32, context: &Context) -> Result<Outcome, Error> {
    let job = view.job;
    let pod = names::pod(&job.name_any(), &job.uid().unwrap_or_default(), number);
    let api = pods_api(job, context);
    match within_opt(format!("failed to read Pod {pod}"), api.get_metadata(&pod)).await {
        // The cache will have it soon.
        Ok(Some(found)) if is_own(&found.metadata, job, context) => {
            Ok(Outcome::Done(Action::requeue(CACHE_REQUEUE)))
        }
        Ok(_) => {
            // A scenario that is gone says nothing any more.
            let asked = Resources::of_job(&job.spec, &context.scenarios.borrow()).unwrap_or_default();
            Ok(job_flow::lost(view, asked).into())
        }
        Err(source) => Err(Error::ReadPod { pod, source }),
    }
}

/// Deletes a job whose time after its end is over. Nothing leaves etcd before the mirror has it.
pub(super) async fn expire(job: &Job, context: &Context) -> Result<Action, Error> {
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
pub(super) async fn release_job(job: &Job, context: &Context) -> Result<bool, Error> {
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
