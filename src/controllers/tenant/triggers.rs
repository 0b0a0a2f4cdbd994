//! What makes a reconcile of a tenant due, besides a change of the tenant itself.
//!
//! Children are mapped to their tenant by the name of the namespace they are in, which no client can change, not by
//! their labels, which any client with access can.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use futures::{Stream, StreamExt, stream};
use k8s_openapi::{
    api::core::v1::{Node, Pod, ResourceQuota},
    apimachinery::pkg::api::resource::Quantity,
};
use kube::{
    Resource, ResourceExt,
    runtime::reflector::{ObjectRef, Store},
};
use tokio::sync::mpsc;

use super::{apply::Child, reconcile_state::ReconcileState};
use crate::{
    api_types::Tenant,
    config::Settings,
    domain::{tenant_state, worker},
    kube_ext::{streams::received, watch::Change},
    names,
};

/// The name of the tenant whose namespace this would be.
fn tenant_of(namespace: &str, settings: &Settings) -> Option<String> {
    let name = namespace.strip_prefix(settings.namespace_prefix.as_str())?;
    (!name.is_empty()).then(|| name.to_owned())
}

/// A child came, changed or went. What the controller wrote itself makes no reconcile due.
pub(super) fn children<M: Child>(
    changes: mpsc::Receiver<Change<M>>,
    settings: Settings,
    state: Arc<ReconcileState>,
) -> impl Stream<Item = ObjectRef<Tenant>> + Send + 'static {
    existing(changes).filter_map(move |(child, exists)| {
        let name = child.name_any();
        // The namespace is itself a child, found by its own name.
        let namespace = child.namespace().unwrap_or_else(|| name.clone());
        let drifted = tenant_of(&namespace, &settings)
            .filter(|tenant| state.observed(tenant, &M::kind(&()), &name, exists.then(|| child.version())));
        std::future::ready(drifted.map(|tenant| ObjectRef::new(&tenant)))
    })
}

/// The storage that a quota counts has changed: usage.
pub(super) fn storage(
    changes: mpsc::Receiver<Change<ResourceQuota>>,
    settings: Settings,
) -> impl Stream<Item = ObjectRef<Tenant>> + Send + 'static {
    let mut seen: HashMap<String, Option<Quantity>> = HashMap::new();
    existing(changes).filter_map(move |(quota, exists)| {
        let used = quota.status.as_ref().and_then(|s| s.used.as_ref()?.get("requests.storage").cloned());
        let uid = quota.uid().unwrap_or_default();
        let before = if exists { seen.insert(uid, used.clone()) } else { seen.remove(&uid) };
        let changed = before != Some(used);
        let tenant = quota.namespace().filter(|_| changed).and_then(|space| tenant_of(&space, &settings));
        std::future::ready(tenant.map(|tenant| ObjectRef::new(&tenant)))
    })
}

/// Objects, each with whether it exists (still).
fn existing<K>(changes: mpsc::Receiver<Change<K>>) -> impl Stream<Item = (Arc<K>, bool)> + Send + 'static
where
    K: Resource + Send + Sync + 'static,
{
    let one = |change| match change {
        Change::Applied(object) => Some((object, true)),
        Change::Deleted(object) => Some((object, false)),
        Change::Invalid(_) | Change::Synced => None,
    };
    received(changes).filter_map(move |change| std::future::ready(one(change)))
}

/// A pod of a tenant that is being deleted has changed: the deletion may advance. No other reconcile waits for pods.
pub(super) fn pods(
    objects: impl Stream<Item = Arc<Pod>> + Send + 'static,
    tenants: Store<Tenant>,
) -> impl Stream<Item = ObjectRef<Tenant>> + Send + 'static {
    objects.filter_map(move |pod| {
        let tenant = pod.labels().get(names::LABEL_TENANT).map(|name| ObjectRef::new(name));
        let leaving =
            |tenant: &ObjectRef<Tenant>| tenants.get(tenant).is_some_and(|t| tenant_state::terminating(&t));
        std::future::ready(tenant.filter(leaving))
    })
}

