//! IP sets and their members.
//!
//! A member counts how many endpoints and sets give it. In sets of nets a member that lies in
//! another one is hidden, as in Calico: an interval set of the kernel takes no overlaps.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use arcstr::ArcStr;
use ipnet::IpNet;
use model::{
    kinds::EndpointPort,
    view::{Entry, Protocol, Topic},
};

use crate::{
    index::Sel,
    netmap::{NetMap, halves},
    output::Out,
    planted::Planted,
    rules::{NamedPort, SetSpec, protocol_name},
    slab::Id,
};

/// An IP set that rules name.
pub(crate) struct Set {
    pub(crate) id: ArcStr,
    pub(crate) spec: SetSpec,
    /// Policies and profiles whose rules name it.
    pub(crate) refs: usize,
    /// Nodes that need it.
    pub(crate) nodes: usize,
    /// A node needs it: only then it has members.
    pub(crate) filled: bool,
    /// Its selector, while it is filled by one.
    pub(crate) selector: Option<Id<Sel>>,
    members: Members,
}

/// The members of a set, by kind.
#[derive(Default)]
struct Members {
    nets: NetMap<Count>,
    ports: BTreeMap<PortMember, Count>,
    /// Members that may have to be published or withdrawn.
    touched_nets: BTreeSet<IpNet>,
    touched_ports: BTreeSet<PortMember>,
}

#[derive(Clone, Copy, Default)]
struct Count {
    given: u32,
    published: bool,
}

/// An address with a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct PortMember {
    address: IpNet,
    protocol: Protocol,
    port: u16,
}

impl PortMember {
    fn text(&self) -> ArcStr {
        let Self { address, protocol, port } = self;
        arcstr::format!("{},{}:{port}", address.addr(), protocol_name(*protocol))
    }
}

/// What an endpoint or a network set gives to the IP sets that it is in.
#[derive(Clone, Copy)]
pub(crate) enum Gives<'a> {
    /// Addresses, and ports at each of them.
    Endpoint(&'a [IpNet], &'a [EndpointPort]),
    /// The same of a host endpoint.
    Host(&'a [IpAddr], &'a [EndpointPort]),
    /// Nets; a named port is never one of theirs.
    Nets(&'a [IpNet]),
}

/// Backends of a Kubernetes service: each address has each of the ports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Slice {
    /// Where they are.
    pub addresses: Vec<IpAddr>,
    /// At which ports they serve.
    pub ports: Vec<(Protocol, u16)>,
}

impl Set {
    pub(crate) fn new(id: ArcStr, spec: SetSpec) -> Self {
        Self {
            id,
            spec,
            refs: 0,
            nodes: 0,
            filled: false,
            selector: None,
            members: Members::default(),
        }
    }

    /// One more (or less) that gives these.
    pub(crate) fn count(&mut self, gives: Gives<'_>, more: bool) {
        match (gives, self.port()) {
            (Gives::Endpoint(addresses, _), None) => {
                for address in addresses {
                    self.members.count_net(IpNet::from(address.addr()), more);
                }
            }
            (Gives::Host(addresses, _), None) => {
                for address in addresses {
                    self.members.count_net(IpNet::from(*address), more);
                }
            }
            (Gives::Nets(nets), None) => {
                for half in nets.iter().flat_map(|net| halves(*net)).flatten() {
                    self.members.count_net(half, more);
                }
            }
            (Gives::Endpoint(addresses, ports), Some(_)) => {
                let addresses = addresses.iter().map(IpNet::addr);
                self.count_ports(&addresses.collect::<Vec<_>>(), ports, more);
            }
            (Gives::Host(addresses, ports), Some(_)) => {
                self.count_ports(addresses, ports, more);
            }
            (Gives::Nets(_), Some(_)) => {}
        }
    }

    /// One slice more (or less) of the service that it is of.
    pub(crate) fn count_slice(&mut self, slice: &Slice, more: bool) {
        let SetSpec::Service(service) = &self.spec else { return };
        let with_ports = service.ports;
        for address in slice.addresses.iter().copied().map(IpNet::from) {
            if !with_ports {
                self.members.count_net(address, more);
                continue;
            }
            for (protocol, port) in slice.ports.iter().copied() {
                self.members.count_port(PortMember { address, protocol, port }, more);
            }
        }
    }

    fn port(&self) -> Option<&NamedPort> {
        match &self.spec {
            SetSpec::Selector { port, .. } => port.as_ref(),
            SetSpec::Service(_) => None,
        }
    }

