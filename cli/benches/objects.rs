//! How long the command line takes for 10,000 objects, as ratios to what it can't do without: the
//! store's bare list, and the parsing of YAML. `cargo bench -p bulrush-cli`.

#![allow(
    clippy::expect_used,
    reason = "a measurement that can't be made is a panic with its place"
)]

use std::{
    fs,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use datastore::{Selection, StoreConfig};
use etcd_client::{Client, Txn, TxnOp};
use model::{Kind, StreamIndex};
use serde_json::json;

const OBJECTS: usize = 10_000;
/// The best of so many is taken.
const RUNS: usize = 5;

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(get());
    validate();
}

/// The shortest time of several.
fn best(mut run: impl FnMut() -> Duration) -> Duration {
    (0..RUNS).map(|_| run()).min().expect("at least one run")
}

/// How long the program takes, from its start to its end.
fn bulrush(arguments: &[&str]) -> Duration {
    let start = Instant::now();
    let output = Command::new(env!("CARGO_BIN_EXE_bulrush"))
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .expect("bulrush runs");
    let took = start.elapsed();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    took
}

async fn get() {
    let server = embedded::Server::start(embedded::Config::default()).await.expect("a store");
    let url = format!("http://{}", server.addr());
    let mut client = Client::connect([&url], None).await.expect("a client");
    let puts: Vec<TxnOp> = (0..OBJECTS).map(endpoint).collect();
    for chunk in puts.chunks(100) {
        client.txn(Txn::new().and_then(chunk)).await.expect("a transaction");
    }
    let store = StoreConfig::from_url(&url).expect("a URL").connect().await.expect("a store");
    let mut list = Duration::MAX;
    for _ in 0..RUNS {
        let start = Instant::now();
        let selection = Selection::from(Kind::WorkloadEndpoint);
        let listing = store.list(StreamIndex(0), selection).await.expect("a list");
        list = list.min(start.elapsed());
        assert_eq!(listing.items.len(), OBJECTS);
    }
    println!("bare list of {OBJECTS} endpoints: {list:.0?}");
    for format in ["ps", "wide", "yaml", "json"] {
        let took = tokio::task::block_in_place(|| {
            best(|| bulrush(&["get", "wep", "-A", "-o", format, "--store", &url]))
        });
        let ratio = took.as_secs_f64() / list.as_secs_f64();
        println!("get -o {format}: {took:.0?}, {ratio:.2} times the list");
    }
    server.shutdown().await.expect("the store ends");
}

fn endpoint(index: usize) -> TxnOp {
    let node = format!("node-{}", index % 100);
    let name = format!("node--{}-k8s-pod--{index}-eth0", index % 100);
    let value = json!({
        "apiVersion": "projectcalico.org/v3",
        "kind": "WorkloadEndpoint",
        "metadata": {
            "name": name, "namespace": "shop", "uid": "00000000-0000-4000-8000-000000000001",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": {"app": "web", "projectcalico.org/namespace": "shop"},
        },
        "spec": {
            "node": node, "orchestrator": "k8s", "pod": format!("pod-{index}"), "endpoint": "eth0",
            "interfaceName": format!("cali{index}"), "profiles": ["kns.shop", "ksa.shop.default"],
            "ipNetworks": [format!("10.{}.{}.{}/32", index >> 16, index >> 8 & 255, index & 255)],
        },
    });
    let path = format!("/calico/resources/v3/projectcalico.org/workloadendpoints/shop/{name}");
    TxnOp::put(path, value.to_string(), None)
}

fn validate() {
    let text: String = (0..OBJECTS).map(policy).collect();
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("policies.yaml");
    fs::write(&file, &text).expect("written");
    let parse = best(|| {
        let start = Instant::now();
        let documents: Vec<serde_json::Value> =
            serde_saphyr::from_multiple_with_options(&text, options()).expect("documents");
        assert_eq!(documents.len(), OBJECTS);
        start.elapsed()
    });
    let file = file.to_str().expect("a path in UTF-8");
    let took = best(|| bulrush(&["validate", "-f", file]));
    println!("parsing {OBJECTS} policies: {parse:.0?}");
    let ratio = took.as_secs_f64() / parse.as_secs_f64();
    println!("validate -f: {took:.0?}, {ratio:.2} times the parsing");
}

/// As many documents as there are objects.
fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_documents: OBJECTS + 1,
            max_nodes: 1000 * OBJECTS,
            max_events: 1000 * OBJECTS,
        },
    }
}

fn policy(index: usize) -> String {
    format!(
        "---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata:
  name: p{index}
  namespace: shop
spec:
  order: {index}
  selector: app == 'web' && rank != '{index}'
  types:
  - Ingress
  - Egress
  ingress:
  - action: Allow
    protocol: TCP
    source:
      selector: role in {{'client', 'c{index}'}}
      nets:
      - 10.0.0.0/8
    destination:
      ports:
      - 80
      - 8000:9000
  egress:
  - action: Deny
"
    )
}
