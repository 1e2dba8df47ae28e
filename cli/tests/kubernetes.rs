//! Objects that kubectl writes reach `bulrush watch` as their translation, through a real API server and typha.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::collections::BTreeMap;

use common::{bulrush, start_typha, until};
use serde_json::Value;
use support::RealKubernetes;

/// Topic and key to value.
type Contents = BTreeMap<(String, String), Value>;

/// What a watcher sees at once.
fn view(server: &str, arguments: &[&str]) -> Contents {
    let mut command = bulrush();
    command.args(["watch", "--server", server, "-o", "json", "--once"]).args(arguments);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let mut view = Contents::new();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        if line["op"] == "put" {
            let text = |field: &str| line[field].as_str().unwrap().to_owned();
            view.insert((text("topic"), text("key")), line["value"].clone());
        }
    }
    view
}

fn store(kubernetes: &RealKubernetes, user: &str) -> String {
    format!("kubernetes:{}", kubernetes.kubeconfig(user).display())
}

const SHOP: &str = r"
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {team: red}}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: web, namespace: shop, labels: {role: web}}
---
apiVersion: v1
kind: Node
metadata: {name: node-1, annotations: {projectcalico.org/IPv4Address: 192.0.2.1/24}}
---
apiVersion: v1
kind: Pod
metadata: {name: web-0, namespace: shop, labels: {app: web}}
spec:
  nodeName: node-1
  serviceAccountName: web
  containers: [{name: c, image: i, ports: [{name: http, containerPort: 8080}]}]
---
apiVersion: v1
kind: Pod
metadata: {name: waiting, namespace: shop, labels: {app: web}}
spec:
  containers: [{name: c, image: i}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: web, namespace: shop}
spec:
  podSelector: {matchLabels: {app: web}}
  ingress: [{from: [{podSelector: {matchLabels: {app: web}}}], ports: [{port: http}]}]
";

#[tokio::test(flavor = "multi_thread")]
async fn what_kubectl_writes_reaches_watch() {
    let Some(kubernetes) = RealKubernetes::shared() else { return };
    let typha = start_typha(&store(kubernetes, "admin"), 10).await;
    let server = typha.address().to_string();
    kubernetes.apply(SHOP);
    until("typha reads Kubernetes", || typha.status().in_sync).await;
    let shown = |needle: &str| {
        view(&server, &["--node", "node-1"]).keys().any(|(topic, _)| topic.contains(needle))
    };
    until("the policy arrives", || shown("policy/KubernetesNetworkPolicy/shop/web")).await;
    typha.stop().await;
}
