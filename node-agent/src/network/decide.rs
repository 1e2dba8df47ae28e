//! Where packets to an address or block go from this node: pure decisions.
//!
//! | destination | route |
//! |---|---|
//! | own endpoint | its interface |
//! | own block | blackhole, unless it is one address |
//! | remote, VXLAN | the node's VTEP, over the VXLAN device |
//! | remote, IPIP | the node's address, over `tunl0` |
//! | remote, no tunnel needed | the node's address, over the device that has our own |

use std::net::IpAddr;

use ipnet::IpNet;
use model::view::{EncapMode, Host, Pool, Route};

use crate::{
    drivers::{NextHop, RouteValue},
    family::{Family, is_host},
};

/// What this node has to send with, in one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Own {
    /// The node's address with the prefix of its subnet.
    pub(crate) address: Option<IpNet>,
    /// The device that has it.
    pub(crate) parent: Option<u32>,
    /// The VXLAN device.
    pub(crate) vxlan: Option<u32>,
    /// The IPIP device.
    pub(crate) ipip: Option<u32>,
}

impl Own {
    /// Whether this device carries traffic to other nodes.
    pub(crate) fn uses(&self, index: u32) -> bool {
        [self.parent, self.vxlan, self.ipip].contains(&Some(index))
    }
}

/// A host's main address in a family.
pub(crate) fn node_address(host: &Host, family: Family) -> Option<IpNet> {
    match family {
        Family::V4 => host.ipv4,
        Family::V6 => host.ipv6,
    }
}

/// The address of a host's VXLAN device in a family.
pub(crate) fn vtep_address(host: &Host, family: Family) -> Option<IpAddr> {
    match family {
        Family::V4 => host.vxlan_address,
        Family::V6 => host.vxlan_address_v6,
    }
}

/// How packets to a node travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Direct,
    Vxlan,
    Ipip,
}

/// None: it depends on whether both are in one subnet, which is not known.
fn way(pool: Option<&Pool>, same_subnet: Option<bool>) -> Option<Way> {
    let by_tunnel = |mode| match mode {
        EncapMode::Never => Some(false),
        EncapMode::Always => Some(true),
        EncapMode::CrossSubnet => same_subnet.map(|same| !same),
    };
    let Some(pool) = pool else { return Some(Way::Direct) };
    Some(match (by_tunnel(pool.vxlan)?, by_tunnel(pool.ipip)?) {
        (true, _) => Way::Vxlan,
        (false, true) => Way::Ipip,
        (false, false) => Way::Direct,
    })
}

/// The route to a block or borrowed address that lives on this node.
pub(crate) fn own_route(cidr: IpNet, route: &Route) -> Option<RouteValue> {
    let blackhole = !is_host(cidr) && !route.tunnel && !route.borrowed;
    blackhole.then(|| RouteValue::ours(NextHop::Blackhole))
}

/// The route to what lives on another node, or why there is none.
pub(crate) fn remote_route(
    family: Family,
    own: &Own,
    route: &Route,
    pool: Option<&Pool>,
    host: Option<&Host>,
) -> Result<RouteValue, String> {
    let node = &route.node;
    let host = host.ok_or_else(|| format!("node {node} is not known"))?;
    let address = node_address(host, family)
        .ok_or_else(|| format!("node {node} has no IPv{} address", family.version()))?;
    let same_subnet = own.address.map(|own| own.contains(&address.addr()));
    let no_address = || format!("this node has no IPv{} address yet", family.version());
    let gateway = |index, gateway| RouteValue::ours(NextHop::Gateway { index, gateway });
    match way(pool, same_subnet).ok_or_else(no_address)? {
        Way::Vxlan => {
            let index = own.vxlan.ok_or("the VXLAN device is not there yet")?;
            let vtep = vtep_address(host, family)
                .ok_or_else(|| format!("node {node} has no VXLAN tunnel address yet"))?;
            Ok(gateway(index, vtep))
        }
        Way::Ipip => {
            let index = own.ipip.ok_or("the IPIP device is not there")?;
            Ok(gateway(index, address.addr()))
        }
        Way::Direct => {
            let own_address = own.address.ok_or_else(no_address)?;
            if same_subnet != Some(true) {
                return Err(format!(
                    "node {node} ({}) is outside of this node's subnet {}, and the pool has no \
                     tunnel: set vxlanMode or ipipMode to CrossSubnet, or use BGP",
                    address.addr(),
                    own_address.trunc()
                ));
            }
            let index = own.parent.ok_or_else(|| {
                format!("no device of this node has its address {}", own_address.addr())
            })?;
            Ok(gateway(index, address.addr()))
        }
    }
}
