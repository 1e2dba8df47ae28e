//! Where addresses live: pools, blocks, addresses on another node than their block, tunnels.

use std::collections::{BTreeMap, BTreeSet};

use arcstr::ArcStr;
use ipnet::IpNet;
use model::{
    kinds::{Affinity, IPAMBlock, IPPool, Node},
    view::{Entry, Pool, Route, Topic},
};

use crate::{HashMap, netmap::NetMap, output::Out, planted::Planted};

/// Something that says where a CIDR lives. Of several for one CIDR the first counts: a node's own
/// address, an address in a block, a block of one address, a tunnel; then the node's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Claim {
    /// A node is reached by it: no route may lead it elsewhere.
    Host,
    /// An address on another node than its block. `borrowed`: the block has a node.
    Address { node: ArcStr, borrowed: bool },
    /// A block.
    Block { node: ArcStr },
    /// A node's tunnel device.
    Tunnel { node: ArcStr },
}

/// Everything about one CIDR.
#[derive(Default)]
struct Cidr {
    /// Claims, and how many objects make each.
    claims: BTreeMap<Claim, usize>,
    /// As in the last flush.
    published: Option<Route>,
}

/// All pools with one CIDR, by object name; the first counts.
#[derive(Default)]
struct PoolsAt {
    by_name: BTreeMap<ArcStr, IPPool>,
    published: Option<Pool>,
}

/// The state behind the topics `pools` and `routes/…`.
#[derive(Default)]
pub(crate) struct Routes {
    pools: NetMap<PoolsAt>,
    cidrs: NetMap<Cidr>,
    /// What each block claims, by the block's name.
    blocks: HashMap<ArcStr, Vec<(IpNet, Claim)>>,
    /// What each node claims for itself and its tunnels, by the node's name.
    nodes: HashMap<ArcStr, Vec<(IpNet, Claim)>>,
    pool_of: HashMap<ArcStr, IpNet>,
    dirty: BTreeSet<IpNet>,
    dirty_pools: BTreeSet<IpNet>,
}

impl Routes {
    pub(crate) fn set_pool(&mut self, name: &ArcStr, pool: Option<IPPool>) {
        if let Some(old) = self.pool_of.remove(name) {
            if let Some(at) = self.pools.get_mut(&old) {
                at.by_name.remove(name);
            }
            self.dirty_pools.insert(old);
        }
        if let Some(pool) = pool {
            let cidr = pool.cidr;
            self.pool_of.insert(name.clone(), cidr);
            self.pools.get_or_default(cidr).by_name.insert(name.clone(), pool);
            self.dirty_pools.insert(cidr);
        }
    }

    pub(crate) fn set_block(&mut self, name: &ArcStr, block: Option<&IPAMBlock>) {
        let claims = block.map(block_claims).unwrap_or_default();
        let old = if claims.is_empty() {
            self.blocks.remove(name)
        } else {
            self.blocks.insert(name.clone(), claims.clone())
        };
        self.replace(&old.unwrap_or_default(), &claims);
    }

    /// A node's own addresses and those of its tunnels; with `pod_cidrs` also its pods' ranges.
    pub(crate) fn set_node(&mut self, name: &ArcStr, node: Option<&Node>, pod_cidrs: bool) {
        let mut claims = node.map(|node| node_claims(name, node)).unwrap_or_default();
        if let Some(node) = node.filter(|_| pod_cidrs && !Planted::PodRangesForgotten.is_here()) {
            let ranges = node.pod_cidrs.iter().collect::<BTreeSet<_>>();
            let claim = Claim::Block { node: name.clone() };
            claims.extend(ranges.into_iter().map(|range| (*range, claim.clone())));
        }
        let old = if claims.is_empty() {
            self.nodes.remove(name)
        } else {
            self.nodes.insert(name.clone(), claims.clone())
        };
        self.replace(&old.unwrap_or_default(), &claims);
    }

    fn replace(&mut self, old: &[(IpNet, Claim)], new: &[(IpNet, Claim)]) {
        if old == new {
            return;
        }
        for (cidr, claim) in old {
            if let Some(state) = self.cidrs.get_mut(cidr)
                && let Some(count) = state.claims.get_mut(claim)
            {
                *count -= 1;
                if *count == 0 {
                    state.claims.remove(claim);
                }
            }
            self.touch(*cidr);
        }
        for (cidr, claim) in new {
            *self.cidrs.get_or_default(*cidr).claims.entry(claim.clone()).or_default() += 1;
            self.touch(*cidr);
        }
    }

    /// A block decides whether the tunnel addresses in it need routes of their own.
    fn touch(&mut self, cidr: IpNet) {
        self.dirty.insert(cidr);
        if cidr.prefix_len() < cidr.max_prefix_len() {
            self.dirty.extend(self.cidrs.within(cidr).map(|(inner, _)| inner));
        }
    }

