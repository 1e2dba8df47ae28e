use serde_json::{Value, json};

use super::*;
use crate::{Key, Kind, Stored, kinds::decode};

/// The faults of an object, each as people read it.
fn faults(object: &Value) -> Vec<String> {
    translate(object).faults.iter().map(ToString::to_string).collect()
}

fn network_policy(spec: &Value) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": { "name": "web", "namespace": "shop" },
        "spec": spec,
    })
}

fn cluster_network_policy(spec: &Value) -> Value {
    json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": { "name": "all" },
        "spec": spec,
    })
}

#[test]
fn every_fault_of_a_network_policy_is_named_with_its_place_and_what_follows() {
    let policy = network_policy(&json!({
        "podSelector": { "matchExpressions": [{ "key": "tier", "operator": "Gt", "values": ["1"] }] },
        "policyTypes": ["Ingress", "EGRESS"],
        "ingress": [{
            "from": [
                { "ipBlock": { "cidr": "10.0.0.1", "except": ["10.0.0.0/8", "bad"] } },
                { "podSelector": { "matchLabels": { "a b": "1", "c": "'\"" } } },
            ],
        }],
        "egress": [{ "ports": [{ "port": 80, "endPort": 79 }, { "port": "a b" }] }],
    }));
    assert_eq!(
        faults(&policy),
        [
            "spec.podSelector.matchExpressions[0].operator: \"Gt\": must be In, NotIn, Exists or \
             DoesNotExist; the condition is left out, and the policy is without its rules",
            "spec.policyTypes[1]: \"EGRESS\": must be Ingress or Egress; it is ignored",
            "spec.ingress[0].from[0].ipBlock.cidr: \"10.0.0.1\": must be a CIDR such as 10.0.0.0/8 \
             or fd00::/64; the peer is left out",
            "spec.ingress[0].from[0].ipBlock.except[1]: \"bad\": must be a CIDR such as 10.0.0.0/8 \
             or fd00::/64; the peer is left out",
            "spec.ingress[0].from[1].podSelector.matchLabels: \"a b\": label \"a b\" can't be in a \
             selector: 1 to 512 characters of A-Z a-z 0-9 _ . / - are; the peer is left out",
            "spec.ingress[0].from[1].podSelector.matchLabels: \"'\\\"\": must have one kind of \
             quotes at most: ' or \"; the peer is left out",
            "spec.egress[0].ports[0].port: \"80:79\": must not end before it begins; the rule is \
             left out",
            "spec.egress[0].ports[1].port: \"a b\": must be a number from 0 to 65535, or a name of \
             1 to 128 letters, digits, _ . -; the rule is left out",
        ]
    );
}

#[test]
fn faults_travel_with_the_object_and_are_read_with_it() {
    let policy = network_policy(&json!({
        "podSelector": {},
        "ingress": [{ "from": [{ "ipBlock": { "cidr": "x" } }] }],
    }));
    let mut translation = translate(&policy);
    let mut object = translation.objects.remove(0);
    note_faults(&mut object, &translation.faults);
    let key = Key::namespaced(Kind::KubernetesNetworkPolicy, "shop", "web");
    let read = decode(&key, &Stored::Json(object)).expect("a policy without its rule");
    assert_eq!(read.faults, translation.faults);

    let mut rest = json!({ "metadata": { "name": "web" } });
    note_faults(&mut rest, &translation.faults);
    let error = decode(&key, &Stored::Json(rest)).expect_err("without a spec there is no policy");
    assert_eq!(error, translation.faults[0]);
}

#[test]
fn a_policy_whose_own_selector_is_broken_isolates_what_it_may_mean_and_allows_nothing() {
    let policy = network_policy(&json!({
        "podSelector": {
            "matchLabels": { "app": "web" },
            "matchExpressions": [{ "key": "tier", "operator": "Gt", "values": ["1"] }],
        },
        "ingress": [{}],
    }));
    assert_eq!(
        translate(&policy).objects[0]["spec"],
        json!({
            "tier": "default",
            "order": 1000,
            "selector": "projectcalico.org/orchestrator == 'k8s' && app == 'web'",
            "types": ["Ingress"],
        })
    );
}

