//! A cluster from manifests, as the engine computes it, and its verdicts.

use std::{collections::BTreeMap, net::IpAddr};

use anyhow::bail;
use engine::{
    Engine, Mirror, Options,
    inspect::{InspectedPolicy, InspectedSet},
    verdict::{Judge, Step, address_port},
};
use model::{
    Key, Kind, Stored, StreamIndex, Update,
    kinds::{Direction, EndpointId, FailsafePort},
    translate::{self, translate},
    view::{Action, Entry, HostEndpoint, PolicyId, Topic},
};
use serde_json::Value;

use super::{
    alike::Traits,
    failsafe::Failsafe,
    objects::{Objects, Placed, named},
    peer::{Peer, Pod, Policed, packet, policed},
    port::{Port, Told},
    service::Services,
};
use crate::resource::{builtin, kinds::nearest, shape, stored, write};

/// What interfaces of nodes are called.
pub(crate) const HOST: &str = "HostEndpoint ";

/// So many pods are named in one warning.
const NAMED: usize = 10;

/// Why nothing can be said about a pod.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Absent {
    NoAddress,
    OfHost,
    /// Its address may be another pod's by now.
    Ended,
}

impl Absent {
    fn of_one(self) -> &'static str {
        match self {
            Self::NoAddress => "has no address (status.podIPs)",
            Self::OfHost => {
                "is of its node's network, and has no policy of its own: ask for the node's address"
            }
            Self::Ended => "has ended (status.phase), and its address may be another pod's",
        }
    }

    fn of_several(self) -> &'static str {
        match self {
            Self::NoAddress => "without an address (status.podIPs)",
            Self::OfHost => "of their node's network, where pods have no policy of their own",
            Self::Ended => "ended (status.phase)",
        }
    }
}

