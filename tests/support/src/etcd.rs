//! A real etcd of one member, on loopback, for as long as a value lives.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// How long etcd may take to serve; it takes about half a second.
const START: Duration = Duration::from_secs(30);
/// How often another port is tried when someone took it between our look and etcd's bind.
const TRIES: usize = 5;

/// A running etcd of one member with an empty store. Dropping it kills the process and removes its data.
#[derive(Debug)]
pub struct RealEtcd {
    process: Child,
    endpoint: String,
    folder: TempDir,
}

impl RealEtcd {
    /// Starts `binary` (see [`crate::etcd_binaries`]) and returns when it serves.
    ///
    /// # Panics
    /// When it doesn't serve within 30 s, with its log.
    pub fn start(binary: &Path) -> Self {
        let mut last = String::new();
        for _ in 0..TRIES {
            match Self::try_start(binary) {
                Ok(etcd) => return etcd,
                Err(log) => last = log,
            }
        }
        panic!("{} doesn't serve; the end of its log:\n{last}", binary.display());
    }

    /// Where clients reach it, for example `http://127.0.0.1:35123`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The process, for tests that stop or kill it.
    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    fn try_start(binary: &Path) -> Result<Self, String> {
        let folder = tempfile::tempdir().expect("a folder for etcd's data");
        let log_path = folder.path().join("log");
        let log = File::create(&log_path).expect("a file for etcd's log");
        // Both ports are held until both are known, so that they differ.
        let (client, peer) = (free_port(), free_port());
        let port = |listener: TcpListener| {
            listener.local_addr().expect("a bound listener has an address").port()
        };
        let (client, peer) = (port(client), port(peer));
        let endpoint = format!("http://127.0.0.1:{client}");
        let peer_url = format!("http://127.0.0.1:{peer}");
        let process = Command::new(binary)
            .args(["--name", "real", "--log-outputs", "stderr", "--unsafe-no-fsync=true"])
            .arg("--data-dir")
            .arg(folder.path().join("data"))
            .args(["--listen-client-urls", &endpoint, "--advertise-client-urls", &endpoint])
            .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
            .args(["--initial-cluster", &format!("real={peer_url}")])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle of the log"))
            .stderr(log)
            .spawn()
            .map_err(|error| error.to_string())?;
        // From here on a drop kills the process.
        let mut etcd = Self { process, endpoint, folder };
        let deadline = Instant::now() + START;
        while Instant::now() < deadline {
            let ended = etcd.process.try_wait().expect("the state of our own child").is_some();
            if ended {
                break;
            }
            // The log tells that it is our etcd, and not a stranger on the same port, that answers.
            if etcd.log().contains("ready to serve client requests") && is_healthy(client) {
                return Ok(etcd);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(etcd.log())
    }

    fn log(&self) -> String {
        let bytes = std::fs::read(self.folder.path().join("log")).unwrap_or_default();
        let end = &bytes[bytes.len().saturating_sub(4000)..];
        String::from_utf8_lossy(end).into_owned()
    }
}

impl Drop for RealEtcd {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_port() -> TcpListener {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port on loopback")
}

fn is_healthy(port: u16) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream
            .write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.contains(r#""health":"true""#))
}
