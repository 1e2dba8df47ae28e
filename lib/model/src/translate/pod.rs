//! `Pod`: the workload endpoint of its one interface.

use std::collections::BTreeMap;

use ipnet::IpNet;
use serde_json::{Map, Value, json};
use sha1::{Digest, Sha1};

use super::{
    decode::Decode,
    kubernetes::{Container, ContainerPort, Pod},
    metadata, profile, qos,
    report::Report,
    rule,
};
use crate::kinds::parse_net;

/// Written by Calico's CNI plugin; empty once it took the address back.
const POD_IP: &str = "cni.projectcalico.org/podIP";
/// The same for several addresses.
const POD_IPS: &str = "cni.projectcalico.org/podIPs";
/// The same by the CNI plugin of AWS.
const AWS_POD_IPS: &str = "vpc.amazonaws.com/pod-ips";
const CONTAINER_ID: &str = "cni.projectcalico.org/containerID";
const FLOATING_IPS: &str = "cni.projectcalico.org/floatingIPs";
const SOURCE_PREFIXES: &str = "cni.projectcalico.org/allowedSourcePrefixes";
/// The only annotation that the endpoint keeps.
const NETWORK_STATUS: &str = "k8s.v1.cni.cncf.io/network-status";

/// What follows from a fault in what gives the endpoint its place or its addresses.
const NO_ENDPOINT: &str = "the pod is left out";

/// The endpoint; none: the pod has no node, or a name or an address that is none.
///
/// A pod without an address, or one that gave it back, is an endpoint without one.
pub(super) fn translate(pod: &Pod, report: &mut Report) -> Option<Value> {
    report.with_consequence(NO_ENDPOINT, |report| {
        let (meta, spec) = (&pod.metadata, &pod.spec);
        let name = name(pod, report)?;
        let mut nets = addresses(pod, report)?;
        if is_finished(pod) {
            nets.clear();
        }
        let mut object = metadata::object("WorkloadEndpoint", &name, &meta.namespace);
        if let Some(Value::Object(fields)) = object.get_mut("metadata") {
            metadata::set(fields, "generateName", &meta.generate_name);
            metadata::set(fields, "uid", &meta.uid);
            metadata::set(fields, "creationTimestamp", &meta.creation_timestamp.0);
            fields.insert("labels".to_owned(), json!(labels(pod)));
            if let Some(status) = meta.annotations.get(NETWORK_STATUS) {
                fields.insert("annotations".to_owned(), json!({ NETWORK_STATUS: status }));
            }
        }
        let mut endpoint = Map::new();
        for (field, text) in [
            ("orchestrator", "k8s"),
            ("node", &spec.node_name),
            ("pod", &meta.name),
            ("endpoint", "eth0"),
            ("serviceAccountName", &spec.service_account_name),
            ("interfaceName", &interface_name(&meta.namespace, &meta.name)),
            ("containerID", meta.annotations.get(CONTAINER_ID).map_or("", |id| id)),
        ] {
            metadata::set(&mut endpoint, field, text);
        }
        endpoint.insert("profiles".to_owned(), json!(profiles(pod)));
        let floating = floating_ips(pod, &nets, report)?;
        let prefixes = source_prefixes(pod, report)?;
        let ports = report.with_consequence("", |report| ports(pod, report));
        let nets = nets.into_iter().map(Address::into_text).map(Value::String).collect();
        for (field, items) in [
            ("ipNetworks", nets),
            ("ipNATs", floating),
            ("allowSpoofedSourcePrefixes", prefixes),
            ("ports", ports),
        ] {
            if !items.is_empty() {
                endpoint.insert(field.to_owned(), Value::Array(items));
            }
        }
        let controls = qos::controls(&meta.annotations);
        if !controls.is_empty() {
            endpoint.insert("qosControls".to_owned(), Value::Object(controls));
        }
        object.insert("spec".to_owned(), Value::Object(endpoint));
        Some(Value::Object(object))
    })
}

/// `<node>-k8s-<pod>-eth0`, where each dash inside of a part is doubled. So a part can't begin or
/// end with one.
fn name(pod: &Pod, report: &mut Report) -> Option<String> {
    let node = report.at("spec", |report| {
        report.at("nodeName", |report| part(&pod.spec.node_name, "a node", report))
    });
    let pod = report.at("metadata", |report| {
        report.at("name", |report| part(&pod.metadata.name, "a name", report))
    });
    Some(endpoint_name(node?, pod?))
}

