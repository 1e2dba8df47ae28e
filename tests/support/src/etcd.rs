//! A real etcd of one member, on loopback, for as long as a value lives.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::find::snapshot_restorer;
use crate::free_port;
use crate::process::{Folder, Process};

/// How long etcd may take to serve; it takes about half a second.
const START: Duration = Duration::from_secs(30);
/// How often another port is tried when someone took it between our look and etcd's bind.
const TRIES: usize = 5;

/// An etcd of one member, always at the same address. Dropping it, or the end of the test binary, kills the process and
/// removes its data.
#[derive(Debug)]
pub struct RealEtcd {
    binary: PathBuf,
    /// None: it was killed.
    process: Option<Process>,
    client: u16,
    peer: u16,
    endpoint: String,
    folder: Folder,
}

/// What was in the store at a time: see [`RealEtcd::backup`].
#[derive(Debug)]
pub struct Backup {
    path: PathBuf,
    restorer: Option<PathBuf>,
}

impl RealEtcd {
    /// Starts `binary` (see [`crate::etcd_binaries`]) with an empty store, and returns when it serves.
    ///
    /// # Panics
    /// When it doesn't serve within 30 s, with its log.
    pub fn start(binary: &Path) -> Self {
        let mut last = String::new();
        for _ in 0..TRIES {
            let (client, peer) = (free_port(), free_port());
            let mut etcd = Self {
                binary: binary.to_owned(),
                process: None,
                client,
                peer,
                endpoint: format!("http://127.0.0.1:{client}"),
                folder: Folder::new(),
            };
            match etcd.try_run() {
                Ok(()) => return etcd,
                Err(log) => last = log,
            }
        }
        panic!("{} doesn't serve; the end of its log:\n{last}", binary.display());
    }

    /// Where clients reach it, for example `http://127.0.0.1:35123`.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The process, for tests that stop it for a while.
    ///
    /// # Panics
    /// When it was killed.
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("it runs").pid()
    }

    /// Ends it at once, as a crash would.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts it again with the data that it has, and returns when it serves.
    ///
    /// # Panics
    /// When it doesn't serve within 30 s, with its log.
    pub fn run(&mut self) {
        if let Err(log) = self.try_run() {
            panic!("{} doesn't come back; the end of its log:\n{log}", self.binary.display());
        }
    }

    /// Saves what it has now: with etcd's own tool where that can also restore it, else as a copy of the data, for
    /// which etcd is restarted.
    ///
    /// # Panics
    /// When that can't be done.
    pub fn backup(&mut self) -> Backup {
        let path = self.folder.path().join("backup");
        let restorer = snapshot_restorer(&self.binary);
        if let Some(etcdctl) = &restorer {
            let endpoints = format!("--endpoints={}", self.endpoint());
            tool(etcdctl, &[&endpoints, "snapshot", "save", &path.display().to_string()]);
        } else {
            self.kill();
            copy(&self.data(), &path);
            self.run();
        }
        Backup { path, restorer }
    }

    /// Goes on with what was saved: the same cluster, back in time. Returns when it serves.
    ///
    /// # Panics
    /// When it can't, with etcd's log.
    pub fn restore(&mut self, backup: &Backup) {
        self.kill();
        std::fs::remove_dir_all(self.data()).expect("its data can be removed");
        if let Some(etcdctl) = &backup.restorer {
            let (file, data) = (backup.path.display().to_string(), self.data());
            let mut arguments = vec!["snapshot", "restore", &file];
            let data = format!("--data-dir={}", data.display());
            let cluster = format!("--initial-cluster={}", self.cluster());
            let peer = format!("--initial-advertise-peer-urls={}", self.peer_url());
            arguments.extend(["--name=real", &data, &cluster, &peer]);
            tool(etcdctl, &arguments);
        } else {
            copy(&backup.path, &self.data());
        }
        self.run();
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn peer_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.peer)
    }

    fn cluster(&self) -> String {
        format!("real={}", self.peer_url())
    }

    fn try_run(&mut self) -> Result<(), String> {
        let (endpoint, peer_url, cluster) = (&self.endpoint, self.peer_url(), self.cluster());
        let data = self.data().display().to_string();
        let mut arguments = vec!["--name", "real", "--log-outputs", "stderr"];
        arguments.extend(["--unsafe-no-fsync=true", "--data-dir", &data]);
        arguments.extend(["--listen-client-urls", endpoint, "--advertise-client-urls", endpoint]);
        arguments.extend(["--listen-peer-urls", &peer_url]);
        arguments.extend(["--initial-advertise-peer-urls", &peer_url]);
        arguments.extend(["--initial-cluster", &cluster]);
        let mut process = Process::spawn(&self.binary, &arguments, &self.folder.path().join("log"));
        let deadline = Instant::now() + START;
        while Instant::now() < deadline && !process.has_ended() {
            // The log tells that it is our etcd, and not a stranger on the same port, that answers.
            let is_ours = process.log().contains("ready to serve client requests");
            if is_ours && is_healthy(self.client) {
                self.process = Some(process);
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(process.log())
    }
}

fn tool(etcdctl: &Path, arguments: &[&str]) {
    let output = Command::new(etcdctl).args(arguments).env("ETCDCTL_API", "3").output();
    let output = output.expect("etcdctl starts");
    assert!(output.status.success(), "etcdctl {arguments:?}: {output:?}");
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder can be read") {
        let entry = entry.expect("an entry of a folder");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a file can be copied");
        }
    }
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
