//! Objects as the API server would hand them out.

use std::sync::atomic::{AtomicI64, Ordering};

use crofter::{
    api_types::{Job, Tenant, job::AttemptRecord},
    names,
};
use k8s_openapi::api::core::v1::{Node, Pod};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use uuid::Uuid;

/// A resource version later than all before.
fn next_version() -> i64 {
    static LAST: AtomicI64 = AtomicI64::new(1000);
    LAST.fetch_add(1, Ordering::Relaxed)
}

pub(crate) fn uid(number: u128) -> String {
    Uuid::from_u128(number).to_string()
}

fn read<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

fn metadata(name: &str, uid: u128, created: &str) -> Value {
    json!({"name": name, "uid": self::uid(uid), "creationTimestamp": created,
           "resourceVersion": next_version().to_string()})
}

/// With its namespace, since noon.
pub(crate) fn tenant(name: &str, uid: u128) -> Tenant {
    read(json!({
        "apiVersion": "crofter.io/v1alpha1", "kind": "Tenant",
        "metadata": metadata(name, uid, "2026-01-01T12:00:00Z"),
        "spec": {"plan": "basic", "metadata": {"billing": "42"}},
        "status": {"observedGeneration": 1, "phase": "Active", "namespace": format!("tenant-{name}")},
    }))
}

pub(crate) fn node(name: &str, uid: u128, admitted: &str) -> Node {
    let mut metadata = metadata(name, uid, "2026-01-01T11:00:00Z");
    metadata["labels"] = json!({names::NODE_TENANT: admitted, names::NODE_ADMITTED: admitted});
    read(json!({"metadata": metadata, "status": {
        "allocatable": {"cpu": "3900m", "memory": "8Gi", "nvidia.com/gpu": "2"},
        "conditions": [{"type": "Ready", "status": "True"}],
    }}))
}

/// In the namespace of `tenant`, since one o'clock.
pub(crate) fn job(name: &str, uid: u128, tenant: &str, status: Value) -> Job {
    let mut metadata = metadata(name, uid, "2026-01-01T13:00:00Z");
    metadata["namespace"] = json!(format!("tenant-{tenant}"));
    read(json!({
        "apiVersion": "crofter.io/v1alpha1", "kind": "Job", "metadata": metadata, "status": status,
        "spec": {"image": "busybox", "env": [{"name": "PASSWORD", "value": "hunter2"}]},
    }))
}

/// Half an hour on either side of three o'clock, of 2 cores and 1 GiB.
pub(crate) fn attempt(number: i32) -> AttemptRecord {
    read(json!({
        "attempt": number, "pod": format!("pod-{number}"), "node": "n1", "startedAt": "2026-01-01T14:30:00Z",
        "finishedAt": "2026-01-01T15:30:00Z", "reason": "Succeeded", "exitCode": 0,
        "cpuMillicores": 2000, "memoryBytes": 1_073_741_824, "gpus": 0, "bandwidthMbps": 10,
    }))
}

/// The pod of the same attempt, ended, of the tenant with this name and UID.
pub(crate) fn ended_pod(uid: u128, job_uid: u128, attempt: i32, (tenant, tenant_uid): (&str, u128)) -> Pod {
    let mut metadata = metadata(&format!("pod-{uid}-{attempt}"), uid, "2026-01-01T13:00:01Z");
    metadata["namespace"] = json!(format!("tenant-{tenant}"));
    metadata["finalizers"] = json!([names::FINALIZER_ACCOUNTED]);
    metadata["annotations"] = json!({"kubernetes.io/egress-bandwidth": "10M"});
    metadata["labels"] = json!({
        names::LABEL_JOB_UID: self::uid(job_uid), names::LABEL_ATTEMPT: attempt.to_string(),
        names::LABEL_TENANT: tenant, names::LABEL_TENANT_UID: self::uid(tenant_uid), names::LABEL_JOB: "render",
    });
    read(json!({
        "metadata": metadata,
        "spec": {"nodeName": "n1", "containers": [{"name": names::JOB_CONTAINER,
            "resources": {"requests": {"cpu": "2", "memory": "1Gi"}}}]},
        "status": {"phase": "Succeeded", "containerStatuses": [{
            "name": names::JOB_CONTAINER, "image": "busybox", "imageID": "", "ready": false, "restartCount": 0,
            "state": {"terminated": {"exitCode": 0, "reason": "Completed",
                "startedAt": "2026-01-01T14:30:00Z", "finishedAt": "2026-01-01T15:30:00Z"}},
        }]},
    }))
}
