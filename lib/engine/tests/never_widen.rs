//! Objects that validation refuses, and that somebody stored all the same, allow no more than they
//! say: what can't be understood of them doesn't vanish from a rule.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is a failed test")]

mod support;

use std::{collections::BTreeSet, net::IpAddr};

use bulrush_engine::{
    Engine, Mirror, Options,
    verdict::{Judge, Packet},
};
use model::{
    Key, Kind, Stored, StreamIndex, Update,
    kinds::Direction,
    validate::validate,
    view::{Endpoint, Entry, Icmp, Protocol, Topic},
};
use serde_json::{Value, json};
use support::{cluster::plist_id, golden};

/// The address of the endpoint that is asked about, in both families.
const TARGET: [&str; 2] = ["10.1.0.1", "fd01::1"];

/// Whether the language of selectors gives the condition a meaning, though validation wants it
/// elsewhere: `global()` is everything where it stands for an endpoint.
fn has_meaning(condition: &Value) -> bool {
    condition.as_str().is_some_and(|text| text.contains("global("))
}

struct World {
    engine: Engine,
    mirror: Mirror,
}

impl World {
    /// Three endpoints, which nothing but policies lets anything through to.
    fn new(namespace: &str) -> Self {
        let engine = Engine::new(Options { plist_id });
        let mut world = Self { engine, mirror: Mirror::default() };
        let tier = json!({"spec": {"order": 1_000_000, "defaultAction": "Deny"}});
        world.put(Key::global(Kind::Tier, "default"), tier);
        let endpoints = [
            (namespace, "target", TARGET, json!({"a": "b", "app": "web"})),
            (namespace, "near", ["10.1.0.2", "fd01::2"], json!({"app": "web"})),
            ("elsewhere", "far", ["10.2.0.1", "fd02::1"], json!({"a": "b"})),
        ];
        for (namespace, pod, [v4, v6], mut labels) in endpoints {
            labels["projectcalico.org/namespace"] = namespace.into();
            labels["projectcalico.org/orchestrator"] = "k8s".into();
            let key = Key::namespaced(
                Kind::WorkloadEndpoint,
                namespace,
                format!("node--1-k8s-{pod}-eth0"),
            );
            let endpoint = json!({
                "metadata": {"labels": labels},
                "spec": {
                    "orchestrator": "k8s", "node": "node-1", "pod": pod, "endpoint": "eth0",
                    "interfaceName": format!("cali{pod}"),
                    "ipNetworks": [format!("{v4}/32"), format!("{v6}/128")],
                    "ports": [
                        {"name": "http", "protocol": "TCP", "port": 8080},
                        {"name": "http", "protocol": "UDP", "port": 443},
                    ],
                },
            });
            world.put(key, endpoint);
        }
        world
    }

    fn put(&mut self, key: Key, value: Value) {
        let value = Some(Stored::Json(value));
        self.engine.apply(&Update { stream: StreamIndex(0), key, value, version: 0 });
    }

    fn target(&mut self) -> Endpoint {
        self.mirror.follow(self.engine.flush());
        let node = Topic::Node("node-1".into());
        let mut endpoints = self.mirror.entries(&node).filter_map(|(_, entry)| match entry {
            Entry::Endpoint(endpoint) if endpoint.interface == "calitarget" => Some(endpoint),
            _ => None,
        });
        endpoints.next().expect("the endpoint").clone()
    }

    /// Which of the packets the endpoint lets through, with their directions.
    fn allowed(&mut self, packets: &[(Direction, Packet)]) -> BTreeSet<usize> {
        let target = self.target();
        let judge = Judge::new(&self.mirror);
        let allows = |(direction, packet): &(Direction, Packet)| {
            judge.allows(&target, *direction, packet, &mut |_| {})
        };
        (0..packets.len()).filter(|index| allows(&packets[*index])).collect()
    }
}

/// What the object allows, alone in the world.
fn allowed(kind: Kind, object: &Value, packets: &[(Direction, Packet)]) -> BTreeSet<usize> {
    let key = key(kind, object);
    let namespace = if key.namespace.is_empty() { "default" } else { &key.namespace };
    let mut world = World::new(namespace);
    world.put(key.clone(), object.clone());
    world.allowed(packets)
}

fn key(kind: Kind, object: &Value) -> Key {
    let text = |field: &str| object["metadata"][field].as_str().filter(|text| !text.is_empty());
    let name = text("name").unwrap_or("x");
    if kind.is_namespaced() {
        Key::namespaced(kind, text("namespace").unwrap_or("default"), name)
    } else {
        Key::global(kind, name)
    }
}

