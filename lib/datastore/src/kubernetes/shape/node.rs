//! Core Nodes: what Calico knows of a node is in its annotations (Calico:
//! `libcalico-go/lib/backend/k8s/resources/node.go`).

use model::{Key, Kind, Stored};
use serde_json::{Map, Value, json};

use super::text;

const LABELS: &str = "projectcalico.org/labels";
const ANNOTATIONS: &str = "projectcalico.org/annotations";

/// An annotation, after `projectcalico.org/`, and the field that it holds.
const FIELDS: [(&str, &[&str]); 14] = [
    ("IPv4Address", &["spec", "bgp", "ipv4Address"]),
    ("IPv6Address", &["spec", "bgp", "ipv6Address"]),
    ("ASNumber", &["spec", "bgp", "asNumber"]),
    ("RouteReflectorClusterID", &["spec", "bgp", "routeReflectorClusterID"]),
    ("IPv4IPIPTunnelAddr", &["spec", "bgp", "ipv4IPIPTunnelAddr"]),
    ("IPv4VXLANTunnelAddr", &["spec", "ipv4VXLANTunnelAddr"]),
    ("IPv6VXLANTunnelAddr", &["spec", "ipv6VXLANTunnelAddr"]),
    ("VXLANTunnelMACAddr", &["spec", "vxlanTunnelMACAddr"]),
    ("VXLANTunnelMACAddrV6", &["spec", "vxlanTunnelMACAddrV6"]),
    ("IPv4WireguardInterfaceAddr", &["spec", "wireguard", "interfaceIPv4Address"]),
    ("IPv6WireguardInterfaceAddr", &["spec", "wireguard", "interfaceIPv6Address"]),
    ("WireguardPublicKey", &["status", "wireguardPublicKey"]),
    ("WireguardPublicKeyV6", &["status", "wireguardPublicKeyV6"]),
    ("Interfaces", &["spec", "interfaces"]),
];

pub(super) fn read(object: &Value) -> (Option<Key>, Option<Stored>) {
    let metadata = &object["metadata"];
    let name = text(&metadata["name"]);
    let annotations = &metadata["annotations"];
    let mut node = json!({
        "apiVersion": "projectcalico.org/v3",
        "kind": "Node",
        "metadata": { "name": name },
        "spec": { "orchRefs": [{ "nodeName": name, "orchestrator": "k8s" }] },
    });
    for field in ["uid", "creationTimestamp"] {
        if !metadata[field].is_null() {
            node["metadata"][field] = metadata[field].clone();
        }
    }
    // The labels of Kubernetes win, as in Calico.
    let mut labels = json_map(&annotations[LABELS]);
    match &metadata["labels"] {
        Value::Object(own) => labels.extend(own.clone()),
        Value::Null => {}
        // Of a form that only shows when it is read.
        other => node["metadata"]["labels"] = other.clone(),
    }
    for (field, map) in [("labels", labels), ("annotations", json_map(&annotations[ANNOTATIONS]))] {
        if !map.is_empty() {
            node["metadata"][field] = Value::Object(map);
        }
    }
    for (annotation, path) in FIELDS {
        let value = &annotations[format!("projectcalico.org/{annotation}")];
        if let Value::String(text) = value
            && !text.is_empty()
        {
            let value = match annotation {
                "ASNumber" => {
                    text.parse::<u32>().map_or_else(|_| json!(text), |number| json!(number))
                }
                "Interfaces" => serde_json::from_str(text).unwrap_or_else(|_| json!(text)),
                _ => json!(text),
            };
            *at(&mut node, path) = value;
        }
    }
    let addresses = addresses(&node, &object["status"]["addresses"]);
    if !addresses.is_empty() {
        node["spec"]["addresses"] = Value::Array(addresses);
    }
    if !object["spec"]["podCIDRs"].is_null() {
        node["status"]["podCIDRs"] = object["spec"]["podCIDRs"].clone();
    }
    (Some(Key::global(Kind::Node, name)), Some(Stored::Json(node)))
}

/// Those of BGP first, then those that the kubelet says.
fn addresses(node: &Value, kubelets: &Value) -> Vec<Value> {
    let of_bgp = ["ipv4Address", "ipv6Address"].into_iter().filter_map(|field| {
        let address = node["spec"]["bgp"][field].as_str()?;
        Some(json!({ "address": address, "type": "CalicoNodeIP" }))
    });
    let wanted = |address: &&Value| matches!(text(&address["type"]), "InternalIP" | "ExternalIP");
    let of_kubelet = kubelets.as_array().into_iter().flatten().filter(wanted);
    let of_kubelet = of_kubelet
        .map(|it| json!({ "address": it["address"].clone(), "type": it["type"].clone() }));
    of_bgp.chain(of_kubelet).collect()
}

/// A merge patch that writes what `value` says; what it doesn't say stays as it is, and `null` takes it away.
pub(in crate::kubernetes) fn patch(value: &Value, core: &Value, expected: u64) -> Value {
    let mut annotations = Map::new();
    for (annotation, path) in FIELDS {
        let Some(value) = path.iter().try_fold(value, |value, field| value.get(field)) else {
            continue;
        };
        let written = match value {
            Value::Null => Value::Null,
            Value::String(text) if text.is_empty() => Value::Null,
            Value::String(text) => json!(text),
            other => json!(other.to_string()),
        };
        annotations.insert(format!("projectcalico.org/{annotation}"), written);
    }
    if let Some(Value::Object(labels)) = value["metadata"].get("labels") {
        // Those that Kubernetes has are its own business.
        let own = &core["metadata"]["labels"];
        let labels: Map<String, Value> = labels
            .iter()
            .filter(|(key, value)| own.get(key.as_str()) != Some(*value))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        annotations.insert(LABELS.to_owned(), saved(labels));
    }
    if let Some(Value::Object(more)) = value["metadata"].get("annotations") {
        annotations.insert(ANNOTATIONS.to_owned(), saved(more.clone()));
    }
    json!({ "metadata": { "resourceVersion": expected.to_string(), "annotations": annotations } })
}

fn saved(map: Map<String, Value>) -> Value {
    if map.is_empty() { Value::Null } else { json!(Value::Object(map).to_string()) }
}

fn json_map(annotation: &Value) -> Map<String, Value> {
    match serde_json::from_str(text(annotation)) {
        Ok(Value::Object(map)) => map,
        _ => Map::new(),
    }
}

/// The place at a path, made where it isn't.
fn at<'a>(value: &'a mut Value, path: &[&str]) -> &'a mut Value {
    path.iter().fold(value, |value, field| &mut value[*field])
}
