//! A cluster of nodes, pods and tenants behind the client's interface, and caches of it that lag as the test likes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard},
};

use http::{Method, StatusCode};
use kube::runtime::{reflector::store::Writer, watcher::Event};
use serde_json::{Map, json};

use super::*;
use crate::{
    config::Settings,
    kube_ext::mock::{self, merge},
};

/// What happens to the next write of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// It is refused with an error and has no effect.
    Lost,
    /// It has its effect, and is answered with an error.
    Unanswered,
    /// It is answered with an error, and may be applied later.
    Late,
}

/// What the API server holds.
#[derive(Default)]
pub(super) struct World {
    version: u64,
    pub(super) nodes: BTreeMap<String, Value>,
    pub(super) pods: Vec<Value>,
    /// Tenants that exist, readable or not.
    pub(super) tenants: BTreeSet<String>,
    /// Every request but Events: method, path with query.
    pub(super) requests: Vec<String>,
    /// Every body of a write to a node.
    pub(super) patches: Vec<Value>,
    /// Reason and note of every Event.
    pub(super) events: Vec<(String, String)>,
    pub(super) fault: Option<Fault>,
    /// A write that may still have its effect.
    pub(super) late: Option<(String, Value)>,
    /// What must never have happened, and did.
    pub(super) violations: Vec<String>,
}

pub(super) fn label(node: &Value, key: &str) -> Option<String> {
    node["metadata"]["labels"][key].as_str().map(str::to_owned)
}

pub(super) fn taint(node: &Value) -> Option<String> {
    let taints = node["spec"]["taints"].as_array()?;
    taints.iter().find(|taint| taint["key"] == names::NODE_ADMITTED)?["value"].as_str().map(str::to_owned)
}

