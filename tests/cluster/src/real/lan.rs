//! The network between the machine, the real nodes and their pods.
//!
//! Every cluster has a block of addresses of its own and a bridge in a network namespace of its own; the machine is
//! connected to it by one device, whose name claims the block: the kernel gives a name once, so two clusters that
//! start at the same moment cannot take the same block, and a block is free again when the device is deleted. Nothing
//! of the bridge passes the machine's own packet filter, and the API server listens on the machine's address in the
//! block, which no other machine routes to.
//!
//! The blocks are in 198.18.0.0/15, which RFC 2544 sets aside for tests: /20 each, so 32 clusters with up to 14 nodes.

use std::{fs, net::Ipv4Addr, path::Path, process::Command};

use super::{Error, STEP_WITHIN, command, marked, namespaces};
use crate::{layout::Layout, process::Process};

const BLOCKS: u8 = 32;
const TEARDOWN: &str = include_str!("teardown.sh");

/// How many real nodes fit into a cluster.
pub const MAX_NODES: usize = 14;

/// A cluster's network. It must be there before the API server, which listens on it.
#[derive(Debug)]
pub struct Lan {
    block: u8,
    switch: Process,
}

/// The addresses of one node.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct NodeAddresses {
    /// The node's own.
    pub(super) node: Ipv4Addr,
    /// The first of the /24 of its pods.
    pub(super) pods: Ipv4Addr,
}

impl Lan {
    /// Claims a block of addresses and makes the bridge.
    ///
    /// # Errors
    /// When no block is free, or the machine does not let us make network devices.
    pub fn create(layout: &Layout) -> Result<Self, Error> {
        let undo = layout.teardown().join("10-real-nodes.sh");
        fs::write(&undo, TEARDOWN).map_err(|source| Error::File { path: undo, source })?;
        let ready = layout.nodes().join("lan-ready");
        let mut unshare = marked(layout, "unshare");
        unshare.args(["--net", "sh", "-euc"]).arg(format!(
            "ip link add br0 type bridge; ip link set br0 up; ip link set lo up; touch '{}'; exec sleep infinity",
            ready.display()
        ));
        let mut switch = Process::start(layout, "lan", unshare)?;
        super::wait_for(&mut switch, STEP_WITHIN, || ready.exists())?;
        let block = claim_block(layout, switch.pid())?;
        let lan = Self { block, switch };
        lan.connect_machine()?;
        Ok(lan)
    }

    /// The machine's address in the block.
    #[must_use]
    pub fn host_ip(&self) -> Ipv4Addr {
        address(self.block, 0, 1)
    }

    /// Where the cluster's DNS server listens.
    #[must_use]
    pub fn dns_ip(&self) -> Ipv4Addr {
        address(self.block, 0, 2)
    }

    /// All addresses of the block, for `--cluster-cidr`.
    #[must_use]
    pub fn cidr(&self) -> String {
        format!("{}/20", address(self.block, 0, 0))
    }

    /// The addresses of the node with this index.
    pub(super) fn node(&self, index: u8) -> NodeAddresses {
        NodeAddresses { node: address(self.block, 0, 11 + index), pods: address(self.block, 1 + index, 0) }
    }

    /// A command that runs where the bridge is.
    pub(super) fn inside(&self, layout: &Layout, program: &Path) -> Command {
        namespaces(layout, self.switch.pid(), &["--net"], program)
    }

    /// Plugs a node, given by a process in its network namespace, into the bridge and gives it its address.
    pub(super) fn connect_node(&self, index: u8, pid: u32) -> Result<(), Error> {
        let node = self.node(index);
        ip(
            Some(self.switch.pid()),
            &format!(
                "link add node{index} type veth peer name eth0 netns {pid}\n\
                 link set node{index} master br0 up\n\
                 route add {pods}/24 via {address} dev br0\n",
                pods = node.pods,
                address = node.node,
            ),
        )?;
        ip(
            Some(pid),
            &format!(
                "link set lo up\naddr add {address}/24 dev eth0\nlink set eth0 up\nroute add default via {gateway}\n",
                address = node.node,
                gateway = self.host_ip(),
            ),
        )?;
        ip(None, &format!("route add {}/24 via {} dev {}\n", node.pods, node.node, device(self.block)))
    }

    /// Adds a node's route to the pods of another node.
    pub(super) fn route_pods(&self, pid: u32, to: u8) -> Result<(), Error> {
        let NodeAddresses { node, pods } = self.node(to);
        ip(Some(pid), &format!("route add {pods}/24 via {node}\n"))
    }

    fn connect_machine(&self) -> Result<(), Error> {
        let Self { block, switch } = self;
        ip(
            Some(switch.pid()),
            &format!("link set machine master br0 up\naddr add {}/24 dev br0\n", self.dns_ip()),
        )?;
        let device = device(*block);
        ip(None, &format!("addr add {}/24 dev {device}\nlink set {device} up\n", self.host_ip()))
    }
}

/// Makes the machine's end of the connection in the first block that is free.
fn claim_block(layout: &Layout, switch: u32) -> Result<u8, Error> {
    for block in 0..BLOCKS {
        let device = device(block);
        let in_use = Path::new("/sys/class/net").join(&device);
        if in_use.exists() || !routes_in(block)?.is_empty() {
            continue;
        }
        // The alias is what the teardown finds the device by.
        let made = ip(
            None,
            &format!(
                "link add {device} type veth peer name machine netns {switch}\n\
                 link set {device} alias crofter-{}\n",
                layout.id()
            ),
        );
        match made {
            Ok(()) => return Ok(block),
            // Another cluster was quicker.
            Err(_) if in_use.exists() => {}
            Err(error) => return Err(error),
        }
    }
    Err(Error::NoBlock)
}

/// The machine's routes into a block: some network of its own may be there already.
fn routes_in(block: u8) -> Result<String, Error> {
    command::output(Command::new("ip").args([
        "-4",
        "route",
        "show",
        "root",
        &format!("{}/20", address(block, 0, 0)),
    ]))
}

/// Runs lines of `ip` arguments in the network namespace of a process, or in the machine's own.
fn ip(inside: Option<u32>, lines: &str) -> Result<(), Error> {
    let mut command = match inside {
        None => Command::new("ip"),
        Some(pid) => {
            let mut nsenter = Command::new("nsenter");
            nsenter.args(["--target", &pid.to_string(), "--net", "ip"]);
            nsenter
        }
    };
    command::output_of_input(command.args(["-batch", "-"]), lines)?;
    Ok(())
}

/// At most 15 bytes, which is what the kernel takes.
fn device(block: u8) -> String {
    format!("crofter{block}")
}

fn address(block: u8, subnet: u8, host: u8) -> Ipv4Addr {
    let upper = u16::from(block) * 16 + u16::from(subnet);
    let [second, third] = upper.to_be_bytes();
    Ipv4Addr::new(198, 18 + second, third, host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_do_not_overlap_and_stay_in_the_test_range() {
        assert_eq!(address(0, 0, 1), Ipv4Addr::new(198, 18, 0, 1));
        assert_eq!(address(0, 15, 255), Ipv4Addr::new(198, 18, 15, 255));
        assert_eq!(address(1, 0, 0), Ipv4Addr::new(198, 18, 16, 0));
        assert_eq!(address(BLOCKS - 1, 15, 255), Ipv4Addr::new(198, 19, 255, 255));
    }
}
