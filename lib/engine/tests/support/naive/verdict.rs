//! Who reaches whom, from the objects alone: without lists, without IP sets.

use std::net::IpAddr;

use ipnet::IpNet;
use model::{
    Key, Kind,
    view::{Action, Entry, Icmp, Peer, Rule},
};

use super::{
    Beyond, Item, ListOf, Objects, Tree, is_enforced, items, policy_selector,
    rules::{Holds, SetsById, rule},
    stage, tier_list,
};
use crate::support::objects::{Obj, RuleOf};

/// A packet that opens a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    pub(crate) protocol: u8,
    pub(crate) from_port: u16,
    pub(crate) to_port: u16,
    pub(crate) icmp: Option<(u8, u8)>,
}

/// All that has addresses, and the objects.
pub(crate) struct World<'o> {
    objects: &'o Objects,
    beyond: &'o Beyond,
    items: Vec<Item>,
}

impl<'o> World<'o> {
    pub(crate) fn new(objects: &'o Objects, beyond: &'o Beyond) -> Self {
        Self { objects, beyond, items: items(objects) }
    }

    /// The endpoints: node, key there, addresses.
    pub(crate) fn endpoints(&self) -> impl Iterator<Item = (&str, &str, &[IpNet])> {
        self.items.iter().filter_map(|item| {
            let local = item.endpoint.as_ref()?;
            Some((local.node.as_str(), local.key.as_str(), item.nets.as_slice()))
        })
    }

    /// Whether the policy of an endpoint lets a packet in, or out: to a host endpoint one of its node's own.
    pub(crate) fn allows(&self, node: &str, key: &str, inwards: bool, packet: &Packet) -> bool {
        let is_it = |item: &&Item| {
            item.endpoint.as_ref().is_some_and(|local| local.node == node && local.key == key)
        };
        let item = self.items.iter().find(is_it).unwrap();
        let local = item.endpoint.as_ref().unwrap();
        let lists = match &local.entry {
            Entry::HostEndpoint(_) if inwards => {
                &[ListOf::Untracked, ListOf::PreDnat, ListOf::Normal][..]
            }
            Entry::HostEndpoint(_) => &[ListOf::Untracked, ListOf::Normal],
            _ => &[ListOf::Normal],
        };
        let mut decided = lists.iter().map(|list| self.in_list(item, *list, inwards, packet));
        if let Some(allows) = decided.find_map(|it| it) {
            return allows;
        }
        for name in &local.profiles {
            if name == "projectcalico-default-allow" {
                return true;
            }
            let profile = self.objects.get(&Key::global(Kind::Profile, name.clone()));
            let Some(Obj::Profile { ingress, egress, .. }) = profile else { return false };
            match self.first(None, if inwards { ingress } else { egress }, packet) {
                None | Some(Action::Pass) => {}
                Some(action) => return action == Action::Allow,
            }
        }
        false
    }

