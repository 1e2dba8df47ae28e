//! What `deploy` holds, on a real API server: it takes the CRDs and judges objects as we do, and the
//! roles allow what they should.

#![allow(clippy::expect_used, reason = "in a test a panic is a failure with its place")]

mod agreement;
mod client;
#[path = "../dice/mod.rs"]
mod dice;
#[path = "../golden/mod.rs"]
mod golden;
mod rbac;

use std::{
    sync::OnceLock,
    time::{Duration, Instant},
};

use bulrush_model::{
    Kind,
    validate::{crd, schemas},
};
use client::Client;
use serde_json::{Value, json};
use support::{ApiServer, RealKubernetes, assert_bad_input};

/// The API server with all our CRDs; none: there is no such server here.
fn cluster() -> Option<&'static ApiServer> {
    static READY: OnceLock<()> = OnceLock::new();
    let server: &ApiServer = RealKubernetes::shared()?;
    READY.get_or_init(|| install(server));
    Some(server)
}

const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

fn install(server: &ApiServer) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/crds");
    server.kubectl_ok(&["apply", "--server-side", "-f", folder]);
    let mut client = Client::connect(server, "admin");
    let definitions: Vec<_> = schemas().filter_map(crd::definition).collect();
    for definition in &definitions {
        let path = format!("{CRDS}/{}", definition["metadata"]["name"].as_str().expect("a name"));
        let deadline = Instant::now() + Duration::from_mins(1);
        loop {
            let found = client.get(&path).body;
            let all = ["NamesAccepted", "Established"].map(|ty| condition(&found, ty));
            if all.iter().all(|condition| condition["status"] == "True") {
                let structural = condition(&found, "NonStructuralSchema");
                assert!(structural.is_null(), "{path}: {structural}");
                break;
            }
            assert!(Instant::now() < deadline, "{path}: {all:?}");
        }
    }
}

fn condition(definition: &Value, ty: &str) -> Value {
    let conditions = definition["status"]["conditions"].as_array();
    let found = conditions.into_iter().flatten().find(|condition| condition["type"] == ty);
    found.cloned().unwrap_or_default()
}

/// Where objects of a kind are written.
fn path(kind: Kind, namespace: &str) -> String {
    let namespace =
        if kind.is_namespaced() { format!("namespaces/{namespace}/") } else { String::new() };
    format!("/apis/projectcalico.org/v3/{namespace}{}", kind.plural())
}

#[test]
fn kubectl_knows_every_kind_by_its_names() {
    let Some(server) = cluster() else { return };
    for (kind, name) in schemas()
        .filter(|schema| crd::definition(schema).is_some())
        .flat_map(|schema| {
            crd::short_names(schema.kind).iter().map(move |name| (schema.kind, *name))
        })
        .chain([(Kind::IPPool, "ippool"), (Kind::BlockAffinity, "blockaffinity")])
    {
        let listed = server.kubectl_ok(&["get", name, "-A", "--output=json"]);
        let listed: Value = serde_json::from_str(&listed).expect("JSON");
        assert_eq!(listed["items"], json!([]), "{kind} as {name}");
    }
}

/// The words of a refusal; empty: it was accepted.
fn refusal(client: &mut Client, kind: Kind, object: &Value) -> String {
    let answer = client.post(&format!("{}?dryRun=All", path(kind, "default")), object);
    if answer.is_ok() { String::new() } else { answer.message().to_owned() }
}

fn object(kind: Kind, spec: &Value) -> Value {
    let version = "projectcalico.org/v3";
    json!({"apiVersion": version, "kind": kind.name(), "metadata": {"name": "x"}, "spec": spec})
}

