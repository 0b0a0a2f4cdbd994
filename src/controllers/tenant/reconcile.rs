//! One reconcile of a tenant: dereference, validate, build, apply, status.

use std::{sync::Arc, time::Duration};

use kube::{Api, ResourceExt, runtime::controller::Action, runtime::reflector::ObjectRef};
use sha2::{Digest, Sha256};

use super::{
    Context, UsageSnapshot,
    apply::{self, Found},
    build,
    deletion::{self, DeletionPlan, Progress},
    error::Error,
    reconcile_state::Fingerprint,
    status::{self, Outcome, Report},
    usage::{self, WriteDecision},
    validate::{self, Owner, Refusal, Validated},
};
use crate::{
    api_types::{
        Quantity, Reason, Tenant, TenantStatus,
        tenant::{DeletionPolicy, TenantPhase},
    },
    domain::tenant_state::{self, PhaseDecision},
    kube_ext::{controller::ReconcileError, finalizer, is_paused, status as status_ext},
    names,
};

/// The longest time between two reconciles of a tenant that waits for something: the watch should have delivered it.
const RESYNC_INTERVAL: Duration = Duration::from_secs(30);
/// The longest timer: a clock that was set, or a machine that slept, is noticed after this.
const LONGEST_TIMER: Duration = Duration::from_secs(3600);
/// The progress within one step of a deletion is written at most this often.
const STEP_INTERVAL: Duration = Duration::from_secs(5);
/// A failure that may pass by itself is written into the status from this one in a row on.
const REPORTED_FAILURES: u32 = 3;

/// Brings the cluster in line with a tenant.
///
/// # Errors
/// [`Error`] when a call failed for another reason than that the tenant has changed meanwhile; the failure is in the
/// tenant's status unless it may pass by itself within seconds.
pub async fn reconcile(tenant: Arc<Tenant>, context: Arc<Context>) -> Result<Action, Error> {
    let result = context.reconciler.run(&*tenant, reconcile_tenant(&tenant, &context)).await;
    if let Err(error) = &result {
        report_failure(&tenant, &context, error).await;
    }
    result
}

/// Writes a failure into the tenant's status, unless it may pass by itself within seconds.
async fn report_failure(tenant: &Tenant, context: &Context, error: &Error) {
    if error.is_transient() && context.reconciler.failures(tenant) + 1 < REPORTED_FAILURES {
        return;
    }
    let outcome = Outcome::Working { reason: Reason::ApiError, message: error.to_string() };
    if let Err(error) = write_status(tenant, context, standing(tenant, context), outcome).await {
        tracing::debug!(tenant = tenant.name_any(), %error, "failed to write the failure into the status");
    }
}

/// When to try again after a failure.
#[expect(clippy::needless_pass_by_value, reason = "the signature that a Controller asks for")]
pub fn error_policy(tenant: Arc<Tenant>, error: &Error, context: Arc<Context>) -> Action {
    context.reconciler.retry(&*tenant, error)
}

fn standing(tenant: &Tenant, context: &Context) -> PhaseDecision {
    tenant_state::decide(tenant, context.dependencies.clock.now())
}

/// Dereferences, validates, builds, applies, and writes the status.
async fn reconcile_tenant(tenant: &Tenant, context: &Context) -> Result<Action, Error> {
    let standing = standing(tenant, context);
    if context.invalid.contains(tenant) {
        // What the cache holds is out of date; `unreadable` looks after it.
        return Ok(Action::await_change());
    }
    if is_paused(tenant) {
        return write_status(tenant, context, standing, Outcome::Paused).await;
    }
    if standing.phase == TenantPhase::Terminating {
        return terminate(tenant, context, standing).await;
    }
    if tenant.metadata.deletion_timestamp.is_none() && !finalizer::has(tenant, names::FINALIZER_TENANT) {
        let api: Api<Tenant> = Api::all(context.dependencies.client.clone());
        finalizer::add(&api, tenant, names::FINALIZER_TENANT).await?;
        // The write comes back as a change.
        return Ok(Action::await_change());
    }
    let outcome = provision(tenant, context).await?;
    write_status(tenant, context, standing, outcome).await
}

