//! Rules of policies: what a peer, a port and an action of Kubernetes are in Calico's v3 API.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde_json::{Map, Value, json};

use super::{report::Report, selector::Selection};
use crate::kinds::{Direction, PROTOCOLS, parse_net};

/// What happens to a packet that a rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    Allow,
    Deny,
    Pass,
}

impl Action {
    /// What remains of it for a rule that lost a condition, and so matches more than was written.
    ///
    /// An Allow is left out. A Deny stays. A Pass turns into a Deny: left out, it would hand its
    /// packets to the Allows behind it, kept it would lead other packets past the Denies.
    pub(super) fn when(self, is_whole: bool) -> Option<Self> {
        match self {
            _ if is_whole => Some(self),
            Self::Allow => None,
            Self::Deny | Self::Pass => Some(Self::Deny),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Allow => "Allow",
            Self::Deny => "Deny",
            Self::Pass => "Pass",
        }
    }
}

/// Where Kubernetes keeps the rules of a direction, and where in one of them the peers.
pub(super) fn fields(direction: Direction) -> (&'static str, &'static str) {
    match direction {
        Direction::Ingress => ("ingress", "from"),
        Direction::Egress => ("egress", "to"),
    }
}

/// The far side of a connection.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) selector: Selection,
    pub(super) namespace_selector: Selection,
    pub(super) nets: Vec<IpNet>,
    pub(super) not_nets: Vec<IpNet>,
    /// Whether the rest holds all that was written; the selections know it of themselves.
    pub(super) is_whole: bool,
}

impl Peer {
    /// Anyone.
    pub(super) fn any() -> Self {
        Self {
            selector: Selection::none(),
            namespace_selector: Selection::none(),
            nets: Vec::new(),
            not_nets: Vec::new(),
            is_whole: true,
        }
    }

    fn is_whole(&self) -> bool {
        self.is_whole && self.selector.is_whole && self.namespace_selector.is_whole
    }

    fn write(&self, side: &mut Map<String, Value>) {
        let texts = |nets: &[IpNet]| nets.iter().map(ToString::to_string).collect::<Vec<_>>();
        for (field, selection) in
            [("selector", &self.selector), ("namespaceSelector", &self.namespace_selector)]
        {
            if !selection.text.is_empty() {
                side.insert(field.to_owned(), json!(selection.text));
            }
        }
        for (field, nets) in [("nets", &self.nets), ("notNets", &self.not_nets)] {
            if !nets.is_empty() {
                side.insert(field.to_owned(), json!(texts(nets)));
            }
        }
    }
}

/// Reads a CIDR, with its host bits cleared. A bare address is none.
pub(super) fn cidr(text: &str, report: &mut Report) -> Option<IpNet> {
    let net = parse_net(text).filter(|_| text.contains('/')).map(|net| net.trunc());
    if net.is_none() {
        report.fault(text, "must be a CIDR such as 10.0.0.0/8 or fd00::/64");
    }
    net
}

/// A port of a rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Port {
    /// From the first to the last, both included.
    Range(u16, u16),
    /// What the endpoint calls it.
    Named(String),
}

impl Port {
    /// Reads `80`, `80:90` or a name. The error says what would be right.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let number = |text: &str| text.parse::<u16>().map_err(|_| "must be from 0 to 65535");
        if digits(text) {
            return number(text).map(|port| Self::Range(port, port));
        }
        if let Some((first, last)) = text.split_once(':').filter(|(a, b)| digits(a) && digits(b)) {
            return Self::range(number(first)?, number(last)?);
        }
        Self::named(text)
    }

    pub(super) fn range(first: u16, last: u16) -> Result<Self, &'static str> {
        if first > last {
            return Err("must not end before it begins");
        }
        Ok(Self::Range(first, last))
    }

    pub(super) fn named(name: &str) -> Result<Self, &'static str> {
        let fits = (1..=128).contains(&name.len())
            && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
        if fits {
            Ok(Self::Named(name.to_owned()))
        } else {
            Err("must be a number from 0 to 65535, or a name of 1 to 128 letters, digits, _ . -")
        }
    }

    fn to_json(&self) -> Value {
        match self {
            Self::Range(first, last) if first == last => json!(first),
            Self::Range(first, last) => json!(format!("{first}:{last}")),
            Self::Named(name) => json!(name),
        }
    }
}

