//! How objects are read, and what is said about those that can't be.

use serde_json::json;

use super::*;
use crate::view::{Action, EncapMode, Protocol};

fn read(key: &Key, value: Value) -> Result<Resource, Invalid> {
    decode(key, &Stored::Json(value))
}

fn policy(spec: &Value) -> (Policy, Vec<Invalid>) {
    let key = Key::namespaced(Kind::NetworkPolicy, "ns", "p");
    let resource = read(&key, json!({ "spec": spec })).unwrap();
    let Spec::NetworkPolicy(policy) = resource.spec else { panic!("not a policy") };
    (policy, resource.faults)
}

fn endpoint(name: &str, spec: &Value) -> Result<WorkloadEndpoint, Invalid> {
    let key = Key::namespaced(Kind::WorkloadEndpoint, "ns", name);
    match read(&key, json!({ "spec": spec }))?.spec {
        Spec::WorkloadEndpoint(endpoint) => Ok(endpoint),
        _ => panic!("not an endpoint"),
    }
}

fn fields(invalid: &[Invalid]) -> Vec<&str> {
    invalid.iter().map(|fault| fault.field.as_str()).collect()
}

#[test]
fn bytes_that_are_not_json_are_named_as_such() {
    let key = Key::global(Kind::Tier, "t");
    let error = decode(&key, &Stored::Raw(b"{{".to_vec())).unwrap_err();
    assert_eq!(error.to_string(), "{{: not JSON");
    let error = read(&key, json!([])).unwrap_err();
    assert_eq!(error.to_string(), "[]: must be an object");
}

#[test]
fn an_error_names_the_field_the_value_and_what_would_be_right() {
    let (policy, _) = policy(&json!({
        "ingress": [{"action": "Allow", "source": {"nets": ["10.0.0.0/8", "10.0.0.0/33"]}}],
    }));
    assert_eq!(
        policy.ingress[0].source.nets.bad[0].to_string(),
        "spec.ingress[0].source.nets[1]: \"10.0.0.0/33\": must be a CIDR such as 10.0.0.0/8"
    );
}

#[test]
fn null_and_an_empty_object_are_a_policy_without_fields() {
    let key = Key::global(Kind::GlobalNetworkPolicy, "p");
    for value in [json!(null), json!({}), json!({"spec": null})] {
        let Spec::GlobalNetworkPolicy(policy) = read(&key, value).unwrap().spec else {
            panic!("not a policy")
        };
        assert_eq!(policy.tier, "default");
        assert!(policy.acts_on_ingress && policy.acts_on_egress);
    }
}

#[test]
fn a_rule_says_which_conditions_it_had_to_leave_out() {
    let (policy, faults) = policy(&json!({"ingress": [
        {"action": "Allow", "protocol": "FOO", "ipVersion": 5, "http": {"methods": ["GET"]}},
        {"action": "Allow", "icmp": {"code": 3}, "source": "x", "destination": {"nets": 7}},
        {"action": "Permit"},
        "x",
    ]}));
    assert_eq!(faults, []);
    let unknown = |rule: usize| fields(&policy.ingress[rule].unknown);
    assert_eq!(
        unknown(0),
        ["spec.ingress[0].ipVersion", "spec.ingress[0].protocol", "spec.ingress[0].http"]
    );
    assert_eq!(
        unknown(1),
        ["spec.ingress[1].icmp", "spec.ingress[1].source", "spec.ingress[1].destination.nets"]
    );
    for rule in &policy.ingress[2..] {
        assert_eq!(rule.action, Action::Deny);
        assert!(rule.bad_action.is_some());
    }
}

#[test]
fn rules_that_are_no_list_are_one_rule_that_denies() {
    let (policy, _) = policy(&json!({"egress": "all"}));
    assert_eq!(policy.egress.len(), 1);
    assert_eq!(policy.egress[0].action, Action::Deny);
}

#[test]
fn the_name_of_icmp_implies_the_ip_version_and_its_number_does_not() {
    let (policy, _) = policy(&json!({"ingress": [
        {"action": "Allow", "protocol": "ICMP"},
        {"action": "Allow", "protocol": "ICMPv6"},
        {"action": "Allow", "protocol": 1},
        {"action": "Allow", "protocol": "58"},
    ]}));
    let read = policy.ingress.iter().map(|r| (r.protocol.unwrap().0, r.ip_version));
    assert_eq!(read.collect::<Vec<_>>(), [(1, Some(4)), (58, Some(6)), (1, None), (58, None)]);
}

#[test]
fn a_position_that_is_no_number_is_last_and_named() {
    let (policy, faults) = policy(&json!({"order": "first"}));
    assert_eq!(policy.order, None);
    assert_eq!(fields(&faults), ["spec.order"]);
}

