//! What has addresses and labels: workload endpoints and network sets.

use arcstr::ArcStr;
use ipnet::IpNet;
use serde_json::Value;

use super::{
    Invalid, Labels, Metadata, net,
    node::{MAC_RULE, parse_mac},
    policy::{PortMatch, has_ports, named_protocol},
    read::{Fields, Path},
};
use crate::{Key, view::Protocol};

/// The label that holds an endpoint's service account.
const SERVICE_ACCOUNT_LABEL: ArcStr = arcstr::literal!("projectcalico.org/serviceaccount");
/// The label that holds the namespace of endpoints and network sets.
const NAMESPACE_LABEL: ArcStr = arcstr::literal!("projectcalico.org/namespace");

/// Whose endpoint it is; with the namespace of its key it names the endpoint.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId {
    /// The node that it is on.
    pub node: ArcStr,
    /// For example `k8s`.
    pub orchestrator: ArcStr,
    /// The pod, container or virtual machine.
    pub workload: ArcStr,
    /// The interface, for example `eth0`.
    pub endpoint: ArcStr,
}

impl EndpointId {
    /// Takes an endpoint's name apart: `<node>-<orchestrator>-<workload>-<endpoint>`, with each
    /// dash in a part doubled. The name decides, as in Calico: what the spec repeats of it doesn't
    /// count.
    pub fn parse(name: &str) -> Option<Self> {
        let mut parts = Parts { rest: Some(name) };
        let mut next = || parts.next().filter(|part| !part.is_empty());
        let id =
            Self { node: next()?, orchestrator: next()?, workload: next()?, endpoint: next()? };
        parts.rest.is_none().then_some(id)
    }
}

/// The parts of an endpoint's name, which single dashes divide.
struct Parts<'n> {
    rest: Option<&'n str>,
}

impl Iterator for Parts<'_> {
    type Item = ArcStr;

    fn next(&mut self) -> Option<ArcStr> {
        let text = self.rest.take()?;
        let bytes = text.as_bytes();
        let (mut end, mut has_dashes) = (0, false);
        while end < bytes.len() {
            if bytes[end] == b'-' {
                if bytes.get(end + 1) != Some(&b'-') {
                    self.rest = Some(&text[end + 1..]);
                    break;
                }
                has_dashes = true;
                end += 1;
            }
            end += 1;
        }
        let part = &text[..end];
        if !has_dashes {
            return Some(part.into());
        }
        let mut undoubled = String::with_capacity(part.len());
        // Of each two dashes the second one.
        let mut is_second = false;
        for c in part.chars() {
            if c != '-' || is_second {
                undoubled.push(c);
            }
            is_second = c == '-' && !is_second;
        }
        Some(undoubled.into())
    }
}

/// A port of an endpoint that rules can name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointPort {
    /// What rules call it.
    pub name: ArcStr,
    /// TCP, UDP or SCTP.
    pub protocol: Protocol,
    /// Its number.
    pub port: u16,
}

/// `WorkloadEndpoint`. It is whole or absent: half an endpoint would be reachable by the half of
/// its policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadEndpoint {
    /// From the object's name.
    pub id: EndpointId,
    /// Name of the host's side of its link.
    pub interface: ArcStr,
    /// In lower case with colons; empty: unknown.
    pub mac: ArcStr,
    /// Host bits cleared. Empty: the endpoint is pending, on its node but without an address.
    pub addresses: Vec<IpNet>,
    /// In order.
    pub profiles: Vec<ArcStr>,
    /// Those that have a name.
    pub ports: Vec<EndpointPort>,
    /// Empty: none.
    pub service_account: ArcStr,
}

impl WorkloadEndpoint {
    pub(super) fn read(
        key: &Key,
        spec: Fields<'_>,
        faults: &mut Vec<Invalid>,
    ) -> Result<Self, Invalid> {
        let Some(id) = EndpointId::parse(&key.name) else {
            return Err(Invalid {
                field: "metadata.name".to_owned(),
                value: super::show(&Value::from(key.name.as_str())),
                reason: "must be <node>-<orchestrator>-<workload>-<endpoint>, with each dash in a \
                         part doubled"
                    .to_owned(),
            });
        };
        let interface = spec.text("interfaceName")?;
        if interface.is_empty() {
            return Err(spec.path("interfaceName").missing("must name the host's interface"));
        }
        let mac = match spec.str("mac")? {
            "" => ArcStr::new(),
            text => parse_mac(text)
                .ok_or_else(|| spec.path("mac").invalid(&Value::from(text), MAC_RULE))?,
        };
        let addresses = parse_all(spec, "ipNetworks", "must be an address or a CIDR", |text| {
            net::parse_net(text).map(|net| net.trunc())
        })?;
        for (name, v6) in [("ipv4Gateway", false), ("ipv6Gateway", true)] {
            let text = spec.str(name)?;
            // With a prefix or without, as in Calico.
            if !text.is_empty() && net::parse_net(text).is_none_or(|ip| ip.addr().is_ipv6() != v6) {
                let rule = "must be an address of that family";
                return Err(spec.path(name).invalid(&Value::from(text), rule));
            }
        }
        if !spec.list("allowSpoofedSourcePrefixes")?.is_empty() {
            faults.push(
                spec.path("allowSpoofedSourcePrefixes")
                    .missing("not supported: nothing is spoofed"),
            );
        }
        let ports = read_ports(spec)?;
        Ok(Self {
            id,
            interface,
            mac,
            addresses,
            profiles: spec.texts("profiles")?,
            ports,
            service_account: spec.shared("serviceAccountName")?,
        })
    }

