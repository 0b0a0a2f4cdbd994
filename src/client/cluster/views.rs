//! Objects of the cluster in the form of the REST API: a job, a key and a node by the REST API's own code, a tenant from its
//! status.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Node as ClusterNode, ResourceQuota};
use kube::ResourceExt;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use strum::IntoEnumIterator;

use crate::{
    api_types::{
        self, JobPhase, Quantity, Reason, TenantApiKey,
        plan::EffectiveQuotas,
        quota::QuotaDimension,
        reason::StartCondition,
        tenant::{TenantPhase, TenantUsage},
    },
    client::{
        error::{Error, Kind, Result},
        model::{Check, Job, Key, Node, Tenant, Why},
    },
    domain::worker,
    http::{jobs::JobView, keys},
    names,
};

/// What one form of an object is in another.
fn same<T: DeserializeOwned>(object: &impl Serialize) -> Result<T> {
    let converted = serde_json::to_value(object).and_then(serde_json::from_value);
    converted.map_err(|error| Error::new(Kind::Failed, format!("failed to read an object: {error}")))
}

/// A job, in this namespace prefix.
pub fn job(job: &api_types::Job, prefix: &str) -> Result<Job> {
    let namespace = job.namespace().unwrap_or_default();
    let mut view: Job = same(&JobView::of(job, ""))?;
    // The UID of the tenant is not in a Job.
    view.rest.remove("tenant_id");
    view.tenant = namespace.strip_prefix(prefix).map(str::to_owned);
    view.namespace = Some(namespace);
    Ok(view)
}

/// A key.
pub fn key(key: &TenantApiKey) -> Result<Key> {
    let mut view: Key = same(&keys::view(key, ""))?;
    view.rest.remove("tenant_id");
    Ok(view)
}

/// A tenant, from its status.
pub fn tenant(tenant: &api_types::Tenant) -> Tenant {
    let status = tenant.status.clone().unwrap_or_default();
    let word = |phase| match phase {
        TenantPhase::Active => "active",
        TenantPhase::Suspended => "suspended",
        TenantPhase::Expired => "expired",
        TenantPhase::Terminating => "deleted",
        TenantPhase::Stalled => "stalled",
    };
    let mut rest = Map::new();
    rest.insert("display_name".to_owned(), json!(tenant.spec.display_name));
    Tenant {
        id: tenant.uid().unwrap_or_default(),
        name: tenant.name_any(),
        plan: Some(tenant.spec.plan.clone()),
        status: status.phase.map(|phase| word(phase).to_owned()),
        namespace: status.namespace,
        quotas: status.effective_quotas.as_ref().map(quotas),
        usage: usage(&status.usage.unwrap_or_default()),
        expires_at: tenant.spec.expires_at.as_ref().map(|time| time.0),
        rest,
    }
}

fn quotas(quotas: &EffectiveQuotas) -> BTreeMap<String, i64> {
    QuotaDimension::all().map(|dimension| (dimension.rest_name(), dimension.quota(quotas))).collect()
}

fn usage(usage: &TenantUsage) -> Map<String, Value> {
    let amounts = QuotaDimension::all()
        .filter_map(|of| Some((of.rest_usage()?.name.to_owned(), json!(of.used(usage)?))));
    let reset = usage.jobs_hour_reset_at.as_ref().map(|at| at.0);
    amounts.chain([("jobs_hour_reset_at".to_owned(), json!(reset))]).collect()
}

/// What a ResourceQuota says of a tenant, for members of the tenant, who may not read the Tenant itself: the quotas that
/// Kubernetes counts, and no others.
pub fn tenant_of_quota(name: &str, quota: &ResourceQuota) -> Tenant {
    let status = quota.status.clone().unwrap_or_default();
    let (hard, used) = (status.hard.unwrap_or_default(), status.used.unwrap_or_default());
    let mut tenant = Tenant { name: name.to_owned(), namespace: quota.namespace(), ..Tenant::default() };
    let mut quotas = BTreeMap::new();
    for dimension in QuotaDimension::all() {
        let of = dimension.resource_quota(&EffectiveQuotas::default(), names::DEFAULT_GPU_RESOURCE);
        let (Some((resource, _)), Some(field)) = (of, dimension.rest_usage()) else { continue };
        // In the units of usage: cores in thousandths, all else whole.
        let amount = |quantity: &k8s_openapi::apimachinery::pkg::api::resource::Quantity| {
            let quantity = Quantity::from(quantity.0.as_str());
            let amount = if dimension.unit() == 1000 { quantity.milli() } else { quantity.units() };
            amount.ok().and_then(|amount| i64::try_from(amount).ok())
        };
        if let Some(used) = used.get(&resource).and_then(amount) {
            tenant.usage.insert(field.name.to_owned(), json!(used));
        }
        if let Some(hard) = hard.get(&resource).and_then(amount) {
            let unit = i64::try_from(dimension.unit()).unwrap_or(1);
            quotas.insert(dimension.rest_name(), hard / unit);
        }
    }
    tenant.quotas = Some(quotas);
    tenant
}

