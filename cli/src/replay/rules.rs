//! Policies and profiles with their rules, in Calico's words.

use engine::{
    Engine,
    inspect::{InspectedPolicy, InspectedProfile},
};
use model::{
    Key, Kind,
    view::{Action, Icmp, PortRange, Rule},
};
use serde_json::{Map, Value, json};

/// A policy.
pub(super) fn policy(engine: &Engine, policy: &InspectedPolicy) -> Value {
    let InspectedPolicy { key, namespace, policy: spec, selector, ingress, egress, .. } = policy;
    let written = engine.spec(key).unwrap_or_default();
    let mut out = json!({
        "kind": key.kind.name(),
        "name": key.name.as_str(),
        "namespace": namespace.as_str(),
        "tier": spec.tier.as_str(),
        "selector": selector,
        "inbound": rules(ingress, &written["ingress"]),
        "outbound": rules(egress, &written["egress"]),
        "untracked": spec.do_not_track,
        "pre_dnat": spec.pre_dnat,
    });
    if written["performanceHints"].as_array().is_some_and(|hints| !hints.is_empty()) {
        out["perf_hints"] = written["performanceHints"].clone();
    }
    if spec.staged.is_some() {
        out["staged"] = json!(true);
    }
    out
}

/// A profile.
pub(super) fn profile(engine: &Engine, name: &str, profile: &InspectedProfile) -> Value {
    let written = engine.spec(&Key::global(Kind::Profile, name)).unwrap_or_default();
    json!({
        "inbound": rules(&profile.ingress, &written["ingress"]),
        "outbound": rules(&profile.egress, &written["egress"]),
    })
}

fn rules(rules: &[Option<Rule>], written: &Value) -> Value {
    let rules = rules
        .iter()
        .enumerate()
        .filter_map(|(index, translated)| Some(rule(translated.as_ref()?, &written[index])));
    rules.collect()
}

/// A rule; `written` is what it was translated from.
fn rule(rule: &Rule, written: &Value) -> Value {
    let mut out = Map::new();
    let action = match rule.action {
        Action::Allow => "allow",
        Action::Deny => "deny",
        Action::Log => "log",
        Action::Pass => "next-tier",
    };
    out.insert("action".to_owned(), json!(action));
    let mut set = |name: String, value: Value| {
        let absent = match &value {
            Value::Null => true,
            Value::Array(items) => items.is_empty(),
            Value::Object(fields) => fields.is_empty(),
            Value::String(text) => text.is_empty(),
            _ => false,
        };
        if !absent {
            out.insert(name, value);
        }
    };
    set("ip_version".to_owned(), json!(rule.ip_version.map(|version| format!("IPV{version}"))));
    for (name, field, number) in [
        ("protocol", "protocol", rule.protocol),
        ("not_protocol", "notProtocol", rule.not_protocol),
    ] {
        if let Some(number) = number {
            set(name.to_owned(), protocol(&written[field], number.0));
        }
    }
    for (side, field, peer) in
        [("src", "source", &rule.source), ("dst", "destination", &rule.destination)]
    {
        let texts = |items: &[arcstr::ArcStr]| {
            json!(items.iter().map(arcstr::ArcStr::as_str).collect::<Vec<_>>())
        };
        let nets =
            |nets: &[ipnet::IpNet]| json!(nets.iter().map(ToString::to_string).collect::<Vec<_>>());
        set(format!("{side}_net"), nets(&peer.nets));
        set(format!("not_{side}_net"), nets(&peer.not_nets));
        // A service as a source is a set of addresses like others.
        let (addresses, ports): (Vec<_>, Vec<_>) =
            peer.service_sets.iter().cloned().partition(|id| id.starts_with("svcnoport:"));
        let sets = [peer.sets.clone(), addresses].concat();
        set(format!("{side}_ip_set_ids"), texts(&sets));
        set(format!("{side}_ip_port_set_ids"), texts(&ports));
        set(format!("not_{side}_ip_set_ids"), texts(&peer.not_sets));
        set(format!("{side}_ports"), ranges(&peer.ports));
        set(format!("{side}_named_port_ip_set_ids"), texts(&peer.port_sets));
        set(format!("not_{side}_ports"), ranges(&peer.not_ports));
        set(format!("not_{side}_named_port_ip_set_ids"), texts(&peer.not_port_sets));
        let written = &written[field];
        set(format!("original_{side}_selector"), written["selector"].clone());
        set(format!("original_not_{side}_selector"), written["notSelector"].clone());
        set(format!("original_{side}_namespace_selector"), written["namespaceSelector"].clone());
        set(format!("original_{side}_service"), written["services"]["name"].clone());
        set(format!("original_{side}_service_namespace"), written["services"]["namespace"].clone());
        let mut accounts = Map::new();
        for name in ["names", "selector"] {
            let value = &written["serviceAccounts"][name];
            let is_empty = value.as_array().is_some_and(Vec::is_empty) || value == "";
            if !value.is_null() && !is_empty {
                accounts.insert(name.to_owned(), value.clone());
            }
        }
        set(format!("{side}_service_account_match"), Value::Object(accounts));
    }
    let annotations = &written["metadata"]["annotations"];
    if annotations.as_object().is_some_and(|it| !it.is_empty()) {
        set("metadata".to_owned(), json!({"annotations": annotations}));
    }
    // Shown also where both numbers are zero.
    out.extend([icmp("", rule.icmp), icmp("not_", rule.not_icmp)].into_iter().flatten());
    Value::Object(out)
}

/// By name where it was written so, which number it is doesn't matter.
fn protocol(written: &Value, number: u8) -> Value {
    match written.as_str() {
        Some(name) if name.parse::<u8>().is_err() => json!({"name": name.to_ascii_lowercase()}),
        _ => json!({"number": number}),
    }
}

fn icmp(prefix: &str, icmp: Option<Icmp>) -> Option<(String, Value)> {
    let Icmp { kind, code } = icmp?;
    Some(match code {
        None => (format!("{prefix}icmp_type"), json!(kind)),
        Some(code) => {
            let mut value = Map::new();
            // Zeros are left out, as in protobuf.
            for (name, number) in [("type", kind), ("code", code)] {
                if number != 0 {
                    value.insert(name.to_owned(), json!(number));
                }
            }
            (format!("{prefix}icmp_type_code"), Value::Object(value))
        }
    })
}

fn ranges(ports: &[PortRange]) -> Value {
    let ranges = ports.iter().map(|range| {
        let mut out = Map::new();
        for (name, port) in [("first", range.first), ("last", range.last)] {
            if port != 0 {
                out.insert(name.to_owned(), json!(port));
            }
        }
        Value::Object(out)
    });
    ranges.collect()
}
