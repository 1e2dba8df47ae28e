//! Transactions as text for `nft -f -`.

use std::fmt::{self, Display, Write as _};

use model::view::PortRange;

use super::{
    Action, Addresses, Base, Connection, Element, ElementAndVerdict, Hook, Interface, Match, Rule,
    SetKind, Side, Step, TABLE, Transaction, Verdict,
};
use crate::family::Family;

/// The transaction in nft's own language, one command a line.
pub(crate) fn write(transaction: &Transaction) -> String {
    let mut out = String::new();
    for (family, step) in &transaction.steps {
        write_step(&mut out, *family, step);
    }
    out
}

/// Writing into a `String` can't fail, so the results are dropped once, here.
macro_rules! put {
    ($out:expr, $($arg:tt)*) => {{ let _ = write!($out, $($arg)*); }};
}

fn write_step(out: &mut String, family: Family, step: &Step) {
    match step {
        Step::NewTable => {
            // Adding first makes deleting legal when there is none.
            put!(out, "add table {family} {TABLE}\ndelete table {family} {TABLE}\n");
            put!(out, "add table {family} {TABLE}\n");
        }
        Step::EmptyTable { sets, maps } => {
            put!(out, "flush table {family} {TABLE}\n");
            for (word, names) in [("set", sets), ("map", maps)] {
                for name in names {
                    put!(out, "flush {word} {family} {TABLE} {name}\n");
                }
            }
        }
        Step::AddSet(name, kind) => {
            let word = if *kind == SetKind::Dispatch { "map" } else { "set" };
            put!(out, "add {word} {family} {TABLE} {name} {{ type ");
            let address = match family {
                Family::V4 => "ipv4_addr",
                Family::V6 => "ipv6_addr",
            };
            match kind {
                SetKind::Hosts => put!(out, "{address}"),
                SetKind::Nets => put!(out, "{address}; flags interval"),
                SetKind::AddressPorts => put!(out, "{address} . inet_proto . inet_service"),
                SetKind::Dispatch => put!(out, "ifname : verdict"),
            }
            out.push_str("; }\n");
        }
        // Sets and maps share one namespace, and `delete set` takes either.
        Step::DeleteSet(name) => put!(out, "delete set {family} {TABLE} {name}\n"),
        Step::AddElements(set, elements) => write_elements(out, "add", family, set, elements),
        Step::DeleteElements(set, elements) => write_elements(out, "delete", family, set, elements),
        Step::AddChain(name, None) => put!(out, "add chain {family} {TABLE} {name}\n"),
        Step::AddChain(name, Some(Base { hook, priority, nat })) => {
            let kind = if *nat { "nat" } else { "filter" };
            put!(out, "add chain {family} {TABLE} {name} {{ type {kind} hook {hook} ");
            put!(out, "priority {priority}; policy accept; }}\n");
        }
        Step::FlushChain(name) => put!(out, "flush chain {family} {TABLE} {name}\n"),
        Step::DeleteChain(name) => put!(out, "delete chain {family} {TABLE} {name}\n"),
        Step::AddRule(chain, rule) => {
            put!(out, "add rule {family} {TABLE} {chain}");
            write_rule(out, family, rule);
            out.push('\n');
        }
    }
}

fn write_elements(
    out: &mut String,
    verb: &str,
    family: Family,
    set: &str,
    elements: &[ElementAndVerdict],
) {
    put!(out, "{verb} element {family} {TABLE} {set} {{ ");
    for (element, verdict) in elements {
        match element {
            Element::Host(address) => put!(out, "{address}"),
            Element::Net(net) => put!(out, "{net}"),
            Element::AddressPort(address, protocol, port) => {
                put!(out, "{address} . {protocol} . {port}");
            }
            Element::Interface(name) => put!(out, "\"{name}\""),
        }
        if let Some(verdict) = verdict {
            put!(out, " : {verdict}");
        }
        out.push_str(", ");
    }
    out.push_str("}\n");
}

