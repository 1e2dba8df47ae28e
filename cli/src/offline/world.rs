//! A cluster from manifests, as the engine computes it, and its verdicts.

use std::{collections::BTreeMap, net::IpAddr};

use engine::{
    Engine, Mirror, Options,
    verdict::{Judge, Packet, Step},
};
use model::{
    Key, Kind, Stored, StreamIndex, Update,
    kinds::Direction,
    translate::translate,
    view::{Endpoint, Entry, Topic},
};
use serde_json::Value;

use super::{
    objects::{Objects, Placed},
    port::Port,
};
use crate::resource::shape;

/// Where connections come from: what clients are given by the kernel, and no rule names.
const CLIENT_PORT: u16 = 49_152;

/// A pod with an address.
pub(crate) struct Pod {
    pub(crate) endpoint: Endpoint,
}

impl Pod {
    fn address(&self, ipv6: bool) -> Option<IpAddr> {
        let mut addresses = self.endpoint.addresses.iter().map(ipnet::IpNet::addr);
        addresses.find(|address| address.is_ipv6() == ipv6)
    }
}

/// All that follows from some objects.
pub(crate) struct World {
    engine: Engine,
    mirror: Mirror,
    pods: BTreeMap<String, Pod>,
    warnings: Vec<String>,
}

impl World {
    /// Computes everything.
    pub(crate) fn new(objects: &Objects) -> Self {
        let mut world = Self {
            engine: Engine::new(Options { plist_id: proto::plist_id }),
            mirror: Mirror::default(),
            pods: BTreeMap::new(),
            warnings: Vec::new(),
        };
        for object in objects.complete() {
            world.add(&object);
        }
        world.mirror.follow(world.engine.flush());
        for (key, problem) in world.engine.problems() {
            world.warnings.push(format!("{key}: {problem}"));
        }
        world.find_pods();
        let ignored = objects.ignored().iter().map(|(kind, count)| format!("{count} {kind}"));
        let ignored = ignored.collect::<Vec<_>>();
        if !ignored.is_empty() {
            world.warnings.push(format!("ignored: {}", ignored.join(", ")));
        }
        world
    }

    /// What isn't as its author meant it, a line each.
    pub(crate) fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Pods by `namespace/name`.
    pub(crate) fn pods(&self) -> &BTreeMap<String, Pod> {
        &self.pods
    }

    fn warn(&mut self, object: &Placed, text: &str) {
        let origin = if object.origin.is_empty() { "" } else { ": " };
        self.warnings.push(format!("{}{origin}{text}", object.origin));
    }

    fn add(&mut self, object: &Placed) {
        if object.calico {
            match calico(&object.value) {
                Ok((key, value)) => self.apply(key, value),
                Err(fault) => self.warn(object, &format!("left out: {fault}")),
            }
            return;
        }
        let is_pod = object.value["kind"] == "Pod";
        if is_pod && object.value["spec"]["hostNetwork"] == true {
            self.warn(object, "a pod of the host's network has no policy: left out");
            return;
        }
        let translation = translate(&object.value);
        for fault in &translation.faults {
            self.warn(object, &format!("{}: {fault}", translation.subject));
        }
        for value in translation.objects {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let Ok(kind) = text(&value["kind"]).parse::<Kind>() else { continue };
            let mut name = text(&value["metadata"]["name"]);
            // Apart from Calico's own policies of the same name.
            if kind == Kind::NetworkPolicy || kind == Kind::GlobalNetworkPolicy {
                name = format!("{TRANSLATED}{name}");
            }
            let namespace = text(&value["metadata"]["namespace"]);
            self.apply(Key::namespaced(kind, namespace, name), value);
        }
    }

    fn apply(&mut self, key: Key, value: Value) {
        let value = Some(Stored::Json(value));
        self.engine.apply(&Update { stream: StreamIndex(0), key, value, version: 0 });
    }

    fn find_pods(&mut self) {
        let topics = self.mirror.topics().filter(|topic| matches!(topic, Topic::Node(_)));
        for topic in topics {
            for (key, entry) in self.mirror.entries(topic) {
                let Entry::Endpoint(endpoint) = entry else { continue };
                let mut parts = key.split('/').skip(2);
                let (Some(namespace), Some(name)) = (parts.next(), parts.next()) else { continue };
                let path = format!("{namespace}/{name}");
                if endpoint.addresses.is_empty() {
                    let text = "has no address (status.podIPs): left out";
                    self.warnings.push(format!("pod {path} {text}"));
                } else {
                    self.pods.insert(path, Pod { endpoint: endpoint.clone() });
                }
            }
        }
        self.warnings.sort_unstable();
    }

    /// Whether connections from one pod to a port of another are let through, for each pair.
    pub(crate) fn reach(&self, port: Port, ipv6: bool) -> BTreeMap<String, BTreeMap<String, bool>> {
        let judge = Judge::new(&self.mirror);
        let mut reach = BTreeMap::<_, BTreeMap<_, _>>::new();
        for (from, source) in &self.pods {
            for (to, destination) in self.pods.iter().filter(|(to, _)| *to != from) {
                let packet = packet(source, destination, port, ipv6);
                let connects = packet.is_some_and(|packet| {
                    connects(&judge, source, destination, &packet, &mut |_, _| {})
                });
                reach.entry(from.clone()).or_default().insert(to.clone(), connects);
            }
        }
        reach
    }
}

/// What the names of translated policies begin with, as in Calico.
const TRANSLATED: &str = "knp.default.";

/// A resource of Calico as a write of it would store it.
fn calico(value: &Value) -> Result<(Key, Value), String> {
    let joined = |faults: &[shape::Fault]| {
        faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    };
    let mut written = shape::read(value, false).map_err(|faulty| joined(&faulty.faults))?;
    written.place(None).map_err(|fault| fault.to_string())?;
    let key = written.key().map_err(|fault| fault.to_string())?;
    let verdict = written.judge(None);
    let errors = || verdict.errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    let object = verdict.defaulted.clone().ok_or_else(errors)?;
    Ok((key, object))
}

/// None: they have no address of this family in common.
fn packet(source: &Pod, destination: &Pod, port: Port, ipv6: bool) -> Option<Packet> {
    Some(Packet {
        source: source.address(ipv6)?,
        destination: destination.address(ipv6)?,
        protocol: port.protocol,
        source_port: CLIENT_PORT,
        destination_port: port.number,
        icmp: None,
    })
}

/// Both ends must let it through. `step` sees the walk.
fn connects(
    judge: &Judge<'_>,
    source: &Pod,
    destination: &Pod,
    packet: &Packet,
    step: &mut dyn FnMut(Direction, Step<'_>),
) -> bool {
    let leaves = judge
        .allows(&source.endpoint, Direction::Egress, packet, &mut |it| step(Direction::Egress, it));
    let enters = judge.allows(&destination.endpoint, Direction::Ingress, packet, &mut |it| {
        step(Direction::Ingress, it);
    });
    leaves && enters
}