    /// Its own labels as selectors see them, sorted: without those that only profiles may give, and
    /// with its service account.
    pub fn own_labels(&self, metadata: Metadata) -> Labels {
        let mut labels = metadata.labels;
        labels.retain(|(key, _)| !key.starts_with("pcns.") && !key.starts_with("pcsa."));
        if !self.service_account.is_empty() {
            set(&mut labels, SERVICE_ACCOUNT_LABEL, self.service_account.clone());
        }
        labels
    }
}

/// Those that have a name.
pub(super) fn read_ports(spec: Fields<'_>) -> Result<Vec<EndpointPort>, Invalid> {
    let path = spec.path("ports");
    let mut ports = Vec::new();
    for (index, value) in spec.list("ports")?.iter().enumerate() {
        ports.extend(read_port(&path.index(index), value)?);
    }
    Ok(ports)
}

/// None: a port without a name, which no rule can mean.
fn read_port(path: &Path<'_>, value: &Value) -> Result<Option<EndpointPort>, Invalid> {
    let port = Fields::of(path, Some(value))?;
    let name = port.text("name")?;
    if name.is_empty() {
        return Ok(None);
    }
    if PortMatch::parse(&name) != Some(PortMatch::Named(name.clone())) {
        let rule = "must be a name of letters, digits, dots, dashes and underscores";
        return Err(port.path("name").invalid(&Value::from(name.as_str()), rule));
    }
    let protocol = port.get("protocol").unwrap_or(&Value::Null);
    let known = protocol.as_str().and_then(named_protocol).filter(|p| has_ports(*p));
    let Some(known) = known else {
        return Err(port.path("protocol").invalid(protocol, "must be TCP, UDP or SCTP"));
    };
    match port.int("port", 1, u16::MAX)? {
        Some(port) => Ok(Some(EndpointPort { name, protocol: known, port })),
        None => Err(port.path("port").missing("must be a port number")),
    }
}

/// `NetworkSet`, `GlobalNetworkSet`. A member that can't be read is skipped alone.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct NetworkSet {
    /// Host bits cleared.
    pub nets: Vec<IpNet>,
}

impl NetworkSet {
    pub(super) fn read(spec: Fields<'_>, faults: &mut Vec<Invalid>) -> Result<Self, Invalid> {
        let path = spec.path("nets");
        let mut nets = Vec::new();
        for (index, value) in spec.list("nets")?.iter().enumerate() {
            match value.as_str().and_then(net::parse_net) {
                Some(net) => nets.push(net.trunc()),
                None => faults.push(
                    path.index(index).invalid(value, "must be an address or a CIDR: left out"),
                ),
            }
        }
        Ok(Self { nets })
    }

    /// Labels as selectors see them, sorted: a set in a namespace carries its namespace.
    pub fn own_labels(metadata: &Metadata, namespace: &str) -> Labels {
        let mut labels = metadata.labels.clone();
        if !namespace.is_empty() {
            set(&mut labels, NAMESPACE_LABEL, namespace.into());
        }
        labels
    }
}

fn set(labels: &mut Labels, key: ArcStr, value: ArcStr) {
    match labels.binary_search_by(|(k, _)| k.cmp(&key)) {
        Ok(index) => labels[index].1 = value,
        Err(index) => labels.insert(index, (key, value)),
    }
}

/// Reads a list of texts, of which each must parse.
fn parse_all<'a, T>(
    fields: Fields<'a>,
    name: &'a str,
    rule: &str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Vec<T>, Invalid> {
    let path = fields.path(name);
    let items = fields.list(name)?.iter().enumerate();
    items
        .map(|(index, value)| {
            value.as_str().and_then(&parse).ok_or_else(|| path.index(index).invalid(value, rule))
        })
        .collect()
}