fn write_rule(out: &mut String, family: Family, rule: &Rule) {
    for condition in &rule.matches {
        write_match(out, family, condition);
    }
    for action in &rule.actions {
        match action {
            Action::SetMark(bits) => put!(out, " meta mark set meta mark or {bits:#x}"),
            Action::ClearMark(bits) => put!(out, " meta mark set meta mark and {:#x}", !bits),
            Action::Limit { per_second } => {
                put!(out, " limit rate {per_second}/second burst 5 packets");
            }
            Action::Log { prefix } => put!(out, " log prefix \"{prefix}\""),
            Action::Untracked => out.push_str(" notrack"),
            Action::Masquerade { ports: None } => out.push_str(" masquerade"),
            Action::Masquerade { ports: Some(PortRange { first, last }) } => {
                put!(out, " masquerade to :{first}-{last}");
            }
            Action::Verdict(verdict) => put!(out, " {verdict}"),
            Action::Dispatch { side, map } => put!(out, " {} vmap @{map}", interface(*side)),
        }
    }
}

fn write_match(out: &mut String, family: Family, condition: &Match) {
    let not = |not: &bool| if *not { "!= " } else { "" };
    match condition {
        Match::Interface { side, interface: Interface::Named(name), not: n } => {
            put!(out, " {} {}\"{name}\"", interface(*side), not(n));
        }
        Match::Interface { side, interface: Interface::Prefix(name), not: n } => {
            put!(out, " {} {}\"{name}*\"", interface(*side), not(n));
        }
        Match::Address { side, addresses: Addresses::Nets(nets), not: n } => {
            put!(out, " {family} {} {}{}", address(*side), not(n), List(nets));
        }
        Match::Address { side, addresses: Addresses::Set(set), not: n } => {
            put!(out, " {family} {} {}@{set}", address(*side), not(n));
        }
        Match::AddressPort { side, set, not: n } => {
            put!(out, " {family} {} . meta l4proto . th {}", address(*side), port(*side));
            put!(out, " {}@{set}", not(n));
        }
        Match::Protocol { numbers, not: n } => {
            put!(out, " meta l4proto {}{}", not(n), List(numbers));
        }
        Match::Port { side, ranges, not: n } => {
            let ranges: Vec<_> = ranges.iter().map(|range| Range(*range)).collect();
            put!(out, " th {} {}{}", port(*side), not(n), List(&ranges));
        }
        Match::IcmpType { kind, not: n } => {
            put!(out, " {} type {}{kind}", icmp(family), not(n));
        }
        Match::IcmpCode { code, not: n } => {
            put!(out, " {} code {}{code}", icmp(family), not(n));
        }
        Match::Mark { bits, not: n } => {
            put!(out, " meta mark and {bits:#x} {}= 0", if *n { "=" } else { "!" });
        }
        Match::Connection(Connection::Established) => {
            out.push_str(" ct state established,related");
        }
        Match::Connection(Connection::Invalid) => out.push_str(" ct state invalid"),
        Match::Spoofed => out.push_str(" fib saddr . iif oif missing"),
        Match::Local { side } => put!(out, " fib {} type local", address(*side)),
    }
}

fn interface(side: Side) -> &'static str {
    match side {
        Side::Source => "iifname",
        Side::Destination => "oifname",
    }
}

fn address(side: Side) -> &'static str {
    match side {
        Side::Source => "saddr",
        Side::Destination => "daddr",
    }
}

fn port(side: Side) -> &'static str {
    match side {
        Side::Source => "sport",
        Side::Destination => "dport",
    }
}

fn icmp(family: Family) -> &'static str {
    match family {
        Family::V4 => "icmp",
        Family::V6 => "icmpv6",
    }
}

/// One value as it is, several as an anonymous set.
struct List<'a, T>(&'a [T]);

impl<T: Display> Display for List<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [one] = self.0 {
            return one.fmt(f);
        }
        f.write_str("{ ")?;
        for value in self.0 {
            write!(f, "{value}, ")?;
        }
        f.write_str("}")
    }
}

struct Range(PortRange);

impl Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PortRange { first, last } = self.0;
        if first == last { write!(f, "{first}") } else { write!(f, "{first}-{last}") }
    }
}

impl Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Accept => f.write_str("accept"),
            Self::Drop => f.write_str("drop"),
            Self::Reject => f.write_str("reject"),
            Self::Return => f.write_str("return"),
            Self::Jump(chain) => write!(f, "jump {chain}"),
            Self::Goto(chain) => write!(f, "goto {chain}"),
        }
    }
}

impl Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prerouting => "prerouting",
            Self::Input => "input",
            Self::Forward => "forward",
            Self::Output => "output",
            Self::Postrouting => "postrouting",
        })
    }
}
