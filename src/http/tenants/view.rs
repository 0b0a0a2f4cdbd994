//! A tenant as the API shows it, in the seed's words.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::ResourceExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    api_types::{
        Tenant,
        plan::{EffectiveQuotas, Limit, Quotas},
        tenant::{TenantPhase, TenantUsage},
    },
    domain::tenant_state,
    http::App,
};

/// A tenant.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Tenant")]
pub struct TenantView {
    /// UID.
    pub id: String,
    /// Name.
    name: String,
    /// Name for people.
    display_name: Option<String>,
    /// Plan.
    plan: String,
    /// active, suspended, expired or deleted (its deletion is under way).
    #[schemars(extend("enum" = ["active", "suspended", "expired", "deleted"]))]
    status: &'static str,
    /// Its namespace, once it is made.
    namespace: Option<String>,
    /// Quotas in force; null while its plan is not in the table.
    quotas: Option<AllQuotas>,
    /// What it uses.
    usage: UsageView,
    /// Free notes.
    metadata: BTreeMap<String, String>,
    /// Shared pools on whose nodes its jobs may run.
    shared_pools: Vec<String>,
    /// Whether it is kept even when its deletion is asked for.
    prevent_deletion: bool,
    /// When it was made.
    created_at: Option<Timestamp>,
    /// From this time on it is expired.
    expires_at: Option<Timestamp>,
}

macro_rules! quotas {
    ($($field:ident),* $(,)?) => {
        /// Quotas in force; -1 is unlimited.
        #[derive(Debug, Serialize, JsonSchema)]
        #[schemars(rename = "Quotas")]
        pub struct AllQuotas { $(pub(super) $field: i64,)* }

        impl From<EffectiveQuotas> for AllQuotas {
            fn from(from: EffectiveQuotas) -> Self {
                Self { $($field: from.$field,)* }
            }
        }

        /// Quotas of a tenant's own; null is the plan's, -1 unlimited.
        #[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub struct OwnQuotas { $(#[serde(default)] $field: Option<i64>,)* }

        impl From<OwnQuotas> for Quotas {
            fn from(from: OwnQuotas) -> Self {
                Self { $($field: from.$field,)* }
            }
        }
    };
}
quotas!(
    max_jobs,
    max_queued_jobs,
    max_jobs_per_hour,
    max_workers,
    max_cpu_cores,
    max_memory_gb,
    max_gpus,
    max_storage_gb,
    max_bandwidth_mbps,
    job_timeout_minutes,
);

/// What a tenant uses.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "CurrentUsage")]
pub struct UsageView {
    active_jobs: i64,
    queued_jobs: i64,
    completed_jobs: i64,
    failed_jobs: i64,
    canceled_jobs: i64,
    rejected_jobs: i64,
    timed_out_jobs: i64,
    active_workers: i64,
    cpu_millicores: i64,
    memory_bytes: i64,
    gpus: i64,
    storage_bytes: i64,
    bandwidth_mbps: i64,
    jobs_this_hour: i64,
    jobs_hour_reset_at: Option<Timestamp>,
}

impl From<TenantUsage> for UsageView {
    fn from(from: TenantUsage) -> Self {
        Self {
            active_jobs: from.active_jobs,
            queued_jobs: from.queued_jobs,
            completed_jobs: from.ended.completed,
            failed_jobs: from.ended.failed,
            canceled_jobs: from.ended.canceled,
            rejected_jobs: from.ended.rejected,
            timed_out_jobs: from.ended.timed_out,
            active_workers: from.workers,
            cpu_millicores: from.cpu_millicores,
            memory_bytes: from.memory_bytes,
            gpus: from.gpus,
            storage_bytes: from.storage_bytes,
            bandwidth_mbps: from.bandwidth_mbps,
            jobs_this_hour: from.jobs_this_hour,
            jobs_hour_reset_at: from.jobs_hour_reset_at.map(|at| at.0),
        }
    }
}

/// What is left of the quotas; null is without a limit, and nothing is ever below 0.
#[derive(Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Limits {
    available_jobs: Option<u64>,
    available_workers: Option<u64>,
    available_cpu_millicores: Option<u64>,
    available_memory_bytes: Option<u64>,
    available_gpus: Option<u64>,
    available_storage_bytes: Option<u64>,
    available_bandwidth_mbps: Option<u64>,
    available_jobs_this_hour: Option<u64>,
}

