//! What a write fills in and puts right, as Calico's client does, so that the stored object says
//! everything itself.

use std::net::IpAddr;

use ipnet::IpNet;
use model::Kind;
use serde_json::{Value, json};

use super::{
    API_VERSION, METADATA_ANNOTATION, Object,
    shape::{Fault, Written},
};

/// The label with a policy's tier.
const TIER_LABEL: &str = "projectcalico.org/tier";
const NAMESPACE_LABEL: &str = "projectcalico.org/namespace";
const ORCHESTRATOR_LABEL: &str = "projectcalico.org/orchestrator";

/// Completes what was written; after that its name is known.
pub(crate) fn complete(written: &mut Written) -> Result<(), Fault> {
    match written.kind {
        Kind::IPPool => pool(&mut written.spec),
        Kind::NetworkPolicy
        | Kind::GlobalNetworkPolicy
        | Kind::StagedNetworkPolicy
        | Kind::StagedGlobalNetworkPolicy => {
            policy(written);
            Ok(())
        }
        Kind::StagedKubernetesNetworkPolicy => {
            default(&mut written.spec, "stagedAction", "Set".into());
            default(&mut written.spec, "podSelector", json!({}));
            Ok(())
        }
        Kind::Tier => tier(written),
        Kind::WorkloadEndpoint => endpoint(written),
        kind @ (Kind::IPAMConfiguration | Kind::KubeControllersConfiguration)
            if written.name != "default" =>
        {
            let rule = format!("{:?}: there is one {kind}, named default", written.name);
            Err(Fault::new("metadata.name", rule))
        }
        _ => Ok(()),
    }
}

/// Gives an endpoint without a name the one that it must have.
pub(crate) fn complete_name(written: &mut Written) -> Result<(), Fault> {
    if written.kind == Kind::WorkloadEndpoint && written.name.is_empty() {
        written.name = endpoint_name(&written.spec)?;
    }
    Ok(())
}

/// The object to store, without what belongs to the store: uid and time of creation.
pub(crate) fn object(written: Written) -> Object {
    let mut metadata = Object::new();
    metadata.insert("name".to_owned(), written.name.into());
    for (field, value) in [
        ("namespace", Value::from(written.namespace)),
        ("labels", Value::Object(written.labels)),
        ("annotations", Value::Object(written.annotations)),
    ] {
        let is_empty =
            value.as_str() == Some("") || value.as_object().is_some_and(Object::is_empty);
        if !is_empty {
            metadata.insert(field.to_owned(), value);
        }
    }
    let mut object = Object::new();
    object.insert("apiVersion".to_owned(), API_VERSION.into());
    object.insert("kind".to_owned(), written.kind.name().into());
    object.insert("metadata".to_owned(), Value::Object(metadata));
    object.insert("spec".to_owned(), Value::Object(written.spec));
    // Calico stores these two with an empty status.
    if matches!(written.kind, Kind::Node | Kind::Tier) {
        object.insert("status".to_owned(), json!({}));
    }
    object
}

/// Sets a field that is absent, null or an empty text.
fn default(spec: &mut Object, field: &str, value: Value) {
    if matches!(spec.get(field), None | Some(Value::Null)) || spec[field] == "" {
        spec.insert(field.to_owned(), value);
    }
}

