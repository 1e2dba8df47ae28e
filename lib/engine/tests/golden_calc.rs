//! Calico's own results for whole clusters, held against what the engine says.
//!
//! A case is a datastore in steps, with the state of some nodes after some steps. Compared are the
//! parts that a view carries: IP sets with their members, rules, endpoints with their tiers,
//! profiles, hosts and routes. What a view doesn't carry is left out, and said at each place.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is a failed test")]

mod support;

use std::collections::BTreeMap;

use model::{Key, Kind};
use serde_json::Value;
use support::{calico, cluster::Cluster, golden};

/// Cases that are about something that the engine doesn't do yet.
fn unsupported(case: &Value) -> Option<&'static str> {
    let id = case["id"].as_str().unwrap();
    let keys = case["steps"].as_array().unwrap().iter().flat_map(|step| {
        step["put"].as_array().into_iter().flatten().map(|put| put["key"].as_str().unwrap())
    });
    for key in keys {
        if key.contains("/hostendpoints/") {
            return Some("host endpoints");
        }
    }
    UNSUPPORTED.iter().find(|(case, _)| *case == id).map(|(_, reason)| *reason)
}

/// By id, with what is missing.
const UNSUPPORTED: &[(&str, &str)] = &[
    ("ep-spoof-any", "prefixes that an endpoint may spoof"),
    ("ep-spoof-disabled", "prefixes that an endpoint may spoof"),
    ("netset-overlap-iptables", "sets of iptables, which take overlaps"),
    ("wips-felixconfig", "routes from endpoints instead of blocks (routeSource WorkloadIPs)"),
    ("wips-felixconfig-node", "routes from endpoints instead of blocks (routeSource WorkloadIPs)"),
    (
        "wips-felixconfig-selector",
        "routes from endpoints instead of blocks (routeSource WorkloadIPs)",
    ),
    ("wips-shared", "routes from endpoints instead of blocks (routeSource WorkloadIPs)"),
];

#[test]
fn a_node_gets_what_calico_computes_for_it() {
    let Some(folder) = golden::folder() else { return };
    let mut files = std::fs::read_dir(folder.join("calc"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "json"))
        .collect::<Vec<_>>();
    files.sort();
    let mut missing = BTreeMap::<&str, usize>::new();
    let differences = golden::differences("calc/*.json");
    let (mut agreed, mut differing, mut wrong) = (0, 0, Vec::new());
    for file in files {
        let case: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        let id = case["id"].as_str().unwrap();
        if let Some(what) = unsupported(&case) {
            *missing.entry(what).or_default() += 1;
            continue;
        }
        let mut disagreements = run(&case);
        match differences.iter().find(|listed| listed.id == id) {
            None if disagreements.is_empty() => agreed += 1,
            None => {}
            Some(_) if disagreements.is_empty() => {
                wrong.push(format!("{id}: listed as different, but it agrees"));
            }
            Some(listed) => {
                println!("{id} differs on purpose: {}", listed.class);
                disagreements.retain(|text| !listed.at.iter().any(|part| text.contains(part)));
                differing += 1;
            }
        }
        wrong.extend(disagreements.iter().map(|text| format!("{id}: {text}")));
    }
    for (what, count) in &missing {
        println!("calc: {count} unsupported: {what}");
    }
    let unsupported = missing.values().sum::<usize>();
    println!(
        "calc: {agreed} agree, {differing} differ on purpose, {unsupported} unsupported, {} wrong",
        wrong.len()
    );
    for text in &wrong {
        println!("{text}");
    }
    assert!(wrong.is_empty(), "{} disagreements", wrong.len());
    assert!(agreed > 0, "no cases");
}

/// All steps of a case, each state compared; texts of what disagrees.
fn run(case: &Value) -> Vec<String> {
    let mut cluster = Cluster::new();
    let mut disagreements = Vec::new();
    let expected = case["expected_after"].as_array().unwrap();
    for (index, step) in case["steps"].as_array().unwrap().iter().enumerate() {
        for put in step["put"].as_array().into_iter().flatten() {
            let Some(key) = etcd_key(put["key"].as_str().unwrap()) else { continue };
            let bytes = match put.get("value") {
                Some(value) => serde_json::to_vec(value).unwrap(),
                None => put["raw"].as_str().unwrap().as_bytes().to_vec(),
            };
            cluster.put(&key, &bytes);
        }
        for key in step["delete"].as_array().into_iter().flatten() {
            let Some(key) = etcd_key(key.as_str().unwrap()) else { continue };
            cluster.delete(&key);
        }
        cluster.flush();
        let number = index + 1;
        let Some(state) = expected.iter().position(|n| n.as_u64() == Some(number as u64)) else {
            continue;
        };
        for (node, views) in case["views"].as_object().unwrap() {
            let fresh = &case["fresh_differs"][node][number.to_string()];
            let ours = calico::state(&cluster, node);
            let mut theirs = views[state].clone();
            for (section, value) in fresh.as_object().into_iter().flatten() {
                theirs[section] = value.clone();
            }
            for text in calico::compare(&ours, &theirs) {
                disagreements.push(format!("step {number}, {node}: {text}"));
            }
        }
    }
    disagreements
}

/// The object that an etcd key names; none: nothing that is watched.
fn etcd_key(path: &str) -> Option<Key> {
    if let Some(resource) = path.strip_prefix("/calico/resources/v3/projectcalico.org/") {
        let mut parts = resource.splitn(3, '/');
        let kind = Kind::from_plural(parts.next()?)?;
        return Some(match (parts.next()?, parts.next()) {
            (namespace, Some(name)) => Key::namespaced(kind, namespace, name),
            (name, None) => Key::global(kind, name),
        });
    }
    let block = path.strip_prefix("/calico/ipam/v2/assignment/")?;
    let (_, name) = block.split_once("/block/")?;
    Some(Key::global(Kind::IPAMBlock, name.replace(['.', ':'], "-")))
}