#[test]
fn what_a_fault_means_for_a_cluster_network_policy_depends_on_the_action() {
    let port = json!([{ "tcp": { "destinationPort": { "number": 65_616 } } }]);
    let rule = |action: &str| json!({ "action": action, "to": [{ "networks": ["10.0.0.0/8"] }], "protocols": port });
    let policy = cluster_network_policy(&json!({
        "tier": "Admin",
        "subject": { "namespaces": {} },
        "egress": [rule("Accept"), rule("Deny"), rule("Pass")],
    }));
    let place = "protocols[0].tcp.destinationPort.number: 65616: must be from 1 to 65535;";
    assert_eq!(
        faults(&policy),
        [
            format!("spec.egress[0].{place} what the rule would accept by it is left out"),
            format!("spec.egress[1].{place} the rule denies without this condition"),
            format!(
                "spec.egress[2].{place} the rule denies, without this condition, instead of passing"
            ),
        ]
    );
    let deny = json!({
        "action": "Deny",
        "protocol": "TCP",
        "destination": { "nets": ["10.0.0.0/8"] },
    });
    assert_eq!(translate(&policy).objects[0]["spec"]["egress"], json!([deny, deny]));
}

#[test]
fn every_fault_of_a_cluster_network_policy_is_named() {
    let namespaces = json!({ "namespaces": {} });
    let policy = cluster_network_policy(&json!({
        "tier": "Admin",
        "subject": namespaces,
        "ingress": [
            { "action": "Log", "from": [namespaces] },
            { "action": "Accept", "from": [{}] },
            { "action": "Deny" },
        ],
        "egress": [
            { "action": "Accept", "to": [{ "namespaces": {}, "nodes": {} }, { "networks": ["x"] }] },
            {
                "action": "Pass",
                "to": [namespaces],
                "protocols": [
                    { "destinationNamedPort": "a b" },
                    { "udp": { "destinationPort": { "range": { "start": 9, "end": 8 } } } },
                ],
            },
        ],
    }));
    assert_eq!(
        faults(&policy),
        [
            "spec.ingress[0].action: \"Log\": must be Accept, Deny or Pass; the rule is left out",
            "spec.ingress[1].from[0]: must have namespaces or pods; the rule is left out",
            "spec.ingress[2].from: must list a peer; the rule is left out",
            "spec.egress[0].to[0].nodes: can't be translated; give it a rule of its own or leave \
             it out; what the rule would accept by it is left out",
            "spec.egress[0].to[1].networks[0]: \"x\": must be a CIDR such as 10.0.0.0/8 or \
             fd00::/64; the rule is left out",
            "spec.egress[1].protocols[0].destinationNamedPort: \"a b\": must be a number from 0 to \
             65535, or a name of 1 to 128 letters, digits, _ . -; the rule denies everything",
            "spec.egress[1].protocols[1].udp.destinationPort.range: \"9:8\": must not end before \
             it begins; the rule denies everything",
        ]
    );
    for (spec, fault) in [
        (
            json!({ "tier": "admin", "subject": namespaces }),
            "spec.tier: \"admin\": must be Admin or Baseline; the policy is left out",
        ),
        (
            json!({ "tier": "Admin" }),
            "spec.subject: must have namespaces or pods; the policy is left out",
        ),
    ] {
        let translation = translate(&cluster_network_policy(&spec));
        assert_eq!(translation.faults[0].to_string(), fault);
        assert!(translation.objects.is_empty());
    }
}

