//! What tests of several processes share: the program, its output line by line, and stores.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::expect_used, reason = "a test fails by panicking")]

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, channel},
    time::{Duration, Instant},
};

use etcd_client::Client;
use serde_json::Value;

/// How long anything may take before a test gives up.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The program under test.
pub(crate) fn bulrush() -> Command {
    Command::new(env!("CARGO_BIN_EXE_bulrush"))
}

/// A running program whose stdout is read line by line; killed when it is dropped.
pub(crate) struct Process {
    child: Child,
    lines: Receiver<String>,
}

impl Process {
    /// Starts it. Its stderr goes where the test's goes.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the program starts");
        let stdout = child.stdout.take().expect("stdout is piped");
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// The next line, or a panic that says what was waited for.
    pub(crate) fn line(&self, what: &str, within: Duration) -> String {
        match self.lines.recv_timeout(within) {
            Ok(line) => line,
            Err(RecvTimeoutError::Timeout) => panic!("{what}: no line within {within:?}"),
            Err(RecvTimeoutError::Disconnected) => panic!("{what}: the program ended"),
        }
    }

    /// Lines up to and including the first that `is_last`.
    pub(crate) fn lines_until(&self, what: &str, is_last: impl Fn(&str) -> bool) -> Vec<String> {
        let end = Instant::now() + PATIENCE;
        let mut lines = Vec::new();
        loop {
            let line = self.line(what, end.saturating_duration_since(Instant::now()));
            lines.push(line);
            if lines.last().is_some_and(|line| is_last(line)) {
                return lines;
            }
        }
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its end, and says whether it ended well.
    pub(crate) fn wait(mut self) -> bool {
        self.child.wait().expect("a child can be waited for").success()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The answers of `bulrush convert --stdin` to these lines.
pub(crate) fn convert(lines: impl Iterator<Item = Value>) -> Vec<Value> {
    let text = lines.map(|line| line.to_string()).collect::<Vec<_>>().join("\n");
    let mut child = bulrush()
        .args(["convert", "--stdin"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("bulrush starts");
    let mut input = child.stdin.take().expect("stdin is piped");
    // It answers while it reads.
    let writer = std::thread::spawn(move || input.write_all(text.as_bytes()));
    let output = child.wait_with_output().expect("it ends");
    writer.join().expect("no panic").expect("it reads to the end");
    let lines = String::from_utf8(output.stdout).expect("UTF-8");
    lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// The value of `name=…` in a line such as `ready store=http://… typha=…`.
pub(crate) fn field<'a>(line: &'a str, name: &str) -> &'a str {
    let value = line.split_whitespace().find_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    value.unwrap_or_else(|| panic!("no {name}= in {line:?}"))
}

/// A client of a store, by its URL.
pub(crate) async fn client(url: &str) -> Client {
    Client::connect([url], None).await.expect("the store answers")
}

/// A server that reads this store, on free ports.
pub(crate) async fn start_typha(store: &str, max_connections: usize) -> typha::Typha {
    typha::Typha::start(typha_config(store, max_connections)).await.expect("typha starts")
}

/// The same, to be changed before the start.
pub(crate) fn typha_config(store: &str, max_connections: usize) -> typha::Config {
    let any = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    typha::Config {
        store: datastore::StoreConfig::from_url(store).expect("a URL of a store"),
        pod_cidrs: false,
        record: None,
        listen: any,
        tls: None,
        shared_name: None,
        plaintext: false,
        limits: typha::Limits::default(),
        max_connections,
        min_connections: 400,
        alternatives: Vec::new(),
        health: any,
        metrics: any,
        status: any,
    }
}

/// Polls until `condition` holds.
pub(crate) async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let held = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, held).await.is_ok(), "{what}: not within {PATIENCE:?}");
}

/// The objects of `tests/fixtures/every-kind.jsonl`, by round.
pub(crate) fn every_kind() -> Vec<Vec<Value>> {
    let text = include_str!("../../../tests/fixtures/every-kind.jsonl");
    let mut rounds: Vec<Vec<Value>> = Vec::new();
    for line in text.lines() {
        let operation: Value = serde_json::from_str(line).expect("the fixture is JSON");
        let round = operation["round"].as_u64().expect("a round") as usize;
        rounds.resize_with(rounds.len().max(round + 1), Vec::new);
        rounds[round].push(operation);
    }
    rounds
}

/// Writes operations of the fixture.
pub(crate) async fn write(client: &mut Client, operations: &[Value]) {
    for operation in operations {
        let key = operation["key"].as_str().expect("a key");
        let value = match &operation["raw"] {
            Value::String(raw) => raw.clone(),
            _ => operation["value"].to_string(),
        };
        if operation["op"] == "put" {
            client.put(key, value, None).await.expect("a put");
        } else {
            client.delete(key, None).await.expect("a delete");
        }
    }
}
