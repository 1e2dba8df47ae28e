//! Which pairs of ends connect in one world and not in another.
//!
//! ```text
//! ends of both worlds ── alike ──> groups that no rule tells apart ── a pair of each two ──> verdicts of all pairs
//! ```

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use engine::verdict::Judge;

use super::{
    alike::{Looks, Policies, Traits},
    peer::Peer,
    port::Port,
    world::World,
};

/// What was compared, and what differs.
#[derive(Default)]
pub(crate) struct Compared {
    /// Who took part, by name.
    pub(crate) ends: Vec<String>,
    /// How many pairs were compared, for all that was tried.
    pub(crate) pairs: usize,
    /// Sorted by what was tried and by the ends.
    pub(crate) changes: Vec<Changed>,
}

/// One pair that differs: what was tried and the ends, by their places.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Changed {
    pub(crate) tried: usize,
    pub(crate) from: usize,
    pub(crate) to: usize,
    /// Whether it connects in each world; none: one of the ends isn't there.
    pub(crate) connects: [Option<bool>; 2],
}

/// An end in each world, and what decides there what it may; none: it isn't there.
type Sides<'w> = [Option<(Peer<'w>, Looks)>; 2];

/// Ends that no rule tells apart, in neither world, by their places.
struct Group {
    ends: Vec<usize>,
    is_host: bool,
    is_outside: bool,
}

/// Tries everything at every pair of which one end is an endpoint at least. Ends without an address of a version of IP take
/// no part in what is tried over that.
pub(crate) fn compare(worlds: [&World; 2], tried: &[(Port, bool)], outside: &[IpAddr]) -> Compared {
    let mut compared = Compared::default();
    let traits = worlds.map(World::traits);
    let mut versions = Vec::new();
    for ipv6 in [false, true] {
        let over = tried.iter().enumerate().filter(|(_, (_, over))| *over == ipv6);
        let ports = over.map(|(place, (port, _))| (place, *port)).collect::<Vec<_>>();
        if !ports.is_empty() {
            versions.push((ipv6, ports, sides(worlds, &traits, outside, ipv6)));
        }
    }
    let names = versions.iter().flat_map(|(.., sides)| sides.keys().cloned());
    compared.ends = names.collect::<BTreeSet<_>>().into_iter().collect();
    for (ipv6, ports, sides) in versions {
        let (names, sides): (Vec<_>, Vec<_>) = sides.into_iter().unzip();
        let places = names.iter().filter_map(|name| compared.ends.binary_search(name).ok());
        let names = places.collect();
        Versioned { worlds, ipv6, names, sides }.compare(&ports, &mut compared);
    }
    compared.changes.sort_unstable();
    compared
}

/// The ends that have an address of a version of IP, by name.
fn sides<'w>(
    worlds: [&'w World; 2],
    traits: &[Traits; 2],
    outside: &[IpAddr],
    ipv6: bool,
) -> BTreeMap<String, Sides<'w>> {
    let mut all = BTreeMap::<String, Sides<'w>>::new();
    for (at, world) in worlds.into_iter().enumerate() {
        for end in world.ends(outside).into_iter().chain(world.host_ends()) {
            if let Some(address) = end.address(ipv6) {
                let looks = Looks { policies: end.policies(), traits: traits[at].at(address) };
                let name = end.to_string();
                all.entry(name).or_default()[at] = Some((end, looks));
            }
        }
    }
    all
}

/// The ends that talk over one version of IP.
struct Versioned<'w> {
    worlds: [&'w World; 2],
    ipv6: bool,
    /// The place of each among all.
    names: Vec<usize>,
    sides: Vec<Sides<'w>>,
}

