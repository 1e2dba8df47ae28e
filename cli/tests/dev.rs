//! `bulrush dev`, and the page that it shows.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    process::Stdio,
};

use common::{Process, bulrush, field, until};
use serde_json::{Value, json};

/// What a browser gets.
fn get(page: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(page.trim_start_matches("http://")).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.0 200"), "{path}: {head}");
    body.to_owned()
}

fn apply(store: &str, port: u32) {
    let rule = json!({"action": "Allow", "protocol": "TCP", "destination": {"ports": [port]}});
    let policy = json!({
        "apiVersion": "projectcalico.org/v3", "kind": "NetworkPolicy",
        "metadata": {"name": "closed", "namespace": "shop"},
        "spec": {"selector": "all()", "types": ["Ingress"], "ingress": [rule]},
    });
    let mut child = bulrush()
        .args(["apply", "--store", store, "-f", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(policy.to_string().as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

#[tokio::test]
async fn the_page_of_dev_shows_how_far_the_last_changes_of_policies_have_come() {
    let dev = Process::start(bulrush().args(["dev", "--agents", "3", "--for", "2m"]));
    let ready = dev.lines_until("dev", |line| line.starts_with("ready ")).pop().unwrap();
    let (page, store) = (field(&ready, "page"), field(&ready, "store"));
    // What the page asks for.
    let html = get(page, "/");
    let parts =
        ["Policies that changed last", "\"rollouts\"", "/api/v1/${name}", "p99_ms", "p.deleted"];
    for part in parts {
        assert!(html.contains(part), "{part}");
    }
    let rollouts = || -> Value { serde_json::from_str(&get(page, "/api/v1/rollouts")).unwrap() };
    assert_eq!(rollouts(), json!([]), "no policy has changed since the start");

    for port in [1, 2] {
        let before = rollouts()[0]["publication"].as_u64();
        apply(store, port);
        until("the page shows the change on all nodes", || {
            let newest = &rollouts()[0];
            newest["publication"].as_u64() > before && newest["enforced"] == 3
        })
        .await;
        let shown = rollouts();
        assert_eq!(shown.as_array().unwrap().len(), 1, "{shown}");
        let newest = &shown[0];
        assert_eq!((&newest["kind"], &newest["name"]), (&json!("NetworkPolicy"), &json!("closed")));
        assert_eq!(newest["uses"], 3);
        for none in ["pending", "unknown"] {
            assert_eq!(newest[none], json!([]));
        }
        let (p50, p99) = (newest["p50_ms"].as_u64().unwrap(), newest["p99_ms"].as_u64().unwrap());
        assert!(p50 <= p99 && p99 < 30_000, "{newest}");

        // The command says the same.
        let server = page.trim_start_matches("http://");
        let status = ["rollout", "status", "np/shop/closed", "--server", server, "-o", "json"];
        let said = bulrush().args(status).output().unwrap();
        let said: Value = serde_json::from_slice(&said.stdout).unwrap();
        for (name, value) in said.as_object().unwrap() {
            assert_eq!(newest[name], *value, "{name}");
        }
    }

    // A deletion is a change too, until the policy is made again.
    let delete = ["delete", "networkpolicy", "closed", "-n", "shop", "--store", store];
    assert!(bulrush().args(delete).stdout(Stdio::null()).status().unwrap().success());
    let server = page.trim_start_matches("http://");
    let status = ["rollout", "status", "np/shop/closed", "--server", server, "--wait"];
    let said = bulrush().args(status).args(["--store", store]).output().unwrap();
    let said = (said.status.success(), String::from_utf8(said.stdout).unwrap());
    let gone = "NetworkPolicy(shop/closed): deleted; gone from 3 of 3 nodes; p50 ";
    assert!(said.0 && said.1.starts_with(gone), "{said:?}");
    assert!(said.1.ends_with(" ms since the deletion\n"), "{said:?}");
    let shown = rollouts();
    assert_eq!(shown.as_array().unwrap().len(), 1, "{shown}");
    let fields = ["name", "deleted", "enforced", "uses"].map(|field| &shown[0][field]);
    assert_eq!(fields, [&json!("closed"), &json!(true), &json!(3), &json!(3)]);
    apply(store, 3);
    until("it is shown as one that is there", || {
        let newest = &rollouts()[0];
        newest["deleted"] == false && newest["enforced"] == 3
    })
    .await;
    assert_eq!(rollouts().as_array().unwrap().len(), 1);
    let said = bulrush().args(status).args(["--store", store]).output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(said.starts_with("NetworkPolicy(shop/closed): enforced on 3 of 3 nodes"), "{said}");
}

#[test]
fn dev_runs_on_when_nobody_reads_what_it_says() {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_bulrush"));
    command.args(["dev", "--agents", "1", "--for", "1s"]).stdout(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    drop(child.stdout.take());
    assert!(child.wait().unwrap().success());
}
