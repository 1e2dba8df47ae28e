//! How many bytes came from a server over this machine's connections to it, as the kernel counts
//! them: what is on the wire, whatever is inside.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
};

use netlink_sys::{Socket, SocketAddr as Kernel, protocols::NETLINK_SOCK_DIAG};

/// `linux/sock_diag.h`: dump the sockets of a family.
const SOCK_DIAG_BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const DUMP: u16 = 0x301;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// The attribute with `struct tcp_info`.
const INET_DIAG_INFO: u16 = 2;
/// Length of `struct nlmsghdr`, and of `struct inet_diag_msg` after it.
const HEADER: usize = 16;
const MESSAGE: usize = 72;
/// `tcpi_bytes_received` in `struct tcp_info`.
const BYTES_RECEIVED: usize = 128;

/// Bytes received so far on each connection to `server`, by the local address.
pub(crate) fn received_from(server: SocketAddr) -> io::Result<HashMap<SocketAddr, u64>> {
    let socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.send_to(&request(server.is_ipv6()), &Kernel::new(0, 0), 0)?;
    let mut received = HashMap::new();
    loop {
        let (answer, _) = socket.recv_from_full()?;
        let mut rest = answer.as_slice();
        while rest.len() >= HEADER {
            let length = number(rest, 0, 4) as usize;
            if length < HEADER || length > rest.len() {
                return Err(io::Error::other("an answer of the kernel is cut off"));
            }
            match number(rest, 4, 2) as u16 {
                NLMSG_DONE => return Ok(received),
                NLMSG_ERROR => return Err(io::Error::other("the kernel lists no sockets")),
                _ => received.extend(connection(&rest[HEADER..length], server)),
            }
            rest = &rest[length.next_multiple_of(4).min(rest.len())..];
        }
    }
}

/// `struct nlmsghdr` and `struct inet_diag_req_v2`: every TCP socket in any state.
fn request(ipv6: bool) -> Vec<u8> {
    let family = if ipv6 { 10 } else { 2 };
    let mut bytes = Vec::new();
    bytes.extend(72u32.to_ne_bytes());
    bytes.extend(SOCK_DIAG_BY_FAMILY.to_ne_bytes());
    bytes.extend(DUMP.to_ne_bytes());
    bytes.extend([0; 8]);
    bytes.extend([family, 6, 1 << (INET_DIAG_INFO - 1), 0]);
    bytes.extend(u32::MAX.to_ne_bytes());
    // The socket's id: any.
    bytes.resize(72, 0);
    bytes
}

/// The local address and what was received, if the other side is the server.
fn connection(message: &[u8], server: SocketAddr) -> Option<(SocketAddr, u64)> {
    let port = |at: usize| Some(u16::from_be_bytes(message.get(at..at + 2)?.try_into().ok()?));
    let (local, remote) = (port(4)?, port(6)?);
    let address = |at: usize| -> Option<IpAddr> {
        Some(match server {
            SocketAddr::V4(_) => <[u8; 4]>::try_from(message.get(at..at + 4)?).ok()?.into(),
            SocketAddr::V6(_) => <[u8; 16]>::try_from(message.get(at..at + 16)?).ok()?.into(),
        })
    };
    if SocketAddr::new(address(24)?, remote) != server {
        return None;
    }
    let local = SocketAddr::new(address(8)?, local);
    let mut rest = message.get(MESSAGE..)?;
    while rest.len() >= 4 {
        let length = number(rest, 0, 2) as usize;
        if number(rest, 2, 2) as u16 == INET_DIAG_INFO {
            let info = rest.get(4..length)?;
            (info.len() >= BYTES_RECEIVED + 8).then_some(())?;
            return Some((local, number(info, BYTES_RECEIVED, 8)));
        }
        rest = rest.get(length.next_multiple_of(4).max(4)..)?;
    }
    None
}

/// An unsigned number of the machine's byte order, of 8 bytes at most; 0 where there is none.
fn number(bytes: &[u8], at: usize, length: usize) -> u64 {
    let part = bytes.get(at..at + length).unwrap_or_default();
    let mut wide = [0; 8];
    let start = if cfg!(target_endian = "little") { 0 } else { 8 - part.len() };
    wide[start..start + part.len()].copy_from_slice(part);
    u64::from_ne_bytes(wide)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::{TcpListener, TcpStream},
    };

    use super::*;

    #[test]
    fn what_came_over_a_connection_is_counted_at_the_end_that_received_it() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            // A machine without IPv6.
            let Ok(listener) = TcpListener::bind(address) else { continue };
            let server = listener.local_addr().unwrap();
            let mut client = TcpStream::connect(server).unwrap();
            let (mut accepted, _) = listener.accept().unwrap();
            accepted.write_all(&[7; 1234]).unwrap();
            client.read_exact(&mut [0; 1234]).unwrap();
            let received = received_from(server).unwrap();
            assert_eq!(received, [(client.local_addr().unwrap(), 1234)].into());
        }
    }
}
