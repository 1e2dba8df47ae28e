//! The cluster that a load test writes: nodes with their blocks, pods, a few policies.
//!
//! Everything has a name that starts with `loadtest`, or lives in the namespace `loadtest`. What a
//! profile changes carries a *mark*, a number that only grows, in a field that reaches agents: so
//! that what an agent holds says which write it is of.

use std::net::Ipv4Addr;

use model::{
    Key, Kind, Stored,
    translate::{endpoint_name, interface_name},
};
use serde_json::{Value, json};

/// The namespace of all pods and policies.
pub(crate) const NAMESPACE: &str = "loadtest";
/// How many policies a profile can flip.
pub(crate) const POLICIES: u32 = 8;
/// Blocks of 64 addresses from here on, one per node; above them the addresses of pods that come
/// later.
const FIRST_ADDRESS: u32 = u32::from_be_bytes([10, 128, 0, 0]);
const POOL: &str = "10.128.0.0/9";
const BLOCK: u32 = 64;
/// One node of so many has a pod of the deployment that clients may talk to.
const NODES_PER_WEB: u32 = 4;
/// Marks of nodes count from this AS number, the first of those for private use.
const FIRST_AS: u64 = 4_200_000_000;
/// Marks travel as addresses of this net, in rules of policies.
const MARK_NET: u32 = u32::from_be_bytes([240, 0, 0, 0]);

/// How large a cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct World {
    /// Nodes that stay.
    pub(crate) nodes: u32,
    /// Nodes without an agent, which a profile can take away.
    pub(crate) spare: u32,
    /// Pods on each node at the start.
    pub(crate) pods_per_node: u32,
}

/// What a pod is, which says who may talk to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// May talk to webs; each node has one, so each node needs the set of webs.
    Client,
    /// A member of the set that clients may talk to.
    Web,
    /// Neither.
    Other,
}

impl Role {
    fn label(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Web => "web",
            Self::Other => "other",
        }
    }
}

/// A node's name.
pub(crate) fn node_name(node: u32) -> String {
    format!("loadtest-{node}")
}

impl World {
    /// The nodes that stay and the spare ones.
    pub(crate) fn all_nodes(&self) -> u32 {
        self.nodes + self.spare
    }

    /// How many pods there are at the start.
    pub(crate) fn pods(&self) -> u32 {
        self.all_nodes() * self.pods_per_node
    }

    /// The node on which a pod is at the start.
    pub(crate) fn node_of(&self, pod: u32) -> u32 {
        pod / self.pods_per_node
    }

    /// What a pod is at the start.
    pub(crate) fn role(&self, pod: u32) -> Role {
        match pod % self.pods_per_node {
            0 => Role::Client,
            1 if self.node_of(pod).is_multiple_of(NODES_PER_WEB) => Role::Web,
            _ => Role::Other,
        }
    }

    /// The address of a pod. Pods that come later have one that none had before.
    pub(crate) fn address(&self, pod: u32) -> Ipv4Addr {
        let offset = if pod < self.pods() {
            // The first address of a block is left for a tunnel.
            self.node_of(pod) * BLOCK + 1 + pod % self.pods_per_node
        } else {
            self.all_nodes() * BLOCK + pod - self.pods()
        };
        Ipv4Addr::from(FIRST_ADDRESS + offset)
    }

    /// Whether it is the address of a pod that was there at the start and that clients may talk to.
    pub(crate) fn is_web_at_start(&self, address: u32) -> bool {
        let Some(offset) = address.checked_sub(FIRST_ADDRESS) else { return false };
        let (node, place) = (offset / BLOCK, offset % BLOCK);
        node < self.all_nodes()
            && (1..=self.pods_per_node).contains(&place)
            && self.role(node * self.pods_per_node + place - 1) == Role::Web
    }

