//! Packets of any protocol, written and read whole.

use std::{
    io::ErrorKind,
    net::{IpAddr, SocketAddr, UdpSocket},
    thread,
    time::Instant,
};

use socket2::{Domain, Protocol, Socket, Type};

use super::Namespace;

/// A packet as the tests tell them apart.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Raw {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    pub(crate) protocol: u8,
    /// Source and destination port, or ICMP type and code; zeros where there are none.
    pub(crate) words: (u16, u16),
}

fn open(v6: bool, protocol: u8) -> Socket {
    let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(i32::from(protocol)))).unwrap();
    socket.set_nonblocking(true).unwrap();
    socket
}

/// Sends a packet from a namespace that has its source address.
pub(crate) fn send(space: &Namespace, packet: &Raw) {
    let socket = space.enter(|| open(packet.from.is_ipv6(), packet.protocol));
    socket.bind(&SocketAddr::new(packet.from, 0).into()).unwrap();
    // The standard library's socket is as good for any protocol; ports in addresses don't count.
    match UdpSocket::from(socket).send_to(&payload(packet), SocketAddr::new(packet.to, 0)) {
        Ok(_) => {}
        // What the node dropped before may come back as an error of the next packet.
        Err(error) => assert!(super::refused(&error), "{packet:?}: {error}"),
    }
}

/// Reads what arrives in a namespace, of some protocols.
pub(crate) struct Receiver {
    sockets: Vec<(UdpSocket, bool, u8)>,
    own_v6: IpAddr,
}

impl Receiver {
    /// `own_v6`: the address that IPv6 packets are taken to be for.
    pub(crate) fn new(space: &Namespace, protocols: &[u8], own_v6: &str) -> Self {
        let sockets = [false, true]
            .into_iter()
            .flat_map(|v6| protocols.iter().map(move |protocol| (v6, *protocol)));
        let sockets =
            sockets.map(|(v6, protocol)| (space.enter(|| open(v6, protocol)).into(), v6, protocol));
        Self { sockets: sockets.collect(), own_v6: own_v6.parse().unwrap() }
    }

    /// Waits until so many packets are there; all that then are.
    pub(crate) fn wait_for(&self, count: usize) -> Vec<Raw> {
        let deadline = Instant::now() + super::DEADLINE;
        let mut found = self.drain();
        while found.len() < count && Instant::now() < deadline {
            thread::yield_now();
            found.extend(self.drain());
        }
        found
    }

    /// All that is there now.
    pub(crate) fn drain(&self) -> Vec<Raw> {
        let mut found = Vec::new();
        for (socket, v6, protocol) in &self.sockets {
            let mut buffer = [0; 2048];
            loop {
                let (length, from) = match socket.recv_from(&mut buffer) {
                    Ok(received) => received,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    Err(error) => panic!("raw socket: {error}"),
                };
                let (bytes, from) = (&buffer[..length], from.ip());
                let (to, body) = if *v6 {
                    (self.own_v6, bytes)
                } else {
                    let header = usize::from(bytes[0] & 15) * 4;
                    let to: [u8; 4] = bytes[16..20].try_into().unwrap();
                    (IpAddr::from(to), &bytes[header..])
                };
                let word = |n: usize| u16::from_be_bytes([body[n], body[n + 1]]);
                let words = match protocol {
                    1 | 58 => (body[0].into(), body[1].into()),
                    6 | 17 => (word(0), word(2)),
                    _ => (0, 0),
                };
                found.push(Raw { from, to, protocol: *protocol, words });
            }
        }
        found
    }
}

fn payload(packet: &Raw) -> Vec<u8> {
    let (first, second) = packet.words;
    let ports = [first.to_be_bytes(), second.to_be_bytes()].concat();
    let (mut bytes, checksum_at) = match packet.protocol {
        1 | 58 => (vec![first as u8, second as u8, 0, 0, 0, 1, 0, 1], 2),
        6 => {
            // A SYN with an empty window.
            let rest = [0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0, 0, 0, 0, 0, 0];
            ([ports.as_slice(), &rest].concat(), 16)
        }
        17 => ([ports.as_slice(), &[0, 8, 0, 0]].concat(), 6),
        _ => return vec![0; 32],
    };
    let sum = checksum(packet, &bytes);
    bytes[checksum_at..checksum_at + 2].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// The Internet checksum (RFC 1071), with the pseudo header where the protocol has one.
fn checksum(packet: &Raw, body: &[u8]) -> u16 {
    let mut bytes = Vec::new();
    if packet.protocol != 1 {
        for address in [packet.from, packet.to] {
            match address {
                IpAddr::V4(address) => bytes.extend(address.octets()),
                IpAddr::V6(address) => bytes.extend(address.octets()),
            }
        }
        bytes.extend([0, packet.protocol]);
        bytes.extend((body.len() as u16).to_be_bytes());
    }
    bytes.extend(body);
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}
