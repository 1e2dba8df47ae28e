//! `bulrush replay`: what of a node's state no other program shows, in Calico's words.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, fs, process::Command};

use serde_json::{Value, json};

/// The state of `node-1` in a cluster of these objects, with these parameters of its agent.
fn state(config: &Value, objects: &[(&str, Value)]) -> Value {
    let put = objects.iter().map(|(key, value)| {
        let root = if key.starts_with("ipam/") { "" } else { "resources/v3/projectcalico.org/" };
        json!({"key": format!("/calico/{root}{key}"), "value": value})
    });
    let put = put.collect::<Vec<_>>();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("case.json");
    fs::write(&file, json!({"config": config, "steps": [{"put": put}]}).to_string()).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_bulrush"));
    let output = command.arg("replay").arg(file).args(["--node", "node-1"]).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice::<Value>(&output.stdout).unwrap()[0].take()
}

#[test]
fn a_recording_that_is_cut_off_is_read_to_there_and_a_node_that_is_not_in_it_is_named() {
    let key = "/calico/resources/v3/projectcalico.org/nodes/node-1";
    let lines = [
        json!({"stream": "etcd", "version": 1, "t_ms": 0, "op": "put", "key": key,
               "value": {"metadata": {"name": "node-1"}, "spec": {"bgp": {"ipv4Address": "10.0.0.1/24"}}}}),
        json!({"stream": "etcd", "version": 1, "t_ms": 0, "op": "progress"}),
        json!({"stream": "etcd", "version": 2, "t_ms": 9, "op": "delete", "key": key}),
    ];
    let text = lines.map(|line| line.to_string()).join("\n");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("record.jsonl");
    fs::write(&file, &text[..text.len() - 5]).unwrap();
    let replay = |node: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bulrush"));
        let output = command.arg("replay").arg(&file).args(["--node", node]).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let state: Value = serde_json::from_slice(&output.stdout).unwrap();
        (state[0]["host_metadata"].clone(), String::from_utf8(output.stderr).unwrap())
    };
    let (hosts, beside) = replay("node-1");
    assert_eq!(hosts["node-1"]["ipv4"], "10.0.0.1/24", "{hosts}");
    assert!(beside.starts_with("warning: the last line of the recording is cut off"), "{beside}");
    assert!(!beside.contains("no node"), "{beside}");
    let (_, beside) = replay("node-2");
    assert!(beside.contains("there is no node \"node-2\", and no endpoint on it"), "{beside}");
}

fn node(name: &str, spec: &Value) -> (String, Value) {
    (format!("nodes/{name}"), json!({"metadata": {"name": name}, "spec": spec}))
}

fn pod(metadata: &Value, more: &Value) -> Value {
    let mut pod = json!({
        "metadata": metadata,
        "spec": {"interfaceName": "cali1", "ipNetworks": ["10.1.0.1/32"]},
    });
    pod["spec"].as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let key = "workloadendpoints/ns/node--1-k8s-web-eth0";
    state(&json!({}), &[(key, pod)])["workload_endpoints"]["k8s/ns/web/eth0"].clone()
}

#[test]
fn a_block_of_the_load_balancer_has_its_routes_like_one_of_a_node() {
    let ipip = json!({"spec": {"cidr": "10.1.0.0/16", "ipipMode": "Always", "vxlanMode": "Never"}});
    let block = json!({
        "cidr": "10.1.2.0/30",
        "affinity": "virtual:load-balancer",
        "allocations": [null, 0, 1, null],
        "attributes": [{"handle_id": "a", "secondary": {}}, {"handle_id": "b", "secondary": {"node": "node-2"}}],
    });
    let block = ("ipam/v2/assignment/ipv4/block/10.1.2.0-30", block);
    let (key, no_address) =
        node("node-2", &json!({"addresses": [{"type": "InternalIP", "address": "0.0.0.0"}]}));
    let state = state(&json!({}), &[("ippools/p", ipip), block, (&key, no_address)]);
    let routes = state["routes"].as_array().unwrap().iter();
    let routes = routes.map(|it| (it["dst"].as_str().unwrap(), it)).collect::<BTreeMap<_, _>>();
    assert_eq!(routes["10.1.2.0/30"]["dst_node_name"], "load-balancer");
    assert_eq!(routes["10.1.2.0/30"]["types"], json!(["REMOTE_WORKLOAD"]));
    assert_eq!(routes["10.1.2.2/32"]["dst_node_name"], "node-2");
    assert_eq!(routes["10.1.2.2/32"]["borrowed"], true);
    assert_eq!(routes.len(), 3, "0.0.0.0 is no address, and nobody has 10.1.2.1: {routes:?}");
}

#[test]
fn limits_of_either_kind_and_virtual_machines_take_no_short_way() {
    let limited =
        pod(&json!({}), &json!({"qosControls": {"ingressPacketRate": 9, "egressBandwidth": 1000}}));
    assert_eq!(limited["skip_redir"], json!({"ingress": true, "egress": true}));
    let limits = json!({"ingress_packet_rate": "9", "egress_bandwidth": "1000"});
    assert_eq!(limited["qos_controls"], limits);
    let machine = pod(&json!({"labels": {"kubevirt.io": "virt-launcher"}}), &json!({}));
    assert_eq!(machine["skip_redir"], json!({"ingress": true}));
    assert_eq!(machine["qos_controls"], Value::Null);
}

