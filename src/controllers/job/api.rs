//! The objects of a job's namespace in the API, and which pods are the job's own.

use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt, api::ObjectMeta};

use super::Context;
use crate::{api_types::Job, domain::job_pod::JobPod};

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
