//! Which nodes are reconciled when something has changed.
//!
//! A change of one node may make room for another of the same group, or take it. Kubelets and the tenant controller
//! write status all the time, so changes that no admission depends on are filtered out by comparing with what was seen
//! last; without that, each heartbeat of one node would requeue all nodes of its group.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{
    ResourceExt,
    runtime::reflector::{ObjectRef, Store},
};

use crate::{
    api_types::Tenant,
    domain::{
        node_admission::{NodeFacts, facts::read},
        worker,
    },
    names,
};

/// Nodes whose admission may change when a node has: itself and the others of its groups, before and after.
pub(super) struct Neighbours {
    nodes: Store<Node>,
    gpu_resource: String,
    seen: HashMap<String, NodeFacts>,
}

impl Neighbours {
    pub(super) fn new(nodes: Store<Node>, gpu_resource: String) -> Self {
        Self { nodes, gpu_resource, seen: HashMap::new() }
    }

    /// The nodes to reconcile, `node` first.
    pub(super) fn of(&mut self, node: Arc<Node>) -> Vec<Arc<Node>> {
        let name = node.name_any();
        let now = self.nodes.get(&ObjectRef::from_obj(node.as_ref())).map(|n| read(&n, &self.gpu_resource));
        let before = match &now {
            Some(facts) => self.seen.insert(name.clone(), facts.clone()),
            None => self.seen.remove(&name),
        };
        let changed: Vec<&NodeFacts> =
            if before == now { Vec::new() } else { before.iter().chain(&now).collect() };
        let groups: HashSet<&str> = changed.into_iter().flat_map(tenants).collect();
        let mut all = vec![node];
        if !groups.is_empty() {
            all.extend(self.nodes.state_filter(|other| {
                let facts = read(other, &self.gpu_resource);
                facts.name != name && tenants(&facts).any(|group| groups.contains(group))
            }));
        }
        all
    }
}

/// The tenants that a node is labelled for or admitted to. Pools have no quota, so their nodes don't concern each
/// other.
fn tenants(facts: &NodeFacts) -> impl Iterator<Item = &str> {
    let admitted = facts.admitted.as_deref().filter(|group| !group.contains('.'));
    facts.tenant.as_deref().into_iter().chain(admitted)
}

/// Filters the changes of tenants that their nodes depend on.
pub(super) struct TenantChanges {
    tenants: Store<Tenant>,
    /// UID, generation and whether its deletion is under way, by name.
    seen: HashMap<String, (Option<String>, Option<i64>, bool)>,
}

impl TenantChanges {
    pub(super) fn new(tenants: Store<Tenant>) -> Self {
        Self { tenants, seen: HashMap::new() }
    }

    pub(super) fn is_relevant(&mut self, tenant: &Tenant) -> bool {
        let name = tenant.name_any();
        let now = self
            .tenants
            .get(&ObjectRef::from_obj(tenant))
            .map(|t| (t.uid(), t.metadata.generation, t.metadata.deletion_timestamp.is_some()));
        match now {
            Some(now) => self.seen.insert(name, now.clone()) != Some(now),
            None => self.seen.remove(&name).is_some(),
        }
    }
}

/// All nodes that are labelled for a tenant, or carry its label or taint of admission.
pub(super) fn of_tenant(tenant: &str, nodes: &Store<Node>) -> Vec<ObjectRef<Node>> {
    let concerned = |node: &Node| {
        worker::label(node, names::NODE_TENANT) == Some(tenant) || worker::carries(node, tenant)
    };
    nodes.state_filter(concerned).iter().map(|node| ObjectRef::from_obj(node.as_ref())).collect()
}

/// The node of a job pod, when it waits for pods to end: the step of an admitted node does not depend on pods.
pub(super) fn of_pod(pod: &Pod, nodes: &Store<Node>) -> Option<ObjectRef<Node>> {
    let reference = ObjectRef::new(pod.spec.as_ref()?.node_name.as_deref()?);
    let node = nodes.get(&reference)?;
    worker::admitted(&node).is_none().then_some(reference)
}