/// The golden objects of these kinds that validation refuses: id, kind, object.
fn refused(kinds: &[Kind]) -> Option<Vec<(String, Kind, Value)>> {
    let text = std::fs::read_to_string(golden::folder()?.join("validation.jsonl")).unwrap();
    let cases = text.lines().filter_map(|line| {
        let case: Value = serde_json::from_str(line).unwrap();
        let kind = case["kind"].as_str().unwrap().parse().unwrap();
        let verdict = validate(&case["object"], None);
        let is_refused = !verdict.valid && verdict.defaulted.is_none();
        let id = case["id"].as_str().unwrap().to_owned();
        (is_refused && kinds.contains(&kind)).then(|| (id, kind, case["object"].clone()))
    });
    Some(cases.collect())
}

/// Packets to and from the endpoint: from everywhere that the object may mean, and from elsewhere.
fn packets(object: &Value) -> Vec<(Direction, Packet)> {
    let mut texts = Vec::new();
    gather(object, &mut texts);
    let mut peers: BTreeSet<IpAddr> = [
        "10.1.0.2",
        "10.2.0.1",
        "203.0.113.9",
        "10.0.0.1",
        "10.0.0.99",
        "192.168.0.1",
        "fd01::2",
        "fd02::1",
        "fd00::1",
        "2001:db8::9",
        "::9",
    ]
    .iter()
    .map(|text| text.parse().unwrap())
    .collect();
    let mut ports = BTreeSet::from([0, 1, 79, 80, 85, 443, 8080, 65535]);
    for text in &texts {
        let address = text.split('/').next().unwrap_or_default();
        peers.extend(address.parse::<IpAddr>().map(|ip| ip.to_canonical()));
        ports.extend(text.split(':').filter_map(|port| port.parse::<u16>().ok()));
    }
    let mut packets = Vec::new();
    for peer in peers {
        let target: IpAddr = TARGET[usize::from(peer.is_ipv6())].parse().unwrap();
        let mut add = |protocol, source_port, destination_port, icmp| {
            let packet = |source, destination| Packet {
                source,
                destination,
                protocol: Protocol(protocol),
                source_port,
                destination_port,
                icmp,
            };
            // A rule's conditions are asked in any order of ends, whether such packets are or not.
            for direction in [Direction::Ingress, Direction::Egress] {
                packets.push((direction, packet(peer, target)));
                packets.push((direction, packet(target, peer)));
            }
        };
        for protocol in [6, 17, 132] {
            for port in &ports {
                add(protocol, 40000, *port, None);
                add(protocol, *port, 40000, None);
            }
        }
        for protocol in [1, 58] {
            for (kind, code) in [(0, 0), (3, 1), (8, 0), (8, 3), (128, 0), (254, 255), (255, 0)] {
                add(protocol, 0, 0, Some(Icmp { kind, code: Some(code) }));
            }
        }
        for protocol in [2, 47, 136, 255] {
            add(protocol, 0, 0, None);
        }
    }
    packets
}

/// All texts and numbers in the value.
fn gather(value: &Value, texts: &mut Vec<String>) {
    match value {
        Value::String(text) => texts.push(text.clone()),
        Value::Number(number) => texts.push(number.to_string()),
        Value::Array(items) => items.iter().for_each(|item| gather(item, texts)),
        Value::Object(fields) => fields.values().for_each(|item| gather(item, texts)),
        Value::Null | Value::Bool(_) => {}
    }
}

/// The condition that a fault is about, as a JSON pointer; none: it is about something else.
fn condition(field: &str) -> Option<String> {
    let rest = field.strip_prefix("spec.")?;
    if ["selector", "namespaceSelector", "serviceAccountSelector"].contains(&rest) {
        return Some(format!("/spec/{rest}"));
    }
    let (direction, rest) = rest.split_once('[')?;
    if direction != "ingress" && direction != "egress" {
        return None;
    }
    let (index, rest) = rest.split_once(']')?;
    let mut steps = rest.split(['.', '[']).filter(|step| !step.is_empty());
    let first = steps.next()?;
    if first == "action" || first == "metadata" {
        return None;
    }
    let rule = format!("/spec/{direction}/{index}/{first}");
    match steps.next().filter(|_| ["source", "destination"].contains(&first)) {
        Some(second) => Some(format!("{rule}/{second}")),
        None => Some(rule),
    }
}

fn without(object: &Value, pointer: &str) -> Option<(Value, Value)> {
    let (parent, field) = pointer.rsplit_once('/')?;
    let mut rest = object.clone();
    let removed = rest.pointer_mut(parent)?.as_object_mut()?.remove(field)?;
    Some((rest, removed))
}

