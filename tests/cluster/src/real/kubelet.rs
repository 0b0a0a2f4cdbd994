//! The configuration of a node's kubelet and kube-proxy.

use std::{net::Ipv4Addr, path::Path};

use serde_json::{Value, json};

use super::{CLUSTER_DNS, lan::NodeAddresses};
use crate::pki::Identity;

/// The names a kubelet's configuration needs to know.
#[derive(Clone, Copy, Debug)]
pub(super) struct KubeletSettings<'a> {
    /// The node's directory.
    pub(super) dir: &'a Path,
    pub(super) addresses: NodeAddresses,
    pub(super) cgroup_root: &'a str,
    pub(super) containerd_socket: &'a Path,
    /// Used as server and, through the client configuration, as client.
    pub(super) identity: &'a Identity,
    pub(super) client_authority: &'a Path,
}

/// The kubelet's configuration file (JSON is YAML).
pub(super) fn kubelet(settings: KubeletSettings<'_>) -> Value {
    let KubeletSettings { dir, addresses, cgroup_root, containerd_socket, identity, client_authority } =
        settings;
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "failCgroupV1": false,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup_root,
        "containerRuntimeEndpoint": format!("unix://{}", containerd_socket.display()),
        "address": addresses.node,
        "tlsCertFile": identity.certificate,
        "tlsPrivateKeyFile": identity.key,
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": client_authority },
        },
        "authorization": { "mode": "Webhook" },
        "clusterDomain": "cluster.local",
        "clusterDNS": [CLUSTER_DNS],
        // Nothing of the machine's resolver is of use inside.
        "resolvConf": "",
        "podLogsDir": dir.join("pod-logs"),
        // Only host ports would need them.
        "makeIPTablesUtilChains": false,
        "failSwapOn": false,
        // Renewed four times as often: a busy machine may miss many renewals before the controller manager gives up on
        // the node.
        "nodeLeaseDurationSeconds": 8,
        "nodeStatusUpdateFrequency": "2s",
        "nodeStatusReportFrequency": "1m",
        // A pod that takes more of the disk than it may is found out in seconds, not after a minute.
        "volumeStatsAggPeriod": "5s",
        // Imported images cannot be pulled again, and the disk is the machine's, whose owner decides how full it is.
        "imageGCHighThresholdPercent": 100,
        "evictionHard": { "memory.available": "100Mi", "nodefs.available": "1%", "imagefs.available": "1%" },
    })
}

/// kube-proxy's configuration file.
pub(super) fn proxy(node: &str, kubeconfig: &Path, pods: &str) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": { "kubeconfig": kubeconfig },
        "clusterCIDR": pods,
        "hostnameOverride": node,
        "healthzBindAddress": format!("{}:10256", Ipv4Addr::LOCALHOST),
        "metricsBindAddress": format!("{}:10249", Ipv4Addr::LOCALHOST),
        // These are the machine's, and it has its own.
        "conntrack": { "maxPerCore": 0, "min": 0 },
    })
}
