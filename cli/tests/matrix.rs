//! `bulrush matrix` on worlds whose verdicts are known.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

#[path = "../../lib/model/tests/golden/mod.rs"]
mod golden;

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::{Value, json};

fn matrix(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bulrush")).arg("matrix").args(args).output().unwrap()
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