#[test]
fn a_condition_that_is_refused_is_never_left_out() {
    let Some(cases) = refused(&[Kind::NetworkPolicy, Kind::GlobalNetworkPolicy]) else { return };
    let (mut checked, mut widened) = (0, Vec::new());
    for (id, kind, object) in &cases {
        let packets = packets(object);
        let errors = validate(object, None).errors;
        let conditions: BTreeSet<_> =
            errors.iter().filter_map(|error| condition(&error.field)).collect();
        for pointer in conditions {
            let Some((rest, removed)) = without(object, &pointer) else { continue };
            let wide = allowed(*kind, &rest, &packets);
            let ours = allowed(*kind, object, &packets);
            checked += usize::from(!wide.is_empty());
            if ours == wide && !wide.is_empty() && !has_meaning(&removed) {
                widened.push(format!("{id} {pointer} {removed}\n  {object}"));
            }
        }
    }
    println!("{checked} refused conditions");
    assert!(checked > 100, "{checked}");
    assert!(widened.is_empty(), "left out: {widened:#?}");
}

#[test]
fn a_rule_whose_action_is_refused_allows_nothing() {
    let Some(cases) = refused(&[Kind::NetworkPolicy, Kind::GlobalNetworkPolicy]) else { return };
    let mut checked = 0;
    for (id, kind, object) in &cases {
        let errors = validate(object, None).errors;
        let is_about_action = errors.iter().any(|error| error.field.ends_with("].action"));
        // In any case of its letters it is an action.
        let is_allow = |rule: &Value| {
            rule["action"].as_str().is_some_and(|action| action.eq_ignore_ascii_case("allow"))
        };
        let rules = ["ingress", "egress"].into_iter();
        let mut rules =
            rules.filter_map(|direction| object["spec"][direction].as_array()).flatten();
        if is_about_action && !rules.any(is_allow) {
            checked += 1;
            assert_eq!(allowed(*kind, object, &packets(object)), BTreeSet::new(), "{id} {object}");
        }
    }
    assert!(checked > 0, "no case");
}

#[test]
fn a_tier_that_is_refused_passes_only_where_it_says_so() {
    let Some(cases) = refused(&[Kind::Tier]) else { return };
    let mut checked = 0;
    for (id, kind, object) in &cases {
        if object["spec"]["defaultAction"] == "Pass" {
            continue;
        }
        let key = key(*kind, object);
        let mut world = World::new("default");
        world.put(key.clone(), object.clone());
        let allow = json!([{"action": "Allow"}]);
        let profile = json!({"spec": {"ingress": allow, "egress": allow}});
        world.put(Key::global(Kind::Profile, "kns.default"), profile);
        let policy = json!({"spec": {"tier": key.name.as_str(), "selector": "all()", "types": ["Ingress", "Egress"]}});
        world.put(Key::global(Kind::GlobalNetworkPolicy, "selects"), policy);
        assert_eq!(world.allowed(&packets(object)), BTreeSet::new(), "{id} {object}");
        checked += 1;
    }
    assert!(checked > 5, "{checked}");
}

#[test]
fn a_set_that_is_refused_has_only_the_networks_that_it_names() {
    let Some(cases) = refused(&[Kind::NetworkSet, Kind::GlobalNetworkSet]) else { return };
    let mut checked = 0;
    for (id, kind, object) in &cases {
        let mut texts = Vec::new();
        gather(&object["spec"]["nets"], &mut texts);
        let named: Vec<ipnet::IpNet> = texts
            .iter()
            .filter_map(|text| {
                let host = || text.parse::<IpAddr>().ok().map(Into::into);
                text.parse().ok().or_else(host)
            })
            .collect();
        let key = key(*kind, object);
        let mut world =
            World::new(if key.namespace.is_empty() { "default" } else { &key.namespace });
        world.put(key.clone(), object.clone());
        let rule = json!([{"action": "Allow", "source": {"selector": "!has(projectcalico.org/orchestrator)", "namespaceSelector": "all() || global()"}}]);
        let policy = json!({"spec": {"selector": "all()", "types": ["Ingress"], "ingress": rule}});
        world.put(Key::global(Kind::GlobalNetworkPolicy, "from-sets"), policy);
        let packets = packets(object);
        for index in world.allowed(&packets) {
            checked += 1;
            let source = packets[index].1.source;
            let is_named = named.iter().any(|net| net.contains(&source));
            assert!(is_named, "{id}: {source} is in {named:?}? {object}");
        }
    }
    assert!(checked > 100, "{checked}");
}
