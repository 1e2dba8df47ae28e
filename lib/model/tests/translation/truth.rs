//! Worlds with known answers, as policies of Kubernetes and as their translation.

use std::fs;

use serde_json::{Value, json};

use crate::{calico, golden, world};

#[test]
fn every_connection_of_every_world_is_decided_as_kubernetes_decides() {
    let Some(folder) = golden::folder() else { return };
    let text = fs::read_to_string(folder.join("truth.jsonl")).expect("truth.jsonl");
    let (mut verdicts, mut wrong) = (0, Vec::new());
    for line in text.lines() {
        let case: Value = serde_json::from_str(line).expect("a world");
        let (cluster, faults) = calico::translated(manifests(&case));
        assert!(faults.is_empty(), "{}: {faults:?}", case["id"]);
        let pods: Vec<_> = list(&case["pods"])
            .map(|pod| (text_of(&pod["namespace"]), text_of(&pod["name"])))
            .collect();
        for probe in list(&case["probes"]) {
            let port = probe["port"].as_u64().and_then(|port| u16::try_from(port).ok());
            let (port, protocol) = (port.expect("a port"), text_of(&probe["protocol"]));
            let allowed: Vec<&Value> = list(&probe["allowed"]).collect();
            for from in &pods {
                for to in pods.iter().filter(|to| *to != from) {
                    let pair =
                        json!([format!("{}/{}", from.0, from.1), format!("{}/{}", to.0, to.1)]);
                    let wanted = allowed.contains(&&pair);
                    verdicts += 1;
                    if cluster.connects(from, to, port, &protocol) != wanted {
                        let id = &case["id"];
                        wrong.push(format!("{id}: {pair}, {port}/{protocol}: want {wanted}"));
                    }
                }
            }
        }
    }
    println!("truth.jsonl: {verdicts} verdicts, {} are wrong", wrong.len());
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(verdicts > 0, "truth.jsonl has no worlds");
}

/// The world as objects of Kubernetes.
fn manifests(case: &Value) -> impl Iterator<Item = Value> {
    let namespaces = case["namespaces"].as_object().expect("namespaces").iter();
    let namespaces = namespaces.map(|(name, labels)| world::namespace(name, labels));
    let ports: Vec<_> = list(&case["ports"])
        .map(|port| {
            let (name, number) = (&port["name"], &port["port"]);
            json!({ "name": name, "containerPort": number, "protocol": port["protocol"] })
        })
        .collect();
    let ports = json!(ports);
    let pods = list(&case["pods"]).map(move |pod| {
        let name = (text_of(&pod["namespace"]), text_of(&pod["name"]));
        world::pod((&name.0, &name.1), &text_of(&pod["ip"]), &pod["labels"], &ports)
    });
    namespaces.chain(pods).chain(list(&case["policies"]).cloned())
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().expect("a list").iter()
}

fn text_of(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}