#[test]
fn a_mark_is_a_number_or_a_name_and_what_is_neither_marks_a_pod_with_zero() {
    let marks = |dscp: &Value| {
        pod(&json!({}), &json!({"qosControls": {"dscp": dscp}}))["qos_policies"].clone()
    };
    for (dscp, point) in [
        (json!("EF"), 46),
        (json!("af41"), 34),
        (json!("CS6"), 48),
        (json!("12"), 12),
        (json!(12), 12),
    ] {
        assert_eq!(marks(&dscp), json!([{"dscp": point}]), "{dscp}");
    }
    for dscp in ["CS7", "AF44", "AF51", "AF1", "DF", "what"] {
        assert_eq!(marks(&json!(dscp)), json!([{}]), "{dscp}");
    }
    let only = pod(&json!({}), &json!({"qosControls": {"dscp": 0}}));
    assert_eq!(only["qos_controls"], json!({}), "there are controls, though none limits");

    let host = |dscp: &str| {
        let metadata = json!({"name": "h", "annotations": {"qos.projectcalico.org/dscp": dscp}});
        let host =
            json!({"metadata": metadata, "spec": {"node": "node-1", "interfaceName": "eth0"}});
        let state = state(&json!({}), &[("hostendpoints/h", host)]);
        state["host_endpoints"]["h"]["qos_policies"].clone()
    };
    assert_eq!(host("ef"), json!([{"dscp": 46}]));
    for none in ["64", "CS7", "what"] {
        assert_eq!(host(none), Value::Null, "{none}");
    }
}

#[test]
fn a_pod_without_an_address_makes_nothing_active() {
    let rule = json!({"action": "Allow", "source": {"selector": "app == 'db'"}});
    let policy = json!({"spec": {"selector": "app == 'web'", "ingress": [rule]}});
    let active = |addresses: &Value| {
        let spec =
            json!({"interfaceName": "cali1", "ipNetworks": addresses, "profiles": ["its-own"]});
        let pod = json!({"metadata": {"labels": {"app": "web"}}, "spec": spec});
        let key = "workloadendpoints/ns/node--1-k8s-web-eth0";
        let objects = [(key, pod), ("globalnetworkpolicies/p", policy.clone())];
        let state = state(&json!({}), &objects);
        ["policies", "profiles", "ip_sets"].map(|section| state[section].as_object().unwrap().len())
    };
    assert_eq!(active(&json!(["10.1.0.1"])), [1, 1, 1]);
    assert_eq!(active(&json!([])), [0, 0, 0]);
}

#[test]
fn a_type_of_icmp_is_shown_also_where_it_is_zero() {
    let shown = |icmp: &Value| {
        let rule = json!({"action": "Allow", "protocol": "ICMP", "icmp": icmp});
        let policy =
            json!({"spec": {"ingress": [rule], "performanceHints": ["AssumeNeededOnEveryNode"]}});
        let state = state(&json!({}), &[("globalnetworkpolicies/p", policy)]);
        state["policies"]["GlobalNetworkPolicy//p"]["inbound"][0].clone()
    };
    assert_eq!(shown(&json!({"type": 0}))["icmp_type"], 0);
    assert_eq!(shown(&json!({"type": 0, "code": 0}))["icmp_type_code"], json!({}));
    assert_eq!(shown(&json!({"type": 0, "code": 1}))["icmp_type_code"], json!({"code": 1}));
}

#[test]
fn a_host_endpoint_has_the_name_that_its_value_says() {
    let host = json!({"metadata": {"name": "its-own"}, "spec": {"node": "node-1", "interfaceName": "eth0"}});
    let state = state(&json!({}), &[("hostendpoints/of-the-key", host)]);
    let names = state["host_endpoints"].as_object().unwrap().keys().collect::<Vec<_>>();
    assert_eq!(names, ["its-own"]);
}

#[test]
fn routes_are_programmed_by_default_where_the_configuration_says_nothing_that_is_known() {
    for (value, programmed) in [
        ("", true),
        ("EnabledIPIPOnly", true),
        ("Enabled", true),
        ("what", true),
        ("Disabled", false),
    ] {
        let pool =
            json!({"spec": {"cidr": "10.1.0.0/16", "ipipMode": "Always", "vxlanMode": "Never"}});
        let state = state(&json!({"programClusterRoutes": value}), &[("ippools/p", pool)]);
        assert_eq!(state["components"]["routes"], programmed, "{value:?}");
    }
}

#[test]
fn without_ipv6_a_nodes_ipv6_address_is_only_the_one_of_bgp() {
    let addresses = json!([{"type": "InternalIP", "address": "fd00::1"}]);
    for (bgp, support, address) in [
        (json!({}), "true", "fd00::1/128"),
        (json!({}), "false", ""),
        (json!({"ipv6Address": "fd00::2/64"}), "false", "fd00::2/64"),
    ] {
        let (key, node) = node("node-1", &json!({"addresses": addresses, "bgp": bgp}));
        let state = state(&json!({"ipv6Support": support}), &[(&key, node)]);
        assert_eq!(state["host_metadata"]["node-1"]["ipv6"], address, "{bgp} {support}");
    }
}
