//! What the store holds of a lab: what Calico's CNI plugin, kubelet and `calicoctl` would have written.

use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;
use model::{Key, Kind, translate::endpoint_name};
use serde_json::{Map, Value, json};

use super::plan::{BLOCK_SIZE, Block, Encap, Node, POOL_V4, POOL_V6, Plan, Pod, sha1};

/// Every object of a lab, in an order in which what is referred to comes first. `seed` makes its identifiers different
/// from any other lab's.
pub(crate) fn objects(plan: &Plan, seed: &str) -> Vec<(Key, Value)> {
    let mut objects = shared(seed);
    objects.extend(pools(plan, seed));
    let namespaces: BTreeSet<&str> = plan.pods().map(|pod| pod.namespace.as_str()).collect();
    for namespace in namespaces {
        objects.extend(profiles(namespace, seed));
    }
    objects.extend(plan.nodes.iter().map(|node| calico_node(node, seed)));
    for node in &plan.nodes {
        for (family, block) in node.blocks.iter().enumerate() {
            objects.extend(address_block(node, family, block));
        }
        objects.extend(node.pods.iter().map(|pod| endpoint(node, pod, seed)));
    }
    objects
}

/// What a store in use has anyway, and every user of it shares.
pub(crate) fn is_shared(key: &Key) -> bool {
    matches!(key.kind, Kind::ClusterInformation | Kind::Tier)
}

fn shared(seed: &str) -> Vec<(Key, Value)> {
    let guid = &sha1(&format!("{seed} cluster"))[..32];
    vec![
        resource(
            Key::global(Kind::ClusterInformation, "default"),
            seed,
            json!({"clusterGUID": guid, "datastoreReady": true}),
        ),
        resource(
            Key::global(Kind::Tier, "default"),
            seed,
            json!({"order": 1_000_000, "defaultAction": "Deny"}),
        ),
    ]
}

fn pools(plan: &Plan, seed: &str) -> Vec<(Key, Value)> {
    let vxlan = match plan.encap {
        Encap::Vxlan => "Always",
        Encap::CrossSubnet => "CrossSubnet",
        Encap::None => "Never",
    };
    let pool = |name: &str, cidr: &str, block_size: u8| {
        resource(
            Key::global(Kind::IPPool, name),
            seed,
            json!({
                "cidr": cidr,
                "vxlanMode": vxlan,
                "ipipMode": "Never",
                "natOutgoing": true,
                "blockSize": block_size,
                "nodeSelector": "all()",
                "allowedUses": ["Workload", "Tunnel"],
                "assignmentMode": "Automatic",
            }),
        )
    };
    let v6 = plan.ipv6.then(|| pool("default-ipv6-ippool", POOL_V6, 122));
    std::iter::once(pool("default-ipv4-ippool", POOL_V4, 26)).chain(v6).collect()
}

/// A namespace and its service account: without a policy everything is allowed.
fn profiles(namespace: &str, seed: &str) -> [(Key, Value); 2] {
    let allow = json!([{"action": "Allow", "source": {}, "destination": {}}]);
    [
        resource(
            Key::global(Kind::Profile, format!("kns.{namespace}")),
            seed,
            json!({
                "ingress": allow,
                "egress": allow,
                "labelsToApply": {
                    "pcns.kubernetes.io/metadata.name": namespace,
                    "pcns.projectcalico.org/name": namespace,
                },
            }),
        ),
        resource(
            Key::global(Kind::Profile, format!("ksa.{namespace}.default")),
            seed,
            json!({"labelsToApply": {"pcsa.projectcalico.org/name": "default"}}),
        ),
    ]
}

