//! What makes a reconcile of a key due, besides a change of the key itself.

use std::{collections::HashMap, sync::Arc};

use futures::{Stream, StreamExt, stream};
use kube::{
    ResourceExt,
    runtime::reflector::{ObjectRef, Store},
};
use tokio::sync::mpsc;

use crate::{
    api_types::{Tenant, TenantApiKey},
    domain::{api_key::lineage, tenant_state},
    kube_ext::{streams::received, watch::Change},
};

/// The keys in the namespace of each tenant that came, went, began to go, or got its namespace. What else its status
/// says (usage, every few seconds) concerns no key.
pub(super) fn tenants(
    changes: mpsc::Receiver<Change<Tenant>>,
    keys: Store<TenantApiKey>,
) -> impl Stream<Item = ObjectRef<TenantApiKey>> + Send + 'static {
    let mut seen: HashMap<String, (String, String, bool)> = HashMap::new();
    received(changes).flat_map(move |change| {
        let (tenant, exists) = match change {
            Change::Applied(tenant) => (tenant, true),
            Change::Deleted(tenant) => (tenant, false),
            Change::Invalid(_) | Change::Synced => return stream::iter(Vec::new()),
        };
        let namespace =
            tenant.status.as_ref().and_then(|status| status.namespace.clone()).unwrap_or_default();
        let now = (tenant.uid().unwrap_or_default(), namespace, tenant_state::terminating(&tenant));
        let name = tenant.name_any();
        let before = if exists { seen.insert(name, now.clone()) } else { seen.remove(&name) };
        let concerned = if exists && before.as_ref() == Some(&now) {
            Vec::new()
        } else {
            let before = before.as_ref().map(|(_, namespace, _)| namespace.as_str());
            let namespaces = [Some(now.1.as_str()), before];
            keys.state_filter(|key| namespaces.contains(&key.metadata.namespace.as_deref()))
        };
        stream::iter(concerned.iter().map(|key| ObjectRef::from_obj(&**key)).collect::<Vec<_>>())
    })
}

/// The keys of the same namespace that a key has created, when a key that may be theirs is deleted or ends at another time.
pub(super) fn ancestors(
    changes: mpsc::Receiver<Change<TenantApiKey>>,
    keys: Store<TenantApiKey>,
) -> impl Stream<Item = ObjectRef<TenantApiKey>> + Send + 'static {
    let mut seen = HashMap::new();
    received(changes).flat_map(move |change| {
        let (key, end) = match change {
            Change::Applied(key) => (Arc::clone(&key), Some((key.spec.revoked, key.spec.expires_at.clone()))),
            Change::Deleted(key) => (key, None),
            Change::Invalid(_) | Change::Synced => return stream::iter(Vec::new()),
        };
        let uid = key.uid().unwrap_or_default();
        let before = match &end {
            Some(end) => seen.insert(uid, end.clone()),
            None => seen.remove(&uid),
        };
        // One that is new may be an ancestor that could not be read until now.
        let concerned = if before == end {
            Vec::new()
        } else {
            let namespace = key.metadata.namespace.as_ref();
            keys.state_filter(|key| {
                key.metadata.namespace.as_ref() == namespace && lineage::parent(key).is_some()
            })
        };
        stream::iter(concerned.iter().map(|key| ObjectRef::from_obj(&**key)).collect::<Vec<_>>())
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::kube_ext::mock;

    #[tokio::test]
    async fn keys_are_requeued_when_a_key_ends_that_they_may_come_from() {
        let object = |name: &str, namespace: &str, owners: Value, spec: Value| {
            let metadata =
                json!({"name": name, "namespace": namespace, "uid": name, "ownerReferences": owners});
            json!({"apiVersion": "crofter.io/v1alpha1", "kind": "TenantApiKey", "metadata": metadata, "spec": spec})
        };
        let by = |uid: &str| json!([{"apiVersion": "crofter.io/v1alpha1", "kind": "TenantApiKey", "name": uid, "uid": uid}]);
        // Given: a key, one that it has created, and such a one of another tenant.
        let (keys, mut writer) = mock::cache();
        for (name, namespace, owners) in
            [("a", "tenant-acme", json!([])), ("b", "tenant-acme", by("a")), ("c", "tenant-other", by("d"))]
        {
            mock::put(&mut writer, object(name, namespace, owners, json!({})));
        }
        // When: the key is seen, stays as it is, gets another end, and is deleted.
        let with = |spec: Value| -> Arc<TenantApiKey> {
            Arc::new(serde_json::from_value(object("a", "tenant-acme", json!([]), spec)).unwrap())
        };
        let end = json!({"expiresAt": "2030-01-01T00:00:00Z"});
        let (sender, receiver) = mpsc::channel(8);
        for spec in [json!({}), json!({"displayName": "x"}), end.clone(), json!({"revoked": true})] {
            sender.send(Change::Applied(with(spec))).await.unwrap();
        }
        sender.send(Change::Deleted(with(json!({"revoked": true})))).await.unwrap();
        drop(sender);
        // Then: the other is requeued when it is first seen, and for each end.
        let woken: Vec<_> = ancestors(receiver, keys).collect().await;
        assert_eq!(woken, vec![ObjectRef::new("b").within("tenant-acme"); 4]);
    }

    #[tokio::test]
    async fn keys_are_requeued_when_their_tenant_changes() {
        // Given: keys of two tenants.
        let (keys, mut writer) = mock::cache();
        for (name, namespace) in [("a", "tenant-acme"), ("b", "tenant-acme"), ("c", "tenant-other")] {
            let metadata = json!({"name": name, "namespace": namespace});
            mock::put(
                &mut writer,
                json!({"apiVersion": "crofter.io/v1alpha1", "kind": "TenantApiKey", "metadata": metadata, "spec": {}}),
            );
        }
        // When: one tenant gets its namespace, other usage, another UID, and is deleted.
        let tenant = |uid: &str, namespace: Value, jobs: u32| {
            let whole = json!({
                "apiVersion": "crofter.io/v1alpha1", "kind": "Tenant", "metadata": {"name": "acme", "uid": uid}, "spec": {},
                "status": {"namespace": namespace, "usage": {"activeJobs": jobs}},
            });
            Change::Applied(Arc::new(serde_json::from_value(whole).unwrap()))
        };
        let (sender, receiver) = mpsc::channel(8);
        let at = || json!("tenant-acme");
        for change in
            [tenant("1", json!(null), 0), tenant("1", at(), 0), tenant("1", at(), 1), tenant("2", at(), 1)]
        {
            sender.send(change).await.unwrap();
        }
        let Change::Applied(deleted) = tenant("2", at(), 2) else { unreachable!() };
        sender.send(Change::Deleted(deleted)).await.unwrap();
        drop(sender);
        // Then: its keys are requeued for all but the usage.
        let woken: Vec<_> = tenants(receiver, keys).map(|key| key.name).collect().await;
        assert_eq!(woken.len(), 6, "when it got its namespace, got another UID, and was deleted: {woken:?}");
        assert!(woken.iter().all(|name| name != "c"));
    }
}
