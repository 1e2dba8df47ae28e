//! From rules as they are written to rules as a node applies them: selectors and named ports become
//! ids of IP sets.
//!
//! It never widens. What a rule can't express, because it can't be read or nothing enforces it, is
//! no reason to let more through: an Allow, Pass or Log matches nothing then, and a Deny goes
//! without that condition, so that it matches more. In lists, that goes entry by entry where an
//! entry less is safe: one net less that is allowed, one exception less from what is denied.

use std::collections::BTreeMap;

use arcstr::ArcStr;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use model::{
    kinds::{self, Conditions, Entries, Invalid, PortMatch, has_ports},
    selector::Selector,
    view::{self, Action, Peer, PortRange, Protocol},
};
use sha2::{Digest, Sha224};

use crate::{
    planted::Planted,
    scope::{self, Texts},
};

/// What defines an IP set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SetSpec {
    /// Whose addresses; with these of their ports, or else the addresses alone.
    Selector { selector: Selector, port: Option<NamedPort> },
    /// The backends of a service.
    Service(ServiceSpec),
}

/// A service, as rules mean it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceSpec {
    /// Empty: of no namespace, where there is no service.
    pub(crate) namespace: ArcStr,
    pub(crate) name: ArcStr,
    /// With their ports: else the addresses alone.
    pub(crate) ports: bool,
}

/// Ports by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NamedPort {
    /// None: of any protocol.
    pub(crate) protocol: Option<Protocol>,
    /// What endpoints call it.
    pub(crate) name: ArcStr,
}

impl SetSpec {
    fn addresses(selector: Selector) -> Self {
        Self::Selector { selector, port: None }
    }

    /// Calico's id: a hash of what defines the set (`felix/labelindex`, `libcalico-go/lib/hash`).
    fn id(&self) -> ArcStr {
        let hashed = |prefix: &str, content: &str| {
            let hash = Sha224::digest(format!("{prefix}:{content}"));
            arcstr::format!("{prefix}:{}", URL_SAFE_NO_PAD.encode(hash))
        };
        match self {
            Self::Selector { selector, port: None } => selector.unique_id().into(),
            Self::Selector { selector, port: Some(port) } => {
                let protocol = port.protocol.map_or("any", protocol_name);
                hashed("n", &format!("{},{protocol},{}", selector.unique_id(), port.name))
            }
            Self::Service(service) => {
                let prefix = if service.ports { "svc" } else { "svcnoport" };
                hashed(prefix, &format!("{}/{}", service.namespace, service.name))
            }
        }
    }
}

/// The id of the set of a service's backends, with their ports or without.
pub(crate) fn service_set((namespace, name): &(ArcStr, ArcStr), ports: bool) -> ArcStr {
    let (namespace, name) = (namespace.clone(), name.clone());
    SetSpec::Service(ServiceSpec { namespace, name, ports }).id()
}

/// TCP, UDP and SCTP by name: only these have named ports.
pub(crate) fn protocol_name(protocol: Protocol) -> &'static str {
    match protocol.0 {
        6 => "tcp",
        17 => "udp",
        _ => "sctp",
    }
}

/// Rules in the form of a node, and what they need.
#[derive(Default)]
pub(crate) struct Translated {
    pub(crate) ingress: Vec<view::Rule>,
    pub(crate) egress: Vec<view::Rule>,
    /// The IP sets that the rules name, each once, sorted by id.
    pub(crate) sets: Vec<(ArcStr, SetSpec)>,
    /// What couldn't be expressed.
    pub(crate) faults: Vec<Invalid>,
}

/// What a rule can mean where it stands.
#[derive(Clone, Copy)]
pub(crate) struct Scope<'n> {
    /// Of the policy; none: a global one, or a profile.
    pub(crate) namespace: Option<&'n str>,
    /// Whether the backends of services are known.
    pub(crate) services: bool,
    /// What is written twice stays so.
    pub(crate) repeats: bool,
}

/// Translates one rule, and adds the sets that it names; none: it matches nothing.
pub(crate) fn one_rule(
    scope: Scope<'_>,
    rule: &kinds::Rule,
    sets: &mut BTreeMap<ArcStr, SetSpec>,
) -> Option<view::Rule> {
    let mut out = Translated::default();
    let mut texts = Texts::default();
    let denies = rule.action == Action::Deny;
    let mut one = One { out: &mut out, texts: &mut texts, scope, denies };
    let translated = one.rule(rule, String::new);
    sets.extend(out.sets);
    translated
}