impl Versioned<'_> {
    fn compare(&self, ports: &[(usize, Port)], compared: &mut Compared) {
        let judges = self.worlds.map(World::judge);
        let groups = self.groups();
        for from in &groups {
            for to in groups.iter().filter(|to| !(from.is_outside && to.is_outside)) {
                if from.is_host == to.is_host {
                    // The interfaces of a group are of one node.
                    self.pairs(&judges, ports, [&from.ends, &to.ends], compared);
                } else if from.is_host {
                    for part in self.by_node(to, from) {
                        self.pairs(&judges, ports, [&from.ends, &part], compared);
                    }
                } else {
                    for part in self.by_node(from, to) {
                        self.pairs(&judges, ports, [&part, &to.ends], compared);
                    }
                }
            }
        }
    }

    /// Tries a pair of one end each, which stands for all of them.
    fn pairs(
        &self,
        judges: &[Judge<'_>; 2],
        ports: &[(usize, Port)],
        [froms, tos]: [&[usize]; 2],
        compared: &mut Compared,
    ) {
        // Nobody tries to reach itself.
        let itself = usize::from(froms == tos);
        let (Some(one), Some(two)) = (froms.first(), tos.get(itself)) else { return };
        let (one, two) = (&self.sides[*one], &self.sides[*two]);
        for (tried, port) in ports {
            let connects = [0, 1].map(|at| {
                let ((from, _), (to, _)) = (one[at].as_ref()?, two[at].as_ref()?);
                Some(self.worlds[at].connects(&judges[at], [from, to], (*port, self.ipv6)))
            });
            if connects != [None, None] {
                compared.pairs += froms.len() * (tos.len() - itself);
            }
            if connects[0] == connects[1] {
                continue;
            }
            for from in froms {
                let others = tos.iter().filter(|to| *to != from);
                compared.changes.extend(others.map(|to| Changed {
                    tried: *tried,
                    from: self.names[*from],
                    to: self.names[*to],
                    connects,
                }));
            }
        }
    }

    fn groups(&self) -> Vec<Group> {
        let mut alike = HashMap::<[Option<&Looks>; 2], Vec<usize>>::new();
        for (place, sides) in self.sides.iter().enumerate() {
            let looks = sides.each_ref().map(|side| side.as_ref().map(|(_, looks)| looks));
            alike.entry(looks).or_default().push(place);
        }
        let groups = alike.into_iter().map(|(looks, ends)| {
            let is = |what: fn(&Policies) -> bool| {
                looks.iter().flatten().any(|looks| what(&looks.policies))
            };
            Group {
                ends,
                is_host: is(|it| matches!(it, Policies::Host(..))),
                is_outside: is(|it| matches!(it, Policies::None)),
            }
        });
        groups.collect()
    }

    /// The ends of a group, those on the node of some host endpoints apart: much is decided otherwise within a node.
    fn by_node(&self, group: &Group, hosts: &Group) -> impl Iterator<Item = Vec<usize>> {
        let nodes = |end: usize| {
            self.sides[end].each_ref().map(|side| side.as_ref().and_then(|(end, _)| end.node()))
        };
        let own = nodes(hosts.ends[0]);
        let mut parts = BTreeMap::<[bool; 2], Vec<usize>>::new();
        for end in &group.ends {
            let its = nodes(*end);
            parts.entry([0, 1].map(|at| its[at] == own[at])).or_default().push(*end);
        }
        parts.into_values()
    }
}

#[cfg(test)]
mod tests {
    use model::{Key, Kind};
    use proptest::{prelude::*, sample::select};
    use serde_json::{Value, json};

    use super::*;
    use crate::offline::objects::Objects;

    /// One that rules name, and one that policies select.
    fn labels() -> impl Strategy<Value = Value> {
        let both = (select(&["a", "b"][..]), select(&["x", "y"][..]));
        both.prop_map(|(role, side)| json!({"role": role, "side": side}))
    }

    /// A pod on one of two nodes, with an address of either version or of both.
    fn pod(name: usize) -> impl Strategy<Value = (Key, Value)> {
        let fields = (labels(), 0..2_usize, 1..4_usize, any::<bool>());
        fields.prop_map(move |(labels, node, versions, has_port)| {
            let addresses = [format!("10.0.0.{name}/32"), format!("fd00::{name}/128")];
            let addresses = addresses.iter().zip([1, 2]).filter(|(_, bit)| versions & bit != 0);
            let port = json!({"name": "web", "protocol": "TCP", "port": 80 + name % 2});
            let value = json!({
                "metadata": {"labels": labels},
                "spec": {
                    "orchestrator": "cni", "node": format!("n{node}"), "workload": format!("p{name}"),
                    "endpoint": "eth0", "interfaceName": format!("i{name}"),
                    "profiles": ["projectcalico-default-allow"],
                    "ipNetworks": addresses.map(|(it, _)| it).collect::<Vec<_>>(),
                    "ports": if has_port { vec![port] } else { vec![] },
                },
            });
            let key = format!("n{node}-cni-p{name}-eth0");
            (Key::namespaced(Kind::WorkloadEndpoint, "shop", key), value)
        })
    }

    /// An interface of a node.
    fn host(name: usize) -> impl Strategy<Value = (Key, Value)> {
        (labels(), any::<bool>()).prop_map(move |(labels, has_profile)| {
            let allow = vec!["projectcalico-default-allow"];
            let value = json!({
                "metadata": {"labels": labels},
                "spec": {
                    "node": format!("n{}", name % 2), "interfaceName": format!("eth{name}"),
                    "expectedIPs": [format!("192.0.2.{name}"), format!("2001:db8::{name}")],
                    "profiles": if has_profile { allow } else { vec![] },
                },
            });
            (Key::global(Kind::HostEndpoint, format!("h{name}")), value)
        })
    }

