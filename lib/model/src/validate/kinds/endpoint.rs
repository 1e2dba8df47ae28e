//! `WorkloadEndpoint` and `HostEndpoint`: who takes part in the network.

use serde_json::{Map, Value};

use super::{
    label, metadata::METADATA, metadata_mut, no_write_rules, nothing, rule::has_ports, text_at,
};
use crate::{
    Kind,
    validate::{
        fault::{Faults, Path},
        format::{
            CIDR, CONTAINER_ID, INTERFACE, IP, IP_OR_NONE, IPV4, IPV6, MAC, NAME, NET, PORT_NAME,
            PORT_NAME_OR_NONE, PROTOCOL, version,
        },
        net::{Cidr, ip},
        schema::{Breach, Check, Field, Object, Rule, Schema, Scope, Shape, Type, UINT16, Write},
    },
};

pub(super) static WORKLOAD_ENDPOINT: Schema = Schema {
    kind: Kind::WorkloadEndpoint,
    doc: "An interface of a pod or another workload. In Kubernetes it is made from a pod.",
    object: Object { fields: &[METADATA, Field::object("spec", &WORKLOAD_SPEC)], rules: &[] },
    name: &NAME,
    on_write: name_and_label,
    write_rules: named_by_spec,
    on_server: &[],
};

static NAME_SHAPE: Shape = Shape::checked(Type::Text, &[Check::Is(&NAME)]);

static WORKLOAD_SPEC: Object = Object {
    fields: &[
        Field::text("orchestrator")
            .doc("Who made it: `k8s`, `cni`, `openstack` or another.")
            .checks(&[Check::Is(&NAME)]),
        Field::text("workload").doc("The workload's name.").checks(&[Check::Is(&NAME)]),
        Field::text("node").doc("The node that it is on.").checks(&[Check::Is(&NAME)]),
        Field::text("containerID").doc("The container's id.").checks(&[Check::Is(&CONTAINER_ID)]),
        Field::text("pod").doc("The pod's name.").checks(&[Check::Is(&NAME)]),
        Field::text("endpoint")
            .doc("Which of the workload's endpoints it is, such as `eth0`.")
            .checks(&[Check::Is(&NAME)]),
        Field::text("serviceAccountName")
            .doc("The pod's service account.")
            .checks(&[Check::Is(&NAME)]),
        Field::list("ipNetworks", &Shape::checked(Type::Text, &[Check::Is(&NET)]))
            .doc("Its addresses, as `/32` or `/128`."),
        Field::list("ipNATs", &Shape::of(Type::Object(&NAT)))
            .doc("Other addresses under which it is reached."),
        Field::text("ipv4Gateway").doc("Its IPv4 gateway.").checks(&[Check::Is(&IPV4)]),
        Field::text("ipv6Gateway").doc("Its IPv6 gateway.").checks(&[Check::Is(&IPV6)]),
        Field::list("profiles", &NAME_SHAPE)
            .doc("Profiles whose rules and labels it inherits, in order."),
        Field::text("interfaceName")
            .doc("The interface on the host.")
            .required()
            .checks(&[Check::Is(&INTERFACE)]),
        Field::text("mac").doc("Its MAC address.").checks(&[Check::Is(&MAC)]),
        Field::list("ports", &Shape::of(Type::Object(&WORKLOAD_PORT))).doc("Ports with names."),
        Field::list("allowSpoofedSourcePrefixes", &Shape::checked(Type::Text, &[Check::Is(&CIDR)]))
            .doc("Networks that it may send from beside its own addresses."),
        Field::object("qosControls", &QOS).doc("Limits of its traffic.").if_present(),
    ],
    rules: &[
        Rule {
            says: "networks of an endpoint are single addresses",
            cel: &[],
            breach: |spec| {
                let index = spec.texts("ipNetworks").position(|text| {
                    Cidr::parse_or_ip(text)
                        .is_some_and(|net| net.ones != if net.is_ipv4() { 32 } else { 128 })
                })?;
                Breach::at(format!("ipNetworks[{index}]"), "write /32, or /128 for IPv6")
            },
        },
        Rule {
            says: "a NAT maps an address of the endpoint",
            cel: &[],
            breach: |spec| {
                let index = spec.list("ipNATs").iter().position(|nat| {
                    let internal = ip(text_at(nat, "internalIP"));
                    !spec
                        .texts("ipNetworks")
                        .filter_map(Cidr::parse_or_ip)
                        .any(|net| internal.is_some_and(|internal| net.contains(internal)))
                })?;
                let hint = "take one of ipNetworks, or add it there";
                Breach::at(format!("ipNATs[{index}].internalIP"), hint)
            },
        },
    ],
};

