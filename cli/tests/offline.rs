//! `bulrush matrix`, `explain`, `whatif` and `replay`: answers from manifests alone.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "../../lib/model/tests/golden/mod.rs"]
mod golden;

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::{Value, json};
use support::assert_bad_input;

fn bulrush(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bulrush")).args(args).output().unwrap()
}

fn matrix(args: &[&str]) -> Output {
    bulrush(&[&["matrix"], args].concat())
}

/// What a command that must fail says.
fn failure(args: &[&str]) -> String {
    let output = bulrush(args);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().unwrap().iter()
}

/// A world as a folder of manifests, as people write them: without uids, nodes or statuses but the
/// addresses.
fn write_world(folder: &Path, world: &Value) {
    let write = |name: String, object: &Value| {
        fs::write(folder.join(name), object.to_string()).unwrap();
    };
    for (name, labels) in world["namespaces"].as_object().unwrap() {
        let metadata = json!({"name": name, "labels": labels});
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata});
        write(format!("namespace-{name}.json"), &object);
    }
    let ports = list(&world["ports"]).map(|port| {
        json!({"name": port["name"], "containerPort": port["port"], "protocol": port["protocol"]})
    });
    let containers = json!([{"name": "main", "ports": ports.collect::<Vec<_>>()}]);
    for pod in list(&world["pods"]) {
        let (namespace, name) = (text(&pod["namespace"]), text(&pod["name"]));
        let object = json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": namespace, "labels": pod["labels"]},
            "spec": {"containers": containers},
            "status": {"podIPs": [{"ip": pod["ip"]}]},
        });
        write(format!("pod-{namespace}-{name}.json"), &object);
    }
    for (index, policy) in list(&world["policies"]).enumerate() {
        write(format!("policy-{index}.json"), policy);
    }
}

#[test]
fn every_verdict_of_every_known_world_is_right() {
    let Some(golden) = golden::folder() else { return };
    let worlds = fs::read_to_string(golden.join("truth.jsonl")).unwrap();
    let (mut verdicts, mut wrong) = (0, Vec::new());
    for world in worlds.lines() {
        let world: Value = serde_json::from_str(world).unwrap();
        let folder = tempfile::tempdir().unwrap();
        write_world(folder.path(), &world);
        let folder = folder.path().to_str().unwrap();
        let pods = list(&world["pods"])
            .map(|pod| format!("{}/{}", text(&pod["namespace"]), text(&pod["name"])))
            .collect::<Vec<_>>();
        for probe in list(&world["probes"]) {
            let port = format!("{}/{}", probe["port"], text(&probe["protocol"]).to_lowercase());
            let output = matrix(&["-f", folder, "--port", &port, "-o", "json"]);
            assert!(output.status.success(), "{}: {output:?}", world["id"]);
            let said: Value = serde_json::from_slice(&output.stdout).unwrap();
            assert_eq!(said["pods"], json!(pods), "{}", world["id"]);
            let allowed = list(&probe["allowed"]).collect::<Vec<_>>();
            for from in &pods {
                for to in pods.iter().filter(|to| *to != from) {
                    verdicts += 1;
                    let wanted = allowed.contains(&&json!([from, to]));
                    let ours = &said["reach"][from][to];
                    if *ours != json!(wanted) {
                        let id = &world["id"];
                        wrong.push(format!("{id}: {from} to {to}, {port}: {ours}, not {wanted}"));
                    }
                }
            }
        }
    }
    println!("truth.jsonl: {verdicts} verdicts, {} are wrong", wrong.len());
    for wrong in &wrong {
        println!("{wrong}");
    }
    assert!(wrong.is_empty(), "{} wrong verdicts", wrong.len());
    assert!(verdicts > 0, "truth.jsonl has no worlds");
}

