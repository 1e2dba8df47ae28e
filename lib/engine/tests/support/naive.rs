//! The same calculation, done the slow and simple way: from all objects, each time anew.
//!
//! It shares no code with the engine: it knows the objects before they became JSON, evaluates
//! selectors as trees, looks at every endpoint for every set, and sorts by its own rules.

use std::collections::{BTreeMap, BTreeSet};

use arcstr::ArcStr;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ipnet::IpNet;
use model::{
    Key, Kind,
    view::{
        Action, ConfigEntry, EncapMode, Endpoint, Entry, Host, Peer, Policy, PolicyId, PolicyList,
        PolicyTier, Pool, PortRange, ProfileRules, Protocol, Route, Rule, Topic,
    },
};
use serde_json::Value;
use sha1::{Digest as _, Sha1};
use sha2::Sha224;

use super::{
    cluster::{Topics, plist_id},
    objects::{Obj, Pairs, PolicyOf, Port, RuleOf, Sel, Side},
};

pub(crate) type Objects = BTreeMap<Key, Obj>;
type LabelMap = BTreeMap<String, String>;

const NAMESPACE: &str = "projectcalico.org/namespace";

/// What follows from these objects.
#[derive(Default)]
pub(crate) struct Expected {
    pub(crate) topics: Topics,
    /// Only nodes that need something.
    pub(crate) views: BTreeMap<ArcStr, BTreeSet<Topic>>,
    pub(crate) problems: BTreeSet<Key>,
    pub(crate) ready: bool,
}

/// A selector with what it became by its place.
#[derive(Clone, Debug, PartialEq)]
enum Tree {
    All,
    Has(String),
    Eq(String, String),
    Ne(String, String),
    In(String, BTreeSet<String>),
    NotIn(String, BTreeSet<String>),
    Starts(String, String),
    And(Box<Tree>, Box<Tree>),
    Or(Box<Tree>, Box<Tree>),
    Not(Box<Tree>),
}

impl Tree {
    fn of(sel: &Sel, prefix: &str) -> Self {
        let label = |l: &str| format!("{prefix}{l}");
        let set = |values: &[&str]| values.iter().map(|v| (*v).to_owned()).collect();
        match sel {
            Sel::All => Self::All,
            Sel::Has(l) => Self::Has(label(l)),
            Sel::Eq(l, v) => Self::Eq(label(l), (*v).to_owned()),
            Sel::Ne(l, v) => Self::Ne(label(l), (*v).to_owned()),
            Sel::In(l, v) => Self::In(label(l), set(v)),
            Sel::NotIn(l, v) => Self::NotIn(label(l), set(v)),
            Sel::Starts(l, v) => Self::Starts(label(l), (*v).to_owned()),
            Sel::And(a, b) => Self::of(a, prefix).and(Self::of(b, prefix)),
            Sel::Or(a, b) => Self::Or(Box::new(Self::of(a, prefix)), Box::new(Self::of(b, prefix))),
            Sel::Not(a) => Self::of(a, prefix).not(),
            Sel::Bad => panic!("not a selector"),
        }
    }

    fn and(self, other: Self) -> Self {
        Self::And(Box::new(self), Box::new(other))
    }

    fn not(self) -> Self {
        match self {
            Self::Not(inner) => *inner,
            other => Self::Not(Box::new(other)),
        }
    }

    /// In namespaces only, instead of everywhere.
    fn namespaced(self) -> Self {
        match self {
            Self::All => Self::Has(NAMESPACE.to_owned()),
            Self::And(a, b) => a.namespaced().and(b.namespaced()),
            Self::Or(a, b) => Self::Or(Box::new(a.namespaced()), Box::new(b.namespaced())),
            Self::Not(a) => a.namespaced().not(),
            other => other,
        }
    }

