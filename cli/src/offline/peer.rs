//! The ends of a connection: pods, interfaces of nodes, and addresses outside.

use std::{fmt, net::IpAddr};

use anyhow::bail;
use arcstr::ArcStr;
use engine::verdict::Packet;
use model::{
    kinds::Direction,
    view::{Endpoint, HostEndpoint},
};

use super::{alike::Policies, port::Port};

/// Where connections come from: what clients are given by the kernel, and no rule names.
pub(crate) const CLIENT_PORT: u16 = 49_152;

/// A pod with an address, or what stands for an interface of a node.
pub(crate) struct Pod {
    pub(super) policed: Policed,
    pub(super) addresses: Vec<IpAddr>,
    pub(super) node: ArcStr,
    /// Its name there, `ORCHESTRATOR/NAMESPACE/WORKLOAD/ENDPOINT`; of an interface of the node, its own.
    pub(super) id: String,
}

/// What policies select, with the ids of their lists.
pub(super) enum Policed {
    Workload(Endpoint),
    Host(Box<HostEndpoint>),
}

impl Pod {
    pub(super) fn address(&self, ipv6: bool) -> Option<IpAddr> {
        self.addresses.iter().copied().find(|address| address.is_ipv6() == ipv6)
    }
}

/// One end of a connection.
pub(crate) enum Peer<'w> {
    /// A pod, or an interface of a node; and which of its addresses was asked for, if one was.
    Endpoint(&'w str, &'w Pod, Option<IpAddr>),
    /// Something outside.
    Address(IpAddr),
}

impl Peer<'_> {
    /// The policies that are asked of it.
    pub(crate) fn policies(&self) -> Policies {
        match self {
            Self::Address(_) => Policies::None,
            Self::Endpoint(_, pod, _) => match &pod.policed {
                Policed::Workload(it) => Policies::Pod(it.plist.clone(), it.profiles.clone()),
                Policed::Host(it) => {
                    let lists = [&it.untracked, &it.pre_dnat, &it.plist].map(Clone::clone);
                    Policies::Host(pod.node.clone(), lists, it.profiles.clone())
                }
            },
        }
    }

    /// The node that it is on; none: it is outside.
    pub(crate) fn node(&self) -> Option<&str> {
        match self {
            Self::Endpoint(_, pod, _) => Some(&pod.node),
            Self::Address(_) => None,
        }
    }

    pub(crate) fn address(&self, ipv6: bool) -> Option<IpAddr> {
        match self {
            Self::Endpoint(_, pod, None) => pod.address(ipv6),
            Self::Endpoint(_, _, Some(address)) | Self::Address(address) => {
                Some(*address).filter(|it| it.is_ipv6() == ipv6)
            }
        }
    }
}

/// Whose policies are asked at one end; none: it is an address outside, or policies don't see what stays within a node.
/// Of that, a pod's own policies see what it sends to its node, and no others see anything.
pub(crate) fn policed<'w>([from, to]: [&Peer<'w>; 2], direction: Direction) -> Option<&'w Pod> {
    let end = if direction == Direction::Egress { from } else { to };
    let Peer::Endpoint(_, pod, _) = end else { return None };
    let is_seen = !within_node([from, to])
        || direction == Direction::Egress && matches!(pod.policed, Policed::Workload(_));
    is_seen.then_some(*pod)
}

/// Whether a node talks to itself or to a pod of its own, or a pod to its node.
pub(crate) fn within_node([from, to]: [&Peer<'_>; 2]) -> bool {
    let (Peer::Endpoint(_, from, _), Peer::Endpoint(_, to, _)) = (from, to) else { return false };
    let has_host = [from, to].iter().any(|it| matches!(it.policed, Policed::Host(_)));
    has_host && from.node == to.node
}

impl fmt::Display for Peer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoint(name, ..) => f.write_str(name),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// Whether they talk over IPv6.
pub(crate) fn family(from: &Peer<'_>, to: &Peer<'_>, port: Port) -> anyhow::Result<bool> {
    let lack = |ipv6: bool| [from, to].into_iter().find(|end| end.address(ipv6).is_none());
    let Some(ipv6) = port.ipv6() else {
        match [false, true].into_iter().find(|ipv6| lack(*ipv6).is_none()) {
            Some(ipv6) => return Ok(ipv6),
            None => bail!("{from} and {to} have no addresses of one family"),
        }
    };
    let Some(end) = lack(ipv6) else { return Ok(ipv6) };
    let (version, other) =
        if ipv6 { ("IPv6", "IPv4 is /icmp") } else { ("IPv4", "IPv6 is /icmpv6") };
    let lacks = match end {
        Peer::Endpoint(name, _, None) => format!("{name} has none"),
        Peer::Endpoint(_, _, Some(address)) | Peer::Address(address) => {
            format!("{address} is none")
        }
    };
    bail!("{port} needs an {version} address at both ends, and {lacks}; a ping over {other}")
}

/// None: the ends have no addresses of this version of IP.
pub(super) fn packet([from, to]: [&Peer<'_>; 2], (port, ipv6): (Port, bool)) -> Option<Packet> {
    Some(Packet {
        source: from.address(ipv6)?,
        destination: to.address(ipv6)?,
        protocol: port.protocol,
        source_port: CLIENT_PORT,
        destination_port: port.number(),
        icmp: port.icmp(),
    })
}