impl Limits {
    fn of(quotas: &EffectiveQuotas, usage: &TenantUsage) -> Self {
        const GIGA: u64 = 1_000_000_000;
        let left = |quota: i64, unit: u64, used: i64| {
            let most = Limit::from_quota(quota).times(unit).at_most()?;
            Some(most.saturating_sub(u64::try_from(used).unwrap_or(0)))
        };
        Self {
            available_jobs: left(quotas.max_jobs, 1, usage.active_jobs),
            available_workers: left(quotas.max_workers, 1, usage.workers),
            available_cpu_millicores: left(quotas.max_cpu_cores, 1000, usage.cpu_millicores),
            available_memory_bytes: left(quotas.max_memory_gb, GIGA, usage.memory_bytes),
            available_gpus: left(quotas.max_gpus, 1, usage.gpus),
            available_storage_bytes: left(quotas.max_storage_gb, GIGA, usage.storage_bytes),
            available_bandwidth_mbps: left(quotas.max_bandwidth_mbps, 1, usage.bandwidth_mbps),
            available_jobs_this_hour: left(quotas.max_jobs_per_hour, 1, usage.jobs_this_hour),
        }
    }
}

/// The seed's statistics of a tenant.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Stats {
    /// UID of the tenant.
    tenant_id: String,
    /// Its name.
    name: String,
    /// Its plan.
    plan: String,
    /// As in the tenant.
    #[schemars(extend("enum" = ["active", "suspended", "expired", "deleted"]))]
    status: &'static str,
    /// Quotas in force.
    quotas: Option<AllQuotas>,
    /// What it uses.
    usage: UsageView,
    /// What its quotas leave.
    limits: Option<Limits>,
}

fn status(app: &App, tenant: &Tenant) -> &'static str {
    match tenant_state::judge(tenant, app.clock.now()).phase {
        TenantPhase::Active | TenantPhase::Stalled => "active",
        TenantPhase::Suspended => "suspended",
        TenantPhase::Expired => "expired",
        TenantPhase::Terminating => "deleted",
    }
}

fn quotas(app: &App, tenant: &Tenant) -> Option<EffectiveQuotas> {
    app.plans.borrow().get(&tenant.spec.plan).map(|plan| plan.effective(&tenant.spec.quotas))
}

/// What the jobs use at this moment, where this process schedules; the rest as last written.
fn usage(app: &App, tenant: &Tenant) -> TenantUsage {
    let status = tenant.status.clone().unwrap_or_default();
    let written = status.usage.unwrap_or_default();
    let live = status.namespace.and_then(|namespace| app.board.as_ref()?.usage(&namespace));
    match live {
        Some(live) => TenantUsage { storage_bytes: written.storage_bytes, workers: written.workers, ..live },
        None => written,
    }
}

/// A tenant as it is shown.
#[must_use]
pub fn view(app: &App, tenant: &Tenant) -> TenantView {
    let spec = &tenant.spec;
    let time = |time: &Option<Time>| time.as_ref().map(|time| time.0);
    TenantView {
        id: tenant.uid().unwrap_or_default(),
        name: tenant.name_any(),
        display_name: spec.display_name.clone(),
        plan: spec.plan.clone(),
        status: status(app, tenant),
        namespace: tenant.status.as_ref().and_then(|status| status.namespace.clone()),
        quotas: quotas(app, tenant).map(Into::into),
        usage: usage(app, tenant).into(),
        metadata: spec.metadata.iter().map(|(key, value)| (key.clone(), value.0.clone())).collect(),
        shared_pools: spec.shared_pools.clone(),
        prevent_deletion: spec.prevent_deletion,
        created_at: time(&tenant.metadata.creation_timestamp),
        expires_at: time(&spec.expires_at),
    }
}

/// A tenant's statistics.
#[must_use]
pub fn stats(app: &App, tenant: &Tenant) -> Stats {
    let (quotas, usage) = (quotas(app, tenant), usage(app, tenant));
    Stats {
        tenant_id: tenant.uid().unwrap_or_default(),
        name: tenant.name_any(),
        plan: tenant.spec.plan.clone(),
        status: status(app, tenant),
        limits: quotas.as_ref().map(|quotas| Limits::of(quotas, &usage)),
        quotas: quotas.map(Into::into),
        usage: usage.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api_types::Plans;

    #[test]
    fn what_is_left_is_never_below_nothing() {
        let plans = Plans::built_in().unwrap();
        let own = Quotas { max_gpus: Some(-1), ..Quotas::default() };
        let quotas = plans.get("free").unwrap().effective(&own);
        let usage = TenantUsage { active_jobs: 9, cpu_millicores: 1500, gpus: 3, ..TenantUsage::default() };
        let limits = Limits::of(&quotas, &usage);
        assert_eq!(limits.available_jobs, Some(0));
        assert_eq!(limits.available_cpu_millicores, Some(2500));
        assert_eq!(limits.available_gpus, None, "without a limit");
    }
}
