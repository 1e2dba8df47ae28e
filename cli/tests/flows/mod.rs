//! Numbered packets between pods of a lab, at a steady rate, and which of them arrived.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::sched::{CloneFlags, setns};

/// The time between two packets of a flow.
pub(crate) const PAUSE: Duration = Duration::from_millis(10);
/// How long a packet that was sent may take to arrive.
const LATE: Duration = Duration::from_secs(2);

/// Where a flow ends: a pod's namespace and address.
#[derive(Clone)]
pub(crate) struct End {
    pub(crate) netns: String,
    pub(crate) address: Ipv4Addr,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    /// One connection.
    Tcp,
    /// One socket, to the kernel one flow.
    Udp,
    /// Each from a port of its own: to the kernel each a new flow, which policy decides on anew.
    NewUdp,
}

/// Packets on their way from one pod to another.
pub(crate) struct Flow {
    pub(crate) name: String,
    sent: Arc<AtomicU64>,
    arrived: Arc<Mutex<BTreeSet<u64>>>,
    stop: Arc<AtomicBool>,
    sender: JoinHandle<()>,
    receiver: JoinHandle<()>,
}

/// Runs in a namespace, on a thread of its own.
fn inside<T: Send + 'static>(
    netns: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    let netns = File::open(Path::new("/run/netns").join(netns)).unwrap();
    thread::spawn(move || {
        setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
        work()
    })
}

impl Flow {
    /// Starts a flow to a port that nobody else uses.
    pub(crate) fn start(kind: Kind, from: &End, to: &End, port: u16) -> Self {
        let name = format!("{kind:?} {} -> {}", from.netns, to.netns);
        let sent = Arc::new(AtomicU64::new(0));
        let arrived = Arc::new(Mutex::new(BTreeSet::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let target = SocketAddr::from((to.address, port));
        let (seen, ended) = (arrived.clone(), stop.clone());
        let receiver = match kind {
            Kind::Tcp => {
                let listener = inside(&to.netns, move || TcpListener::bind(target).unwrap());
                let listener = listener.join().unwrap();
                thread::spawn(move || receive_tcp(&listener, &seen))
            }
            Kind::Udp | Kind::NewUdp => {
                let socket = inside(&to.netns, move || UdpSocket::bind(target).unwrap());
                let socket = socket.join().unwrap();
                thread::spawn(move || receive_udp(&socket, &seen, &ended))
            }
        };
        let (count, ended) = (sent.clone(), stop.clone());
        let sender = inside(&from.netns, move || {
            let mut stream = (kind == Kind::Tcp).then(|| TcpStream::connect(target).unwrap());
            let open = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
            let mut socket = open();
            let begin = Instant::now();
            for number in 0.. {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let due = begin + PAUSE * number as u32;
                thread::sleep(due.saturating_duration_since(Instant::now()));
                let packet = u64::to_be_bytes(number);
                if let Some(stream) = &mut stream {
                    stream.write_all(&packet).unwrap();
                } else {
                    if kind == Kind::NewUdp {
                        socket = open();
                    }
                    // What can't be sent is lost as well.
                    let _ = socket.send_to(&packet, target);
                }
                count.store(number + 1, Ordering::SeqCst);
            }
        });
        Self { name, sent, arrived, stop, sender, receiver }
    }

    /// How many packets were sent until now.
    pub(crate) fn sent(&self) -> u64 {
        self.sent.load(Ordering::SeqCst)
    }

    /// Ends the flow; the numbers that arrived.
    pub(crate) fn end(self) -> BTreeSet<u64> {
        self.stop.store(true, Ordering::SeqCst);
        self.sender.join().expect("the sender");
        self.receiver.join().expect("the receiver");
        std::mem::take(&mut *self.arrived.lock().unwrap())
    }
}

fn receive_tcp(listener: &TcpListener, arrived: &Mutex<BTreeSet<u64>>) {
    let (mut stream, _) = listener.accept().unwrap();
    let mut packet = [0; 8];
    // The sender closes at its end.
    while stream.read_exact(&mut packet).is_ok() {
        arrived.lock().unwrap().insert(u64::from_be_bytes(packet));
    }
}

fn receive_udp(socket: &UdpSocket, arrived: &Mutex<BTreeSet<u64>>, stop: &AtomicBool) {
    socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
    let mut packet = [0; 8];
    let mut quiet = Instant::now();
    while !stop.load(Ordering::SeqCst) || quiet.elapsed() < LATE {
        if let Ok(8) = socket.recv(&mut packet) {
            quiet = Instant::now();
            arrived.lock().unwrap().insert(u64::from_be_bytes(packet));
        }
    }
}

/// How often TCP in a namespace had to send a segment again.
pub(crate) fn retransmitted(netns: &str) -> u64 {
    let text = inside(netns, || fs::read_to_string("/proc/thread-self/net/snmp").unwrap());
    let text = text.join().unwrap();
    let mut tcp = text.lines().filter_map(|line| line.strip_prefix("Tcp:"));
    let (names, values) = (tcp.next().unwrap(), tcp.next().unwrap());
    let mut columns = names.split_whitespace().zip(values.split_whitespace());
    let (_, value) = columns.find(|(name, _)| *name == "RetransSegs").unwrap();
    value.parse().unwrap()
}
