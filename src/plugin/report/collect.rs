//! What a report has of each object: the fields that are named here, and no others.

use axum::http::Request;
use kube::Client;
use serde_json::{Map, Value, json};

use crate::{kube_ext::within, names};

/// Objects of one list.
const MAX_OBJECTS: usize = 500;
/// Lines of the log of one pod of the operator.
const LOG_LINES: usize = 500;

/// These fields of an object, where it has them.
fn picked(object: &Value, fields: &[&str]) -> Value {
    let field =
        |name: &&str| Some(((*name).to_owned(), object.get(*name).filter(|value| !value.is_null())?.clone()));
    fields.iter().filter_map(field).collect::<Map<String, Value>>().into()
}

/// A job, in the form of the REST API.
pub fn job(job: &Value) -> Value {
    let mut kept = picked(
        job,
        &[
            "id",
            "name",
            "tenant",
            "namespace",
            "status",
            "reason",
            "message",
            "attempt",
            "retries",
            "node",
            "exit_code",
            "created_at",
            "assigned_at",
            "started_at",
            "finished_at",
            "deleted_at",
            "scenario",
            "image",
            "resources",
            "queue",
            "priority",
            "timeout_seconds",
            "max_retries",
            "retry_policy",
            "pool",
            "on_quota",
            "canceled",
        ],
    );
    // How many there are, and not what they say.
    for list in ["parameters", "command", "args", "env"] {
        let count = match &job[list] {
            Value::Object(all) => all.len(),
            Value::Array(all) => all.len(),
            _ => continue,
        };
        kept[format!("{list}_count")] = json!(count);
    }
    kept
}

/// A tenant, in the form of the REST API: without its notes.
pub fn tenant(tenant: &Value) -> Value {
    picked(
        tenant,
        &[
            "id",
            "name",
            "plan",
            "status",
            "namespace",
            "quotas",
            "usage",
            "shared_pools",
            "prevent_deletion",
            "created_at",
            "expires_at",
        ],
    )
}

/// A key, in the form of the REST API.
pub fn key(key: &Value) -> Value {
    picked(
        key,
        &[
            "id",
            "name",
            "scopes",
            "key_id",
            "active",
            "reason",
            "created_at",
            "expires_at",
            "rotate_every",
            "overlap_seconds",
            "revoked",
        ],
    )
}

/// The metadata of an object: of its labels and annotations those of Crofter.
fn metadata(object: &Value) -> Value {
    let of = &object["metadata"];
    let mut kept = picked(
        of,
        &[
            "name",
            "namespace",
            "uid",
            "generation",
            "resourceVersion",
            "creationTimestamp",
            "deletionTimestamp",
            "finalizers",
        ],
    );
    for field in ["labels", "annotations"] {
        let ours = of[field].as_object().into_iter().flatten().filter(|(name, _)| {
            let is_ours = name.starts_with(names::PREFIX)
                || name.starts_with("crofter.node-restriction.kubernetes.io/");
            is_ours || *name == names::LABEL_MANAGED_BY
        });
        let ours: Map<String, Value> = ours.map(|(name, value)| (name.clone(), value.clone())).collect();
        if !ours.is_empty() {
            kept[field] = ours.into();
        }
    }
    kept
}

/// A kind of the cluster's objects in a report.
struct List {
    name: &'static str,
    /// Its path, with `{ns}` for the operator's namespace and `{tenant}` for the tenant's.
    path: &'static str,
    fields: fn(&Value) -> Value,
}

const LISTS: [List; 9] = [
    List { name: "tenant_objects", path: "/apis/crofter.io/v1alpha1/tenants", fields: tenant_object },
    List { name: "worker_nodes", path: "/api/v1/nodes", fields: node },
    List {
        name: "operator_deployments",
        path: "/apis/apps/v1/namespaces/{ns}/deployments",
        fields: status_alone,
    },
    List { name: "operator_pods", path: "/api/v1/namespaces/{ns}/pods", fields: pod },
    List {
        name: "operator_leases",
        path: "/apis/coordination.k8s.io/v1/namespaces/{ns}/leases",
        fields: lease,
    },
    List { name: "operator_events", path: "/api/v1/namespaces/{ns}/events", fields: event },
    List { name: "tenant_quotas", path: "/api/v1/namespaces/{tenant}/resourcequotas", fields: status_alone },
    List { name: "tenant_pods", path: "/api/v1/namespaces/{tenant}/pods", fields: pod },
    List { name: "tenant_events", path: "/api/v1/namespaces/{tenant}/events", fields: event },
];

