//! What others do to the kernel, as events: netlink notifications.

use std::{collections::VecDeque, io};

use netlink_packet_core::{NetlinkBuffer, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{NeighbourMessage, NeighbourState},
};
use netlink_sys::{
    AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket,
    protocols::{NETLINK_NETFILTER, NETLINK_ROUTE},
};

use super::{netlink::decode, nfnetlink};
use crate::reconciler::KernelEvent;

/// `RTNLGRP_LINK`, `_NEIGH`, `_IPV4_IFADDR`, `_IPV4_ROUTE`, `_IPV6_IFADDR`, `_IPV6_ROUTE`.
const ROUTE_GROUPS: [u32; 6] = [1, 3, 5, 7, 9, 11];
/// `NFNLGRP_NFTABLES`.
const NETFILTER_GROUPS: [u32; 1] = [7];
/// A burst of our own changes comes back to us; twice this is what the kernel sets aside, in bytes.
const RECEIVE_BUFFER: u32 = 2 << 20;
/// The kernel's largest netlink datagram is smaller.
const DATAGRAM: usize = 1 << 16;
const ENOBUFS: i32 = 105;

/// A stream of [`KernelEvent`]s. The reconciler's own changes come back as events too; they tell it
/// nothing new.
pub struct Monitor {
    route: TokioSocket,
    netfilter: TokioSocket,
    events: VecDeque<KernelEvent>,
}

impl Monitor {
    /// Listens in the calling thread's network namespace; needs a tokio runtime.
    ///
    /// # Errors
    /// When the kernel refuses the sockets.
    pub fn open() -> io::Result<Self> {
        Ok(Self {
            route: listen(NETLINK_ROUTE, &ROUTE_GROUPS)?,
            netfilter: listen(NETLINK_NETFILTER, &NETFILTER_GROUPS)?,
            events: VecDeque::new(),
        })
    }

    /// The next event. Dropping the future loses nothing.
    ///
    /// # Errors
    /// When a socket fails: the monitor is of no use any more.
    pub async fn next(&mut self) -> io::Result<KernelEvent> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            let mut route = Vec::with_capacity(DATAGRAM);
            let mut netfilter = Vec::with_capacity(DATAGRAM);
            tokio::select! {
                received = self.route.recv(&mut route) => {
                    self.take(received, &route, KernelEvent::LinksLost, on_route)?;
                }
                received = self.netfilter.recv(&mut netfilter) => {
                    self.take(received, &netfilter, KernelEvent::NftablesLost, on_netfilter)?;
                }
            }
        }
    }

    /// Takes in one datagram.
    fn take(
        &mut self,
        received: io::Result<()>,
        datagram: &[u8],
        lost: KernelEvent,
        read: fn(&[u8]) -> Option<KernelEvent>,
    ) -> io::Result<()> {
        match received {
            Err(error) if error.raw_os_error() == Some(ENOBUFS) => {
                self.events.push_back(lost);
                return Ok(());
            }
            other => other?,
        }
        let mut rest = datagram;
        while let Ok(header) = NetlinkBuffer::new_checked(rest) {
            let length = header.length() as usize;
            // A transaction is many messages that say the same.
            let event = read(&rest[..length]);
            if event.is_some() && event.as_ref() != self.events.back() {
                self.events.extend(event);
            }
            rest = &rest[length.next_multiple_of(4).min(rest.len())..];
        }
        Ok(())
    }
}

fn listen(protocol: isize, groups: &[u32]) -> io::Result<TokioSocket> {
    let mut listener = TokioSocket::new(protocol)?;
    let socket = listener.socket_mut();
    socket.bind(&SocketAddr::new(0, 0))?;
    for group in groups {
        socket.add_membership(*group)?;
    }
    socket.set_rx_buf_sz(RECEIVE_BUFFER)?;
    Ok(listener)
}

fn on_netfilter(message: &[u8]) -> Option<KernelEvent> {
    let port = NetlinkBuffer::new_checked(message).ok()?.port_number();
    nfnetlink::is_ours(message).then_some(KernelEvent::Nftables(port))
}

fn on_route(message: &[u8]) -> Option<KernelEvent> {
    // A message that this version can't read might have mattered.
    let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(message) else {
        return Some(KernelEvent::LinksLost);
    };
    let NetlinkPayload::InnerMessage(message) = message.payload else { return None };
    match message {
        RouteNetlinkMessage::NewLink(link) => {
            // Bridges also tell of their ports, as other families.
            let of_device = link.header.interface_family == AddressFamily::Unspec;
            let link = decode::read_link(&link).filter(|_| of_device)?;
            Some(KernelEvent::Link { index: link.index, up: link.up })
        }
        RouteNetlinkMessage::DelLink(link) => {
            let of_device = link.header.interface_family == AddressFamily::Unspec;
            of_device.then_some(KernelEvent::Link { index: link.header.index, up: false })
        }
        RouteNetlinkMessage::NewAddress(address) => {
            Some(KernelEvent::Address { index: address.header.index, there: true })
        }
        RouteNetlinkMessage::DelAddress(address) => {
            Some(KernelEvent::Address { index: address.header.index, there: false })
        }
        RouteNetlinkMessage::NewRoute(route) => {
            decode::read_route(&route).map(|(key, value)| KernelEvent::Route(key, Some(value)))
        }
        RouteNetlinkMessage::DelRoute(route) => decode::read_route(&route)
            .filter(|(_, value)| value.protocol == super::PROTOCOL)
            .map(|(key, _)| KernelEvent::Route(key, None)),
        RouteNetlinkMessage::NewNeighbour(entry) => on_neighbour(&entry, true),
        RouteNetlinkMessage::DelNeighbour(entry) => on_neighbour(&entry, false),
        _ => None,
    }
}

fn on_neighbour(entry: &NeighbourMessage, there: bool) -> Option<KernelEvent> {
    let index = entry.header.ifindex;
    let address = decode::neighbour_address(entry)?;
    let mac = decode::neighbour_mac(entry);
    if entry.header.family == AddressFamily::Bridge {
        return Some(KernelEvent::Fdb(index, mac?, there.then_some(address)));
    }
    let permanent = there && entry.header.state == NeighbourState::Permanent;
    Some(KernelEvent::Neighbour(index, address, mac.filter(|_| permanent)))
}
