//! Routes, VTEPs, hosts, pools and what else isn't policy, in Calico's words.

use arcstr::ArcStr;
use engine::{
    Engine,
    inspect::{Along, HostLine, RouteLine, RouteSource, host_lines, route_lines},
};
use ipnet::IpNet;
use model::{
    Key, Kind, Stored,
    kinds::{Labels, Spec},
    view::EncapMode,
};
use serde_json::{Map, Value, json};

use super::parameters::{Parameters, pools};

/// All routes, sorted by the text of their destination.
pub(super) fn routes(engine: &Engine, node: &str, parameters: &Parameters) -> Value {
    let source = if parameters.by_endpoints { RouteSource::Endpoints } else { RouteSource::Blocks };
    let mut lines: Vec<_> = route_lines(engine, node, source)
        .into_iter()
        .map(|(cidr, line)| (cidr.to_string(), line))
        .collect();
    lines.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
    lines.iter().map(|(cidr, line)| route(cidr, line)).collect()
}

fn route(cidr: &str, line: &RouteLine) -> Value {
    let types: Vec<&str> = if line.along.is_empty() {
        vec!["CIDR_INFO"]
    } else {
        line.along
            .iter()
            .map(|along| match along {
                Along::RemoteWorkload => "REMOTE_WORKLOAD",
                Along::RemoteHost => "REMOTE_HOST",
                Along::LocalWorkload => "LOCAL_WORKLOAD",
                Along::LocalHost => "LOCAL_HOST",
                Along::RemoteTunnel => "REMOTE_TUNNEL",
                Along::LocalTunnel => "LOCAL_TUNNEL",
            })
            .collect()
    };
    let pool = match line.pool {
        None => "NONE",
        Some((vxlan, _)) if vxlan != EncapMode::Never => "VXLAN",
        Some((_, ipip)) if ipip != EncapMode::Never => "IPIP",
        Some(_) => "NO_ENCAP",
    };
    let tunnels = line.tunnels.map(|tunnels| {
        let names =
            [("ipip", tunnels.ipip), ("vxlan", tunnels.vxlan), ("wireguard", tunnels.wireguard)];
        names.into_iter().filter(|(_, is)| *is).map(|(name, _)| name).collect::<Vec<_>>()
    });
    json!({
        "dst": cidr,
        "types": types,
        "ip_pool_type": pool,
        "dst_node_name": line.node.as_str(),
        "dst_node_ip": line.node_address.map(|it| it.to_string()).unwrap_or_default(),
        "same_subnet": line.same_subnet,
        "nat_outgoing": line.nat_outgoing,
        "local_workload": line.local_workload,
        "borrowed": line.borrowed,
        "tunnel_type": tunnels,
    })
}

/// A VTEP where its address and the node's BGP address of that family are known.
pub(super) fn vteps(engine: &Engine) -> Value {
    let mut vteps = Vec::new();
    for HostLine { name, node, host, .. } in host_lines(engine) {
        let text = |address: Option<std::net::IpAddr>| {
            address.map(|it| it.to_string()).unwrap_or_default()
        };
        let of_family =
            |address: Option<std::net::IpAddr>, parent: Option<IpNet>, mac: &ArcStr| match (
                address, parent,
            ) {
                (Some(_), Some(parent)) => {
                    (text(address), text(Some(parent.addr())), mac.to_string())
                }
                _ => Default::default(),
            };
        let (v4, parent, mac) = of_family(host.vxlan_address, node.bgp_ipv4, &host.vxlan_mac);
        let (v6, parent_v6, mac_v6) =
            of_family(host.vxlan_address_v6, node.bgp_ipv6, &host.vxlan_mac_v6);
        if v4.is_empty() && v6.is_empty() {
            continue;
        }
        vteps.push(json!({
            "node": name.as_str(),
            "ipv4_addr": v4,
            "parent_device_ip": parent,
            "mac": mac,
            "ipv6_addr": v6,
            "parent_device_ipv6": parent_v6,
            "mac_v6": mac_v6,
        }));
    }
    Value::Array(vteps)
}

/// What is told about each node. Without support of IPv6 that is only the address that BGP has.
pub(super) fn host_metadata(engine: &Engine, parameters: &Parameters) -> Value {
    let hosts = host_lines(engine).into_iter().map(|HostLine { name, host, labels, node }| {
        let text = |net: Option<IpNet>| net.map(|net| net.to_string()).unwrap_or_default();
        let ipv6 = host.ipv6.filter(|_| parameters.ipv6 || node.bgp_ipv6.is_some());
        let entry = json!({
            "ipv4": text(host.ipv4),
            "ipv6": text(ipv6),
            "asnumber": host.as_number.map(|number| number.to_string()).unwrap_or_default(),
            "labels": map(&labels),
        });
        (name.to_string(), entry)
    });
    Value::Object(hosts.collect())
}

