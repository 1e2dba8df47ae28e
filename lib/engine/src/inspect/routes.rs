//! Where addresses live, as one node sees it: all that is known along the way to each CIDR.
//!
//! The routes that nodes get (`routes.rs`) are a part of it: here are also the pools, the nodes' own
//! addresses, the node's own workloads, and which kinds of things an address is at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use arcstr::ArcStr;
use ipnet::IpNet;
use model::{
    Stored,
    kinds::{Affinity, IPPool, Node, Resource, Spec, parse_net},
    view::EncapMode,
};
use serde_json::Value;

use crate::{Engine, netmap::NetMap};

/// What says where workloads are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteSource {
    /// The blocks of the address management, and the node's own endpoints.
    Blocks,
    /// The endpoints of all nodes.
    Endpoints,
}

/// What a CIDR is, seen from a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "each variant is what it is called")]
pub enum Along {
    RemoteWorkload,
    RemoteHost,
    LocalWorkload,
    LocalHost,
    RemoteTunnel,
    LocalTunnel,
}

/// The tunnels whose device has an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "each field is a kind of tunnel")]
pub struct Tunnels {
    pub ipip: bool,
    pub vxlan: bool,
    pub wireguard: bool,
}

/// All that is known about a CIDR.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "they are independent facts about a range")]
pub struct RouteLine {
    /// Nothing but a pool where it is empty.
    pub along: BTreeSet<Along>,
    /// The innermost pool around it: with VXLAN, with IPIP, with neither; none: there is no pool.
    pub pool: Option<(EncapMode, EncapMode)>,
    /// A pool around it has its packets masqueraded.
    pub nat_outgoing: bool,
    /// The node that has it; empty: none is known.
    pub node: ArcStr,
    /// That node's address of the CIDR's family.
    pub node_address: Option<IpAddr>,
    /// A pool around it says that it depends on the subnet, and the node is in ours.
    pub same_subnet: bool,
    /// An endpoint of this node has it.
    pub local_workload: bool,
    /// It lives on another node than the block around it.
    pub borrowed: bool,
    /// The address of a tunnel device.
    pub tunnels: Option<Tunnels>,
}

/// Whose an address is: of several the first counts. By node, then by kind.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ref {
    node: ArcStr,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum What {
    Workload,
    Wireguard,
    Ipip,
    Vxlan,
}

#[derive(Default)]
struct Info {
    pool: Option<IPPool>,
    block: Option<ArcStr>,
    hosts: BTreeSet<ArcStr>,
    refs: BTreeSet<Ref>,
}

impl Info {
    /// The tunnels of a node that have this address.
    fn tunnels(&self, node: &ArcStr) -> Tunnels {
        let has = |what: What| self.refs.contains(&Ref { node: node.clone(), what });
        Tunnels { ipip: has(What::Ipip), vxlan: has(What::Vxlan), wireguard: has(What::Wireguard) }
    }
}

/// A node's addresses, as routes need them.
#[derive(Default)]
struct NodeInfo {
    v4: Option<IpNet>,
    v6: Option<IpNet>,
}

impl NodeInfo {
    fn address(&self, v6: bool) -> Option<IpNet> {
        if v6 { self.v6 } else { self.v4 }
    }
}

#[derive(Default)]
struct Table {
    infos: NetMap<Info>,
    nodes: BTreeMap<ArcStr, NodeInfo>,
}

/// All CIDRs that are anything, seen from a node.
pub fn route_lines(engine: &Engine, node: &str, source: RouteSource) -> BTreeMap<IpNet, RouteLine> {
    let mut table = Table::default();
    let mut pools = BTreeMap::new();
    for (key, stored) in engine.objects() {
        let Some(Resource { spec, .. }) = engine.read(key) else { continue };
        match spec {
            // Of two with one range the first by name counts, whatever it is for: they come in
            // that order.
            Spec::IPPool(pool) => {
                pools.entry(pool.cidr).or_insert(pool);
            }
            Spec::Node(read) => table.add_node(&key.name, &read, stored),
            Spec::IPAMBlock(block) if source == RouteSource::Blocks => {
                // What isn't a node, such as the load balancer, has its blocks like one, in Calico.
                let owner = block.affinity.clone().map(|affinity| match affinity {
                    Affinity::Host(name) | Affinity::Virtual(name) => name,
                });
                for (address, holder) in block.holders() {
                    if !holder.node.is_empty() && Some(&holder.node) != owner.as_ref() {
                        let at = table.infos.get_or_default(IpNet::from(address));
                        at.block = Some(holder.node.clone());
                    }
                }
                if let Some(owner) = owner {
                    table.infos.get_or_default(block.cidr).block = Some(owner);
                }
            }
            Spec::WorkloadEndpoint(endpoint)
                if source == RouteSource::Endpoints || endpoint.id.node == node =>
            {
                for net in &endpoint.addresses {
                    let node = endpoint.id.node.clone();
                    table.add_ref(*net, Ref { node, what: What::Workload });
                }
            }
            _ => {}
        }
    }
    for (cidr, pool) in pools {
        if !pool.is_load_balancer_only() {
            table.infos.get_or_default(cidr).pool = Some(pool);
        }
    }
    let single = |cidr: &IpNet| cidr.prefix_len() == cidr.max_prefix_len();
    let cidrs = table.infos.iter().map(|(cidr, _)| *cidr);
    // No address is an empty one.
    let cidrs = cidrs.filter(|cidr| !(single(cidr) && cidr.addr().is_unspecified()));
    let cidrs = cidrs.collect::<Vec<_>>();
    cidrs.into_iter().map(|cidr| (cidr, table.line(cidr, node))).collect()
}

