//! What admission needs to know of a stored Node.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;

use super::{NodeFacts, since};
use crate::{
    domain::worker::{label, milli, tainted, units},
    names,
};

/// What admission needs to know of a node. `gpu_resource` names the extended resource that counts GPUs.
#[must_use]
pub fn read(node: &Node, gpu_resource: &str) -> NodeFacts {
    let capacity = node.status.as_ref().and_then(|status| status.capacity.as_ref());
    let of = |resource: &str| capacity.and_then(|all| all.get(resource));
    let of_label = |key: &str| label(node, key).map(str::to_owned);
    NodeFacts {
        name: node.name_any(),
        since: since::of(node).unwrap_or(Timestamp::MAX),
        tenant: of_label(names::NODE_TENANT),
        pool: of_label(names::NODE_POOL),
        cpu_milli: of("cpu").and_then(milli),
        gpus: of(gpu_resource).and_then(units).unwrap_or(0),
        admitted: of_label(names::NODE_ADMITTED),
        tainted: tainted(node).map(str::to_owned),
        unconfirmed: None,
        deleting: node.metadata.deletion_timestamp.is_some(),
    }
}
