//! First step: a node, its group and its pods, from the caches and from own writes that the caches lack still. No call
//! is made.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::{ResourceExt, runtime::reflector::ObjectRef};

use super::{Caches, Context};
use crate::{
    domain::{
        node_admission::{Fleet, LivePods, NodeFacts, Step, TenantFacts, WorkerQuotas},
        tenant_state,
    },
    kube_ext::is_paused,
    names,
};

/// A node and all that its admission depends on.
pub(super) struct Dereferenced {
    pub(super) node: Arc<Node>,
    /// The node as admission reads it.
    facts: NodeFacts,
    /// The nodes and the quotas of its group.
    fleet: Fleet,
    /// The job pods on it that have not ended.
    pub(super) live: LivePods,
}

impl Dereferenced {
    /// What to do next with the node.
    pub(super) fn step(&self) -> Step {
        self.fleet.step(&self.facts, &self.live)
    }

    /// Whether an admission of it was written without an answer, and is not wanted any more: it is made impossible
    /// before anything else is done.
    pub(super) fn needs_fence(&self, step: &Step) -> bool {
        self.facts.unconfirmed.is_some() && !matches!(step, Step::Admit { .. })
    }
}

/// The node of that name; `None` when it is deleted, paused, or the cache is behind an own write to it.
pub(super) fn dereference(name: &str, context: &Context) -> Option<Dereferenced> {
    let (mut state, gpu_resource) = (context.state(), &context.gpu_resource);
    // In this order: what is read after the pruning is at least as new as what was pruned against.
    state.writes.prune(&context.caches.nodes);
    let cached = context.caches.nodes.state();
    let node = cached.iter().find(|node| node.metadata.name.as_deref() == Some(name))?;
    let known = state.writes.known(node, gpu_resource);
    if is_paused(&**node) || known.behind {
        return None;
    }
    let mut fleet = Fleet::default();
    if let Some(tenant) = &known.facts.tenant {
        let is_of_tenant = |node: &&Arc<Node>| {
            [names::NODE_TENANT, names::NODE_ADMITTED]
                .iter()
                .any(|key| node.labels().get(*key) == Some(tenant))
        };
        let nodes = cached.iter().filter(is_of_tenant);
        fleet.nodes = nodes.map(|node| state.writes.known(node, gpu_resource).facts).collect();
        fleet.tenants.extend(tenant_facts(tenant, context).map(|facts| (tenant.clone(), facts)));
    }
    let live = live_pods(name, &context.caches);
    Some(Dereferenced { node: Arc::clone(node), facts: known.facts, fleet, live })
}

fn tenant_facts(name: &str, context: &Context) -> Option<TenantFacts> {
    let tenant = context.caches.tenants.get(&ObjectRef::new(name))?;
    let plans = context.plans.borrow();
    let quotas = plans.get(&tenant.spec.plan).map(|plan| plan.effective(&tenant.spec.quotas));
    Some(TenantFacts {
        plan: tenant.spec.plan.clone(),
        quotas: quotas.as_ref().map(WorkerQuotas::from),
        terminating: tenant_state::terminating(&tenant),
    })
}

/// Job pods on a node that have not ended, by worker group.
fn live_pods(node: &str, caches: &Caches) -> LivePods {
    let is_here = |pod: &Pod| pod.spec.as_ref().and_then(|spec| spec.node_name.as_deref()) == Some(node);
    live(caches.pods.state_filter(is_here).iter().map(AsRef::as_ref))
}

/// Job pods that have not ended, by worker group.
pub(super) fn live<'a>(pods: impl Iterator<Item = &'a Pod>) -> LivePods {
    let mut live = LivePods::new();
    for pod in pods {
        let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
        if let Some(group) = pod.labels().get(names::LABEL_GROUP)
            && !matches!(phase, Some("Succeeded" | "Failed"))
        {
            *live.entry(group.clone()).or_default() += 1;
        }
    }
    live
}
