//! A tenant in responses.

use std::collections::BTreeMap;

use axum::{
    Json,
    http::header,
    response::{IntoResponse, Response},
};
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
    http::{App, header::etag},
};

/// A tenant is a customer of the cluster, with a namespace and quotas of its own.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Tenant")]
pub struct TenantView {
    /// This is the UID of the tenant.
    pub id: String,
    /// This is the name of the tenant.
    name: String,
    /// This is the name that is shown to people.
    display_name: Option<String>,
    /// This is the plan of the tenant.
    plan: String,
    /// This is the state of the tenant.
    status: TenantStatus,
    /// This is the namespace of the tenant. It is null until it is created.
    namespace: Option<String>,
    /// These quotas are in force. They are null while the plan is not in the table of plans.
    quotas: Option<AllQuotas>,
    /// This is what the tenant uses.
    usage: UsageView,
    /// These are free notes.
    metadata: BTreeMap<String, String>,
    /// These are the shared pools on whose nodes the tenant's jobs may run.
    shared_pools: Vec<String>,
    /// Whether a request to delete the tenant is refused.
    prevent_deletion: bool,
    /// This is when the tenant was created.
    created_at: Option<Timestamp>,
    /// This is when the tenant expires.
    expires_at: Option<Timestamp>,
}

/// A status is the state of a tenant.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum TenantStatus {
    /// The tenant may submit and run jobs.
    Active,
    /// An administrator has suspended the tenant.
    Suspended,
    /// The time in `expires_at` has passed.
    Expired,
    /// The tenant is being deleted.
    Deleted,
    /// The tenant's plan is not in the table of plans, or its namespace has another owner, so its jobs wait.
    Stalled,
}