#[test]
fn a_value_of_the_wrong_type_is_named_with_its_place() {
    for (spec, fault) in [
        (json!([]), "spec: []: must be an object"),
        (json!({ "ingress": [{}, { "from": {} }] }), "spec.ingress[1].from: {}: must be a list"),
        (
            json!({ "podSelector": { "matchLabels": { "app": 1 } } }),
            "spec.podSelector.matchLabels.app: 1: must be text",
        ),
        (
            json!({ "ingress": [{ "ports": [{ "port": 80.5 }] }] }),
            "spec.ingress[0].ports[0].port: 80.5: must be a port's number or its name",
        ),
        (
            json!({ "ingress": [{ "ports": [{ "endPort": 2_147_483_648_u32 }] }] }),
            "spec.ingress[0].ports[0].endPort: 2147483648: must be a whole number from \
             -2147483648 to 2147483647",
        ),
    ] {
        let translation = translate(&network_policy(&spec));
        assert_eq!(translation.faults[0].to_string(), fault);
        assert!(translation.objects.is_empty());
        assert_eq!(translation.subject, "NetworkPolicy shop/web");
    }
}

#[test]
fn what_keeps_a_pod_from_being_an_endpoint_is_named() {
    let pod = |annotations: &Value, node: &str, ip: &str| {
        json!({
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": { "name": "p", "namespace": "shop", "annotations": annotations },
            "spec": { "nodeName": node },
            "status": { "podIP": ip },
        })
    };
    let none = json!({});
    let floating = json!({ "cni.projectcalico.org/floatingIPs": "1.1.1.1" });
    let prefixes = json!({ "cni.projectcalico.org/allowedSourcePrefixes": "[\"x\"]" });
    for (pod, fault) in [
        (pod(&none, "", "10.0.0.1"), "spec.nodeName: it must have a node; the pod is left out"),
        (
            pod(&none, "-a", "10.0.0.1"),
            "spec.nodeName: \"-a\": must not begin or end with a dash; the pod is left out",
        ),
        (
            pod(&none, "a", "10.0.0"),
            "status.podIP: \"10.0.0\": must be an address such as 10.0.0.1 or fd00::1; the pod is \
             left out",
        ),
        (
            pod(&floating, "a", "10.0.0.1"),
            "metadata.annotations.cni.projectcalico.org/floatingIPs: \"1.1.1.1\": must be a list \
             such as [\"10.0.0.1\"] in JSON (trailing characters at line 1 column 4); the pod is \
             left out",
        ),
        (
            pod(&prefixes, "a", "10.0.0.1"),
            "metadata.annotations.cni.projectcalico.org/allowedSourcePrefixes: \"x\": must be a \
             CIDR such as 10.0.0.0/8 or fd00::/64; the pod is left out",
        ),
    ] {
        assert_eq!(faults(&pod), [fault]);
        assert!(translate(&pod).objects.is_empty());
    }
}

#[test]
fn a_port_that_is_none_leaves_the_pod_and_its_other_ports() {
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": "p", "namespace": "shop" },
        "spec": { "nodeName": "a", "containers": [{ "ports": [
            { "name": "bad", "containerPort": 65_616 },
            { "name": "good", "containerPort": 80 },
        ] }] },
    });
    let translation = translate(&pod);
    assert_eq!(
        translation.faults[0].to_string(),
        "spec.containers[0].ports[0].containerPort: 65616: must be from 1 to 65535; the port is \
         left out"
    );
    let ports = translation.objects[0]["spec"]["ports"].as_array().unwrap();
    let names: Vec<_> = ports.iter().map(|port| &port["name"]).collect();
    assert_eq!(names, ["good"]);
}

#[test]
fn a_uid_is_read_in_every_form_that_go_reads() {
    let copy = Some("d6e51d08-b9b5-418b-802d-0003f22b0c13".to_owned());
    for uid in [
        "6ba7b810-9dad-41d1-80b4-00c04fd430c8",
        "6BA7B810-9DAD-41D1-80B4-00C04FD430C8",
        "6ba7b8109dad41d180b400c04fd430c8",
        "urn:uuid:6ba7b810-9dad-41d1-80b4-00c04fd430c8",
        "URN:UUID:6ba7b810-9dad-41d1-80b4-00c04fd430c8",
        "{6ba7b810-9dad-41d1-80b4-00c04fd430c8}",
        "(6ba7b810-9dad-41d1-80b4-00c04fd430c8)",
    ] {
        assert_eq!(super::metadata::converted(uid), copy, "{uid}");
    }
    for uid in [
        "{6ba7b8109dad41d180b400c04fd430c8}",
        "urn:uuid:6ba7b8109dad41d180b400c04fd430c8",
        "6ba7b8109-dad-41d1-80b4-00c04fd430c8",
        "",
    ] {
        assert_eq!(super::metadata::converted(uid), None, "{uid}");
    }
}

