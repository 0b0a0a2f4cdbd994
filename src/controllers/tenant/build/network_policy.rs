//! The network policies of an isolated tenant. Pure.
//!
//! Policies only ever add to what is allowed, so the address of the cloud's metadata service is closed by construction:
//! everything is denied, and nothing that is allowed holds it. What a batch job needs is left: DNS, and the way out to
//! public addresses (data, package indexes, APIs). Private and link-local ranges stay closed: other tenants' pods, the
//! nodes, the API server and the metadata service live there.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::networking::v1::{
        IPBlock, NetworkPolicy, NetworkPolicyEgressRule, NetworkPolicyPeer, NetworkPolicyPort,
        NetworkPolicySpec,
    },
    apimachinery::pkg::{apis::meta::v1::LabelSelector, util::intstr::IntOrString},
};

use super::{super::validate::Owner, metadata};
use crate::api_types::tenant::NetworkIsolation;

/// IPv4 ranges that are not the public internet (RFC 1918, RFC 6598, RFC 3927 with 169.254.169.254).
const PRIVATE_V4: [&str; 5] =
    ["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "169.254.0.0/16"];
/// IPv6 ranges that are not the public internet (RFC 4193 with fd00:ec2::254, RFC 4291).
const PRIVATE_V6: [&str; 2] = ["fc00::/7", "fe80::/10"];

/// The policies of a tenant's namespace; none without isolation.
pub(super) fn policies(owner: &Owner, isolation: NetworkIsolation) -> Vec<NetworkPolicy> {
    match isolation {
        NetworkIsolation::None => Vec::new(),
        NetworkIsolation::Isolated => vec![
            policy(owner, "crofter-default-deny", &["Ingress", "Egress"], vec![]),
            policy(owner, "crofter-allow-dns", &["Egress"], vec![dns()]),
            policy(owner, "crofter-allow-internet", &["Egress"], vec![internet()]),
        ],
    }
}

/// A policy for all pods of the namespace. Empty lists are stated, so that a rule added by hand is removed.
fn policy(owner: &Owner, name: &str, types: &[&str], egress: Vec<NetworkPolicyEgressRule>) -> NetworkPolicy {
    NetworkPolicy {
        metadata: metadata(owner, name),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(LabelSelector::default()),
            policy_types: Some(types.iter().map(|t| (*t).to_owned()).collect()),
            egress: Some(egress),
            ingress: Some(vec![]),
        }),
    }
}

fn dns() -> NetworkPolicyEgressRule {
    let port = |protocol: &str| NetworkPolicyPort {
        port: Some(IntOrString::Int(53)),
        protocol: Some(protocol.to_owned()),
        end_port: None,
    };
    let system = BTreeMap::from([("kubernetes.io/metadata.name".to_owned(), "kube-system".to_owned())]);
    let peer = NetworkPolicyPeer {
        namespace_selector: Some(LabelSelector { match_labels: Some(system), match_expressions: None }),
        ..NetworkPolicyPeer::default()
    };
    NetworkPolicyEgressRule { ports: Some(vec![port("UDP"), port("TCP")]), to: Some(vec![peer]) }
}

fn internet() -> NetworkPolicyEgressRule {
    let block = |cidr: &str, except: &[&str]| NetworkPolicyPeer {
        ip_block: Some(IPBlock {
            cidr: cidr.to_owned(),
            except: Some(except.iter().map(|range| (*range).to_owned()).collect()),
        }),
        ..NetworkPolicyPeer::default()
    };
    let to = vec![block("0.0.0.0/0", &PRIVATE_V4), block("::/0", &PRIVATE_V6)];
    NetworkPolicyEgressRule { ports: None, to: Some(to) }
}
