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
    api_types::{Job, JobSpec, Quantity, Tenant},
    db::{AttemptRow, JobRow, JobSeen, NodeRow, TenantRow},
    domain::{
        attempt::{self, Bounds},
        job_flow,
    },
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

/// The row of a job. Where the job lacks its payload, `stored` is its spec as the API server has it, or its row keeps the
/// payload that it has.
pub(super) fn job(
    job: &Job,
    stored: Option<&JobSpec>,
    tenant_uid: Uuid,
    deleted_at: Option<Timestamp>,
) -> Option<JobRow> {
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
        spec: spec(
            stored.map_or_else(|| job.spec.clone(), |stored| job.spec.with_payload_of(stored.clone())),
        ),
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
fn spec(mut spec: JobSpec) -> Value {
    for variable in &mut spec.env {
        variable.value = None;
    }
    value(&spec)
}

/// The attempts in a job's status, with what makes a row of the job where it has none yet: attempts are written first.
pub(super) fn attempts_of_job(job: &Job, (tenant_uid, tenant): (Uuid, &str)) -> Vec<AttemptRow> {
    let (Some(job_uid), Some(created_at)) = (uid(job), created(job)) else { return Vec::new() };
    let namespace = job.namespace().unwrap_or_default();
    let seen = JobSeen { tenant_uid, tenant: tenant.to_owned(), namespace, job: job.name_any(), created_at };
    let records = job.status.iter().flat_map(|s| &s.attempts);
    records.map(|record| AttemptRow { job_uid, record: record.clone(), seen: Some(seen.clone()) }).collect()
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

/// What to write of an ended pod.
#[derive(Clone, Debug)]
pub(super) enum FromPod {
    /// This row is to be written.
    Row(Box<AttemptRow>),
    /// The Job exists and will record it in its status: it has seen what the kubelet may have forgotten.
    Later,
}

/// What to write of a pod that has ended. While its `job` exists, the record in the job's status is what is charged.
pub(super) fn attempt_of_pod(
    pod: &Pod,
    job: Option<&Job>,
    gpu_resource: &str,
    now: Timestamp,
) -> Option<FromPod> {
    let (job_uid, number) = attempt_key(pod)?;
    let label = |name: &str| pod.labels().get(name).cloned();
    let owner = attempt::owner(pod).map(|owner| owner.name);
    let seen = JobSeen {
        tenant_uid: Uuid::parse_str(&label(names::LABEL_TENANT_UID)?).ok()?,
        tenant: label(names::LABEL_TENANT)?,
        namespace: pod.namespace()?,
        job: owner.or_else(|| label(names::LABEL_JOB)).unwrap_or_else(|| pod.name_any()),
        created_at: created(pod)?,
    };
    let status =
        job.filter(|job| uid(*job) == Some(job_uid)).map(|job| job.status.clone().unwrap_or_default());
    let recorded = status.as_ref().and_then(|s| s.attempts.iter().find(|record| record.attempt == number));
    let record = match (recorded, &status) {
        (Some(record), _) => record.clone(),
        (None, Some(status)) if !job_flow::on_record(status, number) => return Some(FromPod::Later),
        // The job is deleted, or keeps no records that are so old.
        (None, _) => {
            let bounds = Bounds { now: Some(now), ..Bounds::of(pod) };
            attempt::record_within(pod, gpu_resource, &bounds)?
        }
    };
    Some(FromPod::Row(Box::new(AttemptRow { job_uid, record, seen: Some(seen) })))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const JOB: &str = "0b8e9a52-6a5e-4d5c-9c0e-6a1f6c0a9f11";
    const OTHER: &str = "0b8e9a52-6a5e-4d5c-9c0e-6a1f6c0a9f12";
    const TENANT: &str = "0b8e9a52-6a5e-4d5c-9c0e-6a1f6c0a9f13";

    /// A pod whose kubelet has forgotten when its container started.
    fn forgetful() -> Pod {
        serde_json::from_value(json!({
            "metadata": {
                "name": "render-1", "namespace": "tenant-acme", "creationTimestamp": "2026-01-01T00:00:00Z",
                "labels": {names::LABEL_TENANT: "acme", names::LABEL_TENANT_UID: TENANT, names::LABEL_JOB_UID: JOB,
                    names::LABEL_ATTEMPT: "1"},
                "ownerReferences": [{"apiVersion": "crofter.io/v1alpha1", "kind": "Job", "name": "render", "uid": JOB,
                    "controller": true}],
            },
            "spec": {"containers": []}, "status": {"phase": "Failed", "reason": "Terminated"},
        }))
        .unwrap()
    }

    fn job(uid: &str, attempts: &Value) -> Job {
        serde_json::from_value(json!({
            "metadata": {"name": "render", "namespace": "tenant-acme", "uid": uid}, "spec": {"image": "i"},
            "status": {"phase": "Running", "attempt": 1, "startedAt": "2026-01-01T00:00:02Z", "attempts": attempts},
        }))
        .unwrap()
    }

    /// Running time that is charged; `None` where the job is waited for.
    fn charged(job: Option<&Job>) -> Option<i64> {
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        match attempt_of_pod(&forgetful(), job, "gpu", now).unwrap() {
            FromPod::Row(row) => {
                let seen = row.seen.unwrap();
                assert_eq!(
                    (seen.job.as_str(), seen.tenant.as_str(), row.record.attempt),
                    ("render", "acme", 1)
                );
                Some(crate::domain::metering::usage(&row.record).running_millis)
            }
            FromPod::Later => None,
        }
    }

    #[test]
    fn while_a_job_exists_its_own_record_is_what_is_charged() {
        let record = json!({
            "attempt": 1, "pod": "render-1", "startedAt": "2026-01-01T00:00:02Z",
            "finishedAt": "2026-01-01T00:00:10Z", "reason": "Evicted", "cpuMillicores": 1, "memoryBytes": 1, "gpus": 0,
            "bandwidthMbps": 0,
        });
        assert_eq!(charged(Some(&job(JOB, &json!([])))), None, "it has not recorded it yet");
        assert_eq!(charged(Some(&job(JOB, &json!([record])))), Some(8000));
        assert_eq!(charged(None), Some(0), "only the pod is left");
        assert_eq!(charged(Some(&job(OTHER, &json!([record])))), Some(0), "a later job of its name");
        let mut long = job(JOB, &json!([]));
        long.status.as_mut().unwrap().attempt = 20;
        assert_eq!(charged(Some(&long)), Some(0), "it keeps no records that are so old");
    }
}
