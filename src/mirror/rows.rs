//! Objects as rows. Pure.

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Node, Pod},
    apimachinery::pkg::{api::resource, apis::meta::v1::Time},
};
use kube::{Resource, ResourceExt};
use serde_json::Value;
use uuid::Uuid;

use super::handle::AttemptKey;
use crate::{
    api_types::{Job, Quantity, Tenant},
    db::{AttemptRow, JobRow, JobSeen, NodeRow, TenantRow},
    domain::attempt,
    names,
};

/// UID of an object. Those that Crofter's rows are about all have one of the standard form.
pub(super) fn uid<K: Resource>(object: &K) -> Option<Uuid> {
    Uuid::parse_str(object.meta().uid.as_deref()?).ok()
}

/// Resource version of an object, as the number that it is.
pub(super) fn resource_version<K: Resource>(object: &K) -> Option<i64> {
    object.meta().resource_version.as_deref()?.parse().ok()
}

/// When an object was made.
pub(super) fn created<K: Resource>(object: &K) -> Option<Timestamp> {
    object.meta().creation_timestamp.as_ref().map(|t| t.0)
}

fn time(time: Option<&Time>) -> Option<Timestamp> {
    time.map(|t| t.0)
}

fn value<T: serde::Serialize>(of: &T) -> Value {
    // These types are structs of texts and numbers with text keys, which JSON always holds.
    serde_json::to_value(of).unwrap_or(Value::Null)
}

/// The row of a tenant. `None` when the object lacks what every stored object has.
pub(super) fn tenant(tenant: &Tenant, deleted_at: Option<Timestamp>) -> Option<TenantRow> {
    let status = tenant.status.clone().unwrap_or_default();
    Some(TenantRow {
        uid: uid(tenant)?,
        name: tenant.name_any(),
        display_name: tenant.spec.display_name.clone(),
        namespace: status.namespace,
        plan: tenant.spec.plan.clone(),
        status: status.phase.map(|p| p.to_string()),
        quotas: status.effective_quotas.as_ref().map(value),
        usage: status.usage.as_ref().map(value),
        metadata: value(&tenant.spec.metadata),
        created_at: created(tenant)?,
        expires_at: time(tenant.spec.expires_at.as_ref()),
        deleted_at,
        resource_version: resource_version(tenant)?,
    })
}

/// The worker group that an administrator labelled a node for.
fn requested_group(node: &Node) -> Option<String> {
    let label = |name: &str| node.labels().get(name);
    label(names::NODE_TENANT).cloned().or_else(|| label(names::NODE_POOL).map(|pool| names::pool_group(pool)))
}

/// The worker group that a node is admitted to.
pub(super) fn admitted_group(node: &Node) -> Option<&str> {
    node.labels().get(names::NODE_ADMITTED).map(String::as_str)
}

/// The row of a node.
pub(super) fn node(
    node: &Node,
    tenant_uid: Option<Uuid>,
    gpu_resource: &str,
    deleted_at: Option<Timestamp>,
) -> Option<NodeRow> {
    let status = node.status.clone().unwrap_or_default();
    let allocatable = status.allocatable.unwrap_or_default();
    let quantity = |name: &str| allocatable.get(name).map(|q: &resource::Quantity| Quantity(q.0.clone()));
    let number = |n: u64| i64::try_from(n).ok();
    let conditions = status.conditions.unwrap_or_default();
    Some(NodeRow {
        uid: uid(node)?,
        name: node.name_any(),
        requested_group: requested_group(node),
        admitted_group: admitted_group(node).map(str::to_owned),
        tenant_uid,
        ready: conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True"),
        cpu_millicores: quantity("cpu").and_then(|q| q.milli().ok()).and_then(number),
        memory_bytes: quantity("memory").and_then(|q| q.units().ok()).and_then(number),
        gpus: quantity(gpu_resource).and_then(|q| q.units().ok()).and_then(number),
        created_at: created(node)?,
        deleted_at,
        resource_version: resource_version(node)?,
    })
}

/// The row of a job.
pub(super) fn job(job: &Job, tenant_uid: Uuid, deleted_at: Option<Timestamp>) -> Option<JobRow> {
    let status = job.status.clone().unwrap_or_default();
    Some(JobRow {
        uid: uid(job)?,
        tenant_uid,
        namespace: job.namespace()?,
        name: job.name_any(),
        queue: job.spec.queue.into(),
        priority: job.spec.priority.into(),
        phase: status.phase.into(),
        reason: status.reason,
        message: status.message,
        attempt: status.attempt,
        retries: status.retries,
        node: status.node,
        exit_code: status.exit_code,
        spec: spec(job),
        created_at: created(job)?,
        assigned_at: time(status.assigned_at.as_ref()),
        started_at: time(status.started_at.as_ref()),
        finished_at: time(status.finished_at.as_ref()),
        deleted_at,
        resource_version: resource_version(job)?,
    })
}

/// What was submitted, without the values of its variables: people put passwords there, and nothing reads them from
/// Postgres.
fn spec(job: &Job) -> Value {
    let mut spec = job.spec.clone();
    for variable in &mut spec.env {
        variable.value = None;
    }
    value(&spec)
}

/// The attempts in a job's status.
pub(super) fn attempts_of_job(job: &Job) -> Vec<AttemptRow> {
    let Some(job_uid) = uid(job) else { return Vec::new() };
    let records = job.status.iter().flat_map(|s| &s.attempts);
    records.map(|record| AttemptRow { job_uid, record: record.clone(), seen: None }).collect()
}

/// Which attempt a pod is.
pub(super) fn attempt_key(pod: &Pod) -> Option<AttemptKey> {
    let job_uid = Uuid::parse_str(attempt::job_uid(pod)?).ok()?;
    Some((job_uid, i32::try_from(attempt::number(pod)?).ok()?))
}

/// Whether a pod has ended and waits to be charged.
pub(super) fn awaits_charge(pod: &Pod, gpu_resource: &str) -> bool {
    pod.finalizers().iter().any(|f| f == names::FINALIZER_ACCOUNTED)
        && attempt::record(pod, gpu_resource).is_some()
}

/// The attempt that a pod was, with what it says of job and tenant.
pub(super) fn attempt_of_pod(pod: &Pod, gpu_resource: &str) -> Option<AttemptRow> {
    let (job_uid, _) = attempt_key(pod)?;
    let label = |name: &str| pod.labels().get(name).cloned();
    let owner = pod.owner_references().iter().find(|o| o.controller == Some(true)).map(|o| o.name.clone());
    let seen = JobSeen {
        tenant_uid: Uuid::parse_str(&label(names::LABEL_TENANT_UID)?).ok()?,
        tenant: label(names::LABEL_TENANT)?,
        namespace: pod.namespace()?,
        job: owner.or_else(|| label(names::LABEL_JOB)).unwrap_or_else(|| pod.name_any()),
        created_at: created(pod)?,
    };
    Some(AttemptRow { job_uid, record: attempt::record(pod, gpu_resource)?, seen: Some(seen) })
}
