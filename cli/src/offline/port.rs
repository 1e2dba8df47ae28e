//! A port of a pod, spelled `PORT[/PROTO]`.

use std::{collections::BTreeSet, fmt, ops::RangeInclusive, str::FromStr};

use model::view::Protocol;

/// Protocols that have ports, by name.
const PROTOCOLS: [(&str, Protocol); 3] =
    [("tcp", Protocol(6)), ("udp", Protocol(17)), ("sctp", Protocol(132))];

/// What is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) number: u16,
    pub(crate) protocol: Protocol,
}

/// Ports that stand for all: those given, one of each part of the ranges that rules tell apart, and one that no range has.
/// Without it a policy that allows one port would close the others unseen.
pub(crate) fn standing_for_all(
    mut ports: Vec<Port>,
    ranges: &[(Option<Protocol>, RangeInclusive<u16>)],
) -> Vec<Port> {
    for (name, protocol) in PROTOCOLS {
        let is_its = |it: &Option<Protocol>| it.is_none_or(|it| it == protocol);
        let its = ranges.iter().filter(|(of, _)| is_its(of)).map(|(_, range)| range);
        let its = its.collect::<Vec<_>>();
        let is_told = |number: u16| its.iter().any(|range| range.contains(&number));
        let ends = its.iter().flat_map(|it| [Some(*it.start()), it.end().checked_add(1)]).flatten();
        let starts = ends.chain([1]).filter(|it| *it > 0).collect::<BTreeSet<_>>();
        let (told, others): (Vec<u16>, Vec<u16>) = starts.into_iter().partition(|it| is_told(*it));
        for number in told {
            let port = Port { number, protocol };
            if !ports.contains(&port) {
                ports.push(port);
            }
        }
        let is_rare = name == "sctp" && ranges.iter().all(|(of, _)| *of != Some(protocol));
        let has_other = ports.iter().any(|it| it.protocol == protocol && !is_told(it.number));
        let other = others.first().filter(|_| !is_rare && !has_other);
        ports.extend(other.map(|number| Port { number: *number, protocol }));
    }
    ports
}

impl FromStr for Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, name) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = PROTOCOLS.iter().find(|(known, _)| name.eq_ignore_ascii_case(known));
        let Some((_, protocol)) = protocol else {
            return Err(format!("{name:?} is no protocol with ports: say tcp, udp or sctp"));
        };
        match number.parse() {
            Ok(number) if number > 0 => Ok(Self { number, protocol: *protocol }),
            _ => Err(format!("{number:?} is not a port from 1 to 65535, as in 80 or 53/udp")),
        }
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = PROTOCOLS.iter().find(|(_, known)| *known == self.protocol);
        write!(f, "{}/{}", self.number, name.map_or("?", |(name, _)| *name))
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
    fn a_port_is_spelled_with_or_without_its_protocol() {
        for (text, shown) in [("80", "80/tcp"), ("53/UDP", "53/udp"), ("9/sctp", "9/sctp")] {
            assert_eq!(text.parse::<Port>().map(|port| port.to_string()), Ok(shown.to_owned()));
        }
        for wrong in ["", "0", "65536", "80/icmp", "http", "-1", "80/"] {
            assert!(wrong.parse::<Port>().is_err(), "{wrong}");
        }
    }
}