    /// Everything but what a cluster has anyway.
    pub(crate) fn objects(&self) -> Vec<(Key, Value)> {
        let mut objects = vec![
            global(
                Kind::IPPool,
                "loadtest",
                json!({
                    "cidr": POOL, "blockSize": 26, "ipipMode": "Never", "vxlanMode": "Always",
                    "natOutgoing": true, "nodeSelector": "all()",
                    "allowedUses": ["Workload", "Tunnel"], "assignmentMode": "Automatic",
                }),
            ),
            global(
                Kind::Profile,
                &format!("kns.{NAMESPACE}"),
                json!({
                    "ingress": [{"action": "Allow"}], "egress": [{"action": "Allow"}],
                    "labelsToApply": {"pcns.projectcalico.org/name": NAMESPACE},
                }),
            ),
            namespaced(
                Kind::NetworkPolicy,
                "clients",
                json!({
                    "tier": "default", "order": 100, "selector": "role == 'client'",
                    "types": ["Egress"],
                    "egress": [{"action": "Allow",
                        "destination": {"selector": "role == 'web'"}}],
                }),
                &Value::Null,
            ),
        ];
        objects.extend((0..POLICIES).map(|policy| Self::policy(policy, 0)));
        for node in 0..self.all_nodes() {
            objects.push(Self::node(node, 0));
            objects.push(Self::block(node));
        }
        for pod in 0..self.pods() {
            objects.push(self.pod(pod, self.node_of(pod), self.role(pod), 0));
        }
        objects
    }

    /// A node; its mark is its AS number.
    pub(crate) fn node(node: u32, mark: u64) -> (Key, Value) {
        let address = Ipv4Addr::from(u32::from_be_bytes([172, 16, 0, 1]) + node);
        let spec = json!({
            "addresses": [{"address": format!("{address}/12"), "type": "CalicoNodeIP"}],
            "bgp": {"ipv4Address": format!("{address}/12"), "asNumber": FIRST_AS + mark},
        });
        global(Kind::Node, &node_name(node), spec)
    }

    fn block(node: u32) -> (Key, Value) {
        let base = Ipv4Addr::from(FIRST_ADDRESS + node * BLOCK);
        let block = json!({
            "cidr": format!("{base}/26"),
            "affinity": format!("host:{}", node_name(node)),
            "allocations": vec![Value::Null; BLOCK as usize],
            "unallocated": (0..BLOCK).collect::<Vec<_>>(),
            "attributes": [], "sequenceNumber": 1, "sequenceNumberForAllocation": {},
            "deleted": false,
        });
        let name = base.to_string().replace('.', "-") + "-26";
        (Key::global(Kind::IPAMBlock, name), block)
    }

