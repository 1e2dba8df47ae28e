//! `EndpointSlice` of Kubernetes: backends of a service.

use std::net::IpAddr;

use arcstr::ArcStr;

use super::{Invalid, Labels, net, policy, read::Fields};
use crate::view::Protocol;

/// The label that names the service, which is of the slice's own namespace.
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// Some of the backends of a service: each address has each of the ports. Ready or not, they are backends, as in
/// Calico: what isn't ready gets no new connections from elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct EndpointSlice {
    /// The name of the service; empty: of none.
    pub service: ArcStr,
    /// Where they are. Names of hosts, which a slice may have too, are none.
    pub addresses: Vec<IpAddr>,
    /// At which ports they serve.
    pub ports: Vec<(Protocol, u16)>,
}

impl EndpointSlice {
    pub(super) fn read(
        object: Fields<'_>,
        labels: &Labels,
        faults: &mut Vec<Invalid>,
    ) -> Result<Self, Invalid> {
        let service = labels.iter().find(|(key, _)| key == SERVICE_NAME);
        let mut slice = Self {
            service: service.map(|(_, name)| name.clone()).unwrap_or_default(),
            ..Self::default()
        };
        if object.str("addressType")? == "FQDN" {
            return Ok(slice);
        }
        let path = object.path("endpoints");
        for (index, value) in object.list("endpoints")?.iter().enumerate() {
            let path = path.index(index);
            let endpoint = Fields::of(&path, Some(value))?;
            let path = endpoint.path("addresses");
            for (index, value) in endpoint.list("addresses")?.iter().enumerate() {
                match value.as_str().and_then(net::parse_ip) {
                    Some(address) => slice.addresses.push(address),
                    None => {
                        faults
                            .push(path.index(index).invalid(value, "must be an address: left out"));
                    }
                }
            }
        }
        let path = object.path("ports");
        for (index, value) in object.list("ports")?.iter().enumerate() {
            let path = path.index(index);
            let port = Fields::of(&path, Some(value))?;
            let protocol = match port.str("protocol")? {
                "" => Some(Protocol(6)),
                name => policy::named_protocol(name),
            };
            match (protocol, port.int("port", 1, u16::MAX)) {
                (Some(protocol), Ok(Some(number))) => slice.ports.push((protocol, number)),
                // Without a number it is every port, which no member of a set can say.
                (Some(_), Ok(None)) => {}
                (None, _) => {
                    let rule = "must be TCP, UDP or SCTP: left out";
                    faults.push(port.path("protocol").invalid(&value["protocol"], rule));
                }
                (_, Err(fault)) => faults.push(fault),
            }
        }
        Ok(slice)
    }
}
