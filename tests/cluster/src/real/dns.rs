//! The cluster's DNS: one CoreDNS on the host side of the bridge, behind the usual service `kube-system/kube-dns`.
//!
//! It is a process and not a pod, so that it runs before the first pod, outlives every node that a test takes
//! away, uses nothing of the nodes' capacity, and never lands on a node that only pretends to run pods.

use std::{fs, net::SocketAddr, path::Path, time::Duration};

use serde_json::{Value, json};

use super::{CLUSTER_DNS, ControlPlane, Error, lan::Lan, wait_for};
use crate::{pki::Credentials, process::Process};

const USER: &str = "system:coredns";

/// Starts the server and makes it known to the cluster.
pub(super) fn start(lan: &Lan, plane: &ControlPlane<'_>) -> Result<Process, Error> {
    let layout = plane.layout;
    plane.apply(&objects(lan))?;

    let kubeconfig = layout.kubeconfigs().join("coredns");
    let identity = plane.pki.issue("coredns", USER, &[], &[])?;
    plane.pki.write_kubeconfig(&kubeconfig, plane.api_url, &Credentials::Certificate(&identity))?;
    let corefile = layout.nodes().join("Corefile");
    fs::write(&corefile, config(lan, &kubeconfig))
        .map_err(|source| Error::File { path: corefile.clone(), source })?;

    let mut command = lan.inside(layout, &plane.tools.path("coredns")?);
    command.arg("-conf").arg(&corefile);
    let mut server = Process::start(layout, "coredns", command)?;
    let address = SocketAddr::from((lan.dns_ip(), 53));
    // It listens once it has read the services and their endpoints.
    wait_for(&mut server, Duration::from_secs(30), || {
        std::net::TcpStream::connect_timeout(&address, Duration::from_millis(200)).is_ok()
    })?;
    Ok(server)
}

fn config(lan: &Lan, kubeconfig: &Path) -> String {
    format!(
        ".:53 {{
  bind {}
  errors
  kubernetes cluster.local in-addr.arpa {{
    kubeconfig {}
    pods insecure
    ttl 5
  }}
  cache 5
}}
",
        lan.dns_ip(),
        kubeconfig.display()
    )
}

fn objects(lan: &Lan) -> Value {
    let name = json!({ "name": USER });
    let service = json!({ "name": "kube-dns", "namespace": "kube-system" });
    let ports = json!([
        { "name": "dns", "port": 53, "protocol": "UDP" },
        { "name": "dns-tcp", "port": 53, "protocol": "TCP" },
    ]);
    let slice = json!({
        "name": "kube-dns", "namespace": "kube-system",
        "labels": {
            "kubernetes.io/service-name": "kube-dns",
            "endpointslice.kubernetes.io/managed-by": "crofter-test-cluster",
        },
    });
    json!({ "apiVersion": "v1", "kind": "List", "items": [
        {
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole", "metadata": name,
            "rules": [
                {
                    "apiGroups": [""], "verbs": ["list", "watch"],
                    "resources": ["services", "pods", "namespaces"],
                },
                { "apiGroups": ["discovery.k8s.io"], "verbs": ["list", "watch"], "resources": ["endpointslices"] },
            ],
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRoleBinding", "metadata": name,
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": USER },
            "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": USER }],
        },
        {
            "apiVersion": "v1", "kind": "Service", "metadata": service,
            "spec": { "clusterIP": CLUSTER_DNS, "ports": ports },
        },
        {
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": slice,
            "addressType": "IPv4",
            "endpoints": [{ "addresses": [lan.dns_ip()] }],
            "ports": ports,
        },
    ]})
}
