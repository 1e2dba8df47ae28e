//! The cluster that a load test writes: nodes with their blocks, pods, a few policies.
//!
//! Everything has a name that starts with `loadtest`, or lives in a namespace of such a name. What a
//! profile changes carries a *mark*, a number that only grows, in a field that reaches agents: so
//! that what an agent holds says which write it is of.

use std::{net::Ipv4Addr, ops::Range};

use clap::ValueEnum;
use model::{
    Key, Kind, Stored,
    translate::{endpoint_name, interface_name},
};
use serde::{Deserialize, Serialize};
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

/// A namespace has pods on so many places: two on each, one that stays and one of the deployment.
const PLACES_PER_NAMESPACE: u32 = 30;
/// So many namespaces may talk to each other, when policies reach across them.
const NAMESPACES_PER_TEAM: u32 = 10;
/// So many nodes have a pod that the first and the second policy select, when policies select few nodes.
const COHORTS: [u32; 2] = [10, 1000];

/// Who may talk to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Topology {
    /// A client on each node to the pods of one deployment; one namespace.
    Clients,
    /// Pods of a namespace to each other; many namespaces, each on 30 places.
    Inside,
    /// Pods of ten namespaces to each other.
    Across,
    /// Every pod to every pod, by `all()`.
    All,
    /// Nobody; one policy selects a pod on 10 nodes, and one on 1,000 others.
    Cohorts,
}

/// A pod, and where it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pod {
    pub(crate) number: u32,
    pub(crate) node: u32,
    /// Of the topologies with many namespaces; else 0.
    pub(crate) namespace: u32,
    pub(crate) role: Role,
}

/// The namespaces that have one remainder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Peers {
    team: u32,
    teams: u32,
}

impl Peers {
    fn has(self, namespace: u32) -> bool {
        namespace % self.teams == self.team
    }
}