/// All that follows from some objects.
pub(crate) struct World {
    engine: Engine,
    mirror: Mirror,
    pods: BTreeMap<String, Pod>,
    /// Interfaces of nodes, `HostEndpoint NAME`, with the policies of the node's own packets.
    hosts: BTreeMap<String, Pod>,
    failsafe: Failsafe,
    services: Services,
    /// Pods about which nothing can be said, and why.
    absent: BTreeMap<String, Absent>,
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
            failsafe: Failsafe::default(),
            services: Services::default(),
            absent: BTreeMap::new(),
            warnings: objects.doubled().to_vec(),
        };
        for object in complete {
            world.add(&object, objects);
        }
        world.mirror.follow(world.engine.flush());
        for (key, problem) in world.engine.problems() {
            world.warnings.push(format!("{key}: {problem}"));
        }
        let (failsafe, faults) = Failsafe::of(&world.engine);
        world.failsafe = failsafe;
        world.warnings.extend(faults);
        world.find_endpoints();
        world.warnings.extend(objects.ignored());
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

    fn add(&mut self, object: &Placed, all: &Objects) {
        let known = match &object.stored {
            Some(key) => Some(Ok((key.clone(), object.value.clone()))),
            None => object.calico.then(|| calico(&object.value)),
        };
        match known {
            Some(Ok((key, value))) => {
                if let Some(fault) = without_tier(&key, &value, all) {
                    let so = "until then it denies all in its directions";
                    self.warn(object, &format!("{}: {fault}; {so}", title(&object.value)));
                }
                self.apply(key, value);
                return;
            }
            Some(Err(fault)) => {
                self.warn(object, &format!("{}: left out: {fault}", title(&object.value)));
                return;
            }
            None => {}
        }
        if object.value["kind"] == "Service" {
            self.services.add(&object.value);
            return;
        }
        if object.value["kind"] == "Pod" {
            if has_ended(&object.value) {
                self.absent.insert(named(&object.value), Absent::Ended);
                return;
            }
            self.services.add(&object.value);
            if object.value["spec"]["hostNetwork"] == true {
                self.absent.insert(named(&object.value), Absent::OfHost);
                return;
            }
        }
        let translation = translate(&object.value);
        for fault in translation.faults.iter().chain(&translation.ignored(&object.value)) {
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
        for topic in self.mirror.topics() {
            let Topic::Node(node) = topic else { continue };
            for (key, entry) in self.mirror.entries(topic) {
                let (id, node) = (key.split_once('/').map_or("", |(_, id)| id), node.clone());
                if let Entry::HostEndpoint(host) = entry {
                    let name = format!("{HOST}{id}");
                    self.warnings.extend(unanswered(&name, host));
                    let (policed, id) = (Policed::Host(host.clone()), id.to_owned());
                    let addresses = host.addresses.clone();
                    self.hosts.insert(name, Pod { policed, addresses, node, id });
                    continue;
                }
                let Entry::Endpoint(endpoint) = entry else { continue };
                let parts = id.split('/').collect::<Vec<_>>();
                let [orchestrator, namespace, name, link, ..] = parts[..] else { continue };
                let id = [orchestrator, namespace, name, link].join("/");
                let mut path = format!("{namespace}/{name}");
                if endpoint.addresses.is_empty() {
                    self.absent.insert(path, Absent::NoAddress);
                    continue;
                }
                // A pod may have several links, and a name that was taken before may still be on another node.
                for more in [format!("/{link}"), format!("@{node}")] {
                    if self.pods.contains_key(&path) {
                        path.push_str(&more);
                    }
                }
                let addresses = endpoint.addresses.iter().map(ipnet::IpNet::addr).collect();
                let policed = Policed::Workload(endpoint.clone());
                self.pods.insert(path, Pod { policed, addresses, node, id });
            }
        }
        for why in [Absent::Ended, Absent::NoAddress, Absent::OfHost] {
            let pods = self.absent.iter().filter(|(_, it)| **it == why);
            let pods = pods.map(|(name, _)| name.as_str()).collect::<Vec<_>>();
            if !pods.is_empty() {
                self.warnings.push(format!("left out: pods {}: {}", why.of_several(), some(&pods)));
            }
        }
        self.warnings.sort_unstable();
    }

    /// Whether a pod or an interface of a node has an address of this version of IP.
    pub(crate) fn has(&self, ipv6: bool) -> bool {
        self.pods.values().chain(self.hosts.values()).any(|it| it.address(ipv6).is_some())
    }

    /// The pods, and these addresses outside.
    pub(crate) fn ends(&self, outside: &[IpAddr]) -> Vec<Peer<'_>> {
        let pods = self.pods.iter().map(|(name, pod)| Peer::Endpoint(name, pod, None));
        pods.chain(outside.iter().map(|it| Peer::Address(*it))).collect()
    }

    /// The interfaces of nodes that have an address.
    pub(crate) fn host_ends(&self) -> impl Iterator<Item = Peer<'_>> {
        let known = self.hosts.iter().filter(|(_, host)| !host.addresses.is_empty());
        known.map(|(name, host)| Peer::Endpoint(name, host, None))
    }

    /// Says at which interfaces of nodes nothing can be tried.
    pub(crate) fn warn_of_hosts(&self) {
        for (name, _) in self.hosts.iter().filter(|(_, host)| host.addresses.is_empty()) {
            eprintln!("warning: {name}: no expectedIPs, so nothing is tried at it");
        }
    }

    /// Whether what is tried is let through, for each pair of these ends of which one is an endpoint at least. Addresses of
    /// the other version of IP take no part, nor do interfaces of nodes that have none of this.
    pub(crate) fn reach(
        &self,
        port: Port,
        ipv6: bool,
        ends: &[Peer<'_>],
    ) -> BTreeMap<String, BTreeMap<String, bool>> {
        let judge = self.judge();
        let takes_part = |it: &&Peer<'_>| match it {
            Peer::Endpoint(_, Pod { policed: Policed::Workload(_), .. }, _) => true,
            _ => it.address(ipv6).is_some(),
        };
        let ends = ends.iter().filter(takes_part).collect::<Vec<_>>();
        let mut reach = BTreeMap::<_, BTreeMap<_, _>>::new();
        for (at, from) in ends.iter().enumerate() {
            for (_, to) in ends.iter().enumerate().filter(|(of, _)| *of != at) {
                if let (Peer::Address(_), Peer::Address(_)) = (from, to) {
                    continue;
                }
                let connects = self.connects(&judge, [from, to], (port, ipv6));
                reach
                    .entry(from.to_string())
                    .or_insert_with(BTreeMap::new)
                    .insert(to.to_string(), connects);
            }
        }
        reach
    }

    /// Whose address this is.
    pub(crate) fn owner(&self, address: IpAddr) -> Option<&str> {
        self.owners(address).next().map(|(name, _)| name.as_str())
    }

    /// What to ask in place of the service that has an address.
    pub(crate) fn instead_of_service(&self, address: IpAddr) -> Option<String> {
        self.services.instead_of_address(address)
    }

    /// The endpoints that have an address.
    fn owners(&self, address: IpAddr) -> impl Iterator<Item = (&String, &Pod)> {
        self.pods.iter().chain(&self.hosts).filter(move |(_, it)| it.addresses.contains(&address))
    }

    /// Says on whom nothing can be tried, whatever policies say: pods that have no address of a family. `tried`: what is
    /// tried, and whether it is over IPv6.
    pub(crate) fn warn_of_untried(&self, tried: &[(Port, bool)]) {
        if self.pods.is_empty() {
            eprintln!("warning: there is no pod with an address, so nothing is tried");
        }
        for ipv6 in [false, true] {
            let mut over = tried.iter().filter(|(_, over)| *over == ipv6).peekable();
            // Over both versions each pod takes part, unless nobody has one of them.
            let is_only = tried.iter().all(|(_, over)| *over == ipv6);
            if over.peek().is_some() && (is_only || !self.has(ipv6)) {
                self.warn_of_lacking(ipv6, over.all(|(port, _)| port.ipv6().is_some()));
            }
        }
    }

    /// `icmp`: nothing else is tried.
    fn warn_of_lacking(&self, ipv6: bool, icmp: bool) {
        let without = self.pods.iter().filter(|(_, pod)| pod.address(ipv6).is_none());
        let names = without.map(|(name, _)| name.as_str()).collect::<Vec<_>>();
        let (family, way) = match (ipv6, icmp) {
            (false, false) => ("IPv4", "--ipv6"),
            (false, true) => ("IPv4", "/icmpv6"),
            (true, false) => ("IPv6", "without --ipv6"),
            (true, true) => ("IPv6", "/icmp"),
        };
        if !names.is_empty() {
            let some = some(&names);
            eprintln!(
                "warning: no pair connects without {family}, which these lack: {some}; try {way}"
            );
        }
    }

    /// Who this is: an address, or a pod, `namespace/name` or just a name in this namespace. Interfaces of nodes are
    /// known by their addresses and as `HostEndpoint NAME`.
    pub(crate) fn peer(&self, text: &str, namespace: &str) -> anyhow::Result<Peer<'_>> {
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = bare.parse::<IpAddr>() {
            let mut endpoints = self.owners(address);
            return match (endpoints.next(), endpoints.next()) {
                (None, _) => match self.services.instead_of_address(address) {
                    Some(instead) => bail!(instead),
                    None => Ok(Peer::Address(address)),
                },
                (Some((name, it)), None) => Ok(Peer::Endpoint(name, it, Some(address))),
                (Some((one, _)), Some((other, _))) => {
                    bail!("{address} is an address of {one} and of {other}: say which one")
                }
            };
        }
        let is_whole = text.contains('/') || text.starts_with(HOST);
        let path = if is_whole { text.to_owned() } else { format!("{namespace}/{text}") };
        let known = self.pods.get_key_value(&path).or_else(|| self.hosts.get_key_value(&path));
        if let Some((name, pod)) = known {
            return Ok(Peer::Endpoint(name, pod, None));
        }
        if let Some(why) = self.absent.get(&path) {
            bail!("pod {path} {}", why.of_one());
        }
        if let Some(instead) = self.services.instead_of_name(&path) {
            bail!(instead);
        }
        let near = nearest(&path, self.pods.keys().chain(self.hosts.keys()).map(String::as_str));
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
        self.judged(&self.judge(), [from, to], direction, (port, ipv6), step)
    }

    /// Answers from what is known here.
    pub(crate) fn judge(&self) -> Judge<'_> {
        Judge::new(&self.mirror)
    }

    /// Whether both ends let a connection through.
    pub(crate) fn connects(
        &self,
        judge: &Judge<'_>,
        ends: [&Peer<'_>; 2],
        tried: (Port, bool),
    ) -> bool {
        let mut both = [Direction::Egress, Direction::Ingress].into_iter();
        both.all(|direction| self.judged(judge, ends, direction, tried, &mut |_| {}))
    }

    fn judged(
        &self,
        judge: &Judge<'_>,
        ends: [&Peer<'_>; 2],
        direction: Direction,
        tried: (Port, bool),
        step: &mut dyn FnMut(Step<'_>),
    ) -> bool {
        // Without addresses of one family they never meet.
        let Some(packet) = packet(ends, tried) else { return false };
        let Some(end) = policed(ends, direction) else { return true };
        match &end.policed {
            Policed::Workload(endpoint) => judge.allows(endpoint, direction, &packet, step),
            Policed::Host(host) => {
                self.failsafe.opens(&end.node, direction, &packet).is_some()
                    || judge.allows_host(host, direction, &packet, step)
            }
        }
    }

    /// The failsafe port of a node that lets a connection through at one end, whatever policies say.
    pub(crate) fn opens_anyway(
        &self,
        ends: [&Peer<'_>; 2],
        direction: Direction,
        tried: (Port, bool),
    ) -> Option<&FailsafePort> {
        let host = policed(ends, direction)?;
        let packet = packet(ends, tried).filter(|_| matches!(host.policed, Policed::Host(_)))?;
        self.failsafe.opens(&host.node, direction, &packet)
    }

    /// What selectors see of an endpoint.
    pub(crate) fn labels(&self, name: &str) -> BTreeMap<String, String> {
        let Some(pod) = self.pods.get(name).or_else(|| self.hosts.get(name)) else {
            return BTreeMap::new();
        };
        let mut endpoints = self.engine.endpoints(&pod.node).into_iter();
        let endpoint = endpoints.find(|endpoint| {
            let Key { kind, namespace, name: of } = &endpoint.key;
            if *kind == Kind::HostEndpoint {
                return name.starts_with(HOST) && of == &pod.id;
            }
            EndpointId::parse(of).is_some_and(|it| {
                let EndpointId { orchestrator, workload, endpoint, .. } = it;
                format!("{orchestrator}/{namespace}/{workload}/{endpoint}") == pod.id
            })
        });
        let labels = endpoint.map(|endpoint| endpoint.labels).unwrap_or_default();
        labels.into_iter().map(|(key, value)| (key.to_string(), value.to_string())).collect()
    }

    /// What a policy selects, in canonical form.
    pub(crate) fn selector(&self, id: &PolicyId) -> String {
        key(id).and_then(|key| self.engine.selector_of(&key)).unwrap_or_default()
    }

    /// The rules of a policy as they were written: what each does, and whether it is in what a node gets. Those that
    /// match nothing at all are not.
    pub(crate) fn rules(&self, id: &PolicyId, direction: Direction) -> Vec<(Action, bool)> {
        let policy = key(id).and_then(|key| self.engine.policy(&key));
        let Some(InspectedPolicy { policy, ingress, egress, .. }) = policy else {
            return Vec::new();
        };
        let (written, kept) = match direction {
            Direction::Ingress => (policy.ingress, ingress),
            Direction::Egress => (policy.egress, egress),
        };
        written.iter().zip(kept).map(|(rule, kept)| (rule.action, kept.is_some())).collect()
    }

    /// Whether there is a profile of this name.
    pub(crate) fn has_profile(&self, name: &str) -> bool {
        name == builtin::DEFAULT_ALLOW
            || self.engine.read(&Key::global(Kind::Profile, name)).is_some()
    }

    /// Adds what its rules, and the failsafe ports of its nodes, tell apart over a version of IP.
    pub(crate) fn tell(&self, ipv6: bool, told: &mut Told) {
        for topic in self.mirror.topics() {
            for (key, entry) in self.mirror.entries(topic) {
                if let Topic::IpSet(_) = topic {
                    // Of a named port or a service.
                    let port = address_port(key).map(|(_, protocol, port)| (protocol, port));
                    told.protocols.extend(port.map(|(protocol, _)| protocol));
                    told.ports.extend(port.map(|(protocol, port)| (protocol, port..=port)));
                }
                let rules = match entry {
                    Entry::Policy(it) => it.ingress.iter().chain(&it.egress),
                    Entry::Profile(it) => it.ingress.iter().chain(&it.egress),
                    _ => continue,
                };
                let version = if ipv6 { 6 } else { 4 };
                for rule in rules.filter(|it| it.ip_version.is_none_or(|it| it == version)) {
                    told.add(rule, ipv6);
                }
            }
        }
        for it in self.failsafe.ports(self.hosts.values().map(|host| host.node.as_str())) {
            told.protocols.insert(it.protocol);
            told.ports.push((it.protocol, it.port..=it.port));
        }
    }

    /// What rules and failsafe ports tell of addresses.
    pub(crate) fn traits(&self) -> Traits {
        let nodes = self.hosts.values().map(|host| host.node.as_str());
        Traits::of(&self.mirror, self.failsafe.ports(nodes).filter_map(|it| it.net))
    }

    /// What the id of an IP set in a rule means.
    pub(crate) fn ip_set(&self, id: &str) -> Option<InspectedSet> {
        self.engine.ip_set(id)
    }
}

/// What verdicts leave out of an interface of a node.
fn unanswered(name: &str, host: &HostEndpoint) -> Option<String> {
    let way = "not walked: policies with applyOnForward for what the node forwards";
    host.forward.is_some().then(|| format!("{name}: {way}"))
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

/// Why these objects would not be written into a cluster of `all` objects, a line each.
pub(crate) fn refused(new: &Objects, all: &Objects) -> Vec<String> {
    let faults = |it: &Placed| match calico(&it.value) {
        _ if !it.calico => translate::refused(&it.value).iter().map(ToString::to_string).collect(),
        Ok((key, value)) => without_tier(&key, &value, all).into_iter().collect(),
        Err(fault) => vec![fault],
    };
    let told = |it: &Placed| {
        let (origin, title, faults) = (it.origin.clone(), title(&it.value), faults(it));
        faults.into_iter().map(move |fault| format!("{origin}: {title}: {fault}"))
    };
    new.written().flat_map(told).collect()
}

/// The first of these names, and how many more there are.
fn some(names: &[&str]) -> String {
    let first = names[..names.len().min(NAMED)].join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => first,
        more => format!("{first} and {more} more"),
    }
}

/// Whether all containers of a pod have come to their end, for good.
fn has_ended(pod: &Value) -> bool {
    ["Succeeded", "Failed"].iter().any(|phase| pod["status"]["phase"] == *phase)
}

/// What is wrong with a policy whose tier isn't there.
fn without_tier(key: &Key, value: &Value, all: &Objects) -> Option<String> {
    let tier = value["spec"]["tier"].as_str().filter(|tier| !tier.is_empty())?;
    let is_missing = stored::is_policy(key.kind) && !all.has_tier(tier);
    is_missing.then(|| format!("spec.tier: {}", write::not_there(&Key::global(Kind::Tier, tier))))
}

/// How messages name an object.
fn title(value: &Value) -> String {
    format!("{} {}", value["kind"].as_str().unwrap_or_default(), named(value))
}

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
