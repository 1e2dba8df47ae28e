//! Operations as rtnetlink messages.

use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
    },
    route::{
        RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
    },
};

use crate::{
    drivers::{LinkKind, LinkSpec, Mac, NextHop, RouteKey, RouteValue, RtnlOp},
    family::Family,
};

pub(super) fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

/// The message and the flags that ask the kernel for this.
pub(super) fn request(op: &RtnlOp) -> (RouteNetlinkMessage, u16) {
    match op {
        RtnlOp::AddLink(spec) => {
            (RouteNetlinkMessage::NewLink(link(0, spec)), NLM_F_CREATE | NLM_F_EXCL)
        }
        RtnlOp::ChangeLink(index, spec) => (RouteNetlinkMessage::NewLink(link(*index, spec)), 0),
        RtnlOp::DeleteLink(index) => {
            let mut message = LinkMessage::default();
            message.header.index = *index;
            (RouteNetlinkMessage::DelLink(message), 0)
        }
        RtnlOp::AddAddress(index, net) => {
            (RouteNetlinkMessage::NewAddress(address(*index, *net)), NLM_F_CREATE | NLM_F_REPLACE)
        }
        RtnlOp::DeleteAddress(index, net) => {
            (RouteNetlinkMessage::DelAddress(address(*index, *net)), 0)
        }
        RtnlOp::AddRoute(key, value) => {
            (RouteNetlinkMessage::NewRoute(route(key, value)), NLM_F_CREATE | NLM_F_EXCL)
        }
        RtnlOp::ReplaceRoute(key, value) => {
            (RouteNetlinkMessage::NewRoute(route(key, value)), NLM_F_CREATE | NLM_F_REPLACE)
        }
        RtnlOp::DeleteRoute(key, value) => {
            let mut message = route(key, value);
            message.header.scope = RouteScope::NoWhere;
            message.header.flags = RouteFlags::empty();
            if value.next == NextHop::Other {
                message.header.kind = RouteType::Unspec;
            }
            message.attributes.retain(|attribute| !matches!(attribute, RouteAttribute::Gateway(_)));
            (RouteNetlinkMessage::DelRoute(message), 0)
        }
        RtnlOp::SetNeighbour(index, address, mac) => (
            RouteNetlinkMessage::NewNeighbour(neighbour(*index, *address, Some(*mac))),
            NLM_F_CREATE | NLM_F_REPLACE,
        ),
        RtnlOp::DeleteNeighbour(index, address) => {
            (RouteNetlinkMessage::DelNeighbour(neighbour(*index, *address, None)), 0)
        }
        RtnlOp::SetFdb(index, mac, address) => (
            RouteNetlinkMessage::NewNeighbour(fdb(*index, *mac, *address)),
            NLM_F_CREATE | NLM_F_REPLACE,
        ),
        RtnlOp::DeleteFdb(index, mac, address) => {
            (RouteNetlinkMessage::DelNeighbour(fdb(*index, *mac, *address)), 0)
        }
    }
}

fn link(index: u32, spec: &LinkSpec) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    message.attributes.push(LinkAttribute::IfName(spec.name.to_string()));
    message.attributes.push(LinkAttribute::Mtu(spec.mtu));
    message.attributes.extend(spec.mac.map(|mac| LinkAttribute::Address(mac.0.to_vec())));
    match &spec.kind {
        LinkKind::Vxlan(vxlan) => {
            let mut data = vec![
                InfoVxlan::Id(vxlan.vni),
                InfoVxlan::Port(vxlan.port),
                InfoVxlan::Link(vxlan.parent),
                InfoVxlan::Learning(vxlan.learning),
            ];
            data.extend(vxlan.local.map(|local| match local {
                IpAddr::V4(local) => InfoVxlan::Local(local),
                IpAddr::V6(local) => InfoVxlan::Local6(local),
            }));
            let info = vec![LinkInfo::Kind(InfoKind::Vxlan), LinkInfo::Data(InfoData::Vxlan(data))];
            message.attributes.push(LinkAttribute::LinkInfo(info));
        }
        // An existing tunl0 is changed as a device, not as a tunnel.
        LinkKind::Ipip if index == 0 => {
            let info = vec![LinkInfo::Kind(InfoKind::IpIp)];
            message.attributes.push(LinkAttribute::LinkInfo(info));
        }
        LinkKind::Ipip | LinkKind::Other => {}
    }
    message
}

fn address(index: u32, net: IpNet) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = address_family(Family::of_net(net));
    message.header.prefix_len = net.prefix_len();
    message.header.index = index;
    message.attributes.push(AddressAttribute::Local(net.addr()));
    message.attributes.push(AddressAttribute::Address(net.addr()));
    message
}

fn route(key: &RouteKey, value: &RouteValue) -> RouteMessage {
    let family = Family::of_net(key.destination);
    let mut message = RouteMessage::default();
    message.header.address_family = address_family(family);
    message.header.destination_prefix_length = key.destination.prefix_len();
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::from(value.protocol);
    message.header.kind = RouteType::Unicast;
    message.attributes.push(RouteAttribute::Destination(key.destination.network().into()));
    if key.metric != 0 {
        message.attributes.push(RouteAttribute::Priority(key.metric));
    }
    match value.next {
        NextHop::Link { index } => {
            // IPv6 routes have no scope.
            if family == Family::V4 {
                message.header.scope = RouteScope::Link;
            }
            message.attributes.push(RouteAttribute::Oif(index));
        }
        NextHop::Gateway { index, gateway } => {
            message.header.flags = RouteFlags::Onlink;
            message.attributes.push(RouteAttribute::Oif(index));
            message.attributes.push(RouteAttribute::Gateway(gateway.into()));
        }
        NextHop::Blackhole | NextHop::Other => message.header.kind = RouteType::BlackHole,
    }
    message
}

fn neighbour(index: u32, address: IpAddr, mac: Option<Mac>) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = address_family(Family::of(address));
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.attributes.push(NeighbourAttribute::Destination(neighbour_destination(address)));
    message.attributes.extend(mac.map(|mac| NeighbourAttribute::LinkLayerAddress(mac.0.to_vec())));
    message
}

fn fdb(index: u32, mac: Mac, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message.header.flags = NeighbourFlags::Own;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    message.attributes.push(NeighbourAttribute::Destination(neighbour_destination(address)));
    message
}

fn neighbour_destination(address: IpAddr) -> NeighbourAddress {
    match address {
        IpAddr::V4(address) => NeighbourAddress::Inet(address),
        IpAddr::V6(address) => NeighbourAddress::Inet6(address),
    }
}
