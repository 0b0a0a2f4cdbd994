//! The network policies of an isolated tenant. Pure.
//!
//! Policies only ever add to what is allowed, so the address of the cloud's metadata service is closed by construction:
//! everything is denied, and nothing that is allowed holds it. What a batch job needs is left: DNS, and the way out to
//! public addresses (data, package indexes, APIs). What is not the public internet stays closed: other tenants' pods, the
//! nodes, the API server and the metadata service live there, whatever the notation of the address.
//!
//! Sources: the registries of special-purpose addresses of the IANA
//! (<https://www.iana.org/assignments/iana-ipv4-special-registry>, <https://www.iana.org/assignments/iana-ipv6-special-registry>),
//! that of the IPv6 address space (<https://www.iana.org/assignments/ipv6-address-space>), and what clouds document of
//! themselves. What a registry has as globally reachable stays open, but for what holds addresses of IPv4.

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

/// IPv4 ranges that are not the public internet.
const CLOSED_V4: [&str; 16] = [
    // "This network" (RFC 791): Linux takes 0.0.0.0 for the host itself.
    "0.0.0.0/8",
    // Private use (RFC 1918), with 172.16.0.0/12 and 192.168.0.0/16.
    "10.0.0.0/8",
    // Shared address space (RFC 6598): pods and nodes of many clouds; the metadata service of Alibaba, 100.100.100.200.
    "100.64.0.0/10",
    // Loopback (RFC 1122).
    "127.0.0.0/8",
    // The platform's channel to each machine of Azure, a public address that reaches only the host:
    // https://learn.microsoft.com/azure/virtual-network/what-is-ip-address-168-63-129-16
    "168.63.129.16/32",
    // Link-local (RFC 3927): the metadata service of most clouds, 169.254.169.254.
    "169.254.0.0/16",
    "172.16.0.0/12",
    // IETF protocol assignments (RFC 6890); the metadata service of Oracle's classic cloud, 192.0.0.192.
    "192.0.0.0/24",
    // Documentation (RFC 5737), with 198.51.100.0/24 and 203.0.113.0/24.
    "192.0.2.0/24",
    // 6to4 relays (RFC 7526).
    "192.88.99.0/24",
    "192.168.0.0/16",
    // Benchmarks of networks (RFC 2544).
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    // Multicast (RFC 5771).
    "224.0.0.0/4",
    // Reserved (RFC 1112), which some networks use as private addresses; and the broadcast address.
    "240.0.0.0/4",
];
/// All that was assigned to be the public internet (RFC 4291): without 64:ff9b::/96 and 64:ff9b:1::/48 (RFC 6052, RFC 8215)
/// and ::ffff:0:0/96, which hold all of IPv4; ::1, 100::/64, 5f00::/16, fc00::/7 with fd00:ec2::254, fe80::/10, fec0::/10 and
/// ff00::/8.
const OPEN_V6: &str = "2000::/3";
/// IPv6 ranges in it that are not the public internet.
const CLOSED_V6: [&str; 4] = [
    // IETF protocol assignments (RFC 2928), with Teredo (RFC 4380), which holds IPv4 addresses.
    "2001::/23",
    // Documentation (RFC 3849), with 3fff::/20 (RFC 9637).
    "2001:db8::/32",
    // 6to4 (RFC 3056), which holds all of IPv4.
    "2002::/16",
    "3fff::/20",
];

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
    let to = vec![block("0.0.0.0/0", &CLOSED_V4), block(OPEN_V6, &CLOSED_V6)];
    NetworkPolicyEgressRule { ports: None, to: Some(to) }
}

#[cfg(test)]
mod tests {
    use std::net::IpAddr;

    use super::*;

    /// A range in CIDR notation, as its first address and the length of its prefix.
    fn parts(range: &str) -> (IpAddr, u32) {
        let (address, length) = range.split_once('/').unwrap();
        (address.parse().unwrap(), length.parse().unwrap())
    }

    fn contains(range: &str, address: IpAddr) -> bool {
        let same = |first: u128, address: u128, host: u32| first >> host == address >> host;
        match (parts(range), address) {
            ((IpAddr::V4(first), length), IpAddr::V4(address)) => {
                same(first.to_bits().into(), address.to_bits().into(), 32 - length)
            }
            ((IpAddr::V6(first), length), IpAddr::V6(address)) => {
                same(first.to_bits(), address.to_bits(), 128 - length)
            }
            _ => false,
        }
    }

