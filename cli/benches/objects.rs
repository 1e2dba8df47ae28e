//! How long the command line takes for 10,000 objects, as ratios to what it can't do without: the
//! store's bare list, and the parsing of YAML. `cargo bench --bench objects`.

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
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeVal,
};
use serde_json::json;

const OBJECTS: usize = 10_000;
/// The best of so many is taken, of all in turn: what else the machine does hits all alike.
const RUNS: usize = 7;

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[1..] {
        ["list", url] => runtime().block_on(list(url)),
        ["parse", file] => parse(file),
        _ => {
            runtime().block_on(get());
            validate();
        }
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().expect("a runtime")
}

/// What a program took from its start to its end.
#[derive(Clone, Copy)]
struct Took {
    wall: Duration,
    /// Of all its threads, in user and system.
    processor: Duration,
}

/// Runs each of the commands, in turn, and returns the best of each.
fn in_turn(commands: &mut [Command]) -> Vec<Took> {
    let mut best = vec![Took { wall: Duration::MAX, processor: Duration::MAX }; commands.len()];
    for _ in 0..RUNS {
        for (command, best) in commands.iter_mut().zip(&mut best) {
            let took = run(command);
            best.wall = best.wall.min(took.wall);
            best.processor = best.processor.min(took.processor);
        }
    }
    best
}

fn run(command: &mut Command) -> Took {
    let (start, before) = (Instant::now(), children());
    let output = command.stdout(Stdio::null()).stderr(Stdio::piped()).output();
    let output = output.expect("the program runs");
    let wall = start.elapsed();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Took { wall, processor: children().saturating_sub(before) }
}

/// Processor time of the programs that ended.
fn children() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("its usage");
    let time = |value: TimeVal| {
        Duration::from_secs(value.tv_sec().cast_unsigned())
            + Duration::from_micros(value.tv_usec().cast_unsigned())
    };
    time(usage.user_time()) + time(usage.system_time())
}

fn bulrush(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bulrush"));
    command.args(arguments);
    command
}

/// This program again, for the bare part of the work.
fn bare(arguments: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(arguments);
    command
}

fn compare(names: &[&str], took: &[Took]) {
    let bare = took[0];
    println!("{}: {:.0?}, {:.0?} of a processor", names[0], bare.wall, bare.processor);
    for (name, took) in names.iter().zip(took).skip(1) {
        let ratio = |a: Duration, b: Duration| a.as_secs_f64() / b.as_secs_f64();
        println!(
            "{name}: {:.0?}, {:.2} times; {:.0?} of a processor, {:.2} times",
            took.wall,
            ratio(took.wall, bare.wall),
            took.processor,
            ratio(took.processor, bare.processor)
        );
    }
}

async fn get() {
    let server = embedded::Server::start(embedded::Config::default()).await.expect("a store");
    let url = format!("http://{}", server.addr());
    let mut client = Client::connect([&url], None).await.expect("a client");
    let puts: Vec<TxnOp> = (0..OBJECTS).map(endpoint).collect();
    for chunk in puts.chunks(100) {
        client.txn(Txn::new().and_then(chunk)).await.expect("a transaction");
    }
    let formats = ["ps", "wide", "yaml", "json"];
    let gets = formats.map(|format| bulrush(&["get", "wep", "-A", "-o", format, "--store", &url]));
    let mut commands: Vec<Command> = [bare(&["list", &url])].into_iter().chain(gets).collect();
    let took = tokio::task::block_in_place(|| in_turn(&mut commands));
    let list = format!("bare list of {OBJECTS} endpoints");
    compare(&[&list, "get -o ps", "get -o wide", "get -o yaml", "get -o json"], &took);
    server.shutdown().await.expect("the store ends");
}

/// All endpoints, as the store's crate gives them.
async fn list(url: &str) {
    let store = StoreConfig::from_url(url).expect("a URL").connect().await.expect("a store");
    let selection = Selection::from(Kind::WorkloadEndpoint);
    let listing = store.list(StreamIndex(0), selection).await.expect("a list");
    assert_eq!(listing.items.len(), OBJECTS);
    // As a program that ends gives nothing back one by one.
    std::mem::forget(listing);
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
    let file = file.to_str().expect("a path in UTF-8");
    let took = in_turn(&mut [bare(&["parse", file]), bulrush(&["validate", "-f", file])]);
    compare(&[&format!("parsing {OBJECTS} policies"), "validate -f"], &took);
}

/// Nothing but reading YAML.
fn parse(file: &str) {
    let text = fs::read_to_string(file).expect("the file");
    let documents: Vec<serde_json::Value> =
        serde_saphyr::from_multiple_with_options(&text, options()).expect("documents");
    assert_eq!(documents.len(), OBJECTS);
    std::mem::forget(documents);
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
