//! A node's endpoints, in Calico's words.

use engine::{
    Engine,
    inspect::{InspectedEndpoint, InspectedTier},
};
use model::{
    Key, Kind, Stored,
    kinds::{Labels, Spec, parse_ip, parse_net},
};
use serde_json::{Map, Value, json};

use super::parameters::{Parameters, matches, node_labels};

/// The endpoints of the ambient mesh.
pub(super) const AMBIENT: &str = "istio.io/dataplane-mode == 'ambient' || \
    (pcns.istio.io/dataplane-mode == 'ambient' && istio.io/dataplane-mode != 'none')";

/// Workload endpoints and host endpoints, by name.
pub(super) fn of(
    engine: &Engine,
    node: &str,
    parameters: &Parameters,
) -> (Map<String, Value>, Map<String, Value>) {
    let (mut workloads, mut hosts) = (Map::new(), Map::new());
    let peers = bgp_peers(engine, node);
    for endpoint in engine.endpoints(node) {
        match endpoint.key.kind {
            Kind::WorkloadEndpoint => {
                workloads.extend(workload(engine, &endpoint, &peers, parameters));
            }
            _ => hosts.extend(host(engine, &endpoint)),
        }
    }
    (workloads, hosts)
}

fn tiers(tiers: &[InspectedTier]) -> Value {
    let tiers = tiers.iter().map(|tier| {
        let ids =
            |ids: &[model::view::PolicyId]| ids.iter().map(ToString::to_string).collect::<Vec<_>>();
        json!({
            "name": tier.name.as_str(),
            "default_action": match tier.default_pass {
                Some(true) => "Pass",
                Some(false) => "Deny",
                None => "",
            },
            "ingress": ids(&tier.ingress),
            "egress": ids(&tier.egress),
        })
    });
    tiers.collect()
}

