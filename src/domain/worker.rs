//! What a Node object says of its work for a tenant or pool: the marks of admission, and what an admitted node can
//! take.

use std::sync::Arc;

use k8s_openapi::{
    api::core::v1::{Node, Taint},
    apimachinery::pkg::api::resource::Quantity as Stored,
};
use kube::ResourceExt;

use super::resources::Resources;
use crate::{api_types::Quantity, names};

/// An admitted node, as the scheduler sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    /// Name of the node.
    pub name: String,
    /// The worker group it is admitted to: a tenant's name, or [`names::pool_group`] of a shared pool.
    pub group: String,
    /// What its pods may have in all. Bandwidth is no property of a node.
    pub allocatable: Resources,
    /// A pod placed here now would start: the kubelet says Ready, and the node is schedulable.
    pub ready: bool,
    /// Neither cordoned nor tainted by others (job pods tolerate Crofter's taint only). A node that is
    /// schedulable but not ready may come back by itself.
    pub schedulable: bool,
}

/// The node as a worker; `None` unless it is admitted, label and taint both in place. A resource that the kubelet has
/// not reported counts as 0.
#[must_use]
pub fn worker(node: &Node, gpu_resource: &str) -> Option<Worker> {
    Some(of_group(node, admitted(node)?.to_owned(), gpu_resource))
}

/// The node as the worker of a group that it is, or may become.
#[must_use]
pub fn of_group(node: &Node, group: String, gpu_resource: &str) -> Worker {
    let status = node.status.as_ref();
    let allocatable = |resource: &str, read: fn(&Stored) -> Option<u64>| {
        status.and_then(|s| s.allocatable.as_ref()?.get(resource)).and_then(read).unwrap_or(0)
    };
    let conditions = status.and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let kubelet_ready = conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
    let cordoned = node.spec.as_ref().is_some_and(|spec| spec.unschedulable == Some(true));
    let repels = |effect: &str| effect == NO_SCHEDULE || effect == "NoExecute";
    let foreign = taints(node).iter().any(|taint| !is_ours(taint) && repels(&taint.effect));
    let schedulable = !cordoned && !foreign && node.metadata.deletion_timestamp.is_none();
    Worker {
        name: node.name_any(),
        group,
        allocatable: Resources {
            cpu_milli: allocatable("cpu", milli),
            memory_bytes: allocatable("memory", units),
            gpus: allocatable(gpu_resource, units),
            bandwidth_mbps: 0,
            ephemeral_bytes: allocatable("ephemeral-storage", units),
            pods: allocatable("pods", units),
        },
        ready: kubelet_ready && schedulable,
        schedulable,
    }
}

/// Number of nodes admitted to a worker group: `status.usage.workers` of a tenant.
#[must_use]
pub fn count(group: &str, nodes: &[Arc<Node>]) -> usize {
    nodes.iter().filter(|node| admitted(node) == Some(group)).count()
}

/// Whether a node still carries the label or the taint of a worker group.
#[must_use]
pub fn carries(node: &Node, group: &str) -> bool {
    [label(node, names::NODE_ADMITTED), tainted(node)].contains(&Some(group))
}

/// Effect of the admission taint.
pub(crate) const NO_SCHEDULE: &str = "NoSchedule";

/// Value of a label.
pub(crate) fn label<'a>(node: &'a Node, key: &str) -> Option<&'a str> {
    node.labels().get(key).map(String::as_str)
}

/// All taints of a node.
pub(crate) fn taints(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
}

/// Whether a taint is the one that admission sets.
pub(crate) fn is_ours(taint: &Taint) -> bool {
    taint.key == names::NODE_ADMITTED && taint.effect == NO_SCHEDULE
}

/// The group that the admission taint names.
pub(crate) fn tainted(node: &Node) -> Option<&str> {
    taints(node).iter().find(|taint| is_ours(taint)).map(|taint| taint.value.as_deref().unwrap_or_default())
}

