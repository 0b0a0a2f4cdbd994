//! Last step: Events of what has changed on a node, and of why one is refused.

use std::collections::{HashMap, HashSet};

use k8s_openapi::api::core::v1::Node;
use kube::{ResourceExt, runtime::reflector::Store};

use super::{Context, build::Change, dereference::Dereferenced};
use crate::domain::node_admission::{Refusal, Step};

/// The message last reported of each refused node, by UID.
#[derive(Default)]
pub(super) struct ReportedRefusals(HashMap<String, String>);

impl ReportedRefusals {
    fn contains(&self, node: &Node, refusal: &Refusal) -> bool {
        self.0.get(node.metadata.uid.as_deref().unwrap_or_default()) == Some(&refusal.message)
    }

    /// Records a report. Where the node had none, those of nodes that are deleted are dropped first.
    fn record(&mut self, node: &Node, refusal: &Refusal, nodes: &Store<Node>) {
        let uid = node.uid().unwrap_or_default();
        if !self.0.contains_key(&uid) {
            let nodes = nodes.state();
            let existing: HashSet<&str> =
                nodes.iter().filter_map(|node| node.metadata.uid.as_deref()).collect();
            self.0.retain(|uid, _| existing.contains(uid.as_str()));
        }
        self.0.insert(uid, refusal.message.clone());
    }

    fn forget(&mut self, node: &Node) {
        self.0.remove(node.metadata.uid.as_deref().unwrap_or_default());
    }
}

/// Whether just this refusal was the last to be reported of a node.
pub(super) fn is_reported(node: &Node, refusal: &Refusal, context: &Context) -> bool {
    context.state().reported.contains(node, refusal)
}

/// Publishes what has changed; a refusal once for each message.
pub(super) fn report(
    found: &Dereferenced,
    step: &Step,
    change: Option<Change>,
    written: Option<&Node>,
    context: &Context,
) {
    let node = &found.node;
    match step {
        _ if found.needs_fence(step) => return,
        Step::Refuse(refusal) => return report_refusal(node, refusal, context),
        Step::Wait(waiting) => tracing::debug!(node = node.name_any(), ?waiting, "a node waits"),
        _ => (),
    }
    context.state().reported.forget(node);
    if let (Some(after), Some((reason, note))) = (written, change.and_then(|change| change.event)) {
        tracing::info!(node = after.name_any(), reason = reason.as_str(), note, "a node's admission changed");
        context.events.normal(after, reason, note);
    }
}

fn report_refusal(node: &Node, refusal: &Refusal, context: &Context) {
    if is_reported(node, refusal, context) {
        return;
    }
    context.state().reported.record(node, refusal, &context.caches.nodes);
    let Refusal { reason, message } = refusal;
    tracing::info!(node = node.name_any(), reason = reason.as_str(), message, "a node is refused");
    context.events.warning(node, *reason, message.clone());
}