    fn text(&self) -> String {
        let list = |values: &BTreeSet<String>| {
            values.iter().map(|v| format!("\"{v}\"")).collect::<Vec<_>>().join(", ")
        };
        match self {
            Self::All => "all()".to_owned(),
            Self::Has(l) => format!("has({l})"),
            Self::Eq(l, v) => format!("{l} == \"{v}\""),
            Self::Ne(l, v) => format!("{l} != \"{v}\""),
            Self::In(l, v) => format!("{l} in {{{}}}", list(v)),
            Self::NotIn(l, v) => format!("{l} not in {{{}}}", list(v)),
            Self::Starts(l, v) => format!("{l} starts with \"{v}\""),
            Self::And(a, b) => format!("({} && {})", a.text(), b.text()),
            Self::Or(a, b) => format!("({} || {})", a.text(), b.text()),
            Self::Not(a) => format!("!{}", a.text()),
        }
    }

    fn matches(&self, labels: &LabelMap) -> bool {
        match self {
            Self::All => true,
            Self::Has(l) => labels.contains_key(l),
            Self::Eq(l, v) => labels.get(l) == Some(v),
            Self::Ne(l, v) => labels.get(l) != Some(v),
            Self::In(l, v) => labels.get(l).is_some_and(|value| v.contains(value)),
            Self::NotIn(l, v) => labels.get(l).is_none_or(|value| !v.contains(value)),
            Self::Starts(l, v) => labels.get(l).is_some_and(|value| value.starts_with(v)),
            Self::And(a, b) => a.matches(labels) && b.matches(labels),
            Self::Or(a, b) => a.matches(labels) || b.matches(labels),
            Self::Not(a) => !a.matches(labels),
        }
    }
}

fn hashed(prefix: &str, content: &str) -> String {
    let hash = Sha224::digest(format!("{prefix}:{content}"));
    format!("{prefix}:{}", URL_SAFE_NO_PAD.encode(hash))
}

