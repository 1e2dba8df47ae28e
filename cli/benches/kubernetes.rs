//! How long typha takes to be in sync with a large cluster, against a bare list of the same objects in the same run, and
//! how much memory: `cargo bench --bench kubernetes`. It needs an API server (`.ci/servers`).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a measurement that can't be made is a panic with its place"
)]

#[path = "../tests/common/mod.rs"]
mod common;

use std::{
    io::{Read as _, Write as _},
    net::{Ipv4Addr, TcpStream},
    time::{Duration, Instant},
};

use common::{Process, bulrush};
use futures::StreamExt as _;
use http_body_util::BodyExt as _;
use kube::{
    Client, Config,
    client::Body,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};
use support::{RealKubernetes, free_port};

const PODS: usize = 10_000;
const POLICIES: usize = 2_000;
const NAMESPACES: usize = 100;
/// How often it is measured; the median counts.
const RUNS: usize = 5;

async fn call(client: &Client, method: &str, path: &str, body: &Value) -> Vec<u8> {
    let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
    let content =
        if method == "PATCH" { "application/merge-patch+json" } else { "application/json" };
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", content)
        .body(Body::from(body))
        .unwrap();
    let answer = client.send(request).await.unwrap();
    let status = answer.status();
    let bytes = answer.into_body().collect().await.unwrap().to_bytes().to_vec();
    assert!(status.is_success(), "{path}: {}", String::from_utf8_lossy(&bytes));
    bytes
}

async fn fill(client: &Client) {
    let namespaces = (0..NAMESPACES).map(|n| async move {
        let object = json!({ "metadata": { "name": format!("ns-{n}"), "labels": { "team": format!("t{}", n % 7) } } });
        call(client, "POST", "/api/v1/namespaces", &object).await;
    });
    futures::stream::iter(namespaces).buffer_unordered(16).collect::<Vec<_>>().await;
    let pods = (0..PODS).map(|n| async move {
        let path = format!("/api/v1/namespaces/ns-{}/pods", n % NAMESPACES);
        let name = format!("pod-{n}");
        let object = json!({
            "metadata": { "name": name, "labels": { "app": format!("app-{}", n % 50), "tier": format!("t{}", n % 3) } },
            "spec": {
                "nodeName": format!("node-{}", n % 200),
                "containers": [{ "name": "c", "image": "registry.example/app:1.2.3", "ports": [{ "name": "http", "containerPort": 8080 }] }],
            },
        });
        call(client, "POST", &path, &object).await;
        let address = format!("10.{}.{}.{}", n / 65536, n / 256 % 256, n % 256);
        let status = json!({ "status": { "phase": "Running", "podIP": address, "podIPs": [{ "ip": address }] } });
        call(client, "PATCH", &format!("{path}/{name}/status"), &status).await;
    });
    futures::stream::iter(pods).buffer_unordered(16).collect::<Vec<_>>().await;
    let policies = (0..POLICIES).map(|n| async move {
        let path = format!("/apis/networking.k8s.io/v1/namespaces/ns-{}/networkpolicies", n % NAMESPACES);
        let object = json!({
            "metadata": { "name": format!("policy-{n}") },
            "spec": {
                "podSelector": { "matchLabels": { "app": format!("app-{}", n % 50) } },
                "ingress": [{ "from": [{ "podSelector": { "matchLabels": { "tier": format!("t{}", n % 3) } } }], "ports": [{ "port": 80 + n % 9 }] }],
            },
        });
        call(client, "POST", &path, &object).await;
    });
    futures::stream::iter(policies).buffer_unordered(16).collect::<Vec<_>>().await;
}

/// Reads the pages of a list as kubectl does, and nothing else.
async fn bare_list(client: &Client, path: &str) -> usize {
    let (mut token, mut bytes) = (String::new(), 0);
    loop {
        let page =
            call(client, "GET", &format!("{path}?limit=500&continue={token}"), &Value::Null).await;
        bytes += page.len();
        // The token is near the beginning; parsing it all would be more than bare.
        let head = String::from_utf8_lossy(&page[..page.len().min(4096)]).into_owned();
        let rest = head.split("\"continue\":\"").nth(1);
        rest.and_then(|rest| rest.split('"').next()).unwrap_or_default().clone_into(&mut token);
        if token.is_empty() {
            return bytes;
        }
    }
}

fn is_ready(port: u16) -> bool {
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        stream.write_all(
            b"GET /readiness HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    ask().is_ok_and(|answer| answer.starts_with("HTTP/1.1 200"))
}

/// How long a typha takes from its start to being in sync, and its memory then, in bytes.
fn start(store: &str) -> (Duration, u64) {
    let [port, health, metrics, status] =
        [free_port(), free_port(), free_port(), free_port()].map(|it| it.to_string());
    let begin = Instant::now();
    let mut command = bulrush();
    command.args(["run", "typha", "--store", store, "--port", &port, "--health-port", &health]);
    command.args(["--metrics-port", &metrics, "--status-port", &status]);
    let typha = Process::start(&mut command);
    while !is_ready(health.parse().unwrap()) {
        assert!(begin.elapsed() < Duration::from_mins(5), "not in sync");
        std::thread::sleep(Duration::from_millis(5));
    }
    let time = begin.elapsed();
    // What the first publication freed has had time to be given back.
    std::thread::sleep(Duration::from_secs(2));
    let status = std::fs::read_to_string(format!("/proc/{}/status", typha.id())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    let kilobytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    (time, kilobytes * 1024)
}

fn main() {
    let Some(kubernetes) = RealKubernetes::shared() else { return };
    tokio::runtime::Runtime::new().unwrap().block_on(measure(kubernetes));
}

async fn measure(kubernetes: &RealKubernetes) {
    let kubeconfig = Kubeconfig::read_from(kubernetes.kubeconfig("admin")).unwrap();
    let config =
        Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    let client = Client::try_from(config).unwrap();
    let store = format!("kubernetes:{}", kubernetes.kubeconfig("admin").display());

    let (_, empty) = start(&store);
    fill(&client).await;
    let (mut ratios, mut above) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let begin = Instant::now();
        let mut bytes = bare_list(&client, "/api/v1/pods").await;
        bytes += bare_list(&client, "/apis/networking.k8s.io/v1/networkpolicies").await;
        let bare = begin.elapsed();
        let (time, memory) = start(&store);
        ratios.push(time.as_secs_f64() / bare.as_secs_f64());
        above.push(memory.saturating_sub(empty) as f64 / 1e6);
        println!(
            "bare list of {} MB {bare:?}, start to in sync {time:?}, memory {:.1} MB, of an empty server {:.1} MB",
            bytes / 1_000_000,
            memory as f64 / 1e6,
            empty as f64 / 1e6
        );
    }
    print("start to in sync / bare list", 1.5, ratios);
    print("MB above the empty server", 60.0, above);
}

fn print(what: &str, target: f64, mut values: Vec<f64>) {
    values.sort_unstable_by(f64::total_cmp);
    let (least, median, most) = (values[0], values[values.len() / 2], values[values.len() - 1]);
    println!("{what}: median {median:.2} ({least:.2} to {most:.2}), target {target}");
}
