//! What a stored Node says about its work, read once and in one way.

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Node, Taint},
    apimachinery::pkg::api::resource::Quantity as Stored,
};
use kube::ResourceExt;

use super::since;
use crate::{api_types::Quantity, domain::node_admission::NodeFacts, names};

/// Effect of the admission taint.
pub(super) const NO_SCHEDULE: &str = "NoSchedule";

/// What admission needs to know of a node. `gpu_resource` names the extended resource that counts GPUs.
pub(super) fn read(node: &Node, gpu_resource: &str) -> NodeFacts {
    let capacity = node.status.as_ref().and_then(|status| status.capacity.as_ref());
    let of = |resource: &str| capacity.and_then(|all| all.get(resource));
    NodeFacts {
        name: node.name_any(),
        since: since::of(node).unwrap_or(Timestamp::MAX),
        tenant: label(node, names::NODE_TENANT),
        pool: label(node, names::NODE_POOL),
        cpu_milli: of("cpu").and_then(milli),
        gpus: of(gpu_resource).and_then(units).unwrap_or(0),
        admitted: label(node, names::NODE_ADMITTED),
        tainted: tainted(node),
        unconfirmed: None,
        deleting: node.metadata.deletion_timestamp.is_some(),
    }
}

/// Value of a label.
pub(super) fn label(node: &Node, key: &str) -> Option<String> {
    node.labels().get(key).cloned()
}

/// All taints of a node.
pub(super) fn taints(node: &Node) -> &[Taint] {
    node.spec.as_ref().and_then(|spec| spec.taints.as_deref()).unwrap_or_default()
}

/// Whether a taint is the one that admission sets.
pub(super) fn is_ours(taint: &Taint) -> bool {
    taint.key == names::NODE_ADMITTED && taint.effect == NO_SCHEDULE
}

/// The group that the admission taint names.
pub(super) fn tainted(node: &Node) -> Option<String> {
    taints(node).iter().find(|taint| is_ours(taint)).map(|taint| taint.value.clone().unwrap_or_default())
}

/// The group that a node is admitted to: label and taint are both in place and agree.
pub(super) fn admitted(node: &Node) -> Option<String> {
    label(node, names::NODE_ADMITTED).filter(|group| tainted(node).as_ref() == Some(group))
}

/// A stored quantity in thousandths; `None` when it can't be read.
pub(super) fn milli(quantity: &Stored) -> Option<u64> {
    Quantity::from(quantity.0.as_str()).milli().ok()
}

/// A stored quantity in whole units; `None` when it can't be read.
pub(super) fn units(quantity: &Stored) -> Option<u64> {
    Quantity::from(quantity.0.as_str()).units().ok()
}
