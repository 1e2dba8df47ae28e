//! Services of Kubernetes: nobody's policies see their addresses, for packets to them are on their way to a backend before
//! any policy is asked.

use std::{collections::BTreeMap, net::IpAddr};

use serde_json::Value;

use super::objects::named;
use crate::resource::columns::scalar;

/// So many backends are named.
const NAMED: usize = 3;

/// The services among the manifests, and the pods that may be behind them.
#[derive(Debug, Default)]
pub(super) struct Services {
    services: Vec<Service>,
    pods: Vec<Backend>,
}

#[derive(Debug)]
struct Service {
    /// `namespace/name`.
    name: String,
    addresses: Vec<IpAddr>,
    /// Empty: somebody else says which pods are behind it.
    selector: BTreeMap<String, String>,
    ports: Vec<ServicePort>,
}

#[derive(Debug)]
struct ServicePort {
    number: String,
    /// A number, or the name of a container's port.
    target: String,
    protocol: String,
}

#[derive(Debug)]
struct Backend {
    name: String,
    labels: BTreeMap<String, String>,
    /// Numbers of its named ports.
    ports: BTreeMap<String, String>,
}

impl Services {
    /// Adds a Service or a Pod.
    pub(super) fn add(&mut self, object: &Value) {
        let (name, spec) = (named(object), &object["spec"]);
        if object["kind"] == "Service" {
            let addresses = ["clusterIP", "externalIPs", "clusterIPs", "loadBalancerIP"];
            let addresses = addresses.into_iter().flat_map(|field| texts(&spec[field]));
            let ingress = items(&object["status"]["loadBalancer"]["ingress"]);
            let addresses = addresses.chain(ingress.flat_map(|it| texts(&it["ip"])));
            let addresses = addresses.filter_map(|it| it.parse().ok()).collect();
            let ports = items(&spec["ports"]).map(ServicePort::read).collect();
            let selector = map(&spec["selector"]);
            self.services.push(Service { name, addresses, selector, ports });
        } else {
            let containers = items(&spec["containers"]).flat_map(|it| items(&it["ports"]));
            let ports = containers.map(|it| (scalar(&it["name"]), scalar(&it["containerPort"])));
            let (labels, ports) = (map(&object["metadata"]["labels"]), ports.collect());
            self.pods.push(Backend { name, labels, ports });
        }
    }

    /// What to ask in place of the service that has an address.
    pub(super) fn instead_of_address(&self, address: IpAddr) -> Option<String> {
        let service = self.services.iter().find(|it| it.addresses.contains(&address))?;
        Some(self.instead(&format!("{address} is an address of Service {}", service.name), service))
    }

    /// What to ask in place of the service of this name, `namespace/name`.
    pub(super) fn instead_of_name(&self, name: &str) -> Option<String> {
        let service = self.services.iter().find(|it| it.name == name)?;
        Some(self.instead(&format!("{name} is a Service"), service))
    }

    fn instead(&self, what: &str, service: &Service) -> String {
        let backends = self.backends(service);
        let way = match backends.len() {
            0 => "no pod here is behind it".to_owned(),
            more @ ..=NAMED => format!("ask for {}", backends[..more].join(" or ")),
            more => format!("ask for {} or {} more", backends[..NAMED].join(" or "), more - NAMED),
        };
        format!("{what}, and policies see the pods behind it: {way}")
    }

    /// The pods behind a service, each with the port that stands for one of its own.
    fn backends(&self, service: &Service) -> Vec<String> {
        let namespace = service.name.split('/').next();
        let is_behind = |pod: &&Backend| {
            pod.name.split('/').next() == namespace
                && !service.selector.is_empty()
                && service.selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value))
        };
        let of = |pod: &Backend| {
            let ports = service.ports.iter().filter_map(|port| {
                let numeric = port.target.bytes().all(|it| it.is_ascii_digit());
                let target =
                    if numeric { Some(&port.target) } else { pod.ports.get(&port.target) }?;
                let ServicePort { number, protocol, .. } = port;
                Some(format!("{}:{target}{protocol} (its port {number})", pod.name))
            });
            ports.collect::<Vec<_>>()
        };
        self.pods.iter().filter(is_behind).flat_map(of).collect()
    }
}

impl ServicePort {
    fn read(port: &Value) -> Self {
        let (number, target) = (scalar(&port["port"]), scalar(&port["targetPort"]));
        let protocol = match scalar(&port["protocol"]) {
            protocol if protocol.is_empty() || protocol == "TCP" => String::new(),
            protocol => format!("/{}", protocol.to_lowercase()),
        };
        // Without a target it is the same port.
        let target = if target.is_empty() { number.clone() } else { target };
        Self { number, target, protocol }
    }
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// One text, or a list of texts.
fn texts(value: &Value) -> Vec<String> {
    items(value).chain([value]).map(scalar).collect()
}

fn map(value: &Value) -> BTreeMap<String, String> {
    let fields = value.as_object().into_iter().flatten();
    fields.map(|(key, value)| (key.clone(), scalar(value))).collect()
}