fn tenant_object(object: &Value) -> Value {
    let spec = picked(
        &object["spec"],
        &[
            "plan",
            "suspended",
            "suspendPolicy",
            "expiresAt",
            "quotas",
            "sharedPools",
            "networkIsolation",
            "podSecurity",
            "elastic",
            "deletionPolicy",
            "preventDeletion",
        ],
    );
    json!({"metadata": metadata(object), "spec": spec, "status": object["status"]})
}

fn node(object: &Value) -> Value {
    let spec = picked(&object["spec"], &["taints", "unschedulable"]);
    let status = picked(&object["status"], &["allocatable", "conditions"]);
    json!({"metadata": metadata(object), "spec": spec, "status": status})
}

fn status_alone(object: &Value) -> Value {
    json!({"metadata": metadata(object), "status": object["status"]})
}

fn pod(object: &Value) -> Value {
    let images = object["spec"]["containers"].as_array().into_iter().flatten();
    let images: Vec<Value> =
        images.map(|container| picked(container, &["name", "image", "resources"])).collect();
    let status = picked(
        &object["status"],
        &[
            "phase",
            "reason",
            "message",
            "conditions",
            "containerStatuses",
            "initContainerStatuses",
            "startTime",
        ],
    );
    json!({"metadata": metadata(object), "node": object["spec"]["nodeName"], "containers": images, "status": status})
}

fn lease(object: &Value) -> Value {
    let spec = picked(
        &object["spec"],
        &["holderIdentity", "leaseDurationSeconds", "acquireTime", "renewTime", "leaseTransitions"],
    );
    json!({"metadata": metadata(object), "spec": spec})
}

fn event(object: &Value) -> Value {
    let mut kept = picked(
        object,
        &[
            "type",
            "reason",
            "message",
            "action",
            "count",
            "firstTimestamp",
            "lastTimestamp",
            "eventTime",
            "series",
        ],
    );
    kept["object"] = picked(&object["involvedObject"], &["kind", "namespace", "name", "uid"]);
    kept
}

async fn get(client: &Client, path: &str) -> Result<Value, String> {
    let request = Request::get(path).body(Vec::new()).map_err(|error| error.to_string())?;
    within("", client.request::<Value>(request)).await.map_err(|error| error.cause())
}

/// What the cluster's API has. A list that may not be read says why.
pub async fn cluster(client: &Client, operator: &str, tenant: Option<&str>) -> Map<String, Value> {
    let mut parts = Map::new();
    for list in LISTS {
        if list.path.contains("{tenant}") && tenant.is_none() {
            continue;
        }
        let path = list.path.replace("{ns}", operator).replace("{tenant}", tenant.unwrap_or_default());
        let found = get(client, &format!("{path}?limit={MAX_OBJECTS}")).await;
        let value = match found {
            Ok(found) => found["items"].as_array().into_iter().flatten().map(list.fields).collect(),
            Err(cause) => json!({"not_read": cause}),
        };
        parts.insert(list.name.to_owned(), value);
    }
    let pods: Vec<String> = parts["operator_pods"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned))
        .collect();
    let mut logs = Map::new();
    for pod in pods {
        logs.insert(pod.clone(), log(client, operator, &pod).await);
    }
    parts.insert("operator_logs".to_owned(), logs.into());
    parts
}

/// The last lines of a pod's log.
async fn log(client: &Client, namespace: &str, pod: &str) -> Value {
    let path = format!("/api/v1/namespaces/{namespace}/pods/{pod}/log?tailLines={LOG_LINES}");
    let Ok(request) = Request::get(path).body(Vec::new()) else { return Value::Null };
    match within("", client.request_text(request)).await {
        Ok(text) => text.lines().collect::<Vec<_>>().into(),
        Err(error) => json!({"not_read": error.cause()}),
    }
}
