//! What Calico's resources allow, by a naive evaluation of their JSON.

use std::collections::BTreeMap;

use bulrush_model::{selector::Selector, translate::translate};
use ipnet::IpNet;
use serde_json::Value;

use crate::world::Probe;

/// Labels, addresses and ports of a pod.
struct Endpoint {
    labels: BTreeMap<String, String>,
    addresses: Vec<IpNet>,
    ports: Vec<(String, u64, String)>,
}

/// Resources and what they allow.
pub(crate) struct Cluster {
    /// By namespace and pod.
    endpoints: BTreeMap<(String, String), Endpoint>,
    /// In the order in which they decide.
    policies: Vec<Value>,
}

/// The tiers of translated policies, in their order, and whether they deny at their end.
const TIERS: [(&str, bool); 3] =
    [("kube-admin", false), ("default", true), ("kube-baseline", false)];

/// Translates these objects, and names what can't be translated.
pub(crate) fn translated(objects: impl Iterator<Item = Value>) -> (Cluster, Vec<String>) {
    let mut faults = Vec::new();
    let (mut policies, mut profiles, mut pods) = (Vec::new(), BTreeMap::new(), Vec::new());
    for object in objects {
        let translation = translate(&object);
        faults.extend(translation.faults.iter().map(ToString::to_string));
        for object in translation.objects {
            match text(&object["kind"]) {
                "Profile" => {
                    profiles.insert(text(&object["metadata"]["name"]).to_owned(), object);
                }
                "WorkloadEndpoint" => pods.push(object),
                _ => policies.push(object),
            }
        }
    }
    let order = |policy: &Value| policy["spec"]["order"].as_f64().expect("an order");
    policies.sort_by(|a, b| order(a).total_cmp(&order(b)));
    let endpoints = pods.iter().map(|pod| {
        let name = (text(&pod["metadata"]["namespace"]), text(&pod["spec"]["pod"]));
        ((name.0.to_owned(), name.1.to_owned()), endpoint(pod, &profiles))
    });
    (Cluster { endpoints: endpoints.collect(), policies }, faults)
}

fn endpoint(pod: &Value, profiles: &BTreeMap<String, Value>) -> Endpoint {
    let inherited = items(&pod["spec"]["profiles"])
        .filter_map(|name| profiles.get(text(name))?["spec"]["labelsToApply"].as_object());
    let own = pod["metadata"]["labels"].as_object().expect("labels");
    let labels = inherited.chain([own]).flatten();
    let port = |port: &Value| {
        let number = port["port"].as_u64().expect("a number");
        (text(&port["name"]).to_owned(), number, text(&port["protocol"]).to_owned())
    };
    Endpoint {
        labels: labels.map(|(key, value)| (key.clone(), text(value).to_owned())).collect(),
        addresses: items(&pod["spec"]["ipNetworks"])
            .map(|net| text(net).parse().expect("a net"))
            .collect(),
        ports: items(&pod["spec"]["ports"]).map(port).collect(),
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// One connection, and whose policies decide.
struct Packet<'a> {
    source: &'a Endpoint,
    destination: &'a Endpoint,
    port: u16,
    protocol: &'a str,
}

impl Cluster {
    pub(crate) fn allows(&self, probe: &Probe) -> bool {
        let name = |namespace: &str, name: &str| (namespace.to_owned(), name.to_owned());
        let from = name(probe.from.namespace, probe.from.name);
        let to = name(probe.to.namespace, probe.to.name);
        self.connects(&from, &to, probe.port, probe.protocol)
    }

    pub(crate) fn connects(
        &self,
        from: &(String, String),
        to: &(String, String),
        port: u16,
        protocol: &str,
    ) -> bool {
        let (source, destination) = (&self.endpoints[from], &self.endpoints[to]);
        let packet = Packet { source, destination, port, protocol };
        self.decide("egress", source, &packet) && self.decide("ingress", destination, &packet)
    }

    fn decide(&self, direction: &str, subject: &Endpoint, packet: &Packet<'_>) -> bool {
        'tiers: for (tier, denies) in TIERS {
            let applies = |policy: &&Value| {
                policy["spec"]["tier"] == tier
                    && acts(policy, direction)
                    && selects(policy, &policy["spec"], subject)
            };
            let policies: Vec<_> = self.policies.iter().filter(applies).collect();
            for policy in &policies {
                for rule in items(&policy["spec"][direction]) {
                    if matches(policy, rule, packet) {
                        match text(&rule["action"]) {
                            "Allow" => return true,
                            "Deny" => return false,
                            "Pass" => continue 'tiers,
                            other => panic!("action {other:?}"),
                        }
                    }
                }
            }
            if denies && !policies.is_empty() {
                return false;
            }
        }
        // The namespace's profile.
        true
    }
}

fn acts(policy: &Value, direction: &str) -> bool {
    let types = &policy["spec"]["types"];
    types.is_null() || items(types).any(|name| text(name).eq_ignore_ascii_case(direction))
}

/// By `selector` and `namespaceSelector` of a spec or of one side of a rule. A selector of a
/// namespaced policy speaks of its own namespace, unless a namespace selector says which.
fn selects(policy: &Value, side: &Value, endpoint: &Endpoint) -> bool {
    let selectors = [&side["selector"], &side["namespaceSelector"]].map(|it| it.as_str());
    let parse = |text: &str| Selector::parse(text).expect("a selector");
    let own_labels = selectors[0].is_none_or(|text| parse(text).matches(&endpoint.labels));
    let namespace = match (selectors[1], policy["metadata"]["namespace"].as_str()) {
        (Some(text), _) => {
            let in_one = Selector::has("projectcalico.org/namespace").expect("a label");
            let selector = parse(text)
                .map_labels(|label| format!("pcns.{label}").into())
                .expect("labels")
                .replace_all(&in_one);
            selector.matches(&endpoint.labels)
        }
        (None, Some(namespace)) if selectors[0].is_some() => {
            endpoint.labels["projectcalico.org/namespace"] == namespace
        }
        (None, _) => true,
    };
    own_labels && namespace
}

fn matches(policy: &Value, rule: &Value, packet: &Packet<'_>) -> bool {
    let sides = [(&rule["source"], packet.source), (&rule["destination"], packet.destination)];
    let protocol = rule["protocol"].as_str();
    protocol.is_none_or(|name| name == packet.protocol)
        && sides
            .iter()
            .all(|(side, endpoint)| selects(policy, side, endpoint) && is_in(side, endpoint))
        && has_port(&rule["destination"]["ports"], packet)
}

fn is_in(side: &Value, endpoint: &Endpoint) -> bool {
    let has_one_in = |nets: &Value| {
        let nets: Vec<IpNet> = items(nets).map(|net| text(net).parse().expect("a net")).collect();
        endpoint.addresses.iter().any(|it| nets.iter().any(|net| net.contains(it)))
    };
    (side["nets"].is_null() || has_one_in(&side["nets"])) && !has_one_in(&side["notNets"])
}

fn has_port(ports: &Value, packet: &Packet<'_>) -> bool {
    let wanted = u64::from(packet.port);
    ports.is_null()
        || items(ports).any(|port| match port {
            Value::String(range) => match range.split_once(':') {
                Some((first, last)) => {
                    let number = |text: &str| text.parse::<u64>().expect("a number");
                    (number(first)..=number(last)).contains(&wanted)
                }
                None => packet.destination.ports.iter().any(|(name, number, protocol)| {
                    name == range && *number == wanted && protocol == packet.protocol
                }),
            },
            number => number.as_u64() == Some(wanted),
        })
}
