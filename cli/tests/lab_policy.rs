//! The whole line: a policy in the store decides what a pod can reach, by real packets through the kernels of three
//! nodes, each with a real agent, and it goes on to do so whatever is restarted.
//!
//! A test writes objects, waits until the agents have acknowledged them, and probes once: what was acknowledged is in
//! force.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

mod lab_support;

use std::{net::TcpListener, process::Command};

use lab_support::{Connects, System, possible};
use serde_json::{Value, json};

/// By its name alone: `red/pod-1-1` is in namespace red on node 1, and a server, as everyone whose numbers add up to an
/// even one.
fn is_server(pod: &str) -> bool {
    matches!(pod, "red/pod-1-1" | "blue/pod-2-2" | "red/pod-3-1")
}

fn is_red(pod: &str) -> bool {
    pod.starts_with("red/")
}

fn has_etcd() -> bool {
    let found = !support::etcd_binaries().is_empty();
    if !found {
        support::skipped("etcd", "no etcd found: run .ci/servers or install etcd-server");
    }
    found
}

const ALL: Connects = |_, _| true;
const NOBODY: Connects = |_, _| false;

fn global_policy(name: &str, spec: Value) -> Value {
    policy("GlobalNetworkPolicy", json!({"name": name}), spec)
}

fn blue_policy(name: &str, spec: Value) -> Value {
    policy("NetworkPolicy", json!({"name": name, "namespace": "blue"}), spec)
}

fn policy(kind: &str, metadata: Value, spec: Value) -> Value {
    let mut policy = json!({"apiVersion": "projectcalico.org/v3", "kind": kind});
    policy["metadata"] = metadata;
    policy["spec"] = spec;
    policy
}

/// Lets a port in, from whoever `source` is, to everyone.
fn allow_in(name: &str, protocol: &str, port: impl Into<Value>, source: Value) -> Value {
    let mut rule = json!({"action": "Allow", "protocol": protocol});
    rule["destination"] = json!({"ports": [port.into()]});
    rule["source"] = source;
    global_policy(
        name,
        json!({"order": 100, "selector": "all()", "types": ["Ingress"], "ingress": [rule]}),
    )
}

/// A policy for each feature, each with a port of its own; anything else is denied.
fn features() -> Vec<Value> {
    vec![
        global_policy("deny", json!({"order": 1000, "selector": "all()", "types": ["Ingress"]})),
        allow_in("by-selector", "TCP", 1001, json!({"selector": "role == 'client'"})),
        allow_in(
            "by-namespace",
            "TCP",
            1002,
            json!({"namespaceSelector": "projectcalico.org/name == 'red'"}),
        ),
        allow_in(
            "by-net",
            "TCP",
            1003,
            json!({"nets": ["10.244.0.0/26"], "notNets": ["10.244.0.2/32"]}),
        ),
        allow_in("by-port-range", "TCP", "1004:1005", json!({})),
        allow_in("by-named-port", "TCP", "http", json!({})),
        allow_in("by-named-udp-port", "UDP", "dns", json!({})),
        global_policy(
            "egress",
            json!({
                "order": 100, "selector": "role == 'client'", "types": ["Egress"],
                "egress": [
                    {"action": "Deny", "protocol": "TCP",
                        "destination": {"ports": [1005], "notSelector": "role == 'server'"}},
                    {"action": "Allow"},
                ],
            }),
        ),
    ]
}

/// What [`features`] let through: for each, a pair that passes and one that doesn't.
const FEATURES: [(&str, Connects); 10] = [
    ("1000", NOBODY),
    ("1001", |from, _| !is_server(from)),
    ("1002", |from, _| is_red(from)),
    ("1003", |from, _| from == "red/pod-1-1"),
    ("1004", ALL),
    ("1005", |from, to| is_server(from) || is_server(to)),
    ("80/tcp", ALL),
    ("53/udp", ALL),
    ("80/udp", NOBODY),
    ("53/tcp", NOBODY),
];

#[test]
fn policy_decides_who_reaches_whom_before_and_after_every_restart() {
    if possible() {
        restarts(&System::start(&[]));
    }
}

#[test]
fn policy_decides_who_reaches_whom_before_and_after_every_restart_on_etcd() {
    if possible() && has_etcd() {
        restarts(&System::start(&["--store", "etcd"]));
    }
}

