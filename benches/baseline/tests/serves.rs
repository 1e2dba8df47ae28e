//! The yardstick speaks the protocol: the agents' own client gets its first commit.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use client::Connection;
use proto::v1::AgentHello;
use sync::{ClientSession, Event};

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_gets_its_first_commit_from_the_baseline() {
    let store = embedded::Server::start(embedded::Config::default()).await.unwrap();
    let mut baseline = Command::new(env!("CARGO_BIN_EXE_bulrush-baseline"))
        .args(["--store", &format!("http://{}", store.addr())])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(baseline.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let address = line.trim().strip_prefix("ready typha=").unwrap();

    let hello = AgentHello { node: "a".into(), ..AgentHello::default() };
    let mut connection = Connection::open(address, hello).await.unwrap();
    let mut session = ClientSession::new();
    let committed = loop {
        if let Event::Committed(committed) = connection.next(&mut session).await.unwrap() {
            break committed;
        }
    };
    assert!(committed.first);
    baseline.kill().unwrap();
    baseline.wait().unwrap();
    store.shutdown().await.unwrap();
}