/// Validates, builds, and applies what is due.
async fn provision(tenant: &Tenant, context: &Context) -> Result<Outcome, Error> {
    let plans = Arc::clone(&context.dependencies.plans.borrow());
    let valid = match validate::validate(tenant, &plans, &context.dependencies.settings) {
        Ok(valid) => Validated { counts_objects: counts_objects(&valid.owner, context), ..valid },
        Err(refusal) => return Ok(Outcome::Stalled(refusal)),
    };
    let owner = &valid.owner;
    let provisioned =
        Outcome::Provisioned { namespace: owner.namespace.clone(), quotas: valid.quotas.clone() };
    let fingerprint = context.state.fingerprint(&valid, || {
        let children = serde_json::to_vec(&build::build(&valid))?;
        Ok::<Fingerprint, serde_json::Error>(Sha256::digest(children).into())
    })?;
    if let Some(kept) = tenant.status.as_ref().and_then(|status| status.applied.as_deref()) {
        context.state.resume(&owner.name, &fingerprint, kept, || {
            let children = build::build(&valid);
            Some((context.known.versions(&children)?, apply::hashes(&children).ok()?))
        });
    }
    if context.state.is_applied(&owner.name, &fingerprint) {
        return Ok(provisioned);
    }
    let found = match apply::find_namespace(&context.dependencies.client, owner).await? {
        Found::Absent => None,
        Found::Ours(namespace) => Some(namespace),
        Found::Terminating(_) => {
            let message = format!("waiting for the earlier namespace {} to be gone", owner.namespace);
            return Ok(Outcome::Working { reason: Reason::Provisioning, message });
        }
        Found::Foreign(message) => {
            return Ok(Outcome::Stalled(Refusal { reason: Reason::NamespaceConflict, message }));
        }
    };
    apply::apply_all(context, owner, found.as_ref(), build::build(&valid)).await?;
    tracing::info!(tenant = owner.name, namespace = owner.namespace, "children applied");
    context.state.applied(&owner.name, fingerprint);
    Ok(provisioned)
}

/// Whether the tenant's objects are counted: from when Kubernetes can, and wherever they were before.
fn counts_objects(owner: &Owner, context: &Context) -> bool {
    let quota = ObjectRef::new(build::OBJECTS).within(&owner.namespace);
    *context.counted.borrow() || context.known.quotas.get(&quota).is_some()
}

/// Takes the tenant down as far as it goes now.
async fn terminate(tenant: &Tenant, context: &Context, standing: PhaseDecision) -> Result<Action, Error> {
    if !finalizer::has(tenant, names::FINALIZER_TENANT) {
        // Foreign finalizer holds it; nothing of ours is left.
        return Ok(Action::await_change());
    }
    let leaving = DeletionPlan {
        owner: Owner::of(tenant, &context.dependencies.settings),
        retain: tenant.spec.deletion_policy == DeletionPolicy::Retain,
        wait_for_workers: true,
    };
    let name = &leaving.owner.name;
    let (step, message) = match deletion::advance(context, &leaving).await? {
        Progress::Waiting { step, message } => (step, message),
        Progress::Done => {
            let api: Api<Tenant> = Api::all(context.dependencies.client.clone());
            finalizer::remove(&api, tenant, names::FINALIZER_TENANT).await?;
            tracing::info!(tenant = name, "deletion: nothing of the tenant is left");
            return Ok(Action::await_change());
        }
    };
    match context.state.step(name) {
        Some((told, ago)) if told == step => {
            if ago < STEP_INTERVAL {
                return Ok(Action::requeue(STEP_INTERVAL));
            }
        }
        _ => tracing::info!(tenant = name, step, "deletion: {message}"),
    }
    context.state.recorded_step(name, step);
    write_status(tenant, context, standing, Outcome::Working { reason: Reason::Terminating, message }).await
}

