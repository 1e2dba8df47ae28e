//! What becomes of a packet at an endpoint: the walk through tiers, policies, rules and profiles.
//!
//! It reads what the engine says to nodes, not the objects, so that it answers for what is enforced.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    net::IpAddr,
    rc::Rc,
};

use arcstr::ArcStr;
use ipnet::IpNet;
use model::{
    kinds::Direction,
    view::{
        Action, Endpoint, Entry, HostEndpoint, Icmp, IpSetKind, Peer, PolicyId, PortRange,
        Protocol, Rule, Topic,
    },
};

use crate::{Mirror, planted::Planted, rules::protocol_name};

/// One packet that opens a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Where it comes from.
    pub source: IpAddr,
    /// Where it goes.
    pub destination: IpAddr,
    /// TCP, UDP, …
    pub protocol: Protocol,
    /// The port that it comes from, where its protocol has ports.
    pub source_port: u16,
    /// The port that it goes to, where its protocol has ports.
    pub destination_port: u16,
    /// Its type and code, where its protocol is ICMP.
    pub icmp: Option<Icmp>,
}

/// A side of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Where it comes from.
    Source,
    /// Where it goes.
    Destination,
}

impl Side {
    /// As rules spell it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Destination => "destination",
        }
    }
}

/// The first condition of a rule that a packet doesn't meet.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant is named after the condition of the rule")]
pub enum Mismatch {
    IpVersion,
    Protocol,
    NotProtocol,
    Icmp,
    NotIcmp,
    Nets(Side),
    NotNets(Side),
    /// Not in this IP set.
    Set(Side, ArcStr),
    /// In this IP set.
    NotSet(Side, ArcStr),
    Ports(Side),
    NotPorts(Side),
    /// Address and port not in this IP set of a service.
    Service(Side, ArcStr),
}

/// A stage of a packet's way through an interface of a node, each with policies of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Before connection tracking.
    Untracked,
    /// Before destination NAT.
    PreDnat,
    /// At the node itself.
    Normal,
}

