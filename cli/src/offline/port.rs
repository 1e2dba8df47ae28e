//! What is tried, spelled `PORT[/PROTO]`: a port, or a type of ICMP, or a protocol that has neither.

use std::{collections::BTreeSet, fmt, ops::RangeInclusive, str::FromStr};

use anyhow::bail;
use model::{
    kinds::{PROTOCOLS, has_ports, parse_protocol},
    view::{Icmp, Protocol},
};

const ICMP: Protocol = Protocol(1);
const TCP: Protocol = Protocol(6);
const UDP: Protocol = Protocol(17);
const ICMPV6: Protocol = Protocol(58);
const SCTP: Protocol = Protocol(132);
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
    fn numbered(number: u16, protocol: Protocol) -> Self {
        Self { protocol, at: At::Port(number) }
    }

    /// What opens a ping over this version of IP.
    fn echo_request(protocol: Protocol) -> Self {
        let kind = if protocol == ICMP { 8 } else { 128 };
        Self { protocol, at: At::Icmp { kind, code: 0 } }
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

/// Ports that stand for all: those given, one of each part of the ranges that rules tell apart, and one that no range has.
/// Without it a policy that allows one port would close the others unseen.
pub(crate) fn standing_for_all(
    mut ports: Vec<Port>,
    ranges: &[(Option<Protocol>, RangeInclusive<u16>)],
) -> Vec<Port> {
    for protocol in [TCP, UDP, SCTP] {
        let is_its = |it: &Option<Protocol>| it.is_none_or(|it| it == protocol);
        let its = ranges.iter().filter(|(of, _)| is_its(of)).map(|(_, range)| range);
        let its = its.collect::<Vec<_>>();
        let is_told = |number: u16| its.iter().any(|range| range.contains(&number));
        let ends = its.iter().flat_map(|it| [Some(*it.start()), it.end().checked_add(1)]).flatten();
        let starts = ends.chain([1]).filter(|it| *it > 0).collect::<BTreeSet<_>>();
        let (told, others): (Vec<u16>, Vec<u16>) = starts.into_iter().partition(|it| is_told(*it));
        for number in told {
            let port = Port::numbered(number, protocol);
            if !ports.contains(&port) {
                ports.push(port);
            }
        }
        let is_rare = protocol == SCTP && ranges.iter().all(|(of, _)| *of != Some(protocol));
        let has_other = ports.iter().any(|it| it.protocol == protocol && !is_told(it.number()));
        let other = others.first().filter(|_| !is_rare && !has_other);
        ports.extend(other.map(|number| Port::numbered(*number, protocol)));
    }
    ports
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
            let names = PROTOCOLS.map(|(name, _)| name).join(", ");
            return Err(format!(
                "{name:?} is no protocol that rules know: say one of {names}, or its number, as in /50"
            ));
        };
        match protocol {
            ICMP | ICMPV6 => icmp(at, protocol),
            _ if has_ports(protocol) || protocol == UDP_LITE => numbered(at, protocol),
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
        let name = name(protocol);
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
            name = name(protocol)
        )),
    }
}

/// A protocol that has this name in rules.
fn parse_name(text: &str) -> Option<Protocol> {
    parse_protocol(text).filter(|_| text.parse::<u8>().is_err())
}

/// What rules call it: a name, else its number.
fn name(protocol: Protocol) -> String {
    let named = PROTOCOLS.iter().find(|(_, known)| *known == protocol);
    named.map_or_else(|| protocol.0.to_string(), |(name, _)| (*name).to_owned())
}

/// How something of this protocol is written.
fn example(protocol: Protocol) -> String {
    let port = match protocol {
        TCP => "80",
        UDP => "53",
        _ if has_ports(protocol) || protocol == UDP_LITE => "9",
        _ => "",
    };
    format!("{port}/{}", name(protocol))
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at {
            At::Port(number) => write!(f, "{number}")?,
            At::Icmp { kind, code } => write!(f, "{kind}.{code}")?,
            At::All => {}
        }
        write!(f, "/{}", name(self.protocol))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_port_that_rules_tell_apart_has_one_that_stands_for_it() {
        let (tcp, udp, sctp) = (Some(Protocol(6)), Some(Protocol(17)), Some(Protocol(132)));
        for (given, ranges, all) in [
            ("", vec![], "1/tcp 1/udp"),
            ("80", vec![], "80/tcp 1/udp"),
            ("80", vec![(tcp, 80..=80)], "80/tcp 1/tcp 1/udp"),
            ("", vec![(tcp, 1..=9), (tcp, 5..=20)], "1/tcp 5/tcp 10/tcp 21/tcp 1/udp"),
            ("", vec![(tcp, 1..=65535), (udp, 0..=0)], "1/tcp 1/udp"),
            ("", vec![(None, 7..=7)], "7/tcp 1/tcp 7/udp 1/udp 7/sctp"),
            ("", vec![(sctp, 0..=0)], "1/tcp 1/udp 1/sctp"),
        ] {
            let given = given.parse().into_iter().collect();
            let ports = standing_for_all(given, &ranges);
            let ports = ports.iter().map(ToString::to_string).collect::<Vec<_>>();
            assert_eq!(ports.join(" "), all, "{ranges:?}");
        }
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
