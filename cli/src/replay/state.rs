//! A node's state, all sections of it.

use std::collections::BTreeSet;

use arcstr::ArcStr;
use engine::{
    Effect, Engine,
    inspect::{InspectedSet, SetContent},
};
use model::{
    Key, Kind, Stored,
    kinds::{ClusterInformation, EndpointId, Spec},
    selector::Selector,
    view::IpSetKind,
};
use serde_json::{Map, Value, json};

use super::{endpoints, network, parameters::Parameters, rules};

/// What the engine has for this node.
pub(super) fn of(engine: &Engine, node: &str, parameters: &Parameters) -> Value {
    // Calico knows no pending endpoints.
    let policies = engine.policies_of(node, false);
    let profiles = engine.profiles_of(node, false);
    let named = policies.iter().map(|it| &it.sets).chain(profiles.values().map(|it| &it.sets));
    let named = named.flatten().cloned().collect::<BTreeSet<_>>();
    let (workloads, hosts) = endpoints::of(engine, node, parameters);
    let (namespaces, accounts) = network::owners(engine);
    let policies = policies.iter().map(|it| {
        let id = format!("{}/{}/{}", it.key.kind, it.key.namespace, it.key.name);
        (id, rules::policy(engine, it))
    });
    // One that isn't there has no rules but a denial.
    let profiles =
        profiles.iter().map(|(name, it)| (name.to_string(), rules::profile(engine, name, it)));
    let mut state = json!({
        "ip_sets": ip_sets(engine, &named, parameters),
        "policies": policies.collect::<Map<_, _>>(),
        "profiles": profiles.collect::<Map<_, _>>(),
        "workload_endpoints": workloads,
        "host_endpoints": hosts,
        "routes": if parameters.routes { network::routes(engine, node, parameters) } else { json!([]) },
        "vteps": if parameters.vteps { network::vteps(engine) } else { json!([]) },
        "host_metadata": network::host_metadata(engine, parameters),
        "ip_pools": network::ip_pools(engine),
        "encapsulation": {
            "ipip_enabled": parameters.ipip,
            "vxlan_enabled": parameters.vxlan,
            "vxlan_enabled_v6": parameters.vxlan_v6,
            "no_encap_enabled": parameters.no_encap,
        },
        "components": {"routes": parameters.routes, "vteps": parameters.vteps},
        "namespaces": namespaces,
        "service_accounts": accounts,
    });
    let wireguard = network::wireguard(engine);
    if !wireguard.is_empty() {
        state["wireguard"] = Value::Object(wireguard);
    }
    if let Some(bgp) = network::global_bgp(engine) {
        state["global_bgp"] = bgp;
    }
    let absent = absent(engine);
    if !absent.is_empty() {
        state["validation_dropped"] = json!(absent);
    }
    if !is_ready(engine) {
        state["datastore_not_ready"] = json!(true);
    }
    state
}

/// Objects that are read and yet count as absent, in the words of Calico's filter. A policy of
/// which only rules can't be expressed isn't absent here.
fn absent(engine: &Engine) -> Vec<String> {
    let mut names = Vec::new();
    for (key, problem) in engine.problems() {
        let Key { kind, namespace, name } = key;
        let field = problem.faults.first().map(|fault| fault.field.as_str()).unwrap_or_default();
        let absent = problem.effect == Effect::Absent;
        names.extend(match kind {
            Kind::WorkloadEndpoint
                if absent && (field == "spec.interfaceName" || field.starts_with("spec.ports")) =>
            {
                EndpointId::parse(name).map(|id| {
                    let EndpointId { node, orchestrator, workload, endpoint } = id;
                    let workload = format!("workload={namespace}/{workload}, name={endpoint}");
                    format!(
                        "WorkloadEndpoint(node={node}, orchestrator={orchestrator}, {workload})"
                    )
                })
            }
            Kind::HostEndpoint if absent && field != "spec.node" => match engine.object(key) {
                Some(Stored::Json(value)) => {
                    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                    let (node, name) =
                        (text(&value["spec"]["node"]), text(&value["metadata"]["name"]));
                    Some(format!("HostEndpoint(node={node}, name={name})"))
                }
                _ => None,
            },
            Kind::Profile if problem.faults.iter().any(|it| it.field.contains("labelsToApply")) => {
                Some(format!("Profile({name})"))
            }
            _ if problem.effect == Effect::SelectsNothing => {
                Some(format!("Policy(Name={name}, Namespace={namespace}, Kind={kind})"))
            }
            _ => None,
        });
    }
    names.sort_unstable();
    names
}

fn is_ready(engine: &Engine) -> bool {
    let information = engine.read(&Key::global(Kind::ClusterInformation, "default"));
    matches!(
        information.map(|it| it.spec),
        Some(Spec::ClusterInformation(ClusterInformation { datastore_ready: Some(true), .. }))
    )
}

fn ip_sets(engine: &Engine, named: &BTreeSet<ArcStr>, parameters: &Parameters) -> Value {
    let sets = named.iter().filter_map(|id| Some((id, engine.ip_set(id)?)));
    let mut out: Map<String, Value> =
        sets.map(|(id, set)| (id.to_string(), ip_set(set, parameters))).collect();
    if parameters.ambient
        && let Ok(selector) = Selector::parse(endpoints::AMBIENT)
    {
        let mut members = engine.addresses(&selector);
        members.sort_unstable();
        members.dedup();
        let members = members.iter().map(|net| ipnet::IpNet::from(net.addr()).to_string());
        let mut members = members.collect::<Vec<_>>();
        members.sort_unstable();
        let set = json!({"type": "IP", "members": members, "selector": null});
        out.insert("all-istio-weps".to_owned(), set);
    }
    Value::Object(out)
}

fn ip_set(set: InspectedSet, parameters: &Parameters) -> Value {
    let mut members = set.members;
    if !parameters.hides_covered {
        members.extend(set.covered);
        members.sort_unstable();
    }
    let kind = match set.kind {
        IpSetKind::Net => "NET",
        IpSetKind::AddressPort => "IP_AND_PORT",
    };
    let mut out = json!({"type": kind, "members": members});
    match set.content {
        SetContent::Selector(selector) => out["selector"] = json!(selector),
        SetContent::NamedPort(selector, protocol, name) => {
            out["selector"] = json!(selector);
            out["named_port"] = json!(name.as_str());
            out["protocol"] = json!(match protocol.map(|protocol| protocol.0) {
                None => "any",
                Some(6) => "tcp",
                Some(17) => "udp",
                Some(_) => "sctp",
            });
        }
        SetContent::Service(namespace, name) => {
            out["selector"] = Value::Null;
            out["service"] = json!(format!("{namespace}/{name}"));
        }
    }
    out
}
