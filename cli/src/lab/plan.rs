//! What a lab consists of: the names and addresses of its nodes and pods, from a few numbers.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;
use model::translate::interface_name;
use serde::{Deserialize, Serialize};
use sha1::{Digest as _, Sha1};

/// How many labs find an address range at the same time.
pub(crate) const SLOTS: u8 = 16;
/// The most nodes of a lab: each has an address in a /24.
pub(crate) const MAX_NODES: u8 = 100;
/// The most pods of a node: they share a block of 64 addresses with the tunnel.
pub(crate) const MAX_PODS: u8 = 60;

/// The pool of pod addresses. It lies inside the lab's namespaces, so that every lab can have the same.
pub(crate) const POOL_V4: &str = "10.244.0.0/16";
/// The pool of IPv6 pod addresses.
pub(crate) const POOL_V6: &str = "fd62:756c:7275:f400::/64";
/// How many addresses a block has, in both families.
pub(crate) const BLOCK_SIZE: u8 = 64;

/// How pods of different nodes reach each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
#[value(rename_all = "lower")]
pub(crate) enum Encap {
    /// VXLAN between all nodes, which share a subnet.
    Vxlan,
    /// Two subnets with a router between: plain routes inside, VXLAN across.
    CrossSubnet,
    /// Plain routes between all nodes, which share a subnet.
    None,
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) nodes: u8,
    /// Pods of each node.
    pub(crate) pods: u8,
    pub(crate) encap: Encap,
    /// Whether pods and nodes have IPv6 beside IPv4.
    pub(crate) ipv6: bool,
}

/// A whole lab. Addresses, blocks and the like are lists with IPv4 first and IPv6, if any, second.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Plan {
    /// Its name, which its namespaces begin with.
    pub(crate) name: String,
    pub(crate) encap: Encap,
    pub(crate) ipv6: bool,
    /// All addresses of hosts, nodes and routers, routed by the host into the lab.
    pub(crate) range: IpNet,
    /// The host's address on its link into the lab.
    pub(crate) host: IpNet,
    /// The router's address on that link.
    pub(crate) router: IpNet,
    pub(crate) subnets: Vec<Subnet>,
    pub(crate) nodes: Vec<Node>,
}

/// A bridge, with nodes on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Subnet {
    /// The bridge's name.
    pub(crate) bridge: String,
    /// The router's addresses, which are the bridge's.
    pub(crate) router: Vec<IpNet>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Node {
    pub(crate) name: String,
    pub(crate) netns: String,
    /// Its subnet's place in [`Plan::subnets`].
    pub(crate) subnet: usize,
    pub(crate) addresses: Vec<IpNet>,
    pub(crate) blocks: Vec<Block>,
    pub(crate) pods: Vec<Pod>,
}

/// A node's block of addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Block {
    pub(crate) cidr: IpNet,
    /// The address of the node's VXLAN device.
    pub(crate) tunnel: Option<IpAddr>,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pod {
    pub(crate) namespace: String,
    pub(crate) name: String,
    /// The label `role`: every node and every namespace has both of them.
    pub(crate) role: String,
    pub(crate) netns: String,
    /// Its interface on the node.
    pub(crate) interface: String,
    /// The hardware address of its `eth0`.
    pub(crate) mac: String,
    pub(crate) addresses: Vec<IpAddr>,
    /// What a container runtime would call it.
    pub(crate) container: String,
}

impl Pod {
    /// `namespace/name`.
    pub(crate) fn path(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }
}

impl fmt::Display for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl Plan {
    /// A lab of this shape in address range `slot`, which is less than [`SLOTS`]. `seed` makes its identifiers
    /// different from any other lab's.
    pub(crate) fn new(name: &str, slot: u8, shape: Shape, seed: &str) -> Self {
        // RFC 2544 sets 198.18.0.0/15 aside for tests: no network that the host is on should have it.
        let third = slot * 16;
        let v4 = |third: u8, last: u8| IpAddr::V4(Ipv4Addr::new(198, 18, third, last));
        let v6 = |subnet: u8, last: u16| {
            let group = u16::from_be_bytes([slot, subnet]);
            IpAddr::V6(Ipv6Addr::new(0xfd62, 0x756c, 0x7275, group, 0, 0, 0, last))
        };
        let both = |subnet: u8, last: u8| {
            let v4 = net(v4(third + subnet, last), 24);
            let v6 = shape.ipv6.then(|| net(v6(subnet, u16::from(last)), 64));
            std::iter::once(v4).chain(v6).collect::<Vec<_>>()
        };
        let subnets = match shape.encap {
            Encap::CrossSubnet => 2,
            Encap::Vxlan | Encap::None => 1,
        };
        // The first subnet gets the odd one, so that three nodes show both kinds of neighbours.
        let per_subnet = shape.nodes.div_ceil(subnets);
        let nodes = (1..=shape.nodes).map(|number| {
            let subnet = (number - 1) / per_subnet;
            let blocks = blocks(number, shape);
            Node {
                name: format!("node-{number}"),
                netns: format!("{name}-node-{number}"),
                subnet: usize::from(subnet),
                addresses: both(subnet + 1, number),
                pods: (1..=shape.pods)
                    .map(|index| pod(name, number, index, shape, &blocks, seed))
                    .collect(),
                blocks,
            }
        });
        Self {
            name: name.to_owned(),
            encap: shape.encap,
            ipv6: shape.ipv6,
            range: net(v4(third, 0), 20),
            host: net(v4(third, 1), 24),
            router: net(v4(third, 254), 24),
            nodes: nodes.collect(),
            subnets: (1..=subnets)
                .map(|number| Subnet {
                    bridge: format!("subnet{number}"),
                    router: both(number, 254),
                })
                .collect(),
        }
    }

