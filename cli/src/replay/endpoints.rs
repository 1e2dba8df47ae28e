//! A node's endpoints, in Calico's words.

use engine::{
    Engine,
    inspect::{InspectedEndpoint, InspectedTier},
};
use model::{
    Key, Kind, Stored,
    kinds::{Spec, parse_ip, parse_net},
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
    set("qos_policies", limits.get("dscp").map_or(Value::Null, |dscp| mark(of_workload(dscp))));
    // What is limited can't take the short way, nor can packets to virtual machines.
    let metadata = engine.metadata(&endpoint.key)?;
    let is_machine = metadata
        .labels
        .iter()
        .any(|(key, value)| (key.as_str(), value.as_str()) == ("kubevirt.io", "virt-launcher"));
    let limited = |names: [&str; 2]| {
        names.iter().any(|name| limits[name].as_i64().is_some_and(|limit| limit > 0))
    };
    let skips = [
        ("ingress", is_machine || limited(["ingressBandwidth", "ingressPacketRate"])),
        ("egress", limited(["egressBandwidth", "egressPacketRate"])),
    ];
    let skips = skips.into_iter().filter(|(_, skips)| *skips);
    set("skip_redir", skips.map(|(name, _)| (name.to_owned(), json!(true))).collect());
    let peer = peers.iter().find(|(_, selector)| matches(selector, &endpoint.labels));
    set("local_bgp_peer", peer.map_or(Value::Null, |(name, _)| json!({"bgp_peer_name": name})));
    if parameters.ambient && matches(AMBIENT, &endpoint.labels) {
        set("is_istio_ambient", json!(true));
    }
    set("annotations", stored["metadata"]["annotations"].clone());
    // Shown even when nothing but a mark is in them.
    if let Some(controls) = controls(limits) {
        out["qos_controls"] = controls;
    }
    Some((name, out))
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

/// Numbers of 64 bits are text, and zeros are left out, as in protobuf's JSON; none: there are no
/// controls.
fn controls(written: &Value) -> Option<Value> {
    let limits = written.as_object()?.iter().filter(|(name, _)| *name != "dscp");
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
    Some(Value::Object(fields.collect()))
}

/// The annotation of a host endpoint that says how its packets are marked.
const DSCP: &str = "qos.projectcalico.org/dscp";

/// The code point of a number or a name; none: it is neither.
fn code_point(text: &str) -> Option<u64> {
    let name = text.trim().to_uppercase();
    // Of an assured forwarding the class and the drop precedence, of a class selector the class.
    let digits = name.bytes().rev().map_while(|b| (b as char).to_digit(10)).map(u64::from);
    let digits = digits.collect::<Vec<_>>();
    match (name.trim_end_matches(|c: char| c.is_ascii_digit()), &*digits) {
        ("DF", []) => Some(0),
        ("EF", []) => Some(46),
        ("AF", [drop @ 1..=3, class @ 1..=4]) => Some(class * 8 + drop * 2),
        ("CS", [class @ 0..=6]) => Some(class * 8),
        _ => text.parse::<u8>().ok().map(u64::from),
    }
}

/// Of a workload nothing is checked: what is no name marks with 0.
fn of_workload(dscp: &Value) -> Option<u64> {
    let text = |text: &str| code_point(text).unwrap_or_default();
    dscp.as_u64().or_else(|| dscp.as_str().map(text))
}

/// How packets are marked. Zeros are left out, as in protobuf's JSON.
fn mark(point: Option<u64>) -> Value {
    match point {
        None => Value::Null,
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
    if let Some((_, dscp)) = annotations.iter().find(|(name, _)| name == DSCP)
        && let Some(point) = code_point(dscp).filter(|point| *point < 64)
    {
        out["qos_policies"] = mark(Some(point));
    }
    let Some(Stored::Json(stored)) = engine.object(&endpoint.key) else { return None };
    // The value says the name, not the key.
    let name = stored["metadata"]["name"].as_str().unwrap_or_default();
    Some((name.to_owned(), out))
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