#[test]
fn actions_count_in_any_case_but_pass_only_in_its_own() {
    let (policy, _) = policy(&json!({"ingress": [
        {"action": "ALLOW"}, {"action": "log"}, {"action": "Pass"}, {"action": "pass"}, {},
    ]}));
    let actions = policy.ingress.iter().map(|r| r.action).collect::<Vec<_>>();
    assert_eq!(actions, [Action::Allow, Action::Log, Action::Pass, Action::Deny, Action::Deny]);
}

#[test]
fn the_name_of_an_endpoint_says_whose_it_is() {
    let spec = json!({"interfaceName": "cali1", "node": "other", "ipNetworks": ["10.0.0.9/28"]});
    let read = endpoint("node--1-k8s-a--b----c-eth0", &spec).unwrap();
    assert_eq!(read.id.node, "node-1");
    assert_eq!(read.id.workload, "a-b--c");
    assert_eq!(read.addresses, ["10.0.0.0/28".parse().unwrap()]);
    for bad in ["node-1-k8s-pod-eth0", "node--1-k8s-eth0", "-k8s-pod-eth0", ""] {
        assert_eq!(endpoint(bad, &spec).unwrap_err().field, "metadata.name", "{bad}");
    }
}

#[test]
fn half_an_endpoint_is_none() {
    for (field, value) in [
        ("interfaceName", json!("")),
        ("ipNetworks", json!(["bad"])),
        ("mac", json!("zz:00:00:00:00:00")),
        ("ipv4Gateway", json!("fd00::1")),
        ("ports", json!([{"name": "a", "port": 0, "protocol": "TCP"}])),
        ("ports", json!([{"name": "a", "port": 9, "protocol": 6}])),
    ] {
        let mut spec = json!({"interfaceName": "cali1", "ipNetworks": ["10.0.0.1"]});
        spec[field] = value;
        let error = endpoint("n-k8s-p-eth0", &spec).unwrap_err();
        assert!(error.field.starts_with(&format!("spec.{field}")), "{error}");
    }
}

#[test]
fn an_endpoint_keeps_ports_with_a_name_and_reads_its_mac_in_any_form() {
    let read = endpoint(
        "n-k8s-p-eth0",
        &json!({"interfaceName": "cali1", "mac": "AABB.CCDD.EEFF", "ports": [
            {"name": "", "port": 81, "protocol": "TCP", "hostPort": 8081},
            {"name": "dns", "port": 53, "protocol": "udp"},
        ]}),
    )
    .unwrap();
    assert_eq!(read.mac, "aa:bb:cc:dd:ee:ff");
    let dns = EndpointPort { name: "dns".into(), protocol: Protocol(17), port: 53 };
    assert_eq!(read.ports, [dns]);
}

#[test]
fn a_policy_in_a_namespace_has_no_flags() {
    let spec = json!({"spec": {"doNotTrack": true, "preDNAT": true, "applyOnForward": true}});
    let of = |key: &Key| match read(key, spec.clone()).unwrap().spec {
        Spec::NetworkPolicy(it) | Spec::GlobalNetworkPolicy(it) => {
            [it.do_not_track, it.pre_dnat, it.apply_on_forward]
        }
        other => panic!("{other:?}"),
    };
    let namespaced = Key::namespaced(Kind::NetworkPolicy, "ns", "p");
    assert_eq!(of(&namespaced), [false; 3], "it would not act on its pods any more");
    assert_eq!(of(&Key::global(Kind::GlobalNetworkPolicy, "p")), [true; 3]);
}

#[test]
fn a_gateway_may_have_a_prefix() {
    let spec = json!({"interfaceName": "cali1", "ipv4Gateway": "10.0.0.254/24"});
    assert!(endpoint("n-k8s-p-eth0", &spec).is_ok(), "as in Calico");
}

#[test]
fn a_host_endpoint_with_a_port_that_no_rule_can_mean_is_none() {
    let key = Key::global(Kind::HostEndpoint, "h");
    let with = |name: &str| {
        let port = json!({"name": name, "port": 80, "protocol": "TCP"});
        json!({"spec": {"node": "n", "interfaceName": "eth0", "ports": [port]}})
    };
    assert!(read(&key, with("http")).is_ok());
    assert_eq!(read(&key, with("")).unwrap_err().field, "spec.ports");
}

#[test]
fn pods_cannot_fake_labels_of_their_namespace() {
    let key = Key::namespaced(Kind::WorkloadEndpoint, "ns", "n-k8s-p-eth0");
    let resource = read(
        &key,
        json!({
            "metadata": {"labels": {"pcns.a": "x", "pcsa.a": "x", "a": "b"}},
            "spec": {"interfaceName": "cali1", "serviceAccountName": "sa"},
        }),
    )
    .unwrap();
    let Spec::WorkloadEndpoint(endpoint) = resource.spec else { panic!("not an endpoint") };
    let labels = endpoint.own_labels(resource.metadata);
    let expected: Labels =
        vec![("a".into(), "b".into()), ("projectcalico.org/serviceaccount".into(), "sa".into())];
    assert_eq!(labels, expected);
}