#[test]
fn what_the_api_server_refuses_it_refuses_in_our_words() {
    let Some(server) = cluster() else { return };
    let mut client = Client::connect(server, "admin");
    let both = json!({"cidr": "10.0.0.0/16", "ipipMode": "Always", "vxlanMode": "Always"});
    let said = refusal(&mut client, Kind::IPPool, &object(Kind::IPPool, &both));
    assert_bad_input("an API server: a pool with two encapsulations", &said);
    let http = json!({"ingress": [{"action": "Allow", "http": {"methods": ["GET"]}}]});
    let said = refusal(&mut client, Kind::NetworkPolicy, &object(Kind::NetworkPolicy, &http));
    assert_bad_input("an API server: a rule that matches HTTP", &said);
    let alone = object(Kind::ClusterInformation, &json!({}));
    let said = refusal(&mut client, Kind::ClusterInformation, &alone);
    assert_bad_input("an API server: a second object where there is one", &said);
}

#[test]
fn unknown_fields_are_left_out_unless_the_writer_asks_for_strictness() {
    let Some(server) = cluster() else { return };
    let mut client = Client::connect(server, "admin");
    let rule = json!({"action": "Allow", "destination": {"domains": ["example.com"]}});
    let policy = object(Kind::NetworkPolicy, &json!({"types": ["Egress"], "egress": [rule]}));
    let place = path(Kind::NetworkPolicy, "default");
    let lenient = client.post(&format!("{place}?dryRun=All"), &policy);
    assert!(lenient.is_ok(), "{lenient:?}");
    assert_eq!(lenient.body["spec"]["egress"], json!([{"action": "Allow", "destination": {}}]));
    let strict = client.post(&format!("{place}?dryRun=All&fieldValidation=Strict"), &policy);
    let said = strict.message();
    assert!(said.contains(r#"unknown field "spec.egress[0].destination.domains""#), "{said}");
    // kubectl asks for it.
    let said = server.kubectl_as("admin", &["create", "-f", "-"], &policy.to_string());
    let said = String::from_utf8_lossy(&said.stderr);
    assert_bad_input("kubectl: an unknown field", &said);
}

#[test]
fn a_block_of_addresses_comes_back_as_it_was_written() {
    let Some(server) = cluster() else { return };
    let mut client = Client::connect(server, "admin");
    let spec = json!({
        "cidr": "10.0.0.0/30",
        "affinity": "host:node-1",
        "affinityClaimTime": "2026-01-31T12:00:00Z",
        "allocations": [null, 0, null, 1],
        "unallocated": [0, 2],
        "attributes": [
            {"handle_id": "h", "secondary": {"node": "node-1"}},
            {"releasedAt": "2026-01-31T12:00:00Z"},
        ],
        "sequenceNumber": 7,
        "sequenceNumberForAllocation": {"1": 6, "3": 5},
        "deleted": false,
    });
    let made = client.post(&path(Kind::IPAMBlock, ""), &object(Kind::IPAMBlock, &spec));
    assert!(made.is_ok(), "{made:?}");
    let one = format!("{}/x", path(Kind::IPAMBlock, ""));
    assert_eq!(client.get(&one).body["spec"], spec);
    assert!(client.delete(&one).is_ok());
}

#[test]
fn a_pool_keeps_its_network_and_the_size_of_its_blocks() {
    let Some(server) = cluster() else { return };
    let mut client = Client::connect(server, "admin");
    let pool = object(Kind::IPPool, &json!({"cidr": "fd00:10::/64"}));
    let made = client.post(&path(Kind::IPPool, ""), &pool);
    assert!(made.is_ok(), "{made:?}");
    let one = format!("{}/x", path(Kind::IPPool, ""));
    let mut change = |spec: Value| {
        let mut changed = made.body.clone();
        changed["spec"] = spec;
        let answer = client.put(&format!("{one}?dryRun=All"), &changed);
        (answer.is_ok(), answer.message().to_owned())
    };
    for same in [
        json!({"cidr": "fd00:10::/64", "blockSize": 122, "natOutgoing": true}),
        json!({"cidr": "FD00:10:0::/64"}),
    ] {
        assert_eq!(change(same), (true, String::new()));
    }
    let (_, said) = change(json!({"cidr": "fd00:11::/64"}));
    assert!(said.contains("the network of a pool can't be changed"), "{said}");
    let (_, said) = change(json!({"cidr": "fd00:10::/64", "blockSize": 121}));
    assert!(said.contains("the block size of a pool can't be changed"), "{said}");
    assert!(client.delete(&one).is_ok());
}