fn pool(spec: &mut Object) -> Result<(), Fault> {
    let text = spec.get("cidr").and_then(Value::as_str).unwrap_or_default();
    let cidr: IpNet = text.parse().map_err(|_| {
        Fault::new(
            "spec.cidr",
            format!("{text:?} is no address range; write for example 10.0.0.0/16"),
        )
    })?;
    if cidr.trunc() != cidr {
        let rule = format!("{text:?} has host bits; write {}", cidr.trunc());
        return Err(Fault::new("spec.cidr", rule));
    }
    spec.insert("cidr".to_owned(), cidr.to_string().into());
    for field in ["ipipMode", "vxlanMode"] {
        default(spec, field, "Never".into());
    }
    let block_size = if matches!(cidr, IpNet::V4(_)) { 26 } else { 122 };
    if spec.get("blockSize") == Some(&json!(0)) {
        spec.remove("blockSize");
    }
    default(spec, "blockSize", block_size.into());
    default(spec, "nodeSelector", "all()".into());
    if spec.get("allowedUses").and_then(Value::as_array).is_none_or(Vec::is_empty) {
        spec.insert("allowedUses".to_owned(), json!(["Workload", "Tunnel"]));
    }
    default(spec, "assignmentMode", "Automatic".into());
    pool_rules(spec, &cidr)?;
    // Calico doesn't store these when they are false.
    for field in ["natOutgoing", "disabled", "disableBGPExport"] {
        if spec.get(field) == Some(&Value::Bool(false)) {
            spec.remove(field);
        }
    }
    Ok(())
}

/// What a pool can't be (Calico: `api/pkg/apis/projectcalico/v3/ippool.go`).
fn pool_rules(spec: &Object, cidr: &IpNet) -> Result<(), Fault> {
    let is_on = |field: &str| spec[field] != "Never";
    let uses = || spec["allowedUses"].as_array().into_iter().flatten();
    let for_balancers = uses().any(|it| it == "LoadBalancer");
    if let Some(unknown) =
        uses().find(|it| !["Workload", "Tunnel", "LoadBalancer"].iter().any(|known| *it == known))
    {
        let rule = format!("{unknown} is no use; there are Workload, Tunnel, LoadBalancer");
        return Err(Fault::new("spec.allowedUses", rule));
    }
    let broken = [
        (
            is_on("ipipMode") && is_on("vxlanMode"),
            "spec.ipipMode",
            "IPIP and VXLAN exclude each other; set one of them to Never",
        ),
        (
            is_on("ipipMode") && matches!(cidr, IpNet::V6(_)),
            "spec.ipipMode",
            "there is no IPIP for IPv6; use vxlanMode",
        ),
        (
            for_balancers && uses().count() > 1,
            "spec.allowedUses",
            "LoadBalancer stands alone; make a pool of its own for it",
        ),
        (
            for_balancers && (is_on("ipipMode") || is_on("vxlanMode")),
            "spec.allowedUses",
            "a LoadBalancer pool has no encapsulation; set ipipMode and vxlanMode to Never",
        ),
        (
            for_balancers && spec["nodeSelector"] != "all()",
            "spec.nodeSelector",
            "a LoadBalancer pool is for all(); leave it out",
        ),
    ];
    match broken.into_iter().find(|(is_broken, ..)| *is_broken) {
        Some((_, path, rule)) => Err(Fault::new(path, rule)),
        None => Ok(()),
    }
}

/// The built-in tiers stay what they are: other parts count on their order and action.
fn tier(written: &mut Written) -> Result<(), Fault> {
    if written.name.contains('.') {
        let rule = format!("{:?} must have no dot; use -", written.name);
        return Err(Fault::new("metadata.name", rule));
    }
    let fixed = match written.name.as_str() {
        "default" => Some((1_000_000, "Deny")),
        "kube-admin" => Some((1_000, "Pass")),
        "kube-baseline" => Some((10_000_000, "Pass")),
        _ => None,
    };
    default(&mut written.spec, "order", 1_000_000.into());
    default(&mut written.spec, "defaultAction", "Deny".into());
    let given = &written.spec["defaultAction"];
    if given != "Deny" && given != "Pass" {
        let rule = format!("{given} is neither \"Deny\" nor \"Pass\"");
        return Err(Fault::new("spec.defaultAction", rule));
    }
    let Some((order, action)) = fixed else { return Ok(()) };
    for (field, value) in [("order", json!(order)), ("defaultAction", json!(action))] {
        let given = &written.spec[field];
        if *given != value {
            let rule = format!("{given} must be {value}: the tier {} is built in", written.name);
            return Err(Fault::new(format!("spec.{field}"), rule));
        }
    }
    Ok(())
}

