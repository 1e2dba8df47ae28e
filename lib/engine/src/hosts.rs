//! Nodes as other nodes see them.

use std::net::IpAddr;

use arcstr::ArcStr;
use ipnet::IpNet;
use model::{kinds::Node, view::Host};
use sha1::{Digest, Sha1};

use crate::planted::Planted;

/// The entry of a node.
pub(crate) fn host(name: &str, node: &Node) -> Host {
    let address = |bgp: Option<IpNet>, v6: bool| {
        let of_family = |list: &[IpNet]| list.iter().find(|n| n.addr().is_ipv6() == v6).copied();
        bgp.or_else(|| of_family(&node.internal)).or_else(|| of_family(&node.external))
    };
    let mac = |address: Option<IpAddr>, given: &ArcStr, seed: String| match address {
        None => ArcStr::new(),
        Some(_) if given.is_empty() => derived_mac(&seed),
        Some(_) => given.clone(),
    };
    let seed_v6 = if Planted::MacOfOtherFamily.is_here() { "" } else { "-v6" };
    Host {
        ipv4: address(node.bgp_ipv4, false),
        ipv6: address(node.bgp_ipv6, true),
        ipip_address: node.ipip,
        vxlan_address: node.vxlan,
        vxlan_mac: mac(node.vxlan, &node.vxlan_mac, name.to_owned()),
        vxlan_address_v6: node.vxlan_v6,
        vxlan_mac_v6: mac(node.vxlan_v6, &node.vxlan_mac_v6, format!("{name}{seed_v6}")),
        wireguard_key: node.wireguard_key.clone(),
        wireguard_key_v6: node.wireguard_key_v6.clone(),
        wireguard_address: node.wireguard,
        wireguard_address_v6: node.wireguard_v6,
        as_number: node.as_number,
    }
}

/// The MAC that each node gives its VXLAN device when its Node names none: the byte `f` and the
/// first five bytes of SHA-1 (Calico: `felix/calc/vxlan_resolver.go`).
fn derived_mac(seed: &str) -> ArcStr {
    let hash = Sha1::digest(seed);
    let bytes = hash.iter().take(5).map(|byte| format!(":{byte:02x}"));
    arcstr::format!("66{}", bytes.collect::<String>())
}
