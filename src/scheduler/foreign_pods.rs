//! What foreign pods use of a worker: those of DaemonSets, and all others that are not pods of jobs.
//!
//! A pod of a DaemonSet makes its node smaller for good. Other pods use room while they run.

use std::{collections::HashMap, sync::Arc};

use k8s_openapi::api::core::v1::{Container, Pod};
use kube::ResourceExt;

use crate::domain::{attempt, pod_requests::of_pod, resources::Resources};

/// What pods of DaemonSets use, by node.
#[derive(Default)]
pub(super) struct DaemonUsage {
    by_node: HashMap<String, Resources>,
    pods: HashMap<Arc<str>, (String, Resources)>,
}

impl DaemonUsage {
    /// What they use of a node.
    pub(super) fn on(&self, node: &str) -> Resources {
        self.by_node.get(node).copied().unwrap_or_default()
    }

    /// Sets what such a pod uses of which node, `None` for a deleted one; returns the nodes for which that has changed.
    pub(super) fn set(&mut self, uid: &Arc<str>, usage: Option<(String, Resources)>) -> Vec<String> {
        let old = match usage.clone() {
            Some(usage) => self.pods.insert(Arc::clone(uid), usage),
            None => self.pods.remove(uid),
        };
        if old == usage {
            return Vec::new();
        }
        let mut nodes = Vec::new();
        if let Some((node, used)) = old {
            if let Some(all) = self.by_node.get_mut(&node) {
                *all = *all - used;
            }
            nodes.push(node);
        }
        if let Some((node, used)) = usage {
            *self.by_node.entry(node.clone()).or_default() += used;
            nodes.push(node);
        }
        nodes
    }
}

/// Whether a DaemonSet controls this pod.
pub(super) fn is_daemon(pod: &Pod) -> bool {
    pod.owner_references().iter().any(|owner| owner.kind == "DaemonSet" && owner.controller == Some(true))
}

/// Where a pod runs and what it uses there, until it has ended. As in kube-scheduler, a pod that has preempted others uses
/// room of its nominated node before it runs there.
pub(super) fn usage_on_node(pod: &Pod, gpu_resource: &str) -> Option<(String, Resources)> {
    let nominated = pod.status.as_ref().and_then(|status| status.nominated_node_name.as_deref());
    let node = attempt::node(pod).or(nominated.filter(|node| !node.is_empty()))?;
    (!attempt::is_over(pod)).then(|| (node.to_owned(), of_pod(pod, gpu_resource)))
}

/// Drops from a pod what `usage_on_node` and `is_daemon` do not read; there may be very many foreign pods.
pub fn prepare(pod: &mut Pod) {
    pod.metadata.annotations = None;
    pod.metadata.labels = None;
    if let Some(spec) = &mut pod.spec {
        spec.volumes = None;
        spec.affinity = None;
        spec.tolerations = None;
        for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
            *container = Container {
                name: std::mem::take(&mut container.name),
                resources: container.resources.take(),
                restart_policy: container.restart_policy.take(),
                ..Container::default()
            };
        }
    }
    if let Some(status) = &mut pod.status {
        status.container_statuses = None;
        status.init_container_statuses = None;
        status.conditions = None;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(spec: Value, phase: &str) -> Pod {
        let owner = json!([{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "d", "controller": true}]);
        serde_json::from_value(json!({
            "metadata": {"name": "p", "labels": {"a": "b"}, "ownerReferences": owner},
            "spec": spec, "status": {"phase": phase},
        }))
        .unwrap()
    }

    fn container(cpu: &str, memory: &str) -> Value {
        json!({"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu, "memory": memory}}})
    }

    #[test]
    fn a_pod_takes_what_kube_scheduler_counts() {
        let mut sidecar = container("100m", "1Ki");
        sidecar["restartPolicy"] = json!("Always");
        let spec = json!({
            "nodeName": "n", "containers": [container("100m", "1Ki"), container("200m", "2Ki")],
            "initContainers": [sidecar, container("150m", "9Ki")], "overhead": {"cpu": "10m"},
        });
        let mut running = pod(spec.clone(), "Running");
        let before = usage_on_node(&running, "gpu");
        let expected = Resources { cpu_milli: 410, memory_bytes: 10 << 10, pods: 1, ..Resources::default() };
        assert_eq!(before, Some(("n".to_owned(), expected)));
        prepare(&mut running);
        assert_eq!(
            (usage_on_node(&running, "gpu"), is_daemon(&running)),
            (before, true),
            "all that is read is left"
        );
        assert!(running.metadata.labels.is_none() && running.spec.unwrap().containers[0].image.is_none());
        assert_eq!(usage_on_node(&pod(spec, "Succeeded"), "gpu"), None);
        assert_eq!(usage_on_node(&pod(json!({"containers": []}), "Pending"), "gpu"), None);
    }

    #[test]
    fn a_pod_without_requests_is_one_pod_and_a_nominated_one_has_its_room() {
        let one = Resources { pods: 1, ..Resources::default() };
        let plain = pod(json!({"nodeName": "n", "containers": [{"name": "c"}]}), "Running");
        assert_eq!(usage_on_node(&plain, "gpu"), Some(("n".to_owned(), one)));
        let mut nominated = pod(json!({"containers": [container("1", "1Ki")]}), "Pending");
        nominated.status.as_mut().unwrap().nominated_node_name = Some("m".to_owned());
        let takes = Resources { cpu_milli: 1000, memory_bytes: 1024, ..one };
        assert_eq!(usage_on_node(&nominated, "gpu"), Some(("m".to_owned(), takes)));
    }

    #[test]
    fn daemon_usage_follows_created_moved_and_deleted_pods() {
        let mut daemons = DaemonUsage::default();
        let takes = |cpu_milli| Resources { cpu_milli, ..Resources::default() };
        let (one, two) = ("1".into(), "2".into());
        assert_eq!(daemons.set(&one, Some(("n".to_owned(), takes(100)))), ["n"]);
        assert_eq!(daemons.set(&one, Some(("n".to_owned(), takes(100)))), [""; 0], "nothing new");
        assert_eq!(daemons.set(&two, Some(("n".to_owned(), takes(50)))), ["n"]);
        assert_eq!(daemons.on("n"), takes(150));
        assert_eq!(daemons.set(&one, None), ["n"]);
        assert_eq!((daemons.on("n"), daemons.on("m")), (takes(50), takes(0)));
    }
}
