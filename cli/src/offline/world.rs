//! A cluster from manifests, as the engine computes it, and its verdicts.

use std::{collections::BTreeMap, fmt, net::IpAddr};

use anyhow::bail;
use engine::{
    Engine, Mirror, Options,
    inspect::InspectedSet,
    verdict::{Judge, Packet, Step},
};
use model::{
    Key, Kind, Stored, StreamIndex, Update,
    kinds::{Direction, EndpointId},
    translate::translate,
    view::{Endpoint, Entry, HostEndpoint, PolicyId, Topic},
};
use serde_json::Value;

use super::{
    objects::{Objects, Placed},
    port::Port,
};
use crate::resource::{kinds::nearest, shape};

/// Where connections come from: what clients are given by the kernel, and no rule names.
const CLIENT_PORT: u16 = 49_152;

/// What interfaces of nodes are called.
const HOST: &str = "HostEndpoint ";

/// A pod with an address, or what stands for an interface of a node.
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
    /// Interfaces of nodes, `HostEndpoint NAME`, with the policies of the node's own packets.
    hosts: BTreeMap<String, Pod>,
    warnings: Vec<String>,
}

impl World {
    /// Computes everything.
    pub(crate) fn new(objects: &Objects) -> Self {
        let complete = objects.complete();
        let mut engine = Engine::new(Options { plist_id: proto::plist_id }).keep_objects();
        let is_slice = |key: &Key| key.kind == Kind::EndpointSlice;
        if complete.iter().any(|object| object.stored.as_ref().is_some_and(is_slice)) {
            engine = engine.with_services();
        }
        let mut world = Self {
            engine,
            mirror: Mirror::default(),
            pods: BTreeMap::new(),
            hosts: BTreeMap::new(),
            warnings: Vec::new(),
        };
        for object in complete {
            world.add(&object);
        }
        world.mirror.follow(world.engine.flush());
        for (key, problem) in world.engine.problems() {
            world.warnings.push(format!("{key}: {problem}"));
        }
        world.find_endpoints();
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
        if let Some(key) = &object.stored {
            self.apply(key.clone(), object.value.clone());
            return;
        }
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

    fn find_endpoints(&mut self) {
        let topics = self.mirror.topics().filter(|topic| matches!(topic, Topic::Node(_)));
        for topic in topics {
            for (key, entry) in self.mirror.entries(topic) {
                if let Entry::HostEndpoint(host) = entry {
                    let name = format!("{HOST}{}", key.rsplit('/').next().unwrap_or_default());
                    self.warnings.extend(unanswered(&name, host));
                    self.hosts.insert(name, Pod { endpoint: of_host(host) });
                    continue;
                }
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
                let addresses = (source.address(ipv6), destination.address(ipv6));
                let connects = match addresses {
                    (Some(from), Some(to)) => {
                        let packet = packet(from, to, port);
                        let allows = |pod: &Pod, direction: Direction| {
                            judge.allows(&pod.endpoint, direction, &packet, &mut |_| {})
                        };
                        allows(source, Direction::Egress) && allows(destination, Direction::Ingress)
                    }
                    // They have no addresses of this family in common.
                    _ => false,
                };
                reach.entry(from.clone()).or_default().insert(to.clone(), connects);
            }
        }
        reach
    }

    /// Who this is: a pod, `namespace/name`, or an address.
    pub(crate) fn peer(&self, text: &str) -> anyhow::Result<Peer<'_>> {
        if let Ok(address) = text.parse::<IpAddr>() {
            let has = |it: &Pod| it.endpoint.addresses.iter().any(|net| net.addr() == address);
            let mut endpoints = self.pods.iter().chain(&self.hosts);
            return Ok(match endpoints.find(|(_, it)| has(it)) {
                Some((name, it)) => Peer::Endpoint(name, it),
                None => Peer::Address(address),
            });
        }
        if let Some((name, pod)) = self.pods.get_key_value(text) {
            return Ok(Peer::Endpoint(name, pod));
        }
        let near = nearest(text, self.pods.keys().map(String::as_str));
        let near = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
        bail!("{text:?} is no pod with an address, and no address{near}")
    }

