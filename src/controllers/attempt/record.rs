//! Third step: whether an attempt that has ended is on record: in the mirror, and in the hourly window of Tenant
//! status.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kube::{Api, ResourceExt, runtime::reflector::ObjectRef};

use super::{
    Context, FINALIZER_DELAY,
    dereference::Dereferenced,
    error::Error,
    waiting::{Charge, Wait},
};
use crate::{
    api_types::{Job, Tenant},
    domain::attempt::Ending,
    kube_ext::{call::within_opt, finalizer},
    names,
};

/// The time between two questions to the mirror whether it has an attempt.
pub(super) const MIRROR_POLL: Duration = Duration::from_secs(2);
/// When to ask again for a charge to be stored: the tenant's change should have requeued the pod, but the window has
/// room for a bounded number of charges that are being stored.
pub(super) const CHARGE_POLL: Duration = Duration::from_secs(5);

/// Whether the mirror has an attempt.
pub(super) enum InMirror {
    /// It has, or there is no mirror.
    Yes,
    /// It has not, and is behind: this job is to be held in place of its pod.
    HoldJob(Arc<Job>),
    /// It will soon.
    NotYet,
}

/// How long a pod that no client deletes keeps its finalizer still. Those of a tenant that is being deleted do not: it
/// waits for them.
pub(super) fn delay_left(pod: &Pod, ending: &Ending, context: &Context) -> Option<Duration> {
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
pub(super) fn finalizer_delay_left(finished_at: Timestamp, now: Timestamp) -> Option<Duration> {
    let since = now.duration_since(finished_at);
    let delays_finalizer = -FINALIZER_DELAY <= since && since < FINALIZER_DELAY;
    delays_finalizer.then(|| (FINALIZER_DELAY - since).unsigned_abs())
}

/// Whether the mirror has the attempt. Where the cache has no job, the API server is asked for it: it may be one that
/// can't be read, or a new one.
pub(super) async fn in_mirror(found: &Dereferenced<'_>, context: &Context) -> Result<InMirror, Error> {
    let Dereferenced { attempt, job_uid, owner, job, .. } = found;
    match context.accounts.as_ref().filter(|accounts| !accounts.committed(job_uid, *attempt)) {
        None => match (job, owner) {
            (None, Some(owner)) if job_exists(owner, job_uid, context).await? => Ok(InMirror::NotYet),
            _ => Ok(InMirror::Yes),
        },
        Some(accounts) => match job {
            Some(job) if accounts.behind() && can_be_held(job) => Ok(InMirror::HoldJob(Arc::clone(job))),
            _ => Ok(InMirror::NotYet),
        },
    }
}

/// Whether a job can be held in place of its pod: only what the Job carries in its status may leave etcd before
/// Postgres has it, and a job that is being deleted accepts no new finalizer.
fn can_be_held(job: &Job) -> bool {
    job.metadata.deletion_timestamp.is_none() || finalizer::has(job, names::FINALIZER_ACCOUNTED)
}

async fn job_exists(job: &ObjectRef<Job>, uid: &str, context: &Context) -> Result<bool, Error> {
    let api: Api<Job> = Api::namespaced(context.client.clone(), job.namespace.as_deref().unwrap_or_default());
    let found = within_opt(format!("failed to read Job {}", job.name), api.get_metadata(&job.name)).await;
    let found = found.map_err(|source| Error::ReadJob { job: job.name.clone(), source })?;
    Ok(found.is_some_and(|found| found.uid().as_deref() == Some(uid)))
}

/// Whether the tenant's status counts the pod's charge, where there is one. Requests that where it does not.
pub(super) fn is_charged(pod: &Pod, context: &Context) -> bool {
    let Some(charge) = Charge::of(pod) else { return true };
    context.waiting.add(pod, Wait::Stored(charge.clone()));
    let stored = |tenant: Arc<Tenant>| charge.is_stored(&tenant, &*context.windows, context.clock.now());
    if context.tenants.charged(pod).is_none_or(stored) {
        context.waiting.remove(pod);
        return true;
    }
    charge.request(&*context.windows, pod.metadata.deletion_timestamp.is_some());
    false
}
