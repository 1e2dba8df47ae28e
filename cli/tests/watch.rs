//! What `bulrush watch` shows depends on the objects, not on the store that holds them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::{collections::BTreeMap, time::Duration};

use common::{Process, bulrush, client, every_kind, field, start_typha, until, write};
use serde_json::{Value, json};

const MARKER: &str = "/calico/resources/v3/projectcalico.org/globalnetworksets/marker";

/// What is visible to one watcher: topic and key to value. Versions are left out.
type Contents = BTreeMap<(String, String), Value>;

/// Follows a watch up to the commit that shows the marker of this round.
fn follow(watch: &Process, contents: &mut Contents, round: usize) {
    let mut marked = false;
    loop {
        let line = watch.line("watch", common::PATIENCE);
        let line: Value = serde_json::from_str(&line).unwrap();
        let place = || {
            let text = |field: &str| line[field].as_str().unwrap().to_owned();
            (text("topic"), text("key"))
        };
        match line["op"].as_str().unwrap() {
            "put" => {
                marked |=
                    line["key"] == "marker" && line["value"]["spec"]["nets"][0] == marker(round);
                contents.insert(place(), line["value"].clone());
            }
            "delete" => assert!(contents.remove(&place()).is_some(), "{line}"),
            _ => assert_eq!(line["op"], "commit"),
        }
        if marked && line["op"] == "commit" {
            return;
        }
    }
}

fn marker(round: usize) -> String {
    format!("192.0.2.{round}/32")
}

/// What each watcher sees after each round, with this store.
async fn rounds(store: &str) -> Vec<(String, Contents)> {
    let typha = start_typha(store, 10).await;
    let server = typha.address().to_string();
    let mut client = client(store).await;
    // The marker is in every view: in the full one as an object, for a node there is none, so its
    // view is taken anew after each round.
    let full = |extra: &[&str]| {
        let mut command = bulrush();
        command.args(["watch", "--server", &server, "-o", "json"]).args(extra);
        command
    };
    let mut watch: Option<Process> = None;
    let mut all = Contents::new();
    let mut seen = Vec::new();
    for (round, operations) in every_kind().iter().enumerate() {
        write(&mut client, operations).await;
        let spec = json!({"metadata": {"name": "marker"}, "spec": {"nets": [marker(round)]}});
        client.put(MARKER, spec.to_string(), None).await.unwrap();
        if watch.is_none() {
            until("typha reads the store", || typha.status().in_sync).await;
            watch = Some(Process::start(&mut full(&[])));
        }
        follow(watch.as_ref().unwrap(), &mut all, round);
        seen.push((format!("round {round}, everything"), all.clone()));
        for node in ["a", "b", "no-such-node"] {
            let output = full(&["--node", node, "--once"]).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let mut view = Contents::new();
            for line in String::from_utf8(output.stdout).unwrap().lines() {
                let line: Value = serde_json::from_str(line).unwrap();
                if line["op"] == "put" {
                    let text = |field: &str| line[field].as_str().unwrap().to_owned();
                    view.insert((text("topic"), text("key")), line["value"].clone());
                }
            }
            seen.push((format!("round {round}, node {node}"), view));
        }
    }
    typha.stop().await;
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_looks_the_same_from_the_embedded_store_and_from_etcd() {
    let embedded = embedded::Server::start(embedded::Config::default()).await.unwrap();
    let ours = rounds(&format!("http://{}", embedded.addr())).await;
    embedded.shutdown().await.unwrap();

    let kinds = |view: &Contents| {
        let kinds = view.keys().filter_map(|(topic, _)| topic.split('/').nth(1));
        kinds.map(str::to_owned).collect::<std::collections::BTreeSet<_>>()
    };
    assert_eq!(kinds(&ours[0].1).len(), 13, "{:?}", kinds(&ours[0].1));
    assert!(ours[1].1.keys().any(|(topic, _)| topic.starts_with("ipset/")), "node a has sets");

    let etcds = support::etcd_binaries();
    if etcds.is_empty() {
        support::skipped("etcd", "no etcd was found: only the embedded store was looked at");
    }
    for (label, binary) in etcds {
        let etcd = support::RealEtcd::start(&binary);
        let theirs = rounds(etcd.endpoint()).await;
        for ((what, ours), (_, theirs)) in ours.iter().zip(&theirs) {
            assert_eq!(ours, theirs, "{label}, {what}");
        }
        assert_eq!(ours.len(), theirs.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_into_the_store_of_dev_is_seen_by_watch_and_on_the_page_within_a_second() {
    let dev = Process::start(bulrush().args(["dev", "--agents", "2", "--for", "60s"]));
    let ready = dev.lines_until("dev", |line| line.starts_with("ready ")).pop().unwrap();
    let store = field(&ready, "store");
    let server = field(&ready, "typha");
    let args = ["watch", "--server", server, "--kinds", "GlobalNetworkSet", "-o", "json"];
    let watch = Process::start(bulrush().args(args));
    watch.lines_until("the first commit", |line| line.contains("\"commit\""));

    let mut client = client(store).await;
    let page = format!("{}/api/v1/status", field(&ready, "page"));
    let publication = || http_get(&page)["publication"].as_u64().unwrap();
    let before = publication();
    let spec = json!({"metadata": {"name": "marker"}, "spec": {"nets": ["192.0.2.1/32"]}});
    client.put(MARKER, spec.to_string(), None).await.unwrap();
    let line = watch.line("the put", Duration::from_secs(1));
    assert!(line.contains("marker") && line.contains("\"put\""), "{line}");
    assert_eq!(publication(), before + 1);
}

/// A JSON document over plain HTTP.
fn http_get(url: &str) -> Value {
    use std::io::{Read as _, Write as _};
    let (host, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    let mut stream = std::net::TcpStream::connect(host).unwrap();
    write!(stream, "GET /{path} HTTP/1.0\r\nHost: {host}\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    serde_json::from_str(body).unwrap()
}