/// A step of the walk, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// The policies of a stage begin: of an interface of a node only.
    Stage(Stage),
    /// A tier with a policy for the direction begins.
    Tier(&'a ArcStr),
    /// A policy begins.
    Policy(&'a PolicyId),
    /// A profile begins.
    Profile(&'a ArcStr),
    /// A rule, by its place among the direction's rules; none: the packet meets all its conditions.
    Rule(usize, &'a Rule, Option<Mismatch>),
    /// No rule of the tier decided; true: on to the next tier, else denied.
    EndOfTier(bool),
    /// No tier applies, or all let it pass, and no profile decided: denied.
    End,
}

/// Answers from one state of a [`Mirror`].
pub struct Judge<'m> {
    mirror: &'m Mirror,
    /// IP sets in the form in which they are asked, from when they were first asked.
    sets: RefCell<HashMap<ArcStr, Rc<Members>>>,
}

#[derive(Default)]
struct Members {
    addresses: HashSet<IpAddr>,
    nets: Vec<IpNet>,
    ports: HashSet<(IpAddr, Protocol, u16)>,
}

impl Members {
    fn of(mirror: &Mirror, id: &ArcStr) -> Self {
        let mut members = Self::default();
        for (key, _) in mirror.entries(&Topic::IpSet(id.clone())) {
            if IpSetKind::of(id) == Some(IpSetKind::AddressPort) {
                members.ports.extend(address_port(key));
            } else if let Ok(net) = key.parse::<IpNet>() {
                if net.prefix_len() == net.max_prefix_len() {
                    members.addresses.insert(net.addr());
                } else {
                    members.nets.push(net);
                }
            }
        }
        members
    }

    fn has(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address) || self.nets.iter().any(|net| net.contains(&address))
    }
}

/// Reads a member of an IP set of addresses with ports, as nodes get it: `10.0.0.1,tcp:80`. None: it is none.
pub fn address_port(text: &str) -> Option<(IpAddr, Protocol, u16)> {
    let (address, rest) = text.split_once(',')?;
    let (name, port) = rest.split_once(':')?;
    let protocol = [6, 17, 132].map(Protocol).into_iter().find(|it| protocol_name(*it) == name)?;
    Some((address.parse().ok()?, protocol, port.parse().ok()?))
}

impl<'m> Judge<'m> {
    /// Answers from what is mirrored now.
    pub fn new(mirror: &'m Mirror) -> Self {
        Self { mirror, sets: RefCell::default() }
    }

    /// Whether an endpoint's policy lets a packet through in one direction. `step` sees the walk.
    ///
    /// What is missing from the mirror (a list, a policy, a profile) denies.
    pub fn allows(
        &self,
        endpoint: &Endpoint,
        direction: Direction,
        packet: &Packet,
        step: &mut dyn FnMut(Step<'_>),
    ) -> bool {
        let Endpoint { plist, profiles, .. } = endpoint;
        self.decides((plist.as_ref(), profiles), direction, packet, step)
    }

    /// Whether the policy of an interface of a node lets a packet through that goes to the node itself, or comes from it.
    ///
    /// A stage that allows it is the last that sees it; where none of its rules decides, it goes on to the next.
    pub fn allows_host(
        &self,
        host: &HostEndpoint,
        direction: Direction,
        packet: &Packet,
        step: &mut dyn FnMut(Step<'_>),
    ) -> bool {
        let incoming = host.pre_dnat.as_ref().filter(|_| direction == Direction::Ingress);
        let early = [(Stage::Untracked, host.untracked.as_ref()), (Stage::PreDnat, incoming)];
        for (stage, list) in early {
            let Some(list) = list else { continue };
            step(Step::Stage(stage));
            if let Some(allows) = self.tiers(list, direction, packet, step) {
                return allows;
            }
        }
        step(Step::Stage(Stage::Normal));
        self.decides((host.plist.as_ref(), &host.profiles), direction, packet, step)
    }

    /// The last word: of the tiers of a list, if there is one, then of profiles.
    fn decides(
        &self,
        (list, profiles): (Option<&ArcStr>, &[ArcStr]),
        direction: Direction,
        packet: &Packet,
        step: &mut dyn FnMut(Step<'_>),
    ) -> bool {
        let of_tiers = list.and_then(|list| self.tiers(list, direction, packet, step));
        if let Some(allows) = of_tiers {
            return allows;
        }
        for name in profiles {
            step(Step::Profile(name));
            let profile = self.mirror.entry(&Topic::Profile(name.clone()), "");
            let Some(Entry::Profile(profile)) = profile else {
                return false;
            };
            let rules = match direction {
                Direction::Ingress => &profile.ingress,
                Direction::Egress => &profile.egress,
            };
            match self.first(rules, packet, step) {
                Some(Action::Allow) => return true,
                Some(Action::Deny) => return false,
                Some(Action::Pass) if Planted::ProfilePassDenies.is_here() => return false,
                // A profile has no tier after it: on to the next profile.
                Some(Action::Pass | Action::Log) | None => {}
            }
        }
        step(Step::End);
        false
    }

    /// What the tiers of a list decide; none: all of them pass the packet on.
    fn tiers(
        &self,
        list: &ArcStr,
        direction: Direction,
        packet: &Packet,
        step: &mut dyn FnMut(Step<'_>),
    ) -> Option<bool> {
        let entry = |topic: &Topic| self.mirror.entry(topic, "");
        let Some(Entry::Plist(list)) = entry(&Topic::Plist(list.clone())) else {
            return Some(false);
        };
        'tiers: for tier in &list.tiers {
            let policies = match direction {
                Direction::Ingress => &tier.ingress,
                Direction::Egress => &tier.egress,
            };
            if policies.is_empty() && !Planted::DefaultWithoutPolicy.is_here() {
                continue;
            }
            step(Step::Tier(&tier.name));
            for id in policies {
                step(Step::Policy(id));
                let Some(Entry::Policy(policy)) = entry(&Topic::Policy(id.clone())) else {
                    return Some(false);
                };
                let rules = match direction {
                    Direction::Ingress => &policy.ingress,
                    Direction::Egress => &policy.egress,
                };
                match self.first(rules, packet, step) {
                    Some(Action::Allow) => return Some(true),
                    Some(Action::Deny) => return Some(false),
                    Some(Action::Pass) => continue 'tiers,
                    Some(Action::Log) | None => {}
                }
            }
            step(Step::EndOfTier(tier.default_pass));
            if !tier.default_pass {
                return Some(false);
            }
        }
        None
    }

    /// What the first rule does that matches and decides.
    fn first(
        &self,
        rules: &[Rule],
        packet: &Packet,
        step: &mut dyn FnMut(Step<'_>),
    ) -> Option<Action> {
        for (index, rule) in rules.iter().enumerate() {
            let mismatch = self.mismatch(rule, packet);
            let goes_on = rule.action == Action::Log && !Planted::LogDecides.is_here();
            let decides = mismatch.is_none() && !goes_on;
            step(Step::Rule(index, rule, mismatch));
            if decides {
                return Some(rule.action);
            }
        }
        None
    }

    fn mismatch(&self, rule: &Rule, packet: &Packet) -> Option<Mismatch> {
        let version = if packet.source.is_ipv6() { 6 } else { 4 };
        if rule.ip_version.is_some_and(|wanted| wanted != version) {
            return Some(Mismatch::IpVersion);
        }
        if rule.protocol.is_some_and(|wanted| wanted != packet.protocol) {
            return Some(Mismatch::Protocol);
        }
        if rule.not_protocol == Some(packet.protocol) {
            return Some(Mismatch::NotProtocol);
        }
        let is_icmp = |wanted: Icmp| {
            packet.icmp.is_some_and(|icmp| {
                icmp.kind == wanted.kind && wanted.code.is_none_or(|code| icmp.code == Some(code))
            })
        };
        if rule.icmp.is_some_and(|wanted| !is_icmp(wanted)) {
            return Some(Mismatch::Icmp);
        }
        if rule.not_icmp.is_some_and(is_icmp) {
            return Some(Mismatch::NotIcmp);
        }
        let source = (Side::Source, packet.source, packet.source_port);
        let destination = (Side::Destination, packet.destination, packet.destination_port);
        self.side(&rule.source, source, packet.protocol)
            .or_else(|| self.side(&rule.destination, destination, packet.protocol))
    }

    fn side(
        &self,
        peer: &Peer,
        (side, address, port): (Side, IpAddr, u16),
        protocol: Protocol,
    ) -> Option<Mismatch> {
        let in_one = |nets: &[IpNet]| nets.iter().any(|net| net.contains(&address));
        if !peer.nets.is_empty() && !in_one(&peer.nets) {
            return Some(Mismatch::Nets(side));
        }
        if in_one(&peer.not_nets) {
            return Some(Mismatch::NotNets(side));
        }
        let with_port = |id: &ArcStr| self.members(id).ports.contains(&(address, protocol, port));
        let in_range = |ranges: &[PortRange]| {
            ranges.iter().any(|range| (range.first..=range.last).contains(&port))
        };
        if let Some(id) = peer.sets.iter().find(|id| !self.members(id).has(address)) {
            return Some(Mismatch::Set(side, id.clone()));
        }
        if let Some(id) = peer.not_sets.iter().find(|id| self.members(id).has(address)) {
            return Some(Mismatch::NotSet(side, id.clone()));
        }
        let any_port = peer.ports.is_empty() && peer.port_sets.is_empty();
        if !any_port && !in_range(&peer.ports) && !peer.port_sets.iter().any(with_port) {
            return Some(Mismatch::Ports(side));
        }
        if in_range(&peer.not_ports) || peer.not_port_sets.iter().any(with_port) {
            return Some(Mismatch::NotPorts(side));
        }
        // Sets of services are of addresses where the service is the source, and have ports where
        // it is the destination.
        let in_service = |id: &ArcStr| match IpSetKind::of(id) {
            Some(IpSetKind::Net) => self.members(id).has(address),
            _ => with_port(id),
        };
        let id = peer.service_sets.iter().find(|id| !in_service(id))?;
        Some(Mismatch::Service(side, id.clone()))
    }

    fn members(&self, id: &ArcStr) -> Rc<Members> {
        let mut sets = self.sets.borrow_mut();
        let members = sets.entry(id.clone());
        Rc::clone(members.or_insert_with(|| Rc::new(Members::of(self.mirror, id))))
    }
}
