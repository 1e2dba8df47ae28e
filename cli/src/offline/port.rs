//! What is tried, spelled `PORT[/PROTO]`: a port, or a type of ICMP, or a protocol that has neither.

use std::{collections::BTreeSet, fmt, ops::RangeInclusive, str::FromStr};

use anyhow::bail;
use model::{
    kinds::{PROTOCOLS, has_ports, parse_protocol, protocol_text},
    view::{Icmp, Peer, PortRange, Protocol, Rule},
};

const ICMP: Protocol = Protocol(1);
const TCP: Protocol = Protocol(6);
const UDP: Protocol = Protocol(17);
const ICMPV6: Protocol = Protocol(58);
/// Kept free for experiments: a protocol and a type of ICMP that mean nothing.
const FREE: u8 = 253;
/// It has ports, though rules can't match them.
const UDP_LITE: Protocol = Protocol(136);

/// What is asked about: a protocol, and what its packets have in the place of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) protocol: Protocol,
    pub(crate) at: At,
}

/// Which packets of a protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum At {
    /// Those to this port.
    Port(u16),
    /// Those of this type and code.
    Icmp { kind: u8, code: u8 },
    /// All: rules can't tell them apart.
    All,
}

impl Port {
    pub(crate) fn numbered(number: u16, protocol: Protocol) -> Self {
        Self { protocol, at: At::Port(number) }
    }

    /// What opens a ping over this version of IP.
    fn echo_request(protocol: Protocol) -> Self {
        let kind = if protocol == ICMP { 8 } else { 128 };
        Self { protocol, at: At::Icmp { kind, code: 0 } }
    }

    /// Any of this protocol.
    fn one_of(protocol: Protocol) -> Self {
        match protocol {
            ICMP | ICMPV6 => Self::echo_request(protocol),
            _ if is_ported(protocol) => Self::numbered(1, protocol),
            _ => Self { protocol, at: At::All },
        }
    }

    /// Where it goes; 0: its protocol has no ports.
    pub(crate) fn number(self) -> u16 {
        if let At::Port(number) = self.at { number } else { 0 }
    }

    /// Its type and code, if it is of ICMP.
    pub(crate) fn icmp(self) -> Option<Icmp> {
        match self.at {
            At::Icmp { kind, code } => Some(Icmp { kind, code: Some(code) }),
            At::Port(_) | At::All => None,
        }
    }

    /// Whether its protocol is of IPv6; none: it is of both versions.
    pub(crate) fn ipv6(self) -> Option<bool> {
        match self.protocol {
            ICMP => Some(false),
            ICMPV6 => Some(true),
            _ => None,
        }
    }

    /// Whether it is tried over IPv6, given that IPv6 was asked for or not.
    ///
    /// # Errors
    /// IPv6 was asked for, and its protocol is of IPv4.
    pub(crate) fn over(self, ipv6: bool) -> anyhow::Result<bool> {
        match self.ipv6() {
            Some(false) if ipv6 => {
                bail!(
                    "icmp goes over IPv4: leave out --ipv6, or write /icmpv6 for a ping over IPv6"
                )
            }
            own => Ok(own.unwrap_or(ipv6)),
        }
    }
}

/// What rules tell apart.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// Protocols that they name.
    pub(crate) protocols: BTreeSet<Protocol>,
    /// Ports of protocols.
    pub(crate) ports: Vec<(Protocol, RangeInclusive<u16>)>,
    /// Types of ICMP, with codes or without.
    pub(crate) icmp: Vec<Icmp>,
}

