//! What nftables does with a packet, on the in-memory table: chains as the kernel walks them.

use std::net::IpAddr;

use bulrush_node_agent::{
    drivers::memory::MemoryTable,
    nft::{Action, Addresses, Connection, Element, Hook, Interface, Match, Rule, Side, Verdict},
};

/// Whether the packet belongs to a connection that policy let in before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    New,
    Established,
    Invalid,
}

/// A packet on its way through a node.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) from: IpAddr,
    pub(crate) to: IpAddr,
    /// Interfaces; empty: the node itself.
    pub(crate) iif: String,
    pub(crate) oif: String,
    pub(crate) protocol: u8,
    /// Source and destination port, or ICMP type and code.
    pub(crate) words: (u16, u16),
    pub(crate) state: State,
    pub(crate) mark: u32,
}

impl Packet {
    fn side<T>(side: Side, source: T, destination: T) -> T {
        match side {
            Side::Source => source,
            Side::Destination => destination,
        }
    }

    fn is_icmp(&self) -> bool {
        self.protocol == if self.from.is_ipv4() { 1 } else { 58 }
    }
}

/// How a walk ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Accepted,
    Dropped,
    Rejected,
}

enum Flow {
    Next,
    Return,
    End(End),
}

/// Sends a packet through the base chains of a hook, in order of priority.
pub(crate) fn walk(table: &MemoryTable, hook: Hook, packet: &mut Packet) -> End {
    let mut bases: Vec<_> = table
        .chains
        .iter()
        .filter_map(|(name, chain)| Some((chain.base?, name)))
        .filter(|(base, _)| base.hook == hook && !base.nat)
        .collect();
    bases.sort_by_key(|(base, _)| base.priority);
    for (_, name) in bases {
        match chain(table, name, packet) {
            Flow::End(End::Accepted) | Flow::Next | Flow::Return => {}
            Flow::End(end) => return end,
        }
    }
    End::Accepted
}

fn chain(table: &MemoryTable, name: &str, packet: &mut Packet) -> Flow {
    for rule in &table.chains[name].rules {
        if !rule.matches.iter().all(|condition| holds(table, condition, packet)) {
            continue;
        }
        match act(table, rule, packet) {
            Flow::Next => {}
            done => return done,
        }
    }
    Flow::Next
}

fn act(table: &MemoryTable, rule: &Rule, packet: &mut Packet) -> Flow {
    for action in &rule.actions {
        let verdict = match action {
            Action::SetMark(bits) => {
                packet.mark |= bits;
                continue;
            }
            Action::ClearMark(bits) => {
                packet.mark &= !bits;
                continue;
            }
            Action::Limit { .. } | Action::Log { .. } | Action::Untracked => continue,
            Action::Masquerade { .. } => return Flow::End(End::Accepted),
            Action::Verdict(verdict) => verdict.clone(),
            Action::Dispatch { side, map } => {
                let interface = Packet::side(*side, &packet.iif, &packet.oif);
                let element = Element::Interface(interface.as_str().into());
                match table.sets[map].1.get(&element) {
                    None => continue,
                    Some(verdict) => verdict.clone().unwrap(),
                }
            }
        };
        return match verdict {
            Verdict::Accept => Flow::End(End::Accepted),
            Verdict::Drop => Flow::End(End::Dropped),
            Verdict::Reject => Flow::End(End::Rejected),
            Verdict::Return => Flow::Return,
            Verdict::Jump(name) => match chain(table, &name, packet) {
                Flow::End(end) => Flow::End(end),
                Flow::Next | Flow::Return => continue,
            },
            Verdict::Goto(name) => match chain(table, &name, packet) {
                Flow::End(end) => Flow::End(end),
                Flow::Next | Flow::Return => Flow::Return,
            },
        };
    }
    Flow::Next
}

fn holds(table: &MemoryTable, condition: &Match, packet: &Packet) -> bool {
    let in_set = |set: &str, element: Element| table.sets[set].1.contains_key(&element);
    match condition {
        Match::Interface { side, interface, not } => {
            let name = Packet::side(*side, &packet.iif, &packet.oif);
            let same = match interface {
                Interface::Named(wanted) => name == wanted.as_str(),
                Interface::Prefix(prefix) => name.starts_with(prefix.as_str()),
            };
            same != *not
        }
        Match::Address { side, addresses, not } => {
            let address = Packet::side(*side, packet.from, packet.to);
            let inside = match addresses {
                Addresses::Nets(nets) => nets.iter().any(|net| net.contains(&address)),
                Addresses::Set(set) => table.sets[set].1.keys().any(|element| match element {
                    Element::Host(host) => *host == address,
                    Element::Net(net) => net.contains(&address),
                    _ => false,
                }),
            };
            inside != *not
        }
        Match::AddressPort { side, set, not } => {
            let (from, to) = packet.words;
            let (address, port) = Packet::side(*side, (packet.from, from), (packet.to, to));
            in_set(set, Element::AddressPort(address, packet.protocol, port)) != *not
        }
        Match::Protocol { numbers, not } => numbers.contains(&packet.protocol) != *not,
        Match::Port { side, ranges, not } => {
            let port = Packet::side(*side, packet.words.0, packet.words.1);
            ranges.iter().any(|range| (range.first..=range.last).contains(&port)) != *not
        }
        Match::IcmpType { kind, not } => {
            packet.is_icmp() && (packet.words.0 == u16::from(*kind)) != *not
        }
        Match::IcmpCode { code, not } => {
            packet.is_icmp() && (packet.words.1 == u16::from(*code)) != *not
        }
        Match::Mark { bits, not } => (packet.mark & bits != 0) != *not,
        Match::Connection(Connection::Established) => packet.state == State::Established,
        Match::Connection(Connection::Invalid) => packet.state == State::Invalid,
        // Routing is not part of this model.
        Match::Spoofed | Match::Local { .. } => false,
    }
}
