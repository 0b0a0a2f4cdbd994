//! One reconcile of a tenant: dereference, validate, build, apply, status.

use std::sync::Arc;

use kube::{Api, ResourceExt, runtime::controller::Action};

use super::{
    Context, apply, build, deletion, dereference::dereference, error::Error, status::Outcome,
    validate::validate, write_status::write_status,
};
use crate::{
    api_types::{Reason, Tenant, tenant::TenantPhase},
    domain::tenant_state,
    kube_ext::{controller::ReconcileError, finalizer, is_paused},
    names,
};

/// A failure that may end by itself is written into the status from this one in a row on.
const REPORTED_FAILURES: u32 = 3;

/// Brings the cluster in line with a tenant.
///
/// # Errors
/// [`Error`] when a call failed for another reason than that the tenant has changed meanwhile; the failure is in the
/// tenant's status unless it may end by itself within seconds.
pub async fn reconcile(tenant: Arc<Tenant>, context: Arc<Context>) -> Result<Action, Error> {
    // As last written, where the watch has not delivered that: another event may come first.
    let tenant = context.mutations.newest(tenant);
    let result = context.reconciler.run(&*tenant, reconcile_tenant(&tenant, &context)).await;
    if let Err(error) = &result {
        report_failure(&tenant, &context, error).await;
    }
    result
}

/// When to try again after a failure.
#[expect(clippy::needless_pass_by_value, reason = "the signature that a Controller asks for")]
pub fn error_policy(tenant: Arc<Tenant>, error: &Error, context: Arc<Context>) -> Action {
    context.reconciler.retry(&*tenant, error)
}

/// Dereferences, validates, builds, applies, and writes the status.
async fn reconcile_tenant(tenant: &Tenant, context: &Context) -> Result<Action, Error> {
    // 1. Dereference: the phase at this time, and what the caches have of the namespace.
    let found = dereference(tenant, context);
    if context.invalid.contains(tenant) {
        // The cache holds an earlier state of it; `invalid` reports it.
        return Ok(Action::await_change());
    }
    if is_paused(tenant) {
        return write_status(tenant, context, found.phase, Outcome::Paused).await;
    }
    if found.phase.phase == TenantPhase::Terminating {
        return deletion::terminate(tenant, context, found.phase).await;
    }
    if !finalizer::has(tenant, names::FINALIZER_TENANT) && tenant.metadata.deletion_timestamp.is_none() {
        // The watch delivers the write.
        return add_finalizer(tenant, context).await;
    }
    // 2. Validate: the spec against the plan table. Pure.
    let outcome = match validate(tenant, &found.plans, &context.dependencies.settings, found.counts_objects) {
        Err(refusal) => Outcome::Stalled(refusal),
        Ok(valid) => {
            // 3. Build: the children; only where the tenant has changed. Pure.
            let fingerprint = build::fingerprint(&valid, &context.state)?;
            // 4. Apply: the children that differ.
            apply::apply(tenant, &valid, fingerprint, context).await?
        }
    };
    // 5. Status.
    write_status(tenant, context, found.phase, outcome).await
}

async fn add_finalizer(tenant: &Tenant, context: &Context) -> Result<Action, Error> {
    let api: Api<Tenant> = Api::all(context.dependencies.client.clone());
    let added = finalizer::add(&api, tenant, names::FINALIZER_TENANT).await;
    added.map_err(|source| Error::AddFinalizer { tenant: tenant.name_any(), source })?;
    Ok(Action::await_change())
}

/// Writes a failure into the tenant's status, unless it may end by itself within seconds.
async fn report_failure(tenant: &Tenant, context: &Context, error: &Error) {
    if error.is_transient() && context.reconciler.failures(tenant) + 1 < REPORTED_FAILURES {
        return;
    }
    let phase = tenant_state::decide(tenant, context.dependencies.clock.now());
    let outcome = Outcome::Working { reason: Reason::ApiError, message: error.to_string() };
    if let Err(error) = write_status(tenant, context, phase, outcome).await {
        tracing::debug!(tenant = tenant.name_any(), %error, "failed to write the failure into the status");
    }
}