impl World {
    /// Adds a node of `cores` cores, its worker label set at second `age`.
    pub(super) fn add_node(&mut self, name: &str, cores: u64, tenant: Option<&str>, age: u64) {
        self.version += 1;
        let node = json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {
                "name": name, "uid": format!("uid-{}", self.version), "creationTimestamp": "2026-01-01T00:00:00Z",
                "labels": {}, "annotations": {}, "managedFields": [],
            },
            "spec": {"taints": [{"key": "foreign", "effect": "NoSchedule"}]},
            "status": {"capacity": {"cpu": cores.to_string()}},
        });
        self.nodes.insert(name.to_owned(), node);
        self.label(name, tenant, age);
    }

    /// Labels a node for a tenant, or for none.
    pub(super) fn label(&mut self, name: &str, tenant: Option<&str>, age: u64) {
        self.version += 1;
        let node = self.nodes.get_mut(name).unwrap();
        node["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let time = format!("2026-02-01T00:{:02}:{:02}Z", age / 60, age % 60);
        let mut owned = Map::new();
        if let Some(tenant) = tenant {
            node["metadata"]["labels"][names::NODE_TENANT] = json!(tenant);
            owned.insert(format!("f:{}", names::NODE_TENANT), json!({}));
        } else {
            node["metadata"]["labels"].as_object_mut().unwrap().remove(names::NODE_TENANT);
        }
        let fields = json!({"f:metadata": {"f:labels": owned}});
        node["metadata"]["managedFields"] = json!([{"manager": "admin", "time": time, "fieldsV1": fields}]);
    }

    /// A job pod of `group`, bound to a node.
    pub(super) fn add_pod(&mut self, node: &str, group: &str) -> Value {
        self.version += 1;
        let pod = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "name": format!("p{}", self.version), "namespace": format!("tenant-{group}"),
                "labels": {
                    (names::LABEL_MANAGED_BY): names::MANAGER, (names::LABEL_GROUP): group,
                    (names::LABEL_TENANT): group, (names::LABEL_TENANT_UID): "t", (names::LABEL_JOB_UID): "j",
                    (names::LABEL_ATTEMPT): "1",
                },
            },
            "spec": {"nodeName": node, "containers": []}, "status": {"phase": "Running"},
        });
        self.pods.push(pod.clone());
        pod
    }

    pub(super) fn groups_of_pods(&self, node: &str) -> BTreeSet<String> {
        let here = self.pods.iter().filter(|pod| pod["spec"]["nodeName"] == node);
        here.filter_map(|pod| label(pod, names::LABEL_GROUP)).collect()
    }

    /// Applies a write as the API server would; the node as it is then, or the status code of a refusal.
    pub(super) fn write(&mut self, name: &str, patch: &Value) -> Result<Value, StatusCode> {
        let node = self.nodes.get(name).ok_or(StatusCode::NOT_FOUND)?;
        for condition in ["uid", "resourceVersion"] {
            if node["metadata"][condition] != patch["metadata"][condition] {
                return Err(StatusCode::CONFLICT);
            }
        }
        let mut after = node.clone();
        merge(&mut after, patch);
        self.version += 1;
        after["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let groups = self.groups_of_pods(name);
        if let Some(group) = label(&after, names::NODE_ADMITTED)
            && groups.iter().any(|owner| *owner != group)
        {
            self.violations.push(format!("{name} admitted to {group} with pods of {groups:?}"));
        }
        // A node that was created again under its name has none, with the pods of the one before.
        if taint(node).is_some() && taint(&after).is_none() && !groups.is_empty() {
            self.violations.push(format!("{name} lost its taint with pods of {groups:?}"));
        }
        if after["spec"]["taints"][0]["key"] != "foreign" {
            self.violations.push(format!("{name} lost a foreign taint"));
        }
        self.nodes.insert(name.to_owned(), after.clone());
        Ok(after)
    }

    fn patch_node(&mut self, name: &str, patch: Value) -> (StatusCode, Value) {
        self.patches.push(patch.clone());
        let lost = (StatusCode::INTERNAL_SERVER_ERROR, Value::Null);
        match self.fault.take() {
            Some(Fault::Lost) => lost,
            Some(Fault::Late) => {
                self.late = Some((name.to_owned(), patch));
                lost
            }
            fault => match self.write(name, &patch) {
                Ok(_) if fault.is_some() => lost,
                Ok(node) => (StatusCode::OK, node),
                Err(code) => (code, Value::Null),
            },
        }
    }

    fn answer(&mut self, method: &Method, path: &str, query: &str, body: Value) -> (StatusCode, Value) {
        if path.ends_with("/events") {
            let text = |key: &str| body[key].as_str().unwrap_or_default().to_owned();
            self.events.push((text("reason"), text("note")));
            return (StatusCode::CREATED, body);
        }
        self.requests.push(format!("{method} {path}?{query}"));
        if let Some(name) = path.strip_prefix("/api/v1/nodes/") {
            assert_eq!(method, Method::PATCH);
            return self.patch_node(name, body);
        }
        if path == "/api/v1/pods" {
            let after = query.split("spec.nodeName%3D").nth(1).unwrap_or_else(|| panic!("{query}"));
            let node = after.split('&').next().unwrap();
            let items: Vec<_> = self.pods.iter().filter(|pod| pod["spec"]["nodeName"] == node).collect();
            return (
                StatusCode::OK,
                json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items}),
            );
        }
        let name = path.strip_prefix("/apis/crofter.io/v1alpha1/tenants/").unwrap();
        if self.tenants.contains(name) {
            let metadata = json!({"name": name});
            let kind = "PartialObjectMetadata";
            return (
                StatusCode::OK,
                json!({"apiVersion": "meta.k8s.io/v1", "kind": kind, "metadata": metadata}),
            );
        }
        (StatusCode::NOT_FOUND, Value::Null)
    }
}

/// A controller before a world.
pub(super) struct Lab {
    world: Arc<Mutex<World>>,
    changed: tokio::sync::watch::Receiver<()>,
    pub(super) context: Arc<Context>,
    pub(super) nodes: Writer<Node>,
    pub(super) tenants: Writer<Tenant>,
    pub(super) pods: Writer<Pod>,
    pub(super) plans: watch::Sender<Arc<Plans>>,
}

