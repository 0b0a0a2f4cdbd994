//! What a pod asks for: its effective request, as kube-scheduler counts it.
//!
//! The same sum for every pod, of a job or not: what admission added (a container, an init container, a request for the
//! whole pod, a runtime's overhead) takes room on the node like what was asked for. Where kube-scheduler counts it is
//! `PodRequests` in `k8s.io/component-helpers/resource`.

use k8s_openapi::{
    api::core::v1::{Container, Pod, PodSpec, ResourceRequirements},
    apimachinery::pkg::api::resource::Quantity as Stored,
};
use kube::ResourceExt;

use super::{
    resources::Resources,
    worker::{milli, units},
};

/// Annotation with a pod's bandwidth; the CNI bandwidth plugin reads it.
pub const BANDWIDTH_ANNOTATION: &str = "kubernetes.io/egress-bandwidth";

/// What a node keeps for a pod: the sum over its containers and sidecars, or what it needs while an init container runs
/// if that is more; a request of the whole pod in place of those of its containers; and its overhead. `gpu_resource` is
/// the extended resource that counts GPUs.
#[must_use]
pub fn of_pod(pod: &Pod, gpu_resource: &str) -> Resources {
    let bandwidth = pod.annotations().get(BANDWIDTH_ANNOTATION).map(|value| Stored(value.clone()));
    let asked = pod.spec.as_ref().map_or_else(Resources::default, |spec| of_spec(spec, gpu_resource));
    Resources {
        bandwidth_mbps: bandwidth.as_ref().and_then(units).unwrap_or(0) / 1_000_000,
        pods: 1,
        ..asked
    }
}

fn of_spec(spec: &PodSpec, gpu_resource: &str) -> Resources {
    let of = |container: &Container| requests(container.resources.as_ref(), gpu_resource);
    let containers = spec.containers.iter().fold(Resources::default(), |sum, container| sum + of(container));
    // Sidecars run from their place among the init containers to the pod's end.
    let (mut sidecars, mut starting) = (Resources::default(), Resources::default());
    for init in spec.init_containers.iter().flatten() {
        if init.restart_policy.as_deref() == Some("Always") {
            sidecars += of(init);
            starting = starting.max_each(&sidecars);
        } else {
            starting = starting.max_each(&(sidecars + of(init)));
        }
    }
    let all = (containers + sidecars).max_each(&starting);
    // Of a whole pod only CPU and memory can be asked for.
    let whole = |resource: &str| spec.resources.as_ref()?.requests.as_ref()?.get(resource);
    let all = Resources {
        cpu_milli: whole("cpu").and_then(milli).unwrap_or(all.cpu_milli),
        memory_bytes: whole("memory").and_then(units).unwrap_or(all.memory_bytes),
        ..all
    };
    all + amounts(|resource| spec.overhead.as_ref()?.get(resource), gpu_resource)
}

fn requests(resources: Option<&ResourceRequirements>, gpu_resource: &str) -> Resources {
    amounts(|resource| resources?.requests.as_ref()?.get(resource), gpu_resource)
}

fn amounts<'a>(get: impl Fn(&str) -> Option<&'a Stored>, gpu_resource: &str) -> Resources {
    Resources {
        cpu_milli: get("cpu").and_then(milli).unwrap_or(0),
        memory_bytes: get("memory").and_then(units).unwrap_or(0),
        gpus: get(gpu_resource).and_then(units).unwrap_or(0),
        ephemeral_bytes: get("ephemeral-storage").and_then(units).unwrap_or(0),
        ..Resources::default()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn container(cpu: &str, memory: &str) -> Value {
        json!({"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu, "memory": memory}}})
    }

    fn sidecar(cpu: &str, memory: &str) -> Value {
        let mut sidecar = container(cpu, memory);
        sidecar["restartPolicy"] = json!("Always");
        sidecar
    }

    fn asked(spec: &Value) -> Resources {
        let pod = json!({"metadata": {"annotations": {BANDWIDTH_ANNOTATION: "5M"}}, "spec": spec});
        of_pod(&serde_json::from_value(pod).unwrap(), "example.com/gpu")
    }

    #[test]
    fn an_injected_container_counts() {
        let job = json!({"name": "job", "image": "i", "resources": {"requests":
            {"cpu": "1500m", "memory": "1Gi", "ephemeral-storage": "3", "example.com/gpu": "2"}}});
        let plain = Resources {
            cpu_milli: 1500,
            memory_bytes: 1 << 30,
            gpus: 2,
            bandwidth_mbps: 5,
            ephemeral_bytes: 3,
            pods: 1,
        };
        assert_eq!(asked(&json!({"containers": [job]})), plain);
        let injected = json!({"containers": [container("100m", "1Ki"), job]});
        let more = Resources { cpu_milli: 1600, memory_bytes: (1 << 30) + 1024, ..plain };
        assert_eq!(asked(&injected), more);
    }

    #[test]
    fn init_containers_need_what_the_sidecars_before_them_take_as_well() {
        let first = json!({"containers": [container("100m", "1Ki"), container("200m", "2Ki")],
            "initContainers": [container("150m", "9Ki"), sidecar("100m", "1Ki")]});
        assert_eq!((asked(&first).cpu_milli, asked(&first).memory_bytes), (400, 9 << 10));
        let after = json!({"containers": [container("100m", "1Ki"), container("200m", "2Ki")],
            "initContainers": [sidecar("100m", "1Ki"), container("350m", "9Ki")]});
        assert_eq!((asked(&after).cpu_milli, asked(&after).memory_bytes), (450, 10 << 10));
    }

    #[test]
    fn a_request_of_the_whole_pod_replaces_those_of_its_containers_and_overhead_is_added() {
        let spec = json!({"containers": [container("100m", "1Ki")], "overhead": {"cpu": "10m"},
            "resources": {"requests": {"cpu": "2"}}});
        assert_eq!((asked(&spec).cpu_milli, asked(&spec).memory_bytes), (2010, 1 << 10));
    }
}
