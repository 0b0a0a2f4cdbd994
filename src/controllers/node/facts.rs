//! What admission says of all nodes of a tenant.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;

use crate::{
    api_types::{Tenant, plan::EffectiveQuotas},
    domain::{
        node_admission::{self, WorkerQuotas, facts::read},
        worker::label,
    },
    names,
};

/// The nodes labelled for `tenant` that exceed its quotas, as a message with numbers for the condition
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
    let labelled = nodes.iter().filter(|node| label(node, names::NODE_TENANT) == Some(&name));
    let labelled: Vec<_> = labelled.map(|node| read(node, gpu_resource)).collect();
    node_admission::over_quota(&name, &tenant.spec.plan, &WorkerQuotas::from(quotas), &labelled)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::api_types::Plans;

    fn node(name: &str) -> Node {
        serde_json::from_value(json!({
            "metadata": {
                "name": name, "creationTimestamp": "2026-01-01T00:00:00Z", "labels": {(names::NODE_TENANT): "acme"},
            },
            "status": {"capacity": {"cpu": "4", "memory": "8Gi", "nvidia.com/gpu": "1"}},
        }))
        .unwrap()
    }

    #[test]
    fn nodes_over_a_tenants_quotas_are_reported_with_numbers() {
        let tenant: Tenant = serde_json::from_value(json!({
            "apiVersion": "crofter.io/v1alpha1", "kind": "Tenant", "metadata": {"name": "acme"},
            "spec": {"plan": "basic", "quotas": {"maxGpus": 5}},
        }))
        .unwrap();
        let quotas = Plans::built_in().unwrap().get("basic").unwrap().effective(&tenant.spec.quotas);
        let all =
            |n: usize| -> Vec<Arc<Node>> { (1..=n).map(|i| Arc::new(node(&format!("n{i}")))).collect() };
        let gpu = names::DEFAULT_GPU_RESOURCE;
        assert_eq!(refused(&tenant, &quotas, &all(4), gpu), None);
        assert_eq!(
            refused(&tenant, &quotas, &all(5), gpu).unwrap(),
            "plan basic: 1 of 5 labelled workers are refused: n5 (maxCpuCores is 16: older workers have 16, and this \
             one has 4)"
        );
    }
}
