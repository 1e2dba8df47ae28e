//! A port of a pod, spelled `PORT[/PROTO]`.

use std::{fmt, str::FromStr};

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
    fn a_port_is_spelled_with_or_without_its_protocol() {
        for (text, shown) in [("80", "80/tcp"), ("53/UDP", "53/udp"), ("9/sctp", "9/sctp")] {
            assert_eq!(text.parse::<Port>().map(|port| port.to_string()), Ok(shown.to_owned()));
        }
        for wrong in ["", "0", "65536", "80/icmp", "http", "-1", "80/"] {
            assert!(wrong.parse::<Port>().is_err(), "{wrong}");
        }
    }
}
