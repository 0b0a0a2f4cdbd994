//! First step: what the caches and the scheduler have of a tenant. No call is made.

use std::sync::Arc;

use kube::runtime::reflector::ObjectRef;

use super::{Context, UsageSnapshot, build, validate::Owner};
use crate::{
    api_types::{Plans, Quantity, Tenant, TenantStatus},
    domain::tenant_state::{self, PhaseDecision},
};

/// All but the tenant itself that a reconcile starts from.
pub(super) struct Dereferenced {
    /// The phase that the spec and the time of day lead to.
    pub(super) phase: PhaseDecision,
    /// The plan table in force.
    pub(super) plans: Arc<Plans>,
    /// Whether the number of the tenant's objects is bounded: from when Kubernetes can count them, and wherever it was
    /// before.
    pub(super) counts_objects: bool,
}

/// Reads what belongs to a tenant.
pub(super) fn dereference(tenant: &Tenant, context: &Context) -> Dereferenced {
    let owner = Owner::of(tenant, &context.dependencies.settings);
    let quota = ObjectRef::new(build::OBJECTS).within(&owner.namespace);
    Dereferenced {
        phase: tenant_state::decide(tenant, context.dependencies.clock.now()),
        plans: Arc::clone(&context.dependencies.plans.borrow()),
        counts_objects: *context.counted.borrow() || context.known.quotas.get(&quota).is_some(),
    }
}

/// Usage by the scheduler, with the storage that the namespace's quota has counted; as last written where the scheduler
/// does not know the tenant yet.
pub(super) fn current_usage(tenant: &Tenant, context: &Context, old: &TenantStatus) -> UsageSnapshot {
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
