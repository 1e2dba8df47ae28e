//! IP sets: one of a view is up to two kernel sets per family.
//!
//! Single addresses go into a hash. Networks go into an interval set, which holds only those that
//! lie in no other: the kernel refuses overlap. CIDRs either nest or don't touch, so the outermost
//! ones are disjoint, and a change touches only its neighbours.

use std::collections::{BTreeMap, BTreeSet};

use arcstr::ArcStr;
use ipnet::IpNet;
use model::view::IpSetKind;

use super::{PolicyReconciler, names, rules::SetNames, units::Unit};
use crate::{
    family::{Family, is_host},
    nft::{Element, SetKind},
    view::{Member, NodeView},
};

fn hosts_name(id: &str) -> ArcStr {
    names::name("hosts", [id])
}

fn nets_name(id: &str) -> ArcStr {
    names::name("nets", [id])
}

fn ports_name(id: &str) -> ArcStr {
    names::name("ports", [id])
}

impl PolicyReconciler {
    /// The kernel sets of an IP set, as they are declared now.
    pub(super) fn set_names(&self, family: Family, id: &str) -> Option<SetNames> {
        Some(match IpSetKind::of(id)? {
            IpSetKind::AddressPort => SetNames::AddressPorts(ports_name(id)),
            IpSetKind::Net => {
                let nets = nets_name(id);
                let declared = self.tables.get(&family)?.is_declared(&nets);
                SetNames::Nets { hosts: hosts_name(id), nets: declared.then_some(nets) }
            }
        })
    }

    /// Renders a whole set: from the view, or, closed, without members.
    pub(super) fn render_set(&mut self, view: &NodeView, id: &ArcStr, closed: bool) {
        let Some(kind) = IpSetKind::of(id) else { return };
        let none = BTreeSet::new();
        let members = view.sets.get(id).filter(|_| !closed).unwrap_or(&none);
        let mut hosts: BTreeMap<Family, BTreeMap<Element, _>> = BTreeMap::new();
        let mut nets: BTreeMap<Family, BTreeMap<Element, _>> = BTreeMap::new();
        let mut last: Option<IpNet> = None;
        for member in members {
            match *member {
                Member::AddressPort(address, protocol, port) => {
                    let element = Element::AddressPort(address, protocol, port);
                    hosts.entry(Family::of(address)).or_default().insert(element, None);
                }
                Member::Net(net) if is_host(net) => {
                    let element = Element::Host(net.addr());
                    hosts.entry(Family::of_net(net)).or_default().insert(element, None);
                }
                // Members are sorted: what lies in a network follows it.
                Member::Net(net) => {
                    if !last.is_some_and(|last| last.contains(&net)) {
                        nets.entry(Family::of_net(net))
                            .or_default()
                            .insert(Element::Net(net), None);
                        last = Some(net);
                    }
                }
            }
        }
        for family in self.families.clone() {
            let Some(tables) = self.tables.get_mut(&family) else { continue };
            let (name, set_kind) = match kind {
                IpSetKind::Net => (hosts_name(id), SetKind::Hosts),
                IpSetKind::AddressPort => (ports_name(id), SetKind::AddressPorts),
            };
            tables.declare(&name, Some(set_kind));
            tables.elements(&name).set_all(hosts.remove(&family).unwrap_or_default());
            if kind == IpSetKind::Net {
                let nets = nets.remove(&family).unwrap_or_default();
                tables.elements(&nets_name(id)).set_all(nets);
                self.declare_nets(family, id);
            }
        }
    }

    pub(super) fn remove_set(&mut self, id: &ArcStr) {
        for tables in self.tables.values_mut() {
            for name in [hosts_name(id), nets_name(id), ports_name(id)] {
                tables.declare(&name, None);
            }
        }
    }

    /// Takes in members that came or went.
    pub(super) fn update_members(
        &mut self,
        view: &NodeView,
        id: &ArcStr,
        changed: &BTreeSet<Member>,
    ) {
        let unit = Unit::Set(id.clone());
        if self.quarantine.contains_key(&unit) || self.dirty.contains(&unit) {
            self.dirty.insert(unit);
            return;
        }
        self.touched.insert(unit);
        let (hosts, nets, ports) = (hosts_name(id), nets_name(id), ports_name(id));
        for member in changed {
            let there = view.sets.get(id).is_some_and(|members| members.contains(member));
            let value = there.then_some(None);
            let family = member.family();
            let Some(tables) = self.tables.get_mut(&family) else { continue };
            match *member {
                Member::AddressPort(address, protocol, port) => {
                    tables
                        .elements(&ports)
                        .set(Element::AddressPort(address, protocol, port), value);
                }
                Member::Net(net) if is_host(net) => {
                    tables.elements(&hosts).set(Element::Host(net.addr()), value);
                }
                Member::Net(net) => {
                    let elements = tables.elements(&nets);
                    let covered = (0..net.prefix_len()).any(|len| {
                        let outer = IpNet::new_assert(net.addr(), len).trunc();
                        elements.get(&Element::Net(outer)).is_some()
                    });
                    if covered {
                        continue;
                    }
                    // From here on the outermost networks within this one change, if anything.
                    let within: Vec<Element> = elements
                        .desired()
                        .range(Element::Net(net)..)
                        .take_while(|(e, _)| matches!(e, Element::Net(e) if net.contains(e)))
                        .map(|(element, _)| element.clone())
                        .collect();
                    let was_there = within.first() == Some(&Element::Net(net));
                    if there {
                        for element in within {
                            elements.set(element, None);
                        }
                        elements.set(Element::Net(net), Some(None));
                    } else if was_there {
                        elements.set(Element::Net(net), None);
                        let mut last: Option<IpNet> = None;
                        for inner in view.prefixes_within(id, net) {
                            if !last.is_some_and(|last| last.contains(&inner)) {
                                elements.set(Element::Net(inner), Some(None));
                                last = Some(inner);
                            }
                        }
                    }
                }
            }
            if matches!(member, Member::Net(net) if !is_host(*net)) {
                self.declare_nets(family, id);
            }
        }
    }

    /// The interval set exists as long as it has elements; who asks the set is told.
    fn declare_nets(&mut self, family: Family, id: &ArcStr) {
        let name = nets_name(id);
        let Some(tables) = self.tables.get_mut(&family) else { return };
        let needed = !tables.elements(&name).desired().is_empty();
        if needed != tables.is_declared(&name) {
            tables.declare(&name, needed.then_some(SetKind::Nets));
            let users = self.users.get(&Unit::Set(id.clone()));
            self.dirty.extend(users.into_iter().flatten().cloned());
        }
    }
}
