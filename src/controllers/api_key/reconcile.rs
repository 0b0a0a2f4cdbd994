//! One reconcile of a key: dereference, validate, build, apply, status.

use std::sync::Arc;

use kube::{ResourceExt, runtime::controller::Action};

use super::{
    Context,
    apply::{self, CACHE_REQUEUE, Work},
    dereference::{Peppers, dereference, peppers},
    error::Error,
    secret,
    status::Outcome,
    validate::validate,
    write_status::{write_end, write_status},
};
use crate::{
    api_types::{Reason, TenantApiKey},
    domain::api_key::lifecycle,
    kube_ext::{controller::ReconcileError, is_paused},
};

/// A failure that may end by itself is written into the status from this one in a row on.
const REPORTED_FAILURES: u32 = 3;

/// Brings a key's Secret and status in line with the key.
///
/// # Errors
/// [`Error`] when a call failed for another reason than that something has changed meanwhile; the failure is in the key's
/// status unless it may end by itself within seconds.
pub async fn reconcile(key: Arc<TenantApiKey>, context: Arc<Context>) -> Result<Action, Error> {
    let result = context.reconciler.run(&*key, reconcile_key(&key, &context)).await;
    if let Err(error) = &result {
        report_failure(&key, &context, error).await;
    }
    result
}

/// When to try again after a failure.
#[expect(clippy::needless_pass_by_value, reason = "the signature that a Controller asks for")]
pub fn error_policy(key: Arc<TenantApiKey>, error: &Error, context: Arc<Context>) -> Action {
    context.reconciler.retry(&*key, error)
}

/// Dereferences, validates, builds, applies, and writes the status.
async fn reconcile_key(key: &TenantApiKey, context: &Context) -> Result<Action, Error> {
    // 1. Dereference: the tenant, the time, and whether the key has ended by now, or one that it comes from.
    let found = dereference(key, context);
    if context.invalid.contains(key) || key.metadata.deletion_timestamp.is_some() {
        // The cache holds an earlier state of an invalid key; `invalid` reports it.
        return Ok(Action::await_change());
    }
    let end = lifecycle::end(&key.spec, &found.status, found.now);
    if let Some(end) = end.or_else(|| lifecycle::end_with(&found.lineage, &found.status, found.now)) {
        return write_end(key, context, end, found.now).await;
    }
    // Being paused delays no end: a key is revoked before its tenant is deleted.
    if is_paused(key) {
        return Ok(Action::await_change());
    }
    let stalled =
        |refusal| write_status(key, context, found.status.clone(), Outcome::Stalled(refusal), found.now);
    // 2. Validate: the spec and its tenant, pure, and the peppers.
    let valid = match validate(key, found.tenant.as_deref()) {
        Ok(valid) => valid,
        Err(refusal) => return stalled(refusal).await,
    };
    let peppers = match peppers(key, context).await? {
        Peppers::InForce(peppers) => peppers,
        Peppers::Pending => return Ok(Action::requeue(CACHE_REQUEUE)),
        Peppers::Unusable(refusal) => return stalled(refusal).await,
    };
    // 3. Build: the step that follows from the Secret as it is.
    let secret = secret::find(context, &valid, &found.status.versions, &peppers).await?;
    let work = Work::new(key, &valid, &found, &peppers, secret, &context.state);
    let mut next = lifecycle::next(&work.view());
    next.at = next.at.into_iter().chain(found.lineage.expires_at()).min();
    // 4. Apply the step, and 5. write the status.
    apply::apply(&work, &next, context).await
}

/// Writes a failure into the key's status, unless it may end by itself within seconds.
async fn report_failure(key: &TenantApiKey, context: &Context, error: &Error) {
    if error.is_transient() && context.reconciler.failures(key) + 1 < REPORTED_FAILURES {
        return;
    }
    let status = key.status.clone().unwrap_or_default();
    let outcome = Outcome::Working { reason: Reason::ApiError, message: error.to_string() };
    if let Err(error) = write_status(key, context, status, outcome, context.dependencies.clock.now()).await {
        tracing::debug!(key = key.name_any(), %error, "failed to write the failure into the status");
    }
}
