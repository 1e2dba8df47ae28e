//! The same calculation, done the slow and simple way: from all objects, each time anew.
//!
//! It shares no code with the engine: it knows the objects before they became JSON, evaluates
//! selectors as trees, looks at every endpoint for every set, and sorts by its own rules.

mod network;
mod rules;
mod tree;
pub(crate) mod verdict;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use arcstr::ArcStr;
use ipnet::IpNet;
use model::{
    Key, Kind,
    view::{
        Action, ConfigEntry, Endpoint, Entry, HostEndpoint, Policy, PolicyId, PolicyList,
        PolicyTier, ProfileRules, Rule, Topic,
    },
};
use network::put_network;
use rules::{Holds, SetOf, SetsById, rule};
use serde_json::Value;
use tree::Tree;

use super::{
    cluster::{Topics, plist_id},
    objects::{NodeOf, Obj, Pairs, PolicyOf, Port, RuleOf, Sel, Side, SliceOf, Stage},
};

pub(crate) type Objects = BTreeMap<Key, Obj>;
type LabelMap = BTreeMap<String, String>;

/// What is known beyond the objects.
#[derive(Clone, Debug, Default)]
pub(crate) struct Beyond {
    /// Backends of services by namespace and name of the service, by their own name; none: they
    /// are not known here.
    pub(crate) services: Option<BTreeMap<(String, String), BTreeMap<String, SliceOf>>>,
    /// Ranges of nodes' pods stand for blocks.
    pub(crate) pod_cidrs: bool,
}

const NAMESPACE: &str = "projectcalico.org/namespace";
const ACCOUNT: &str = "projectcalico.org/serviceaccount";

/// What follows from these objects.
#[derive(Default)]
pub(crate) struct Expected {
    pub(crate) topics: Topics,
    /// Only nodes that need something.
    pub(crate) views: BTreeMap<ArcStr, BTreeSet<Topic>>,
    pub(crate) problems: BTreeSet<Key>,
    pub(crate) ready: bool,
}

/// Something with labels that gives members.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    labels: LabelMap,
    nets: Vec<IpNet>,
    /// Of endpoints only.
    endpoint: Option<Local>,
}