impl Told {
    /// Adds what a rule tells apart, one that is for packets of this version of IP.
    pub(crate) fn add(&mut self, rule: &Rule, ipv6: bool) {
        self.protocols.extend([rule.protocol, rule.not_protocol].into_iter().flatten());
        let own = if ipv6 { ICMPV6 } else { ICMP };
        if rule.protocol.is_none_or(|protocol| protocol == own) {
            let icmp = [rule.icmp, rule.not_icmp].into_iter().flatten().collect::<Vec<_>>();
            // It tells ICMP from other protocols too, also where it doesn't name it.
            self.protocols.extend((!icmp.is_empty()).then_some(own));
            self.icmp.extend(icmp);
        }
        let Peer { ports, not_ports, .. } = &rule.destination;
        let of = |range: &PortRange| Some((rule.protocol?, range.first..=range.last));
        self.ports.extend(ports.iter().chain(not_ports).filter_map(of));
    }

    /// One port of each part of a protocol's ranges, and one that no range has, unless `given` has such a port.
    fn ports(&self, protocol: Protocol, given: &[Port]) -> Vec<Port> {
        let its = self.ports.iter().filter(|(of, _)| *of == protocol).map(|(_, range)| range);
        let its = its.collect::<Vec<_>>();
        let is_told = |number: u16| its.iter().any(|range| range.contains(&number));
        let ends = its.iter().flat_map(|it| [Some(*it.start()), it.end().checked_add(1)]).flatten();
        let starts = ends.chain([1]).filter(|it| *it > 0).collect::<BTreeSet<_>>();
        let (told, others): (Vec<u16>, Vec<u16>) = starts.into_iter().partition(|it| is_told(*it));
        let has_other = given.iter().any(|it| it.protocol == protocol && !is_told(it.number()));
        let other = others.first().copied().filter(|_| !has_other);
        told.into_iter().chain(other).map(|number| Port::numbered(number, protocol)).collect()
    }

    /// Each type and code of ICMP, of each type a code that none has, and a type that none has.
    fn types(&self, protocol: Protocol) -> Vec<Port> {
        let of = |kind, code| Port { protocol, at: At::Icmp { kind, code } };
        let kinds = self.icmp.iter().map(|it| it.kind).collect::<BTreeSet<_>>();
        let mut types = Vec::new();
        for kind in &kinds {
            let its = self.icmp.iter().filter(|it| it.kind == *kind);
            let codes = its.filter_map(|it| it.code).collect::<BTreeSet<_>>();
            let other = (0..=u8::MAX).find(|code| !codes.contains(code));
            types.extend(codes.into_iter().chain(other).map(|code| of(*kind, code)));
        }
        let ping = Port::echo_request(protocol).icmp().map(|it| it.kind);
        let mut others = ping.into_iter().chain([FREE]).chain(0..=u8::MAX);
        types.extend(others.find(|kind| !kinds.contains(kind)).map(|kind| of(kind, 0)));
        types
    }
}

/// What stands for all over a version of IP: what is given, one of each part that rules tell apart, and one of the rest.
/// Without it a policy that allows one port, or one type of ICMP, would close the others unseen.
pub(crate) fn standing_for_all(given: Vec<Port>, told: &Told, ipv6: bool) -> Vec<Port> {
    let (own, other) = if ipv6 { (ICMPV6, ICMP) } else { (ICMP, ICMPV6) };
    let named = told.protocols.iter().copied().filter(|it| ![TCP, UDP, other].contains(it));
    let mut all = given;
    for protocol in [TCP, UDP].into_iter().chain(named) {
        let its = match protocol {
            _ if protocol == own => told.types(protocol),
            _ if has_ports(protocol) => told.ports(protocol, &all),
            _ => vec![Port::one_of(protocol)],
        };
        let new = its.into_iter().filter(|it| !all.contains(it)).collect::<Vec<_>>();
        all.extend(new);
    }
    let is_named = |protocol: &Protocol| told.protocols.contains(protocol);
    if all.iter().all(|it| is_named(&it.protocol)) {
        let mut others = [own, Protocol(FREE)].into_iter().chain((1..=u8::MAX).map(Protocol));
        let rest = others.find(|it| *it != other && !is_named(it));
        all.extend(rest.map(Port::one_of));
    }
    all
}

