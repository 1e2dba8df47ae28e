//! Host endpoints: interfaces of nodes themselves.

use std::net::IpAddr;

use arcstr::ArcStr;
use serde_json::Value;

use super::{Invalid, endpoint, endpoint::EndpointPort, net, read::Fields};

/// `HostEndpoint`. It is whole or absent, but for expected addresses that can't be read: these are
/// skipped alone.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct HostEndpoint {
    /// The node that it is on.
    pub node: ArcStr,
    /// Which interface: its name, `*` for all, or empty for those that have an expected address.
    pub interface: ArcStr,
    /// `expectedIPs`: what it gives to the IP sets that it is in.
    pub addresses: Vec<IpAddr>,
    /// In order.
    pub profiles: Vec<ArcStr>,
    /// Each has a name.
    pub ports: Vec<EndpointPort>,
}

impl HostEndpoint {
    pub(super) fn read(spec: Fields<'_>, faults: &mut Vec<Invalid>) -> Result<Self, Invalid> {
        let node = spec.text("node")?;
        if node.is_empty() {
            return Err(spec.path("node").missing("must name the node that the interface is on"));
        }
        let interface = spec.text("interfaceName")?;
        if !is_interface(&interface) {
            let rule = "must be * or a name of up to 15 letters, digits, dots, dashes and \
                        underscores";
            let value = Value::from(interface.as_str());
            return Err(spec.path("interfaceName").invalid(&value, rule));
        }
        let path = spec.path("expectedIPs");
        let mut addresses = Vec::new();
        for (index, value) in spec.list("expectedIPs")?.iter().enumerate() {
            match value.as_str().and_then(net::parse_ip) {
                Some(address) => addresses.push(address),
                None => {
                    faults.push(path.index(index).invalid(value, "must be an address: left out"));
                }
            }
        }
        let profiles = spec.texts("profiles")?;
        if let Some((index, bad)) = profiles.iter().enumerate().find(|(_, it)| !is_name(it)) {
            let path = spec.path("profiles");
            let rule = "must be a name of letters, digits, dots, dashes and underscores";
            return Err(path.index(index).invalid(&Value::from(bad.as_str()), rule));
        }
        let ports = endpoint::read_ports(spec)?;
        if ports.len() < spec.list("ports")?.len() {
            let rule = "each must have a name, by which rules can mean it";
            return Err(spec.path("ports").missing(rule));
        }
        Ok(Self { node, interface, addresses, profiles, ports })
    }
}

fn is_name_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_')
}

fn is_interface(name: &str) -> bool {
    name == "*" || (name.len() <= 15 && name.bytes().all(is_name_byte))
}

fn is_name(name: &str) -> bool {
    (1..=128).contains(&name.len()) && name.bytes().all(is_name_byte)
}