/// What an IP set is: a selector, and a port's protocol and name.
#[derive(Clone, Debug)]
struct SetOf {
    tree: Tree,
    port: Option<(Option<u8>, &'static str)>,
}

impl SetOf {
    fn id(&self) -> String {
        let selector = hashed("s", &self.tree.text());
        match &self.port {
            None => selector,
            Some((protocol, name)) => {
                let protocol = match protocol {
                    None => "any",
                    Some(6) => "tcp",
                    Some(17) => "udp",
                    other => panic!("{other:?}"),
                };
                hashed("n", &format!("{selector},{protocol},{name}"))
            }
        }
    }
}

type SetsById = BTreeMap<String, SetOf>;

/// Something with labels that gives members.
struct Item {
    labels: LabelMap,
    nets: Vec<IpNet>,
    /// Of endpoints only.
    endpoint: Option<Wep>,
}

struct Wep {
    node: String,
    key: String,
    entry: Endpoint,
    ports: Vec<(&'static str, u8, u16)>,
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
    let mut out = Expected { ready: true, ..Expected::default() };
    put_objects(objects, &mut out);
    let items = items(objects);
    let rules = |namespace: Option<&str>, rules: &[RuleOf], sets: &mut SetsById| {
        rules.iter().filter_map(|r| rule(namespace, r, sets)).collect::<Vec<_>>()
    };

    let mut policies = Vec::new();
    for (key, obj) in objects {
        let Obj::Policy(policy) = obj else { continue };
        let namespace = (key.kind == Kind::NetworkPolicy).then_some(key.namespace.as_str());
        let mut sets = SetsById::new();
        let ingress = rules(namespace, &policy.ingress, &mut sets);
        let egress = rules(namespace, &policy.egress, &mut sets);
        let view = Policy { tier: policy.tier.into(), ingress, egress };
        policies.push((key, policy, policy_selector(namespace, policy), view, sets));
    }

    for item in &items {
        let Some(wep) = &item.endpoint else { continue };
        let mut entry = wep.entry.clone();
        let selecting = policies
            .iter()
            .filter(|(_, policy, tree, ..)| {
                !policy.pre_dnat && tree.as_ref().is_some_and(|tree| tree.matches(&item.labels))
            })
            .collect::<Vec<_>>();
        let list = PolicyList {
            tiers: tier_list(objects, selecting.iter().map(|(key, policy, ..)| (*key, *policy))),
        };
        let view = out.views.entry(wep.node.clone().into()).or_default();
        if !list.tiers.is_empty() {
            let id = plist_id(&list);
            entry.plist = Some(id.clone());
            let listed = |key: &Key| {
                let id = policy_id(key);
                list.tiers.iter().any(|t| t.ingress.contains(&id) || t.egress.contains(&id))
            };
            for (key, _, _, policy, sets) in selecting.into_iter().filter(|p| listed(p.0)) {
                let topic = Topic::Policy(policy_id(key));
                put(&mut out.topics, topic.clone(), "", Entry::Policy(policy.clone()));
                view.insert(topic);
                need_sets(&mut out.topics, view, sets, &items);
            }
            let topic = Topic::Plist(id);
            put(&mut out.topics, topic.clone(), "", Entry::Plist(list));
            view.insert(topic);
        }
        for name in &entry.profiles {
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
            let entry = Entry::Profile(ProfileRules { ingress, egress });
            put(&mut out.topics, topic.clone(), "", entry);
            view.insert(topic);
            need_sets(&mut out.topics, view, &sets, &items);
        }
        let node = Topic::Node(wep.node.clone().into());
        put(&mut out.topics, node, &wep.key, Entry::Endpoint(entry));
    }
    out.views.retain(|_, view| !view.is_empty());
    put_network(objects, &mut out);
    out
}

fn put(topics: &mut Topics, topic: Topic, key: &str, entry: Entry) {
    topics.entry(topic).or_default().insert(key.into(), entry);
}

fn policy_id(key: &Key) -> PolicyId {
    PolicyId {
        kind: key.kind.name().into(),
        namespace: key.namespace.clone(),
        name: key.name.clone(),
    }
}

/// The FULL view, configuration, and what is wrong.
fn put_objects(objects: &Objects, out: &mut Expected) {
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
            Obj::Tier { .. } => {
                put(&mut out.topics, Topic::Config, &format!("Tier/{}", key.name), spec(obj));
            }
            Obj::Cluster { ready } => {
                put(&mut out.topics, Topic::Config, "ClusterInformation/default", spec(obj));
                out.ready = *ready != Some(false);
            }
            _ => {}
        }
        if is_problem(key, obj) {
            out.problems.insert(key.clone());
        }
    }
}

fn is_problem(key: &Key, obj: &Obj) -> bool {
    match obj {
        Obj::Raw | Obj::List => true,
        Obj::Wep { bad_mac, .. } => *bad_mac,
        Obj::Nets { nets, .. } => nets.contains(&"bad"),
        Obj::Policy(policy) => {
            let bad = |sel: &Option<Sel>| sel.as_ref().is_some_and(Sel::is_bad);
            bad(&policy.selector)
                || (bad(&policy.namespace_selector) && key.kind == Kind::GlobalNetworkPolicy)
                || policy.types.contains(&"Both")
                || policy.ingress.iter().chain(&policy.egress).any(bad_rule)
        }
        Obj::Profile { ingress, egress, .. } => {
            key.name != "projectcalico-default-allow" && ingress.iter().chain(egress).any(bad_rule)
        }
        Obj::Node { ipv4, vxlan } => *ipv4 == Some("x") || *vxlan == Some("x"),
        Obj::Pool { cidr, .. } => *cidr == "x",
        Obj::Tier { .. } | Obj::Block { .. } | Obj::Felix { .. } | Obj::Cluster { .. } => false,
    }
}

