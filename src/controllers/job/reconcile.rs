//! One reconcile of a job: dereference, validate, decide, apply, status.

use std::sync::Arc;

use kube::runtime::controller::Action;

use super::{
    Context,
    apply::{self, CACHE_REQUEUE, MIRROR_POLL},
    create,
    dereference::{Dereferenced, dereference},
    error::Error,
    outcome::{Outcome, requeue_at},
    status, validate,
};
use crate::{
    api_types::Job,
    domain::job_flow::{self, Step, View},
};

/// Brings the pods and the status of a job in line with the job.
pub(super) async fn reconcile(job: Arc<Job>, context: Arc<Context>) -> Result<Action, Error> {
    let _inflight = context.inflight.begin();
    context.reconciler.run(&*job, reconcile_job(Arc::clone(&job), &context)).await
}

/// When to try again after a failure.
#[expect(clippy::needless_pass_by_value, reason = "the signature that a Controller asks for")]
pub(super) fn error_policy(job: Arc<Job>, error: &Error, context: Arc<Context>) -> Action {
    context.reconciler.retry(&*job, error)
}

/// Takes the one next step of a job.
pub(super) async fn reconcile_job(cached: Arc<Job>, context: &Context) -> Result<Action, Error> {
    // 1. Dereference: the job as it was written last, its tenant, its pods, and the scheduler's verdict.
    let found = dereference(cached, context);
    let view = found.view(&context.settings);
    // 2. Validate: whether this controller may change the job now.
    if let Some(action) = validate::exempt(&found, &view, &context.invalid) {
        return Ok(action);
    }
    // 3. Decide: the step that follows from all that. Pure.
    let outcome = match job_flow::next(&view) {
        // 4. Apply: what the step asks of pods, and of the job itself.
        Ok(step) => apply(step, &found, &view, context).await?,
        Err(contradiction) => Outcome::Contradiction(contradiction),
    };
    // 5. Status: what is left to write.
    status::update(&found.job, outcome, context).await
}

async fn apply(
    step: Step,
    found: &Dereferenced,
    view: &View<'_>,
    context: &Context,
) -> Result<Outcome, Error> {
    let job = view.job;
    let action = match step {
        Step::Write(status) => return Ok(Outcome::Status(status)),
        Step::ConfirmLost(number) => return apply::confirm_lost(view, number, context).await,
        // The verdict is an admission.
        Step::Create(admission) => match found.tenant.as_deref() {
            Some(tenant) => return create::create(view, tenant, &admission, context).await,
            None => Action::requeue(CACHE_REQUEUE),
        },
        Step::Wait(until) => {
            // No event says that the mirror has caught up.
            let held = !apply::release_job(job, context).await?;
            let poll = view.steady.checked_add(MIRROR_POLL).ok().filter(|_| held);
            requeue_at([until, poll].into_iter().flatten().min(), view.steady)
        }
        Step::Delete { pod, uid, grace } => apply::delete_pod(job, pod, &uid, grace, context).await?,
        Step::Stop { pod, uid, version, stop } => {
            apply::stop_pod(job, pod, &uid, &version, &stop, context).await?
        }
        Step::Expire => apply::expire(job, context).await?,
    };
    Ok(Outcome::Done(action))
}