#[test]
fn a_node_keeps_the_addresses_that_work() {
    let resource = read(
        &Key::global(Kind::Node, "n"),
        json!({"spec": {
            "bgp": {"ipv4Address": "nonsense", "ipv6Address": "fd10::1/64", "asNumber": "1.10"},
            "ipv4VXLANTunnelAddr": "fd00::1",
            "vxlanTunnelMACAddr": "zz",
            "addresses": [
                {"address": "10.0.0.1", "type": "InternalIP"},
                {"address": "x", "type": "InternalIP"},
                {"address": "10.0.0.1/24", "type": "CalicoNodeIP"},
            ],
        }, "status": {"wireguardPublicKey": "key"}}),
    )
    .unwrap();
    let Spec::Node(node) = resource.spec else { panic!("not a node") };
    assert_eq!(node.bgp_ipv6, Some("fd10::1/64".parse().unwrap()));
    assert_eq!(node.as_number, Some(65546));
    assert_eq!(node.internal, ["10.0.0.1/32".parse().unwrap()]);
    assert_eq!(node.wireguard_key, "key");
    assert_eq!(
        fields(&resource.faults),
        [
            "spec.bgp.ipv4Address",
            "spec.ipv4VXLANTunnelAddr",
            "spec.vxlanTunnelMACAddr",
            "spec.addresses[1].address",
        ]
    );
}

#[test]
fn a_damaged_block_keeps_what_can_be_read() {
    let block = json!({
        "cidr": "10.0.0.0/30",
        "affinity": "host:a",
        "allocations": [0, 7, null, 1, 0],
        "attributes": [{"handle_id": "h", "secondary": {"node": "b"}}, {"secondary": 3}],
    });
    let key = Key::global(Kind::IPAMBlock, "10-0-0-0-30");
    for value in [block.clone(), json!({ "spec": block })] {
        let resource = read(&key, value).unwrap();
        let Spec::IPAMBlock(block) = resource.spec else { panic!("not a block") };
        assert_eq!(block.affinity, Some(Affinity::Host("a".into())));
        let nodes = block.holders().map(|(ip, a)| (ip.to_string(), a.node.as_str()));
        let nodes = nodes.collect::<Vec<_>>();
        assert_eq!(nodes, [("10.0.0.0".to_owned(), "b"), ("10.0.0.3".to_owned(), "")]);
        assert_eq!(resource.faults.len(), 3, "{:?}", resource.faults);
    }
    assert_eq!(read(&key, json!({})).unwrap_err().field, "cidr");
    let gone = json!({"spec": {"cidr": "10.0.0.0/30", "deleted": true}});
    assert_eq!(read(&key, gone).unwrap_err().field, "spec.deleted");
}

#[test]
fn a_pool_masks_its_range_and_takes_modes_only_in_their_exact_spelling() {
    let resource = read(
        &Key::global(Kind::IPPool, "p"),
        json!({"spec": {"cidr": "10.1.2.3/16", "ipipMode": "always", "vxlanMode": "Always"}}),
    )
    .unwrap();
    let Spec::IPPool(pool) = resource.spec else { panic!("not a pool") };
    assert_eq!(pool.cidr.to_string(), "10.1.0.0/16");
    assert_eq!((pool.ipip, pool.vxlan), (EncapMode::Never, EncapMode::Always));
    assert_eq!(pool.block_size, 26);
    assert_eq!(fields(&resource.faults), ["spec.ipipMode"]);
}

#[test]
fn a_profile_with_a_label_that_is_none_keeps_its_rules() {
    let resource = read(
        &Key::global(Kind::Profile, "kns.a"),
        json!({"spec": {
            "ingress": [{"action": "Allow"}],
            "labelsToApply": {"pcns.projectcalico.org/name": "a", "pcns.team": "bad value!"},
        }}),
    )
    .unwrap();
    let Spec::Profile(profile) = resource.spec else { panic!("not a profile") };
    assert_eq!(profile.labels_to_apply, []);
    assert_eq!(profile.ingress.len(), 1);
    assert_eq!(fields(&resource.faults), ["spec.labelsToApply"]);
}

#[test]
fn a_set_skips_only_the_members_that_are_none() {
    let resource = read(
        &Key::global(Kind::GlobalNetworkSet, "s"),
        json!({"spec": {"nets": ["10.1.2.3/16", "", "bad", 5, "::ffff:192.0.2.1"]}}),
    )
    .unwrap();
    let Spec::GlobalNetworkSet(set) = resource.spec else { panic!("not a set") };
    let nets = set.nets.iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(nets, ["10.1.0.0/16", "192.0.2.1/32"]);
    assert_eq!(resource.faults.len(), 3);
}

#[test]
fn orders_compare_as_numbers() {
    assert_eq!(Order(-0.0), Order(0.0));
    assert!(Order(-1.5) < Order(0.0) && Order(2.0) < Order(10.0));
}