    /// All members: those that are to be seen, and those that another one covers. Both sorted.
    pub(crate) fn members(&self) -> (Vec<String>, Vec<String>) {
        let Members { nets, ports, .. } = &self.members;
        let given = nets.iter().filter(|(_, count)| count.given > 0);
        let (mut covered, mut seen): (Vec<_>, Vec<_>) =
            given.map(|(net, _)| *net).partition(|net| is_covered(nets, *net));
        covered.sort_unstable();
        seen.sort_unstable();
        let texts = |nets: Vec<IpNet>| nets.iter().map(ToString::to_string).collect::<Vec<_>>();
        let (mut seen, mut covered) = (texts(seen), texts(covered));
        let ports = ports.iter().filter(|(_, count)| count.given > 0);
        seen.extend(ports.map(|(member, _)| member.text().to_string()));
        seen.sort_unstable();
        covered.sort_unstable();
        (seen, covered)
    }

    fn count_ports(&mut self, addresses: &[IpAddr], ports: &[EndpointPort], more: bool) {
        let Some(wanted) = self.port().cloned() else { return };
        for port in ports {
            let fits = wanted.protocol.is_none_or(|protocol| protocol == port.protocol)
                || Planted::PortOfAnyProtocol.is_here();
            if !fits || port.name != wanted.name {
                continue;
            }
            for address in addresses {
                let EndpointPort { protocol, port, .. } = *port;
                let member = PortMember { address: IpNet::from(*address), protocol, port };
                self.members.count_port(member, more);
            }
        }
    }

    /// Nobody gives anything any more.
    pub(crate) fn clear(&mut self) {
        let Members { nets, ports, touched_nets, touched_ports } = &mut self.members;
        touched_nets.extend(nets.iter().map(|(net, _)| *net));
        touched_ports.extend(ports.keys());
        for net in &*touched_nets {
            if let Some(count) = nets.get_mut(net) {
                count.given = 0;
            }
        }
        for count in ports.values_mut() {
            count.given = 0;
        }
    }

    /// Says what changed.
    pub(crate) fn flush(&mut self, out: &mut Out) {
        let topic = || Topic::IpSet(self.id.clone());
        let members = &mut self.members;
        for net in std::mem::take(&mut members.touched_nets) {
            let hidden = is_covered(&members.nets, net);
            let Some(count) = members.nets.get_mut(&net) else { continue };
            let visible = count.given > 0 && !hidden;
            if visible != count.published {
                count.published = visible;
                let entry = visible.then_some(Entry::Member);
                out.set(topic(), net.to_string().into(), entry);
            }
            if count.given == 0 {
                members.nets.remove(&net);
            }
        }
        for member in std::mem::take(&mut members.touched_ports) {
            let Some(count) = members.ports.get_mut(&member) else { continue };
            let visible = count.given > 0;
            if visible != count.published {
                count.published = visible;
                out.set(topic(), member.text(), visible.then_some(Entry::Member));
            }
            if !visible {
                members.ports.remove(&member);
            }
        }
    }

    /// How many members are counted.
    pub(crate) fn len(&self) -> usize {
        self.members.nets.len() + self.members.ports.len()
    }
}

/// Whether another member holds all of this one.
fn is_covered(nets: &NetMap<Count>, net: IpNet) -> bool {
    nets.enclosing(net).skip(1).any(|(_, outer)| outer.given > 0)
        && !Planted::CoveredShown.is_here()
}

impl Members {
    fn count_net(&mut self, net: IpNet, more: bool) {
        let count = self.nets.get_or_default(net);
        let before = count.given;
        let less = if Planted::MemberNotCounted.is_here() { before } else { 1 };
        count.given = if more { before + 1 } else { before.saturating_sub(less) };
        if (before == 0) != (count.given == 0) {
            self.touched_nets.insert(net);
            let may_cover = more || !Planted::CoveredForgotten.is_here();
            if may_cover && net.prefix_len() < net.max_prefix_len() {
                self.touched_nets.extend(self.nets.within(net).map(|(inner, _)| inner));
            }
        }
    }

    fn count_port(&mut self, member: PortMember, more: bool) {
        let count = self.ports.entry(member).or_default();
        let before = count.given;
        count.given = if more { before + 1 } else { before.saturating_sub(1) };
        if (before == 0) != (count.given == 0) {
            self.touched_ports.insert(member);
        }
    }
}
