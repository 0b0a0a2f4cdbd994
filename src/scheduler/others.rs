//! What other pods than those of jobs take of a worker: daemons, and whatever else somebody runs there.
//!
//! What a DaemonSet runs on a node is there for good: it makes the node smaller. Other pods use its room while they run.

use std::{collections::HashMap, sync::Arc};

use k8s_openapi::{
    api::core::v1::{Container, Pod},
    apimachinery::pkg::api::resource::Quantity,
};
use kube::ResourceExt;

use crate::domain::{
    resources::Resources,
    worker::{milli, units},
};

/// What daemons take of nodes, by node.
#[derive(Default)]
pub(super) struct Daemons {
    by_node: HashMap<String, Resources>,
    pods: HashMap<Arc<str>, (String, Resources)>,
}

impl Daemons {
    /// What they take of a node.
    pub(super) fn on(&self, node: &str) -> Resources {
        self.by_node.get(node).copied().unwrap_or_default()
    }

    /// Sets what a daemon takes, or that it is gone; returns the nodes for which that is new.
    pub(super) fn set(&mut self, uid: &Arc<str>, place: Option<(String, Resources)>) -> Vec<String> {
        let old = match place.clone() {
            Some(place) => self.pods.insert(Arc::clone(uid), place),
            None => self.pods.remove(uid),
        };
        if old == place {
            return Vec::new();
        }
        let mut nodes = Vec::new();
        if let Some((node, takes)) = old {
            if let Some(all) = self.by_node.get_mut(&node) {
                *all = *all - takes;
            }
            nodes.push(node);
        }
        if let Some((node, takes)) = place {
            *self.by_node.entry(node.clone()).or_default() += takes;
            nodes.push(node);
        }
        nodes
    }
}

/// Whether a DaemonSet has made this pod.
pub(super) fn is_daemon(pod: &Pod) -> bool {
    pod.owner_references().iter().any(|owner| owner.kind == "DaemonSet" && owner.controller == Some(true))
}

/// Where a pod runs and what the node keeps for it, while it does: the sum over its containers, or what its largest init
/// container asks for if that is more, and its overhead (as kube-scheduler counts it).
pub(super) fn place(pod: &Pod, gpu_resource: &str) -> Option<(String, Resources)> {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    let spec = pod.spec.as_ref().filter(|_| !matches!(phase, Some("Succeeded" | "Failed")))?;
    let node = spec.node_name.as_deref().filter(|node| !node.is_empty())?;
    let requests = |container: &Container| {
        let asked = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
        amounts(|resource| asked?.get(resource), gpu_resource)
    };
    let mut all = spec.containers.iter().fold(Resources::default(), |sum, c| sum + requests(c));
    let mut largest = Resources::default();
    for init in spec.init_containers.iter().flatten() {
        if init.restart_policy.as_deref() == Some("Always") {
            all += requests(init);
        } else {
            largest = largest.max_each(&requests(init));
        }
    }
    let overhead = amounts(|resource| spec.overhead.as_ref()?.get(resource), gpu_resource);
    Some((node.to_owned(), all.max_each(&largest) + overhead))
}

fn amounts<'a>(get: impl Fn(&str) -> Option<&'a Quantity>, gpu_resource: &str) -> Resources {
    Resources {
        cpu_milli: get("cpu").and_then(milli).unwrap_or(0),
        memory_bytes: get("memory").and_then(units).unwrap_or(0),
        gpus: get(gpu_resource).and_then(units).unwrap_or(0),
        bandwidth_mbps: 0,
        ephemeral_bytes: get("ephemeral-storage").and_then(units).unwrap_or(0),
    }
}

/// Leaves of a pod what [`place`] and [`is_daemon`] read; there may be very many pods of others.
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
        let before = place(&running, "gpu");
        let expected = Resources { cpu_milli: 410, memory_bytes: 9 << 10, ..Resources::default() };
        assert_eq!(before, Some(("n".to_owned(), expected)));
        prepare(&mut running);
        assert_eq!((place(&running, "gpu"), is_daemon(&running)), (before, true), "all that is read is left");
        assert!(running.metadata.labels.is_none() && running.spec.unwrap().containers[0].image.is_none());
        assert_eq!(place(&pod(spec, "Succeeded"), "gpu"), None);
        assert_eq!(place(&pod(json!({"containers": []}), "Pending"), "gpu"), None);
    }

    #[test]
    fn daemons_come_move_and_go() {
        let mut daemons = Daemons::default();
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
