//! Since when a node carries its worker label: what the order of admission rests on.
//!
//! The API server keeps the time at which each field manager last changed the fields it owns. That time is read before
//! the cache drops it ([`prepare`]) and, as it moves when the same manager changes something else, it is written down
//! at admission, together with the group that the label named: it counts for that group only, so a relabelled node is
//! as young as its new label.

use std::str::FromStr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Node;
use kube::ResourceExt;

use crate::{domain::worker::label, names};

/// Sees to it that a node with a worker label carries [`names::NODE_WORKER_SINCE`] for that label: as written at
/// admission, else the time of the label in the managed fields, else the node's creation. For
/// [`Watch::with_prepare`](crate::kube_ext::watch::Watch::with_prepare).
pub fn prepare(node: &mut Node) {
    let Some((key, group)) = worker_label(node) else {
        return;
    };
    if recorded(node).is_some_and(|(_, recorded)| recorded == group) {
        return;
    }
    let created = node.metadata.creation_timestamp.as_ref().map(|time| time.0);
    let Some(time) = label_time(node, key).or(created) else {
        return;
    };
    node.annotations_mut().insert(names::NODE_WORKER_SINCE.to_owned(), format!("{time} {group}"));
}

/// Since when a node carries its worker label; its creation when [`prepare`] has not seen it.
#[must_use]
pub fn of(node: &Node) -> Option<Timestamp> {
    let group = worker_label(node).map(|(_, group)| group);
    let recorded = recorded(node).filter(|(_, recorded)| group.as_deref() == Some(*recorded));
    recorded.map(|(time, _)| time).or_else(|| node.metadata.creation_timestamp.as_ref().map(|time| time.0))
}

/// The annotation, if it is worth keeping: it is about the node's present label.
#[must_use]
pub fn annotation(node: &Node) -> Option<&str> {
    let (_, group) = worker_label(node)?;
    recorded(node).filter(|(_, recorded)| *recorded == group)?;
    node.annotations().get(names::NODE_WORKER_SINCE).map(String::as_str)
}

/// The worker label and the group it names; none when there are two.
fn worker_label(node: &Node) -> Option<(&'static str, String)> {
    match (label(node, names::NODE_TENANT), label(node, names::NODE_POOL)) {
        (Some(tenant), None) => Some((names::NODE_TENANT, tenant.to_owned())),
        (None, Some(pool)) => Some((names::NODE_POOL, names::pool_group(pool))),
        _ => None,
    }
}

/// Time and group of the annotation.
fn recorded(node: &Node) -> Option<(Timestamp, &str)> {
    let (time, group) = node.annotations().get(names::NODE_WORKER_SINCE)?.split_once(' ')?;
    Some((Timestamp::from_str(time).ok()?, group))
}

/// When the label was set. Managers that own it together set the same value; the first was first.
fn label_time(node: &Node, key: &str) -> Option<Timestamp> {
    let field = format!("f:{key}");
    let owners = node.managed_fields().iter().filter(|entry| {
        let labels = entry.fields_v1.as_ref().and_then(|fields| fields.0.get("f:metadata")?.get("f:labels"));
        labels.is_some_and(|labels| labels.get(&field).is_some())
    });
    owners.filter_map(|entry| entry.time.as_ref()).map(|time| time.0).min()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(labels: serde_json::Value, since: Option<&str>) -> Node {
        let mut annotations = serde_json::Map::new();
        annotations.extend(since.map(|text| (names::NODE_WORKER_SINCE.to_owned(), json!(text))));
        let own = |key: &str| json!({"f:metadata": {"f:labels": {(format!("f:{key}")): {}}}});
        let entry = |fields, time| json!({"manager": "m", "fieldsType": "FieldsV1", "fieldsV1": fields, "time": time});
        serde_json::from_value(json!({"metadata": {
            "name": "n", "creationTimestamp": "2026-01-01T00:00:00Z", "labels": labels, "annotations": annotations,
            "managedFields": [
                entry(own("zone"), "2026-01-01T00:00:01Z"),
                entry(own(names::NODE_TENANT), "2026-01-03T00:00:00Z"),
                entry(own(names::NODE_TENANT), "2026-01-02T00:00:00Z"),
            ],
        }}))
        .unwrap()
    }

    fn prepared(labels: serde_json::Value, since: Option<&str>) -> (Option<String>, Option<String>) {
        let mut node = node(labels, since);
        prepare(&mut node);
        (node.annotations().get(names::NODE_WORKER_SINCE).cloned(), of(&node).map(|time| time.to_string()))
    }

    #[test]
    fn the_age_is_that_of_the_label() {
        let (annotation, since) = prepared(json!({(names::NODE_TENANT): "acme"}), None);
        assert_eq!(annotation.as_deref(), Some("2026-01-02T00:00:00Z acme"));
        assert_eq!(since.as_deref(), Some("2026-01-02T00:00:00Z"));
    }

    #[test]
    fn the_node_s_creation_where_no_manager_owns_the_label() {
        let (annotation, _) = prepared(json!({(names::NODE_POOL): "gpu"}), None);
        assert_eq!(annotation.as_deref(), Some("2026-01-01T00:00:00Z pool.gpu"));
        assert_eq!(of(&node(json!({}), None)).unwrap().to_string(), "2026-01-01T00:00:00Z");
    }

    #[test]
    fn what_was_written_at_admission_wins_for_its_own_group_only() {
        let label = json!({(names::NODE_TENANT): "acme"});
        let written = "2025-05-05T00:00:00Z acme";
        assert_eq!(prepared(label.clone(), Some(written)).0.as_deref(), Some(written));
        for stale in ["2025-05-05T00:00:00Z other", "2025-05-05T00:00:00Z", "yesterday acme", ""] {
            assert_eq!(
                prepared(label.clone(), Some(stale)).0.as_deref(),
                Some("2026-01-02T00:00:00Z acme"),
                "{stale}"
            );
        }
    }

    #[test]
    fn a_node_that_is_no_worker_is_left_as_it_is() {
        assert_eq!(prepared(json!({"zone": "a"}), None).0, None);
        let both = json!({(names::NODE_TENANT): "acme", (names::NODE_POOL): "gpu"});
        assert_eq!(prepared(both, None).0, None);
    }
}
