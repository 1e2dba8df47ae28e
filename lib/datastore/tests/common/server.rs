//! An etcd that a test can stop, restart with its data, empty, and give certificates.

use std::fs::File;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use support::free_port;
use tempfile::TempDir;

const START: Duration = Duration::from_secs(30);

/// One member on loopback, always at the same address. Dropping it kills it and removes its data.
pub struct Server {
    binary: PathBuf,
    folder: TempDir,
    client: u16,
    peer: u16,
    arguments: Vec<String>,
    tls: bool,
    process: Option<Child>,
}

impl Server {
    pub fn start(binary: &Path) -> Self {
        Self::start_with(binary, &[])
    }

    /// With arguments of etcd; certificates among them mean TLS.
    pub fn start_with(binary: &Path, arguments: &[&str]) -> Self {
        for _ in 0..5 {
            let (client, peer) = (free_port(), free_port());
            let mut server = Self {
                binary: binary.to_owned(),
                folder: tempfile::tempdir().unwrap(),
                client,
                peer,
                arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
                tls: arguments.contains(&"--cert-file"),
                process: None,
            };
            if server.try_run() {
                return server;
            }
        }
        panic!("{} doesn't serve", binary.display());
    }

    pub fn url(&self) -> String {
        format!("{}://127.0.0.1:{}", self.scheme(), self.client)
    }

    pub fn port(&self) -> u16 {
        self.client
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    /// Starts it again, with the data that it had.
    pub fn run(&mut self) {
        assert!(self.try_run(), "{} doesn't come back", self.binary.display());
    }

    /// Removes its data while it is down. With the same name and address it gets the same cluster id.
    pub fn lose_data(&self) {
        assert!(self.process.is_none(), "still running");
        std::fs::remove_dir_all(self.data()).unwrap();
    }

    pub fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn scheme(&self) -> &'static str {
        if self.tls { "https" } else { "http" }
    }

    fn try_run(&mut self) -> bool {
        let log_path = self.folder.path().join("log");
        let log = File::create(&log_path).unwrap();
        let (client, peer) = (self.url(), format!("http://127.0.0.1:{}", self.peer));
        let process = Command::new(&self.binary)
            .args(["--name", "test", "--log-outputs", "stderr", "--unsafe-no-fsync=true"])
            .arg("--data-dir")
            .arg(self.data())
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("test={peer}")])
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(process);
        let deadline = Instant::now() + START;
        let ready = |log: &Path| {
            std::fs::read_to_string(log).is_ok_and(|text| text.contains("ready to serve client"))
        };
        while Instant::now() < deadline {
            if self.process.as_mut().unwrap().try_wait().unwrap().is_some() {
                break;
            }
            if ready(&log_path) && TcpStream::connect((Ipv4Addr::LOCALHOST, self.client)).is_ok() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        eprintln!("{}", std::fs::read_to_string(&log_path).unwrap_or_default());
        self.kill();
        false
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