    /// What the policies of a list decide; none: they leave it to others.
    fn in_list(&self, item: &Item, list: ListOf, inwards: bool, packet: &Packet) -> Option<bool> {
        let selecting = self.objects.iter().filter_map(|(key, obj)| {
            let Obj::Policy(policy) = obj else { return None };
            let namespace = (!key.namespace.is_empty()).then_some(key.namespace.as_str());
            let selects = policy_selector(namespace, policy)?.matches(&item.labels);
            let here = is_enforced(key) && list.has(stage(key, policy));
            (selects && here).then_some((key, policy))
        });
        'tiers: for tier in tier_list(self.objects, selecting, list) {
            let policies = if inwards { &tier.ingress } else { &tier.egress };
            if policies.is_empty() {
                continue;
            }
            for id in policies {
                let kind = Kind::from_name(&id.kind).unwrap();
                let key = Key { kind, namespace: id.namespace.clone(), name: id.name.clone() };
                let Some(Obj::Policy(policy)) = self.objects.get(&key) else { panic!("{key}") };
                let namespace = (!key.namespace.is_empty()).then_some(key.namespace.as_str());
                let rules = if inwards { &policy.ingress } else { &policy.egress };
                match self.first(namespace, rules, packet) {
                    Some(Action::Pass) => continue 'tiers,
                    Some(action) => return Some(action == Action::Allow),
                    None => {}
                }
            }
            if list == ListOf::Normal && !tier.default_pass {
                return Some(false);
            }
        }
        None
    }

    /// What the first rule does that decides.
    fn first(&self, namespace: Option<&str>, rules: &[RuleOf], packet: &Packet) -> Option<Action> {
        let services = self.beyond.services.is_some();
        rules.iter().find_map(|written| {
            let mut sets = SetsById::new();
            let rule = rule(namespace, services, written, &mut sets)?;
            let decides = rule.action != Action::Log && self.matches(&rule, &sets, packet);
            decides.then_some(rule.action)
        })
    }

    fn matches(&self, rule: &Rule, sets: &SetsById, packet: &Packet) -> bool {
        let version = if packet.from.is_ipv4() { 4 } else { 6 };
        let like = |wanted: Icmp| match packet.icmp {
            Some((kind, code)) => kind == wanted.kind && wanted.code.is_none_or(|it| it == code),
            None => false,
        };
        let from = (packet.from, packet.protocol, packet.from_port);
        let to = (packet.to, packet.protocol, packet.to_port);
        rule.ip_version.is_none_or(|wanted| wanted == version)
            && rule.protocol.is_none_or(|wanted| wanted.0 == packet.protocol)
            && rule.not_protocol.is_none_or(|other| other.0 != packet.protocol)
            && rule.icmp.is_none_or(like)
            && !rule.not_icmp.is_some_and(like)
            && self.side(&rule.source, sets, from)
            && self.side(&rule.destination, sets, to)
    }

    fn side(&self, peer: &Peer, sets: &SetsById, at: (IpAddr, u8, u16)) -> bool {
        let (address, _, port) = at;
        let lies_in = |nets: &[IpNet]| nets.iter().any(|net| net.contains(&address));
        let held = |id: &arcstr::ArcStr| self.holds(&sets[id.as_str()].holds, at);
        let no_ports = peer.ports.is_empty() && peer.port_sets.is_empty();
        let numbered = |ports: &[model::view::PortRange]| {
            ports.iter().any(|range| port >= range.first && port <= range.last)
        };
        (peer.nets.is_empty() || lies_in(&peer.nets))
            && !lies_in(&peer.not_nets)
            && peer.sets.iter().all(held)
            && !peer.not_sets.iter().any(held)
            && (no_ports || numbered(&peer.ports) || peer.port_sets.iter().any(held))
            && !numbered(&peer.not_ports)
            && !peer.not_port_sets.iter().any(held)
            && peer.service_sets.iter().all(held)
    }

    /// Whether something that is meant is there: no set is made for it.
    fn holds(&self, holds: &Holds, (address, protocol, port): (IpAddr, u8, u16)) -> bool {
        let meant = |tree: &Tree| {
            let tree = tree.clone();
            self.items.iter().filter(move |item| tree.matches(&item.labels))
        };
        let has = |item: &Item| item.nets.iter().any(|net| net.contains(&address));
        match holds {
            Holds::Addresses(tree) => meant(tree).any(has),
            Holds::Port(tree, wanted, name) => meant(tree).any(|item| {
                let ports = item.endpoint.iter().flat_map(|local| &local.ports);
                let mut ports = ports.filter(|(called, ..)| called == name);
                has(item)
                    && wanted.is_none_or(|wanted| wanted == protocol)
                    && ports.any(|(_, of, number)| *of == protocol && *number == port)
            }),
            Holds::Service { of, ports } => {
                let slices = self.beyond.services.as_ref().and_then(|services| services.get(of));
                slices.into_iter().flat_map(|slices| slices.values()).any(|slice| {
                    let mut addresses = slice.addresses.iter();
                    addresses.any(|text| text.parse::<IpAddr>() == Ok(address))
                        && (!ports || slice.ports.contains(&(protocol, port)))
                })
            }
        }
    }
}