fn calico_node(node: &Node, seed: &str) -> (Key, Value) {
    let mut addresses = Vec::new();
    let (mut bgp, mut spec) = (Map::new(), Map::new());
    for (address, block) in node.addresses.iter().zip(&node.blocks) {
        let family = if address.addr().is_ipv4() { "ipv4" } else { "ipv6" };
        addresses.push(json!({"address": address, "type": "CalicoNodeIP"}));
        addresses.push(json!({"address": address.addr(), "type": "InternalIP"}));
        bgp.insert(format!("{family}Address"), json!(address));
        if let Some(tunnel) = block.tunnel {
            spec.insert(format!("{family}VXLANTunnelAddr"), json!(tunnel));
        }
    }
    spec.insert("addresses".to_owned(), addresses.into());
    spec.insert("bgp".to_owned(), bgp.into());
    let key = Key::global(Kind::Node, node.name.as_str());
    let (key, mut value) = resource(key, seed, spec.into());
    value["metadata"]["labels"] = json!({"kubernetes.io/hostname": node.name});
    (key, value)
}

fn endpoint(node: &Node, pod: &Pod, seed: &str) -> (Key, Value) {
    let name = endpoint_name(&node.name, &pod.name);
    let networks: Vec<String> = pod.addresses.iter().map(|address| host(*address)).collect();
    let (key, mut value) = resource(
        Key::namespaced(Kind::WorkloadEndpoint, pod.namespace.as_str(), name),
        seed,
        json!({
            "orchestrator": "k8s",
            "node": node.name,
            "containerID": pod.container,
            "pod": pod.name,
            "endpoint": "eth0",
            "serviceAccountName": "default",
            "ipNetworks": networks,
            "profiles": [
                format!("kns.{}", pod.namespace),
                format!("ksa.{}.default", pod.namespace),
            ],
            "interfaceName": pod.interface,
            "mac": pod.mac,
            "ports": [
                {"name": "http", "protocol": "TCP", "port": 80, "hostPort": 0, "hostIP": ""},
                {"name": "dns", "protocol": "UDP", "port": 53, "hostPort": 0, "hostIP": ""},
            ],
        }),
    );
    value["metadata"]["labels"] = json!({
        "app": pod.name,
        "node": node.name,
        "role": pod.role,
        "projectcalico.org/namespace": pod.namespace,
        "projectcalico.org/orchestrator": "k8s",
        "projectcalico.org/serviceaccount": "default",
    });
    (key, value)
}

/// A block with its affinity and the handles of its addresses.
fn address_block(node: &Node, family: usize, block: &Block) -> Vec<(Key, Value)> {
    let v4 = block.cidr.addr().is_ipv4();
    let tunnel = block.tunnel.map(|address| {
        let (handle, kind) = if v4 {
            ("vxlan-tunnel-addr", "vxlanTunnelAddress")
        } else {
            ("vxlan-v6-tunnel-addr", "vxlanV6TunnelAddress")
        };
        let attribute = json!({"node": node.name, "type": kind});
        (address, format!("{handle}-{}", node.name), attribute)
    });
    let pods = node.pods.iter().map(|pod| {
        let attribute = json!({"namespace": pod.namespace, "node": node.name, "pod": pod.name});
        (pod.addresses[family], format!("k8s-pod-network.{}", pod.container), attribute)
    });
    let owners: Vec<(IpAddr, String, Value)> = tunnel.into_iter().chain(pods).collect();

    let allocations = (0..usize::from(BLOCK_SIZE)).map(|ordinal| {
        let owner = owners.iter().position(|owner| self::ordinal(block.cidr, owner.0) == ordinal);
        owner.map_or(Value::Null, Value::from)
    });
    let allocations: Vec<Value> = allocations.collect();
    let unallocated: Vec<usize> =
        (0..allocations.len()).filter(|ordinal| allocations[*ordinal].is_null()).collect();
    // As if the addresses had been given out one after the other.
    let sequence: Map<String, Value> = owners
        .iter()
        .enumerate()
        .map(|(index, owner)| (ordinal(block.cidr, owner.0).to_string(), index.into()))
        .collect();
    let attributes: Vec<Value> = owners
        .iter()
        .map(|(_, handle, attribute)| json!({"handle_id": handle, "secondary": attribute}))
        .collect();

    let affinity = json!({"state": "confirmed", "deleted": false});
    let value = json!({
        "cidr": block.cidr,
        "affinity": format!("host:{}", node.name),
        "allocations": allocations,
        "unallocated": unallocated,
        "attributes": attributes,
        "sequenceNumber": owners.len(),
        "sequenceNumberForAllocation": sequence,
        "deleted": false,
    });
    let mut objects = vec![
        (Key::global(Kind::BlockAffinity, affinity_name(&node.name, block.cidr)), affinity),
        (Key::global(Kind::IPAMBlock, block_name(block.cidr)), value),
    ];
    // A pod has one handle for all its addresses: it is written with the first block.
    let of_pods = if family == 0 { node.pods.as_slice() } else { &[] };
    objects.extend(
        owners
            .iter()
            .filter(|owner| Some(owner.0) == block.tunnel)
            .map(|owner| handle(owner.1.clone(), [block.cidr])),
    );
    objects.extend(of_pods.iter().map(|pod| {
        let cidrs = node.blocks.iter().map(|block| block.cidr);
        handle(format!("k8s-pod-network.{}", pod.container), cidrs)
    }));
    objects
}