fn part<'a>(text: &'a str, what: &str, report: &mut Report) -> Option<&'a str> {
    if text.is_empty() {
        report.fault(Value::Null, format!("it must have {what}"));
        return None;
    }
    if text.starts_with('-') || text.ends_with('-') {
        report.fault(text, "must not begin or end with a dash");
        return None;
    }
    Some(text)
}

/// The name of a pod's workload endpoint. Dashes are doubled, so that the single ones separate.
pub fn endpoint_name(node: &str, pod: &str) -> String {
    let doubled = |text: &str| text.replace('-', "--");
    format!("{}-k8s-{}-eth0", doubled(node), doubled(pod))
}

/// The host's end of the pod's interface, as the CNI plugin names it.
pub fn interface_name(namespace: &str, pod: &str) -> String {
    let hash = Sha1::digest(format!("{namespace}.{pod}"));
    // 6 bytes are 12 digits, of which 11 are in the name.
    let start = hash[..6].iter().fold(0, |start, byte| start << 8 | u64::from(*byte));
    format!("cali{:011x}", start >> 4)
}

/// The pod's own, and those by which Calico's policies know it, which none of its own can replace.
fn labels(pod: &Pod) -> BTreeMap<&str, &str> {
    let mut labels: BTreeMap<&str, &str> =
        pod.metadata.labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    labels.insert("projectcalico.org/namespace", &pod.metadata.namespace);
    labels.insert("projectcalico.org/orchestrator", "k8s");
    let account = pod.spec.service_account_name.as_str();
    // A longer name doesn't fit in a label; Calico leaves out one of 63 too, which would.
    if (1..63).contains(&account.len()) {
        labels.insert("projectcalico.org/serviceaccount", account);
    }
    labels
}

fn profiles(pod: &Pod) -> Vec<String> {
    let namespace = &pod.metadata.namespace;
    let account = &pod.spec.service_account_name;
    let mut profiles = vec![profile::namespace_profile(namespace)];
    if !account.is_empty() {
        profiles.push(profile::service_account_profile(namespace, account));
    }
    profiles
}

/// An address of a pod.
#[derive(Clone, Copy)]
enum Address {
    Net(IpNet),
    /// An empty text in a list of addresses.
    Empty,
}

impl Address {
    /// As in Calico, where an empty one is no error.
    fn into_text(self) -> String {
        match self {
            Self::Net(net) => net.to_string(),
            Self::Empty => "<nil>".to_owned(),
        }
    }
}

