//! The rtnetlink driver: a blocking socket with many requests in flight.

use std::{io, net::IpAddr};

use arcstr::ArcStr;
use ipnet::IpNet;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_EXCL, NLM_F_REPLACE, NLM_F_REQUEST,
    NetlinkBuffer, NetlinkHeader, NetlinkMessage, NetlinkPayload, NlasIterator,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    neighbour::{
        NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
    },
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol,
        RouteScope, RouteType,
    },
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use super::{
    Link, LinkKind, LinkSpec, Mac, NextHop, PROTOCOL, RouteKey, RouteValue, Rtnl, RtnlError,
    RtnlOp, Vxlan,
};
use crate::family::Family;

/// How many requests go out before their answers are read: their answers fit the receive buffer.
const IN_FLIGHT: usize = 64;
/// How often a dump that changed while it ran is tried again.
const DUMP_TRIES: usize = 5;

const EEXIST: i32 = 17;
const ENOENT: i32 = 2;
const ESRCH: i32 = 3;
const ENODEV: i32 = 19;
const EADDRNOTAVAIL: i32 = 99;
const EOPNOTSUPP: i32 = 95;

/// A request socket to the kernel.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Netlink {
    /// Opens a socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// When the kernel refuses the socket.
    pub fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        // Filters of dumps are honoured by the kernel; errors carry its words.
        socket.set_netlink_get_strict_chk(true)?;
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        Ok(Self { socket, sequence: 0, buffer: Vec::with_capacity(1 << 16) })
    }

    fn message(&mut self, inner: RouteNetlinkMessage, flags: u16) -> Vec<u8> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(inner));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    /// Reads one datagram and hands each of its messages to `on`.
    fn receive(
        &mut self,
        mut on: impl FnMut(NetlinkMessage<RouteNetlinkMessage>),
    ) -> Result<(), RtnlError> {
        self.buffer.clear();
        self.socket.recv(&mut self.buffer, 0).map_err(|error| io_error(&error))?;
        let mut rest = self.buffer.as_slice();
        while let Ok(header) = NetlinkBuffer::new_checked(rest) {
            let length = header.length() as usize;
            // A message that this version can't read is no reason to lose the others.
            if let Ok(message) = NetlinkMessage::deserialize(&rest[..length]) {
                on(message);
            }
            rest = &rest[length.next_multiple_of(4).min(rest.len())..];
            if rest.is_empty() {
                break;
            }
        }
        Ok(())
    }

    fn dump(
        &mut self,
        request: &RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, RtnlError> {
        for _ in 0..DUMP_TRIES {
            let bytes = self.message(request.clone(), NLM_F_DUMP);
            let sequence = self.sequence;
            self.socket.send(&bytes, 0).map_err(|error| io_error(&error))?;
            let (mut found, mut end, mut interrupted) = (Vec::new(), None, false);
            while end.is_none() {
                self.receive(|message| {
                    if message.header.sequence_number != sequence {
                        return;
                    }
                    interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
                    match message.payload {
                        NetlinkPayload::InnerMessage(inner) => found.push(inner),
                        NetlinkPayload::Done(_) => end = Some(Ok(())),
                        NetlinkPayload::Error(error) => {
                            end = Some(match error.code {
                                None => Ok(()),
                                Some(code) => Err(kernel_error(code.get(), &error.header)),
                            });
                        }
                        _ => {}
                    }
                })?;
            }
            end.unwrap_or(Ok(()))?;
            if !interrupted {
                return Ok(found);
            }
        }
        Err(RtnlError::Other("the kernel's tables change faster than they can be read".into()))
    }

    fn dump_routes(
        &mut self,
        family: Family,
        protocol: u8,
    ) -> Result<Vec<(RouteKey, RouteValue)>, RtnlError> {
        let mut request = RouteMessage::default();
        request.header.address_family = address_family(family);
        request.header.table = RouteHeader::RT_TABLE_MAIN;
        request.header.protocol = RouteProtocol::from(protocol);
        let found = self.dump(&RouteNetlinkMessage::GetRoute(request))?;
        Ok(found
            .iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewRoute(message) => read_route(message),
                _ => None,
            })
            .collect())
    }
}

