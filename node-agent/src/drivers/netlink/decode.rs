//! Rtnetlink messages as what they tell.

use std::net::IpAddr;

use arcstr::ArcStr;
use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage},
    route::{RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteType},
};

use crate::drivers::{Link, LinkKind, Mac, NextHop, RouteKey, RouteValue, Vxlan};

/// Reads a device; none: a message without a name, such as a bridge's about its ports.
pub(crate) fn read_link(message: &LinkMessage) -> Option<Link> {
    let mut link = Link {
        index: message.header.index,
        name: ArcStr::new(),
        kind: LinkKind::Other,
        mac: None,
        mtu: 0,
        up: message.header.flags.contains(LinkFlags::Up),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name = name.as_str().into(),
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Address(mac) => {
                link.mac = <[u8; 6]>::try_from(mac.as_slice()).ok().map(Mac);
            }
            LinkAttribute::LinkInfo(infos) => link.kind = read_kind(infos),
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some(link)
}

fn read_kind(infos: &[LinkInfo]) -> LinkKind {
    for info in infos {
        match info {
            LinkInfo::Kind(InfoKind::IpIp) => return LinkKind::Ipip,
            LinkInfo::Data(InfoData::Vxlan(data)) => {
                let mut vxlan = Vxlan { vni: 0, port: 0, local: None, parent: 0, learning: false };
                for field in data {
                    match field {
                        InfoVxlan::Id(vni) => vxlan.vni = *vni,
                        InfoVxlan::Port(port) => vxlan.port = *port,
                        InfoVxlan::Link(parent) => vxlan.parent = *parent,
                        InfoVxlan::Local(local) => vxlan.local = Some((*local).into()),
                        InfoVxlan::Local6(local) => vxlan.local = Some((*local).into()),
                        InfoVxlan::Learning(learning) => vxlan.learning = *learning,
                        _ => {}
                    }
                }
                return LinkKind::Vxlan(vxlan);
            }
            _ => {}
        }
    }
    LinkKind::Other
}

pub(super) fn read_address(message: &AddressMessage) -> Option<(u32, IpNet)> {
    // On a point-to-point link `Address` is the peer's; the own one is `Local`, where it differs.
    let mut address = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(local) => address = Some(*local),
            AddressAttribute::Address(other) => address = address.or(Some(*other)),
            _ => {}
        }
    }
    Some((message.header.index, IpNet::new(address?, message.header.prefix_len).ok()?))
}

/// Reads a route of the main table.
pub(crate) fn read_route(message: &RouteMessage) -> Option<(RouteKey, RouteValue)> {
    let header = &message.header;
    if header.table != RouteHeader::RT_TABLE_MAIN || header.flags.contains(RouteFlags::Cloned) {
        return None;
    }
    let unspecified: IpAddr = match header.address_family {
        AddressFamily::Inet => std::net::Ipv4Addr::UNSPECIFIED.into(),
        AddressFamily::Inet6 => std::net::Ipv6Addr::UNSPECIFIED.into(),
        _ => return None,
    };
    let (mut destination, mut gateway, mut index, mut metric) = (unspecified, None, None, 0);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => destination = ip(address)?,
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::Oif(oif) => index = Some(*oif),
            RouteAttribute::Priority(priority) => metric = *priority,
            _ => {}
        }
    }
    let onlink = header.flags.contains(RouteFlags::Onlink);
    let next = match (header.kind, gateway, index) {
        (RouteType::Unicast, None, Some(index)) => NextHop::Link { index },
        (RouteType::Unicast, Some(gateway), Some(index)) if onlink => {
            NextHop::Gateway { index, gateway }
        }
        (RouteType::BlackHole, ..) => NextHop::Blackhole,
        _ => NextHop::Other,
    };
    let destination = IpNet::new(destination, header.destination_prefix_length).ok()?;
    Some((RouteKey { destination, metric }, RouteValue { next, protocol: header.protocol.into() }))
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

pub(super) fn neighbours(
    found: &[RouteNetlinkMessage],
    index: u32,
) -> impl Iterator<Item = &NeighbourMessage> {
    found.iter().filter_map(move |message| match message {
        RouteNetlinkMessage::NewNeighbour(message) if message.header.ifindex == index => {
            Some(message)
        }
        _ => None,
    })
}

pub(crate) fn neighbour_address(message: &NeighbourMessage) -> Option<IpAddr> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(address)) => Some((*address).into()),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(address)) => {
            Some((*address).into())
        }
        // FDB entries are of family bridge, and carry their address as plain bytes.
        NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
            if let Ok(bytes) = <[u8; 4]>::try_from(bytes.as_slice()) {
                Some(bytes.into())
            } else {
                Some(<[u8; 16]>::try_from(bytes.as_slice()).ok()?.into())
            }
        }
        _ => None,
    })
}

pub(crate) fn neighbour_mac(message: &NeighbourMessage) -> Option<Mac> {
    message.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::LinkLayerAddress(mac) => {
            <[u8; 6]>::try_from(mac.as_slice()).ok().map(Mac)
        }
        _ => None,
    })
}