/// The first of these that isn't empty: the status, the annotations of Calico's CNI plugin, the
/// annotation of AWS.
fn addresses(pod: &Pod, report: &mut Report) -> Option<Vec<Address>> {
    let annotation = |name| pod.metadata.annotations.get(name).filter(|text| !text.is_empty());
    let status = &pod.status;
    let (place, texts): ([&'static str; 2], Vec<&str>) = if !status.pod_ips.is_empty() {
        (["status", "podIPs"], status.pod_ips.iter().map(|it| it.ip.as_str()).collect())
    } else if !status.pod_ip.is_empty() {
        (["status", "podIP"], vec![&status.pod_ip])
    } else if let Some(texts) = annotation(POD_IPS) {
        (["metadata.annotations", POD_IPS], texts.split(',').collect())
    } else if let Some(text) = annotation(POD_IP) {
        (["metadata.annotations", POD_IP], vec![text])
    } else if let Some(texts) = annotation(AWS_POD_IPS) {
        (["metadata.annotations", AWS_POD_IPS], texts.split(',').collect())
    } else {
        return Some(Vec::new());
    };
    report.at(place[0], |report| {
        report.at(place[1], |report| {
            let addresses: Vec<_> = texts.iter().map(|text| address(text, report)).collect();
            addresses.into_iter().collect()
        })
    })
}

/// With a prefix, the net: its host bits are cleared.
fn address(text: &str, report: &mut Report) -> Option<Address> {
    if text.is_empty() {
        return Some(Address::Empty);
    }
    let net = parse_net(text);
    if net.is_none() {
        report.fault(text, "must be an address such as 10.0.0.1 or fd00::1");
    }
    net.map(|net| Address::Net(net.trunc()))
}

/// Whether its address is no longer its own: it ended, or its CNI plugin took it back.
fn is_finished(pod: &Pod) -> bool {
    let is_gone = |name| pod.metadata.annotations.get(name).is_some_and(String::is_empty);
    let is_being_deleted = pod.metadata.deletion_timestamp.is_some();
    (is_being_deleted && (is_gone(POD_IP) || is_gone(AWS_POD_IPS)))
        || matches!(pod.status.phase.as_str(), "Succeeded" | "Failed" | "Completed")
}

/// A list of texts that an annotation holds as JSON; `null` is empty.
fn json_list(text: &str, report: &mut Report) -> Option<Vec<String>> {
    let list = match serde_json::from_str::<Value>(text) {
        Ok(Value::Null) => Ok(Vec::new()),
        Ok(value) => Vec::decode(&value).map_err(|invalid| invalid.to_string()),
        Err(error) => Err(error.to_string()),
    };
    if let Err(error) = &list {
        report.fault(text, format!("must be a list such as [\"10.0.0.1\"] in JSON ({error})"));
    }
    list.ok()
}

/// To the last of the pod's addresses of the same family.
fn floating_ips(pod: &Pod, nets: &[Address], report: &mut Report) -> Option<Vec<Value>> {
    let Some(text) = pod.metadata.annotations.get(FLOATING_IPS).filter(|_| !nets.is_empty()) else {
        return Some(Vec::new());
    };
    report.at("metadata.annotations", |report| {
        report.at(FLOATING_IPS, |report| {
            let floating = json_list(text, report)?;
            let (mut v4, mut v6) = (None, None);
            for net in nets {
                match net {
                    Address::Net(net) if net.prefix_len() == net.max_prefix_len() => match net {
                        IpNet::V4(net) => v4 = Some(net.addr().to_string()),
                        IpNet::V6(net) => v6 = Some(net.addr().to_string()),
                    },
                    // In Calico an empty one is of IPv6.
                    Address::Empty => v6 = Some(net.into_text()),
                    Address::Net(_) => {
                        let reason = "the pod must have single addresses to have floating ones";
                        report.fault(net.into_text(), reason);
                        return None;
                    }
                }
            }
            let targets = floating.iter().filter_map(|floating| {
                let target = if floating.contains(':') { &v6 } else { &v4 };
                let target = target.as_ref()?;
                Some(json!({ "internalIP": target, "externalIP": floating }))
            });
            Some(targets.collect())
        })
    })
}

/// Nets that the pod may send from though they aren't its own.
fn source_prefixes(pod: &Pod, report: &mut Report) -> Option<Vec<Value>> {
    let annotations = &pod.metadata.annotations;
    let Some(text) = annotations.get(SOURCE_PREFIXES).filter(|text| !text.is_empty()) else {
        return Some(Vec::new());
    };
    report.at("metadata.annotations", |report| {
        report.at(SOURCE_PREFIXES, |report| {
            let prefixes = json_list(text, report)?;
            let nets: Vec<_> = prefixes.iter().map(|text| rule::cidr(text, report)).collect();
            nets.into_iter().map(|net| Some(json!(net?.to_string()))).collect()
        })
    })
}

/// Those that a policy can name or that the host forwards, of all containers.
fn ports(pod: &Pod, report: &mut Report) -> Vec<Value> {
    let mut found = Vec::new();
    let mut add = |field: &'static str, containers: &[Container], report: &mut Report| {
        report.at(field, |report| {
            for (index, container) in containers.iter().enumerate() {
                report.at(index, |report| {
                    report.at("ports", |report| {
                        for (index, it) in container.ports.iter().enumerate() {
                            found.extend(report.at(index, |report| port(it, report)));
                        }
                    });
                });
            }
        });
    };
    report.at("spec", |report| {
        add("containers", &pod.spec.containers, report);
        add("initContainers", &pod.spec.init_containers, report);
    });
    found
}

/// A number that isn't a port's is left out: cut to 16 bits, it would open another port.
fn port(port: &ContainerPort, report: &mut Report) -> Option<Value> {
    if port.container_port == 0 || (port.host_port == 0 && port.name.is_empty()) {
        return None;
    }
    let protocol = match port.protocol.as_str() {
        "" | "TCP" => "TCP",
        "UDP" => "UDP",
        "SCTP" => "SCTP",
        _ => return None,
    };
    let mut number = |field: &'static str, number: i32| {
        let read = u16::try_from(number).ok();
        if read.is_none() {
            let reason = "must be from 1 to 65535; the port is left out";
            report.at(field, |report| report.fault(number, reason));
        }
        read
    };
    let (container_port, host_port) =
        (number("containerPort", port.container_port), number("hostPort", port.host_port));
    Some(json!({
        "name": port.name,
        "protocol": protocol,
        "port": container_port?,
        "hostPort": host_port?,
        "hostIP": port.host_ip,
    }))
}
