//! Own writes that the cache may not show yet.
//!
//! Whether a node may be admitted depends on who else holds an admission, so a decision must see every admission made
//! before, however late the watch is. Each write is based on one stored version of its node and conditional on it;
//! as long as the cache shows that very version, the cache is behind, and what is kept here speaks instead:
//! - the write was answered: the node as the API server returned it;
//! - it was not (a timeout, a broken connection): it may have had its effect or may still have it, so the group counts
//!   as held. Once the cache shows another version, the write is either in it or can't happen any more. Until then it
//!   is repeated, or, when it is not wanted any more, made impossible by a harmless write (`patch::fence`).

use std::collections::HashMap;

use k8s_openapi::api::core::v1::Node;
use kube::{
    ResourceExt,
    runtime::reflector::{ObjectRef, Store},
};

use crate::domain::node_admission::{NodeFacts, facts::read};

/// Own writes by UID of the node.
#[derive(Debug, Default)]
pub(super) struct Writes(HashMap<String, Write>);

#[derive(Debug)]
struct Write {
    /// The node.
    node: ObjectRef<Node>,
    /// Resource version that the write was based on.
    base: Option<String>,
    outcome: Outcome,
}

#[derive(Debug)]
enum Outcome {
    /// The node after the write.
    Answered(Box<NodeFacts>),
    /// The group that the node may have been admitted to.
    Unanswered(String),
}

/// A node as it is known.
pub(super) struct Known {
    pub(super) facts: NodeFacts,
    /// The cache is behind an own write: there will be a newer version, which is the one to act on.
    pub(super) behind: bool,
}

impl Writes {
    /// An admission of `node` to `group` is about to be written.
    pub(super) fn begin_admission(&mut self, node: &Node, group: &str) {
        self.put(node, Outcome::Unanswered(group.to_owned()));
    }

    /// The write that was based on `before` gave `after`.
    pub(super) fn answered(&mut self, before: &Node, after: NodeFacts) {
        self.put(before, Outcome::Answered(Box::new(after)));
    }

    fn put(&mut self, node: &Node, outcome: Outcome) {
        let write = Write { node: ObjectRef::from_obj(node), base: node.resource_version(), outcome };
        self.0.insert(node.uid().unwrap_or_default(), write);
    }

    /// A cached node with what is known beyond the cache.
    pub(super) fn known(&self, cached: &Node, gpu_resource: &str) -> Known {
        let write = self.0.get(cached.uid().as_deref().unwrap_or_default());
        match write.filter(|write| write.base == cached.resource_version()).map(|write| &write.outcome) {
            Some(Outcome::Answered(after)) => Known { facts: NodeFacts::clone(after), behind: true },
            Some(Outcome::Unanswered(group)) => {
                let facts = NodeFacts { unconfirmed: Some(group.clone()), ..read(cached, gpu_resource) };
                Known { facts, behind: false }
            }
            None => Known { facts: read(cached, gpu_resource), behind: false },
        }
    }

    /// Forgets what the cache has caught up with. What is read from the cache afterwards needs it no more.
    pub(super) fn prune(&mut self, nodes: &Store<Node>) {
        self.0.retain(|uid, write| {
            let cached = nodes.get(&write.node);
            cached
                .is_some_and(|node| node.uid().as_ref() == Some(uid) && node.resource_version() == write.base)
        });
    }
}
