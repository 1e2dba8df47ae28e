//! Servers as processes that are killed or stopped and come back, and proxies that are late, stall, or are cut.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::common::bulrush;

/// A port that nobody has, below those that the kernel gives to outgoing connections.
fn free_port() -> u16 {
    loop {
        let port = rand::random_range(10_000..32_768);
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// A typha as a process of its own, always at the same addresses.
pub(crate) struct Server {
    name: &'static str,
    store: String,
    port: u16,
    health: u16,
    status: u16,
    log: PathBuf,
    child: Option<Child>,
}

impl Server {
    pub(crate) fn new(name: &'static str, store: &str, folder: &Path) -> Self {
        let [port, health, status] = [free_port(), free_port(), free_port()];
        let (store, log) = (store.to_owned(), folder.join(format!("{name}.log")));
        Self { name, store, port, health, status, log, child: None }
    }

    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn runs(&self) -> bool {
        self.child.is_some()
    }

    pub(crate) fn start(&mut self) {
        let log = File::options().create(true).append(true).open(&self.log).unwrap();
        let flags = [("--port", self.port), ("--health-port", self.health)];
        let flags =
            flags.into_iter().chain([("--metrics-port", 0), ("--status-port", self.status)]);
        // As a child that ends with this process, however it ends.
        let mut command = bulrush();
        let program = bulrush();
        command.args(["loadtest", "--part", "program", "--"]).arg(program.get_program());
        command.args(["run", "typha", "--store", &self.store]);
        command.args(flags.flat_map(|(flag, port)| [flag.to_owned(), port.to_string()]));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        self.child = Some(command.spawn().expect("the program starts"));
    }

    /// `kill -9`.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Whether it ended by itself: at its start it does when the store can't be reached.
    pub(crate) fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().is_ok_and(|end| end.is_some()))
    }

    /// Stops it where it is, as a machine that hangs; or lets it go on.
    pub(crate) fn freeze(&self, frozen: bool) {
        if let Some(child) = &self.child {
            let signal = if frozen { Signal::SIGSTOP } else { Signal::SIGCONT };
            signal::kill(Pid::from_raw(child.id().cast_signed()), signal).expect("our child");
        }
    }

    /// Whether it is in sync, and serves.
    pub(crate) async fn is_ready(&self) -> bool {
        get(self.health, "/readiness")
            .await
            .is_some_and(|answer| answer.starts_with("HTTP/1.0 200"))
    }

    /// What it says of itself; none while it doesn't answer.
    pub(crate) async fn status(&self) -> Option<Value> {
        let answer = get(self.status, "/api/v1/status").await?;
        serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
    }

    /// Where it says so.
    pub(crate) fn status_address(&self) -> String {
        format!("127.0.0.1:{}", self.status)
    }

    /// The version of the store that it serves.
    pub(crate) async fn version(&self) -> Option<u64> {
        self.status().await?["streams"][0]["version"].as_u64()
    }

    fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- {}:\n{}", self.name, self.last_words());
        }
    }
}

/// The answer of an HTTP server on loopback; none when there is none soon.
async fn get(port: u16, path: &str) -> Option<String> {
    let exchange = async {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.ok()?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer)
    };
    timeout(Duration::from_secs(2), exchange).await.ok().flatten()
}

/// How a proxy treats what passes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Way {
    /// What the server says comes so much later.
    pub(crate) lag: Duration,
    /// What the server says comes in pieces, so that a cut tears it.
    pub(crate) is_slow: bool,
    /// Nothing passes, in neither direction; it waits.
    pub(crate) is_stalled: bool,
    /// Connections end, and new ones at once.
    pub(crate) is_cut: bool,
}

/// Before a server, on loopback.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    way: watch::Sender<Way>,
}

impl Proxy {
    /// `server` is an address, or a URL with one.
    pub(crate) async fn before(server: &str) -> Self {
        let server: SocketAddr = server.trim_start_matches("http://").parse().unwrap();
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (way, ways) = watch::channel(Way::default());
        tokio::spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else { continue };
                if !ways.borrow().is_cut {
                    tokio::spawn(connection(client, server, ways.clone()));
                }
            }
        });
        Self { address, way }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// From now on.
    pub(crate) fn set(&self, way: Way) {
        self.way.send_replace(way);
    }
}

/// Ends when either side does, or when it is cut.
async fn connection(client: TcpStream, server: SocketAddr, mut ways: watch::Receiver<Way>) {
    let Ok(server) = TcpStream::connect(server).await else { return };
    let (client_in, client_out) = client.into_split();
    let (server_in, server_out) = server.into_split();
    tokio::select! {
        () = pass(client_in, server_out, false, ways.clone()) => {}
        () = pass(server_in, client_out, true, ways.clone()) => {}
        _ = ways.wait_for(|way| way.is_cut) => {}
    }
}

/// How a slow way lets bytes through: so many, and so long nothing.
const PIECE: usize = 256;
const PAUSE: Duration = Duration::from_millis(5);

/// Bytes keep their order, whatever happens to the lag.
async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    is_late: bool,
    mut ways: watch::Receiver<Way>,
) {
    let (queue, mut late) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let reading = ways.clone();
    let read = async {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            let lag = if is_late { reading.borrow().lag } else { Duration::ZERO };
            let _ = queue.send((Instant::now() + lag, buffer[..count].to_vec()));
        }
    };
    let write = async {
        while let Some((due, bytes)) = late.recv().await {
            sleep_until(due).await;
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                // An error: the proxy is gone.
                let Ok(is_slow) = ways.wait_for(|way| !way.is_stalled).await.map(|way| way.is_slow)
                else {
                    return;
                };
                let is_slow = is_late && is_slow;
                let piece;
                (piece, rest) =
                    rest.split_at(if is_slow { PIECE.min(rest.len()) } else { rest.len() });
                if to.write_all(piece).await.is_err() {
                    return;
                }
                if is_slow {
                    sleep(PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        () = read => {}
        () = write => {}
    }
}
