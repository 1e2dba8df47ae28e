//! The exchanges of a probe: each pair's tag goes to the target, is counted there, and comes back.
//!
//! Sockets are opened by a thread inside the pod's namespace and stay in it; one runtime then serves all of them.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpSocket, UdpSocket},
    runtime::Handle,
    task::JoinSet,
    time::{interval, timeout},
};

use super::{Port, Protocol, Trial};
use crate::lab::{network::inside, plan::Pod};

/// How long a pair may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often a datagram is sent until it comes back.
const RESEND: Duration = Duration::from_millis(150);
/// How many pairs are tried at once, if so many files may be open: up to four for a pair.
const AT_ONCE: u64 = 2000;
const FILES_OF_A_PAIR: u64 = 4;
/// The longest tag.
const MAX_TAG: usize = 512;

/// What reached a pod, as it counted it itself.
type Received = Arc<Mutex<BTreeSet<String>>>;

/// Whether each pair connects: the target got its tag, and the sender got it back.
pub(super) fn run(pairs: &[(&Pod, &Pod)], trial: Trial) -> anyhow::Result<Vec<bool>> {
    // The usual soft limit is 1024.
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let mut connected = Vec::with_capacity(pairs.len());
    let at_once = (hard / FILES_OF_A_PAIR / 2).clamp(1, AT_ONCE) as usize;
    for pairs in pairs.chunks(at_once) {
        connected.extend(runtime.block_on(some(pairs, trial))?);
    }
    Ok(connected)
}

async fn some(pairs: &[(&Pod, &Pod)], trial: Trial) -> anyhow::Result<Vec<bool>> {
    let Trial { port, ipv6, number } = trial;
    let mut targets = JoinSet::new();
    let mut received: BTreeMap<&str, Received> = BTreeMap::new();
    for (_, to) in pairs {
        if received.contains_key(to.netns.as_str()) {
            continue;
        }
        let counted = Received::default();
        received.insert(&to.netns, counted.clone());
        let socket = Target::open(to, port, ipv6).with_context(|| {
            format!("pod {to} can't listen on {port}: probe a port that nothing in it uses")
        })?;
        targets.spawn(socket.serve(counted));
    }
    let mut senders = JoinSet::new();
    for (from, tries) in tries(pairs, trial) {
        let opened = match port.protocol {
            Protocol::Tcp => spawn_tcp(&mut senders, from, tries),
            Protocol::Udp => spawn_udp(&mut senders, from, tries, number),
        };
        opened.with_context(|| format!("opening a socket in pod {from}"))?;
    }
    let mut echoed = BTreeSet::new();
    while let Some(done) = senders.join_next().await {
        echoed.extend(done.context("a sender")?);
    }
    // The next pairs may have the same targets, on the same port.
    targets.shutdown().await;
    let connected = pairs.iter().map(|(from, to)| {
        let tag = tag(number, from, to);
        let counted = received[to.netns.as_str()].lock().unwrap_or_else(PoisonError::into_inner);
        echoed.contains(&tag) && counted.contains(&tag)
    });
    Ok(connected.collect())
}

fn tag(number: u64, from: &Pod, to: &Pod) -> String {
    format!("{number} {from} {to}")
}

/// Where a tag goes.
type Try = (SocketAddr, String);

/// The tries of each pod.
fn tries<'a>(pairs: &[(&'a Pod, &Pod)], trial: Trial) -> Vec<(&'a Pod, Vec<Try>)> {
    let mut tries: BTreeMap<&str, (&Pod, Vec<Try>)> = BTreeMap::new();
    for (from, to) in pairs {
        let target = SocketAddr::new(to.addresses[usize::from(trial.ipv6)], trial.port.number);
        let (_, all) = tries.entry(&from.netns).or_insert_with(|| (from, Vec::new()));
        all.push((target, tag(trial.number, from, to)));
    }
    tries.into_values().collect()
}

fn unspecified(ipv6: bool, port: u16) -> SocketAddr {
    let address: IpAddr =
        if ipv6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    SocketAddr::new(address, port)
}

/// The socket of a pod that is tried.
enum Target {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

impl Target {
    fn open(pod: &Pod, port: Port, ipv6: bool) -> io::Result<Self> {
        let address = unspecified(ipv6, port.number);
        let runtime = Handle::current();
        inside(&pod.netns, || {
            let _runtime = runtime.enter();
            match port.protocol {
                Protocol::Tcp => {
                    let socket = std::net::TcpListener::bind(address)?;
                    socket.set_nonblocking(true)?;
                    TcpListener::from_std(socket).map(Self::Tcp)
                }
                Protocol::Udp => udp(address).map(Self::Udp),
            }
        })
    }

