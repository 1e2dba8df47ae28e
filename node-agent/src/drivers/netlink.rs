//! The rtnetlink driver: a blocking socket with many requests in flight.

pub(crate) mod decode;
mod encode;

use std::{io, net::IpAddr};

use ipnet::IpNet;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NlasIterator,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::AddressMessage,
    link::LinkMessage,
    neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState},
    route::{RouteHeader, RouteMessage, RouteProtocol},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use self::{
    decode::{neighbour_address, neighbour_mac, neighbours, read_address, read_link, read_route},
    encode::{address_family, request},
};
use super::{Link, Mac, PROTOCOL, RouteKey, RouteValue, Rtnl, RtnlError, RtnlOp};
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
