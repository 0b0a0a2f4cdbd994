//! Fourth step: the finalizer of a pod is removed; a pod that no job owns any more is deleted.

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt, runtime::controller::Action};

use super::{Context, dereference::Dereferenced, error::Error};
use crate::{
    api_types::Job,
    kube_ext::{apply::delete_exactly, finalizer},
    names,
};

/// Removes the finalizer of a pod whose attempt is on record; `hold` is a job that gets it first.
pub(super) async fn remove_finalizer(
    pod: &Pod,
    hold: Option<&Job>,
    context: &Context,
) -> Result<Action, Error> {
    let namespace = pod.namespace().unwrap_or_default();
    if let Some(job) = hold {
        let jobs: Api<Job> = Api::namespaced(context.client.clone(), &namespace);
        let added = finalizer::add(&jobs, job, names::FINALIZER_ACCOUNTED).await;
        added.map_err(|source| Error::AddFinalizer { job: job.name_any(), source })?;
    }
    let pods: Api<Pod> = Api::namespaced(context.client.clone(), &namespace);
    let removed = finalizer::remove(&pods, pod, names::FINALIZER_ACCOUNTED).await;
    removed.map_err(|source| Error::RemoveFinalizer { pod: pod.name_any(), source })?;
    Ok(Action::await_change())
}

/// Deletes a pod whose Job was deleted with `--cascade=orphan`: to delete a job is to cancel it, whatever the cascade.
pub(super) async fn delete_orphan(found: &Dereferenced<'_>, context: &Context) -> Result<Action, Error> {
    let pod = found.pod;
    if context.jobs.find(|job| job.metadata.uid.as_deref() == Some(found.job_uid)).is_none() {
        let api: Api<Pod> = Api::namespaced(context.client.clone(), &pod.namespace().unwrap_or_default());
        let deleted = delete_exactly(&api, &pod.name_any(), &pod.uid().unwrap_or_default(), None).await;
        deleted.map_err(|source| Error::DeleteOrphan { pod: pod.name_any(), source })?;
    }
    Ok(Action::await_change())
}