    /// The namespace with the bridges and the router.
    pub(crate) fn router_netns(&self) -> String {
        format!("{}-net", self.name)
    }

    /// The host's end of its link into the lab.
    pub(crate) fn host_link(&self) -> String {
        format!("{}-host", self.name)
    }

    /// Every pod.
    pub(crate) fn pods(&self) -> impl Iterator<Item = &Pod> {
        self.nodes.iter().flat_map(|node| &node.pods)
    }

    /// Every network namespace of the lab.
    pub(crate) fn namespaces(&self) -> Vec<String> {
        let nodes = self.nodes.iter().map(|node| node.netns.clone());
        let pods = self.pods().map(|pod| pod.netns.clone());
        std::iter::once(self.router_netns()).chain(nodes).chain(pods).collect()
    }

    /// The namespace of a node (`node-1`) or a pod (`pod-1-1` or `red/pod-1-1`).
    pub(crate) fn namespace_of(&self, name: &str) -> Option<&str> {
        let node = self.nodes.iter().find(|node| node.name == name).map(|node| &node.netns);
        let pod = || self.pods().find(|pod| pod.name == name || pod.path() == name);
        node.or_else(|| pod().map(|pod| &pod.netns)).map(String::as_str)
    }

    /// The MTU of pods: what is left of a link's 1500 bytes beside VXLAN's headers.
    pub(crate) fn pod_mtu(&self) -> u16 {
        match (self.encap, self.ipv6) {
            (Encap::None, _) => 1500,
            (_, false) => 1450,
            (_, true) => 1430,
        }
    }
}

fn blocks(node: u8, shape: Shape) -> Vec<Block> {
    let block = |pool: &str, length: u8| {
        let index = u128::from(node - 1) * u128::from(BLOCK_SIZE);
        #[allow(
            clippy::expect_used,
            reason = "the constants above are networks; a unit test reads both"
        )]
        let pool: IpNet = pool.parse().expect("a network");
        let first = nth(pool.network(), index);
        let tunnel = (shape.encap != Encap::None).then_some(first);
        Block { cidr: net(first, length), tunnel }
    };
    let v6 = shape.ipv6.then(|| block(POOL_V6, 122));
    std::iter::once(block(POOL_V4, 26)).chain(v6).collect()
}

fn pod(lab: &str, node: u8, index: u8, shape: Shape, blocks: &[Block], seed: &str) -> Pod {
    let namespace = match (shape.pods, index % 2) {
        (1, _) => "default",
        (_, 1) => "red",
        _ => "blue",
    };
    let name = format!("pod-{node}-{index}");
    // The block's first address is for the tunnel, if there is one.
    let address = |block: &Block| nth(block.cidr.network(), u128::from(index));
    Pod {
        namespace: namespace.to_owned(),
        role: if (node + index).is_multiple_of(2) { "server" } else { "client" }.to_owned(),
        netns: format!("{lab}-{name}"),
        interface: interface_name(namespace, &name),
        // Locally administered; no two interfaces of a lab share one.
        mac: format!("02:00:00:00:{node:02x}:{index:02x}"),
        addresses: blocks.iter().map(address).collect(),
        container: sha1(&format!("{seed} container {namespace}/{name}")),
        name,
    }
}

/// SHA-1 in hexadecimal digits.
pub(crate) fn sha1(text: &str) -> String {
    format!("{:x}", Sha1::digest(text))
}

/// `length` fits the family: every caller names a constant.
#[allow(
    clippy::expect_used,
    reason = "24, 20, 26 for IPv4 and 64, 122 for IPv6 are lengths of prefixes"
)]
fn net(address: IpAddr, length: u8) -> IpNet {
    IpNet::new(address, length).expect("a prefix length of the family")
}