    /// A pod's endpoint; its mark is its MAC.
    pub(crate) fn pod(&self, pod: u32, node: u32, role: Role, mark: u64) -> (Key, Value) {
        let name = pod_name(pod);
        let spec = json!({
            "orchestrator": "k8s", "node": node_name(node), "pod": name, "endpoint": "eth0",
            "containerID": format!("{NAMESPACE}-{name}"),
            "interfaceName": interface_name(NAMESPACE, &name),
            "ipNetworks": [format!("{}/32", self.address(pod))],
            "mac": mac(mark),
            "profiles": [format!("kns.{NAMESPACE}")],
            "serviceAccountName": "default",
            "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        });
        let labels = json!({
            "role": role.label(),
            "projectcalico.org/namespace": NAMESPACE,
            "projectcalico.org/orchestrator": "k8s",
            "projectcalico.org/serviceaccount": "default",
        });
        namespaced(Kind::WorkloadEndpoint, &pod_key(pod, node), spec, &labels)
    }

    /// A policy on every client; its mark is an address in its rule.
    pub(crate) fn policy(policy: u32, mark: u64) -> (Key, Value) {
        let action = if mark.is_multiple_of(2) { "Deny" } else { "Allow" };
        let net = Ipv4Addr::from(MARK_NET | mark as u32);
        let spec = json!({
            "tier": "default", "order": 200 + policy, "selector": "role == 'client'",
            "types": ["Ingress"],
            "ingress": [{"action": action, "source": {"nets": [format!("{net}/32")]}}],
        });
        namespaced(Kind::NetworkPolicy, &policy_name(policy), spec, &Value::Null)
    }

    /// The key of a pod's endpoint.
    pub(crate) fn pod_object(pod: u32, node: u32) -> Key {
        Key::namespaced(Kind::WorkloadEndpoint, NAMESPACE, pod_key(pod, node))
    }
}

/// What every cluster has, and a load test adds to an empty store only.
pub(crate) fn common_objects() -> Vec<(Key, Value)> {
    vec![
        global(
            Kind::ClusterInformation,
            "default",
            json!({
                "clusterGUID": "00000000000000000000000000000000", "clusterType": "loadtest",
                "datastoreReady": true,
            }),
        ),
        global(Kind::Tier, "default", json!({"order": 1_000_000, "defaultAction": "Deny"})),
    ]
}

/// Whether an object is of a load test.
pub(crate) fn is_ours(key: &Key) -> bool {
    let name = key.name.as_str();
    key.namespace == NAMESPACE
        || match key.kind {
            Kind::Node => node_of(name).is_some(),
            Kind::IPPool => name == "loadtest",
            Kind::Profile => name.strip_prefix("kns.") == Some(NAMESPACE),
            Kind::IPAMBlock => {
                let address = name.strip_suffix("-26").map(|name| name.replace('-', "."));
                address.and_then(|address| address_of(&format!("{address}/32"))).is_some()
            }
            _ => false,
        }
}

/// An object as stores take it.
pub(crate) fn stored(value: Value) -> Stored {
    Stored::Json(value)
}

fn pod_key(pod: u32, node: u32) -> String {
    endpoint_name(&node_name(node), &pod_name(pod))
}

/// A pod's name, which [`pod_of`] reads.
fn pod_name(pod: u32) -> String {
    format!("pod-{pod}")
}

/// The pod of that name.
pub(crate) fn pod_of(name: &str) -> Option<u32> {
    name.strip_prefix("pod-")?.parse().ok()
}

/// The node of that name.
pub(crate) fn node_of(name: &str) -> Option<u32> {
    name.strip_prefix("loadtest-")?.parse().ok()
}

fn policy_name(policy: u32) -> String {
    format!("flip-{policy}")
}

/// The address of a pod, as a member of a set.
pub(crate) fn address_of(member: &str) -> Option<u32> {
    let address: Ipv4Addr = member.strip_suffix("/32")?.parse().ok()?;
    // The pool is the upper half of 10.0.0.0/8.
    (u32::from(address) >> 23 == FIRST_ADDRESS >> 23).then_some(address.into())
}

/// The policy of that name.
pub(crate) fn policy_of(name: &str) -> Option<u32> {
    name.strip_prefix("flip-")?.parse().ok()
}

/// A mark as a MAC of the locally administered range.
fn mac(mark: u64) -> String {
    let bytes = mark.to_be_bytes();
    format!(
        "02:{}",
        bytes[3..].iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
    )
}

/// The mark in a MAC that a load test wrote.
pub(crate) fn mark_of_mac(text: &str) -> Option<u64> {
    let digits = text.strip_prefix("02:")?.replace(':', "");
    u64::from_str_radix(&digits, 16).ok()
}

/// The mark in an AS number that a load test wrote.
pub(crate) fn mark_of_as(number: u64) -> Option<u64> {
    number.checked_sub(FIRST_AS)
}

/// The mark in an address that a load test wrote into a policy.
pub(crate) fn mark_of_address(text: &str) -> Option<u64> {
    let address = u32::from(text.parse::<Ipv4Addr>().ok()?);
    (address & MARK_NET == MARK_NET).then_some(u64::from(address & !MARK_NET))
}

fn global(kind: Kind, name: &str, spec: Value) -> (Key, Value) {
    let mut value = json!({
        "kind": kind.name(), "apiVersion": "projectcalico.org/v3",
        "metadata": {"name": name},
    });
    value["spec"] = spec;
    (Key::global(kind, name), value)
}

fn namespaced(kind: Kind, name: &str, spec: Value, labels: &Value) -> (Key, Value) {
    let (_, mut value) = global(kind, name, spec);
    value["metadata"]["namespace"] = NAMESPACE.into();
    if !labels.is_null() {
        value["metadata"]["labels"] = labels.clone();
    }
    (Key::namespaced(kind, NAMESPACE, name), value)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_object_has_its_own_name_and_is_valid() {
        let world = World { nodes: 300, spare: 10, pods_per_node: 5 };
        let mut objects = world.objects();
        objects.extend(common_objects());
        let names: BTreeSet<_> = objects.iter().map(|(key, _)| key).collect();
        assert_eq!(names.len(), objects.len());
        for (key, value) in &objects {
            if let Err(invalid) = model::kinds::decode(key, &stored(value.clone())) {
                panic!("{key}: {invalid}");
            }
        }
    }

    #[test]
    fn no_two_pods_ever_have_one_address() {
        let world = World { nodes: 20, spare: 2, pods_per_node: 62 };
        let addresses: BTreeSet<_> = (0..3000).map(|pod| world.address(pod)).collect();
        assert_eq!(addresses.len(), 3000);
    }

    #[test]
    fn a_mark_is_read_back() {
        for mark in [0, 1, 0xff_ffff_ffff] {
            assert_eq!(mark_of_mac(&mac(mark)), Some(mark));
        }
        assert_eq!(mark_of_address("240.0.1.2"), Some(0x102));
        assert_eq!(mark_of_mac("ee:ee:ee:ee:ee:ee"), None);
    }
}