macro_rules! quotas {
    ($(#[doc = $doc:literal] $field:ident),* $(,)?) => {
        /// These quotas are in force. A quota of -1 sets no limit.
        #[derive(Debug, Serialize, JsonSchema)]
        #[schemars(rename = "Quotas")]
        pub struct AllQuotas { $(#[doc = $doc] pub(super) $field: i64,)* }

        impl From<EffectiveQuotas> for AllQuotas {
            fn from(from: EffectiveQuotas) -> Self {
                Self { $($field: from.$field,)* }
            }
        }

        /// These quotas replace those of the plan. Null leaves the quota of the plan, and -1 sets no limit.
        #[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
        #[serde(deny_unknown_fields)]
        pub struct OwnQuotas { $(#[doc = $doc] #[serde(default)] $field: Option<i64>,)* }

        impl From<OwnQuotas> for Quotas {
            fn from(from: OwnQuotas) -> Self {
                Self { $($field: from.$field,)* }
            }
        }
    };
}
quotas!(
    /// This is how many jobs may run at once.
    max_jobs,
    /// This is how many jobs may wait.
    max_queued_jobs,
    /// This is how many jobs may start in an hour.
    max_jobs_per_hour,
    /// This is how many nodes may be assigned to the tenant.
    max_workers,
    /// This is how many CPU cores the jobs may use at once.
    max_cpu_cores,
    /// This is how much memory the jobs may use at once, in GB.
    max_memory_gb,
    /// This is how many GPUs the jobs may use at once.
    max_gpus,
    /// This is how much persistent storage the tenant may claim, in GB.
    max_storage_gb,
    /// This is how much network bandwidth the jobs may use at once, in Mbit/s.
    max_bandwidth_mbps,
    /// This is how many minutes a job may run.
    job_timeout_minutes,
);

/// This is what a tenant uses.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "CurrentUsage")]
pub struct UsageView {
    /// This is how many jobs are admitted or run.
    active_jobs: i64,
    /// This is how many jobs wait.
    queued_jobs: i64,
    /// This is how many jobs have completed.
    completed_jobs: i64,
    /// This is how many jobs have failed.
    failed_jobs: i64,
    /// This is how many jobs were canceled.
    canceled_jobs: i64,
    /// This is how many jobs were rejected.
    rejected_jobs: i64,
    /// This is how many jobs ran into their time limit.
    timed_out_jobs: i64,
    /// This is how many nodes are admitted to the tenant.
    active_workers: i64,
    /// This is the CPU that is in use, in thousandths of a core.
    cpu_millicores: i64,
    /// This is the memory that is in use, in bytes.
    memory_bytes: i64,
    /// This is how many GPUs are in use.
    gpus: i64,
    /// This is the persistent storage that is claimed, in bytes.
    storage_bytes: i64,
    /// This is the network bandwidth that is in use, in Mbit/s.
    bandwidth_mbps: i64,
    /// This is how many jobs have started in the current hour.
    jobs_this_hour: i64,
    /// This is when the current hour ends. It is null before the first job.
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

/// These numbers are what the quotas still allow. Null means that there is no limit. No number is below 0.
#[derive(Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Limits {
    /// This is how many more jobs may run.
    available_jobs: Option<u64>,
    /// This is how many more nodes may be assigned to the tenant.
    available_workers: Option<u64>,
    /// This is how much more CPU the jobs may use, in thousandths of a core.
    available_cpu_millicores: Option<u64>,
    /// This is how much more memory the jobs may use, in bytes.
    available_memory_bytes: Option<u64>,
    /// This is how many more GPUs the jobs may use.
    available_gpus: Option<u64>,
    /// This is how much more persistent storage the tenant may claim, in bytes.
    available_storage_bytes: Option<u64>,
    /// This is how much more network bandwidth the jobs may use, in Mbit/s.
    available_bandwidth_mbps: Option<u64>,
    /// This is how many more jobs may start in the current hour.
    available_jobs_this_hour: Option<u64>,
}

impl Limits {
    fn of(quotas: &EffectiveQuotas, usage: &TenantUsage) -> Self {
        const GIGA: u64 = 1_000_000_000;
        let left = |quota: i64, unit: u64, used: i64| {
            let max = Limit::from_quota(quota).times(unit).at_most()?;
            Some(max.saturating_sub(u64::try_from(used).unwrap_or(0)))
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

/// Statistics say what a tenant uses and what its quotas still allow.
#[derive(Debug, Serialize, JsonSchema)]
pub struct Stats {
    /// This is the UID of the tenant.
    tenant_id: String,
    /// This is the name of the tenant.
    name: String,
    /// This is the plan of the tenant.
    plan: String,
    /// This is the state of the tenant.
    status: TenantStatus,
    /// These quotas are in force. They are null while the plan is not in the table of plans.
    quotas: Option<AllQuotas>,
    /// This is what the tenant uses.
    usage: UsageView,
    /// This is what the quotas still allow. It is null while the plan is not in the table of plans.
    limits: Option<Limits>,
}

fn status(app: &App, tenant: &Tenant) -> TenantStatus {
    let stored = tenant.status.as_ref().and_then(|status| status.phase);
    let decision = tenant_state::decide(tenant, app.clock.now());
    match tenant_state::phase(&decision, stored == Some(TenantPhase::Stalled)) {
        TenantPhase::Active => TenantStatus::Active,
        TenantPhase::Stalled => TenantStatus::Stalled,
        TenantPhase::Suspended => TenantStatus::Suspended,
        TenantPhase::Expired => TenantStatus::Expired,
        TenantPhase::Terminating => TenantStatus::Deleted,
    }
}

fn quotas(app: &App, tenant: &Tenant) -> Option<EffectiveQuotas> {
    app.plans.borrow().get(&tenant.spec.plan).map(|plan| plan.effective(&tenant.spec.quotas))
}

/// The usage of a tenant: of its jobs as the scheduler has it, where this process schedules; the rest from the status.
fn usage(app: &App, tenant: &Tenant) -> TenantUsage {
    let status = tenant.status.clone().unwrap_or_default();
    let recorded = status.usage.unwrap_or_default();
    let live = status.namespace.and_then(|namespace| app.scheduler()?.usage(&namespace));
    match live {
        Some(live) => {
            TenantUsage { storage_bytes: recorded.storage_bytes, workers: recorded.workers, ..live }
        }
        None => recorded,
    }
}

/// A response with the tenant and its `ETag`.
#[must_use]
pub fn with_etag(app: &App, tenant: &Tenant) -> Response {
    let mut response = Json(view(app, tenant)).into_response();
    let tag = etag(tenant.metadata.resource_version.as_deref().unwrap_or_default());
    response.headers_mut().extend(tag.map(|tag| (header::ETAG, tag)));
    response
}

/// The view of a tenant.
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

/// The statistics of a tenant.
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
    fn what_quotas_still_allow_is_never_negative() {
        let plans = Plans::built_in().unwrap();
        let own = Quotas { max_gpus: Some(-1), ..Quotas::default() };
        let quotas = plans.get("free").unwrap().effective(&own);
        let usage = TenantUsage { active_jobs: 9, cpu_millicores: 1500, gpus: 3, ..TenantUsage::default() };
        let limits = Limits::of(&quotas, &usage);
        assert_eq!(limits.available_jobs, Some(0));
        assert_eq!(limits.available_cpu_millicores, Some(2500));
        assert_eq!(limits.available_gpus, None, "the quota has no limit");
    }
}