fn texts<T: ToString>(items: &[T]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

fn workload(
    engine: &Engine,
    endpoint: &InspectedEndpoint,
    peers: &[(String, String)],
    parameters: &Parameters,
) -> Option<(String, Value)> {
    let Spec::WorkloadEndpoint(read) = engine.read(&endpoint.key)?.spec else { return None };
    // Calico knows no pending endpoints.
    if read.addresses.is_empty() {
        return None;
    }
    let id = &read.id;
    let name =
        format!("{}/{}/{}/{}", id.orchestrator, endpoint.key.namespace, id.workload, id.endpoint);
    let (v6, v4): (Vec<_>, Vec<_>) =
        read.addresses.iter().copied().partition(|net| net.addr().is_ipv6());
    let mut out = json!({
        "state": "active",
        "name": read.interface.as_str(),
        "mac": read.mac.as_str(),
        "profiles": texts(&read.profiles),
        "ipv4_nets": texts(&v4),
        "ipv6_nets": texts(&v6),
        "tiers": tiers(&endpoint.tiers),
    });
    let mut set = |name: &str, value: Value| {
        let is_empty = value.as_array().is_some_and(Vec::is_empty)
            || value.as_object().is_some_and(Map::is_empty);
        if !value.is_null() && !is_empty {
            out[name] = value;
        }
    };
    let Some(Stored::Json(stored)) = engine.object(&endpoint.key) else { return None };
    let spec = &stored["spec"];
    set("ipv4_nat", nats(&spec["ipNATs"], false));
    set("ipv6_nat", nats(&spec["ipNATs"], true));
    if parameters.spoofing {
        let prefixes = spec["allowSpoofedSourcePrefixes"].as_array().into_iter().flatten();
        let prefixes = prefixes.filter_map(|text| Some(parse_net(text.as_str()?)?.trunc()));
        set("allow_spoofed_source_prefixes", json!(texts(&prefixes.collect::<Vec<_>>())));
    }
    let limits = &spec["qosControls"];
    set("qos_controls", controls(limits));
    set("qos_policies", marks(&limits["dscp"]));
    // What is limited can't take the short way.
    let limited = [("ingress", "ingressBandwidth"), ("egress", "egressBandwidth")].into_iter();
    let limited = limited.filter(|(_, field)| limits[*field].as_i64().is_some_and(|it| it != 0));
    set("skip_redir", limited.map(|(name, _)| (name.to_owned(), json!(true))).collect());
    let peer = peers.iter().find(|(_, selector)| matches(selector, &endpoint.labels));
    set("local_bgp_peer", peer.map_or(Value::Null, |(name, _)| json!({"bgp_peer_name": name})));
    if parameters.ambient && matches(AMBIENT, &endpoint.labels) {
        set("is_istio_ambient", json!(true));
    }
    let annotations = engine.metadata(&endpoint.key)?.annotations;
    set("annotations", map(&annotations));
    if endpoint.labels.iter().any(|(key, value)| key == "kubevirt.io" && value == "virt-launcher") {
        set("type", json!("VM"));
    }
    Some((name, out))
}

fn map(labels: &Labels) -> Value {
    let fields = labels.iter().map(|(key, value)| (key.to_string(), json!(value.as_str())));
    Value::Object(fields.collect())
}

fn nats(written: &Value, v6: bool) -> Value {
    let nats = written.as_array().into_iter().flatten().filter_map(|nat| {
        let [inside, outside] =
            ["internalIP", "externalIP"].map(|it| nat[it].as_str().and_then(parse_ip));
        let (inside, outside) = (inside?, outside?);
        (inside.is_ipv6() == v6)
            .then(|| json!({"ext_ip": outside.to_string(), "int_ip": inside.to_string()}))
    });
    nats.collect()
}

/// Numbers of 64 bits are text, and zeros are left out, as in protobuf's JSON.
fn controls(written: &Value) -> Value {
    let limits = written.as_object().into_iter().flatten().filter(|(name, _)| *name != "dscp");
    let fields = limits.filter_map(|(name, value)| {
        let number = value.as_i64().filter(|number| *number != 0)?;
        let mut snake = String::new();
        for letter in name.chars() {
            if letter.is_ascii_uppercase() {
                snake.push('_');
            }
            snake.push(letter.to_ascii_lowercase());
        }
        Some((snake, json!(number.to_string())))
    });
    Value::Object(fields.collect())
}

/// The annotation of a host endpoint that says how its packets are marked.
const DSCP: &str = "qos.projectcalico.org/dscp";

/// How packets are marked: a code point, or its name.
fn marks(written: &Value) -> Value {
    let named = |name: &str| {
        let number = |from: &str| name.strip_prefix(from)?.parse::<u64>().ok();
        match name {
            "DF" => Some(0),
            "EF" => Some(46),
            // Class and drop precedence; the class alone.
            _ => number("AF").map(|n| n / 10 * 8 + n % 10 * 2).or_else(|| Some(number("CS")? * 8)),
        }
    };
    let text = |text: &str| text.parse().ok().or_else(|| named(&text.trim().to_uppercase()));
    let point = written.as_u64().or_else(|| text(written.as_str()?));
    match point.filter(|point| *point < 64) {
        None => json!([]),
        Some(0) => json!([{}]),
        Some(point) => json!([{ "dscp": point }]),
    }
}

fn host(engine: &Engine, endpoint: &InspectedEndpoint) -> Option<(String, Value)> {
    let Spec::HostEndpoint(read) = engine.read(&endpoint.key)?.spec else { return None };
    let (v6, v4): (Vec<_>, Vec<_>) =
        read.addresses.iter().copied().partition(std::net::IpAddr::is_ipv6);
    let mut out = json!({
        "name": read.interface.as_str(),
        "expected_ipv4": texts(&v4),
        "expected_ipv6": texts(&v6),
        "profiles": texts(&read.profiles),
        "tiers": tiers(&endpoint.tiers),
        "untracked_tiers": tiers(&endpoint.untracked),
        "pre_dnat_tiers": tiers(&endpoint.pre_dnat),
        "forward_tiers": tiers(&endpoint.forward),
    });
    let annotations = engine.metadata(&endpoint.key)?.annotations;
    if let Some((_, dscp)) = annotations.iter().find(|(name, _)| name == DSCP) {
        let marks = marks(&json!(dscp.as_str()));
        if marks != json!([]) {
            out["qos_policies"] = marks;
        }
    }
    Some((endpoint.key.name.to_string(), out))
}

/// BGP peers of this node that select workloads: name and selector, sorted by name.
fn bgp_peers(engine: &Engine, node: &str) -> Vec<(String, String)> {
    let labels = node_labels(engine, node);
    let peers = engine.objects().filter_map(|(Key { kind, name, .. }, stored)| {
        let (Kind::BGPPeer, Stored::Json(value)) = (kind, stored) else { return None };
        let spec = &value["spec"];
        let text = |field: &str| spec[field].as_str().unwrap_or_default();
        let selector = text("localWorkloadSelector");
        let is_here = (text("node").is_empty() || text("node") == node)
            && (text("nodeSelector").is_empty() || matches(text("nodeSelector"), &labels));
        (is_here && !selector.is_empty()).then(|| (name.to_string(), selector.to_owned()))
    });
    peers.collect()
}
