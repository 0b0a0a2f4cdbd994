//! Second step: whether the attempt of a pod is over, so that its finalizer may be removed once it is on record. Pure,
//! but for the pods that wait.

use k8s_openapi::api::core::v1::Pod;

use super::{Context, dereference::Dereferenced};
use crate::{
    api_types::Job,
    domain::{
        attempt::{self, Ending, Observed},
        job_flow,
    },
    kube_ext::{finalizer, is_paused},
    names,
};

/// What a pod is to the controller.
pub(super) enum Validity {
    /// Nothing is to be done before it changes: it runs, is paused, has no finalizer, or its job's status does not say
    /// yet how the attempt ended.
    Exempt,
    /// It may still run, and no object owns it any more.
    Orphaned,
    /// Its attempt has ended, and its job's status says how, where the job exists.
    Ended(Ending),
}

/// Says what a pod is to the controller. It waits for its tenant no longer, or will be added to those again.
pub(super) fn validate(found: &Dereferenced<'_>, context: &Context) -> Validity {
    let pod = found.pod;
    context.waiting.remove(pod);
    if !finalizer::has(pod, names::FINALIZER_ACCOUNTED) {
        return Validity::Exempt;
    }
    // Being paused delays no deletion: the pod's node and its tenant wait for it.
    let is_deleted = pod.metadata.deletion_timestamp.is_some();
    if is_paused(pod) && !is_deleted && context.tenants.charged(pod).is_some() {
        return Validity::Exempt;
    }
    match ending(pod) {
        None if found.owner.is_none() && !is_deleted => Validity::Orphaned,
        None => Validity::Exempt,
        Some(_) if found.job.as_deref().is_some_and(|job| !is_recorded(job, found.attempt)) => {
            Validity::Exempt
        }
        Some(ending) => Validity::Ended(ending),
    }
}

/// How the attempt ended, of a pod that can't run any more.
fn ending(pod: &Pod) -> Option<Ending> {
    match attempt::observe(pod) {
        Observed::Ended(ending) if attempt::is_over(pod) => Some(ending),
        _ => None,
    }
}

/// Whether the job's status says how the attempt ended.
fn is_recorded(job: &Job, number: u32) -> bool {
    let number = i32::try_from(number).unwrap_or(i32::MAX);
    job.status.as_ref().is_some_and(|status| job_flow::on_record(status, number))
}
