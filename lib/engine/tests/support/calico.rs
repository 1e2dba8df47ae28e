//! Views in the words of Calico's calculation, so that the two can be compared.

use std::collections::{BTreeMap, BTreeSet};

use arcstr::ArcStr;
use ipnet::IpNet;
use model::view::{
    Action, EncapMode, Entry, Host, Icmp, Peer, PolicyList, Pool, PortRange, Route, Rule, Topic,
};
use serde_json::{Map, Value, json};

use super::cluster::Cluster;

/// A node's state in the form of the golden cases, as far as a view carries it.
pub(crate) fn state(cluster: &Cluster, node: &str) -> Value {
    let view = cluster.engine.view(node);
    let mut ip_sets = json!({});
    let mut policies = json!({});
    let mut profiles = json!({});
    let mut plists = BTreeMap::new();
    for topic in &view {
        let entries = cluster.topic(topic);
        let only = entries.get("");
        match topic {
            Topic::IpSet(id) => {
                let mut members = entries.keys().map(ToString::to_string).collect::<Vec<_>>();
                members.sort_unstable();
                ip_sets[id.as_str()] = json!(members);
            }
            Topic::Policy(id) => {
                let Some(Entry::Policy(policy)) = only else { panic!("{topic} has no entry") };
                policies[id.to_string()] = json!({
                    "tier": policy.tier.as_str(),
                    "inbound": rules(&policy.ingress),
                    "outbound": rules(&policy.egress),
                });
            }
            Topic::Profile(name) => {
                let Some(Entry::Profile(profile)) = only else { panic!("{topic} has no entry") };
                profiles[name.as_str()] = json!({
                    "inbound": rules(&profile.ingress),
                    "outbound": rules(&profile.egress),
                });
            }
            Topic::Plist(id) => {
                let Some(Entry::Plist(list)) = only else { panic!("{topic} has no entry") };
                plists.insert(id.clone(), tiers(list));
            }
            other => panic!("{other} is not a topic of a view"),
        }
    }
    let mut endpoints = json!({});
    for (key, entry) in cluster.topic(&Topic::Node(node.into())) {
        let Entry::Endpoint(endpoint) = entry else { continue };
        // Calico knows no pending endpoints.
        if endpoint.addresses.is_empty() {
            continue;
        }
        let name = key.strip_prefix("wep/").unwrap().rsplit_once('/').unwrap().0.to_owned();
        let of_family = |v6: bool| {
            let nets = endpoint.addresses.iter().filter(|net| net.addr().is_ipv6() == v6);
            nets.map(ToString::to_string).collect::<Vec<_>>()
        };
        let tiers = match &endpoint.plist {
            None => json!([]),
            Some(id) => plists.get(id).expect("an endpoint's plist is in its view").clone(),
        };
        endpoints[name] = json!({
            "name": endpoint.interface.as_str(),
            "mac": endpoint.mac.as_str(),
            "profiles": endpoint.profiles.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "ipv4_nets": of_family(false),
            "ipv6_nets": of_family(true),
            "tiers": tiers,
        });
    }
    let mut hosts = BTreeMap::new();
    let mut routes = BTreeMap::new();
    let mut pools = BTreeMap::new();
    for (topic, entries) in &cluster.topics {
        for (key, entry) in entries {
            match (topic, entry) {
                (Topic::Hosts(_), Entry::Host(host)) => {
                    hosts.insert(key.to_string(), host.clone());
                }
                (Topic::Routes(_), Entry::Route(route)) => {
                    routes.insert(key.parse::<IpNet>().unwrap(), route.clone());
                }
                (Topic::Pools, Entry::Pool(pool)) => {
                    pools.insert(key.parse::<IpNet>().unwrap(), pool.clone());
                }
                _ => {}
            }
        }
    }
    json!({
        "ip_sets": ip_sets,
        "policies": policies,
        "profiles": profiles,
        "workload_endpoints": endpoints,
        "host_metadata": host_metadata(&hosts),
        "vteps": vteps(&hosts),
        "ip_pools": ip_pools(&pools),
        "routes": route_lines(&routes, &pools),
    })
}

