//! `Node`: a machine that endpoints are on.

use super::{metadata::METADATA, no_write_rules, nothing};
use crate::{
    Kind,
    validate::{
        format::{CIDR_V4, CIDR_V6, IPV4, IPV6, MAC, NAME, WIREGUARD_KEY},
        schema::{Breach, Check, Field, Object, Rule, Schema, Shape, TEXTS, Type},
    },
};

pub(super) static SCHEMA: Schema = Schema {
    kind: Kind::Node,
    doc: "A machine that endpoints are on. In Kubernetes it is the Node, and these fields are its annotations.",
    object: Object {
        fields: &[METADATA, Field::object("spec", &SPEC), Field::object("status", &STATUS)],
        rules: &[],
    },
    name: &NAME,
    on_write: nothing,
    write_rules: no_write_rules,
    on_server: &[],
};

static SPEC: Object = Object {
    fields: &[
        Field::object("bgp", &BGP).doc("How it takes part in BGP.").if_present(),
        Field::text("ipv4VXLANTunnelAddr")
            .doc("Its IPv4 address in the VXLAN.")
            .checks(&[Check::Is(&IPV4)]),
        Field::text("vxlanTunnelMACAddr")
            .doc("The MAC address of its IPv4 VXLAN device.")
            .checks(&[Check::Is(&MAC)]),
        Field::text("ipv6VXLANTunnelAddr")
            .doc("Its IPv6 address in the VXLAN.")
            .checks(&[Check::Is(&IPV6)]),
        Field::text("vxlanTunnelMACAddrV6")
            .doc("The MAC address of its IPv6 VXLAN device.")
            .checks(&[Check::Is(&MAC)]),
        Field::list("orchRefs", &Shape::of(Type::Object(&ORCH_REF))).doc("What others call it."),
        Field::object("wireguard", &WIREGUARD).doc("Its addresses in WireGuard.").if_present(),
        Field::list("addresses", &Shape::of(Type::Object(&ADDRESS))).doc("Its addresses."),
        Field::list("interfaces", &Shape::of(Type::Object(&INTERFACE))).doc("Its interfaces."),
    ],
    rules: &[Rule {
        says: "BGP configuration has at least one field",
        cel: &[],
        breach: |spec| {
            let bgp = spec.get("bgp")?.as_object()?;
            if bgp.is_empty() { Breach::at("bgp", "leave bgp out") } else { None }
        },
    }],
};

static BGP: Object = Object {
    fields: &[
        Field::new("asNumber", Type::AsNumber)
            .doc("Its AS number.")
            .absent("that of the BGPConfiguration")
            .if_present(),
        Field::text("ipv4Address")
            .doc("Its IPv4 address, with the mask of its subnet.")
            .checks(&[Check::Is(&CIDR_V4)]),
        Field::text("ipv6Address")
            .doc("Its IPv6 address, with the mask of its subnet.")
            .checks(&[Check::Is(&CIDR_V6)]),
        Field::text("ipv4IPIPTunnelAddr")
            .doc("Its address in the IPIP tunnel.")
            .checks(&[Check::Is(&IPV4)]),
        Field::text("routeReflectorClusterID")
            .doc("Makes it a route reflector of this cluster id, written as an IPv4 address.")
            .checks(&[Check::Is(&IPV4)]),
    ],
    rules: &[],
};

static ORCH_REF: Object = Object {
    fields: &[
        Field::text("nodeName").doc("Its name there."),
        Field::text("orchestrator").doc("Who: `k8s`, `openstack` or another.").always(),
    ],
    rules: &[],
};

static WIREGUARD: Object = Object {
    fields: &[
        Field::text("interfaceIPv4Address").doc("Its IPv4 address.").checks(&[Check::Is(&IPV4)]),
        Field::text("interfaceIPv6Address").doc("Its IPv6 address.").checks(&[Check::Is(&IPV6)]),
    ],
    rules: &[],
};

static ADDRESS: Object = Object {
    fields: &[
        Field::text("address").doc("The address.").always(),
        Field::text("type").doc("What it is, such as `InternalIP`."),
    ],
    rules: &[],
};

static INTERFACE: Object = Object {
    fields: &[
        Field::text("name").doc("Its name."),
        Field::new("addresses", TEXTS).doc("Its addresses."),
    ],
    rules: &[],
};

static STATUS: Object = Object {
    fields: &[
        Field::text("wireguardPublicKey")
            .doc("Its public key for IPv4.")
            .checks(&[Check::Is(&WIREGUARD_KEY)]),
        Field::text("wireguardPublicKeyV6")
            .doc("Its public key for IPv6.")
            .checks(&[Check::Is(&WIREGUARD_KEY)]),
        Field::new("podCIDRs", TEXTS).doc("Ranges of pods that Kubernetes gave to it."),
    ],
    rules: &[],
};