fn bad_rule(rule: &RuleOf) -> bool {
    let protocol = rule.protocol;
    let bad_port = |port: &Port| match port {
        Port::Bad => true,
        Port::Named(_) => protocol == Some("47"),
        Port::Number(_) | Port::Range(..) => !matches!(protocol, Some("TCP" | "UDP")),
    };
    let bad_side = |side: &Side| {
        let selectors = [&side.selector, &side.not_selector, &side.namespace_selector];
        // A namespace selector alone counts as well.
        selectors.into_iter().flatten().any(Sel::is_bad)
            || side.nets.iter().chain(&side.not_nets).any(Option::is_none)
            || side.ports.iter().chain(&side.not_ports).any(bad_port)
            || side.service
    };
    !matches!(rule.action, "Allow" | "Deny" | "Log" | "Pass")
        || protocol == Some("FOO")
        || rule.http
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
    let mut items = Vec::new();
    for (key, obj) in objects {
        match obj {
            Obj::Wep { bad_mac: true, .. } => {}
            Obj::Wep { uid, labels, account, profiles, nets, ports, .. } => {
                let mut own = owned(labels);
                own.retain(|key, _| !key.starts_with("pcns."));
                if let Some(account) = account {
                    let label = "projectcalico.org/serviceaccount".to_owned();
                    own.insert(label, (*account).to_owned());
                }
                let (node, rest) = key.name.split_once("-k8s-").unwrap();
                let pod = rest.strip_suffix("-eth0").unwrap().replace("--", "-");
                let nets = nets.iter().map(|text| net(text)).collect::<Vec<_>>();
                let entry = Endpoint {
                    interface: "cali1".into(),
                    mac: "aa:bb:cc:00:00:01".into(),
                    addresses: nets.clone(),
                    profiles: profiles.iter().map(|name| (*name).into()).collect(),
                    plist: None,
                };
                let ports = ports.iter().map(|(name, protocol, port)| {
                    (*name, if *protocol == "TCP" { 6 } else { 17 }, *port)
                });
                items.push(Item {
                    labels: inherit(own, profiles),
                    nets: nets.iter().map(single).collect(),
                    endpoint: Some(Wep {
                        node: node.to_owned(),
                        key: format!("wep/k8s/{}/{pod}/eth0/{uid}", key.namespace),
                        entry,
                        ports: ports.collect(),
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

fn policy_selector(namespace: Option<&str>, policy: &PolicyOf) -> Option<Tree> {
    let own = match &policy.selector {
        Some(sel) if sel.is_bad() => return None,
        sel => sel.as_ref().map(|sel| Tree::of(sel, "")),
    };
    match (namespace, &policy.namespace_selector) {
        (Some(namespace), _) => {
            let here = Tree::Eq(NAMESPACE.to_owned(), namespace.to_owned());
            Some(own.map_or(here.clone(), |own| own.and(here)))
        }
        (None, Some(sel)) if sel.is_bad() => None,
        (None, Some(sel)) => {
            let there = Tree::of(sel, "pcns.");
            Some(own.map_or(there.clone(), |own| own.and(there)).namespaced())
        }
        (None, None) => Some(own.unwrap_or(Tree::All)),
    }
}

/// Tiers and policies in order.
fn tier_list<'a>(
    objects: &Objects,
    policies: impl Iterator<Item = (&'a Key, &'a PolicyOf)>,
) -> Vec<PolicyTier> {
    // An order that isn't there is after all others.
    let number = |order: Option<f64>| order.unwrap_or(f64::INFINITY);
    let tier = |name: &str| match objects.get(&Key::global(Kind::Tier, name)) {
        Some(Obj::Tier { order, action }) => (0, number(*order), *action == "Pass"),
        _ => (1, f64::INFINITY, false),
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
            policy.types.is_empty() || policy.types.iter().any(|t| t.eq_ignore_ascii_case(what))
        };
        if !acts("Ingress") && !acts("Egress") {
            continue;
        }
        if tiers.last().is_none_or(|last| last.name != policy.tier) {
            tiers.push(PolicyTier {
                name: policy.tier.into(),
                default_pass: tier(policy.tier).2,
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

/// None: the rule matches nothing.
fn rule(namespace: Option<&str>, rule: &RuleOf, sets: &mut SetsById) -> Option<Rule> {
    let action = match rule.action {
        "Allow" => Action::Allow,
        "Log" => Action::Log,
        "Pass" => Action::Pass,
        _ => Action::Deny,
    };
    let denies = action == Action::Deny;
    let protocol = match rule.protocol {
        Some("TCP") => Some(6),
        Some("UDP") => Some(17),
        Some("47") => Some(47),
        _ => None,
    };
    if (rule.http || rule.protocol == Some("FOO")) && !denies {
        return None;
    }
    let mut needed = SetsById::new();
    let source = peer(namespace, denies, protocol, &rule.source, &mut needed)?;
    let destination = peer(namespace, denies, protocol, &rule.destination, &mut needed)?;
    sets.extend(needed);
    let protocol = protocol.map(Protocol);
    Some(Rule { action, protocol, source, destination, ..Rule::default() })
}

/// None: no packet is like that.
fn peer(
    namespace: Option<&str>,
    denies: bool,
    protocol: Option<u8>,
    side: &Side,
    sets: &mut SetsById,
) -> Option<Peer> {
    let fits = |port: &Port| match port {
        Port::Bad => false,
        Port::Named(_) => protocol != Some(47),
        Port::Number(_) | Port::Range(..) => matches!(protocol, Some(6 | 17)),
    };
    let nets = positive(&side.nets, Option::is_some, denies)?;
    let not_nets = negative(&side.not_nets, Option::is_some, denies)?;
    let ports = positive(&side.ports, fits, denies)?;
    let not_ports = negative(&side.not_ports, fits, denies)?;
    if side.service && !denies {
        return None;
    }
    let bad = |sel: &Option<Sel>| sel.as_ref().is_some_and(Sel::is_bad);
    let bad_positive = bad(&side.selector) || bad(&side.namespace_selector);
    let bad_negative = bad(&side.not_selector);
    if (bad_positive || bad_negative) && !denies {
        return None;
    }
    let accounts = (!side.service_accounts.is_empty()).then(|| {
        let names = side.service_accounts.iter().map(|name| (*name).to_owned()).collect();
        Tree::In("projectcalico.org/serviceaccount".to_owned(), names)
    });
    let mut include = None;
    if !bad_positive {
        let own = side.selector.as_ref().map(|sel| Tree::of(sel, ""));
        let own = join(accounts, own);
        let written =
            own.is_some() || side.not_selector.is_some() || side.namespace_selector.is_some();
        let there = match (&side.namespace_selector, namespace) {
            (Some(sel), _) => Some(Tree::of(sel, "pcns.").namespaced()),
            (None, Some(namespace)) => Some(Tree::Eq(NAMESPACE.to_owned(), namespace.to_owned())),
            (None, None) => None,
        };
        include = join(there, own).filter(|_| written);
    }
    let mut exclude = None;
    if !bad_negative {
        exclude = side.not_selector.as_ref().map(|sel| Tree::of(sel, ""));
    }
    if let (Some(yes), Some(no)) = (include.clone(), exclude.clone()) {
        include = Some(yes.and(no.not()));
        exclude = None;
    }

    let mut peer = Peer {
        nets: nets.iter().map(|text| net(text.unwrap())).collect(),
        not_nets: not_nets.iter().map(|text| net(text.unwrap())).collect(),
        ..Peer::default()
    };
    let whose = include.clone().unwrap_or(Tree::All);
    let mut add = |list: &mut Vec<ArcStr>, set: SetOf| {
        let id = set.id();
        if !list.iter().any(|known| **known == *id) {
            list.push(id.as_str().into());
        }
        sets.insert(id, set);
    };
    for (list, ranges, names) in [
        (&ports, &mut peer.ports, &mut peer.port_sets),
        (&not_ports, &mut peer.not_ports, &mut peer.not_port_sets),
    ] {
        for port in list {
            match port {
                Port::Number(port) => ranges.push(PortRange { first: *port, last: *port }),
                Port::Range(first, last) => ranges.push(PortRange { first: *first, last: *last }),
                Port::Named(name) => {
                    let port = Some((protocol, *name));
                    add(names, SetOf { tree: whose.clone(), port });
                }
                Port::Bad => unreachable!(),
            }
        }
    }
    let only_names = peer.ports.is_empty() && !peer.port_sets.is_empty();
    if let Some(tree) = include.filter(|_| !only_names) {
        add(&mut peer.sets, SetOf { tree, port: None });
    }
    if let Some(tree) = exclude {
        add(&mut peer.not_sets, SetOf { tree, port: None });
    }
    Some(peer)
}

fn join(a: Option<Tree>, b: Option<Tree>) -> Option<Tree> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.and(b)),
        (a, b) => a.or(b),
    }
}

/// One of these. What allows may do with fewer, but not with none; what denies takes all or nothing.
fn positive<T: Clone>(list: &[T], good: impl Fn(&T) -> bool, denies: bool) -> Option<Vec<T>> {
    let kept = list.iter().filter(|item| good(item)).cloned().collect::<Vec<_>>();
    if kept.len() == list.len() {
        return Some(kept);
    }
    if denies { Some(Vec::new()) } else { (!kept.is_empty()).then_some(kept) }
}

/// None of these. What denies may do with fewer.
fn negative<T: Clone>(list: &[T], good: impl Fn(&T) -> bool, denies: bool) -> Option<Vec<T>> {
    let kept = list.iter().filter(|item| good(item)).cloned().collect::<Vec<_>>();
    (denies || kept.len() == list.len()).then_some(kept)
}

fn need_sets(topics: &mut Topics, view: &mut BTreeSet<Topic>, sets: &SetsById, items: &[Item]) {
    for (id, set) in sets {
        let topic = Topic::IpSet(id.as_str().into());
        if view.insert(topic.clone()) {
            for member in members(set, items) {
                put(topics, topic.clone(), &member, Entry::Member);
            }
        }
    }
}

fn members(set: &SetOf, items: &[Item]) -> BTreeSet<String> {
    let matching = items.iter().filter(|item| set.tree.matches(&item.labels));
    let Some((protocol, name)) = &set.port else {
        let all = matching.flat_map(|item| item.nets.clone()).collect::<BTreeSet<_>>();
        let covered = |net: &IpNet| all.iter().any(|other| other != net && other.contains(net));
        return all.iter().filter(|net| !covered(net)).map(ToString::to_string).collect();
    };
    let mut members = BTreeSet::new();
    for item in matching {
        let Some(wep) = &item.endpoint else { continue };
        for (port_name, port_protocol, port) in &wep.ports {
            if port_name == name && protocol.is_none_or(|protocol| protocol == *port_protocol) {
                let text = if *port_protocol == 6 { "tcp" } else { "udp" };
                for net in &item.nets {
                    members.insert(format!("{},{text}:{port}", net.addr()));
                }
            }
        }
    }
    members
}

fn put_network(objects: &Objects, out: &mut Expected) {
    let mut pools = BTreeMap::<IpNet, (&Obj, Pool)>::new();
    let mut blocks = Vec::new();
    let mut addresses = Vec::new();
    let mut tunnels = Vec::new();
    let mut hosts = BTreeSet::new();
    for (key, obj) in objects {
        match obj {
            Obj::Pool { cidr, vxlan, nat, balancer } if *cidr != "x" => {
                let vxlan = match *vxlan {
                    _ if *balancer => EncapMode::Never,
                    "Always" => EncapMode::Always,
                    "CrossSubnet" => EncapMode::CrossSubnet,
                    _ => EncapMode::Never,
                };
                let pool = Pool { ipip: EncapMode::Never, vxlan, nat_outgoing: *nat };
                // Objects come by name, and the first counts.
                pools.entry(net(cidr)).or_insert((obj, pool));
            }
            Obj::Block { cidr, owner, holders } => {
                let cidr = net(cidr);
                if let Some(owner) = owner {
                    blocks.push((cidr, *owner));
                }
                for (address, holder) in cidr_addresses(cidr).zip(holders) {
                    if let Some(holder) = holder
                        && Some(holder) != owner.as_ref()
                    {
                        addresses.push((address, *holder, owner.is_some()));
                    }
                }
            }
            Obj::Node { ipv4, vxlan } => {
                let mut host = Host::default();
                if let Some(text) = ipv4.filter(|text| *text != "x") {
                    host.ipv4 = Some(text.parse().unwrap());
                    hosts.insert(single(&text.parse().unwrap()));
                }
                if let Some(text) = vxlan.filter(|text| *text != "x") {
                    host.vxlan_address = Some(text.parse().unwrap());
                    let hash = Sha1::digest(key.name.as_bytes());
                    let hash = hash[..5].iter().map(|byte| format!("{byte:02x}"));
                    let mac = std::iter::once("66".to_owned()).chain(hash).collect::<Vec<_>>();
                    host.vxlan_mac = mac.join(":").into();
                    tunnels.push((net(text), key.name.as_str()));
                }
                put(&mut out.topics, Topic::host(&key.name), &key.name, Entry::Host(host));
            }
            _ => {}
        }
    }
    for (cidr, (_, pool)) in &pools {
        put(&mut out.topics, Topic::Pools, &cidr.to_string(), Entry::Pool(pool.clone()));
    }

    let mut routes = BTreeMap::<IpNet, (String, bool)>::new();
    let mut claim = |cidr: IpNet, node: &str, borrowed: bool| {
        let known = routes.entry(cidr).or_insert_with(|| (node.to_owned(), borrowed));
        if (node, borrowed) < (known.0.as_str(), known.1) {
            *known = (node.to_owned(), borrowed);
        }
    };
    for (cidr, node, borrowed) in &addresses {
        claim(*cidr, node, *borrowed);
    }
    for (cidr, node) in &blocks {
        claim(*cidr, node, false);
    }
    let of_workloads = routes.keys().copied().collect::<BTreeSet<_>>();
    for (cidr, node) in &tunnels {
        if of_workloads.contains(cidr) || tunnels.iter().any(|(c, n)| c == cidr && n < node) {
            continue;
        }
        let around = blocks.iter().filter(|(block, _)| block.contains(cidr));
        match around.map(|(_, owner)| *owner).min() {
            Some(owner) if owner == *node => {}
            owner => {
                routes.insert(*cidr, ((*node).to_owned(), owner.is_some()));
            }
        }
    }
    for (cidr, (node, borrowed)) in routes {
        if hosts.contains(&cidr) {
            continue;
        }
        let pool = pools
            .iter()
            .filter(|(pool, (obj, _))| {
                pool.contains(&cidr) && !matches!(obj, Obj::Pool { balancer: true, .. })
            })
            .max_by_key(|(pool, _)| pool.prefix_len())
            .map(|(pool, _)| *pool);
        let tunnel = tunnels.iter().any(|(address, owner)| *address == cidr && *owner == node);
        let route = Route { node: node.into(), pool, borrowed, tunnel };
        put(&mut out.topics, Topic::route(cidr), &cidr.to_string(), Entry::Route(route));
    }
}

fn cidr_addresses(cidr: IpNet) -> impl Iterator<Item = IpNet> {
    let IpNet::V4(cidr) = cidr else { panic!("{cidr}") };
    let base = u32::from(cidr.network());
    (0..4).map(move |n| IpNet::from(std::net::IpAddr::from(std::net::Ipv4Addr::from(base + n))))
}
