//! Which jobs are to look again when something beside them has changed.

use std::{collections::HashMap, sync::Arc};

use futures::{Stream, StreamExt, stream};
use jiff::SignedDuration;
use kube::{
    ResourceExt,
    runtime::reflector::{ObjectRef, Store},
};

use super::Context;
use crate::{
    api_types::{Job, JobPhase, Plans, Scenarios, Tenant, plan::Limit},
    domain::{job_flow, job_state::is_terminal},
};

/// The jobs that have not ended of each tenant whose spec or phase has changed: they may have to stop, or have other
/// time limits. What else its status says (usage, every few seconds) concerns no job.
pub(super) fn of_changed_tenants(
    changes: impl Stream<Item = Arc<Tenant>> + Send + 'static,
    tenants: Store<Tenant>,
    jobs: Store<Job>,
) -> impl Stream<Item = ObjectRef<Job>> + Send + 'static {
    let mut seen = HashMap::new();
    changes.flat_map(move |tenant| {
        let (name, status) = (tenant.name_any(), tenant.status.as_ref());
        let now = (tenant.uid(), tenant.metadata.generation, status.and_then(|s| s.phase));
        let exists = tenants.get(&ObjectRef::from_obj(&*tenant)).is_some();
        let before = if exists { seen.insert(name, now.clone()) } else { seen.remove(&name) };
        let namespace = status.and_then(|s| s.namespace.clone()).filter(|_| !exists || before != Some(now));
        let concerned = namespace.map_or_else(Vec::new, |namespace| {
            jobs.state_filter(|job| job.namespace().as_ref() == Some(&namespace) && !is_terminal(phase(job)))
        });
        stream::iter(concerned.into_iter().map(|job| ObjectRef::from_obj(&*job)))
    })
}

fn phase(job: &Job) -> JobPhase {
    job.status.as_ref().map_or(JobPhase::Queued, |status| status.phase)
}

/// What bounds the running time of jobs.
pub(super) struct Limits {
    plans: Arc<Plans>,
    scenarios: Arc<Scenarios>,
}

impl Limits {
    /// Those of now.
    pub(super) fn in_force(context: &Context) -> Self {
        Self {
            plans: Arc::clone(&context.plans.borrow()),
            scenarios: Arc::clone(&context.scenarios.borrow()),
        }
    }

    /// How long a job of that tenant may run; `None` is unlimited.
    pub(super) fn running(&self, job: &Job, tenant: Option<&Tenant>) -> Option<SignedDuration> {
        let plan = |tenant: &Tenant| Some(self.plans.get(&tenant.spec.plan)?.effective(&tenant.spec.quotas));
        let quotas = tenant.and_then(plan);
        let plan = quotas.map_or(Limit::Unlimited, |quotas| Limit::from_quota(quotas.job_timeout_minutes));
        job_flow::running_limit(self.scenarios.timeout_seconds(&job.spec), plan)
    }
}