impl FromStr for Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let Some((at, name)) = text.split_once('/') else {
            return match parse_name(text) {
                Some(protocol) => {
                    Err(format!("{text:?} is a protocol: write {}", example(protocol)))
                }
                None => numbered(text, TCP),
            };
        };
        let Some(protocol) = parse_protocol(name) else {
            let names = PROTOCOLS.map(|(_, known)| protocol_text(known)).join(", ");
            return Err(format!(
                "{name:?} is no protocol that rules know: say one of {names}, or its number, as in /50"
            ));
        };
        match protocol {
            ICMP | ICMPV6 => icmp(at, protocol),
            _ if is_ported(protocol) => numbered(at, protocol),
            _ if at.is_empty() => Ok(Self { protocol, at: At::All }),
            _ => Err(format!(
                "protocol {} has no ports that rules could tell apart: write {}",
                protocol.0,
                example(protocol)
            )),
        }
    }
}

fn numbered(at: &str, protocol: Protocol) -> Result<Port, String> {
    if at.is_empty() {
        let name = protocol_text(protocol);
        return Err(format!("{name} has ports: say which, as in {}", example(protocol)));
    }
    match at.parse() {
        Ok(number) if number > 0 => Ok(Port::numbered(number, protocol)),
        _ => Err(format!(
            "{at:?} is not a port from 1 to 65535, as in 80, 53/udp or, for a ping, /icmp"
        )),
    }
}

/// `8.0`, a type and a code; `8`, a type and code 0; nothing, an echo request.
fn icmp(at: &str, protocol: Protocol) -> Result<Port, String> {
    if at.is_empty() {
        return Ok(Port::echo_request(protocol));
    }
    let (kind, code) = at.split_once('.').unwrap_or((at, "0"));
    match (kind.parse(), code.parse()) {
        (Ok(kind), Ok(code)) => Ok(Port { protocol, at: At::Icmp { kind, code } }),
        _ => Err(format!(
            "{at:?} is no type of ICMP from 0 to 255, nor a type and a code: write for example 3/{name}, 3.4/{name} or, \
             for a ping, /{name}",
            name = protocol_text(protocol)
        )),
    }
}

/// Whether a port stands for its packets.
fn is_ported(protocol: Protocol) -> bool {
    has_ports(protocol) || protocol == UDP_LITE
}

/// A protocol that has this name in rules.
fn parse_name(text: &str) -> Option<Protocol> {
    parse_protocol(text).filter(|_| text.parse::<u8>().is_err())
}

