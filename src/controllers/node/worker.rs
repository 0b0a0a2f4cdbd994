//! What others ask about workers: the scheduler what an admitted node can take, the tenant controller what a tenant has.

use std::sync::Arc;

use k8s_openapi::{api::core::v1::Node, apimachinery::pkg::api::resource::Quantity};
use kube::ResourceExt;

use super::facts::{self, NO_SCHEDULE};
use crate::{
    api_types::{Tenant, plan::EffectiveQuotas},
    domain::node_admission::{self, WorkerQuotas},
    names,
};

/// An admitted node, as the scheduler sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    /// Name of the node.
    pub name: String,
    /// The worker group it is admitted to: a tenant's name, or [`names::pool_group`] of a shared pool.
    pub group: String,
    /// CPU that pods may have, in thousandths of a core.
    pub allocatable_cpu_milli: u64,
    /// Memory that pods may have, in bytes.
    pub allocatable_memory_bytes: u64,
    /// Disk that pods may have for scratch space, in bytes.
    pub allocatable_ephemeral_bytes: u64,
    /// GPUs that pods may have.
    pub gpus: u64,
    /// A pod placed here now would start: the kubelet says Ready, and the node is schedulable.
    pub ready: bool,
    /// Neither cordoned nor tainted by somebody else (job pods tolerate Crofter's taint only). A node that is
    /// schedulable but not ready may come back by itself.
    pub schedulable: bool,
}

/// The node as a worker; `None` unless it is admitted, label and taint both in place. A resource that the kubelet has
/// not reported counts as 0.
#[must_use]
pub fn worker(node: &Node, gpu_resource: &str) -> Option<Worker> {
    let group = facts::admitted(node)?;
    let status = node.status.as_ref();
    let allocatable = |resource: &str, read: fn(&Quantity) -> Option<u64>| {
        status.and_then(|s| s.allocatable.as_ref()?.get(resource)).and_then(read).unwrap_or(0)
    };
    let conditions = status.and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let kubelet_ready = conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
    let cordoned = node.spec.as_ref().is_some_and(|spec| spec.unschedulable == Some(true));
    let repels = |effect: &str| effect == NO_SCHEDULE || effect == "NoExecute";
    let foreign = facts::taints(node).iter().any(|taint| !facts::is_ours(taint) && repels(&taint.effect));
    let schedulable = !cordoned && !foreign && node.metadata.deletion_timestamp.is_none();
    Some(Worker {
        name: node.name_any(),
        group,
        allocatable_cpu_milli: allocatable("cpu", facts::milli),
        allocatable_memory_bytes: allocatable("memory", facts::units),
        allocatable_ephemeral_bytes: allocatable("ephemeral-storage", facts::units),
        gpus: allocatable(gpu_resource, facts::units),
        ready: kubelet_ready && schedulable,
        schedulable,
    })
}

/// The nodes labelled for `tenant` that exceed its quotas, in a sentence with numbers for the condition
/// `WorkersAdmitted`=False; `None` when all fit. `nodes` are all nodes of the cluster, as
/// [`prepare`](super::prepare) left them.
#[must_use]
pub fn refused(
    tenant: &Tenant,
    quotas: &EffectiveQuotas,
    nodes: &[Arc<Node>],
    gpu_resource: &str,
) -> Option<String> {
    let name = tenant.name_any();
    let labelled = nodes.iter().filter(|node| facts::label(node, names::NODE_TENANT).as_ref() == Some(&name));
    let labelled: Vec<_> = labelled.map(|node| facts::read(node, gpu_resource)).collect();
    node_admission::over_quota(&name, &tenant.spec.plan, &WorkerQuotas::from(quotas), &labelled)
}

/// Number of nodes admitted to a worker group: `status.usage.workers` of a tenant.
#[must_use]
pub fn admitted(group: &str, nodes: &[Arc<Node>]) -> usize {
    nodes.iter().filter(|node| facts::admitted(node).as_deref() == Some(group)).count()
}

/// Number of nodes that still carry the label or the taint of a worker group: a tenant is not gone before this is 0.
#[must_use]
pub fn held(group: &str, nodes: &[Arc<Node>]) -> usize {
    let carries = |node: &&Arc<Node>| {
        let label = facts::label(node, names::NODE_ADMITTED);
        [label, facts::tainted(node)].iter().flatten().any(|carried| carried == group)
    };
    nodes.iter().filter(carries).count()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::api_types::Plans;

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
                "allocatable": {"cpu": "3920m", "memory": "7Gi", "ephemeral-storage": "9Gi", "nvidia.com/gpu": "1"},
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
            allocatable_cpu_milli: 3920,
            allocatable_memory_bytes: 7 << 30,
            allocatable_ephemeral_bytes: 9 << 30,
            gpus: 1,
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
    fn counts_and_the_sentence_for_a_tenant() {
        let tenant: Tenant = serde_json::from_value(json!({
            "apiVersion": "crofter.io/v1alpha1", "kind": "Tenant", "metadata": {"name": "acme"},
            "spec": {"plan": "basic", "quotas": {"maxGpus": 5}},
        }))
        .unwrap();
        let quotas = Plans::built_in().unwrap().get("basic").unwrap().effective(&tenant.spec.quotas);
        let all = |n: usize| -> Vec<Arc<Node>> {
            (1..=n).map(|i| Arc::new(node(&format!("n{i}"), None, json!([]), false, "True"))).collect()
        };
        let gpu = names::DEFAULT_GPU_RESOURCE;
        assert_eq!(refused(&tenant, &quotas, &all(4), gpu), None);
        assert_eq!(
            refused(&tenant, &quotas, &all(5), gpu).unwrap(),
            "plan basic: 1 of 5 labelled workers are refused: n5 (maxCpuCores is 16: older workers have 16, and this \
             one has 4)"
        );

        let draining = node("a", None, json!([ours()]), false, "True");
        let admitted_ = node("b", Some("acme"), json!([ours()]), false, "True");
        let nodes = [Arc::new(draining), Arc::new(admitted_)];
        assert_eq!((admitted("acme", &nodes), held("acme", &nodes), held("umbra", &nodes)), (1, 2, 0));
    }
}
