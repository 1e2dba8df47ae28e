//! The part of nftables that the agent uses, as data: chains, rules, sets, transactions.
//!
//! ```text
//! policy (view -> chains, sets) -> Transaction -> drivers::nft (text for `nft -f -`)
//!                                              -> drivers::memory (the twin: checks and holds it)
//! ```
//! Rules are data and not text so that the twin can hold and evaluate them, and so that set
//! elements can take another road to the kernel than text.

pub(crate) mod text;

use std::net::IpAddr;

use arcstr::ArcStr;
use ipnet::IpNet;
use model::view::PortRange;

use crate::family::Family;

/// The table's name in both families. It is Calico's own, so that Felix reclaims it at a rollback.
pub const TABLE: &str = "calico";

/// Which end of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Side {
    /// Where it comes from.
    Source,
    /// Where it goes.
    Destination,
}

/// An interface, or all whose names begin so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interface {
    /// This one.
    Named(ArcStr),
    /// All with this prefix.
    Prefix(ArcStr),
}

/// Addresses of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Addresses {
    /// Disjoint networks.
    Nets(Vec<IpNet>),
    /// The members of a named set.
    Set(ArcStr),
}

/// States of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Connection {
    /// Part of an accepted connection, or related to one.
    Established,
    /// What conntrack can't place.
    Invalid,
}

/// A condition on a packet. `not` turns the whole condition round.
#[allow(missing_docs, reason = "each variant's line says what its fields are")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// The interface it came in by, or leaves by ([`Side`] of this machine).
    Interface { side: Side, interface: Interface, not: bool },
    /// Its address on one side.
    Address { side: Side, addresses: Addresses, not: bool },
    /// Address, protocol and port of one side are an element of a set.
    AddressPort { side: Side, set: ArcStr, not: bool },
    /// Its transport protocol.
    Protocol { numbers: Vec<u8>, not: bool },
    /// Its port; only asked of protocols that have ports. Ranges are disjoint.
    Port { side: Side, ranges: Vec<PortRange>, not: bool },
    /// It is ICMP (of the table's family) and its type is, or with `not` isn't, this.
    IcmpType { kind: u8, not: bool },
    /// It is ICMP (of the table's family) and its code is, or with `not` isn't, this.
    IcmpCode { code: u8, not: bool },
    /// Any, or with `not` none, of these mark bits is set.
    Mark { bits: u32, not: bool },
    /// The state of its connection.
    Connection(Connection),
    /// No route back to its source leads out of the interface that it came in by.
    Spoofed,
    /// Its address on one side is the machine's own.
    Local { side: Side },
}

/// What a rule does with a packet that matches, in order.
#[allow(missing_docs, reason = "each variant's line says what its fields are")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Sets these bits of the mark.
    SetMark(u32),
    /// Clears these bits of the mark.
    ClearMark(u32),
    /// Go on only at up to this many packets per second (a burst of five more is let through).
    Limit { per_second: u32 },
    /// Writes the packet's headers to the kernel log.
    Log { prefix: ArcStr },
    /// Not seen by conntrack.
    Untracked,
    /// Takes the address of the interface that it leaves by; its port is moved into the range.
    Masquerade { ports: Option<PortRange> },
    /// The end of its way, or where it goes on.
    Verdict(Verdict),
    /// The verdict of the element that its interface on one side has in this map; none: go on.
    Dispatch { side: Side, map: ArcStr },
}

/// Where a packet goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Ends this hook.
    Accept,
    /// Ends the packet.
    Drop,
    /// Ends the packet, and its sender is told.
    Reject,
    /// Back to the chain that jumped here.
    Return,
    /// Into a chain, and back.
    Jump(ArcStr),
    /// Into a chain, and from there back to where this chain would return.
    Goto(ArcStr),
}

/// Conditions that must all hold, and what then happens.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Rule {
    /// All must hold.
    pub matches: Vec<Match>,
    /// In order.
    pub actions: Vec<Action>,
}

/// Where a base chain is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// Each packet that arrives.
    Prerouting,
    /// To this machine.
    Input,
    /// Through this machine.
    Forward,
    /// From this machine.
    Output,
    /// Each packet that leaves.
    Postrouting,
}

/// The place of a base chain. Its policy is always accept: what must be dropped is dropped by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Base {
    /// The hook.
    pub hook: Hook,
    /// Lower comes first.
    pub priority: i16,
    /// Whether it is of type `nat` rather than `filter`.
    pub nat: bool,
}

/// A chain.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Chain {
    /// Where the kernel calls it; none: only other chains do.
    pub base: Option<Base>,
    /// First one first.
    pub rules: Vec<Rule>,
}

/// What the elements of a set are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SetKind {
    /// Single addresses, in a hash.
    Hosts,
    /// Disjoint networks, in intervals.
    Nets,
    /// Address, protocol and port, in a hash.
    AddressPorts,
    /// Interface names, each with a verdict.
    Dispatch,
}

/// An element of a set or map.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Element {
    /// Of [`SetKind::Hosts`].
    Host(IpAddr),
    /// Of [`SetKind::Nets`].
    Net(IpNet),
    /// Of [`SetKind::AddressPorts`].
    AddressPort(IpAddr, u8, u16),
    /// Of [`SetKind::Dispatch`].
    Interface(ArcStr),
}

/// An element, and in a map its verdict.
pub type ElementAndVerdict = (Element, Option<Verdict>);

/// One step of a transaction; always in the table [`TABLE`] of its family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Deletes the table, if there is one, and creates it empty.
    NewTable,
    /// Empties the chains of the table, and these sets and maps, which are all that it has. None of them goes, so that
    /// packets on their way find what they look for: the old or the new.
    #[allow(missing_docs, reason = "the fields are names")]
    EmptyTable { sets: Vec<ArcStr>, maps: Vec<ArcStr> },
    /// Declares a set or map; one that is there must be empty, and of this kind.
    AddSet(ArcStr, SetKind),
    /// Removes a set or map that no rule names.
    DeleteSet(ArcStr),
    /// Adds elements that aren't there.
    AddElements(ArcStr, Vec<ElementAndVerdict>),
    /// Removes elements that are there.
    DeleteElements(ArcStr, Vec<ElementAndVerdict>),
    /// Creates an empty chain; one that is there must be empty, and in this place.
    AddChain(ArcStr, Option<Base>),
    /// Removes a chain's rules.
    FlushChain(ArcStr),
    /// Removes an empty chain that nothing names.
    DeleteChain(ArcStr),
    /// Adds a rule at a chain's end.
    AddRule(ArcStr, Rule),
}

/// Steps that the kernel takes all together or not at all.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Transaction {
    /// In order; a step may rely on those before it.
    pub steps: Vec<(Family, Step)>,
}
