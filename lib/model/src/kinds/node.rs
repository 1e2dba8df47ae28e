//! Nodes: their addresses and those of their tunnels.

use std::net::IpAddr;

use arcstr::ArcStr;
use ipnet::IpNet;
use serde_json::Value;

use super::{Invalid, net, read::Fields};

/// `Node`. Each part that can't be read is left out alone: the others go on.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Node {
    /// `spec.bgp.ipv4Address` with the prefix of its subnet (a bare address is a /32), host bits
    /// kept.
    pub bgp_ipv4: Option<IpNet>,
    /// `spec.bgp.ipv6Address`, likewise.
    pub bgp_ipv6: Option<IpNet>,
    /// `spec.addresses` of type `InternalIP`, in order, host bits kept.
    pub internal: Vec<IpNet>,
    /// `spec.addresses` of type `ExternalIP`, likewise.
    pub external: Vec<IpNet>,
    /// `spec.bgp.asNumber`.
    pub as_number: Option<u32>,
    /// `spec.bgp.routeReflectorClusterID`; empty: none.
    pub route_reflector: ArcStr,
    /// `spec.bgp.ipv4IPIPTunnelAddr`.
    pub ipip: Option<IpAddr>,
    /// `spec.ipv4VXLANTunnelAddr`.
    pub vxlan: Option<IpAddr>,
    /// `spec.vxlanTunnelMACAddr`; empty: derived from the node's name.
    pub vxlan_mac: ArcStr,
    /// `spec.ipv6VXLANTunnelAddr`.
    pub vxlan_v6: Option<IpAddr>,
    /// `spec.vxlanTunnelMACAddrV6`; empty: derived from the node's name.
    pub vxlan_mac_v6: ArcStr,
    /// `spec.wireguard.interfaceIPv4Address`.
    pub wireguard: Option<IpAddr>,
    /// `spec.wireguard.interfaceIPv6Address`.
    pub wireguard_v6: Option<IpAddr>,
    /// `status.wireguardPublicKey`; empty: none.
    pub wireguard_key: ArcStr,
    /// `status.wireguardPublicKeyV6`; empty: none.
    pub wireguard_key_v6: ArcStr,
    /// `status.podCIDRs`: ranges of the node's pods, where these stand for its blocks; host bits
    /// cleared.
    pub pod_cidrs: Vec<IpNet>,
    /// `spec.orchRefs`: what orchestrators call this node.
    pub orch_refs: Vec<OrchRef>,
}

/// What an orchestrator calls a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OrchRef {
    /// For example `k8s`.
    pub orchestrator: ArcStr,
    /// The node's name there.
    pub node_name: ArcStr,
}

impl Node {
    pub(super) fn read(spec: Fields<'_>, status: Fields<'_>, faults: &mut Vec<Invalid>) -> Self {
        let mut node = Self::default();
        let mut part = Part { faults };
        let bgp_path = spec.path("bgp");
        if let Some(bgp) = part.ok(spec.child(&bgp_path)) {
            node.bgp_ipv4 = part.net(bgp, "ipv4Address", false);
            node.bgp_ipv6 = part.net(bgp, "ipv6Address", true);
            node.ipip = part.ip(bgp, "ipv4IPIPTunnelAddr", false);
            node.as_number = part.as_number(bgp);
            node.route_reflector = part.ok(bgp.text("routeReflectorClusterID")).unwrap_or_default();
        }
        node.vxlan = part.ip(spec, "ipv4VXLANTunnelAddr", false);
        node.vxlan_v6 = part.ip(spec, "ipv6VXLANTunnelAddr", true);
        node.vxlan_mac = part.mac(spec, "vxlanTunnelMACAddr");
        node.vxlan_mac_v6 = part.mac(spec, "vxlanTunnelMACAddrV6");
        let wireguard_path = spec.path("wireguard");
        if let Some(wireguard) = part.ok(spec.child(&wireguard_path)) {
            node.wireguard = part.ip(wireguard, "interfaceIPv4Address", false);
            node.wireguard_v6 = part.ip(wireguard, "interfaceIPv6Address", true);
        }
        node.wireguard_key = part.ok(status.text("wireguardPublicKey")).unwrap_or_default();
        node.wireguard_key_v6 = part.ok(status.text("wireguardPublicKeyV6")).unwrap_or_default();
        node.pod_cidrs = part.pod_cidrs(status);
        (node.internal, node.external) = part.addresses(spec);
        node.orch_refs = part.orch_refs(spec);
        node
    }
}

/// Reads parts that may fail alone.
struct Part<'f> {
    faults: &'f mut Vec<Invalid>,
}

