//! Nodes and pods as network namespaces, for tests with real packets.
//!
//! A namespace lives as long as the value that stands for it: nothing has a name on the machine, so
//! nothing is left behind, however the test ends.

pub(crate) mod node;
pub(crate) mod raw;

use std::{
    fs::File,
    io::{self, ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, SocketAddrV6, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, setns, unshare};

/// How long a packet that must not come is waited for.
const PATIENCE: Duration = Duration::from_millis(300);
/// How long one that must come may take on a busy machine.
const DEADLINE: Duration = Duration::from_secs(5);

/// Whether tests with namespaces can run here; if they must (`BULRUSH_REQUIRE` lists `netns`) and
/// can't, the test fails.
pub(crate) fn available(test: &str) -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    let required = std::env::var("BULRUSH_REQUIRE").unwrap_or_default();
    assert!(
        !required.split(',').any(|word| word == "netns"),
        "BULRUSH_REQUIRE asks for network namespaces, which need root"
    );
    println!("SKIPPED: {test}: network namespaces need root");
    false
}

/// A network namespace.
pub(crate) struct Namespace(File);

impl Namespace {
    /// A new one, its loopback up.
    pub(crate) fn new() -> Self {
        let made = thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        });
        let new = Self(made.join().unwrap());
        new.ip("link set lo up");
        // Addresses are ours alone here; looking for duplicates would take a second each.
        new.run("echo 0 > /proc/sys/net/ipv6/conf/default/accept_dad");
        new
    }

    /// Does something inside: sockets that it opens stay inside.
    pub(crate) fn enter<T>(&self, inside: impl FnOnce() -> T) -> T {
        struct Back(File);
        impl Drop for Back {
            fn drop(&mut self) {
                setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
            }
        }
        let _back = Back(File::open("/proc/thread-self/ns/net").unwrap());
        setns(&self.0, CloneFlags::CLONE_NEWNET).unwrap();
        inside()
    }

    /// Where other programs find it.
    pub(crate) fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Runs a command inside, and fails the test if that fails; what it printed.
    pub(crate) fn run(&self, command: &str) -> String {
        let output = self.enter(|| Command::new("sh").args(["-c", command]).output().unwrap());
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command}: {error}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs `ip` inside.
    pub(crate) fn ip(&self, arguments: &str) -> String {
        self.run(&format!("ip {arguments}"))
    }

    /// A pod of this node: linked by `interface`, with an address and the usual gateway.
    pub(crate) fn pod(&self, interface: &str, addresses: &[&str]) -> Namespace {
        let pod = Namespace::new();
        self.ip(&format!("link add {interface} type veth peer name eth0 netns {}", pod.path()));
        self.ip(&format!("link set {interface} address ee:ee:ee:ee:ee:ee up"));
        pod.ip("link set eth0 up");
        for address in addresses {
            if address.contains(':') {
                pod.ip(&format!("addr add {address}/128 dev eth0 nodad"));
                pod.ip("-6 route add default via fe80::ecee:eeff:feee:eeee dev eth0");
            } else {
                pod.ip(&format!("addr add {address}/32 dev eth0"));
                pod.ip("route add 169.254.1.1 dev eth0 scope link");
                pod.ip("route add default via 169.254.1.1 dev eth0");
            }
        }
        pod
    }
}

/// A wire between two namespaces, with an address at each end.
pub(crate) fn wire(a: (&Namespace, &str, &str), b: (&Namespace, &str, &str)) {
    let (from, name, _) = a;
    from.ip(&format!("link add {name} type veth peer name {} netns {}", b.1, b.0.path()));
    for (namespace, name, address) in [a, b] {
        let nodad = if address.contains(':') { "nodad" } else { "" };
        namespace.ip(&format!("addr add {address} dev {name} {nodad}"));
        namespace.ip(&format!("link set {name} up"));
    }
}

/// Whether a TCP connection from here to there comes about. `address` is the target's, `from` the
/// source port, 0 for any.
pub(crate) fn tcp(from: &Namespace, to: &Namespace, address: &str, port: u16) -> bool {
    let target = resolve(from, address, port);
    let _listener = to.enter(|| bind(|| TcpListener::bind(any(target.ip(), port))));
    match from.enter(|| TcpStream::connect_timeout(&target, PATIENCE)) {
        Ok(_) => true,
        Err(error) if refused(&error) => false,
        Err(error) => panic!("TCP to {target}: {error}"),
    }
}