impl Rtnl for Netlink {
    fn links(&mut self) -> Result<Vec<Link>, RtnlError> {
        let found = self.dump(&RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        Ok(found
            .iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewLink(message) => read_link(message),
                _ => None,
            })
            .collect())
    }

    fn addresses(&mut self) -> Result<Vec<(u32, IpNet)>, RtnlError> {
        let found = self.dump(&RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
        Ok(found
            .iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewAddress(message) => read_address(message),
                _ => None,
            })
            .collect())
    }

    fn routes(&mut self, family: Family) -> Result<Vec<(RouteKey, RouteValue)>, RtnlError> {
        self.dump_routes(family, PROTOCOL)
    }

    fn all_routes(&mut self, family: Family) -> Result<Vec<(RouteKey, RouteValue)>, RtnlError> {
        self.dump_routes(family, 0)
    }

    fn neighbours(&mut self, index: u32) -> Result<Vec<(IpAddr, Mac)>, RtnlError> {
        let mut request = NeighbourMessage::default();
        request.attributes.push(NeighbourAttribute::IfIndex(index));
        let found = self.dump(&RouteNetlinkMessage::GetNeighbour(request))?;
        Ok(neighbours(&found, index)
            .filter(|message| message.header.state == NeighbourState::Permanent)
            .filter_map(|message| Some((neighbour_address(message)?, neighbour_mac(message)?)))
            .collect())
    }

    fn fdb(&mut self, index: u32) -> Result<Vec<(Mac, IpAddr)>, RtnlError> {
        let mut request = NeighbourMessage::default();
        request.header.family = AddressFamily::Bridge;
        request.attributes.push(NeighbourAttribute::IfIndex(index));
        let found = self.dump(&RouteNetlinkMessage::GetNeighbour(request))?;
        Ok(neighbours(&found, index)
            .filter_map(|message| Some((neighbour_mac(message)?, neighbour_address(message)?)))
            .collect())
    }

    fn apply(&mut self, ops: &[RtnlOp]) -> Vec<Result<(), RtnlError>> {
        let mut results = Vec::with_capacity(ops.len());
        for chunk in ops.chunks(IN_FLIGHT) {
            let first = self.sequence.wrapping_add(1);
            let mut bytes = Vec::new();
            for op in chunk {
                let (inner, flags) = request(op);
                bytes.extend(self.message(inner, flags | NLM_F_ACK));
            }
            let mut answers: Vec<Option<Result<(), RtnlError>>> = vec![None; chunk.len()];
            let mut missing = chunk.len();
            let mut broken = self.socket.send(&bytes, 0).err().as_ref().map(io_error);
            while missing > 0 && broken.is_none() {
                let received = self.receive(|message| {
                    let NetlinkPayload::Error(error) = message.payload else { return };
                    let place = message.header.sequence_number.wrapping_sub(first) as usize;
                    let Some(answer @ None) = answers.get_mut(place) else { return };
                    *answer = Some(match error.code {
                        None => Ok(()),
                        Some(code) => Err(kernel_error(code.get(), &error.header)),
                    });
                    missing -= 1;
                });
                broken = received.err();
            }
            let lost = broken.unwrap_or_else(|| RtnlError::Other("no answer".into()));
            results.extend(answers.into_iter().map(|a| a.unwrap_or_else(|| Err(lost.clone()))));
        }
        results
    }
}

fn io_error(error: &io::Error) -> RtnlError {
    RtnlError::Other(format!("netlink socket: {error}"))
}

/// An error number with the kernel's own words, if it gave any.
fn kernel_error(code: i32, details: &[u8]) -> RtnlError {
    /// Length of the request's header, which precedes the attributes.
    const HEADER: usize = 16;
    const NLMSGERR_ATTR_MSG: u16 = 1;
    let code = code.abs();
    match code {
        EEXIST => return RtnlError::Exists,
        ENOENT | ESRCH | ENODEV | EADDRNOTAVAIL => return RtnlError::Missing,
        _ => {}
    }
    let words = details.get(HEADER..).and_then(|attributes| {
        NlasIterator::new(attributes)
            .flatten()
            .find(|attribute| attribute.kind() == NLMSGERR_ATTR_MSG)
            .map(|attribute| String::from_utf8_lossy(attribute.value()).into_owned())
    });
    let error = io::Error::from_raw_os_error(code);
    match words {
        Some(words) if code == EOPNOTSUPP && words.contains("Unknown device type") => {
            RtnlError::Unsupported
        }
        Some(words) => RtnlError::Other(format!("{}: {error}", words.trim_end_matches('\0'))),
        None if code == EOPNOTSUPP => RtnlError::Unsupported,
        None => RtnlError::Other(error.to_string()),
    }
}

fn address_family(family: Family) -> AddressFamily {
    match family {
        Family::V4 => AddressFamily::Inet,
        Family::V6 => AddressFamily::Inet6,
    }
}

/// The message and the flags that ask the kernel for this.
fn request(op: &RtnlOp) -> (RouteNetlinkMessage, u16) {
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

fn read_address(message: &AddressMessage) -> Option<(u32, IpNet)> {
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

fn neighbours(
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
