//! A real etcd of one member, on loopback, for as long as a value lives.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

use crate::process::{Folder, Process};

/// How long etcd may take to serve; it takes about half a second.
const START: Duration = Duration::from_secs(30);
/// How often another port is tried when someone took it between our look and etcd's bind.
const TRIES: usize = 5;

/// A running etcd of one member with an empty store. Dropping it, or the end of the test binary, kills the process and
/// removes its data.
#[derive(Debug)]
pub struct RealEtcd {
    process: Process,
    endpoint: String,
    _folder: Folder,
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
        self.process.pid()
    }

    fn try_start(binary: &Path) -> Result<Self, String> {
        let folder = Folder::new();
        // Both ports are held until both are known, so that they differ.
        let (client, peer) = (free_port(), free_port());
        let port = |listener: TcpListener| {
            listener.local_addr().expect("a bound listener has an address").port()
        };
        let (client, peer) = (port(client), port(peer));
        let endpoint = format!("http://127.0.0.1:{client}");
        let peer_url = format!("http://127.0.0.1:{peer}");
        let data = folder.path().join("data").display().to_string();
        let cluster = format!("real={peer_url}");
        let mut arguments = vec!["--name", "real", "--log-outputs", "stderr"];
        arguments.extend(["--unsafe-no-fsync=true", "--data-dir", &data]);
        arguments.extend(["--listen-client-urls", &endpoint, "--advertise-client-urls", &endpoint]);
        arguments.extend(["--listen-peer-urls", &peer_url]);
        arguments.extend(["--initial-advertise-peer-urls", &peer_url]);
        arguments.extend(["--initial-cluster", &cluster]);
        let process = Process::spawn(binary, &arguments, &folder.path().join("log"));
        // From here on a drop kills the process.
        let mut etcd = Self { process, endpoint, _folder: folder };
        let deadline = Instant::now() + START;
        while Instant::now() < deadline && !etcd.process.has_ended() {
            // The log tells that it is our etcd, and not a stranger on the same port, that answers.
            let is_ours = etcd.process.log().contains("ready to serve client requests");
            if is_ours && is_healthy(client) {
                return Ok(etcd);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(etcd.process.log())
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