/// In the form of the golden cases, less the texts that only repeat what was written.
fn rules(rules: &[Rule]) -> Value {
    rules.iter().map(rule).collect()
}

fn rule(rule: &Rule) -> Value {
    let mut out = Map::new();
    let mut set = |name: &str, value: Value| {
        let absent = match &value {
            Value::Null => true,
            Value::Array(items) => items.is_empty(),
            _ => false,
        };
        if !absent {
            out.insert(name.to_owned(), value);
        }
    };
    let action = match rule.action {
        Action::Allow => "allow",
        Action::Deny => "deny",
        Action::Log => "log",
        Action::Pass => "next-tier",
    };
    set("action", json!(action));
    set("ip_version", json!(rule.ip_version.map(|version| format!("IPV{version}"))));
    set("protocol", json!(rule.protocol.map(|protocol| protocol.0)));
    set("not_protocol", json!(rule.not_protocol.map(|protocol| protocol.0)));
    set("icmp", icmp(rule.icmp));
    set("not_icmp", icmp(rule.not_icmp));
    for (side, peer) in [("src", &rule.source), ("dst", &rule.destination)] {
        let Peer { nets, not_nets, sets, not_sets, ports, port_sets, .. } = peer;
        set(&format!("{side}_net"), texts(nets));
        set(&format!("not_{side}_net"), texts(not_nets));
        set(&format!("{side}_ip_set_ids"), texts(sets));
        set(&format!("not_{side}_ip_set_ids"), texts(not_sets));
        set(&format!("{side}_ports"), ranges(ports));
        set(&format!("{side}_named_port_ip_set_ids"), texts(port_sets));
        set(&format!("not_{side}_ports"), ranges(&peer.not_ports));
        set(&format!("not_{side}_named_port_ip_set_ids"), texts(&peer.not_port_sets));
        assert_eq!(peer.service_sets, Vec::<ArcStr>::new(), "services are not supported");
    }
    Value::Object(out)
}

fn icmp(icmp: Option<Icmp>) -> Value {
    icmp.map_or(Value::Null, |icmp| json!([icmp.kind, icmp.code]))
}

/// A list in which order and repetition say nothing.
fn texts<T: ToString>(items: &[T]) -> Value {
    json!(items.iter().map(ToString::to_string).collect::<BTreeSet<_>>())
}

fn ranges(ports: &[PortRange]) -> Value {
    texts(&ports.iter().map(|range| format!("{}:{}", range.first, range.last)).collect::<Vec<_>>())
}

fn tiers(list: &PolicyList) -> Value {
    let tiers = list.tiers.iter().map(|tier| {
        json!({
            "name": tier.name.as_str(),
            "default_action": if tier.default_pass { "Pass" } else { "Deny" },
            "ingress": tier.ingress.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "egress": tier.egress.iter().map(ToString::to_string).collect::<Vec<_>>(),
        })
    });
    tiers.collect()
}

fn host_metadata(hosts: &BTreeMap<String, Host>) -> Value {
    let text = |net: Option<IpNet>| net.map_or_else(String::new, |net| net.to_string());
    let entries = hosts.iter().map(|(name, host)| {
        let entry = json!({
            "ipv4": text(host.ipv4),
            "ipv6": text(host.ipv6),
            "asnumber": host.as_number.map_or_else(String::new, |number| number.to_string()),
        });
        (name.clone(), entry)
    });
    Value::Object(entries.collect())
}