/// Keys and addresses of WireGuard, by node.
pub(super) fn wireguard(engine: &Engine) -> Map<String, Value> {
    let mut nodes = Map::new();
    for HostLine { name, host, .. } in host_lines(engine) {
        let mut out = Map::new();
        let mut family = |key: &ArcStr, address: Option<std::net::IpAddr>, names: [&str; 2]| {
            if key.is_empty() {
                return;
            }
            out.insert(names[0].to_owned(), json!(key.as_str()));
            let address = address.map(|it| it.to_string()).unwrap_or_default();
            out.insert(names[1].to_owned(), json!(address));
        };
        let v4 = ["public_key", "interface_ipv4_addr"];
        family(&host.wireguard_key, host.wireguard_address, v4);
        let v6 = ["public_key_v6", "interface_ipv6_addr"];
        family(&host.wireguard_key_v6, host.wireguard_address_v6, v6);
        if !out.is_empty() {
            nodes.insert(name.to_string(), Value::Object(out));
        }
    }
    nodes
}

/// Pools, by their CIDR with a dash.
pub(super) fn ip_pools(engine: &Engine) -> Value {
    let mode = |mode: EncapMode| match mode {
        EncapMode::Never => "",
        EncapMode::Always => "always",
        EncapMode::CrossSubnet => "cross-subnet",
    };
    let pools = pools(engine).into_iter().map(|pool| {
        let cidr = pool.cidr.to_string();
        let uses: Vec<&str> = if pool.allowed_uses.is_empty() {
            vec!["Workload", "Tunnel"]
        } else {
            pool.allowed_uses.iter().map(arcstr::ArcStr::as_str).collect()
        };
        let entry = json!({
            "cidr": cidr,
            "ipip_mode": mode(pool.ipip),
            "vxlan_mode": mode(pool.vxlan),
            "masquerade": pool.nat_outgoing,
            "allowed_uses": uses,
        });
        (cidr.replace('/', "-"), entry)
    });
    Value::Object(pools.collect())
}

/// Namespaces and service accounts with their labels, from the profiles that stand for them.
pub(super) fn owners(engine: &Engine) -> (Value, Value) {
    let (mut namespaces, mut accounts) = (Map::new(), Map::new());
    for (key, _) in engine.objects().filter(|(key, _)| key.kind == Kind::Profile) {
        let Some(Spec::Profile(profile)) = engine.read(key).map(|it| it.spec) else { continue };
        let labels = |prefix: &str| {
            let labels = profile.labels_to_apply.iter().map(|(key, value)| {
                (key.strip_prefix(prefix).unwrap_or(key).to_owned(), json!(value.as_str()))
            });
            Value::Object(labels.collect())
        };
        // One that is refused has none, not even its own name.
        if profile.labels_to_apply.is_empty() && is_refused(engine, key) {
            continue;
        }
        if let Some(name) = key.name.strip_prefix("kns.") {
            namespaces.insert(name.to_owned(), labels("pcns."));
        } else if let Some(name) = key.name.strip_prefix("ksa.")
            && let Some((namespace, name)) = name.split_once('.')
        {
            accounts.insert(format!("{namespace}/{name}"), labels("pcsa."));
        }
    }
    (Value::Object(namespaces), Value::Object(accounts))
}

fn is_refused(engine: &Engine, key: &Key) -> bool {
    engine.read(key).is_some_and(|resource| !resource.faults.is_empty())
}

/// What the default BGP configuration says; none: there is none.
pub(super) fn global_bgp(engine: &Engine) -> Option<Value> {
    let key = Key::global(Kind::BGPConfiguration, "default");
    let Stored::Json(value) = engine.object(&key)? else { return None };
    let spec = &value["spec"];
    let mut out = Map::new();
    for (name, field) in [
        ("service_cluster_cidrs", "serviceClusterIPs"),
        ("service_external_cidrs", "serviceExternalIPs"),
        ("service_loadbalancer_cidrs", "serviceLoadBalancerIPs"),
    ] {
        let blocks = spec[field].as_array().into_iter().flatten();
        let cidrs = blocks.filter_map(|it| it["cidr"].as_str());
        let cidrs = cidrs.filter(|cidr| !cidr.is_empty()).collect::<Vec<_>>();
        if !cidrs.is_empty() {
            out.insert(name.to_owned(), json!(cidrs));
        }
    }
    for (name, field) in [
        ("local_workload_peering_ip_v4", "localWorkloadPeeringIPV4"),
        ("local_workload_peering_ip_v6", "localWorkloadPeeringIPV6"),
    ] {
        if let Some(text) = spec[field].as_str().filter(|text| !text.is_empty()) {
            out.insert(name.to_owned(), json!(text));
        }
    }
    Some(Value::Object(out))
}

fn map(labels: &Labels) -> Value {
    let fields = labels.iter().map(|(key, value)| (key.to_string(), json!(value.as_str())));
    Value::Object(fields.collect())
}