    /// Whether one end lets a connection through, and how it came to that.
    pub(crate) fn passes(
        &self,
        [from, to]: [&Peer<'_>; 2],
        direction: Direction,
        (port, ipv6): (Port, bool),
        step: &mut dyn FnMut(Step<'_>),
    ) -> bool {
        let end = if direction == Direction::Egress { from } else { to };
        let Peer::Endpoint(_, pod) = end else { return true };
        let (Some(from), Some(to)) = (from.address(ipv6), to.address(ipv6)) else { return false };
        let packet = packet(from, to, port);
        Judge::new(&self.mirror).allows(&pod.endpoint, direction, &packet, step)
    }

    /// What selectors see of an endpoint.
    pub(crate) fn labels(&self, name: &str) -> BTreeMap<String, String> {
        let nodes = self.mirror.topics().filter_map(|topic| match topic {
            Topic::Node(node) => Some(node),
            _ => None,
        });
        let mut endpoints = nodes.flat_map(|node| self.engine.endpoints(node));
        let endpoint = endpoints.find(|endpoint| {
            let Key { kind, namespace, name: of } = &endpoint.key;
            if let Some(host) = name.strip_prefix(HOST) {
                return *kind == Kind::HostEndpoint && of == host;
            }
            EndpointId::parse(of).is_some_and(|id| format!("{namespace}/{}", id.workload) == name)
        });
        let labels = endpoint.map(|endpoint| endpoint.labels).unwrap_or_default();
        labels.into_iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
    }

    /// What a policy selects, in canonical form.
    pub(crate) fn selector(&self, id: &PolicyId) -> String {
        key(id).and_then(|key| self.engine.selector_of(&key)).unwrap_or_default()
    }

    /// The places of a policy's rules among those that were written: those that match nothing at
    /// all are not in what a node gets.
    pub(crate) fn places(&self, id: &PolicyId, direction: Direction) -> Vec<usize> {
        let policy = key(id).and_then(|key| self.engine.policy(&key));
        let Some(policy) = policy else { return Vec::new() };
        let rules = match direction {
            Direction::Ingress => policy.ingress,
            Direction::Egress => policy.egress,
        };
        let kept = rules.iter().enumerate().filter(|(_, rule)| rule.is_some());
        kept.map(|(place, _)| place).collect()
    }

    /// What the id of an IP set in a rule means.
    pub(crate) fn ip_set(&self, id: &str) -> Option<InspectedSet> {
        self.engine.ip_set(id)
    }
}

/// One end of a connection.
pub(crate) enum Peer<'w> {
    /// A pod, or an interface of a node.
    Endpoint(&'w str, &'w Pod),
    /// Something outside.
    Address(IpAddr),
}

impl Peer<'_> {
    fn address(&self, ipv6: bool) -> Option<IpAddr> {
        match self {
            Self::Endpoint(_, pod) => pod.address(ipv6),
            Self::Address(address) => Some(*address).filter(|it| it.is_ipv6() == ipv6),
        }
    }
}

impl fmt::Display for Peer<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoint(name, _) => f.write_str(name),
            Self::Address(address) => address.fmt(f),
        }
    }
}

/// An interface of a node as an endpoint of the packets to and from the node itself.
fn of_host(host: &HostEndpoint) -> Endpoint {
    Endpoint {
        interface: host.interface.clone(),
        addresses: host.addresses.iter().copied().map(Into::into).collect(),
        profiles: host.profiles.clone(),
        plist: host.plist.clone(),
        ..Endpoint::default()
    }
}

/// What verdicts about an interface of a node leave out.
fn unanswered(name: &str, host: &HostEndpoint) -> Option<String> {
    let left_out = host.untracked.is_some() || host.pre_dnat.is_some();
    left_out.then(|| format!("{name}: policies with doNotTrack or preDNAT are not walked"))
}

/// Whether they talk over IPv6.
pub(crate) fn family(from: &Peer<'_>, to: &Peer<'_>) -> anyhow::Result<bool> {
    let both = |ipv6: bool| from.address(ipv6).is_some() && to.address(ipv6).is_some();
    match [false, true].into_iter().find(|ipv6| both(*ipv6)) {
        Some(ipv6) => Ok(ipv6),
        None => bail!("{from} and {to} have no addresses of one family"),
    }
}

/// What a policy was written as.
pub(crate) fn called(id: &PolicyId) -> String {
    match (id.name.strip_prefix(TRANSLATED), id.namespace.as_str()) {
        (None, "") => format!("{} {}", id.kind, id.name),
        (None, namespace) => format!("{} {namespace}/{}", id.kind, id.name),
        (Some(name), "") => format!("ClusterNetworkPolicy {name}"),
        (Some(name), namespace) => format!("NetworkPolicy {namespace}/{name} (Kubernetes)"),
    }
}

/// The object of a policy.
fn key(id: &PolicyId) -> Option<Key> {
    let kind = id.kind.parse::<Kind>().ok()?;
    Some(Key { kind, namespace: id.namespace.clone(), name: id.name.clone() })
}

/// What the names of translated policies begin with, as in Calico.
pub(super) const TRANSLATED: &str = "knp.default.";

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

fn packet(source: IpAddr, destination: IpAddr, port: Port) -> Packet {
    Packet {
        source,
        destination,
        protocol: port.protocol,
        source_port: CLIENT_PORT,
        destination_port: port.number,
        icmp: None,
    }
}