/// A node of a tenant.
pub fn node(node: &ClusterNode, tenant: &str, gpu_resource: &str) -> Node {
    let is_admitted = worker::admitted(node) == Some(tenant);
    let worker = worker::of_group(node, tenant.to_owned(), gpu_resource);
    let status = match (is_admitted, worker.ready) {
        (false, _) => "pending",
        (true, false) => "not_ready",
        (true, true) => "ready",
    };
    Node {
        name: worker.name,
        status: status.to_owned(),
        cpu_millicores: worker.allocatable.cpu_milli,
        memory_bytes: worker.allocatable.memory_bytes,
        gpus: worker.allocatable.gpus,
        rest: Map::new(),
    }
}

/// Why a job waits, as far as its status says: the reason, and which condition of its start is not met. Those before it are
/// met, those after it were not checked.
pub fn why(job: &api_types::Job) -> Why {
    let status = job.status.clone().unwrap_or_default();
    let waiting = matches!(status.phase, JobPhase::Queued | JobPhase::Retrying);
    let known: Option<Reason> = status.reason.as_deref().and_then(|reason| reason.parse().ok());
    let unmet = known.and_then(Reason::unmet).filter(|_| waiting);
    let check = |condition: StartCondition| {
        let ok = unmet.and_then(|unmet| match condition.cmp(&unmet) {
            std::cmp::Ordering::Less => Some(true),
            std::cmp::Ordering::Equal => Some(false),
            std::cmp::Ordering::Greater => None,
        });
        let detail = match ok {
            Some(true) => "met".to_owned(),
            Some(false) => status.message.clone().unwrap_or_default(),
            None => "not checked yet".to_owned(),
        };
        let at = status.not_before.as_ref().map(|at| at.0);
        let at = at.filter(|_| condition == StartCondition::BackOff && ok == Some(false));
        let name: &str = condition.into();
        Check { name: name.to_owned(), ok, detail, at, rest: Map::new() }
    };
    Why {
        id: job.uid().unwrap_or_default(),
        status: phase_word(status.phase),
        waiting,
        reason: status.reason.clone(),
        message: status.message.clone(),
        position: None,
        source: "status".to_owned(),
        estimate: None,
        score: None,
        shares: Vec::new(),
        checks: if waiting { StartCondition::iter().map(check).collect() } else { Vec::new() },
        rest: Map::new(),
    }
}

/// The word of a phase: `TimedOut` is `timed_out`.
pub fn phase_word(phase: JobPhase) -> String {
    super::super::spec::snake(&phase.to_string()).trim_start_matches('_').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(status: Value) -> api_types::Job {
        serde_json::from_value(json!({
            "apiVersion": "crofter.io/v1alpha1", "kind": "Job", "metadata": {"name": "j", "uid": "u", "namespace": "tenant-a"},
            "spec": {"image": "i", "env": [{"name": "P", "value": "geheim"}]}, "status": status,
        }))
        .unwrap()
    }

    #[test]
    fn a_job_is_what_the_rest_api_shows() {
        let view = job(&given(json!({"phase": "Running", "attempt": 2})), "tenant-").unwrap();
        assert_eq!((view.state(), view.attempt, view.tenant.as_deref()), ("running", 2, Some("a")));
        assert!(!json!(view).to_string().contains("geheim"));
    }

    #[test]
    fn the_words_of_phases_are_those_of_the_rest_api() {
        for phase in JobPhase::iter() {
            let view = job(&given(json!({"phase": phase})), "tenant-").unwrap();
            assert_eq!(view.state(), phase_word(phase));
        }
    }

    #[test]
    fn of_the_conditions_of_a_start_only_what_the_status_says_is_claimed() {
        let why = why(&given(json!({"phase": "Queued", "reason": "WaitingForQuota", "message": "5/5 jobs"})));
        let results: Vec<_> = why.checks.iter().map(|check| (check.name.as_str(), check.ok)).collect();
        assert_eq!(results[3], ("quota", Some(false)));
        assert_eq!(results[0], ("tenant_active", Some(true)));
        assert!(results[4..].iter().all(|(_, ok)| ok.is_none()), "{results:?}");
        assert_eq!((why.checks[3].detail.as_str(), why.source.as_str()), ("5/5 jobs", "status"));
        // A job that waits for nothing known claims nothing.
        let why = super::why(&given(json!({"phase": "Queued", "reason": "OfAnotherVersion"})));
        assert!(why.checks.iter().all(|check| check.ok.is_none()));
    }

    #[test]
    fn a_member_sees_of_the_quotas_what_kubernetes_counts() {
        let quota: ResourceQuota = serde_json::from_value(json!({
            "metadata": {"name": "crofter", "namespace": "tenant-a"},
            "status": {"hard": {"pods": "20", "requests.cpu": "16", "requests.memory": "64G"},
                       "used": {"pods": "3", "requests.cpu": "1500m", "requests.memory": "1G"}},
        }))
        .unwrap();
        let tenant = tenant_of_quota("a", &quota);
        let quotas = tenant.quotas.unwrap();
        assert_eq!((quotas["max_jobs"], quotas["max_cpu_cores"], quotas["max_memory_gb"]), (20, 16, 64));
        assert_eq!(tenant.usage["cpu_millicores"], 1500);
        assert!(!quotas.contains_key("max_jobs_per_hour"), "nothing counts it there");
    }
}