/// Writes the status that follows from an outcome, where it differs, with its Events, and says when to reconcile again.
async fn write_status(
    tenant: &Tenant,
    context: &Context,
    standing: PhaseDecision,
    outcome: Outcome,
) -> Result<Action, Error> {
    let (dependencies, name) = (&context.dependencies, tenant.name_any());
    let old = tenant.status.clone().unwrap_or_default();
    let Planned { mut status, writes_usage, requeue } = plan(tenant, context, &old, standing, outcome);
    if status != old {
        // Not worth a write of its own.
        status.applied = context.state.applied_hash(&name).or(status.applied);
    }
    let api: Api<Tenant> = Api::all(dependencies.client.clone());
    if status_ext::write(&api, tenant, tenant.status.as_ref(), &status).await?.is_some() {
        if writes_usage {
            context.state.recorded_usage(&name);
        }
        for event in status::events(&old.conditions, &status.conditions) {
            if event.warning {
                dependencies.events.warning(tenant, event.reason, event.note);
            } else {
                dependencies.events.normal(tenant, event.reason, event.note);
            }
        }
    }
    Ok(requeue.map_or_else(Action::await_change, |wait| Action::requeue(wait.min(LONGEST_TIMER))))
}

/// A status to write.
struct Planned {
    status: TenantStatus,
    /// Usage is part of it: it is not written again for some seconds.
    writes_usage: bool,
    /// When to reconcile again, if nothing changes before.
    requeue: Option<Duration>,
}

/// The status after `outcome`. Usage is left as it was where its time to be written has not come.
fn plan(
    tenant: &Tenant,
    context: &Context,
    old: &TenantStatus,
    standing: PhaseDecision,
    outcome: Outcome,
) -> Planned {
    let (name, now) = (tenant.name_any(), context.dependencies.clock.now());
    let resync = matches!(outcome, Outcome::Working { .. }).then_some(RESYNC_INTERVAL);
    let phase_change = standing.changes_at.map(|at| at.duration_since(now).unsigned_abs());

    let workers = (context.dependencies.workers)(tenant);
    let mut snapshot = current_usage(tenant, context, old);
    snapshot.usage.workers = workers.admitted;
    let quotas = match &outcome {
        Outcome::Provisioned { quotas, .. } => Some(quotas),
        _ => old.effective_quotas.as_ref(),
    };
    let decision = match usage::due(old, &snapshot, quotas, context.state.since_usage(&name)) {
        WriteDecision::Queue => context.state.usage_slot(&name),
        decision => decision,
    };
    let writes_usage = decision == WriteDecision::Now;
    if !writes_usage {
        let usage = old.usage.clone().unwrap_or(snapshot.usage);
        snapshot = UsageSnapshot { usage, ..UsageSnapshot::default() };
    }
    let usage_due = match decision {
        WriteDecision::In(wait) => Some(wait),
        WriteDecision::No | WriteDecision::Now | WriteDecision::Queue => None,
    };
    let deleted = tenant.metadata.deletion_timestamp.is_some();
    let report = Report {
        generation: tenant.metadata.generation,
        standing,
        outcome,
        snapshot,
        workers,
        deletion_prevented: tenant_state::deletion_prevented(tenant.spec.prevent_deletion)
            .filter(|_| deleted),
    };
    let requeue = [resync, phase_change, usage_due].into_iter().flatten().min();
    Planned { status: status::next(old, report, now), writes_usage, requeue }
}

/// What the scheduler says, with what the namespace's quota says of storage. As last written where nothing is known yet.
fn current_usage(tenant: &Tenant, context: &Context, old: &TenantStatus) -> UsageSnapshot {
    let owner = Owner::of(tenant, &context.dependencies.settings);
    let known = (context.dependencies.snapshot)(&owner.namespace);
    let as_written =
        || UsageSnapshot { usage: old.usage.clone().unwrap_or_default(), ..UsageSnapshot::default() };
    let mut snapshot = known.unwrap_or_else(as_written);
    let reference = ObjectRef::new(build::NAME).within(&owner.namespace);
    let quota = context.known.quotas.get(&reference);
    let used = quota.as_ref().and_then(|quota| quota.status.as_ref()?.used.as_ref()?.get("requests.storage"));
    let storage = used.and_then(|used| Quantity::from(used.0.as_str()).units().ok());
    if let Some(bytes) = storage.and_then(|bytes| i64::try_from(bytes).ok()) {
        snapshot.usage.storage_bytes = bytes;
    }
    snapshot
}