/// Translates the rules of a policy or a profile.
pub(crate) fn translate(
    scope: Scope<'_>,
    ingress: &[kinds::Rule],
    egress: &[kinds::Rule],
    texts: &mut Texts,
) -> Translated {
    let mut out = Translated::default();
    for (name, rules) in [("ingress", ingress), ("egress", egress)] {
        let mut translated = Vec::with_capacity(rules.len());
        for (index, rule) in rules.iter().enumerate() {
            let field = || format!("spec.{name}[{index}]");
            let denies = rule.action == Action::Deny;
            let mut one = One { out: &mut out, texts, scope, denies };
            translated.extend(one.rule(rule, field));
        }
        match name {
            "ingress" => out.ingress = translated,
            _ => out.egress = translated,
        }
    }
    out.sets.sort_by(|(a, _), (b, _)| a.cmp(b));
    out.sets.dedup_by(|(a, _), (b, _)| a == b);
    out
}

/// The rule matches nothing: it is left out.
struct Nothing;

/// One rule at a time.
struct One<'o, 'n> {
    out: &'o mut Translated,
    texts: &'o mut Texts,
    scope: Scope<'n>,
    denies: bool,
}

impl One<'_, '_> {
    fn rule(&mut self, rule: &kinds::Rule, field: impl Fn() -> String) -> Option<view::Rule> {
        self.out.faults.extend(rule.bad_action.iter().cloned());
        self.out.faults.extend(rule.unknown.iter().cloned());
        let peer = |one: &mut Self, conditions: &Conditions, side: &str| {
            one.peer(rule.protocol, conditions, side, || format!("{}.{side}", field()))
        };
        // Both sides are looked at before the rule is given up, so that all faults are named.
        let source = peer(self, &rule.source, "source");
        let destination = peer(self, &rule.destination, "destination");
        if !rule.unknown.is_empty() && !self.denies && !Planted::UnknownForgotten.is_here() {
            return None;
        }
        let (Ok(source), Ok(destination)) = (source, destination) else { return None };
        // A type of ICMP in another protocol: no packet is like that, or every packet is not.
        let no_icmp = rule.protocol.is_some_and(|protocol| !matches!(protocol.0, 1 | 58));
        if no_icmp && rule.icmp.is_some() {
            return None;
        }
        Some(view::Rule {
            action: rule.action,
            ip_version: rule.ip_version,
            protocol: rule.protocol,
            not_protocol: rule.not_protocol,
            icmp: rule.icmp,
            not_icmp: rule.not_icmp.filter(|_| !no_icmp),
            source: self.keep(source),
            destination: self.keep(destination),
        })
    }

    /// Registers the sets of a side whose rule stays.
    fn keep(&mut self, (peer, sets): (Peer, Vec<(ArcStr, SetSpec)>)) -> Peer {
        self.out.sets.extend(sets);
        peer
    }

    /// A condition that can't be expressed: a Deny goes without it, the others match nothing.
    fn without(&mut self, fault: Invalid) -> Result<(), Nothing> {
        self.out.faults.push(fault);
        if self.denies { Ok(()) } else { Err(Nothing) }
    }

    fn peer(
        &mut self,
        protocol: Option<Protocol>,
        conditions: &Conditions,
        side: &str,
        field: impl Fn() -> String,
    ) -> Result<(Peer, Vec<(ArcStr, SetSpec)>), Nothing> {
        if conditions.is_absent() {
            return Ok((Peer::default(), Vec::new()));
        }
        // Everything is looked at before the rule is given up, so that all faults are named.
        let nets = self.one_of(&conditions.nets);
        let not_nets = self.none_of(&conditions.not_nets);
        let ports = with_protocol(&conditions.ports, protocol, || format!("{}.ports", field()));
        let ports = self.one_of(&ports).map(parts);
        let not_ports =
            with_protocol(&conditions.not_ports, protocol, || format!("{}.notPorts", field()));
        let not_ports = self.none_of(&not_ports).map(parts);
        let service = match &conditions.service {
            None => Ok(None),
            Some(service) if self.scope.services => Ok(Some(self.service(service, side, &field))),
            Some(_) => self
                .without(Invalid {
                    field: format!("{}.services", field()),
                    value: String::new(),
                    reason: "the backends of services are not known here".to_owned(),
                })
                .map(|()| None),
        };
        let scope = scope::peer_of(self.scope.namespace, conditions, &field, self.texts);
        let positive = scope.positive.or_else(|fault| self.without(fault).map(|()| None));
        let negative = scope.negative.or_else(|fault| self.without(fault).map(|()| None));

        let service = service?;
        let (ranges, names) = ports?;
        let (not_ranges, not_names) = not_ports?;
        let mut peer = Peer {
            nets: nets?.to_vec(),
            not_nets: not_nets?.to_vec(),
            ports: ranges,
            not_ports: not_ranges,
            ..Peer::default()
        };
        let (positive, negative) = (positive?, negative?);
        let (positive, negative) = match (positive, negative) {
            (Some(positive), Some(negative)) => (Some(positive.and(negative.not())), None),
            alone => alone,
        };
        let whose = positive.clone();
        let port_set = |name: ArcStr| {
            let port = Some(NamedPort { protocol, name });
            SetSpec::Selector { selector: whose.clone().unwrap_or_else(Selector::all), port }
        };
        let mut sets = Vec::new();
        let repeats = self.scope.repeats;
        let mut add = |list: &mut Vec<ArcStr>, spec: SetSpec| {
            let id = spec.id();
            if repeats || !list.contains(&id) {
                list.reserve_exact(1);
                list.push(id.clone());
                sets.push((id, spec));
            }
        };
        // Where all ports are named, their sets say whose they are.
        let in_port_sets = peer.ports.is_empty() && !names.is_empty();
        for name in names {
            add(&mut peer.port_sets, port_set(name));
        }
        for name in not_names {
            add(&mut peer.not_port_sets, port_set(name));
        }
        if let Some(selector) = positive.filter(|_| !in_port_sets) {
            add(&mut peer.sets, SetSpec::addresses(selector));
        }
        if let Some(selector) = negative {
            add(&mut peer.not_sets, SetSpec::addresses(selector));
        }
        if let Some(service) = service {
            add(&mut peer.service_sets, service);
        }
        Ok((peer, sets))
    }