fn handle(id: String, blocks: impl IntoIterator<Item = IpNet>) -> (Key, Value) {
    let counts: Map<String, Value> =
        blocks.into_iter().map(|cidr| (cidr.to_string(), 1.into())).collect();
    (Key::global(Kind::IPAMHandle, id), json!({"block": counts, "deleted": false}))
}

/// The place of an address in its block.
fn ordinal(block: IpNet, address: IpAddr) -> usize {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    };
    (bits(address) - bits(block.network())) as usize
}

/// `10-244-0-0-26`, as Kubernetes names blocks.
fn block_name(cidr: IpNet) -> String {
    cidr.to_string().replace(['.', ':', '/'], "-")
}

/// The node and the block; all groups of an IPv6 block are written out, so that the name can be split again.
fn affinity_name(node: &str, cidr: IpNet) -> String {
    match cidr {
        IpNet::V4(_) => format!("{node}-{}", block_name(cidr)),
        IpNet::V6(v6) => {
            let groups = v6.network().segments().map(|group| format!("{group:04x}"));
            format!("{node}-{}-{}", groups.join("-"), cidr.prefix_len())
        }
    }
}

/// An address as a network of one.
fn host(address: IpAddr) -> String {
    IpNet::from(address).to_string()
}

fn resource(key: Key, seed: &str, spec: Value) -> (Key, Value) {
    let mut metadata = json!({"name": key.name.as_str(), "uid": uid(&key, seed)});
    if !key.namespace.is_empty() {
        metadata["namespace"] = key.namespace.as_str().into();
    }
    let mut value = json!({
        "kind": key.kind.name(),
        "apiVersion": "projectcalico.org/v3",
        "metadata": metadata,
    });
    value["spec"] = spec;
    (key, value)
}

