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
use nix::sched::{CloneFlags, setns};
use serde_json::Value;
use support::{RealKubernetes, assert_bad_input};

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

/// A network of its own, and programs in it; all of it goes with the value.
struct Place {
    netns: String,
    programs: Vec<Child>,
}

impl Place {
    fn new(name: &str) -> Self {
        let netns = format!("bulrush-{name}-{}", std::process::id());
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

    fn start(&mut self, args: &[&str], variables: &[(&str, &str)]) {
        let mut command = self.inside(env!("CARGO_BIN_EXE_bulrush"));
        command.arg("run").args(args).envs(variables.iter().copied());
        self.programs.push(command.stdout(Stdio::null()).spawn().unwrap());
    }

    fn curl(&self, url: &str) -> Output {
        self.inside("curl").args(["-s", url]).output().unwrap()
    }

    /// Waits until an agent of `node-1` is served.
    fn until_served(&self) {
        let begin = Instant::now();
        loop {
            let status = self.status();
            let agent = status.as_ref().map(|status| &status["agents"][0]);
            if agent.is_some_and(|agent| agent["node"] == "node-1" && agent["current"] == true) {
                return;
            }
            assert!(begin.elapsed() < PATIENCE, "{status:?}");
            thread::sleep(Duration::from_millis(50));
        }
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
    let mut place = Place::new("a28");
    place.start(&["store"], &[]);
    let begin = Instant::now();
    // Code 7: nobody listens.
    while place.curl("http://127.0.0.1:2379").status.code() == Some(7) {
        assert!(begin.elapsed() < PATIENCE);
        thread::sleep(Duration::from_millis(20));
    }
    place.start(&["typha"], &[("ETCD_ENDPOINTS", "http://127.0.0.1:2379")]);
    // The address without a port, as for Calico's agents.
    let state = folder.path().to_str().unwrap();
    let agent = ["node-agent", "--node", "node-1", "--state-dir", state];
    place.start(&agent, &[("FELIX_TYPHAADDR", "127.0.0.1")]);
    place.until_served();
}

/// As the controllers of a cluster write it for the Service of a typha.
const SLICE: &str = "
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: calico-typha-1
  namespace: net
  labels: {kubernetes.io/service-name: calico-typha}
addressType: IPv4
ports: [{name: calico-typha, port: 5473}]
endpoints: [{addresses: [10.28.0.1], nodeName: node-1, conditions: {ready: true}}]
";

#[test]
fn a_28_an_agent_finds_typha_by_its_service() {
    if !possible() {
        return;
    }
    let mut place = Place::new("a28-service");
    // A Service has no pods on loopback.
    let address = ["address", "add", "10.28.0.1/32", "dev", "lo"];
    assert!(place.inside("ip").args(address).status().unwrap().success());
    // The API server, which this thread starts, is of the same network.
    let netns = std::fs::File::open(format!("/run/netns/{}", place.netns)).unwrap();
    setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
    let address = ["--advertise-address=10.28.0.1"];
    let Some(kubernetes) = RealKubernetes::own(&address) else { return };
    kubernetes.apply("{apiVersion: v1, kind: Namespace, metadata: {name: net}}");
    let kubeconfig = kubernetes.kubeconfig("admin");
    let store = [("DATASTORE_TYPE", "kubernetes"), ("KUBECONFIG", kubeconfig.to_str().unwrap())];
    place.start(&["typha", "--listen", "10.28.0.1", "--plaintext"], &store);
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().to_str().unwrap();
    let service =
        [("FELIX_TYPHAK8SSERVICENAME", "calico-typha"), ("FELIX_TYPHAK8SNAMESPACE", "net")];
    place.start(
        &["node-agent", "--node", "node-1", "--state-dir", state],
        &[&store[..], &service[..]].concat(),
    );
    let begin = Instant::now();
    let said = loop {
        let page = place.curl("http://127.0.0.1:9099/readiness").stdout;
        let page = String::from_utf8(page).unwrap();
        if page.contains("calico-typha") {
            break page;
        }
        assert!(begin.elapsed() < PATIENCE, "{page}");
        thread::sleep(Duration::from_millis(50));
    };
    assert_bad_input("agent: a Service without a typha", said.trim());

    kubernetes.apply(SLICE);
    place.until_served();
}
