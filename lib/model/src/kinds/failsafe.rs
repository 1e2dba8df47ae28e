//! Ports of hosts that no policy closes.

use std::{cell::RefCell, fmt, net::IpAddr};

use ipnet::IpNet;
use serde_json::Value;

use super::{
    Direction, FelixConfiguration, Invalid, Texts, has_ports, parse_net,
    policy::{named_protocol, protocol_text},
    read::{Fields, Path},
};
use crate::view::Protocol;

const TCP: Protocol = Protocol(6);
const UDP: Protocol = Protocol(17);

/// One of them: of the host itself for packets to it, of others for packets from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailsafePort {
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// Where packets go to.
    pub port: u16,
    /// Open from or to this network only.
    pub net: Option<IpNet>,
}

impl FailsafePort {
    /// Those of hosts that nobody configured: to a host SSH, DHCP, BGP, etcd, typha and Kubernetes; from it DNS, DHCP and
    /// the same without SSH.
    pub fn defaults(direction: Direction) -> Vec<Self> {
        let tcp = [179, 2379, 2380, 5473, 6443, 6666, 6667];
        let (more, udp): (&[u16], &[u16]) = match direction {
            Direction::Ingress => (&[22], &[68]),
            Direction::Egress => (&[], &[53, 67]),
        };
        let of = |protocol: Protocol| move |port: &u16| Self { protocol, port: *port, net: None };
        more.iter().chain(&tcp).map(of(TCP)).chain(udp.iter().map(of(UDP))).collect()
    }

    /// Whether it opens the way for packets of a protocol to a port; `far`: the end that isn't the host.
    pub fn opens(&self, protocol: Protocol, port: u16, far: IpAddr) -> bool {
        (self.protocol, self.port) == (protocol, port)
            && self.net.is_none_or(|net| net.contains(&far))
    }

    fn read(path: &Path<'_>, value: &Value) -> Result<Self, Invalid> {
        let fields = Fields::of(path, Some(value))?;
        let wrong = |name: &'static str, reason: &str| {
            path.field(name).invalid(fields.get(name).unwrap_or(&Value::Null), reason)
        };
        let protocol = match fields.str("protocol")? {
            "" => TCP,
            text => named_protocol(text)
                .filter(|it| has_ports(*it))
                .ok_or_else(|| wrong("protocol", "must be TCP, UDP or SCTP"))?,
        };
        let port = fields.int("port", 0, u16::MAX)?;
        let port = port.ok_or_else(|| wrong("port", "must be a port"))?;
        let net = match fields.str("net")? {
            "" => None,
            text => Some(parse_net(text).ok_or_else(|| wrong("net", "must be a CIDR"))?),
        };
        Ok(Self { protocol, port, net })
    }
}

impl fmt::Display for FailsafePort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.port, protocol_text(self.protocol))?;
        self.net.map_or(Ok(()), |net| write!(f, " of {net}"))
    }
}

impl FelixConfiguration {
    /// The failsafe ports that it sets, with those that can't be read left out and named; none: it sets none of this
    /// direction. An empty list is one.
    pub fn failsafe_ports(
        &self,
        direction: Direction,
    ) -> Option<(Vec<FailsafePort>, Vec<Invalid>)> {
        let name = match direction {
            Direction::Ingress => "failsafeInboundHostPorts",
            Direction::Egress => "failsafeOutboundHostPorts",
        };
        let Some(Value::Array(items)) = self.spec.get(name) else { return None };
        let texts = RefCell::<Texts>::default();
        let root = Path::root(&texts);
        let spec = root.field("spec");
        let list = spec.field(name);
        let (mut ports, mut faults) = (Vec::new(), Vec::new());
        for (index, item) in items.iter().enumerate() {
            match FailsafePort::read(&list.index(index), item) {
                Ok(port) => ports.push(port),
                Err(fault) => faults.push(fault),
            }
        }
        Some((ports, faults))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn configuration(spec: &Value) -> FelixConfiguration {
        FelixConfiguration { spec: spec.as_object().unwrap().clone() }
    }

    #[test]
    fn a_list_is_read_and_what_cannot_be_read_of_it_is_named() {
        let configuration = configuration(&json!({
            "failsafeInboundHostPorts": [
                {"port": 22},
                {"protocol": "udp", "port": 68, "net": "10.0.0.0/8"},
                {"protocol": "ICMP", "port": 1},
                {"protocol": "TCP"},
                {"protocol": "TCP", "port": 80, "net": "10"},
            ],
            "failsafeOutboundHostPorts": [],
        }));
        let (ports, faults) = configuration.failsafe_ports(Direction::Ingress).unwrap();
        let shown = ports.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(shown, ["22/tcp", "68/udp of 10.0.0.0/8"]);
        let fields = faults.iter().map(|it| it.field.as_str()).collect::<Vec<_>>();
        let list = "spec.failsafeInboundHostPorts";
        let wanted = [".protocol", ".port", ".net"].iter().zip(2..);
        let wanted = wanted.map(|(field, at)| format!("{list}[{at}]{field}")).collect::<Vec<_>>();
        assert_eq!(fields, wanted, "{faults:?}");
        assert_eq!(configuration.failsafe_ports(Direction::Egress), Some((vec![], vec![])));
    }

    #[test]
    fn a_list_that_is_not_there_is_told_from_an_empty_one() {
        for spec in [json!({}), json!({"failsafeInboundHostPorts": null})] {
            assert_eq!(configuration(&spec).failsafe_ports(Direction::Ingress), None);
        }
    }

    #[test]
    fn a_port_is_open_for_its_protocol_and_its_network() {
        let all = FailsafePort { protocol: TCP, port: 22, net: None };
        let some = FailsafePort { net: "10.0.0.0/8".parse().ok(), ..all.clone() };
        let (near, far) = ("10.1.0.1".parse().unwrap(), "192.0.2.1".parse().unwrap());
        assert!(all.opens(TCP, 22, far) && some.opens(TCP, 22, near));
        assert!(!all.opens(UDP, 22, far) && !all.opens(TCP, 23, far) && !some.opens(TCP, 22, far));
    }
}