impl Part<'_> {
    fn ok<T>(&mut self, result: Result<T, Invalid>) -> Option<T> {
        result.map_err(|fault| self.faults.push(fault)).ok()
    }

    /// Text that `parse` understands; empty is absent.
    fn parsed<'a, T>(
        &mut self,
        fields: Fields<'a>,
        name: &'a str,
        rule: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        let text = self.ok(fields.str(name))?;
        if text.is_empty() {
            return None;
        }
        let parsed = parse(text);
        if parsed.is_none() {
            self.faults.push(fields.path(name).invalid(&Value::from(text), rule));
        }
        parsed
    }

    fn net<'a>(&mut self, fields: Fields<'a>, name: &'a str, v6: bool) -> Option<IpNet> {
        self.parsed(fields, name, family_rule(v6), |text| {
            net::parse_net(text).filter(|net| net.addr().is_ipv6() == v6)
        })
    }

    fn ip<'a>(&mut self, fields: Fields<'a>, name: &'a str, v6: bool) -> Option<IpAddr> {
        self.parsed(fields, name, family_rule(v6), |text| {
            net::parse_ip(text).filter(|ip| ip.is_ipv6() == v6)
        })
    }

    fn mac<'a>(&mut self, fields: Fields<'a>, name: &'a str) -> ArcStr {
        self.parsed(fields, name, MAC_RULE, parse_mac).unwrap_or_default()
    }

    /// A number, or text: a number, or two 16-bit halves with a dot between.
    fn as_number(&mut self, bgp: Fields<'_>) -> Option<u32> {
        let value = bgp.get("asNumber")?;
        let number = match value {
            Value::Number(number) => number.as_u64().and_then(|n| u32::try_from(n).ok()),
            Value::String(text) => match text.split_once('.') {
                None => text.parse().ok(),
                Some((high, low)) => match (high.parse::<u16>(), low.parse::<u16>()) {
                    (Ok(high), Ok(low)) => Some(u32::from(high) << 16 | u32::from(low)),
                    _ => None,
                },
            },
            _ => None,
        };
        if number.is_none() {
            self.faults.push(
                bgp.path("asNumber")
                    .invalid(value, "must be an AS number: 64512, or with a dot 1.10"),
            );
        }
        number
    }

    /// Those of type `InternalIP`, and those of type `ExternalIP`.
    fn addresses(&mut self, spec: Fields<'_>) -> (Vec<IpNet>, Vec<IpNet>) {
        let path = spec.path("addresses");
        let (mut internal, mut external) = (Vec::new(), Vec::new());
        for (index, value) in self.ok(spec.list("addresses")).unwrap_or_default().iter().enumerate()
        {
            let path = path.index(index);
            let Some(entry) = self.ok(Fields::of(&path, Some(value))) else { continue };
            let list = match self.ok(entry.str("type")) {
                Some("InternalIP") => &mut internal,
                Some("ExternalIP") => &mut external,
                _ => continue,
            };
            list.extend(self.parsed(entry, "address", "must be an address", net::parse_net));
        }
        (internal, external)
    }

    fn pod_cidrs(&mut self, status: Fields<'_>) -> Vec<IpNet> {
        let path = status.path("podCIDRs");
        let mut nets = Vec::new();
        for (index, value) in
            self.ok(status.list("podCIDRs")).unwrap_or_default().iter().enumerate()
        {
            match value.as_str().and_then(net::parse_net) {
                Some(net) => nets.push(net.trunc()),
                None => {
                    self.faults.push(path.index(index).invalid(value, "must be a CIDR: left out"));
                }
            }
        }
        nets
    }

    fn orch_refs(&mut self, spec: Fields<'_>) -> Vec<OrchRef> {
        let path = spec.path("orchRefs");
        let mut refs = Vec::new();
        for (index, value) in self.ok(spec.list("orchRefs")).unwrap_or_default().iter().enumerate()
        {
            let path = path.index(index);
            let read = Fields::of(&path, Some(value)).and_then(|entry| {
                Ok(OrchRef {
                    orchestrator: entry.text("orchestrator")?,
                    node_name: entry.text("nodeName")?,
                })
            });
            refs.extend(self.ok(read));
        }
        refs
    }
}

fn family_rule(v6: bool) -> &'static str {
    if v6 { "must be an IPv6 address" } else { "must be an IPv4 address" }
}

pub(super) const MAC_RULE: &str = "must be a MAC address: 6 bytes such as ee:ee:ee:00:00:01";

/// A MAC of 6 bytes, in lower case with colons; dashes between, or dots after each second byte, are
/// read too.
pub(super) fn parse_mac(text: &str) -> Option<ArcStr> {
    let (separator, digits) = match text.as_bytes().get(2)? {
        b':' => (':', 2),
        b'-' => ('-', 2),
        _ => ('.', 4),
    };
    let parts = text.split(separator).collect::<Vec<_>>();
    if parts.len() * digits != 12 {
        return None;
    }
    if !parts.iter().all(|p| p.len() == digits && p.bytes().all(|b| b.is_ascii_hexdigit())) {
        return None;
    }
    let hex = parts.concat().to_ascii_lowercase();
    let pairs = (0..6).map(|i| &hex[2 * i..2 * i + 2]).collect::<Vec<_>>();
    Some(pairs.join(":").into())
}