/// Whether a datagram from here gets there and its answer back.
pub(crate) fn udp(from: &Namespace, to: &Namespace, address: &str, port: u16) -> bool {
    let target = SocketAddr::new(address.parse().unwrap(), port);
    let server = to.enter(|| bind(|| UdpSocket::bind(any(target.ip(), port))));
    let client = from.enter(|| bind(|| UdpSocket::bind(any(target.ip(), 0))));
    client.connect(target).unwrap();
    if let Err(error) = client.send(b"ping") {
        assert!(refused(&error), "UDP to {target}: {error}");
        return false;
    }
    let mut buffer = [0; 16];
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let Ok((_, peer)) = server.recv_from(&mut buffer) else { return false };
    server.send_to(b"pong", peer).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client.recv(&mut buffer).expect("the answer to a datagram that got through");
    true
}

/// The address and port that a TCP server sees its client come from.
pub(crate) fn seen_from(from: &Namespace, to: &Namespace, address: &str, port: u16) -> SocketAddr {
    let target = resolve(from, address, port);
    let listener = to.enter(|| bind(|| TcpListener::bind(any(target.ip(), port))));
    let _client = from.enter(|| TcpStream::connect_timeout(&target, DEADLINE).unwrap());
    listener.accept().unwrap().1
}

/// The address and port that a UDP server sees a client come from that sends from port `source`.
pub(crate) fn udp_seen_from(
    from: &Namespace,
    source: u16,
    to: &Namespace,
    address: &str,
    port: u16,
) -> SocketAddr {
    let target = resolve(from, address, port);
    let server = to.enter(|| bind(|| UdpSocket::bind(any(target.ip(), port))));
    let client = from.enter(|| bind(|| UdpSocket::bind(any(target.ip(), source))));
    client.send_to(b"ping", target).unwrap();
    server.set_read_timeout(Some(DEADLINE)).unwrap();
    let (_, peer) = server.recv_from(&mut [0; 16]).unwrap();
    server.send_to(b"pong", peer).unwrap();
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    client.recv(&mut [0; 16]).expect("the answer finds its way back");
    peer
}

/// An open connection.
pub(crate) struct Talk {
    client: TcpStream,
    server: TcpStream,
}

impl Talk {
    pub(crate) fn start(from: &Namespace, to: &Namespace, address: &str, port: u16) -> Self {
        let target = SocketAddr::new(address.parse().unwrap(), port);
        let listener = to.enter(|| bind(|| TcpListener::bind(any(target.ip(), port))));
        let client = from.enter(|| TcpStream::connect_timeout(&target, DEADLINE).unwrap());
        let (server, _) = listener.accept().unwrap();
        server.set_read_timeout(Some(DEADLINE)).unwrap();
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        Self { client, server }
    }

    /// A byte there and back.
    pub(crate) fn exchange(&mut self) {
        let mut byte = [0];
        self.client.write_all(b"?").unwrap();
        self.server.read_exact(&mut byte).unwrap();
        self.server.write_all(b"!").unwrap();
        self.client.read_exact(&mut byte).unwrap();
    }
}

/// Binds a socket. A closed one lives on for a moment in a child process that another test has just
/// forked and that has not become its program yet.
fn bind<T>(open: impl Fn() -> io::Result<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match open() {
            Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                thread::yield_now();
            }
            result => return result.unwrap(),
        }
    }
}

/// Whether the error is what a packet that was dropped or rejected leads to.
fn refused(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::TimedOut
            | ErrorKind::WouldBlock
            | ErrorKind::ConnectionRefused
            | ErrorKind::HostUnreachable
            | ErrorKind::NetworkUnreachable
    )
}

/// Reads an address; after a link-local one comes `%` and the sender's interface.
fn resolve(from: &Namespace, address: &str, port: u16) -> SocketAddr {
    let Some((address, interface)) = address.split_once('%') else {
        return SocketAddr::new(address.parse().unwrap(), port);
    };
    let index = from.run(&format!("cat /proc/net/dev_snmp6/{interface} | head -1"));
    let index = index.split_whitespace().last().unwrap().parse().unwrap();
    SocketAddrV6::new(address.parse().unwrap(), port, 0, index).into()
}

fn any(like: IpAddr, port: u16) -> SocketAddr {
    let any = if like.is_ipv4() { "0.0.0.0" } else { "::" };
    SocketAddr::new(any.parse().unwrap(), port)
}
