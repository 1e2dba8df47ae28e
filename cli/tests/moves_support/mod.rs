//! Servers as processes that are killed and come back, and a proxy that makes one of them lag.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::{
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    sync::mpsc,
    time::{Instant, sleep_until, timeout},
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
        let mut command = bulrush();
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

    /// Whether it is in sync, and serves.
    pub(crate) async fn is_ready(&self) -> bool {
        get(self.health, "/readiness")
            .await
            .is_some_and(|answer| answer.starts_with("HTTP/1.0 200"))
    }

    /// The version of the store that it serves.
    pub(crate) async fn version(&self) -> Option<u64> {
        let answer = get(self.status, "/api/v1/status").await?;
        let status: Value = serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()?;
        status["streams"][0]["version"].as_u64()
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

/// Before a store: what it says comes late.
pub(crate) struct Lag {
    pub(crate) url: String,
    milliseconds: Arc<AtomicU64>,
}

impl Lag {
    pub(crate) async fn before(store: &str) -> Self {
        let store: SocketAddr = store.trim_start_matches("http://").parse().unwrap();
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let milliseconds = Arc::new(AtomicU64::new(0));
        let lag = milliseconds.clone();
        tokio::spawn(async move {
            loop {
                let Ok((client, _)) = listener.accept().await else { continue };
                let lag = lag.clone();
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(store).await else { return };
                    let (client_in, client_out) = client.into_split();
                    let (server_in, server_out) = server.into_split();
                    tokio::select! {
                        () = pass(client_in, server_out, Arc::default()) => {}
                        () = pass(server_in, client_out, lag) => {}
                    }
                });
            }
        });
        Self { url, milliseconds }
    }

    /// What the store says from now on comes so much later.
    pub(crate) fn set(&self, lag: Duration) {
        self.milliseconds.store(lag.as_millis() as u64, Ordering::SeqCst);
    }
}

/// Ends when either side does. Bytes keep their order, whatever happens to the lag.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, lag: Arc<AtomicU64>) {
    let (queue, mut late) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    let read = async {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            let due = Instant::now() + Duration::from_millis(lag.load(Ordering::SeqCst));
            let _ = queue.send((due, buffer[..count].to_vec()));
        }
    };
    let write = async {
        while let Some((due, bytes)) = late.recv().await {
            sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = read => {}
        () = write => {}
    }
}