/// Tier, its label, the name's annotation, and the directions that the rules speak of: a stored
/// policy without types acts in both.
fn policy(written: &mut Written) {
    let Written { kind, name, labels, annotations, spec, .. } = written;
    default(spec, "tier", "default".into());
    labels.insert(TIER_LABEL.to_owned(), spec["tier"].clone());
    let true_name = json!({"name": name}).to_string();
    annotations.insert(METADATA_ANNOTATION.to_owned(), true_name.into());
    let is_staged = matches!(kind, Kind::StagedNetworkPolicy | Kind::StagedGlobalNetworkPolicy);
    if is_staged {
        default(spec, "stagedAction", "Set".into());
    }
    let has_rules = |direction: &str| {
        spec.get(direction).and_then(Value::as_array).is_some_and(|rules| !rules.is_empty())
    };
    let types = match (has_rules("ingress"), has_rules("egress")) {
        (true, true) => json!(["Ingress", "Egress"]),
        (false, true) => json!(["Egress"]),
        (_, false) => json!(["Ingress"]),
    };
    // A staged deletion says nothing but its tier.
    let is_deletion = is_staged && spec["stagedAction"] == "Delete";
    let has_types = spec.get("types").and_then(Value::as_array).is_some_and(|it| !it.is_empty());
    if !is_deletion && !has_types {
        spec.insert("types".to_owned(), types);
    }
}

/// The name `<node>-<orchestrator>-<workload>-<endpoint>`, each dash within a part doubled
/// (Calico: `libcalico-go/lib/names`).
fn endpoint_name(spec: &Object) -> Result<String, Fault> {
    let part = |field: &str| match spec.get(field).and_then(Value::as_str) {
        Some(text) if !text.is_empty() => Ok(text.to_owned()),
        _ => Err(Fault::new(
            format!("spec.{field}"),
            "is missing; the endpoint's name is made of it",
        )),
    };
    let orchestrator = part("orchestrator")?;
    let workload = match orchestrator.as_str() {
        "k8s" => part("pod")?,
        "cni" => part("containerID")?,
        "libnetwork" => "libnetwork".to_owned(),
        _ => part("workload")?,
    };
    let parts = [part("node")?, orchestrator, workload, part("endpoint")?];
    Ok(parts.map(|part| part.replace('-', "--")).join("-"))
}

/// The name, and the labels that every endpoint has.
fn endpoint(written: &mut Written) -> Result<(), Fault> {
    let name = endpoint_name(&written.spec)?;
    if !written.name.is_empty() && written.name != name {
        let rule = format!("{:?} must be {name:?}, as spec says; leave it out", written.name);
        return Err(Fault::new("metadata.name", rule));
    }
    written.name = name;
    written.labels.insert(NAMESPACE_LABEL.to_owned(), written.namespace.clone().into());
    written.labels.insert(ORCHESTRATOR_LABEL.to_owned(), written.spec["orchestrator"].clone());
    networks(&mut written.spec)
}

/// Endpoints have single addresses, stored with their length: `10.0.0.1` is `10.0.0.1/32`.
fn networks(spec: &mut Object) -> Result<(), Fault> {
    let Some(networks) = spec.get_mut("ipNetworks").and_then(Value::as_array_mut) else {
        return Ok(());
    };
    for (index, network) in networks.iter_mut().enumerate() {
        let text = network.as_str().unwrap_or_default();
        let parsed = text.parse::<IpAddr>().map(IpNet::from).or_else(|_| text.parse());
        match parsed {
            Ok(address) if address.prefix_len() == address.max_prefix_len() => {
                *network = address.to_string().into();
            }
            _ => {
                let rule = format!("{text:?} must be one address, such as 10.0.0.1/32");
                return Err(Fault::new(format!("spec.ipNetworks[{index}]"), rule));
            }
        }
    }
    Ok(())
}
