//! Agents and servers of different builds: `BULRUSH_OTHER` is the `bulrush` of another commit, built by `.ci/run` from
//! the commit in `.ci/compat-base`. The load tester is the judge: its agents use the agents' own client, and check
//! order, versions and digests at each Commit.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::{Value, json};

fn other() -> Option<PathBuf> {
    let found = std::env::var_os("BULRUSH_OTHER").map(PathBuf::from);
    if found.is_none() {
        let why = "BULRUSH_OTHER names no bulrush of another commit (see .ci/compat-base)";
        support::skipped("compat", why);
    }
    found
}

/// A typha on a free port that it chose itself; killed when it is dropped.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    /// Starts it, and waits until it says where agents reach it.
    fn start(program: &Path, store: &str) -> Self {
        let mut child = Command::new(program)
            .args(["run", "typha", "--store", store, "--port", "0", "--health-port", "0"])
            .args(["--metrics-port", "0", "--status-port", "0"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut said = BufReader::new(child.stderr.take().expect("stderr is piped")).lines();
        let mut server = Self { child, address: String::new() };
        let mut before = Vec::new();
        for line in said.by_ref().map_while(Result::ok) {
            if line.contains("typha is listening") {
                common::field(&line, "agents").clone_into(&mut server.address);
                break;
            }
            before.push(line);
        }
        assert!(!server.address.is_empty(), "typha ended: {before:#?}");
        // Somebody has to read what it says, or it waits for that.
        std::thread::spawn(move || said.for_each(drop));
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Agents of one build on a server of another: changes all arrive, in order, with the server's digests.
async fn agents_of(agents: &Path, server: &Path) {
    let store = embedded::Server::start(embedded::Config::default()).await.expect("a store");
    let url = format!("http://{}", store.addr());
    let typha = Server::start(server, &url);

    let tester = Command::new(agents)
        .args(["loadtest", "--server", &typha.address, "--store", &url, "--agents", "20"])
        .args(["--for", "3s", "--rate", "50", "-o", "json"])
        .output();
    let tester = tester.expect("the load tester starts");
    let said = String::from_utf8_lossy(&tester.stderr);
    assert!(tester.status.success(), "{said}");
    let report: Value = serde_json::from_slice(&tester.stdout).expect("a report");
    assert_eq!(report["errors"], json!({"order": 0, "digest": 0, "lost": 0}), "{said}");
    assert!(report["deliveries"].as_u64() >= Some(150), "{report}");
    drop(typha);
    store.shutdown().await.expect("the store ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_of_another_build_are_served_by_this_server() {
    if let Some(other) = other() {
        agents_of(&other, Path::new(env!("CARGO_BIN_EXE_bulrush"))).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_of_this_build_are_served_by_a_server_of_another() {
    if let Some(other) = other() {
        agents_of(Path::new(env!("CARGO_BIN_EXE_bulrush")), &other).await;
    }
}