#[test]
fn times_are_written_in_utc_and_whole_seconds() {
    let mut policy = network_policy(&json!({}));
    policy["metadata"]["creationTimestamp"] = json!("2024-05-06T09:08:09.5+02:00");
    let metadata = &translate(&policy).objects[0]["metadata"];
    assert_eq!(metadata["creationTimestamp"], "2024-05-06T07:08:09Z");
    for kind in ["creationTimestamp", "deletionTimestamp"] {
        let mut policy = network_policy(&json!({}));
        policy["metadata"][kind] = json!("yesterday");
        let fault =
            format!("metadata.{kind}: \"yesterday\": must be a time such as 2026-01-31T12:00:00Z");
        assert_eq!(faults(&policy), [fault]);
    }
}

#[test]
fn an_empty_address_keeps_no_pod_from_having_floating_ones() {
    let pod = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "p",
            "namespace": "shop",
            "annotations": { "cni.projectcalico.org/floatingIPs": "[\"1.1.1.1\"]" },
        },
        "spec": { "nodeName": "a" },
        "status": { "podIPs": [{ "ip": "" }, { "ip": "10.0.0.1" }] },
    });
    assert_eq!(
        translate(&pod).objects[0]["spec"]["ipNATs"],
        json!([{ "internalIP": "10.0.0.1", "externalIP": "1.1.1.1" }])
    );
}

#[test]
fn a_named_port_of_digits_is_a_number_as_in_calico() {
    let ports = |name: &str| {
        let policy = cluster_network_policy(&json!({
            "tier": "Admin",
            "subject": { "namespaces": {} },
            "ingress": [{
                "action": "Accept",
                "from": [{ "namespaces": {} }],
                "protocols": [{ "destinationNamedPort": name }],
            }],
        }));
        translate(&policy).objects[0]["spec"]["ingress"][0]["destination"]["ports"].clone()
    };
    for (name, port) in [("http", json!("http")), ("80", json!(80)), ("80:90", json!("80:90"))] {
        assert_eq!(ports(name), json!([port]));
    }
    for name in ["70000", "90:80"] {
        assert_eq!(ports(name), Value::Null, "{name}");
    }
}

#[test]
fn a_rule_with_a_field_that_nobody_knows_has_lost_a_condition() {
    let rule = |field: &str| json!([{ "ports": [{ "port": 80, field: 90 }] }]);
    let policy =
        |field: &str| network_policy(&json!({ "podSelector": {}, "ingress": rule(field) }));
    let translation = translate(&policy("lastPort"));
    assert_eq!(
        faults(&policy("lastPort")),
        [
            "spec.ingress[0].ports[0].lastPort: unknown field; known here are protocol, port, endPort; \
          the rule is left out"
        ]
    );
    let spec = &translation.objects[0]["spec"];
    assert_eq!(spec["types"], json!(["Ingress"]), "it still isolates");
    assert_eq!(spec.get("ingress"), None);
    // A decoder of Kubernetes reads it.
    assert_eq!(faults(&policy("EndPort")), Vec::<String>::new());

    let policy = network_policy(&json!({ "podSelector": { "all": true }, "ingress": [{}] }));
    assert_eq!(translate(&policy).objects[0]["spec"].get("ingress"), None);

    let rule = |action: &str| {
        let from = json!([{ "namespaces": {} }]);
        json!({ "action": action, "from": from, "match": [{ "tcp": [{}] }] })
    };
    let rules = ["Accept", "Deny", "Pass"].map(rule);
    let policy = cluster_network_policy(&json!({
        "tier": "Admin", "priority": 1, "subject": { "namespaces": {} }, "ingress": rules,
    }));
    let spec = &translate(&policy).objects[0]["spec"];
    let actions = spec["ingress"].as_array().unwrap().iter().map(|rule| rule["action"].clone());
    assert_eq!(actions.collect::<Vec<_>>(), ["Deny", "Deny"]);
    let unknown = |index| {
        format!(
            "spec.ingress[{index}].match: unknown field; known here are name, action, from, to, protocols; "
        )
    };
    for (index, fault) in faults(&policy).iter().enumerate() {
        assert!(fault.starts_with(&unknown(index)), "{fault}");
    }
    assert_eq!(faults(&policy).len(), 3);
}