    /// A service without a namespace is of none, as in Calico, and has no backends. Where packets come
    /// from, its ports say nothing.
    fn service(
        &mut self,
        service: &kinds::ServiceRef,
        side: &str,
        field: &impl Fn() -> String,
    ) -> SetSpec {
        if service.namespace.is_empty() {
            let reason = "must be there: a service of no namespace has no backends";
            self.out.faults.push(Invalid {
                field: format!("{}.services.namespace", field()),
                value: String::new(),
                reason: reason.to_owned(),
            });
        }
        let (namespace, name) = (service.namespace.clone(), service.name.clone());
        let ports = side == "destination" || Planted::ServicePortsAtSource.is_here();
        SetSpec::Service(ServiceSpec { namespace, name, ports })
    }

    /// A condition that holds for one of the entries. Without those that can't be read it holds
    /// less often: fine for what allows, as long as one is left.
    fn one_of<'e, T>(&mut self, entries: &'e Entries<T>) -> Result<&'e [T], Nothing> {
        self.out.faults.extend(entries.bad.iter().cloned());
        match (entries.bad.is_empty(), self.denies, entries.items.is_empty()) {
            (true, _, _) | (false, false, false) => Ok(&entries.items),
            (false, false, true) if Planted::BadNetsForgotten.is_here() => Ok(&[]),
            (false, false, true) => Err(Nothing),
            (false, true, _) => Ok(&[]),
        }
    }

    /// A condition that holds for none of the entries. Without those that can't be read it holds
    /// more often: fine for what denies.
    fn none_of<'e, T>(&mut self, entries: &'e Entries<T>) -> Result<&'e [T], Nothing> {
        self.out.faults.extend(entries.bad.iter().cloned());
        if entries.bad.is_empty() || self.denies { Ok(&entries.items) } else { Err(Nothing) }
    }
}

/// Ports, of which those that the protocol doesn't have count as unreadable.
fn with_protocol(
    entries: &Entries<PortMatch>,
    protocol: Option<Protocol>,
    field: impl Fn() -> String,
) -> Entries<PortMatch> {
    let fits = |port: &PortMatch| match (protocol, port) {
        (Some(protocol), _) => has_ports(protocol),
        // A port's name brings its protocol along.
        (None, PortMatch::Named(_)) => true,
        (None, PortMatch::Range(_)) => false,
    };
    let mut split = Entries { items: Vec::new(), bad: entries.bad.clone() };
    for port in &entries.items {
        if fits(port) {
            split.items.push(port.clone());
        } else {
            split.bad.push(Invalid {
                field: field(),
                value: match port {
                    PortMatch::Named(name) => format!("{name:?}"),
                    PortMatch::Range(PortRange { first, last }) if first == last => {
                        first.to_string()
                    }
                    PortMatch::Range(PortRange { first, last }) => format!("{first}:{last}"),
                },
                reason: "needs a protocol with ports: TCP, UDP or SCTP".to_owned(),
            });
        }
    }
    split
}

fn parts(ports: &[PortMatch]) -> (Vec<PortRange>, Vec<ArcStr>) {
    let is_range = |port: &&PortMatch| matches!(port, PortMatch::Range(_));
    let mut ranges = Vec::with_capacity(ports.iter().filter(is_range).count());
    let mut names = Vec::new();
    for port in ports {
        match port {
            PortMatch::Range(range) => ranges.push(*range),
            PortMatch::Named(name) => names.push(name.clone()),
        }
    }
    (ranges, names)
}
