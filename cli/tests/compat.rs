//! Agents and servers of different builds: `BULRUSH_OTHER` is the `bulrush` of another commit, built by `.ci/run` from
//! the commit in `.ci/compat-base`. The load tester is the judge: its agents use the agents' own client, and check
//! order, versions and digests at each Commit.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::{
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use common::Process;
use serde_json::{Value, json};

fn other() -> Option<PathBuf> {
    let found = std::env::var_os("BULRUSH_OTHER").map(PathBuf::from);
    if found.is_none() {
        let why = "BULRUSH_OTHER names no bulrush of another commit (see .ci/compat-base)";
        support::skipped("compat", why);
    }
    found
}

/// A port that nobody has now.
fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
    listener.local_addr().expect("its address").port()
}

/// Agents of one build on a server of another: changes all arrive, in order, with the server's digests.
async fn agents_of(agents: &Path, server: &Path) {
    let store = embedded::Server::start(embedded::Config::default()).await.expect("a store");
    let url = format!("http://{}", store.addr());
    let address = format!("127.0.0.1:{}", free_port());
    let port = address.rsplit(':').next().expect("a port");
    let mut typha = Command::new(server);
    typha.args(["run", "typha", "--store", &url, "--port", port]);
    typha.args(["--health-port", "0", "--metrics-port", "0", "--status-port", "0"]);
    let typha = Process::start(typha.stdin(Stdio::null()));

    let tester = Command::new(agents)
        .args(["loadtest", "--server", &address, "--store", &url, "--agents", "20"])
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