static NAT: Object = Object {
    fields: &[
        Field::text("internalIP")
            .doc("One of its addresses.")
            .always()
            .checks(&[Check::Is(&IP_OR_NONE)]),
        Field::text("externalIP")
            .doc("The address under which it is reached.")
            .always()
            .checks(&[Check::Is(&IP_OR_NONE)]),
    ],
    rules: &[Rule {
        says: "a NAT maps an address to one of the same IP version",
        cel: &[],
        breach: |nat| {
            let [internal, external] = ["internalIP", "externalIP"].map(|field| {
                let ip = ip(nat.text(field));
                ip.map(version)
            });
            if internal == external { None } else { Breach::at("externalIP", "") }
        },
    }],
};

static WORKLOAD_PORT: Object = Object {
    fields: &[
        Field::text("name")
            .doc("The name that policies use.")
            .always()
            .checks(&[Check::Is(&PORT_NAME_OR_NONE)]),
        Field::new("protocol", Type::NameOrByte)
            .doc("TCP, UDP or SCTP.")
            .always()
            .checks(&[Check::Is(&PROTOCOL)]),
        Field::new("port", UINT16).doc("The port.").always().checks(&[Check::Range(1, 65535)]),
        Field::new("hostPort", UINT16)
            .doc("The port of the node that leads to it; 0: none.")
            .always(),
        Field::text("hostIP")
            .doc("The address of the node that leads to it.")
            .always()
            .checks(&[Check::Is(&NET)]),
    ],
    rules: &[
        HAS_PORTS,
        Rule {
            says: "a port has a name or a hostPort",
            cel: &[],
            breach: |port| {
                let has_host_port = port.get("hostPort").and_then(Value::as_u64) != Some(0);
                if has_host_port || port.has_text("name") {
                    return None;
                }
                Breach::at("name", "")
            },
        },
    ],
};

const HAS_PORTS: Rule = Rule {
    says: "a port has a protocol that has ports: TCP, UDP or SCTP",
    cel: &[
        "self.protocol == 'TCP' || self.protocol == 'UDP' || self.protocol == 'SCTP' || self.protocol == 6 || self.protocol == 17 || self.protocol == 132 || self.protocol == '6' || self.protocol == '17' || self.protocol == '132'",
    ],
    breach: |port| {
        if port.get("protocol").is_some_and(has_ports) {
            return None;
        }
        Breach::at("protocol", "")
    },
};

static QOS: Object = Object {
    fields: &[
        Field::int("ingressBandwidth").doc("Bits per second towards it."),
        Field::int("ingressBurst").doc("Bits towards it in one burst."),
        Field::int("ingressPeakrate").doc("Bits per second towards it during a burst."),
        Field::int("ingressMinburst").doc("The smallest burst towards it, in bytes."),
        Field::int("egressBandwidth").doc("Bits per second from it."),
        Field::int("egressBurst").doc("Bits from it in one burst."),
        Field::int("egressPeakrate").doc("Bits per second from it during a burst."),
        Field::int("egressMinburst").doc("The smallest burst from it, in bytes."),
        Field::int("ingressPacketRate").doc("Packets per second towards it."),
        Field::int("ingressPacketBurst").doc("Packets towards it in one burst."),
        Field::int("egressPacketRate").doc("Packets per second from it."),
        Field::int("egressPacketBurst").doc("Packets from it in one burst."),
        Field::int("ingressMaxConnections").doc("Connections to it."),
        Field::int("egressMaxConnections").doc("Connections from it."),
        Field::new("dscp", Type::NameOrByte)
            .doc("The DSCP value of its packets, a number or a name.")
            .if_present(),
    ],
    rules: &[],
};

