//! First step: what the caches and the scheduler have of a job. No call is made.

use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::{ResourceExt, runtime::reflector::ObjectRef};

use super::Context;
use crate::{
    api_types::{Job, Reason, Tenant, plan::Limit, tenant::SuspendPolicy},
    config::Settings,
    domain::{
        admission::Verdict,
        attempt,
        job_flow::{self, View},
        tenant_state,
    },
    names,
};

/// All that the next step of a job depends on.
pub(super) struct Dereferenced {
    /// The job, as cached or as this process wrote it last.
    pub(super) job: Arc<Job>,
    /// The tenant of its namespace.
    pub(super) tenant: Option<Arc<Tenant>>,
    pods: Vec<Arc<Pod>>,
    verdict: Option<Verdict>,
    running_limit: Option<SignedDuration>,
    drain: Option<Reason>,
    start_limit: SignedDuration,
    busy: bool,
    foreign: bool,
    now: Timestamp,
    steady: Timestamp,
}

impl Dereferenced {
    /// The same, for [`job_flow`].
    pub(super) fn view<'a>(&'a self, settings: &'a Settings) -> View<'a> {
        View {
            job: &self.job,
            pods: &self.pods,
            verdict: self.verdict.as_ref(),
            running_limit: self.running_limit,
            drain: self.drain,
            start_limit: self.start_limit,
            gpu_resource: &settings.gpu_resource,
            busy: self.busy,
            foreign: self.foreign,
            now: self.now,
            steady: self.steady,
        }
    }
}

/// Reads what belongs to a job.
pub(super) fn dereference(cached: Arc<Job>, context: &Context) -> Dereferenced {
    let job = context.mutations.newest(cached);
    let now = context.clock.now();
    let tenant = tenant(&job, context);
    let pods = pods(&job, context);
    let steady = context.ages.now(&job, &pods, &context.clock);
    Dereferenced {
        verdict: context.scheduler.verdict(&job.uid().unwrap_or_default()),
        running_limit: running_limit(&job, tenant.as_deref(), context),
        drain: tenant.as_deref().and_then(|tenant| drain_reason(tenant, now)),
        start_limit: context.start_limit,
        busy: context.inflight.is_saturated(),
        foreign: is_foreign(&job, context),
        job,
        tenant,
        pods,
        now,
        steady,
    }
}

/// The tenant of the job's namespace, if the namespace belongs to one.
fn tenant(job: &Job, context: &Context) -> Option<Arc<Tenant>> {
    let namespace = job.namespace()?;
    let name = namespace.strip_prefix(&context.settings.namespace_prefix)?;
    let tenant = context.tenants.get(&ObjectRef::new(name))?;
    // The tenant controller writes the namespace only once it carries the tenant's UID.
    (tenant.status.as_ref()?.namespace.as_ref() == Some(&namespace)).then_some(tenant)
}

/// Whether the job's namespace belongs to no tenant, nor will once a tenant is provisioned.
fn is_foreign(job: &Job, context: &Context) -> bool {
    let namespace = job.namespace().unwrap_or_default();
    let name = namespace.strip_prefix(&context.settings.namespace_prefix);
    let tenant = name.and_then(|name| context.tenants.get(&ObjectRef::new(name)));
    let conflict = |tenant: &Tenant| {
        let conditions = tenant.status.iter().flat_map(|status| &status.conditions);
        conditions.into_iter().any(|c| c.reason == Reason::NamespaceConflict.as_str())
    };
    tenant.is_none_or(|tenant| conflict(&tenant))
}

/// The pods that can exist: of the current attempt and the next.
fn pods(job: &Job, context: &Context) -> Vec<Arc<Pod>> {
    let current = job.status.as_ref().map_or(0, |s| u32::try_from(s.attempt).unwrap_or(0));
    let uid = job.uid().unwrap_or_default();
    let named = [current, current + 1].map(|number| names::pod(&job.name_any(), &uid, number));
    let found = named.iter().filter_map(|name| {
        context.pods.get(&ObjectRef::new(name).within(&job.namespace().unwrap_or_default()))
    });
    found.filter(|pod| attempt::job_uid(pod) == Some(&uid)).collect()
}

/// How long the job may run in all, by its scenario and its tenant's plan; `None` is unlimited.
fn running_limit(job: &Job, tenant: Option<&Tenant>, context: &Context) -> Option<SignedDuration> {
    let (plans, scenarios) = (Arc::clone(&context.plans.borrow()), Arc::clone(&context.scenarios.borrow()));
    let quotas = tenant.and_then(|tenant| Some(plans.get(&tenant.spec.plan)?.effective(&tenant.spec.quotas)));
    let plan = quotas.map_or(Limit::Unlimited, |quotas| Limit::from_quota(quotas.job_timeout_minutes));
    job_flow::running_limit(scenarios.timeout_seconds(&job.spec), plan)
}

/// Why running jobs of the tenant are to be stopped, if they are.
fn drain_reason(tenant: &Tenant, now: Timestamp) -> Option<Reason> {
    let reason = tenant_state::decide(tenant, now).reason;
    let inactive = matches!(reason, Reason::TenantSuspended | Reason::TenantExpired);
    (inactive && tenant.spec.suspend_policy == SuspendPolicy::Drain).then_some(reason)
}
