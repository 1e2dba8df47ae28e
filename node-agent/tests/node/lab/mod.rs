//! Nodes and pods as network namespaces, for tests with real packets.
//!
//! A namespace lives as long as the value that stands for it: nothing has a name on the machine, so
//! nothing is left behind, however the test ends.

pub(crate) mod node;

use std::{
    fs::File,
    io::{self, ErrorKind},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    process::Command,
    thread,
    time::Duration,
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
    let target = SocketAddr::new(address.parse().unwrap(), port);
    let _listener = to.enter(|| TcpListener::bind(any(target.ip(), port)).unwrap());
    match from.enter(|| TcpStream::connect_timeout(&target, PATIENCE)) {
        Ok(_) => true,
        Err(error) if refused(&error) => false,
        Err(error) => panic!("TCP to {target}: {error}"),
    }
}

/// Whether a datagram from here gets there and its answer back.
pub(crate) fn udp(from: &Namespace, to: &Namespace, address: &str, port: u16) -> bool {
    udp_from(from, 0, to, address, port)
}

/// As [`udp`], from a port of its own.
pub(crate) fn udp_from(
    from: &Namespace,
    source: u16,
    to: &Namespace,
    address: &str,
    port: u16,
) -> bool {
    let target = SocketAddr::new(address.parse().unwrap(), port);
    let server = to.enter(|| UdpSocket::bind(any(target.ip(), port)).unwrap());
    let client = from.enter(|| UdpSocket::bind(any(target.ip(), source)).unwrap());
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

fn any(like: IpAddr, port: u16) -> SocketAddr {
    let any = if like.is_ipv4() { "0.0.0.0" } else { "::" };
    SocketAddr::new(any.parse().unwrap(), port)
}
