//! What makes a pass over a tenant due, beside a change of the tenant itself.
//!
//! Children are told to their tenant by the name of the namespace they are in, which nobody can change, not by their
//! labels, which anybody with access can.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use futures::{Stream, StreamExt, stream};
use k8s_openapi::api::core::v1::{Namespace, Node, Pod, ResourceQuota};
use kube::{
    Resource, ResourceExt,
    core::PartialObjectMeta,
    runtime::reflector::{ObjectRef, Store},
};
use tokio::sync::{mpsc, watch};

use super::memory::Memory;
use crate::{
    api_types::{Plans, Tenant},
    config::Settings,
    domain::tenant_state,
    kube_ext::watch::Change,
    names,
};

/// The name of the tenant whose namespace this would be.
fn tenant_of(namespace: &str, settings: &Settings) -> Option<String> {
    let name = namespace.strip_prefix(settings.namespace_prefix.as_str())?;
    (!name.is_empty()).then(|| name.to_owned())
}

/// A namespace came, changed or went: the tenant that it is, or would be, looks again.
pub(super) fn namespaces(
    objects: impl Stream<Item = Arc<PartialObjectMeta<Namespace>>> + Send + 'static,
    settings: Settings,
    memory: Arc<Memory>,
) -> impl Stream<Item = ObjectRef<Tenant>> + Send + 'static {
    objects.filter_map(move |namespace| {
        let tenant = tenant_of(&namespace.name_any(), &settings);
        std::future::ready(tenant.map(|tenant| changed(&memory, &tenant)))
    })
}

/// A child came, changed or went.
pub(super) fn children<K>(
    objects: impl Stream<Item = Arc<K>> + Send + 'static,
    settings: Settings,
    memory: Arc<Memory>,
) -> impl Stream<Item = ObjectRef<Tenant>> + Send + 'static
where
    K: Resource<DynamicType = ()> + Send + Sync + 'static,
{
    objects.filter_map(move |child| {
        let tenant = child.namespace().and_then(|namespace| tenant_of(&namespace, &settings));
        std::future::ready(tenant.map(|tenant| changed(&memory, &tenant)))
    })
}

fn changed(memory: &Memory, tenant: &str) -> ObjectRef<Tenant> {
    memory.child_changed(tenant);
    ObjectRef::new(tenant)
}

/// A quota came, changed or went. What it counts changes with every pod and is no drift; storage is usage.
pub(super) fn quotas(
    changes: mpsc::Receiver<Change<ResourceQuota>>,
    settings: Settings,
    memory: Arc<Memory>,
) -> impl Stream<Item = ObjectRef<Tenant>> + Send + 'static {
    let seen: HashMap<String, ResourceQuota> = HashMap::new();
    stream::unfold((changes, seen), |(mut changes, mut seen)| async move {
        loop {
            let (quota, told) = match changes.recv().await? {
                Change::Applied(quota) => {
                    let before = seen.insert(quota.uid().unwrap_or_default(), ResourceQuota::clone(&quota));
                    let told = before.map_or(Told::Drift, |before| difference(&before, &quota));
                    (quota, told)
                }
                Change::Deleted(quota) => {
                    seen.remove(&quota.uid().unwrap_or_default());
                    (quota, Told::Drift)
                }
                Change::Invalid(_) | Change::Synced => continue,
            };
            if told != Told::Nothing {
                return Some(((quota, told), (changes, seen)));
            }
        }
    })
    .filter_map(move |(quota, told)| {
        let tenant = quota.namespace().and_then(|namespace| tenant_of(&namespace, &settings));
        std::future::ready(tenant.map(|tenant| match told {
            Told::Drift => changed(&memory, &tenant),
            Told::Usage | Told::Nothing => ObjectRef::new(&tenant),
        }))
    })
}

#[derive(Debug, PartialEq, Eq)]
enum Told {
    Nothing,
    Usage,
    Drift,
}

fn difference(old: &ResourceQuota, new: &ResourceQuota) -> Told {
    let storage = |quota: &ResourceQuota| {
        quota.status.as_ref().and_then(|s| s.used.as_ref()?.get("requests.storage").cloned())
    };
    if old.spec != new.spec || old.labels() != new.labels() {
        Told::Drift
    } else if storage(old) != storage(new) {
        Told::Usage
    } else {
        Told::Nothing
    }
}

/// A pod of a tenant that is being deleted has changed: the deletion may go on. Nobody else waits for pods.
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

/// A node has changed: the tenants that it is or was for, or admitted to, look again.
pub(super) fn nodes(
    objects: impl Stream<Item = Arc<Node>> + Send + 'static,
) -> impl Stream<Item = ObjectRef<Tenant>> + Send + 'static {
    let mut seen: HashMap<String, BTreeSet<String>> = HashMap::new();
    objects
        .map(move |node| {
            let labels = node.labels();
            let mut now: BTreeSet<String> = [names::NODE_TENANT, names::NODE_ADMITTED]
                .iter()
                .filter_map(|key| labels.get(*key).cloned())
                .collect();
            let before = if now.is_empty() {
                seen.remove(&node.name_any())
            } else {
                seen.insert(node.name_any(), now.clone())
            };
            now.extend(before.unwrap_or_default());
            stream::iter(now.into_iter().map(|tenant| ObjectRef::new(&tenant)))
        })
        .flatten()
}

/// The plan table was replaced: every tenant looks again.
pub(super) fn plans(plans: watch::Receiver<Arc<Plans>>) -> impl Stream<Item = ()> + Send + 'static {
    stream::unfold(plans, |mut plans| async move {
        plans.changed().await.ok()?;
        Some(((), plans))
    })
}