/// Calico has a VTEP where both its address and the node's are known.
fn vteps(hosts: &BTreeMap<String, Host>) -> Value {
    let mut vteps = Map::new();
    for (name, host) in hosts {
        let mut vtep = Map::new();
        if let (Some(address), Some(parent)) = (host.vxlan_address, host.ipv4) {
            vtep.insert("ipv4_addr".to_owned(), json!(address));
            vtep.insert("mac".to_owned(), json!(host.vxlan_mac.as_str()));
            vtep.insert("parent_device_ip".to_owned(), json!(parent.addr()));
        }
        if let (Some(address), Some(parent)) = (host.vxlan_address_v6, host.ipv6) {
            vtep.insert("ipv6_addr".to_owned(), json!(address));
            vtep.insert("mac_v6".to_owned(), json!(host.vxlan_mac_v6.as_str()));
            vtep.insert("parent_device_ipv6".to_owned(), json!(parent.addr()));
        }
        if !vtep.is_empty() {
            vteps.insert(name.clone(), Value::Object(vtep));
        }
    }
    Value::Object(vteps)
}

fn ip_pools(pools: &BTreeMap<IpNet, Pool>) -> Value {
    let mode = |mode: EncapMode| match mode {
        EncapMode::Never => "",
        EncapMode::Always => "always",
        EncapMode::CrossSubnet => "cross-subnet",
    };
    let entries = pools.iter().map(|(cidr, pool)| {
        let entry = json!({
            "ipip_mode": mode(pool.ipip),
            "vxlan_mode": mode(pool.vxlan),
            "masquerade": pool.nat_outgoing,
        });
        (cidr.to_string(), entry)
    });
    Value::Object(entries.collect())
}

fn route_lines(routes: &BTreeMap<IpNet, Route>, pools: &BTreeMap<IpNet, Pool>) -> Value {
    let entries = routes.iter().map(|(cidr, route)| {
        let pool = match route.pool.map(|pool| &pools[&pool]) {
            None => "NONE",
            Some(pool) if pool.vxlan != EncapMode::Never => "VXLAN",
            Some(pool) if pool.ipip != EncapMode::Never => "IPIP",
            Some(_) => "NO_ENCAP",
        };
        let entry = json!({
            "node": route.node.as_str(),
            "borrowed": route.borrowed,
            "tunnel": route.tunnel,
            "pool": pool,
        });
        (cidr.to_string(), entry)
    });
    Value::Object(entries.collect())
}

/// What differs between our state and Calico's, after leaving out of Calico's what a view doesn't
/// carry.
pub(crate) fn compare(ours: &Value, theirs: &Value) -> Vec<String> {
    let mut theirs = theirs.clone();
    let listed = normalize_endpoints(&mut theirs);
    let mut used = BTreeSet::new();
    let Value::Object(policies) = theirs["policies"].take() else { panic!("policies") };
    let policies =
        policies.into_iter().filter(|(id, _)| listed.contains(id)).map(|(id, policy)| {
            let rules = |rules: &Value| normalize_rules(rules, &mut used);
            let [inbound, outbound] = [&policy["inbound"], &policy["outbound"]].map(rules);
            (id, json!({"tier": policy["tier"], "inbound": inbound, "outbound": outbound}))
        });
    theirs["policies"] = Value::Object(policies.collect());
    let Value::Object(profiles) = theirs["profiles"].take() else { panic!("profiles") };
    let profiles = profiles.into_iter().map(|(name, profile)| {
        let rules = |rules: &Value| normalize_rules(rules, &mut used);
        let [inbound, outbound] = [&profile["inbound"], &profile["outbound"]].map(rules);
        (name, json!({"inbound": inbound, "outbound": outbound}))
    });
    theirs["profiles"] = Value::Object(profiles.collect());
    let Value::Object(sets) = theirs["ip_sets"].take() else { panic!("IP sets") };
    let sets = sets.into_iter().filter(|(id, _)| used.contains(id)).map(|(id, set)| {
        let members = set["members"].as_array().unwrap().iter();
        let mut members = members.map(|m| m.as_str().unwrap().to_owned()).collect::<Vec<_>>();
        members.sort_unstable();
        (id, json!(members))
    });
    theirs["ip_sets"] = Value::Object(sets.collect());

    let mut differences = Vec::new();
    for section in ["ip_sets", "policies", "profiles", "workload_endpoints"] {
        diff(section, &ours[section], &theirs[section], &mut differences);
    }
    let hosts = keep(&theirs["host_metadata"], &["ipv4", "ipv6", "asnumber"]);
    diff("host_metadata", &ours["host_metadata"], &hosts, &mut differences);
    let pools = by(&theirs["ip_pools"], "cidr");
    let pools = keep(&pools, &["ipip_mode", "vxlan_mode", "masquerade"]);
    diff("ip_pools", &ours["ip_pools"], &pools, &mut differences);
    // Calico computes routes and VTEPs only where its configuration makes it need them.
    if theirs["components"]["routes"] == true {
        let routes = normalize_routes(&theirs["routes"], &ours["routes"]);
        diff("routes", &ours["routes"], &routes, &mut differences);
    }
    if theirs["components"]["vteps"] == true {
        let mut vteps = by(&theirs["vteps"], "node");
        for vtep in vteps.as_object_mut().unwrap().values_mut() {
            let vtep = vtep.as_object_mut().unwrap();
            vtep.remove("node");
            vtep.retain(|_, value| value != "");
        }
        diff("vteps", &ours["vteps"], &vteps, &mut differences);
    }
    differences
}

