//! Third step: the one write to a node, label, taint and annotation together, under the resource version they were
//! decided from. Pure.
//!
//! A merge-patch replaces a list as a whole. Taints that others set meanwhile can't get lost by that, as the resource
//! version makes such a patch fail; and the UID keeps it from reaching another node of the same name.

use k8s_openapi::api::core::v1::{Node, Taint};
use kube::ResourceExt;
use serde_json::{Value, json};

use super::dereference::Dereferenced;
use crate::{
    api_types::Reason,
    domain::{
        node_admission::{Step, since},
        worker::{NO_SCHEDULE, is_ours, label, tainted, taints},
    },
    names,
};

/// A write to a node.
pub(super) struct Change {
    /// What it does, as in `admit Node n1 to tenant acme`.
    pub(super) action: String,
    /// The group that it admits the node to.
    pub(super) admits: Option<String>,
    pub(super) patch: Value,
    /// The Event that reports it, reason and note.
    pub(super) event: Option<(Reason, String)>,
}

/// The write that a step asks for, if it does.
pub(super) fn change(found: &Dereferenced, step: &Step) -> Option<Change> {
    let (node, name) = (&*found.node, found.node.name_any());
    if found.needs_fence(step) {
        let action = format!("fence the admission of Node {name}");
        return Some(Change { action, admits: None, patch: fence(node), event: None });
    }
    let (action, admits, patch, reason, note) = match step {
        Step::Admit { group, .. } => {
            let patch = admit(node, group);
            let (admits, group) = (Some(group.clone()), described(group));
            let action = format!("admit Node {name} to {group}");
            (action, admits, patch, Reason::WorkerAdmitted, format!("admitted to {group}"))
        }
        Step::Release { group, because } => {
            let pods: usize = found.live.values().sum();
            let why = because.as_ref().map_or("its worker label has changed", |b| b.message.as_str());
            let group = described(group);
            let note = format!("released from {group}: {why}; job pods that finish first: {pods}");
            (format!("release Node {name} from {group}"), None, release(node), Reason::WorkerReleasing, note)
        }
        Step::Free { group } => {
            let group = described(group);
            let note = format!("no longer kept for {group}: no job pod is left");
            (
                format!("remove the taint of {group} from Node {name}"),
                None,
                free(node),
                Reason::WorkerReleased,
                note,
            )
        }
        Step::Leave | Step::Keep | Step::Refuse(_) | Step::Wait(_) => return None,
    };
    Some(Change { action, admits, patch, event: Some((reason, note)) })
}

/// A worker group in words.
fn described(group: &str) -> String {
    match group.strip_prefix(&names::pool_group("")) {
        Some(pool) => format!("shared pool {pool}"),
        None => format!("tenant {group}"),
    }
}

/// Admits `node` to `group`.
fn admit(node: &Node, group: &str) -> Value {
    build(node, Some(group), Some(group))
}

/// Removes the label of `node` and leaves the taint, corrected if need be.
fn release(node: &Node) -> Value {
    let group = tainted(node).or_else(|| label(node, names::NODE_ADMITTED));
    build(node, None, group)
}

/// Removes the taint of `node`.
fn free(node: &Node) -> Value {
    build(node, None, None)
}

/// Changes `node` in nothing but its resource version, so that an earlier write based on the present one fails.
fn fence(node: &Node) -> Value {
    let version = node.resource_version();
    json!({"metadata": {
        "uid": node.uid(),
        "resourceVersion": version,
        "annotations": {(names::NODE_FENCE): version},
    }})
}

fn build(node: &Node, admitted: Option<&str>, tainted: Option<&str>) -> Value {
    let foreign = taints(node).iter().filter(|taint| !is_ours(taint)).cloned();
    let ours = tainted.map(|group| Taint {
        effect: NO_SCHEDULE.to_owned(),
        key: names::NODE_ADMITTED.to_owned(),
        time_added: None,
        value: Some(group.to_owned()),
    });
    let taints: Vec<Taint> = foreign.chain(ours).collect();
    json!({
        "metadata": {
            "uid": node.uid(),
            "resourceVersion": node.resource_version(),
            "labels": {(names::NODE_ADMITTED): admitted},
            "annotations": {
                (names::NODE_WORKER_SINCE): since::annotation(node),
                (names::NODE_FENCE): null,
            },
        },
        "spec": {"taints": taints},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(extra: Value) -> Node {
        let mut node = json!({
            "metadata": {
                "name": "n1", "uid": "u1", "resourceVersion": "7",
                "labels": {(names::NODE_TENANT): "acme", "zone": "a"},
                "annotations": {(names::NODE_WORKER_SINCE): "2026-01-02T00:00:00Z acme"},
            },
            "spec": {"taints": [{"key": "gpu", "value": "yes", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"}]},
        });
        json_patch(&mut node, &extra);
        serde_json::from_value(node).unwrap()
    }

    fn json_patch(target: &mut Value, patch: &Value) {
        match (target.as_object_mut(), patch.as_object()) {
            (Some(target), Some(patch)) => {
                for (key, value) in patch {
                    json_patch(target.entry(key).or_insert(Value::Null), value);
                }
            }
            _ => *target = patch.clone(),
        }
    }

    fn foreign() -> Value {
        json!({"key": "gpu", "value": "yes", "effect": "NoExecute", "timeAdded": "2026-01-01T00:00:00Z"})
    }

    fn ours(group: &str) -> Value {
        json!({"key": names::NODE_ADMITTED, "value": group, "effect": "NoSchedule"})
    }

    #[test]
    fn admission_sets_all_three_and_keeps_the_taints_of_others() {
        let expected = json!({
            "metadata": {
                "uid": "u1", "resourceVersion": "7",
                "labels": {(names::NODE_ADMITTED): "acme"},
                "annotations": {
                    (names::NODE_WORKER_SINCE): "2026-01-02T00:00:00Z acme", (names::NODE_FENCE): null,
                },
            },
            "spec": {"taints": [foreign(), ours("acme")]},
        });
        assert_eq!(admit(&node(json!({})), "acme"), expected);
        let earlier = node(json!({"spec": {"taints": [ours("umbra"), foreign()]}}));
        assert_eq!(admit(&earlier, "acme"), expected, "the earlier group's taint is replaced");
    }

    #[test]
    fn a_release_leaves_the_taint_of_the_group_that_leaves() {
        let admitted = json!({"metadata": {"labels": {(names::NODE_ADMITTED): "acme"}}});
        let patch = release(&node(admitted.clone()));
        assert_eq!(patch["metadata"]["labels"], json!({(names::NODE_ADMITTED): null}));
        assert_eq!(
            patch["spec"]["taints"],
            json!([foreign(), ours("acme")]),
            "set where another client removed it"
        );
        assert_eq!(patch["metadata"]["annotations"][names::NODE_WORKER_SINCE], "2026-01-02T00:00:00Z acme");

        let mut relabelled = admitted;
        relabelled["metadata"]["labels"][names::NODE_TENANT] = json!("umbra");
        let patch = release(&node(relabelled));
        assert_eq!(patch["metadata"]["annotations"][names::NODE_WORKER_SINCE], Value::Null);
    }

    #[test]
    fn freeing_takes_our_taint_only() {
        let patch = free(&node(json!({"spec": {"taints": [ours("acme"), foreign()]}})));
        assert_eq!(patch["spec"]["taints"], json!([foreign()]));
    }
}