fn restarts(system: &System) {
    system.expect("without a policy", &[], &[("80", ALL), ("53/udp", ALL), ("1000", ALL)]);

    let features = features();
    system.apply(&features);
    system.expect("with all policies", &[], &FEATURES);

    for node in ["node-1", "node-2", "node-3"] {
        system.lab.run(&["restart", "agent", node]);
    }
    system.expect("after a restart of the agents", &[], &FEATURES);
    system.lab.run(&["restart", "typha"]);
    system.expect("after a restart of typha", &[], &FEATURES);
    system.lab.run(&["restart", "store"]);
    system.expect("after a restart of the store", &[], &FEATURES);

    // All of them still do their work.
    system.remove(&features[1..2]);
    system.expect("without the first of them", &[], &[("1001", NOBODY), ("1002", FEATURES[2].1)]);
    system.remove(&features[2..]);
    system.expect("with default deny alone", &[], &[("80", NOBODY), ("53/udp", NOBODY)]);
    system.remove(&features[..1]);
    system.expect("without a policy again", &[], &[("80", ALL), ("53/udp", ALL)]);
}

#[test]
fn what_is_in_the_kernel_stays_in_force_while_any_part_is_away() {
    if !possible() {
        return;
    }
    let system = System::start(&[]);
    system.apply(&features());
    let ports = &FEATURES[..4];
    for part in [["stop", "store"].as_slice(), &["stop", "typha"], &["stop", "agent", "node-2"]] {
        system.lab.run(part);
        system.expect(&format!("after lab {part:?}"), &[], ports);
    }
    system.lab.run(&["start", "store"]);
    // With typha alone an agent can't be ready: nothing is waited for until all is there.
    system.lab.run(&["start", "typha"]);
    system.expect("with one agent away", &[], ports);
    system.lab.run(&["start", "agent", "node-2"]);
    system.expect("with all parts back", &[], &FEATURES);
}

#[test]
fn a_policy_of_a_namespace_knows_its_own_pods_and_other_namespaces() {
    if !possible() {
        return;
    }
    let system = System::start(&[]);
    let from = |source: Value| {
        let mut rule = json!({"action": "Allow"});
        rule["source"] = source;
        let spec = json!({"selector": "role == 'client'", "types": ["Ingress"], "ingress": [rule]});
        blue_policy("clients", spec)
    };
    // Chosen are blue's clients: pods 1-2 and 3-2. A selector alone means pods of the policy's own namespace.
    system.apply(&[from(json!({"selector": "role == 'server'"}))]);
    let own: Connects = |from, to| is_red(to) || is_server(to) || from == "blue/pod-2-2";
    system.expect("servers of the own namespace", &[], &[("80", own)]);

    let other = from(json!({
        "namespaceSelector": "projectcalico.org/name == 'red'", "selector": "role == 'server'"
    }));
    system.apply(std::slice::from_ref(&other));
    let others: Connects =
        |from, to| is_red(to) || is_server(to) || (is_red(from) && is_server(from));
    system.expect("servers of another namespace", &[], &[("80", others)]);
}

#[test]
fn a_tier_decides_before_the_next_one_and_network_sets_name_addresses() {
    if !possible() {
        return;
    }
    let system = System::start(&[]);
    let mut first =
        policy("Tier", json!({"name": "first"}), json!({"order": 1, "defaultAction": "Deny"}));
    first["status"] = json!({});
    let node_two = policy(
        "GlobalNetworkSet",
        json!({"name": "node-two", "labels": {"zone": "two"}}),
        json!({"nets": ["10.244.0.64/26"]}),
    );
    let tiered = global_policy(
        "first.zones",
        json!({
            "tier": "first", "order": 1, "selector": "all()", "types": ["Ingress"],
            "ingress": [
                {"action": "Deny", "protocol": "TCP", "destination": {"ports": [82]}},
                {"action": "Pass", "source": {"selector": "zone == 'two'"}},
                {"action": "Allow", "source": {"selector": "app == 'pod-1-1'"}},
            ],
        }),
    );
    let last = global_policy(
        "servers",
        json!({
            "order": 1, "selector": "all()", "types": ["Ingress"],
            "ingress": [{"action": "Allow", "source": {"selector": "role == 'server'"}}],
        }),
    );
    system.apply(&[first, node_two, tiered, last]);
    // Pods of node 2 go on to tier `default`, which lets servers in; pod 1-1 is let in at once; the rest ends here.
    let expected: Connects = |from, _| matches!(from, "blue/pod-2-2" | "red/pod-1-1");
    system.expect("with two tiers", &[], &[("80", expected), ("82", NOBODY), ("53/udp", expected)]);
}

