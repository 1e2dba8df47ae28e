//! The sample cluster of `bulrush dev`: a shop and its office, spread over a few nodes.

use std::net::Ipv4Addr;

use datastore::{Datastore, Selection};
use model::{
    Key, Kind, Stored, StreamIndex,
    translate::{endpoint_name, interface_name},
};
use serde_json::{Value, json};

/// Pods of each node: namespace, role.
const PODS: [(&str, &str); 3] = [("shop", "web"), ("shop", "db"), ("office", "desk")];

/// The name of a node, counted from 0.
pub(crate) fn node_name(index: usize) -> String {
    format!("node-{}", index + 1)
}

/// Writes the sample into an empty store, and says how many objects that were. A store with
/// anything in it is left as it is.
pub(crate) async fn write(store: &dyn Datastore, nodes: usize) -> datastore::Result<usize> {
    let there = store.list(StreamIndex(0), Selection::everything()).await?;
    if !there.items.is_empty() {
        return Ok(0);
    }
    let objects = objects(nodes);
    let count = objects.len();
    for (key, value) in objects {
        store.create(&key, &Stored::Json(value)).await?;
    }
    Ok(count)
}

/// The objects of a cluster with so many nodes.
fn objects(nodes: usize) -> Vec<(Key, Value)> {
    let mut objects = vec![
        global(
            Kind::ClusterInformation,
            "default",
            json!({
                "clusterGUID": "0123456789abcdef0123456789abcdef", "clusterType": "sample",
                "datastoreReady": true,
            }),
        ),
        global(Kind::Tier, "default", json!({"order": 1_000_000, "defaultAction": "Deny"})),
        global(Kind::Tier, "platform", json!({"order": 100, "defaultAction": "Pass"})),
        global(Kind::FelixConfiguration, "default", json!({"logSeverityScreen": "Info"})),
        global(
            Kind::IPPool,
            "default-ipv4-ippool",
            json!({
                "cidr": "10.244.0.0/16", "blockSize": 26, "ipipMode": "Never",
                "vxlanMode": "Always", "natOutgoing": true, "nodeSelector": "all()",
                "allowedUses": ["Workload", "Tunnel"], "assignmentMode": "Automatic",
            }),
        ),
        global(Kind::GlobalNetworkSet, "metadata-service", json!({"nets": ["169.254.169.254/32"]})),
        global(
            Kind::GlobalNetworkPolicy,
            "platform.no-metadata",
            json!({
                "tier": "platform", "order": 10, "selector": "all()", "types": ["Egress"],
                "egress": [{"action": "Deny", "destination": {
                    "nets": ["169.254.169.254/32"]}}],
            }),
        ),
        namespaced(
            Kind::NetworkSet,
            "shop",
            "payment-provider",
            json!({
            "nets": ["192.0.2.0/28", "198.51.100.7/32"]}),
            json!({"role": "payment"}),
        ),
        namespaced(
            Kind::NetworkPolicy,
            "shop",
            "db-from-web",
            json!({
                "tier": "default", "order": 100, "selector": "role == 'db'", "types": ["Ingress"],
                "ingress": [{"action": "Allow", "protocol": "TCP",
                    "source": {"selector": "role == 'web'"},
                    "destination": {"ports": ["sql"]}}],
            }),
            Value::Null,
        ),
        namespaced(
            Kind::NetworkPolicy,
            "shop",
            "web-pays",
            json!({
                "tier": "default", "order": 200, "selector": "role == 'web'", "types": ["Egress"],
                "egress": [
                    {"action": "Allow", "protocol": "TCP",
                        "destination": {"selector": "role == 'payment'", "ports": [443]}},
                    {"action": "Allow", "destination": {"selector": "role == 'db'"}},
                ],
            }),
            Value::Null,
        ),
    ];
    for namespace in ["shop", "office"] {
        let allow = json!([{"action": "Allow"}]);
        objects.push(global(
            Kind::Profile,
            &format!("kns.{namespace}"),
            json!({
                "ingress": allow, "egress": allow,
                "labelsToApply": {
                    "pcns.kubernetes.io/metadata.name": namespace,
                    "pcns.projectcalico.org/name": namespace,
                },
            }),
        ));
    }
    for index in 0..nodes {
        node(index, &mut objects);
    }
    objects
}

