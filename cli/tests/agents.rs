//! How typha and agents are set up: by address, by variables as Calico's are named, on their own ports.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;
mod lab_support;

use std::{
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use common::{PATIENCE, bulrush};
use lab_support::possible;
use serde_json::Value;
use support::assert_bad_input;

fn first_line(command: &mut Command) -> String {
    let output = command.env_remove("RUST_LOG").output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{text}");
    text.lines().next().unwrap_or_default().to_owned()
}

#[test]
fn a_30_settings_of_other_names_are_refused_with_the_right_one() {
    let typha = |flag: &str, value: &str| first_line(bulrush().args(["run", "typha", flag, value]));
    assert_bad_input("typha: the setting clientPort", &typha("--clientPort", "5473"));
    assert_bad_input("typha: the setting maxConnsPerClient", &typha("--maxConnsPerClient", "5"));
}

#[test]
fn an_agent_without_an_address_of_typha_says_how_to_give_one() {
    let mut agent = bulrush();
    agent.args(["run", "node-agent", "--node", "n"]).env_remove("FELIX_TYPHAADDR");
    agent.env("FELIX_TYPHAK8SSERVICENAME", "calico-typha");
    assert_bad_input("agent: no address of typha", &first_line(&mut agent));
}

/// A network of its own, and programs in it; all of it goes with the value.
struct Place {
    netns: String,
    programs: Vec<Child>,
}

impl Place {
    fn new() -> Self {
        let netns = format!("bulrush-a28-{}", std::process::id());
        let place = Self { netns, programs: Vec::new() };
        assert!(
            Command::new("ip").args(["netns", "add", &place.netns]).status().unwrap().success()
        );
        assert!(place.inside("ip").args(["link", "set", "lo", "up"]).status().unwrap().success());
        place
    }

    fn inside(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.netns, program]);
        command
    }

    fn start(&mut self, args: &[&str], variable: (&str, &str)) {
        let mut command = self.inside(env!("CARGO_BIN_EXE_bulrush"));
        command.arg("run").args(args).env(variable.0, variable.1);
        self.programs.push(command.stdout(Stdio::null()).spawn().unwrap());
    }

    fn curl(&self, url: &str) -> Output {
        self.inside("curl").args(["-s", url]).output().unwrap()
    }

    /// What typha says of itself, on its usual port.
    fn status(&self) -> Option<Value> {
        serde_json::from_slice(&self.curl("http://127.0.0.1:9095/api/v1/status").stdout).ok()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        for program in &mut self.programs {
            let _ = program.kill();
            let _ = program.wait();
        }
        let _ = Command::new("ip").args(["netns", "del", &self.netns]).status();
    }
}

#[test]
fn a_28_typha_serves_on_5473_and_an_agent_finds_it_by_its_address() {
    if !possible() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut place = Place::new();
    place.start(&["store"], ("RUST_LOG", "warn"));
    let begin = Instant::now();
    // Code 7: nobody listens.
    while place.curl("http://127.0.0.1:2379").status.code() == Some(7) {
        assert!(begin.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(20));
    }
    place.start(&["typha"], ("ETCD_ENDPOINTS", "http://127.0.0.1:2379"));
    // The address without a port, as for Calico's agents.
    let state = folder.path().to_str().unwrap();
    let agent = ["node-agent", "--node", "node-1", "--state-dir", state];
    place.start(&agent, ("FELIX_TYPHAADDR", "127.0.0.1"));
    loop {
        let status = place.status();
        let agent = status.as_ref().map(|status| &status["agents"][0]);
        if agent.is_some_and(|agent| agent["node"] == "node-1" && agent["current"] == true) {
            return;
        }
        assert!(begin.elapsed() < PATIENCE, "{status:?}");
        thread::sleep(Duration::from_millis(50));
    }
}
