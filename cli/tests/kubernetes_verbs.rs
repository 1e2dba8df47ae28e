//! calicoctl's verbs on a real API server, and kubectl beside them.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::{
    io::Write as _,
    process::{Output, Stdio},
    sync::OnceLock,
};

use common::bulrush;
use serde_json::Value;
use support::{ApiServer, RealKubernetes};

/// A cluster with our definitions.
fn shared() -> Option<&'static RealKubernetes> {
    static DEFINED: OnceLock<()> = OnceLock::new();
    let kubernetes = RealKubernetes::shared()?;
    DEFINED.get_or_init(|| kubernetes.define_ours());
    Some(kubernetes)
}

/// Runs a command as a user of the cluster does: the store comes from the environment.
fn run(server: &ApiServer, arguments: &[&str], input: &str) -> Output {
    let mut command = bulrush();
    command.env("DATASTORE_TYPE", "kubernetes").env("KUBECONFIG", server.kubeconfig("admin"));
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    child.wait_with_output().unwrap()
}

/// What a command prints that must succeed.
fn ok(server: &ApiServer, arguments: &[&str], input: &str) -> String {
    let output = run(server, arguments, input);
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

fn kubectl_json(server: &ApiServer, arguments: &[&str]) -> Value {
    serde_json::from_str(&server.kubectl_ok(&[arguments, &["-o", "json"]].concat())).unwrap()
}

#[test]
fn a_24_either_api_version_is_one_stored_object() {
    let Some(kubernetes) = shared() else { return };
    for (version, order) in [("projectcalico.org/v3", 1), ("crd.projectcalico.org/v1", 2)] {
        let manifest = format!(
            "{{apiVersion: {version}, kind: GlobalNetworkPolicy, metadata: {{name: a-24}}, \
             spec: {{order: {order}, selector: all()}}}}"
        );
        ok(kubernetes, &["apply", "-f", "-"], &manifest);
        let stored = kubectl_json(kubernetes, &["get", "globalnetworkpolicies.projectcalico.org"]);
        let stored: Vec<_> = stored["items"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|item| item["metadata"]["name"].as_str().unwrap().contains("a-24"))
            .collect();
        assert_eq!(stored.len(), 1, "{version}: {stored:#?}");
        assert_eq!(stored[0]["spec"]["order"], order, "{version}");
    }
    ok(kubernetes, &["delete", "gnp", "a-24"], "");
}

#[test]
fn a_25_apply_leaves_of_a_node_what_the_manifest_does_not_say() {
    let Some(kubernetes) = shared() else { return };
    kubernetes.apply(
        "{apiVersion: v1, kind: Node, metadata: {name: a-25, annotations: \
         {projectcalico.org/IPv4Address: 192.0.2.1/24, projectcalico.org/ASNumber: \"64512\"}}}",
    );
    ok(
        kubernetes,
        &["apply", "-f", "-"],
        "{apiVersion: projectcalico.org/v3, kind: Node, metadata: {name: a-25}, \
         spec: {bgp: {routeReflectorClusterID: 244.0.0.1}}}",
    );
    let node = kubectl_json(kubernetes, &["get", "node", "a-25"]);
    let annotations = &node["metadata"]["annotations"];
    assert_eq!(annotations["projectcalico.org/RouteReflectorClusterID"], "244.0.0.1");
    assert_eq!(annotations["projectcalico.org/IPv4Address"], "192.0.2.1/24");
    assert_eq!(annotations["projectcalico.org/ASNumber"], "64512");
}

#[test]
fn a_22_kubectl_gets_describes_and_picks_fields_of_pools_and_affinities() {
    let Some(kubernetes) = shared() else { return };
    ok(
        kubernetes,
        &["apply", "-f", "-"],
        "{apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {name: a-22}, \
         spec: {cidr: 10.22.0.0/16}}",
    );
    kubernetes.apply(
        "{apiVersion: projectcalico.org/v3, kind: BlockAffinity, metadata: {name: \
         node-1-10-22-0-0-26}, spec: {state: confirmed, node: node-1, cidr: 10.22.0.0/26, \
         deleted: false}}",
    );
    let cidr = ["get", "ippool", "a-22", "-o", "jsonpath={.spec.cidr}"];
    assert_eq!(kubernetes.kubectl_ok(&cidr), "10.22.0.0/16");
    assert!(kubernetes.kubectl_ok(&["describe", "ippool", "a-22"]).contains("10.22.0.0/16"));
    let affinities = kubernetes.kubectl_ok(&["get", "blockaffinity"]);
    let line = affinities.lines().find(|line| line.starts_with("node-1-10-22-0-0-26")).unwrap();
    assert!(line.contains("node-1 ") && line.contains("10.22.0.0/26"), "{affinities}");
    ok(kubernetes, &["delete", "ippool", "a-22"], "");
}

#[test]
fn a_12_calicoctls_file_for_kubernetes_is_read_and_the_environment_wins_over_it() {
    let Some(kubernetes) = shared() else { return };
    ok(kubernetes, &["create", "tier", "a-12"], "");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("calicoctl.cfg");
    let get = |kubeconfig: &str, environment: &[(&str, &str)]| {
        let text = format!(
            "apiVersion: projectcalico.org/v3\nkind: CalicoAPIConfig\nmetadata:\nspec:\n  \
             datastoreType: kubernetes\n  kubeconfig: {kubeconfig}\n"
        );
        std::fs::write(&file, text).unwrap();
        let mut command = bulrush();
        command.env_clear().envs(environment.iter().copied());
        command.args(["get", "tier", "a-12", "--config"]).arg(&file).output().unwrap()
    };
    let kubeconfig = kubernetes.kubeconfig("admin");
    let kubeconfig = kubeconfig.to_str().unwrap();
    let output = get(kubeconfig, &[]);
    assert!(String::from_utf8_lossy(&output.stdout).contains("a-12"), "{output:?}");

    let output = get("/no/such/kubeconfig", &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/no/such/kubeconfig"), "{output:?}");
    for name in ["KUBECONFIG", "CALICO_KUBECONFIG"] {
        let output = get("/no/such/kubeconfig", &[(name, kubeconfig)]);
        assert!(output.status.success(), "{name}: {output:?}");
    }
    ok(kubernetes, &["delete", "tier", "a-12"], "");
}

#[test]
fn what_is_wrong_in_a_manifest_is_refused_before_the_api_server_sees_it() {
    let Some(kubernetes) = shared() else { return };
    let output = run(
        kubernetes,
        &["apply", "-f", "-"],
        "{apiVersion: projectcalico.org/v3, kind: IPPool, metadata: {name: wrong}, \
         spec: {cidr: 10.0.0.1/24}}",
    );
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("10.0.0.0/24"), "the way out");
    let none = kubernetes.kubectl(&["get", "ippool", "wrong"]);
    assert!(!none.status.success());
}