    fn policy(name: usize) -> impl Strategy<Value = (Key, Value)> {
        let nets = ["10.0.0.2/31", "10.0.0.0/29", "192.0.2.1/32", "203.0.113.0/24", "fd00::2/127"];
        let peers =
            [json!({"selector": "role == 'a'"}), json!({"notSelector": "role == 'b'"}), json!({})];
        let nets = nets.iter().map(|net| json!({"nets": [net]}));
        let not_nets = json!({"notNets": ["10.0.0.4/30"]});
        let peers = peers.into_iter().chain(nets).chain([not_nets]).collect::<Vec<_>>();
        let ports = [json!([80]), json!(["web"]), json!([22]), Value::Null];
        let rule = (select(&["Allow", "Deny", "Pass"][..]), select(peers.clone()), select(peers));
        let rule = (rule, select(ports.to_vec())).prop_map(|((action, source, mut to), ports)| {
            to["ports"].clone_from(&ports);
            json!({"action": action, "protocol": "TCP", "source": source, "destination": to})
        });
        let flag = select(&["applyOnForward", "doNotTrack", "preDNAT", "order"][..]);
        let selector = select(&["all()", "side == 'x'", "side == 'y'"][..]);
        let rules = || prop::collection::vec(rule.clone(), 0..3);
        (selector, flag, rules(), rules()).prop_map(move |(selector, flag, ingress, egress)| {
            let mut spec = json!({
                "tier": "default", "selector": selector, "order": name, "types": ["Ingress", "Egress"],
                "ingress": ingress, "egress": egress,
            });
            if flag != "order" {
                spec["applyOnForward"] = json!(true);
                spec[flag] = json!(true);
            }
            (Key::global(Kind::GlobalNetworkPolicy, format!("p{name}")), json!({"spec": spec}))
        })
    }

    /// Some of what may be in a cluster; what is called the same may differ in the next.
    fn objects() -> impl Strategy<Value = Vec<(Key, Value)>> {
        let felix = prop::option::of(0..3_u8).prop_map(|of| {
            let ports = match of? {
                0 => json!([]),
                1 => json!([{"port": 80, "net": "10.0.0.4/30"}]),
                _ => json!([{"port": 80}]),
            };
            let spec = json!({"failsafeInboundHostPorts": ports});
            Some((Key::global(Kind::FelixConfiguration, "node.n1"), json!({"spec": spec})))
        });
        let some = |all: Vec<BoxedStrategy<(Key, Value)>>| {
            let each = all.into_iter().map(|it| prop::option::weighted(0.8, it));
            each.collect::<Vec<_>>().prop_map(|all| all.into_iter().flatten().collect::<Vec<_>>())
        };
        let pods = some((1..8).map(|it| pod(it).boxed()).collect());
        let hosts = some((1..6).map(|it| host(it).boxed()).collect());
        let policies = some((1..4).map(|it| policy(it).boxed()).collect());
        (pods, hosts, policies, felix).prop_map(|(pods, hosts, policies, felix)| {
            pods.into_iter().chain(hosts).chain(policies).chain(felix).collect()
        })
    }

    fn world(all: &[(Key, Value)]) -> World {
        let mut objects = Objects::default();
        for (key, value) in all {
            objects.add_stored(key.clone(), value.clone());
        }
        World::new(&objects)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn every_pair_is_answered_as_if_it_were_asked_alone(old in objects(), new in objects()) {
            let worlds = [world(&old), world(&new)];
            let outside = ["203.0.113.1", "198.51.100.1", "2001:db8::9"].map(|it| it.parse().unwrap());
            let tried = ["80", "22", "81"].map(|it| it.parse::<Port>().unwrap());
            let tried = [false, true].into_iter().flat_map(|ipv6| tried.map(|port| (port, ipv6)));
            let tried = tried.collect::<Vec<_>>();
            let compared = compare([&worlds[0], &worlds[1]], &tried, &outside);
            let (mut pairs, mut changes) = (0, BTreeSet::new());
            for (place, (port, ipv6)) in tried.iter().enumerate() {
                let reach = worlds.each_ref().map(|world| {
                    let ends = world.ends(&outside).into_iter().chain(world.host_ends());
                    let ends = ends.filter(|end| end.address(*ipv6).is_some()).collect::<Vec<_>>();
                    world.reach(*port, *ipv6, &ends)
                });
                for (from, name) in compared.ends.iter().enumerate() {
                    for (to, other) in compared.ends.iter().enumerate() {
                        let connects = reach.each_ref().map(|it| it.get(name)?.get(other).copied());
                        pairs += usize::from(connects != [None, None]);
                        if connects[0] != connects[1] {
                            changes.insert(Changed { tried: place, from, to, connects });
                        }
                    }
                }
            }
            prop_assert_eq!(compared.pairs, pairs);
            prop_assert_eq!(compared.changes, changes.into_iter().collect::<Vec<_>>());
        }
    }
}
