//! Where a document's commands run: a folder of their own, with a store, or in namespaces of their own.

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use super::shape;

/// How long a line of a program that goes on running may take.
const PATIENCE: Duration = Duration::from_secs(90);
/// After so many seconds a command is ended.
const LIMIT: &str = "300";
/// The parts, by the names that they have when they are built alone.
const PARTS: &[(&str, &str)] =
    &[("typha", "run typha"), ("node-agent", "run node-agent"), ("loadtest", "loadtest")];

/// A place to run commands at. What runs there ends with it.
pub(crate) struct Place {
    folder: tempfile::TempDir,
    environment: Vec<(String, String)>,
    programs: Vec<PathBuf>,
    running: Vec<Running>,
    namespaces: Option<Namespaces>,
}

impl Place {
    /// On this machine, with these variables and programs.
    pub(crate) fn here(environment: &[(&str, &str)], programs: Vec<PathBuf>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let environment =
            environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Self {
            environment: environment.collect(),
            programs,
            running: Vec::new(),
            namespaces: None,
            folder,
        }
    }

    /// In a network, with processes and mounts, of its own: the ports of documents are free there.
    pub(crate) fn apart(programs: Vec<PathBuf>) -> Self {
        Self { namespaces: Some(Namespaces::new()), ..Self::here(&[], programs) }
    }

    /// What the command prints on stdout and stderr, and whether it succeeds.
    pub(crate) fn run(&self, command: &str) -> (String, bool) {
        let mut shell = self.shell(command, &["timeout", LIMIT]);
        let output = shell.output().expect("sh runs");
        (String::from_utf8_lossy(&output.stdout).into_owned(), output.status.success())
    }

    /// Starts the command, and waits until it has printed these lines, in whatever order, whatever else it prints, and
    /// whatever stands in front of each.
    pub(crate) fn start(&mut self, command: &str, written: &str) {
        assert!(self.namespaces.is_some(), "{command}: it would outlive the test");
        let running = Running::new(self.shell(command, &[]));
        let end = Instant::now() + PATIENCE;
        let mut awaited: Vec<String> =
            written.lines().map(shape::normal).filter(|line| line != "...").collect();
        let mut printed = String::new();
        while !awaited.is_empty() {
            let left = end.saturating_duration_since(Instant::now());
            let Ok(line) = running.lines.recv_timeout(left) else {
                panic!("{command}\nhas not printed: {awaited:#?}\nbut:\n{printed}");
            };
            printed.push_str(&line);
            printed.push('\n');
            let line = shape::normal(&line);
            if let Some(found) = awaited.iter().position(|awaited| line.ends_with(awaited)) {
                awaited.remove(found);
            }
        }
        self.running.push(running);
    }

    fn shell(&self, command: &str, before: &[&str]) -> Command {
        let ours = self.folder.path().join(".programs");
        fs::create_dir_all(&ours).expect("a folder");
        let bulrush = env!("CARGO_BIN_EXE_bulrush");
        // Some hints repeat the name that the program was called by.
        let _ = std::os::unix::fs::symlink(bulrush, ours.join("bulrush"));
        for (name, words) in PARTS {
            let script = ours.join(name);
            let text = format!("#!/bin/sh\nexec {bulrush} {words} \"$@\"\n");
            fs::write(&script, text).expect("a script");
            fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).expect("executable");
        }
        let mut folders = vec![ours];
        folders.extend(self.programs.iter().filter_map(|it| it.parent().map(Path::to_owned)));
        let path = env::var_os("PATH").unwrap_or_default();
        folders.extend(env::split_paths(&path));
        let mut words: Vec<String> = self.namespaces.iter().flat_map(Namespaces::enter).collect();
        words.extend(before.iter().map(|word| (*word).to_owned()));
        // Entering namespaces changes the folder.
        let script = format!("exec 2>&1\ncd '{}'\n{command}", self.folder.path().display());
        words.extend(["sh".to_owned(), "-c".to_owned(), script]);
        let mut shell = Command::new(&words[0]);
        shell
            .args(&words[1..])
            .env("PATH", env::join_paths(folders).expect("folders"))
            .env_remove("RUST_LOG")
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        shell
    }
}

/// A program that goes on running, and what it prints.
struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    fn new(mut command: Command) -> Self {
        let mut child = command.spawn().expect("sh runs");
        let stdout = child.stdout.take().expect("stdout is piped");
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                // Nobody waits for the rest, which has to be read all the same.
                let _ = sender.send(line);
            }
        });
        Self { child, lines }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Network, processes and mounts apart from the machine's. With their first process all others in them end.
struct Namespaces {
    holder: Child,
    first: String,
}

impl Namespaces {
    fn new() -> Self {
        // Named namespaces and labs are below /run.
        let script = "mount -t tmpfs none /run && mount -t proc none /proc && \
                      ip link set lo up && echo ready && exec sleep infinity";
        let mut holder = Command::new("unshare")
            .args(["--net", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script])
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare runs");
        let mut ready = [0; 5];
        let stdout = holder.stdout.as_mut().expect("stdout is piped");
        stdout.read_exact(&mut ready).expect("namespaces are made");
        let children = format!("/proc/{0}/task/{0}/children", holder.id());
        let first = fs::read_to_string(children).expect("its children").trim().to_owned();
        Self { holder, first }
    }

    fn enter(&self) -> Vec<String> {
        ["nsenter", "--net", "--mount", "--pid", "-t", &self.first, "--"].map(str::to_owned).into()
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