/// The group that a node is admitted to: label and taint are both in place and agree.
pub(crate) fn admitted(node: &Node) -> Option<&str> {
    label(node, names::NODE_ADMITTED).filter(|group| tainted(node) == Some(group))
}

/// A stored quantity in thousandths; `None` when it can't be read.
pub(crate) fn milli(quantity: &Stored) -> Option<u64> {
    Quantity::from(quantity.0.as_str()).milli().ok()
}

/// A stored quantity in whole units; `None` when it can't be read.
pub(crate) fn units(quantity: &Stored) -> Option<u64> {
    Quantity::from(quantity.0.as_str()).units().ok()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn node(name: &str, group: Option<&str>, taints: Value, unschedulable: bool, ready: &str) -> Node {
        let mut labels = json!({(names::NODE_TENANT): "acme"});
        if let Some(group) = group {
            labels[names::NODE_ADMITTED] = json!(group);
        }
        serde_json::from_value(json!({
            "metadata": {"name": name, "creationTimestamp": "2026-01-01T00:00:00Z", "labels": labels},
            "spec": {"taints": taints, "unschedulable": unschedulable},
            "status": {
                "capacity": {"cpu": "4", "memory": "8Gi", "nvidia.com/gpu": "1"},
                "allocatable": {"cpu": "3920m", "memory": "7Gi", "ephemeral-storage": "9Gi", "nvidia.com/gpu": "1",
                    "pods": "2"},
                "conditions": [{"type": "Ready", "status": ready}],
            },
        }))
        .unwrap()
    }

    fn taint(key: &str, value: &str, effect: &str) -> Value {
        json!({"key": key, "value": value, "effect": effect})
    }

    fn ours() -> Value {
        taint(names::NODE_ADMITTED, "acme", "NoSchedule")
    }

    #[test]
    fn a_worker_has_label_and_taint() {
        let gpu = names::DEFAULT_GPU_RESOURCE;
        let whole = worker(&node("n", Some("acme"), json!([ours()]), false, "True"), gpu).unwrap();
        let expected = Worker {
            name: "n".to_owned(),
            group: "acme".to_owned(),
            allocatable: Resources {
                cpu_milli: 3920,
                memory_bytes: 7 << 30,
                gpus: 1,
                bandwidth_mbps: 0,
                ephemeral_bytes: 9 << 30,
                pods: 2,
            },
            ready: true,
            schedulable: true,
        };
        assert_eq!(whole, expected);
        assert_eq!(worker(&node("n", Some("acme"), json!([]), false, "True"), gpu), None);
        assert_eq!(worker(&node("n", None, json!([ours()]), false, "True"), gpu), None);
        assert_eq!(worker(&node("n", Some("umbra"), json!([ours()]), false, "True"), gpu), None);
    }

    #[test]
    fn a_worker_is_ready_when_a_pod_would_start() {
        let states = |taints, cordoned, ready| {
            let worker = worker(&node("n", Some("acme"), taints, cordoned, ready), "x").unwrap();
            (worker.ready, worker.schedulable)
        };
        assert_eq!(states(json!([ours()]), false, "Unknown"), (false, true));
        assert_eq!(states(json!([ours()]), true, "True"), (false, false));
        for effect in ["NoSchedule", "NoExecute"] {
            assert_eq!(states(json!([taint("k", "v", effect), ours()]), false, "True"), (false, false));
        }
        assert_eq!(states(json!([taint("k", "v", "PreferNoSchedule"), ours()]), false, "True"), (true, true));
    }

    #[test]
    fn a_node_is_held_by_label_or_taint() {
        let draining = node("a", None, json!([ours()]), false, "True");
        let whole = node("b", Some("acme"), json!([ours()]), false, "True");
        let half = node("c", Some("acme"), json!([]), false, "True");
        assert!(
            [&draining, &whole, &half].iter().all(|node| carries(node, "acme") && !carries(node, "umbra"))
        );
        let nodes = [draining, whole, half].map(Arc::new);
        assert_eq!((count("acme", &nodes), count("umbra", &nodes)), (1, 0));
    }
}