    pub(crate) fn flush(&mut self, out: &mut Out) {
        for cidr in std::mem::take(&mut self.dirty_pools) {
            self.dirty.extend(self.cidrs.within(cidr).map(|(inner, _)| inner));
            let Some(at) = self.pools.get_mut(&cidr) else { continue };
            let pool = if Planted::LastPoolCounts.is_here() {
                at.by_name.values().next_back()
            } else {
                at.by_name.values().next()
            };
            let pool = pool.map(pool_entry);
            if pool != at.published {
                at.published.clone_from(&pool);
                let key = ArcStr::from(cidr.to_string());
                out.set(Topic::Pools, key, pool.map(Entry::Pool));
            }
            if at.by_name.is_empty() {
                self.pools.remove(&cidr);
            }
        }
        for cidr in std::mem::take(&mut self.dirty) {
            let route = self.route(cidr);
            let Some(state) = self.cidrs.get_mut(&cidr) else { continue };
            if route != state.published {
                state.published.clone_from(&route);
                let key = ArcStr::from(cidr.to_string());
                out.set(Topic::route(cidr), key, route.map(Entry::Route));
            }
            if state.claims.is_empty() {
                self.cidrs.remove(&cidr);
            }
        }
    }

    fn route(&self, cidr: IpNet) -> Option<Route> {
        let claims = &self.cidrs.get(&cidr)?.claims;
        let passed = usize::from(
            Planted::HostAddressRouted.is_here()
                && claims.len() > 1
                && claims.contains_key(&Claim::Host),
        );
        let (node, borrowed) = match claims.keys().nth(passed)? {
            Claim::Host => return None,
            Claim::Address { node, borrowed } => (node, *borrowed),
            Claim::Block { node } => (node, false),
            Claim::Tunnel { node } => match self.block_around(cidr) {
                // The block's route covers it.
                Some(owner) if owner == node && !Planted::TunnelInBlockRouted.is_here() => {
                    return None;
                }
                owner => (node, owner.is_some()),
            },
        };
        let pool = self
            .pools
            .enclosing(cidr)
            .find(|(_, at)| at.by_name.values().next().is_some_and(|p| !p.is_load_balancer_only()));
        Some(Route {
            node: node.clone(),
            pool: pool.map(|(cidr, _)| cidr),
            borrowed: borrowed && !Planted::BorrowedForgotten.is_here(),
            tunnel: claims.contains_key(&Claim::Tunnel { node: node.clone() }),
        })
    }

    /// The node of the smallest block around an address.
    fn block_around(&self, address: IpNet) -> Option<&ArcStr> {
        let around = self.cidrs.enclosing(address).skip(1);
        around.flat_map(|(_, state)| state.claims.keys()).find_map(|claim| match claim {
            Claim::Block { node } => Some(node),
            Claim::Host | Claim::Address { .. } | Claim::Tunnel { .. } => None,
        })
    }

    /// How many routes there are.
    pub(crate) fn len(&self) -> usize {
        self.cidrs.iter().filter(|(_, state)| state.published.is_some()).count()
    }

    /// How many pools there are.
    pub(crate) fn pools(&self) -> usize {
        self.pools.len()
    }
}

fn block_claims(block: &IPAMBlock) -> Vec<(IpNet, Claim)> {
    let owner = match &block.affinity {
        Some(Affinity::Host(node)) => Some(node),
        _ => None,
    };
    let mut claims = Vec::new();
    if let Some(node) = owner {
        claims.push((block.cidr, Claim::Block { node: node.clone() }));
    }
    for (address, holder) in block.holders() {
        if !holder.node.is_empty() && Some(&holder.node) != owner {
            let claim = Claim::Address { node: holder.node.clone(), borrowed: owner.is_some() };
            claims.push((IpNet::from(address), claim));
        }
    }
    claims
}

fn node_claims(name: &ArcStr, node: &Node) -> Vec<(IpNet, Claim)> {
    let own = [node.bgp_ipv4, node.bgp_ipv6].into_iter().flatten();
    let own = own.chain(node.internal.iter().chain(&node.external).copied());
    let own = own.map(|net| (IpNet::from(net.addr()), Claim::Host));
    let tunnels = [node.ipip, node.vxlan, node.vxlan_v6, node.wireguard, node.wireguard_v6];
    let tunnels = tunnels.into_iter().flatten();
    let tunnels =
        tunnels.map(|address| (IpNet::from(address), Claim::Tunnel { node: name.clone() }));
    // Each once: a node may repeat its address.
    own.chain(tunnels).collect::<BTreeSet<_>>().into_iter().collect()
}

fn pool_entry(pool: &IPPool) -> Pool {
    let nat_outgoing = pool.nat_outgoing;
    if pool.is_load_balancer_only() {
        return Pool { nat_outgoing, ..Pool::default() };
    }
    Pool { ipip: pool.ipip, vxlan: pool.vxlan, nat_outgoing }
}
