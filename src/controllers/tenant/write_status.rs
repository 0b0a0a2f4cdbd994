//! Last step: the status of a tenant is written where it differs, with its Events. What it says is `status`'s.

use std::time::Duration;

use kube::{Api, ResourceExt, runtime::controller::Action};

use super::{
    Context, Dependencies, UsageSnapshot,
    dereference::current_usage,
    error::Error,
    status::{self, Outcome, Report},
    usage::{self, WriteDecision},
};
use crate::{
    api_types::{Tenant, TenantStatus},
    domain::tenant_state::{self, PhaseDecision},
    kube_ext::status as status_ext,
};

/// The longest time between two reconciles of a tenant that waits for something: the watch should have delivered it.
const RESYNC_INTERVAL: Duration = Duration::from_secs(30);
/// The longest timer: a clock that was set, or a machine that slept, is noticed after this.
const LONGEST_TIMER: Duration = Duration::from_secs(3600);

/// Writes the status that follows from an outcome, where it differs, with its Events, and says when to reconcile again.
pub(super) async fn write_status(
    tenant: &Tenant,
    context: &Context,
    phase: PhaseDecision,
    outcome: Outcome,
) -> Result<Action, Error> {
    let (dependencies, name) = (&context.dependencies, tenant.name_any());
    let old = tenant.status.clone().unwrap_or_default();
    let Planned { mut status, writes_usage, requeue } = plan(tenant, context, &old, phase, outcome);
    if status != old {
        // Not worth a write of its own.
        status.applied = context.state.applied_hash(&name).or(status.applied);
    }
    let api: Api<Tenant> = Api::all(dependencies.client.clone());
    let written = status_ext::write(&api, tenant, tenant.status.as_ref(), &status).await;
    if let Some(written) = written.map_err(|source| Error::WriteStatus { tenant: name.clone(), source })? {
        context.mutations.put(written);
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

/// The status after `outcome`. Usage is left as it was where its write is deferred.
fn plan(
    tenant: &Tenant,
    context: &Context,
    old: &TenantStatus,
    phase: PhaseDecision,
    outcome: Outcome,
) -> Planned {
    let (name, now) = (tenant.name_any(), context.dependencies.clock.now());
    let resync = matches!(outcome, Outcome::Working { .. }).then_some(RESYNC_INTERVAL);
    let phase_change = phase.changes_at.map(|at| at.duration_since(now).unsigned_abs());

    let workers = (context.dependencies.workers)(tenant);
    let mut snapshot = current_usage(tenant, context, old);
    snapshot.usage.workers = workers.admitted;
    let quotas = match &outcome {
        Outcome::Provisioned { quotas, .. } => Some(quotas),
        _ => old.effective_quotas.as_ref(),
    };
    let decision = match usage::due(old, &snapshot, quotas, context.state.since_usage(&name)) {
        WriteDecision::Queue => {
            let Dependencies { courtesy, clock, .. } = &context.dependencies;
            context.state.reserve_usage(&name, courtesy, clock.steady())
        }
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
        phase,
        outcome,
        snapshot,
        workers,
        deletion_prevented: tenant_state::deletion_prevented(tenant.spec.prevent_deletion)
            .filter(|_| deleted),
    };
    let requeue = [resync, phase_change, usage_due].into_iter().flatten().min();
    Planned { status: status::next(old, report, now), writes_usage, requeue }
}
