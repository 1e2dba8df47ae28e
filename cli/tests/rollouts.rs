//! `bulrush rollout status` over two servers, with real agents: one that hangs, one that may not touch its kernel, and
//! one that never came.
//!
//! ```text
//!              +-- typha one --- agent of node-1
//!  store ------+
//!              +-- typha two --+ agent of node-2
//!                              + agent of node-3, without the right to change its network
//! ```
//!
//! The servers have a network of their own and each agent another, which end with their processes.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;
mod lab_support;

use std::{
    path::Path,
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use common::PATIENCE;
use lab_support::possible;
use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};
use serde_json::{Value, json};

const BULRUSH: &str = env!("CARGO_BIN_EXE_bulrush");
const STORE: &str = "http://127.0.0.1:2379";
/// Where the two say how far things are.
const STATUS: &str = "127.0.0.1:9095,127.0.0.1:19095";

/// A program that ends with this test, however it ends.
struct Program(Child);

impl Program {
    fn start(program: &[&str]) -> Self {
        let mut command = Command::new(program[0]);
        command.args(&program[1..]).stdin(Stdio::null()).stdout(Stdio::null());
        Self(command.spawn().unwrap())
    }

    fn signal(&self, signal: Signal) {
        signal::kill(Pid::from_raw(self.0.id().cast_signed()), signal).unwrap();
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A network of its own, as long as the value lives and something is in it.
struct Network(Program);

impl Network {
    fn new() -> Self {
        let guard = [BULRUSH, "loadtest", "--part", "program", "--"];
        let holder =
            Program::start(&[&guard[..], &["unshare", "--net", "sleep", "infinity"]].concat());
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        let network = Self(holder);
        let path = format!("/proc/{}/ns/net", network.pid());
        eventually("a network", || std::fs::read_link(&path).is_ok_and(|it| it != own));
        network.run(&["ip", "link", "set", "lo", "up"]);
        network
    }

    fn pid(&self) -> String {
        self.0.0.id().to_string()
    }

    fn inside<'a>(&self, program: &[&'a str], pid: &'a str) -> Vec<&'a str> {
        assert_eq!(pid, self.pid());
        [&["nsenter", "-t", pid, "-n"][..], program].concat()
    }

    fn output(&self, program: &[&str]) -> Output {
        let pid = self.pid();
        let all = self.inside(program, &pid);
        Command::new(all[0]).args(&all[1..]).output().unwrap()
    }

    fn run(&self, program: &[&str]) -> String {
        let output = self.output(program);
        assert!(output.status.success(), "{program:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Starts a part in it. `before`: what leads to it.
    fn start(&self, before: &[&str], part: &[&str]) -> Program {
        let pid = self.pid();
        let guard = [BULRUSH, "loadtest", "--part", "program", "--", BULRUSH, "run"];
        Program::start(&self.inside(&[before, &guard[..], part].concat(), &pid))
    }

    /// A wire to another network: `10.99.NUMBER.1` here, `.2` there.
    fn wire(&self, other: &Self, number: u32) {
        let (here, there) = (format!("agent-{number}"), other.pid());
        let names = ["type", "veth", "peer", "name", "server", "netns", &there];
        self.run(&[&["ip", "link", "add", &here][..], &names].concat());
        for (network, device, host) in [(self, &*here, 1), (other, "server", 2)] {
            let address = format!("10.99.{number}.{host}/24");
            network.run(&["ip", "address", "add", &address, "dev", device]);
            network.run(&["ip", "link", "set", device, "up"]);
        }
    }
}

fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !is_so() {
        assert!(begin.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(20));
    }
}

/// The cluster's servers, asked as an operator does.
struct Servers {
    network: Network,
    _programs: [Program; 3],
}

impl Servers {
    fn start() -> Self {
        let network = Network::new();
        let store = network.start(&[], &["store"]);
        let answers =
            || network.output(&[BULRUSH, "get", "nodes", "--store", STORE]).status.success();
        eventually("the store answers", answers);
        let typha = |flags: &[&str]| {
            let part = ["typha", "--store", STORE, "--listen", "0.0.0.0", "--plaintext"];
            network.start(&[], &[&part[..], flags].concat())
        };
        let two = [
            "--port",
            "15473",
            "--status-port",
            "19095",
            "--health-port",
            "19098",
            "--metrics-port",
            "19093",
        ];
        let programs = [store, typha(&[]), typha(&two)];
        Self { network, _programs: programs }
    }

    fn agent(&self, number: u32, port: u16, before: &[&str], folder: &Path) -> (Network, Program) {
        let network = Network::new();
        self.network.wire(&network, number);
        let (node, typha) = (format!("node-{number}"), format!("10.99.{number}.1:{port}"));
        let state = folder.join(&node);
        let flags = [
            "node-agent",
            "--node",
            &node,
            "--typha",
            &typha,
            "--state-dir",
            state.to_str().unwrap(),
        ];
        let agent = network.start(before, &flags);
        (network, agent)
    }

    fn apply(&self, folder: &Path, objects: &[Value]) {
        let file = folder.join("objects.yaml");
        let documents: Vec<String> = objects.iter().map(Value::to_string).collect();
        std::fs::write(&file, documents.join("\n---\n")).unwrap();
        self.network.run(&[BULRUSH, "apply", "--store", STORE, "-f", file.to_str().unwrap()]);
    }

    fn ask(&self, server: &str, more: &[&str]) -> (Option<i32>, String, String) {
        let status = [BULRUSH, "rollout", "status", "gnp/p", "--store", STORE, "--server", server];
        let output = self.network.output(&[&status[..], more].concat());
        let text = |bytes| String::from_utf8(bytes).unwrap();
        (output.status.code(), text(output.stdout), text(output.stderr))
    }

    /// What a server says, or several together.
    fn rollout(&self, server: &str) -> Value {
        let (_, said, error) = self.ask(server, &["-o", "json"]);
        serde_json::from_str(&said).unwrap_or_else(|_| panic!("{said}{error}"))
    }

    fn until(&self, what: &str, is_so: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let begin = Instant::now();
        while begin.elapsed() < PATIENCE {
            last = self.rollout(STATUS);
            if is_so(&last) {
                return last;
            }
            thread::sleep(Duration::from_millis(50));
        }
        panic!("{what}: {last}");
    }
}

fn object(kind: &str, name: &str, spec: Value) -> Value {
    let mut object =
        json!({"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": {"name": name}});
    object["spec"] = spec;
    object
}

/// Each time another one for the nodes that use it.
fn policy(port: u32) -> Value {
    let rule = json!({"action": "Allow", "protocol": "TCP", "destination": {"ports": [port]}});
    let spec = json!({"selector": "all()", "types": ["Ingress"], "ingress": [rule]});
    object("GlobalNetworkPolicy", "p", spec)
}

/// A node, and a pod on it.
fn node(number: u32) -> [Value; 2] {
    let name = format!("node-{number}");
    let bgp = json!({"bgp": {"ipv4Address": format!("192.0.2.{number}/24")}});
    let mut pod = object(
        "WorkloadEndpoint",
        &format!("node--{number}-k8s-pod-eth0"),
        json!({
            "orchestrator": "k8s", "node": name, "pod": "pod", "endpoint": "eth0", "containerID": name,
            "interfaceName": "cali1", "ipNetworks": [format!("10.65.0.{number}/32")], "profiles": [],
        }),
    );
    pod["metadata"]["namespace"] = json!("default");
    [object("Node", &name, bgp), pod]
}

#[test]
fn a_roll_out_over_two_servers_says_of_each_node_what_its_agent_says() {
    if !possible() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let servers = Servers::start();
    servers.apply(folder.path(), &[&node(1)[..], &node(2), &[policy(1)]].concat());
    let (first_network, first) = servers.agent(1, 5473, &[], folder.path());
    let _second = servers.agent(2, 15473, &[], folder.path());
    servers.until("both nodes have it", |said| said["enforced"] == 2);
    let (code, said, _) = servers.ask(STATUS, &["--wait"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.starts_with("GlobalNetworkPolicy(p): enforced on 2 of 2 nodes"), "{said}");
    // One alone knows of its own agent.
    let one = servers.rollout("127.0.0.1:9095");
    assert_eq!((&one["enforced"], &one["unknown"]), (&json!(1), &json!(["node-2"])));

    // An agent that hangs, while the object changes twice.
    first.signal(Signal::SIGSTOP);
    servers.apply(folder.path(), &[policy(2)]);
    servers.until("the other has the first change", |said| said["enforced"] == 1);
    let changed = Instant::now();
    servers.apply(folder.path(), &[policy(3)]);
    let said = servers.until("the other has the second change", |said| said["enforced"] == 1);
    assert_eq!((&said["pending"], &said["unknown"]), (&json!(["node-1"]), &json!([])));
    let (code, said, _) = servers.ask(STATUS, &["--wait", "--timeout", "1s"]);
    assert_eq!(code, Some(1));
    assert!(said.ends_with("pending: node-1\n"), "{said}");
    let hung = thread::scope(|scope| {
        let wait = scope.spawn(|| servers.ask(STATUS, &["--wait", "-o", "json"]));
        // It has asked more than once by then.
        let second = changed + Duration::from_secs(2);
        eventually("two seconds are over", || second < Instant::now());
        assert!(!wait.is_finished(), "it waits for the node that hangs");
        let hung = changed.elapsed();
        first.signal(Signal::SIGCONT);
        let (code, said, _) = wait.join().unwrap();
        assert_eq!(code, Some(0), "{said}");
        let said: Value = serde_json::from_str(&said).unwrap();
        assert_eq!((&said["enforced"], &said["uses"]), (&json!(2), &json!(2)));
        let (p50, p99) = (said["p50_ms"].as_u64().unwrap(), said["p99_ms"].as_u64().unwrap());
        // Since the second change; the other had it at once.
        assert!(u128::from(p99) >= hung.as_millis() - 500, "{said} after {hung:?}");
        assert!(p50 < p99 / 2, "{said}");
        hung
    });
    assert!(hung > Duration::from_secs(1));

    // An agent whose kernel refuses, and a node whose agent never came.
    servers.apply(folder.path(), &[&node(3)[..], &node(4), &[policy(4)]].concat());
    let unable = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"];
    let _third = servers.agent(3, 15473, &unable, folder.path());
    let said = servers.until("it fails where the kernel refuses", |said| {
        said["enforced"] == 2 && said["failed"]["node-3"].is_string()
    });
    let reason = said["failed"]["node-3"].as_str().unwrap();
    assert!(reason.contains("not permitted"), "{reason}");
    assert_eq!((&said["pending"], &said["unknown"]), (&json!([]), &json!(["node-4"])));
    assert_eq!(said["uses"], 4);
    let (code, said, _) = servers.ask(STATUS, &["--wait"]);
    assert_eq!(code, Some(1), "waiting changes nothing");
    assert!(said.contains(&format!("failed on node-3: {reason}\n")), "{said}");
    assert!(said.ends_with("unknown: node-4\n"), "{said}");

    // The page of each shows what it knows.
    let page = ["curl", "-s", "http://127.0.0.1:19095/api/v1/rollouts"];
    let shown: Value = serde_json::from_str(&servers.network.run(&page)).unwrap();
    assert_eq!(shown[0]["failed"]["node-3"], reason, "{shown}");
    assert_eq!(shown[0]["unknown"], json!(["node-1", "node-4"]));

    // It is deleted while one agent hangs.
    let is_in_force = || {
        let rules = first_network.run(&["nft", "list", "table", "ip", "calico"]);
        rules.contains("tcp dport 4")
    };
    assert!(is_in_force());
    first.signal(Signal::SIGSTOP);
    servers.network.run(&[BULRUSH, "delete", "gnp", "p", "--store", STORE]);
    let said = servers.until("it is gone where the agent runs", |said| said["enforced"] == 1);
    assert_eq!(said["deleted"], true);
    assert_eq!((&said["pending"], &said["unknown"]), (&json!(["node-1"]), &json!(["node-4"])));
    assert!(said["failed"]["node-3"].as_str().unwrap().contains("not permitted"), "{said}");
    assert_eq!(said["uses"], 4, "it was everybody's");
    first.signal(Signal::SIGCONT);
    servers.until("it is gone there too", |said| said["enforced"] == 2);
    let (code, said, _) = servers.ask(STATUS, &[]);
    assert_eq!(code, Some(1), "{said}");
    let gone = "GlobalNetworkPolicy(p): deleted; gone from 2 of 4 nodes; p50 ";
    assert!(said.starts_with(gone) && said.ends_with("unknown: node-4\n"), "{said}");
    assert!(!is_in_force(), "what is acknowledged is so");

    // Made again, it is a policy as any other.
    servers.apply(folder.path(), &[policy(5)]);
    servers.until("it is there again", |said| said["deleted"] == false && said["enforced"] == 2);
}