    /// Whether a pod of an isolated tenant reaches an address outside of kube-system.
    fn reaches(address: &str) -> bool {
        let owner = Owner { name: "acme".into(), uid: "u-1".into(), namespace: "tenant-acme".into() };
        let address: IpAddr = address.parse().unwrap();
        let rules = policies(&owner, NetworkIsolation::Isolated).into_iter().filter_map(|policy| policy.spec);
        let peers = rules.flat_map(|spec| spec.egress.unwrap()).flat_map(|rule| rule.to.unwrap());
        peers.filter_map(|peer| peer.ip_block).any(|block| {
            let excepted = block.except.into_iter().flatten().any(|range| contains(&range, address));
            contains(&block.cidr, address) && !excepted
        })
    }

    #[test]
    fn nothing_but_the_public_internet_is_reached() {
        for closed in [
            // The metadata services of clouds, and what is theirs besides.
            "169.254.169.254",
            "169.254.170.2",
            "168.63.129.16",
            "100.100.100.200",
            "192.0.0.192",
            "fd00:ec2::254",
            "fd20:ce::254",
            "fe80::a9fe:a9fe",
            // The first of them in all forms of IPv6 that hold an IPv4 address.
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "::ffff:0:169.254.169.254",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1::169.254.169.254",
            "2002:a9fe:a9fe::1",
            "2001:0:a9fe:a9fe::1",
            "fe80::5efe:169.254.169.254",
            // Both ends of each entry of the registries that is not globally reachable.
            "0.0.0.0",
            "0.255.255.255",
            "10.0.0.0",
            "10.255.255.255",
            "100.64.0.0",
            "100.127.255.255",
            "127.0.0.0",
            "127.255.255.255",
            "169.254.0.0",
            "169.254.255.255",
            "172.16.0.0",
            "172.31.255.255",
            "192.0.0.0",
            "192.0.0.255",
            "192.0.2.0",
            "192.0.2.255",
            "192.88.99.0",
            "192.88.99.255",
            "192.168.0.0",
            "192.168.255.255",
            "198.18.0.0",
            "198.19.255.255",
            "198.51.100.0",
            "198.51.100.255",
            "203.0.113.0",
            "203.0.113.255",
            "224.0.0.0",
            "239.255.255.255",
            "240.0.0.0",
            "255.255.255.254",
            "255.255.255.255",
            "::",
            "::1",
            "100::",
            "100:0:0:1:ffff:ffff:ffff:ffff",
            "64:ff9b::",
            "64:ff9b:1:ffff:ffff:ffff:ffff:ffff",
            "2001::",
            "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff",
            "2001:db8::",
            "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff",
            "2002::",
            "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "3fff::",
            "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff",
            "5f00::1",
            "fc00::",
            "fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff",
            "fe80::",
            "fec0::1",
            "ff02::1",
        ] {
            assert!(!reaches(closed), "{closed}");
        }
        // What is next to them, and public services.
        for open in [
            "1.0.0.0",
            "8.8.8.8",
            "9.255.255.255",
            "11.0.0.0",
            "100.63.255.255",
            "100.128.0.0",
            "126.255.255.255",
            "128.0.0.0",
            "168.63.129.15",
            "168.63.129.17",
            "169.253.255.255",
            "169.255.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "191.255.255.255",
            "192.0.1.0",
            "192.0.3.0",
            "192.88.98.255",
            "192.88.100.0",
            "192.167.255.255",
            "192.169.0.0",
            "198.17.255.255",
            "198.20.0.0",
            "198.51.99.255",
            "198.51.101.0",
            "203.0.112.255",
            "203.0.114.0",
            "223.255.255.255",
            "2001:200::",
            "2001:4860:4860::8888",
            "2001:db7:ffff:ffff:ffff:ffff:ffff:ffff",
            "2001:db9::",
            "2003::",
            "2606:4700:4700::1111",
            "3ffe:ffff::",
        ] {
            assert!(reaches(open), "{open}");
        }
    }

    /// The API server refuses a block whose exceptions are not inside it, or are no network.
    #[test]
    fn every_range_is_a_network_inside_its_block() {
        for (block, ranges) in [("0.0.0.0/0", CLOSED_V4.as_slice()), (OPEN_V6, &CLOSED_V6)] {
            for range in ranges {
                let (first, length) = parts(range);
                assert!(contains(block, first) && length > parts(block).1, "{range} in {block}");
                let host = match first {
                    IpAddr::V4(first) => first.to_bits().trailing_zeros() + length >= 32,
                    IpAddr::V6(first) => first.to_bits().trailing_zeros() + length >= 128,
                };
                assert!(host, "{range} has bits after its prefix");
            }
        }
    }
}
