//! Clusters as files, and commands that are asked about them.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::{
    fs,
    process::{Command, Output},
};

use serde_json::Value;

pub(crate) fn bulrush(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bulrush")).args(args).output().unwrap()
}

pub(crate) fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().unwrap().iter()
}

/// A folder with this file, and the file's name.
pub(crate) fn written(text: &str) -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("it.yaml");
    fs::write(&file, text).unwrap();
    let file = file.to_str().unwrap().to_owned();
    (folder, file)
}

/// What it prints, and what it says beside.
pub(crate) fn said(args: &[&str]) -> (String, String) {
    let output = bulrush(args);
    assert!(output.status.code() != Some(1), "{output:?}");
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr))
}

/// A web server and a database, in whose way are policies of two tiers, a staged one among them.
pub(crate) const SHOP: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: web, namespace: shop, labels: {app: web}}
status: {podIPs: [{ip: 10.0.0.1}]}
---
apiVersion: v1
kind: Pod
metadata: {name: db, namespace: shop, labels: {app: db}}
status: {podIPs: [{ip: 10.0.0.2}]}
---
apiVersion: projectcalico.org/v3
kind: Tier
metadata: {name: first}
spec: {order: 1}
---
apiVersion: projectcalico.org/v3
kind: GlobalNetworkPolicy
metadata: {name: first.pass}
spec: {tier: first, selector: app == "db", types: [Ingress], ingress: [{action: Pass}]}
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicy
metadata: {name: db, namespace: shop}
spec:
  selector: app == "db"
  types: [Ingress]
  ingress:
  - {action: Allow, protocol: TCP, source: {selector: app == "job"}}
  - {action: Deny, protocol: TCP, source: {selector: app == "web"}, destination: {ports: [5432]}}
---
apiVersion: projectcalico.org/v3
kind: StagedNetworkPolicy
metadata: {name: db, namespace: shop}
spec: {stagedAction: Delete}
"#;

/// Pods with several addresses and none, an interface of a node, and a policy that tells the addresses apart.
pub(crate) const PLACE: &str = r#"
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Pod, metadata: {name: both, namespace: shop},
   status: {podIPs: [{ip: 10.0.0.1}, {ip: "fd00::1"}]}}
- {apiVersion: v1, kind: Pod, metadata: {name: other, namespace: shop},
   status: {podIPs: [{ip: 10.0.0.2}, {ip: "fd00::2"}]}}
- {apiVersion: v1, kind: Pod, metadata: {name: six, namespace: shop}, status: {podIPs: [{ip: "fd00::3"}]}}
- {apiVersion: v1, kind: Pod, metadata: {name: new, namespace: shop}}
- {apiVersion: v1, kind: Pod, metadata: {name: proxy, namespace: shop}, spec: {hostNetwork: true}}
---
apiVersion: projectcalico.org/v3
kind: HostEndpoint
metadata: {name: n1-eth0}
spec: {node: n1, interfaceName: eth0, expectedIPs: [192.0.2.1]}
---
apiVersion: projectcalico.org/v3
kind: NetworkPolicyList
items:
- metadata: {name: no-six, namespace: shop}
  spec: {types: [Ingress], ingress: [{action: Deny, ipVersion: 6}, {action: Allow}]}
"#;