/// A node has changed or is deleted: the tenants that it is or was for, or admitted to, are reconciled.
pub(super) fn nodes(
    objects: impl Stream<Item = Arc<Node>> + Send + 'static,
    known: Store<Node>,
) -> impl Stream<Item = ObjectRef<Tenant>> + Send + 'static {
    let mut seen: HashMap<String, BTreeSet<String>> = HashMap::new();
    objects.flat_map(move |node| {
        let marks = [worker::label(&node, names::NODE_TENANT), worker::label(&node, names::NODE_ADMITTED)];
        let mut now: BTreeSet<String> =
            marks.into_iter().chain([worker::tainted(&node)]).flatten().map(str::to_owned).collect();
        let exists = known.get(&ObjectRef::from_obj(&*node)).is_some();
        let before = if exists && !now.is_empty() {
            seen.insert(node.name_any(), now.clone())
        } else {
            seen.remove(&node.name_any())
        };
        now.extend(before.unwrap_or_default());
        stream::iter(now.into_iter().map(|tenant| ObjectRef::new(&tenant)))
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::kube_ext::mock;

    fn settings() -> Settings {
        Settings::default()
    }

    fn object<K: serde::de::DeserializeOwned>(object: Value) -> Arc<K> {
        Arc::new(serde_json::from_value(object).unwrap())
    }

    fn quota(namespace: &str, pods: &str, status: Value) -> Arc<ResourceQuota> {
        object(json!({
            "metadata": {"name": "crofter", "namespace": namespace, "uid": namespace, "labels": {}},
            "spec": {"hard": {"pods": pods}}, "status": status,
        }))
    }

    async fn names(stream: impl Stream<Item = ObjectRef<Tenant>>) -> Vec<String> {
        stream.map(|tenant| tenant.name).collect().await
    }

    fn changes<K: Resource>(all: Vec<Change<K>>) -> mpsc::Receiver<Change<K>> {
        let (sender, receiver) = mpsc::channel(all.len().max(1));
        for change in all {
            sender.try_send(change).ok().unwrap();
        }
        receiver
    }

    #[tokio::test]
    async fn only_drift_in_a_tenants_namespace_makes_a_pass_due() {
        let state = Arc::new(ReconcileState::default());
        let ours = quota("tenant-a", "5", json!({}));
        state.recorded("a", "ResourceQuota", "crofter", ours.version());
        let counted = quota("tenant-a", "5", json!({"used": {"pods": "3"}}));
        let edited = quota("tenant-a", "9", json!({}));
        let elsewhere = quota("default", "9", json!({}));
        let requeued = |all| names(children(changes(all), settings(), Arc::clone(&state)));
        let applied = |quota: &Arc<ResourceQuota>| Change::Applied(Arc::clone(quota));
        assert_eq!(requeued(vec![applied(&ours), applied(&counted), applied(&elsewhere)]).await, [""; 0]);
        assert_eq!(requeued(vec![applied(&edited)]).await, ["a"]);
        assert_eq!(requeued(vec![applied(&ours), Change::Deleted(ours)]).await, ["a"]);
    }

    #[tokio::test]
    async fn changed_storage_requeues_its_tenant() {
        let with = |used: Value| Change::Applied(quota("tenant-a", "5", json!({"used": used})));
        let one = json!({"requests.storage": "1G"});
        let all = vec![with(one.clone()), with(one), with(json!({"requests.storage": "2G"}))];
        assert_eq!(names(storage(changes(all), settings())).await, ["a", "a"]);
    }

    #[tokio::test]
    async fn a_relabelled_node_requeues_both_tenants() {
        let (known, mut writer) = mock::cache::<Node>();
        mock::put(&mut writer, json!({"metadata": {"name": "n"}}));
        let node = |tenant: Value| object::<Node>(json!({"metadata": {"name": "n", "labels": tenant}}));
        let (of_a, of_b) = (json!({names::NODE_TENANT: "a"}), json!({names::NODE_TENANT: "b"}));
        let taint = json!([{"key": names::NODE_ADMITTED, "value": "c", "effect": "NoSchedule"}]);
        let tainted = object::<Node>(json!({"metadata": {"name": "n"}, "spec": {"taints": taint}}));
        let all = stream::iter([node(of_a), node(of_b), node(json!({})), node(json!({})), tainted]);
        assert_eq!(names(nodes(all, known)).await, ["a", "a", "b", "b", "c"]);
    }

    #[tokio::test]
    async fn pods_requeue_tenants_that_are_being_deleted() {
        let (tenants, mut writer) = mock::cache::<Tenant>();
        for (name, deleted) in [("stays", None), ("deleted", Some("2030-01-01T00:00:00Z"))] {
            let metadata = json!({"name": name, "deletionTimestamp": deleted});
            mock::put(&mut writer, json!({"metadata": metadata, "spec": {}}));
        }
        let pod = |tenant: &str| {
            object(json!({"metadata": {"name": "p", "labels": {names::LABEL_TENANT: tenant}}}))
        };
        let all = stream::iter([pod("stays"), pod("deleted"), pod("unknown")]);
        assert_eq!(names(pods(all, tenants)).await, ["deleted"]);
    }
}