/// How large a cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct World {
    /// Nodes that stay.
    pub(crate) nodes: u32,
    /// Nodes without an agent, which a profile can take away.
    pub(crate) spare: u32,
    /// Pods on each node at the start.
    pub(crate) pods_per_node: u32,
    /// Who may talk to whom.
    pub(crate) topology: Topology,
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
    fn node_of(&self, pod: u32) -> u32 {
        pod / self.pods_per_node
    }

    /// A pod of the start.
    pub(crate) fn pod(&self, number: u32) -> Pod {
        let (node, place) = (self.node_of(number), number % self.pods_per_node);
        let (namespace, role) = match self.topology {
            Topology::Clients | Topology::Cohorts => {
                let role = match place {
                    0 => Role::Client,
                    1 if node.is_multiple_of(NODES_PER_WEB) => Role::Web,
                    _ => Role::Other,
                };
                (0, role)
            }
            Topology::Inside | Topology::Across | Topology::All => {
                // Two neighbours are of one namespace; a last one without a neighbour has one to itself.
                let role = if place.is_multiple_of(2) { Role::Client } else { Role::Web };
                (self.namespace_at(node, place / 2), role)
            }
        };
        Pod { number, node, namespace, role }
    }

    /// Pairs of pods on a node.
    fn places(&self) -> u32 {
        self.pods_per_node.div_ceil(2)
    }

    /// How many namespaces there are.
    fn namespaces(&self) -> u32 {
        match self.topology {
            Topology::Clients | Topology::Cohorts => 1,
            _ => (self.nodes * self.places() / PLACES_PER_NAMESPACE).max(1),
        }
    }

    fn namespace_at(&self, node: u32, place: u32) -> u32 {
        (node * self.places() + place) % self.namespaces()
    }

    /// A node on which a namespace always has a pod; `random` is any number.
    pub(crate) fn home(&self, namespace: u32, random: u32) -> u32 {
        let (all, namespaces) = (self.nodes * self.places(), self.namespaces());
        let homes = (all - namespace).div_ceil(namespaces).max(1);
        (namespace + random % homes * namespaces) / self.places()
    }

    /// Whether a node has a pod of one of these namespaces.
    pub(crate) fn is_home(&self, node: u32, peers: Peers) -> bool {
        (0..self.places()).any(|place| peers.has(self.namespace_at(node, place)))
    }

    /// The namespaces whose pods have the addresses of this one in a set.
    pub(crate) fn peers(&self, namespace: u32) -> Peers {
        let teams = match self.topology {
            Topology::Inside => self.namespaces(),
            Topology::Across => self.teams(),
            Topology::Clients | Topology::All | Topology::Cohorts => 1,
        };
        Peers { team: namespace % teams, teams }
    }

    /// Neighbours in number are neighbours on nodes: so a team has namespaces that are far from each other.
    fn teams(&self) -> u32 {
        (self.namespaces() / NAMESPACES_PER_TEAM).max(1)
    }

    /// The nodes that have a pod which a policy of [`Topology::Cohorts`] selects.
    pub(crate) fn cohort(&self, policy: u32) -> Range<u32> {
        let few = COHORTS[0].min(self.nodes.div_ceil(4));
        if policy == 0 { 0..few } else { few..few + COHORTS[1].min(self.nodes / 2) }
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

    /// Whether it is the address of a pod that was there at the start and that others may talk to.
    pub(crate) fn is_member_at_start(&self, address: u32) -> bool {
        let Some(offset) = address.checked_sub(FIRST_ADDRESS) else { return false };
        let (node, place) = (offset / BLOCK, offset % BLOCK);
        node < self.all_nodes()
            && (1..=self.pods_per_node).contains(&place)
            && self.is_member(self.pod(node * self.pods_per_node + place - 1).role)
    }

    /// Whether others may talk to pods of this role, so that they have their addresses in a set.
    pub(crate) fn is_member(&self, role: Role) -> bool {
        match self.topology {
            Topology::Clients => role == Role::Web,
            Topology::Inside | Topology::Across | Topology::All => true,
            Topology::Cohorts => false,
        }
    }

    /// Everything but what a cluster has anyway.
    pub(crate) fn objects(&self) -> Vec<(Key, Value)> {
        let mut objects = vec![global(
            Kind::IPPool,
            "loadtest",
            json!({
                "cidr": POOL, "blockSize": 26, "ipipMode": "Never", "vxlanMode": "Always",
                "natOutgoing": true, "nodeSelector": "all()",
                "allowedUses": ["Workload", "Tunnel"], "assignmentMode": "Automatic",
            }),
        )];
        for number in 0..self.namespaces() {
            objects.push(self.profile(number));
            objects.extend(self.peers_policy(number));
        }
        match self.topology {
            Topology::Clients => objects.extend((0..POLICIES).map(|n| self.policy(n, 0))),
            Topology::Cohorts => objects.extend((0..2).map(|n| self.policy(n, 0))),
            Topology::Inside | Topology::Across | Topology::All => {}
        }
        for node in 0..self.all_nodes() {
            objects.push(Self::node(node, 0));
            objects.push(Self::block(node));
        }
        for pod in 0..self.pods() {
            objects.push(self.endpoint(&self.pod(pod), 0));
        }
        objects
    }

    fn namespace_name(&self, namespace: u32) -> String {
        match self.topology {
            Topology::Clients | Topology::Cohorts => NAMESPACE.to_owned(),
            _ => format!("{NAMESPACE}-{namespace}"),
        }
    }

    /// What a namespace's pods have in common.
    fn profile(&self, namespace: u32) -> (Key, Value) {
        let name = self.namespace_name(namespace);
        let team = format!("t{}", namespace % self.teams());
        let spec = json!({
            "ingress": [{"action": "Allow"}], "egress": [{"action": "Allow"}],
            "labelsToApply": {"pcns.projectcalico.org/name": name, "pcns.team": team},
        });
        global(Kind::Profile, &format!("kns.{name}"), spec)
    }

    /// Who may talk to whom, in a namespace.
    fn peers_policy(&self, namespace: u32) -> Option<(Key, Value)> {
        let team = format!("team == 't{}'", namespace % self.teams());
        let (selected, peers) = match self.topology {
            Topology::Clients => ("role == 'client'", json!({"selector": "role == 'web'"})),
            Topology::Inside => ("all()", json!({"selector": "all()"})),
            Topology::Across => ("all()", json!({"namespaceSelector": team})),
            Topology::All => ("all()", json!({"namespaceSelector": "all()"})),
            Topology::Cohorts => return None,
        };
        let spec = json!({
            "tier": "default", "order": 100, "selector": selected, "types": ["Egress"],
            "egress": [{"action": "Allow", "destination": peers}],
        });
        Some(namespaced(
            Kind::NetworkPolicy,
            &self.namespace_name(namespace),
            "clients",
            spec,
            &Value::Null,
        ))
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
    pub(crate) fn endpoint(&self, pod: &Pod, mark: u64) -> (Key, Value) {
        let (name, namespace) = (pod_name(pod.number), self.namespace_name(pod.namespace));
        let spec = json!({
            "orchestrator": "k8s", "node": node_name(pod.node), "pod": name, "endpoint": "eth0",
            "containerID": format!("{namespace}-{name}"),
            "interfaceName": interface_name(&namespace, &name),
            "ipNetworks": [format!("{}/32", self.address(pod.number))],
            "mac": mac(mark),
            "profiles": [format!("kns.{namespace}")],
            "serviceAccountName": "default",
            "ports": [{"name": "http", "protocol": "TCP", "port": 8080}],
        });
        let mut labels = json!({
            "role": pod.role.label(),
            "projectcalico.org/namespace": namespace,
            "projectcalico.org/orchestrator": "k8s",
            "projectcalico.org/serviceaccount": "default",
        });
        if self.topology == Topology::Cohorts {
            let cohort = (0..2).find(|policy| self.cohort(*policy).contains(&pod.node));
            labels["cohort"] =
                cohort.map_or_else(|| "none".into(), |policy| policy.to_string()).into();
        }
        namespaced(Kind::WorkloadEndpoint, &namespace, &pod_key(pod), spec, &labels)
    }

    /// A policy that can be flipped, on every client or a cohort; its mark is an address in its rule.
    pub(crate) fn policy(&self, policy: u32, mark: u64) -> (Key, Value) {
        let action = if mark.is_multiple_of(2) { "Deny" } else { "Allow" };
        let net = Ipv4Addr::from(MARK_NET | mark as u32);
        let selector = match self.topology {
            Topology::Cohorts => format!("role == 'client' && cohort == '{policy}'"),
            _ => "role == 'client'".into(),
        };
        let spec = json!({
            "tier": "default", "order": 200 + policy, "selector": selector,
            "types": ["Ingress"],
            "ingress": [{"action": action, "source": {"nets": [format!("{net}/32")]}}],
        });
        namespaced(Kind::NetworkPolicy, NAMESPACE, &policy_name(policy), spec, &Value::Null)
    }

    /// The key of a pod's endpoint.
    pub(crate) fn endpoint_key(&self, pod: &Pod) -> Key {
        Key::namespaced(Kind::WorkloadEndpoint, self.namespace_name(pod.namespace), pod_key(pod))
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
    is_our_namespace(&key.namespace)
        || match key.kind {
            Kind::Node => node_of(name).is_some(),
            Kind::IPPool => name == "loadtest",
            Kind::Profile => name.strip_prefix("kns.").is_some_and(is_our_namespace),
            Kind::IPAMBlock => {
                let address = name.strip_suffix("-26").map(|name| name.replace('-', "."));
                address.and_then(|address| address_of(&format!("{address}/32"))).is_some()
            }
            _ => false,
        }
}

/// Whether only a load test would make a namespace of this name.
pub(crate) fn is_our_namespace(name: &str) -> bool {
    name == NAMESPACE || node_of(name).is_some()
}

/// An object as stores take it.
pub(crate) fn stored(value: Value) -> Stored {
    Stored::Json(value)
}

fn pod_key(pod: &Pod) -> String {
    endpoint_name(&node_name(pod.node), &pod_name(pod.number))
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

fn namespaced(
    kind: Kind,
    namespace: &str,
    name: &str,
    spec: Value,
    labels: &Value,
) -> (Key, Value) {
    let (_, mut value) = global(kind, name, spec);
    value["metadata"]["namespace"] = namespace.into();
    if !labels.is_null() {
        value["metadata"]["labels"] = labels.clone();
    }
    (Key::namespaced(kind, namespace, name), value)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn world(nodes: u32, spare: u32, pods_per_node: u32, topology: Topology) -> World {
        World { nodes, spare, pods_per_node, topology }
    }

    #[test]
    fn every_object_has_its_own_name_and_is_valid() {
        for topology in Topology::value_variants() {
            let mut objects = world(300, 10, 5, *topology).objects();
            objects.extend(common_objects());
            let names: BTreeSet<_> = objects.iter().map(|(key, _)| key).collect();
            assert_eq!(names.len(), objects.len());
            for (key, value) in &objects {
                if let Err(invalid) = model::kinds::decode(key, &stored(value.clone())) {
                    panic!("{key}: {invalid}");
                }
                let common = common_objects().iter().any(|(common, _)| common == key);
                assert_eq!(is_ours(key), !common, "{key}");
            }
        }
    }

    #[test]
    fn a_namespace_is_at_home_where_it_has_a_pod_that_stays() {
        for (nodes, pods) in [(1, 1), (7, 3), (20, 6), (100, 30)] {
            let world = world(nodes, 0, pods, Topology::Inside);
            for namespace in 0..world.namespaces() {
                let stays = |pod: &Pod| pod.namespace == namespace && pod.role == Role::Client;
                let pods = (0..world.pods()).map(|number| world.pod(number)).filter(stays);
                let homes: BTreeSet<u32> = pods.map(|pod| pod.node).collect();
                let drawn: BTreeSet<u32> = (0..200).map(|n| world.home(namespace, n)).collect();
                assert_eq!(drawn, homes);
                let is_home = |node: &u32| world.is_home(*node, world.peers(namespace));
                assert_eq!((0..nodes).filter(is_home).collect::<BTreeSet<_>>(), homes);
            }
        }
    }

    #[test]
    fn no_two_pods_ever_have_one_address() {
        let world = world(20, 2, 62, Topology::Clients);
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