#[test]
fn an_etcdctl_put_of_a_policy_changes_what_a_pod_can_reach() {
    if !possible() {
        return;
    }
    let Some((_, etcdctl)) = support::etcdctl_binaries().into_iter().next() else {
        return support::skipped("etcd", "no etcdctl found: run .ci/servers");
    };
    for flags in [["--store", "embedded"], ["--store", "etcd"]] {
        if flags[1] == "etcd" && !has_etcd() {
            continue;
        }
        let system = System::start(&flags);
        let ctl = |args: &[&str]| {
            let output = Command::new(&etcdctl)
                .env("ETCDCTL_API", "3")
                .args(["--endpoints", &system.url, "-w", "json"])
                .args(args)
                .output()
                .expect("etcdctl starts");
            assert!(output.status.success(), "{output:?}");
            let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
            said["header"]["revision"].as_u64().expect("a revision")
        };
        let key = "/calico/resources/v3/projectcalico.org/networkpolicies/red/closed";
        let closed = json!({
            "kind": "NetworkPolicy", "apiVersion": "projectcalico.org/v3",
            "metadata": {"name": "closed", "namespace": "red"},
            "spec": {"order": 1, "selector": "app == 'pod-1-1'", "types": ["Ingress"]},
        });
        system.settle(ctl(&["put", key, &closed.to_string()]));
        let expected: Connects = |_, to| to != "red/pod-1-1";
        system.expect(&format!("{flags:?}, with the policy"), &[], &[("80", expected)]);
        system.settle(ctl(&["del", key]));
        system.expect(&format!("{flags:?}, without it"), &[], &[("80", ALL)]);
    }
}

/// A pod of node 2 and one of node 3.
const REMOTE_V6: [&str; 2] = ["fd62:756c:7275:f400::41", "fd62:756c:7275:f400::81"];

#[test]
fn policy_holds_with_every_encapsulation_and_both_families() {
    if !possible() {
        return;
    }
    // Node 2 always shares node 1's subnet; with two subnets, node 3 doesn't.
    for (encap, tunnels) in
        [("vxlan", [true, true]), ("crosssubnet", [false, true]), ("none", [false, false])]
    {
        let system = System::start(&["--encap", encap, "--ipv6"]);
        let by_net =
            allow_in("by-net-v6", "TCP", 1006, json!({"nets": ["fd62:756c:7275:f400::40/122"]}));
        system.apply(&[features(), vec![by_net]].concat());
        system.expect(encap, &[], &FEATURES[..8]);
        for (family, remote) in [("-4", ["10.244.0.65", "10.244.0.129"]), ("-6", REMOTE_V6)] {
            let through = remote.map(|pod| {
                let args = ["exec", "node-1", "--", "ip", family, "route", "get", pod];
                system.lab.run(&args).contains("dev vxlan")
            });
            assert_eq!(through, tunnels, "{encap}, {family}");
        }
        let v6: [(&str, Connects); 6] = [
            ("1000", NOBODY),
            ("1001", FEATURES[1].1),
            ("1002", FEATURES[2].1),
            ("1006", |from, _| from.contains("pod-2-")),
            ("80/tcp", ALL),
            ("53/udp", ALL),
        ];
        system.expect(&format!("{encap}, IPv6"), &["--ipv6"], &v6);
    }
}

#[test]
fn beyond_the_pools_a_pod_appears_as_its_node() {
    if !possible() {
        return;
    }
    let system = System::start(&[]);
    let listener = TcpListener::bind((system.host.as_str(), 0)).expect("a listener on the host");
    let port = listener.local_addr().expect("its address").port();
    // bash opens the connection, and is through when it is there.
    let open = format!("exec 3<>/dev/tcp/{}/{port}", system.host);
    system.lab.run(&["exec", "pod-2-1", "--", "timeout", "5", "bash", "-c", &open]);
    let (_, peer) = listener.accept().expect("a connection");
    let addresses =
        system.lab.run(&["exec", "node-2", "--", "ip", "-br", "-4", "addr", "show", "eth0"]);
    assert!(addresses.contains(&format!(" {}/24", peer.ip())), "{peer} is none of {addresses}");
}

#[test]
fn a_lab_on_a_store_that_stays_leaves_nothing_in_it_and_takes_nothing_over() {
    if !possible() {
        return;
    }
    let Some((_, etcd)) = support::etcd_binaries().into_iter().next() else {
        return support::skipped("etcd", "no etcd found: run .ci/servers or install etcd-server");
    };
    let etcd = support::RealEtcd::start(&etcd);
    let system = System::start(&["--store", etcd.endpoint()]);
    system.expect("without a policy", &[], &[("80", ALL)]);
    assert_eq!(system.url, etcd.endpoint());

    let other = lab_support::Lab::new();
    let said = other.failure(&["up", "--store", etcd.endpoint()]);
    let last = said.lines().last().unwrap_or_default();
    support::assert_bad_input("lab up: a store with somebody's cluster in it", last);
    system.expect("beside a lab that was refused", &[], &[("80", ALL)]);

    system.lab.run(&["down"]);
    let left = system.objects();
    assert_eq!(left, Vec::<String>::new());
}