#[derive(Clone, Debug)]
struct Local {
    node: String,
    key: String,
    /// Without its lists.
    entry: Entry,
    profiles: Vec<ArcStr>,
    ports: Vec<(&'static str, u8, u16)>,
}

/// The lists that an endpoint may have.
#[derive(Clone, Copy, PartialEq)]
enum ListOf {
    Normal,
    Forward,
    Untracked,
    PreDnat,
}

impl ListOf {
    fn has(self, stage: Stage) -> bool {
        match self {
            Self::Normal => matches!(stage, Stage::Plain | Stage::Forward),
            Self::Forward => stage == Stage::Forward,
            Self::Untracked => matches!(stage, Stage::Untracked | Stage::Both),
            Self::PreDnat => stage == Stage::PreDnat,
        }
    }
}

fn net(text: &str) -> IpNet {
    let text = if text.contains('/') {
        text.to_owned()
    } else if text.contains(':') {
        format!("{text}/128")
    } else {
        format!("{text}/32")
    };
    text.parse::<IpNet>().unwrap().trunc()
}

fn single(net: &IpNet) -> IpNet {
    IpNet::from(net.addr())
}

/// Everything, from nothing but the objects.
pub(crate) fn expected(objects: &Objects) -> Expected {
    expected_with(objects, &Beyond::default())
}

/// The same with what is known beyond them.
pub(crate) fn expected_with(objects: &Objects, beyond: &Beyond) -> Expected {
    let mut out = Expected { ready: true, ..Expected::default() };
    put_objects(objects, beyond, &mut out);
    let items = items(objects);
    let services = beyond.services.is_some();
    let rules = |namespace: Option<&str>, rules: &[RuleOf], sets: &mut SetsById| {
        rules.iter().filter_map(|r| rule(namespace, services, r, sets)).collect::<Vec<_>>()
    };

    let mut policies = Vec::new();
    for (key, obj) in objects {
        let Obj::Policy(policy) = obj else { continue };
        if !is_enforced(key) {
            continue;
        }
        let namespace = (!key.namespace.is_empty()).then_some(key.namespace.as_str());
        let mut sets = SetsById::new();
        let ingress = rules(namespace, &policy.ingress, &mut sets);
        let egress = rules(namespace, &policy.egress, &mut sets);
        let view = Policy { tier: policy.tier.into(), ingress, egress };
        policies.push((key, policy, policy_selector(namespace, policy), view, sets));
    }

    for item in &items {
        let Some(local) = &item.endpoint else { continue };
        let mut entry = local.entry.clone();
        let view = out.views.entry(local.node.clone().into()).or_default();
        let mut list_of = |list: ListOf| {
            let selecting = policies
                .iter()
                .filter(|(key, policy, tree, ..)| {
                    list.has(stage(key, policy))
                        && tree.as_ref().is_some_and(|tree| tree.matches(&item.labels))
                })
                .collect::<Vec<_>>();
            let in_list = selecting.iter().map(|(key, policy, ..)| (*key, *policy));
            let content = PolicyList { tiers: tier_list(objects, in_list, list) };
            if content.tiers.is_empty() {
                return None;
            }
            let listed = |key: &Key| {
                let id = policy_id(key);
                content.tiers.iter().any(|t| t.ingress.contains(&id) || t.egress.contains(&id))
            };
            for (key, _, _, policy, sets) in selecting.into_iter().filter(|p| listed(p.0)) {
                let topic = Topic::Policy(policy_id(key));
                put(&mut out.topics, topic.clone(), "", Entry::Policy(policy.clone().into()));
                view.insert(topic);
                need_sets(&mut out.topics, view, sets, &items, beyond);
            }
            let id = plist_id(&content);
            let topic = Topic::Plist(id.clone());
            put(&mut out.topics, topic.clone(), "", Entry::Plist(content));
            view.insert(topic);
            Some(id)
        };
        match &mut entry {
            Entry::Endpoint(endpoint) => endpoint.plist = list_of(ListOf::Normal),
            Entry::HostEndpoint(endpoint) => {
                endpoint.plist = list_of(ListOf::Normal);
                endpoint.forward = list_of(ListOf::Forward);
                endpoint.untracked = list_of(ListOf::Untracked);
                endpoint.pre_dnat = list_of(ListOf::PreDnat);
            }
            other => panic!("{other:?}"),
        }
        for name in &local.profiles {
            let mut sets = SetsById::new();
            let allow = Rule { action: Action::Allow, ..Rule::default() };
            let (ingress, egress) = match objects.get(&Key::global(Kind::Profile, name.clone())) {
                _ if name == "projectcalico-default-allow" => (vec![allow.clone()], vec![allow]),
                Some(Obj::Profile { ingress, egress, .. }) => {
                    (rules(None, ingress, &mut sets), rules(None, egress, &mut sets))
                }
                _ => (vec![Rule::default()], vec![Rule::default()]),
            };
            let topic = Topic::Profile(name.clone());
            let entry = Entry::Profile(ProfileRules { ingress, egress }.into());
            put(&mut out.topics, topic.clone(), "", entry);
            view.insert(topic);
            need_sets(&mut out.topics, view, &sets, &items, beyond);
        }
        let node = Topic::Node(local.node.clone().into());
        put(&mut out.topics, node, &local.key, entry);
    }
    out.views.retain(|_, view| !view.is_empty());
    put_bgp(objects, &mut out);
    put_network(objects, beyond.pod_cidrs, &mut out);
    out
}

/// The explicit peers of each node, and their filters.
fn put_bgp(objects: &Objects, out: &mut Expected) {
    let entry = |key: &Key, obj: &Obj| {
        let spec_json = obj.json(key)["spec"].to_string();
        Entry::Config(ConfigEntry { spec_json })
    };
    for node in ["n1", "n2", "n3"] {
        let labels = match objects.get(&Key::global(Kind::Node, node)) {
            Some(Obj::Node(NodeOf { labels, .. })) => {
                let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
                Some(labels.collect::<LabelMap>())
            }
            _ => None,
        };
        for (key, obj) in objects {
            let Obj::BgpPeer { node: named, selector, filters } = obj else { continue };
            let peers = match (named, selector) {
                (Some(named), _) => *named == node,
                (None, None) => labels.is_some(),
                (None, Some(sel)) if sel.is_bad() => false,
                (None, Some(sel)) => {
                    labels.as_ref().is_some_and(|labels| Tree::of(sel, "").matches(labels))
                }
            };
            if !peers {
                continue;
            }
            let topic = Topic::Node(node.into());
            let name = format!("bgppeer/{}", key.name);
            put(&mut out.topics, topic.clone(), &name, entry(key, obj));
            for filter in filters {
                let key = Key::global(Kind::BGPFilter, *filter);
                if let Some(obj @ Obj::BgpFilter { .. }) = objects.get(&key) {
                    let name = format!("bgpfilter/{filter}");
                    put(&mut out.topics, topic.clone(), &name, entry(&key, obj));
                }
            }
        }
    }
}

/// Staged ones are in no list.
fn is_enforced(key: &Key) -> bool {
    matches!(
        key.kind,
        Kind::NetworkPolicy
            | Kind::GlobalNetworkPolicy
            | Kind::KubernetesNetworkPolicy
            | Kind::KubernetesClusterNetworkPolicy
    )
}

fn put(topics: &mut Topics, topic: Topic, key: &str, entry: Entry) {
    topics.entry(topic).or_default().insert(key.into(), entry);
}

fn policy_id(key: &Key) -> PolicyId {
    PolicyId::new(key.kind.name(), key.namespace.clone(), key.name.clone())
}

/// The FULL view, configuration, and what is wrong.
fn put_objects(objects: &Objects, beyond: &Beyond, out: &mut Expected) {
    for (key, obj) in objects {
        let json = match obj {
            Obj::Raw => None,
            Obj::List => Some("[]".to_owned()),
            _ => {
                let mut json = obj.json(key);
                if let Some(metadata) = json.get_mut("metadata").and_then(Value::as_object_mut) {
                    metadata.remove("uid");
                    metadata.remove("resourceVersion");
                }
                // Maps of `serde_json` are sorted in this build.
                Some(json.to_string())
            }
        };
        if let Some(json) = json {
            put(&mut out.topics, Topic::res(key), &key.path(), Entry::Res(json));
        }
        let spec = |obj: &Obj| {
            let spec_json = obj.json(key)["spec"].to_string();
            Entry::Config(ConfigEntry { spec_json })
        };
        match obj {
            Obj::Felix { .. } if key.name == "default" => {
                put(&mut out.topics, Topic::Config, "FelixConfiguration/default", spec(obj));
            }
            Obj::Felix { .. } if key.name.starts_with("node.") => {
                let node = Topic::Node(key.name[5..].into());
                put(&mut out.topics, node, &format!("config/{}", key.name), spec(obj));
            }
            Obj::Bgp { .. } if key.name == "default" => {
                put(&mut out.topics, Topic::Config, "BGPConfiguration/default", spec(obj));
            }
            Obj::Bgp { .. } if key.name.starts_with("node.") => {
                let node = Topic::Node(key.name[5..].into());
                put(&mut out.topics, node, &format!("bgpconfig/{}", key.name), spec(obj));
            }
            Obj::Tier { .. } => {
                put(&mut out.topics, Topic::Config, &format!("Tier/{}", key.name), spec(obj));
            }
            Obj::Cluster { ready } => {
                put(&mut out.topics, Topic::Config, "ClusterInformation/default", spec(obj));
                out.ready = *ready != Some(false);
            }
            _ => {}
        }
        if is_problem(key, obj, beyond.services.is_some()) {
            out.problems.insert(key.clone());
        }
    }
}

fn is_problem(key: &Key, obj: &Obj, services: bool) -> bool {
    let bad_rule = |rule: &RuleOf| bad_rule(rule, services);
    match obj {
        Obj::Raw | Obj::List => true,
        Obj::Wep { bad_mac, .. } => *bad_mac,
        Obj::Hep { node, interface, ips, .. } => {
            node.is_empty() || interface.len() > 15 || ips.contains(&"bad")
        }
        Obj::Nets { nets, .. } => nets.contains(&"bad"),
        Obj::Policy(policy) => {
            let bad = |sel: &Option<Sel>| sel.as_ref().is_some_and(Sel::is_bad);
            bad(&policy.selector)
                || (bad(&policy.namespace_selector) && key.namespace.is_empty())
                || bad(&policy.account_selector)
                || policy.types.contains(&"Both")
                || policy.ingress.iter().chain(&policy.egress).any(bad_rule)
        }
        Obj::Profile { ingress, egress, .. } => {
            key.name != "projectcalico-default-allow" && ingress.iter().chain(egress).any(bad_rule)
        }
        Obj::Node(node) => bad_node(node),
        Obj::StagedKubernetes { bad } => *bad,
        Obj::Pool { cidr, .. } => *cidr == "x",
        Obj::BgpPeer { node, selector, .. } => {
            node.is_none() && selector.as_ref().is_some_and(Sel::is_bad)
        }
        Obj::BgpFilter { .. }
        | Obj::Tier { .. }
        | Obj::Block { .. }
        | Obj::Felix { .. }
        | Obj::Bgp { .. }
        | Obj::Cluster { .. } => false,
    }
}

fn bad_node(node: &NodeOf) -> bool {
    let NodeOf { ipv4, ipv6, ipip, vxlan, vxlan_mac, vxlan_v6, wireguard, .. } = node;
    [ipv4, ipip, vxlan, vxlan_mac, vxlan_v6, wireguard].contains(&&Some("x"))
        || ipv6.is_some_and(|text| text != "fd00:7::1/64")
        || node.internal.contains(&"x")
        || node.pod_cidrs.contains(&"x")
}

fn bad_rule(rule: &RuleOf, services: bool) -> bool {
    let protocol = rule.protocol;
    let bad_port = |port: &Port| match port {
        Port::Bad => true,
        Port::Named(_) => matches!(protocol, Some("47" | "ICMP" | "ICMPv6" | "UDPLite")),
        Port::Number(_) | Port::Range(..) => !matches!(protocol, Some("TCP" | "UDP")),
    };
    let bad_side = |side: &Side| {
        let Side { selector, not_selector, namespace_selector, account_selector, .. } = side;
        // A namespace selector alone counts as well.
        let selectors = [selector, not_selector, namespace_selector, account_selector];
        selectors.into_iter().flatten().any(Sel::is_bad)
            || side.nets.iter().chain(&side.not_nets).any(Option::is_none)
            || side.ports.iter().chain(&side.not_ports).any(bad_port)
            || (side.service.is_some() && !services)
    };
    !matches!(rule.action, "Allow" | "Deny" | "Log" | "Pass")
        || rules::is_unknown(rule)
        || bad_side(&rule.source)
        || bad_side(&rule.destination)
}

fn items(objects: &Objects) -> Vec<Item> {
    let inherit = |mut labels: LabelMap, profiles: &[&str]| {
        for name in profiles {
            let given = match objects.get(&Key::global(Kind::Profile, *name)) {
                _ if *name == "projectcalico-default-allow" => continue,
                Some(Obj::Profile { labels, .. }) => labels,
                _ => continue,
            };
            for (key, value) in given {
                labels.entry((*key).to_owned()).or_insert_with(|| (*value).to_owned());
            }
        }
        labels
    };
    let owned = |pairs: &Pairs| {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect::<LabelMap>()
    };
    let names = |profiles: &[&str]| profiles.iter().map(|name| (*name).into()).collect::<Vec<_>>();
    let numbers = |ports: &[(&'static str, &str, u16)]| {
        let ports = ports
            .iter()
            .map(|(name, protocol, port)| (*name, if *protocol == "TCP" { 6 } else { 17 }, *port));
        ports.collect::<Vec<_>>()
    };
    let mut items = Vec::new();
    for (key, obj) in objects {
        match obj {
            Obj::Wep { bad_mac: true, .. } => {}
            Obj::Wep { uid, labels, account, profiles, nets, ports, .. } => {
                let mut own = owned(labels);
                own.retain(|key, _| !key.starts_with("pcns.") && !key.starts_with("pcsa."));
                if let Some(account) = account {
                    own.insert(ACCOUNT.to_owned(), (*account).to_owned());
                }
                let (node, rest) = key.name.split_once("-k8s-").unwrap();
                let pod = rest.strip_suffix("-eth0").unwrap().replace("--", "-");
                let nets = nets.iter().map(|text| net(text)).collect::<Vec<_>>();
                let entry = Endpoint {
                    interface: "cali1".into(),
                    mac: "aa:bb:cc:00:00:01".into(),
                    addresses: nets.clone(),
                    profiles: names(profiles),
                    plist: None,
                };
                items.push(Item {
                    labels: inherit(own, profiles),
                    nets: nets.iter().map(single).collect(),
                    endpoint: Some(Local {
                        node: node.to_owned(),
                        key: format!("wep/k8s/{}/{pod}/eth0/{uid}", key.namespace),
                        entry: Entry::Endpoint(entry),
                        profiles: names(profiles),
                        ports: numbers(ports),
                    }),
                });
            }
            Obj::Hep { node, interface, .. } if node.is_empty() || interface.len() > 15 => {}
            Obj::Hep { node, interface, labels, profiles, ips, ports } => {
                let ips = ips.iter().filter(|ip| **ip != "bad").copied().collect::<Vec<_>>();
                let entry = HostEndpoint {
                    interface: (*interface).into(),
                    addresses: ips.iter().map(|ip| ip.parse().unwrap()).collect(),
                    profiles: names(profiles),
                    ..HostEndpoint::default()
                };
                items.push(Item {
                    labels: inherit(owned(labels), profiles),
                    nets: ips.iter().map(|ip| net(ip)).collect(),
                    endpoint: Some(Local {
                        node: (*node).to_owned(),
                        key: format!("hep/{}", key.name),
                        entry: Entry::HostEndpoint(entry.into()),
                        profiles: names(profiles),
                        ports: numbers(ports),
                    }),
                });
            }
            Obj::Nets { labels, nets } => {
                let mut own = owned(labels);
                let mut parents = Vec::new();
                let namespace = format!("kns.{}", key.namespace);
                if key.kind == Kind::NetworkSet {
                    own.insert(NAMESPACE.to_owned(), key.namespace.to_string());
                    parents.push(namespace.as_str());
                }
                let nets =
                    nets.iter().filter(|text| **text != "bad").flat_map(|text| match *text {
                        "0.0.0.0/0" => vec![net("0.0.0.0/1"), net("128.0.0.0/1")],
                        text => vec![net(text)],
                    });
                let nets = nets.collect();
                items.push(Item { labels: inherit(own, &parents), nets, endpoint: None });
            }
            _ => {}
        }
    }
    items
}

/// Where a policy acts: the flags of one in a namespace say nothing.
fn stage(key: &Key, policy: &PolicyOf) -> Stage {
    if key.namespace.is_empty() { policy.stage } else { Stage::Plain }
}

fn policy_selector(namespace: Option<&str>, policy: &PolicyOf) -> Option<Tree> {
    let own = match &policy.selector {
        Some(sel) if sel.is_bad() => return None,
        sel => sel.as_ref().map(|sel| Tree::of(sel, "")),
    };
    let with = |tree: Option<Tree>, more: Tree| match tree {
        Some(tree) => tree.and(more),
        None => more,
    };
    let placed = match (namespace, &policy.namespace_selector) {
        (Some(namespace), _) => {
            Some(with(own, Tree::Eq(NAMESPACE.to_owned(), namespace.to_owned())))
        }
        (None, Some(sel)) if sel.is_bad() => return None,
        (None, Some(sel)) => Some(with(own, Tree::of(sel, "pcns.")).existing(NAMESPACE)),
        (None, None) => own,
    };
    match (namespace, &policy.account_selector) {
        (_, Some(sel)) if sel.is_bad() => None,
        (Some(_), Some(sel)) => Some(with(placed, Tree::of(sel, "pcsa."))),
        (None, Some(sel)) => Some(with(placed, Tree::of(sel, "pcsa.")).existing(ACCOUNT)),
        (_, None) => Some(placed.unwrap_or(Tree::All)),
    }
}

/// Tiers and policies in order.
fn tier_list<'a>(
    objects: &Objects,
    policies: impl Iterator<Item = (&'a Key, &'a PolicyOf)>,
    stage: ListOf,
) -> Vec<PolicyTier> {
    // An order that isn't there is after all others.
    let number = |order: Option<f64>| order.unwrap_or(f64::INFINITY);
    let tier = |name: &str| match objects.get(&Key::global(Kind::Tier, name)) {
        Some(Obj::Tier { order, action }) => (0, number(*order), *action == "Pass"),
        // Those of Kubernetes' cluster-wide policies need no object.
        _ if name == "kube-admin" => (0, 1000.0, true),
        _ => (1, f64::INFINITY, name == "kube-baseline"),
    };
    let mut policies = policies.collect::<Vec<_>>();
    policies.sort_by(|(a_key, a), (b_key, b)| {
        let (a_tier, b_tier) = (tier(a.tier), tier(b.tier));
        let bytes = |key: &Key| format!("{}/{}/{}", key.name, key.namespace, key.kind);
        a_tier
            .0
            .cmp(&b_tier.0)
            .then(a_tier.1.partial_cmp(&b_tier.1).unwrap())
            .then(a.tier.cmp(b.tier))
            .then(number(a.order).partial_cmp(&number(b.order)).unwrap())
            .then(bytes(a_key).cmp(&bytes(b_key)))
    });
    let mut tiers: Vec<PolicyTier> = Vec::new();
    for (key, policy) in policies {
        let acts = |what: &str| {
            let has = |t: &&str| t.eq_ignore_ascii_case(what);
            let before_nat = stage == ListOf::PreDnat && what == "Egress";
            !before_nat && (policy.types.is_empty() || policy.types.iter().any(has))
        };
        if !acts("Ingress") && !acts("Egress") {
            continue;
        }
        if tiers.last().is_none_or(|last| last.name != policy.tier) {
            tiers.push(PolicyTier {
                name: policy.tier.into(),
                default_pass: matches!(stage, ListOf::Untracked | ListOf::PreDnat)
                    || tier(policy.tier).2,
                ..PolicyTier::default()
            });
        }
        let last = tiers.last_mut().unwrap();
        if acts("Ingress") {
            last.ingress.push(policy_id(key));
        }
        if acts("Egress") {
            last.egress.push(policy_id(key));
        }
    }
    tiers
}

fn need_sets(
    topics: &mut Topics,
    view: &mut BTreeSet<Topic>,
    sets: &SetsById,
    items: &[Item],
    beyond: &Beyond,
) {
    for (id, set) in sets {
        let topic = Topic::IpSet(id.as_str().into());
        if view.insert(topic.clone()) {
            for member in members(set, items, beyond) {
                put(topics, topic.clone(), &member, Entry::Member);
            }
        }
    }
}

fn members(set: &SetOf, items: &[Item], beyond: &Beyond) -> BTreeSet<String> {
    let matching =
        |tree: &Tree| items.iter().filter(|item| tree.matches(&item.labels)).collect::<Vec<_>>();
    let uncovered = |all: BTreeSet<IpNet>| {
        let covered = |net: &IpNet| all.iter().any(|other| other != net && other.contains(net));
        all.iter().filter(|net| !covered(net)).map(ToString::to_string).collect()
    };
    let with_port = |address: IpAddr, protocol: u8, port: u16| {
        let protocol = if protocol == 6 { "tcp" } else { "udp" };
        format!("{address},{protocol}:{port}")
    };
    match &set.holds {
        Holds::Addresses(tree) => {
            uncovered(matching(tree).iter().flat_map(|item| item.nets.clone()).collect())
        }
        Holds::Port(tree, protocol, name) => {
            let mut members = BTreeSet::new();
            for item in matching(tree) {
                let Some(local) = &item.endpoint else { continue };
                for (port_name, port_protocol, port) in &local.ports {
                    let fits = protocol.is_none_or(|protocol| protocol == *port_protocol);
                    if port_name == name && fits {
                        let addresses = item.nets.iter().map(IpNet::addr);
                        members.extend(addresses.map(|it| with_port(it, *port_protocol, *port)));
                    }
                }
            }
            members
        }
        Holds::Service { of, ports } => {
            let slices = beyond.services.as_ref().and_then(|services| services.get(of));
            let mut members = BTreeSet::new();
            for slice in slices.into_iter().flat_map(BTreeMap::values) {
                for address in &slice.addresses {
                    let address = address.parse::<IpAddr>().unwrap();
                    if *ports {
                        let held = slice.ports.iter();
                        members.extend(
                            held.map(|(protocol, port)| with_port(address, *protocol, *port)),
                        );
                    } else {
                        members.insert(IpNet::from(address).to_string());
                    }
                }
            }
            members
        }
    }
}