/// Lists as maps, by a field of their items.
fn by(list: &Value, field: &str) -> Value {
    let items: Vec<&Value> = match list {
        Value::Array(items) => items.iter().collect(),
        Value::Object(items) => items.values().collect(),
        other => panic!("{other}"),
    };
    Value::Object(
        items.into_iter().map(|v| (v[field].as_str().unwrap().to_owned(), v.clone())).collect(),
    )
}

fn keep(map: &Value, fields: &[&str]) -> Value {
    let kept = map.as_object().unwrap().iter().map(|(name, value)| {
        let kept = fields.iter().map(|field| ((*field).to_owned(), value[*field].clone()));
        (name.clone(), Value::Object(kept.collect()))
    });
    Value::Object(kept.collect())
}

/// Leaves staged policies out of the lists, and returns the policies that are in one.
fn normalize_endpoints(theirs: &mut Value) -> BTreeSet<String> {
    let staged = theirs["policies"].as_object().unwrap().iter();
    let staged = staged.filter(|(_, p)| p["staged"] == true).map(|(id, _)| id.clone());
    let staged = staged.collect::<BTreeSet<_>>();
    let mut listed = BTreeSet::new();
    for endpoint in theirs["workload_endpoints"].as_object_mut().unwrap().values_mut() {
        let tiers = endpoint["tiers"].as_array().unwrap().iter().filter_map(|tier| {
            let mut ids = |direction: &str| {
                let ids = tier[direction].as_array().unwrap().iter();
                let ids = ids.filter(|id| !staged.contains(id.as_str().unwrap()));
                let ids = ids.cloned().collect::<Vec<_>>();
                listed.extend(ids.iter().map(|id| id.as_str().unwrap().to_owned()));
                ids
            };
            let (ingress, egress) = (ids("ingress"), ids("egress"));
            let pass = tier["default_action"] == "Pass";
            (!ingress.is_empty() || !egress.is_empty()).then(|| {
                json!({
                    "name": tier["name"],
                    "default_action": if pass { "Pass" } else { "Deny" },
                    "ingress": ingress,
                    "egress": egress,
                })
            })
        });
        let tiers = tiers.collect::<Value>();
        let fields = ["name", "mac", "profiles", "ipv4_nets", "ipv6_nets"];
        let kept = fields.iter().map(|field| ((*field).to_owned(), endpoint[*field].clone()));
        let mut kept = kept.collect::<Map<_, _>>();
        kept.insert("tiers".to_owned(), tiers);
        *endpoint = Value::Object(kept);
    }
    listed
}

