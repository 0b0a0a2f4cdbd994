//! One reconcile of a job pod: dereference, validate, find the attempt on record, apply. No status is written here: the
//! attempt is in that of its Job and of its Tenant.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use kube::runtime::controller::Action;

use super::{
    Context, apply,
    dereference::dereference,
    error::Error,
    record::{self, InMirror},
    validate::{Validity, validate},
};

/// Removes the finalizer of a pod as soon as it may be removed.
pub(super) async fn reconcile(pod: Arc<Pod>, context: Arc<Context>) -> Result<Action, Error> {
    context.reconciler.run(&*pod, reconcile_pod(&pod, &context)).await
}

/// When to try again after a failure.
#[expect(clippy::needless_pass_by_value, reason = "the signature that a Controller asks for")]
pub(super) fn error_policy(pod: Arc<Pod>, error: &Error, context: Arc<Context>) -> Action {
    context.reconciler.retry(&*pod, error)
}

/// Dereferences, validates, finds the attempt on record, and applies.
pub(super) async fn reconcile_pod(pod: &Pod, context: &Context) -> Result<Action, Error> {
    // 1. Dereference: the attempt of the pod, and its job.
    let Some(found) = dereference(pod, context) else { return Ok(Action::await_change()) };
    // 2. Validate: whether the attempt has ended, and its job's status says how.
    let ending = match validate(&found, context) {
        Validity::Ended(ending) => ending,
        Validity::Orphaned => return apply::delete_orphan(&found, context).await,
        Validity::Exempt => return Ok(Action::await_change()),
    };
    // 3. On record: after its delay, in the mirror, and in the hourly window of its tenant.
    if let Some(left) = record::delay_left(pod, &ending, context) {
        return Ok(Action::requeue(left));
    }
    let hold = match record::in_mirror(&found, context).await? {
        InMirror::Yes => None,
        InMirror::HoldJob(job) => Some(job),
        InMirror::NotYet => return Ok(Action::requeue(record::MIRROR_POLL)),
    };
    if !record::is_charged(pod, context) {
        return Ok(Action::requeue(record::CHARGE_POLL));
    }
    // 4. Apply: the finalizer is removed, and added to the job where the mirror is behind.
    apply::remove_finalizer(pod, hold.as_deref(), context).await
}
