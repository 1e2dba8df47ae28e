//! What `bulrush matrix` says of a cluster is what packets meet in it: both are asked about the same store.

#![allow(clippy::expect_used, reason = "a test fails by panicking")]

mod lab_support;

use std::{collections::BTreeMap, fs, process::Command};

use datastore::{Selection, StoreConfig};
use lab_support::{Reach, System, possible};
use model::{Kind, Stored, StreamIndex};
use serde_json::{Value, json};

const PORTS: [&str; 4] = ["80", "1000", "53/udp", "443"];
const ROUNDS: u64 = 6;

#[test]
fn the_matrix_of_a_store_is_what_packets_meet() {
    if !possible() {
        return;
    }
    let system = System::start(&[]);
    let (mut passed, mut dropped) = (0, 0);
    for round in 0..ROUNDS {
        let policies = policies(round);
        system.apply(&policies);
        let folder = tempfile::tempdir().expect("a folder");
        save(&system.url, folder.path());
        for port in PORTS {
            let computed = matrix(folder.path(), port);
            let found = system.lab.probe(port);
            let wrong = found.differences(&computed);
            assert!(wrong.is_empty(), "round {round}, port {port}: {wrong:#?}\n{policies:#?}");
            let connected = found.0.values().filter(|connected| **connected).count();
            passed += connected;
            dropped += found.0.len() - connected;
        }
        system.remove(&policies);
    }
    println!("{passed} connections passed, {dropped} didn't");
    assert!(passed > 50 && dropped > 50, "policies of both kinds: {passed} and {dropped}");
}

/// Writes all that is about policy as manifests.
fn save(url: &str, folder: &std::path::Path) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let listing = runtime.block_on(async {
        let store = StoreConfig::from_url(url).expect("a URL").connect().await.expect("a store");
        store.list(StreamIndex(0), Selection::everything()).await.expect("a list")
    });
    let about = [
        Kind::WorkloadEndpoint,
        Kind::Profile,
        Kind::Tier,
        Kind::NetworkPolicy,
        Kind::GlobalNetworkPolicy,
        Kind::GlobalNetworkSet,
    ];
    for (number, item) in listing.items.iter().enumerate() {
        if let Stored::Json(value) = &item.value
            && about.contains(&item.key.kind)
        {
            fs::write(folder.join(format!("{number}.json")), value.to_string()).expect("a file");
        }
    }
}

fn matrix(folder: &std::path::Path, port: &str) -> Reach {
    let folder = folder.to_str().expect("UTF-8");
    let output = Command::new(env!("CARGO_BIN_EXE_bulrush"))
        .args(["matrix", "-f", folder, "--port", port, "-o", "json"])
        .output()
        .expect("bulrush starts");
    assert!(output.status.success(), "{output:?}");
    let said: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let mut pairs = BTreeMap::new();
    for (from, targets) in said["reach"].as_object().expect("an object") {
        for (to, connects) in targets.as_object().expect("an object") {
            pairs.insert((from.clone(), to.clone()), connects.as_bool().expect("true or false"));
        }
    }
    Reach(pairs)
}

/// A few policies of all sorts, by the number of the round.
fn policies(round: u64) -> Vec<Value> {
    let mut state = round.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut choose = move |count: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) as usize % count
    };
    let selectors = [
        "all()",
        "role == 'client'",
        "role == 'server'",
        "app in {'pod-1-1', 'pod-2-2'}",
        "app == 'pod-3-1' || role != 'server'",
        "!(role == 'client')",
    ];
    let mut policies = vec![json!({
        "apiVersion": "projectcalico.org/v3", "kind": "Tier", "metadata": {"name": "first"},
        "spec": {"order": 1, "defaultAction": if round.is_multiple_of(2) { "Pass" } else { "Deny" }},
    })];
    for number in 0..5 {
        let global = choose(2) == 0;
        let tier = if choose(3) == 0 { "first" } else { "default" };
        let mut rules = |ingress: bool| {
            let rules = (0..=choose(3)).map(|_| {
                let mut peer = json!({});
                match choose(4) {
                    0 => {}
                    1 => peer["selector"] = json!(selectors[choose(selectors.len())]),
                    2 => {
                        peer["namespaceSelector"] =
                            json!(["projectcalico.org/name == 'red'", "all()"][choose(2)]);
                    }
                    _ => {
                        peer["nets"] = json!(["10.244.0.0/25"]);
                        peer["notNets"] = json!(["10.244.0.64/26"]);
                    }
                }
                let action = ["Allow", "Allow", "Allow", "Deny", "Pass", "Log"][choose(6)];
                let mut rule = json!({"action": action});
                let mut to = json!({});
                match choose(4) {
                    0 => {}
                    1 => {
                        rule["protocol"] = json!("TCP");
                        to["ports"] = json!([[80, 443], [1000, 80]][choose(2)]);
                    }
                    2 => {
                        rule["protocol"] = json!("UDP");
                        to["ports"] = json!(["dns"]);
                    }
                    _ => {
                        rule["protocol"] = json!("TCP");
                        to["notPorts"] = json!(["http"]);
                    }
                }
                if ingress {
                    rule["source"] = peer;
                    rule["destination"] = to;
                } else {
                    for (name, value) in to.as_object().expect("an object") {
                        peer[name] = value.clone();
                    }
                    rule["destination"] = peer;
                }
                rule
            });
            rules.collect::<Vec<_>>()
        };
        let (ingress, egress) = (rules(true), rules(false));
        let types = [json!(["Ingress"]), json!(["Egress"]), json!(["Ingress", "Egress"])];
        let mut policy = json!({
            "apiVersion": "projectcalico.org/v3",
            "kind": if global { "GlobalNetworkPolicy" } else { "NetworkPolicy" },
            "metadata": {"name": format!("{tier}.p{number}")},
            "spec": {
                "tier": tier, "order": choose(4),
                "selector": selectors[choose(selectors.len())],
                "types": types[choose(3)],
            },
        });
        if !global {
            policy["metadata"]["namespace"] = json!(["red", "blue"][choose(2)]);
        }
        for (name, rules) in [("ingress", ingress), ("egress", egress)] {
            let has = |it: &Value| it.as_str().is_some_and(|it| it.eq_ignore_ascii_case(name));
            if policy["spec"]["types"].as_array().expect("a list").iter().any(has) {
                policy["spec"][name] = json!(rules);
            }
        }
        policies.push(policy);
    }
    policies
}
