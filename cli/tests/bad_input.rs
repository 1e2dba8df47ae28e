//! What a person reads when something is wrong, and that nobody else is disturbed by it.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::{
    net::TcpListener,
    process::{Command, Output},
};

use common::{Process, bulrush, field};
use support::assert_bad_input;

/// The message of a command that must fail.
fn failure(command: &mut Command) -> String {
    let Output { status, stderr, .. } = command.env_remove("RUST_LOG").output().unwrap();
    let text = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(1), "{text}");
    text
}

/// The last line of it: what was logged before doesn't count.
fn last_line(text: &str) -> &str {
    text.lines().last().unwrap_or_default()
}

#[test]
fn a_server_that_cannot_be_reached_is_named_by_watch() {
    let text = failure(bulrush().args(["watch", "--server", "127.0.0.1:1"]));
    assert_bad_input("watch: nobody answers", &text);
}

#[test]
fn an_address_that_is_none_is_named_by_watch() {
    let text = failure(bulrush().args(["watch", "--server", "not an address"]));
    assert_bad_input("watch: not an address", &text);
}

#[test]
fn an_unknown_kind_is_named_by_the_server() {
    let dev = Process::start(bulrush().args(["dev", "--agents", "1", "--for", "60s"]));
    let ready = dev.lines_until("dev", |line| line.starts_with("ready ")).pop().unwrap();
    let server = field(&ready, "typha");
    let text = failure(bulrush().args(["watch", "--server", server, "--kinds", "Gadget"]));
    assert_bad_input("watch: unknown kind", &text);
}

#[test]
fn a_busy_port_is_named_with_the_flag_that_changes_it() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let store = ["--store", "http://127.0.0.1:2379"];
    let text = failure(bulrush().args(["run", "typha", "--port", &port]).args(store));
    assert_bad_input("typha: a busy port", last_line(&text));
    let listen = format!("127.0.0.1:{port}");
    let text = failure(bulrush().args(["run", "store", "--listen", &listen]));
    assert_bad_input("store: a busy port", last_line(&text));
}

#[test]
fn a_store_that_cannot_be_reached_at_start_is_named() {
    let ports = ["--port", "0", "--health-port", "0", "--metrics-port", "0", "--status-port", "0"];
    let args = ["run", "typha", "--store", "http://127.0.0.1:1"];
    let text = failure(bulrush().args(args).args(ports));
    assert_bad_input("typha: nobody answers at the store's address", last_line(&text));
}

#[test]
fn plaintext_beyond_loopback_must_be_asked_for() {
    let args = ["run", "typha", "--listen", "0.0.0.0", "--store", "http://127.0.0.1:1"];
    let text = failure(bulrush().args(args));
    assert_bad_input("typha: plaintext on an address that others reach", last_line(&text));
}

#[test]
fn a_wrong_flag_is_answered_with_the_nearest_right_one() {
    let text = failure(bulrush().args(["run", "typha", "--health-prt", "1"]));
    let lines: Vec<&str> = text.lines().filter(|line| !line.is_empty()).take(2).collect();
    assert_bad_input("a wrong flag", &lines.join(" / "));
    let text = failure(bulrush().args(["dev", "--for", "20x"]));
    assert_bad_input("dev: a time without a unit that we know", text.lines().next().unwrap());
}

#[test]
fn a_store_of_another_kind_is_refused_by_name() {
    let text = failure(bulrush().args(["run", "typha"]).env("DATASTORE_TYPE", "consul"));
    assert_bad_input("DATASTORE_TYPE: a kind of store that does not exist", last_line(&text));
}
