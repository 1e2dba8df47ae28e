//! Servers as processes that are killed or stopped and come back.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::{
    fs::{self, File},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};
use serde_json::Value;
use support::free_port;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::common::bulrush;

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