impl Lab {
    /// A new controller, as after a restart: its caches hold nothing yet.
    pub(super) fn new(world: &Arc<Mutex<World>>) -> Self {
        let (changes, changed) = tokio::sync::watch::channel(());
        let answering = Arc::clone(world);
        let client = mock::client(move |call| {
            let (code, answer) =
                answering.lock().unwrap().answer(&call.method, &call.path, &call.query, call.body);
            changes.send_replace(());
            if code.is_success() { (code.as_u16(), answer) } else { mock::refusal(code.as_u16(), "no") }
        });
        let ((nodes, node_writer), (tenants, tenant_writer), (pods, pod_writer)) =
            (mock::cache(), mock::cache(), mock::cache());
        let (plans_sender, plans) = watch::channel(Arc::new(Plans::built_in().unwrap()));
        let settings = Settings::default();
        let events = mock::events(client.clone());
        let context = Context::new(
            client,
            events,
            Caches { nodes, tenants, pods },
            plans,
            settings,
            crate::metrics::Metrics::default(),
        );
        Self {
            world: Arc::clone(world),
            changed,
            context: Arc::new(context),
            nodes: node_writer,
            tenants: tenant_writer,
            pods: pod_writer,
            plans: plans_sender,
        }
    }

    pub(super) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    /// Lets the cache catch up with one node, as the watch does it; the node as it is now.
    pub(super) fn sync_node(&mut self, name: &str) -> Option<Arc<Node>> {
        let stored = self.world().nodes.get(name).cloned();
        let reference = ObjectRef::new(name);
        if let Some(stored) = stored {
            let mut node: Node = serde_json::from_value(stored).unwrap();
            prepare(&mut node);
            node.managed_fields_mut().clear();
            self.nodes.apply_watcher_event(&Event::Apply(node));
        } else if let Some(deleted) = self.context.caches.nodes.get(&reference) {
            self.nodes.apply_watcher_event(&Event::Delete(Node::clone(&deleted)));
        }
        self.context.caches.nodes.get(&reference)
    }

    pub(super) fn sync_pods(&mut self) {
        self.pods.apply_watcher_event(&Event::Init);
        let pods = self.world().pods.clone();
        for pod in pods {
            self.pods.apply_watcher_event(&Event::InitApply(serde_json::from_value(pod).unwrap()));
        }
        self.pods.apply_watcher_event(&Event::InitDone);
    }

    /// Lets the cache catch up with everything.
    pub(super) fn sync(&mut self) {
        let known = self.context.caches.nodes.state();
        let names: BTreeSet<String> = known.iter().map(|node| node.name_any()).collect();
        let all: BTreeSet<String> = self.world().nodes.keys().cloned().chain(names).collect();
        for name in all {
            self.sync_node(&name);
        }
        self.sync_pods();
    }

    /// A tenant in world and cache, with quotas of its own.
    pub(super) fn tenant(&mut self, name: &str, workers: i64, cores: i64) -> Arc<Tenant> {
        self.world().tenants.insert(name.to_owned());
        let tenant: Tenant = serde_json::from_value(json!({
            "apiVersion": "crofter.io/v1alpha1", "kind": "Tenant",
            "metadata": {"name": name, "uid": format!("uid-{name}"), "generation": workers},
            "spec": {"plan": "basic", "quotas": {"maxWorkers": workers, "maxCpuCores": cores}},
        }))
        .unwrap();
        self.tenants.apply_watcher_event(&Event::Apply(tenant.clone()));
        Arc::new(tenant)
    }

    /// Reconciles a node, if the cache has it.
    pub(super) async fn reconcile(&self, name: &str) -> Result<(), Error> {
        match self.context.caches.nodes.get(&ObjectRef::new(name)) {
            Some(node) => {
                let result = reconcile(node, Arc::clone(&self.context)).await.map(drop);
                self.context.events.flush(Duration::from_secs(1)).await;
                result
            }
            None => Ok(()),
        }
    }

    /// Waits until requests have led to what `is_so` asks for.
    pub(super) async fn until(&mut self, what: &str, is_so: impl Fn(&World) -> bool) {
        let waited = tokio::time::timeout(Duration::from_secs(10), async {
            while !is_so(&self.world()) {
                self.changed.changed().await.unwrap();
            }
        });
        assert!(waited.await.is_ok(), "not seen in 10 s: {what}");
    }
}