fn uid(key: &Key, seed: &str) -> String {
    let hash = sha1(&format!("{seed} {key}"));
    let bits = u128::from_str_radix(&hash[..32], 16).unwrap_or_default();
    uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid().to_string()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use model::Stored;

    use super::*;
    use crate::lab::plan::Shape;

    fn lab(encap: Encap, ipv6: bool) -> (Plan, BTreeMap<String, Value>) {
        let shape = Shape { nodes: 3, pods: 2, encap, ipv6 };
        let plan = Plan::new("lab", 0, shape, "seed");
        let objects = objects(&plan, "seed");
        let count = objects.len();
        let objects: BTreeMap<String, Value> =
            objects.into_iter().map(|(key, value)| (key.to_string(), value)).collect();
        assert_eq!(objects.len(), count, "two objects have the same name");
        (plan, objects)
    }

    #[test]
    fn every_object_is_valid_and_has_a_place_in_etcd() {
        for encap in [Encap::Vxlan, Encap::CrossSubnet, Encap::None] {
            for ipv6 in [false, true] {
                let shape = Shape { nodes: 3, pods: 2, encap, ipv6 };
                for (key, value) in objects(&Plan::new("lab", 0, shape, "seed"), "seed") {
                    let path = datastore::etcdv3::keys::path(&key).expect("a path");
                    assert_eq!(datastore::etcdv3::keys::key(path.as_bytes()), Some(key.clone()));
                    if let Err(error) = model::kinds::decode(&key, &Stored::Json(value)) {
                        panic!("{key}: {error}");
                    }
                }
            }
        }
    }

    #[test]
    fn endpoints_are_named_and_labelled_as_calicos() {
        let (_, objects) = lab(Encap::Vxlan, true);
        let endpoint = &objects["WorkloadEndpoint blue/node--2-k8s-pod--2--2-eth0"];
        assert_eq!(
            endpoint["spec"]["ipNetworks"],
            json!(["10.244.0.66/32", "fd62:756c:7275:f400::42/128"])
        );
        assert_eq!(endpoint["spec"]["profiles"], json!(["kns.blue", "ksa.blue.default"]));
        assert_eq!(endpoint["metadata"]["labels"]["projectcalico.org/namespace"], "blue");
        assert_eq!(endpoint["metadata"]["labels"]["role"], "server");
        assert!(
            objects.contains_key("Profile kns.red") && objects.contains_key("Profile kns.blue")
        );
    }

    #[test]
    fn a_tunnel_address_is_the_nodes_and_is_allocated_in_its_block() {
        let (_, objects) = lab(Encap::CrossSubnet, true);
        let node = &objects["Node node-2"]["spec"];
        assert_eq!(node["bgp"]["ipv4Address"], "198.18.1.2/24");
        assert_eq!(node["ipv4VXLANTunnelAddr"], "10.244.0.64");
        assert_eq!(node["ipv6VXLANTunnelAddr"], "fd62:756c:7275:f400::40");
        let block = &objects["IPAMBlock 10-244-0-64-26"];
        assert_eq!(block["allocations"][0], 0);
        assert_eq!(block["attributes"][0]["handle_id"], "vxlan-tunnel-addr-node-2");
        assert!(objects.contains_key("IPAMHandle vxlan-v6-tunnel-addr-node-2"));

        let (_, objects) = lab(Encap::None, false);
        assert!(objects["Node node-2"]["spec"].get("ipv4VXLANTunnelAddr").is_none());
        assert_eq!(objects["IPAMBlock 10-244-0-64-26"]["allocations"][0], Value::Null);
    }

    #[test]
    fn each_address_of_a_pod_is_allocated_to_it_and_counted_by_its_handle() {
        let (plan, objects) = lab(Encap::Vxlan, true);
        for node in &plan.nodes {
            for pod in &node.pods {
                let handle = format!("k8s-pod-network.{}", pod.container);
                let counts = &objects[&format!("IPAMHandle {handle}")]["block"];
                for (address, block) in pod.addresses.iter().zip(&node.blocks) {
                    assert_eq!(counts[block.cidr.to_string()], 1);
                    let stored = &objects[&format!("IPAMBlock {}", block_name(block.cidr))];
                    assert_eq!(stored["affinity"], format!("host:{}", node.name));
                    let ordinal = ordinal(block.cidr, *address);
                    let attribute = stored["allocations"][ordinal].as_u64().expect("allocated");
                    let owner = &stored["attributes"][attribute as usize];
                    assert_eq!(owner["handle_id"], handle);
                    assert_eq!(owner["secondary"]["pod"], pod.name);
                    let free = stored["unallocated"].as_array().expect("a list");
                    assert!(!free.contains(&ordinal.into()));
                    assert_eq!(free.len() + 3, usize::from(BLOCK_SIZE));
                }
            }
        }
    }
}