/// The name that the spec gives to the endpoint: `<node>-<orchestrator>-<workload>-<endpoint>`,
/// with every `-` in a part doubled; or the field that is missing or can't be part of a name
/// (Calico: `names/workloadendpoint.go`).
fn computed_name(spec: &Scope<'_>) -> Result<String, &'static str> {
    let workload = match spec.text("orchestrator") {
        "k8s" => "pod",
        "cni" => "containerID",
        "libnetwork" => "orchestrator",
        _ => "workload",
    };
    let mut parts = Vec::new();
    for field in ["node", "orchestrator", workload, "endpoint"] {
        let text = spec.text(field);
        if text.is_empty() || text.starts_with('-') || text.ends_with('-') {
            return Err(field);
        }
        parts.push(text.replace('-', "--"));
    }
    Ok(parts.join("-"))
}

fn name_and_label(object: &mut Map<String, Value>) {
    let scope = Scope { fields: object, read: object };
    let namespace = scope.child("metadata").text("namespace").to_owned();
    let orchestrator = scope.child("spec").text("orchestrator").to_owned();
    let name = computed_name(&scope.child("spec"));
    let meta = metadata_mut(object);
    if let Ok(name) = name
        && meta.get("name").and_then(Value::as_str).is_none_or(str::is_empty)
    {
        meta.insert("name".to_owned(), name.into());
    }
    label(object, "projectcalico.org/namespace", namespace);
    label(object, "projectcalico.org/orchestrator", orchestrator);
}

fn named_by_spec(write: &Write<'_>, faults: &mut Faults) {
    let object = Scope { fields: write.object, read: write.object };
    let spec = object.child("spec");
    match computed_name(&spec) {
        Ok(name) if object.child("metadata").text("name") == name => {}
        Ok(name) => {
            let found = object.child("metadata").get("name").unwrap_or(&Value::Null);
            let rule = "an endpoint is called by node, orchestrator, workload and endpoint";
            let hint = format!("write {name}, or leave it out");
            faults.add(&Path::ROOT, "metadata.name", found, rule, hint);
        }
        Err(field) => {
            let found = spec.get(field).unwrap_or(&Value::Null);
            let rule = "it is part of the name, and neither empty nor with - at an end";
            faults.add(&Path::ROOT.field("spec"), field, found, rule, "");
        }
    }
}

pub(super) static HOST_ENDPOINT: Schema = Schema {
    kind: Kind::HostEndpoint,
    doc: "An interface of a node that policies apply to.",
    object: Object { fields: &[METADATA, Field::object("spec", &HOST_SPEC).always()], rules: &[] },
    name: &NAME,
    on_write: nothing,
    write_rules: no_write_rules,
    on_server: &[],
};

static HOST_SPEC: Object = Object {
    fields: &[
        Field::text("node")
            .doc("The node that it is of.")
            .required()
            .checks(&[Check::Is(&NAME), Check::MaxLength(253)]),
        Field::text("interfaceName")
            .doc("The interface; `*`: all of the node.")
            .checks(&[Check::Is(&INTERFACE)]),
        Field::list("expectedIPs", &Shape::checked(Type::Text, &[Check::Is(&IP)]))
            .doc("Addresses of the interface, where `interfaceName` doesn't say which one it is."),
        Field::list("profiles", &NAME_SHAPE)
            .doc("Profiles whose rules and labels it inherits, in order."),
        Field::list("ports", &Shape::of(Type::Object(&HOST_PORT))).doc("Ports with names."),
    ],
    rules: &[Rule {
        says: "a host endpoint has an interfaceName or expectedIPs",
        cel: &[
            "self.?interfaceName.orValue('') != '' || has(self.expectedIPs) && size(self.expectedIPs) > 0",
        ],
        breach: |spec| {
            if spec.has_text("interfaceName") || !spec.list("expectedIPs").is_empty() {
                return None;
            }
            Breach::at("interfaceName", "* is every interface")
        },
    }],
};

static HOST_PORT: Object = Object {
    fields: &[
        Field::text("name")
            .doc("The name that policies use.")
            .always()
            .checks(&[Check::Is(&PORT_NAME)]),
        Field::new("protocol", Type::NameOrByte)
            .doc("TCP, UDP or SCTP.")
            .always()
            .checks(&[Check::Is(&PROTOCOL)]),
        Field::new("port", UINT16).doc("The port.").always().checks(&[Check::Range(1, 65535)]),
    ],
    rules: &[HAS_PORTS],
};