fn normalize_rules(rules: &Value, used: &mut BTreeSet<String>) -> Value {
    let rules = rules.as_array().unwrap().iter().map(|rule| {
        let mut out = Map::new();
        for (name, value) in rule.as_object().unwrap() {
            let (name, value) = match name.as_str() {
                // Ids of rules are for Calico's own statistics; the others repeat what was written.
                "rule_id" | "metadata" => continue,
                name if name.starts_with("original_") => continue,
                name if name.ends_with("service_account_match") => continue,
                "protocol" | "not_protocol" => (name.as_str(), protocol(value)),
                "icmp_type" => ("icmp", json!([value, null])),
                "icmp_type_code" => ("icmp", json!([value["type"], zero(&value["code"])])),
                "not_icmp_type" => ("not_icmp", json!([value, null])),
                "not_icmp_type_code" => ("not_icmp", json!([value["type"], zero(&value["code"])])),
                name if name.ends_with("_ip_set_ids") => {
                    let ids = value.as_array().unwrap().iter();
                    let ids = ids.map(|id| id.as_str().unwrap().to_owned());
                    let ids = ids.collect::<BTreeSet<_>>();
                    used.extend(ids.iter().cloned());
                    (name, json!(ids))
                }
                name if name.ends_with("_ports") => {
                    let ranges = value.as_array().unwrap().iter();
                    let ranges = ranges.map(|r| format!("{}:{}", zero(&r["first"]), r["last"]));
                    (name, json!(ranges.collect::<BTreeSet<_>>()))
                }
                name if name.ends_with("_net") => {
                    let nets = value.as_array().unwrap().iter();
                    let nets = nets.map(|net| net.as_str().unwrap().to_owned());
                    (name, json!(nets.collect::<BTreeSet<_>>()))
                }
                name => (name, value.clone()),
            };
            out.insert(name.to_owned(), value);
        }
        Value::Object(out)
    });
    rules.collect()
}

fn zero(value: &Value) -> Value {
    if value.is_null() { json!(0) } else { value.clone() }
}

fn protocol(value: &Value) -> Value {
    match value["name"].as_str() {
        None => value["number"].clone(),
        Some(name) => match name {
            "icmp" => json!(1),
            "tcp" => json!(6),
            "udp" => json!(17),
            "icmpv6" => json!(58),
            "sctp" => json!(132),
            "udplite" => json!(136),
            other => panic!("protocol {other}"),
        },
    }
}

/// Calico's routes without what an agent knows by itself: the pools, the addresses of nodes, those
/// of its own pods, and tunnels that their node's block covers.
fn normalize_routes(theirs: &Value, ours: &Value) -> Value {
    let mut routes = Map::new();
    let covered = |dst: IpNet, node: &str| {
        let around = ours.as_object().unwrap().iter().filter(|(cidr, _)| {
            let cidr = cidr.parse::<IpNet>().unwrap();
            cidr.contains(&dst) && cidr != dst
        });
        around.into_iter().any(|(_, route)| route["node"] == node)
    };
    for route in theirs.as_array().unwrap() {
        let dst = route["dst"].as_str().unwrap();
        let node = route["dst_node_name"].as_str().unwrap();
        let types = route["types"].as_array().unwrap();
        let is = |what: &str| types.iter().any(|t| t.as_str().unwrap().ends_with(what));
        let own = route["local_workload"] == true && ours.get(dst).is_none();
        let tunnel = route["tunnel_type"].is_array();
        let hidden = is("_TUNNEL") && !is("_WORKLOAD") && covered(dst.parse().unwrap(), node);
        if node.is_empty() || own || hidden || is("_HOST") {
            continue;
        }
        routes.insert(
            dst.to_owned(),
            json!({
                "node": node,
                "borrowed": route["borrowed"],
                "tunnel": tunnel,
                "pool": route["ip_pool_type"],
            }),
        );
    }
    Value::Object(routes)
}

fn diff(path: &str, ours: &Value, theirs: &Value, out: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys()).collect::<BTreeSet<_>>() {
                let (a, b) = (a.get(key), b.get(key));
                let none = &Value::Null;
                diff(&format!("{path}.{key}"), a.unwrap_or(none), b.unwrap_or(none), out);
            }
        }
        _ if ours == theirs => {}
        _ => out.push(format!("{path}: ours {ours}, Calico's {theirs}")),
    }
}