fn node(index: usize, objects: &mut Vec<(Key, Value)>) {
    let name = node_name(index);
    // Blocks of 64 addresses, one after the other.
    let base = u32::from(Ipv4Addr::new(10, 244, 0, 0)) + 64 * index as u32;
    let address = |offset: u32| Ipv4Addr::from(base + offset);
    let host = Ipv4Addr::from(u32::from(Ipv4Addr::new(192, 168, 64, 0)) + 1 + index as u32);
    objects.push(global(
        Kind::Node,
        &name,
        json!({
            "addresses": [{"address": format!("{host}/20"), "type": "CalicoNodeIP"}],
            "bgp": {"ipv4Address": format!("{host}/20")},
            "ipv4VXLANTunnelAddr": address(0).to_string(),
        }),
    ));

    let mut attributes = vec![json!({
        "handle_id": format!("vxlan-tunnel-addr-{name}"),
        "secondary": {"node": name, "type": "vxlanTunnelAddress"},
    })];
    for (offset, (namespace, role)) in (1..).zip(PODS) {
        let pod = format!("{role}-{}", index + 1);
        let handle = format!("k8s-pod-network.{namespace}-{pod}");
        attributes.push(json!({
            "handle_id": handle,
            "secondary": {"namespace": namespace, "pod": pod, "node": name},
        }));
        objects.push(endpoint(&name, namespace, role, &pod, address(offset)));
    }
    let used = attributes.len();
    let allocations: Vec<Option<usize>> = (0..64).map(|n| (n < used).then_some(n)).collect();
    let block = json!({
        "cidr": format!("{}/26", address(0)),
        "affinity": format!("host:{name}"),
        "allocations": allocations,
        "unallocated": (used..64).collect::<Vec<_>>(),
        "attributes": attributes,
        "sequenceNumber": 1, "sequenceNumberForAllocation": {}, "deleted": false,
    });
    let block_name = address(0).to_string().replace('.', "-") + "-26";
    objects.push((Key::global(Kind::IPAMBlock, block_name), block));
}

fn endpoint(node: &str, namespace: &str, role: &str, pod: &str, address: Ipv4Addr) -> (Key, Value) {
    let name = endpoint_name(node, pod);
    let ports = if role == "db" {
        json!([{"name": "sql", "protocol": "TCP", "port": 5432}])
    } else {
        json!([{"name": "http", "protocol": "TCP", "port": 8080}])
    };
    let labels = json!({
        "role": role,
        "projectcalico.org/namespace": namespace,
        "projectcalico.org/orchestrator": "k8s",
        "projectcalico.org/serviceaccount": "default",
    });
    namespaced(
        Kind::WorkloadEndpoint,
        namespace,
        &name,
        json!({
            "orchestrator": "k8s", "node": node, "pod": pod, "endpoint": "eth0",
            "containerID": format!("{namespace}-{pod}"),
            "interfaceName": interface_name(namespace, pod),
            "ipNetworks": [format!("{address}/32")],
            "profiles": [format!("kns.{namespace}")],
            "serviceAccountName": "default",
            "ports": ports,
        }),
        labels,
    )
}

fn global(kind: Kind, name: &str, spec: Value) -> (Key, Value) {
    let mut value = json!({
        "kind": kind.name(), "apiVersion": "projectcalico.org/v3",
        "metadata": {"name": name, "uid": uuid::Uuid::new_v4().to_string()},
    });
    value["spec"] = spec;
    (Key::global(kind, name), value)
}

fn namespaced(kind: Kind, namespace: &str, name: &str, spec: Value, labels: Value) -> (Key, Value) {
    let (_, mut value) = global(kind, name, spec);
    value["metadata"]["namespace"] = namespace.into();
    if !labels.is_null() {
        value["metadata"]["labels"] = labels;
    }
    (Key::namespaced(kind, namespace, name), value)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_object_of_the_sample_has_its_own_name_and_is_valid() {
        let objects = objects(300);
        let names: BTreeSet<_> = objects.iter().map(|(key, _)| key).collect();
        assert_eq!(names.len(), objects.len());
        for (key, value) in &objects {
            let stored = Stored::Json(value.clone());
            if let Err(invalid) = model::kinds::decode(key, &stored) {
                panic!("{key}: {invalid}");
            }
        }
    }
}