    /// Counts tags and sends them back, until it is dropped.
    async fn serve(self, received: Received) {
        let count = move |tag: &str| {
            received.lock().unwrap_or_else(PoisonError::into_inner).insert(tag.to_owned());
        };
        match self {
            Self::Tcp(listener) => {
                let mut connections = JoinSet::new();
                // A connection that failed is its sender's business.
                loop {
                    let Ok((stream, _)) = listener.accept().await else { continue };
                    let count = count.clone();
                    connections.spawn(async move {
                        let mut stream = BufReader::new(stream);
                        let mut line = String::new();
                        if stream.read_line(&mut line).await.is_ok() {
                            count(line.trim_end());
                            let _ = stream.write_all(line.as_bytes()).await;
                        }
                    });
                }
            }
            Self::Udp(socket) => {
                let mut buffer = [0; MAX_TAG];
                loop {
                    // An error here is the echo of an echo that found nobody.
                    let Ok((length, sender)) = socket.recv_from(&mut buffer).await else {
                        continue;
                    };
                    count(&String::from_utf8_lossy(&buffer[..length]));
                    let _ = socket.send_to(&buffer[..length], sender).await;
                }
            }
        }
    }
}

/// The tags that came back in time.
type Senders = JoinSet<Vec<String>>;

fn spawn_tcp(senders: &mut Senders, from: &Pod, tries: Vec<Try>) -> io::Result<()> {
    let sockets: Vec<(TcpSocket, Try)> = inside(&from.netns, || {
        let open = |(target, tag): Try| {
            let socket = if target.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
            Ok((socket?, (target, tag)))
        };
        tries.into_iter().map(open).collect()
    })?;
    for (socket, (target, tag)) in sockets {
        senders.spawn(async move {
            let exchange = timeout(PATIENCE, over_tcp(socket, target, &tag)).await;
            if matches!(exchange, Ok(Ok(true))) { vec![tag] } else { Vec::new() }
        });
    }
    Ok(())
}

async fn over_tcp(socket: TcpSocket, target: SocketAddr, tag: &str) -> io::Result<bool> {
    let mut stream = BufReader::new(socket.connect(target).await?);
    stream.write_all(format!("{tag}\n").as_bytes()).await?;
    let mut echo = String::new();
    stream.read_line(&mut echo).await?;
    Ok(echo.trim_end() == tag)
}

fn spawn_udp(
    senders: &mut Senders,
    from: &Pod,
    mut tries: Vec<Try>,
    number: u64,
) -> io::Result<()> {
    let ipv6 = tries.first().is_some_and(|(target, _)| target.is_ipv6());
    let runtime = Handle::current();
    let socket = inside(&from.netns, || {
        let _runtime = runtime.enter();
        fresh_udp(ipv6, number)
    })?;
    senders.spawn(async move {
        let mut echoed = Vec::new();
        // Out of time: what came back until then counts.
        let _ = timeout(PATIENCE, over_udp(&socket, &mut tries, &mut echoed)).await;
        echoed
    });
    Ok(())
}

/// Sends each tag again and again until it came back.
async fn over_udp(socket: &UdpSocket, tries: &mut Vec<Try>, echoed: &mut Vec<String>) {
    let mut resend = interval(RESEND);
    let mut buffer = [0; MAX_TAG];
    while !tries.is_empty() {
        tokio::select! {
            _ = resend.tick() => {
                for (target, tag) in tries.iter() {
                    // What an earlier datagram met (a rejection) is reported here: the next may fare better.
                    let _ = socket.send_to(tag.as_bytes(), target).await;
                }
            }
            echo = socket.recv_from(&mut buffer) => {
                let Ok((length, from)) = echo else { continue };
                let is_echo = |(target, tag): &Try| *target == from && tag.as_bytes() == &buffer[..length];
                if let Some(index) = tries.iter().position(is_echo) {
                    echoed.push(tries.swap_remove(index).1);
                }
            }
        }
    }
}

fn udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let socket = std::net::UdpSocket::bind(address)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket)
}

/// A UDP socket on a port that the last 50,000 probes didn't have. The kernel would pick one at random, and once in a
/// while the one of an earlier probe: its flow, which the kernel remembers for up to three minutes and lets pass, would
/// make a pair connect that policy keeps apart by now.
fn fresh_udp(ipv6: bool, number: u64) -> io::Result<UdpSocket> {
    const FIRST: u16 = 10_000;
    const COUNT: u64 = 50_000;
    let mut taken = io::ErrorKind::AddrInUse.into();
    // Some may be taken by what runs in the pod.
    for offset in 0..100 {
        let port = FIRST + ((number + offset) % COUNT) as u16;
        match udp(unspecified(ipv6, port)) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => taken = error,
            opened => return opened,
        }
    }
    Err(taken)
}
