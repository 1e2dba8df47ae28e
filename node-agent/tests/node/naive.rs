//! What a view means for a packet, straight from its entries: tiers, policies, rules, sets.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;
use model::view::{Action, Endpoint, Peer, Policy, PolicyId, PolicyTier, ProfileRules, Rule};

use crate::interpret::{Packet, State};

/// A view as plain maps.
#[derive(Clone, Debug, Default)]
pub(crate) struct World {
    pub(crate) endpoints: BTreeMap<String, Endpoint>,
    pub(crate) plists: BTreeMap<String, Vec<PolicyTier>>,
    pub(crate) policies: BTreeMap<PolicyId, Policy>,
    pub(crate) profiles: BTreeMap<String, ProfileRules>,
    pub(crate) sets: BTreeMap<String, BTreeSet<String>>,
}

impl World {
    /// Whether a packet that is forwarded by the node may pass.
    pub(crate) fn lets_through(&self, packet: &Packet) -> bool {
        let leaves = !packet.iif.starts_with("cali") || self.judges(&packet.iif, packet, false);
        let enters = !packet.oif.starts_with("cali") || self.judges(&packet.oif, packet, true);
        leaves && enters
    }

    /// What the endpoint on an interface says to a packet to (`ingress`) or from it.
    fn judges(&self, interface: &str, packet: &Packet, ingress: bool) -> bool {
        let mut owners: Vec<_> =
            self.endpoints.iter().filter(|(_, e)| e.interface == interface).collect();
        owners.sort_by_key(|(key, e)| (!e.addresses.is_empty(), (*key).clone()));
        let Some((_, endpoint)) = owners.pop() else { return false };
        match packet.state {
            State::Established => return true,
            State::Invalid => return false,
            State::New => {}
        }
        if !ingress && (packet.protocol == 4 || (packet.protocol == 17 && packet.words.1 == 4789)) {
            return false;
        }
        let none = Vec::new();
        let tiers = match &endpoint.plist {
            None => &none,
            Some(id) => match self.plists.get(id.as_str()) {
                None => return false,
                Some(tiers) => tiers,
            },
        };
        for tier in tiers {
            let policies = if ingress { &tier.ingress } else { &tier.egress };
            if policies.is_empty() {
                continue;
            }
            let decision = policies.iter().find_map(|id| match self.policies.get(id) {
                None => Some(Action::Deny),
                Some(p) => self.first(if ingress { &p.ingress } else { &p.egress }, packet),
            });
            match decision {
                Some(Action::Allow) => return true,
                Some(Action::Deny) => return false,
                Some(_) => {}
                None if tier.default_pass => {}
                None => return false,
            }
        }
        for name in &endpoint.profiles {
            let Some(profile) = self.profiles.get(name.as_str()) else { return false };
            match self.first(if ingress { &profile.ingress } else { &profile.egress }, packet) {
                Some(Action::Allow) => return true,
                Some(Action::Deny) => return false,
                _ => {}
            }
        }
        false
    }

    /// The action of the first rule that decides.
    fn first(&self, rules: &[Rule], packet: &Packet) -> Option<Action> {
        rules
            .iter()
            .filter(|rule| rule.action != Action::Log)
            .find(|rule| self.matches(rule, packet))
            .map(|rule| rule.action)
    }

    fn matches(&self, rule: &Rule, packet: &Packet) -> bool {
        // An unknown condition holds for a deny, and for nothing else.
        let unknown = rule.action == Action::Deny;
        let version = if packet.from.is_ipv4() { 4 } else { 6 };
        let icmp_is = |icmp: &model::view::Icmp| {
            packet.protocol == if version == 4 { 1 } else { 58 }
                && packet.words.0 == u16::from(icmp.kind)
                && icmp.code.is_none_or(|code| packet.words.1 == u16::from(code))
        };
        rule.ip_version.is_none_or(|wanted| wanted == version)
            && rule.protocol.is_none_or(|wanted| wanted.0 == packet.protocol)
            && rule.not_protocol.is_none_or(|other| other.0 != packet.protocol)
            && rule.icmp.as_ref().is_none_or(icmp_is)
            && !rule.not_icmp.as_ref().is_some_and(icmp_is)
            && self.is_at(&rule.source, packet.from, packet.protocol, packet.words.0, unknown)
            && self.is_at(&rule.destination, packet.to, packet.protocol, packet.words.1, unknown)
    }

    fn is_at(&self, peer: &Peer, address: IpAddr, protocol: u8, port: u16, unknown: bool) -> bool {
        let contains = |id: &str| {
            self.sets
                .get(id)
                .into_iter()
                .flatten()
                .any(|member| member.parse::<IpNet>().is_ok_and(|net| net.contains(&address)))
        };
        let name = match protocol {
            6 => "tcp",
            17 => "udp",
            132 => "sctp",
            _ => "",
        };
        let serves = |id: &str| {
            let member = format!("{address},{name}:{port}");
            !name.is_empty() && self.sets.get(id).is_some_and(|set| set.contains(&member))
        };
        let is = |id: &str, kinds: &[&str]| kinds.contains(&id.split(':').next().unwrap());
        let (net, named) = (&["s", "svcnoport"][..], &["n", "svc"][..]);
        let any = &[net, named].concat();
        let belongs = |id: &str| if is(id, net) { contains(id) } else { serves(id) };
        let in_range = |ranges: &[model::view::PortRange]| {
            !name.is_empty() && ranges.iter().any(|r| (r.first..=r.last).contains(&port))
        };
        let asked_port = !peer.ports.is_empty() || !peer.port_sets.is_empty();
        let strange_port = peer.ports.iter().any(|range| range.first > range.last)
            || peer.port_sets.iter().any(|id| !is(id, named));
        let port_fits = in_range(&peer.ports) || peer.port_sets.iter().any(|id| serves(id));
        let known_ports = peer.ports.iter().any(|range| range.first <= range.last)
            || peer.port_sets.iter().any(|id| is(id, named));
        // With a strange alternative among others, the others alone decide for a deny.
        let port_ok = !asked_port
            || if strange_port {
                unknown && !name.is_empty() && (port_fits || !known_ports)
            } else {
                port_fits
            };
        let each = |ids: &[arcstr::ArcStr], kinds: &[&str], test: &dyn Fn(&str) -> bool| {
            ids.iter().all(|id| if is(id, kinds) { test(id) } else { unknown })
        };
        (peer.nets.is_empty() || peer.nets.iter().any(|net| net.contains(&address)))
            && !peer.not_nets.iter().any(|net| net.contains(&address))
            && each(&peer.sets, net, &contains)
            && each(&peer.not_sets, net, &|id| !contains(id))
            && each(&peer.service_sets, any, &belongs)
            && port_ok
            && each(&peer.not_port_sets, named, &|id| !serves(id))
            && !in_range(&peer.not_ports)
            && (unknown || peer.not_ports.iter().all(|range| range.first <= range.last))
    }
}