/// How something of this protocol is written.
fn example(protocol: Protocol) -> String {
    let port = match protocol {
        TCP => "80",
        UDP => "53",
        _ if is_ported(protocol) => "9",
        _ => "",
    };
    format!("{port}/{}", protocol_text(protocol))
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at {
            At::Port(number) => write!(f, "{number}")?,
            At::Icmp { kind, code } => write!(f, "{kind}.{code}")?,
            At::All => {}
        }
        write!(f, "/{}", protocol_text(self.protocol))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rules name these protocols, ports, and types of ICMP.
    fn told(protocols: &[u8], ports: &[RangeInclusive<u16>], icmp: &[(u8, Option<u8>)]) -> Told {
        let of = Protocol(protocols.first().copied().unwrap_or_default());
        Told {
            protocols: protocols.iter().copied().map(Protocol).collect(),
            ports: ports.iter().cloned().map(|range| (of, range)).collect(),
            icmp: icmp.iter().map(|(kind, code)| Icmp { kind: *kind, code: *code }).collect(),
        }
    }

    #[test]
    fn all_that_rules_tell_apart_has_one_that_stands_for_it() {
        for (given, told, all) in [
            ("", told(&[], &[], &[]), "1/tcp 1/udp"),
            ("80", told(&[], &[], &[]), "80/tcp 1/udp"),
            ("80", told(&[6], &[80..=80], &[]), "80/tcp 1/tcp 1/udp"),
            ("", told(&[6], &[1..=9, 5..=20], &[]), "1/tcp 5/tcp 10/tcp 21/tcp 1/udp"),
            ("", told(&[6], &[1..=65535], &[]), "1/tcp 1/udp"),
            ("", told(&[132], &[7..=7], &[]), "1/tcp 1/udp 7/sctp 1/sctp"),
            ("9/sctp", told(&[6], &[], &[]), "9/sctp 1/tcp 1/udp"),
            ("", told(&[6, 17], &[80..=80], &[]), "80/tcp 1/tcp 1/udp 8.0/icmp"),
            ("9/sctp", told(&[6, 17], &[], &[]), "9/sctp 1/tcp 1/udp"),
            ("", told(&[6, 17, 1], &[], &[]), "1/tcp 1/udp 8.0/icmp /253"),
            ("", told(&[47, 136, 58], &[], &[]), "1/tcp 1/udp /47 1/udplite"),
            ("", told(&[1], &[], &[(13, None)]), "1/tcp 1/udp 13.0/icmp 8.0/icmp"),
            (
                "",
                told(&[1], &[], &[(3, Some(0)), (3, Some(4))]),
                "1/tcp 1/udp 3.0/icmp 3.4/icmp 3.1/icmp 8.0/icmp",
            ),
            (
                "",
                told(&[1], &[], &[(8, None), (8, Some(0))]),
                "1/tcp 1/udp 8.0/icmp 8.1/icmp 253.0/icmp",
            ),
        ] {
            let given = given.parse().into_iter().collect();
            let ports = standing_for_all(given, &told, false);
            let ports = ports.iter().map(ToString::to_string).collect::<Vec<_>>();
            assert_eq!(ports.join(" "), all, "{told:?}");
        }
        let told = told(&[1, 58], &[], &[(128, None)]);
        let ports = standing_for_all(Vec::new(), &told, true);
        let ports = ports.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(ports, ["1/tcp", "1/udp", "128.0/icmpv6", "253.0/icmpv6"]);
    }

    #[test]
    fn what_is_tried_is_shown_in_full_and_read_back_as_the_same() {
        for (text, shown) in [
            ("80", "80/tcp"),
            ("80/6", "80/tcp"),
            ("53/UDP", "53/udp"),
            ("9/sctp", "9/sctp"),
            ("5/udplite", "5/udplite"),
            ("/icmp", "8.0/icmp"),
            ("/1", "8.0/icmp"),
            ("3/icmp", "3.0/icmp"),
            ("3.4/ICMP", "3.4/icmp"),
            ("/icmpv6", "128.0/icmpv6"),
            ("255.255/58", "255.255/icmpv6"),
            ("/47", "/47"),
        ] {
            let port = text.parse::<Port>().unwrap();
            assert_eq!(port.to_string(), shown);
            assert_eq!(shown.parse(), Ok(port));
        }
    }

    #[test]
    fn what_a_protocol_does_not_have_is_refused_with_what_to_write() {
        for (wrong, way) in [
            ("", "80"),
            ("0", "80"),
            ("65536", "80"),
            ("http", "80"),
            ("-1", "80"),
            ("80/", "/50"),
            ("80/esp", "/50"),
            ("80/0", "/50"),
            ("80/256", "/50"),
            ("80/47", "/47"),
            ("/udp", "53/udp"),
            ("/udplite", "9/udplite"),
            ("/tcp", "80"),
            ("icmp", "/icmp"),
            ("SCTP", "9/sctp"),
            ("256/icmp", "/icmp"),
            ("8./icmp", "/icmp"),
            ("8.256/icmp", "/icmp"),
            ("8.0.0/icmpv6", "/icmpv6"),
            ("echo/icmp", "/icmp"),
        ] {
            let fault = wrong.parse::<Port>().unwrap_err();
            assert!(fault.contains(way), "{wrong}: {fault}");
        }
    }
}