#[test]
fn an_explanation_ends_as_the_matrix_says() {
    let Some(golden) = golden::folder() else { return };
    let worlds = fs::read_to_string(golden.join("truth.jsonl")).unwrap();
    let mut verdicts = [0, 0];
    for world in worlds.lines().step_by(70) {
        let world: Value = serde_json::from_str(world).unwrap();
        let folder = tempfile::tempdir().unwrap();
        write_world(folder.path(), &world);
        let folder = folder.path().to_str().unwrap();
        let output = matrix(&["-f", folder, "--port", "80", "-o", "json"]);
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        for (from, targets) in said["reach"].as_object().unwrap() {
            for (to, connects) in targets.as_object().unwrap() {
                let output =
                    bulrush(&["explain", from, &format!("{to}:80"), "-f", folder, "-o", "json"]);
                let explained: Value = serde_json::from_slice(&output.stdout).unwrap();
                assert_eq!(explained["allowed"], *connects, "{}: {explained}", world["id"]);
                let ends = list(&explained["ends"]).collect::<Vec<_>>();
                assert_eq!(ends.len(), 2, "both are pods: {explained}");
                let all = ends.iter().all(|end| end["allowed"] == true);
                assert_eq!(json!(all), *connects, "{explained}");
                assert!(ends.iter().all(|end| end["because"] != ""), "{explained}");
                verdicts[usize::from(all)] += 1;
            }
        }
    }
    assert!(verdicts.iter().all(|count| *count > 0), "denied and allowed: {verdicts:?}");
}

const SHOP: &str = r#"
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

#[test]
fn an_explanation_names_each_rule_on_the_way_and_what_staged_policies_would_do() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("shop.yaml");
    fs::write(&file, SHOP).unwrap();
    let output = bulrush(&["explain", "shop/web", "shop/db:5432", "-f", file.to_str().unwrap()]);
    let text = String::from_utf8(output.stdout).unwrap();
    let entering = text.split_once("entering").unwrap().1;
    let lines = entering.lines().filter(|line| !line.starts_with("  labels:")).collect::<Vec<_>>();
    assert_eq!(
        lines,
        [
            " shop/db: denied",
            "  because: rule 2 of NetworkPolicy shop/db: deny",
            "  tier first",
            "    GlobalNetworkPolicy first.pass",
            "      selects it: app == \"db\"",
            "      rule 1, pass: matches",
            "  tier default",
            "    NetworkPolicy shop/db",
            "      selects it: (app == \"db\" && projectcalico.org/namespace == \"shop\")",
            "      rule 1, allow: no match: the source isn't \
             (projectcalico.org/namespace == \"shop\" && app == \"job\")",
            "      rule 2, deny: matches",
            "",
            "with staged policies enforced: allowed",
        ],
        "{text}"
    );
}

#[test]
fn a_change_is_answered_with_the_pairs_that_it_opens_and_an_exit_code() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let base = write("base.yaml", SHOP);
    let open = write(
        "new.yaml",
        r#"{apiVersion: projectcalico.org/v3, kind: NetworkPolicy, metadata: {name: db, namespace: shop},
            spec: {selector: app == "db", types: [Ingress], ingress: [{action: Allow}]}}"#,
    );
    let output = bulrush(&["whatif", "-f", &open, "--base", &base, "-o", "json"]);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    let said: Value = serde_json::from_slice(&output.stdout).unwrap();
    let change = json!({
        "port": "5432/tcp", "from": "shop/web", "to": "shop/db", "before": false, "after": true,
    });
    assert_eq!(said, json!({"ports": ["5432/tcp"], "pairs": 2, "changes": [change]}));

    let output = bulrush(&["whatif", "-f", &base, "--base", &base]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text, "0 of 2 pairs change, over 5432/tcp\n");
}

#[test]
fn what_cannot_be_answered_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("shop.yaml");
    fs::write(&file, SHOP).unwrap();
    let file = file.to_str().unwrap();
    let explain = |to: &str| failure(&["explain", "shop/web", to, "-f", file]);
    assert_bad_input("explain: no such pod", &explain("shop/dbb:5432"));
    assert_bad_input("explain: no port", &explain("shop/db"));
    assert_bad_input("explain: another family", &explain("[fd00::1]:80"));
    let protocol = failure(&["matrix", "-f", file, "--port", "80/icmp"]);
    assert_bad_input("matrix: a protocol without ports", protocol.lines().next().unwrap());
    let empty = folder.path().join("empty.yaml");
    fs::write(&empty, "kind: Deployment\napiVersion: apps/v1\n").unwrap();
    let empty = failure(&["matrix", "-f", empty.to_str().unwrap(), "--port", "80"]);
    assert_bad_input("matrix: nothing that policy is about", &empty);
    let unnamed = folder.path().join("unnamed.yaml");
    fs::write(&unnamed, "kind: Pod\napiVersion: v1\n").unwrap();
    let unnamed = failure(&["matrix", "-f", unnamed.to_str().unwrap(), "--port", "80"]);
    assert_bad_input("matrix: an object without a name", unnamed.lines().last().unwrap().trim());
    assert_bad_input("replay: no case and no record", &failure(&["replay", file, "--node", "n"]));
}