/// Names first, then the numbers as few sorted ranges. With at most one number, as it was.
fn merged(ports: &[Port]) -> Vec<Port> {
    let mut ranges: Vec<(u16, u16)> = Vec::new();
    let mut names = Vec::new();
    for port in ports {
        match port {
            Port::Range(first, last) => ranges.push((*first, *last)),
            Port::Named(_) => names.push(port.clone()),
        }
    }
    let numbers: usize = ranges.iter().map(|(first, last)| usize::from(last - first) + 1).sum();
    if numbers <= 1 {
        return ports.to_vec();
    }
    ranges.sort_unstable();
    let mut joined: Vec<(u16, u16)> = Vec::with_capacity(ranges.len());
    for (first, last) in ranges {
        match joined.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
            _ => joined.push((first, last)),
        }
    }
    names.extend(joined.into_iter().map(|(first, last)| Port::Range(first, last)));
    names
}

/// Which ports of a protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ports {
    All,
    Some(Vec<Port>),
    /// One that can't be expressed; the rule is without the condition.
    Unknown,
}

/// The ports of a rule by protocol; the protocol `""` is any.
#[derive(Clone, Debug, Default)]
pub(super) struct Protocols(BTreeMap<String, Ports>);

impl Protocols {
    /// Every protocol.
    pub(super) fn any() -> Self {
        Self(BTreeMap::from([(String::new(), Ports::All)]))
    }

    /// Adds ports of a protocol. All of its ports stay all, whatever else is listed.
    pub(super) fn add(&mut self, protocol: String, ports: Ports) {
        let known = self.0.entry(protocol).or_insert_with(|| Ports::Some(Vec::new()));
        match (&mut *known, ports) {
            (Ports::Some(known), Ports::Some(more)) => known.extend(more),
            (Ports::All, Ports::Some(_)) | (Ports::Unknown, Ports::Some(_) | Ports::All) => {}
            (_, ports) => *known = ports,
        }
    }
}

/// Calico's spelling of a protocol, which ignores case.
pub(super) fn protocol_name(text: &str) -> String {
    if let Some(number) = protocol_number(text) {
        return number.to_string();
    }
    let named = PROTOCOLS.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
    named.map_or(text, |(name, _)| name).to_owned()
}

fn protocol_number(text: &str) -> Option<u8> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

/// The rules for every protocol and peer, in the order of the protocols. `is_whole` says whether
/// their policy selects only what was written.
pub(super) fn rules(
    direction: Direction,
    action: Action,
    name: &str,
    (peers, protocols): (&[Peer], &Protocols),
    is_whole: bool,
) -> Vec<Value> {
    let mut rules = Vec::with_capacity(peers.len() * protocols.0.len());
    for (protocol, ports) in &protocols.0 {
        for peer in peers {
            let is_whole = is_whole && peer.is_whole() && *ports != Ports::Unknown;
            if let Some(action) = action.when(is_whole) {
                rules.push(to_json(direction, action, name, peer, (protocol, ports)));
            }
        }
    }
    rules
}

/// A rule for everyone and everything.
pub(super) fn bare(action: Action) -> Value {
    json!({ "action": action.name() })
}

fn to_json(
    direction: Direction,
    action: Action,
    name: &str,
    peer: &Peer,
    (protocol, ports): (&str, &Ports),
) -> Value {
    let mut rule = bare(action);
    let (mut source, mut destination) = (Map::new(), Map::new());
    match direction {
        Direction::Ingress => peer.write(&mut source),
        Direction::Egress => peer.write(&mut destination),
    }
    if let Ports::Some(ports) = ports {
        let ports: Vec<Value> = merged(ports).iter().map(Port::to_json).collect();
        destination.insert("ports".to_owned(), json!(ports));
    }
    if !protocol.is_empty() {
        rule["protocol"] = protocol_number(protocol).map_or_else(|| json!(protocol), Value::from);
    }
    for (field, side) in [("source", source), ("destination", destination)] {
        if !side.is_empty() {
            rule[field] = Value::Object(side);
        }
    }
    if !name.is_empty() {
        rule["metadata"] = json!({ "annotations": { "name": name } });
    }
    rule
}