impl Table {
    fn add_ref(&mut self, net: IpNet, held: Ref) {
        self.infos.get_or_default(net).refs.insert(held);
    }

    fn add_node(&mut self, name: &ArcStr, node: &Node, stored: &Stored) {
        let of_family =
            |nets: &[IpNet], v6: bool| nets.iter().find(|it| it.addr().is_ipv6() == v6).copied();
        let by_list =
            |v6: bool| of_family(&node.internal, v6).or_else(|| of_family(&node.external, v6));
        let mut info = NodeInfo { v4: node.bgp_ipv4, v6: node.bgp_ipv6 };
        if info.v4.is_none() && info.v6.is_none() {
            info = NodeInfo { v4: by_list(false), v6: by_list(true) };
        }
        if info.v4.is_none() && info.v6.is_none() {
            return;
        }
        let own = [info.v4, info.v6].into_iter().flatten().map(|net| net.addr());
        let listed = listed_addresses(stored);
        for address in own.chain(listed).collect::<BTreeSet<_>>() {
            self.infos.get_or_default(IpNet::from(address)).hosts.insert(name.clone());
        }
        let tunnels = [
            (node.wireguard, What::Wireguard),
            (node.wireguard_v6, What::Wireguard),
            (node.ipip, What::Ipip),
            (node.vxlan, What::Vxlan),
            (node.vxlan_v6, What::Vxlan),
        ];
        for (address, what) in tunnels {
            if let Some(address) = address {
                self.add_ref(IpNet::from(address), Ref { node: name.clone(), what });
            }
        }
        self.nodes.insert(name.clone(), info);
    }

    fn line(&self, cidr: IpNet, own: &str) -> RouteLine {
        let mut line = RouteLine::default();
        let mut by_subnet = false;
        // Whose the block around it is.
        let mut around: Option<&ArcStr> = None;
        let enclosing = self.infos.enclosing(cidr).collect::<Vec<_>>();
        let side =
            |node: &str, local: Along, remote: Along| if node == own { local } else { remote };
        for (at, info) in enclosing.into_iter().rev() {
            if let Some(pool) = &info.pool {
                line.pool = Some((pool.vxlan, pool.ipip));
                line.nat_outgoing |= pool.nat_outgoing;
                let cross = EncapMode::CrossSubnet;
                by_subnet |= pool.ipip == cross || pool.vxlan == cross;
            }
            if let Some(owner) = &info.block {
                line.node = owner.clone();
                line.along.insert(side(owner, Along::LocalWorkload, Along::RemoteWorkload));
            }
            if let Some(host) = info.hosts.first() {
                line.node = host.clone();
                line.along = [side(host, Along::LocalHost, Along::RemoteHost)].into();
            }
            if let Some(first) = info.refs.first() {
                line.node = first.node.clone();
                if first.what == What::Workload {
                    line.local_workload = first.node == own;
                    let along = side(&first.node, Along::LocalWorkload, Along::RemoteWorkload);
                    line.along.insert(along);
                } else {
                    if info.block.is_none() && info.hosts.is_empty() {
                        line.along.clear();
                    }
                    line.along.insert(side(&first.node, Along::LocalTunnel, Along::RemoteTunnel));
                    line.tunnels = Some(info.tunnels(&first.node));
                }
            }
            if at != cidr {
                around = info.block.as_ref().or(around);
            } else if let Some(first) = info.refs.first() {
                let elsewhere = |owner: &ArcStr| *owner != first.node;
                line.borrowed =
                    around.is_some_and(elsewhere) || info.block.as_ref().is_some_and(elsewhere);
            } else if let Some(owner) = &info.block {
                line.borrowed = around.is_some_and(|around| around != owner);
            }
        }
        let v6 = cidr.addr().is_ipv6();
        let address = |node: &str| self.nodes.get(node)?.address(v6);
        line.node_address = address(&line.node).map(|net| net.addr());
        line.same_subnet = by_subnet
            && match (address(own), line.node_address) {
                // A subnet of everything says nothing.
                (Some(net), Some(other)) => net.prefix_len() > 0 && net.contains(&other),
                _ => false,
            };
        line
    }
}

/// The addresses of a node of any type.
fn listed_addresses(stored: &Stored) -> Vec<IpAddr> {
    let Stored::Json(value) = stored else { return Vec::new() };
    let addresses = value["spec"]["addresses"].as_array();
    let texts = addresses.into_iter().flatten().filter_map(|it: &Value| it["address"].as_str());
    texts.filter_map(parse_net).map(|net| net.addr()).collect()
}