fn nth(first: IpAddr, offset: u128) -> IpAddr {
    match first {
        IpAddr::V4(address) => IpAddr::V4(Ipv4Addr::from_bits(address.to_bits() + offset as u32)),
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() + offset)),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn every_shape() -> impl Iterator<Item = Shape> {
        [Encap::Vxlan, Encap::CrossSubnet, Encap::None].into_iter().flat_map(|encap| {
            [(1, 1), (2, 1), (3, 2), (MAX_NODES, MAX_PODS)].into_iter().flat_map(
                move |(nodes, pods)| [false, true].map(|ipv6| Shape { nodes, pods, encap, ipv6 }),
            )
        })
    }

    #[test]
    fn no_two_things_share_an_address_a_name_or_a_hardware_address() {
        for shape in every_shape() {
            let plan = Plan::new("lab", SLOTS - 1, shape, "seed");
            let mut addresses = vec![plan.host.addr(), plan.router.addr()];
            addresses
                .extend(plan.subnets.iter().flat_map(|subnet| &subnet.router).map(IpNet::addr));
            addresses.extend(plan.nodes.iter().flat_map(|node| &node.addresses).map(IpNet::addr));
            addresses
                .extend(plan.nodes.iter().flat_map(|node| &node.blocks).filter_map(|b| b.tunnel));
            addresses.extend(plan.pods().flat_map(|pod| pod.addresses.clone()));
            let different: BTreeSet<_> = addresses.iter().collect();
            assert_eq!(different.len(), addresses.len(), "{shape:?}");

            let pods = usize::from(shape.nodes) * usize::from(shape.pods);
            assert_eq!(plan.pods().map(|pod| &pod.mac).collect::<BTreeSet<_>>().len(), pods);
            assert_eq!(plan.pods().map(|pod| &pod.interface).collect::<BTreeSet<_>>().len(), pods);
            let namespaces = plan.namespaces();
            assert_eq!(namespaces.iter().collect::<BTreeSet<_>>().len(), namespaces.len());
            assert_eq!(namespaces.len(), 1 + usize::from(shape.nodes) + pods);
        }
    }

    #[test]
    fn every_address_lies_where_it_belongs() {
        for shape in every_shape() {
            let plan = Plan::new("lab", 3, shape, "seed");
            let pools: Vec<IpNet> =
                [POOL_V4, POOL_V6].map(|pool| pool.parse().expect("a pool")).into();
            for node in &plan.nodes {
                let families = if shape.ipv6 { 2 } else { 1 };
                assert_eq!(node.addresses.len(), families);
                assert_eq!(node.blocks.len(), families);
                assert!(plan.range.contains(&node.addresses[0]));
                for (address, router) in
                    node.addresses.iter().zip(&plan.subnets[node.subnet].router)
                {
                    assert_eq!(address.network(), router.network(), "{}", node.name);
                }
                for (family, block) in node.blocks.iter().enumerate() {
                    assert!(pools[family].contains(&block.cidr));
                    assert_eq!(block.cidr.addr(), block.cidr.network());
                    assert_eq!(block.tunnel.is_some(), shape.encap != Encap::None);
                    let inside = |address: IpAddr| block.cidr.contains(&address);
                    assert!(block.tunnel.is_none_or(inside));
                    assert!(node.pods.iter().all(|pod| inside(pod.addresses[family])));
                }
            }
        }
    }

    #[test]
    fn names_are_calicos_and_roles_cross_nodes_and_namespaces() {
        let shape = Shape { nodes: 3, pods: 2, encap: Encap::Vxlan, ipv6: false };
        let plan = Plan::new("lab", 0, shape, "seed");
        let pods: Vec<(String, &str)> =
            plan.pods().map(|pod| (pod.path(), pod.role.as_str())).collect();
        assert_eq!(
            pods,
            [
                ("red/pod-1-1".to_owned(), "server"),
                ("blue/pod-1-2".to_owned(), "client"),
                ("red/pod-2-1".to_owned(), "client"),
                ("blue/pod-2-2".to_owned(), "server"),
                ("red/pod-3-1".to_owned(), "server"),
                ("blue/pod-3-2".to_owned(), "client"),
            ]
        );
        // What Calico itself calls the interface of the pod `web` in `default`.
        assert_eq!(interface_name("default", "web"), "cali68caf03a5f4");
        assert_eq!(plan.namespace_of("node-2"), Some("lab-node-2"));
        assert_eq!(plan.namespace_of("pod-2-1"), Some("lab-pod-2-1"));
        assert_eq!(plan.namespace_of("red/pod-2-1"), Some("lab-pod-2-1"));
        assert_eq!(plan.namespace_of("blue/pod-2-1"), None);
    }

    #[test]
    fn three_nodes_across_two_subnets_are_two_and_one() {
        let shape = Shape { nodes: 3, pods: 1, encap: Encap::CrossSubnet, ipv6: false };
        let plan = Plan::new("lab", 0, shape, "seed");
        let addresses: Vec<String> =
            plan.nodes.iter().map(|node| node.addresses[0].to_string()).collect();
        assert_eq!(addresses, ["198.18.1.1/24", "198.18.1.2/24", "198.18.2.3/24"]);
    }
}
