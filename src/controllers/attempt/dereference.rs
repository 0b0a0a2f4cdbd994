//! First step: the attempt of a pod and its job, as the caches have them. No call is made.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt, runtime::reflector::ObjectRef};

use super::Context;
use crate::{api_types::Job, domain::attempt};

/// A job pod and its job.
pub(super) struct Dereferenced<'a> {
    pub(super) pod: &'a Pod,
    /// Number of the attempt.
    pub(super) attempt: u32,
    pub(super) job_uid: &'a str,
    /// The job that owns the pod, whether it exists or not.
    pub(super) owner: Option<ObjectRef<Job>>,
    /// The same as the cache has it.
    pub(super) job: Option<Arc<Job>>,
}

/// Reads what belongs to a pod; `None` of a pod that is no attempt.
pub(super) fn dereference<'a>(pod: &'a Pod, context: &Context) -> Option<Dereferenced<'a>> {
    let (attempt, job_uid) = (attempt::number(pod)?, attempt::job_uid(pod)?);
    let owner = attempt::owner(pod);
    let job = owner.as_ref().and_then(|owner| context.jobs.get(owner));
    let job = job.filter(|job| job.uid().as_deref() == Some(job_uid));
    Some(Dereferenced { pod, attempt, job_uid, owner, job })
}