#[test]
fn what_an_api_server_would_refuse_is_named_without_what_would_follow() {
    let refused =
        |object: &Value| refused(object).iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut policy = network_policy(&json!({
        "PodSelector": { "matchLabel": { "app": "web" } },
        "policyTypes": ["Ingres"],
        "ingress": [{ "to": [{ "podSelector": {} }], "ports": [{ "port": 70000 }] }],
    }));
    policy["metadata"]["label"] = json!({});
    assert_eq!(
        refused(&policy)[..5],
        [
            "spec.podSelector.matchLabel: unknown field; known here are matchLabels, matchExpressions",
            "spec.policyTypes[0]: \"Ingres\": must be Ingress or Egress",
            "spec.ingress[0].to: unknown field; known here are from, ports",
            "spec.ingress[0].ports[0].port: \"70000\": must be from 0 to 65535",
            "metadata.label: unknown field; known here are name, generateName, namespace, uid, \
             resourceVersion, creationTimestamp, deletionTimestamp, labels, annotations, \
             deletionGracePeriodSeconds, finalizers, generation, managedFields, ownerReferences, selfLink",
        ],
    );
    assert!(
        refused(&policy).contains(&"spec.PodSelector: unknown field; write podSelector".to_owned())
    );
    // What is translated all the same.
    let policy = network_policy(&json!({ "podSelector": {}, "egress": [
        { "to": [{}, { "ipBlock": { "cidr": "10.0.0.0/8", "except": ["10.0.0.0/8", "11.0.0.0/16"] }, "podSelector": {} }] },
        { "ports": [{ "port": 0 }, { "protocol": "tcp" }, { "endPort": 9 }] },
    ] }));
    assert_eq!(
        refused(&policy),
        [
            "spec.egress[0].to[0]: must have podSelector, namespaceSelector or ipBlock",
            "spec.egress[0].to[1]: must have no selectors beside ipBlock",
            "spec.egress[0].to[1].ipBlock.except[0]: \"10.0.0.0/8\": must be a part of 10.0.0.0/8",
            "spec.egress[0].to[1].ipBlock.except[1]: \"11.0.0.0/16\": must be a part of 10.0.0.0/8",
            "spec.egress[1].ports[0].port: 0: must be from 1 to 65535",
            "spec.egress[1].ports[1].protocol: \"tcp\": must be one of TCP, UDP, SCTP",
            "spec.egress[1].ports[2].endPort: 9: must come with port",
        ],
    );
    assert_eq!(faults(&policy), Vec::<String>::new());
    let wrong = network_policy(&json!({ "podSelector": 1 }));
    assert_eq!(refused(&wrong), ["spec.podSelector: 1: must be an object"]);
    let namespace =
        json!({ "kind": "Namespace", "metadata": { "name": "a", "labelz": {} }, "any": 1 });
    assert_eq!(refused(&namespace).len(), 1);
    let whole = json!({ "kind": "NetworkPolicy", "apiVersion": "networking.k8s.io/v1", "status": {},
        "metadata": { "name": "a", "managedFields": [{ "f:spec": {} }], "ownerReferences": [] },
        "spec": { "podSelector": { "matchExpressions": [{ "key": "a", "operator": "Exists" }] },
            "egress": [{ "to": [{ "ipBlock": { "cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"] } }] }] } });
    assert_eq!(refused(&whole), Vec::<String>::new());
}
