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
    doc: "",
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
        Field::object("bgp", &BGP).if_present(),
        Field::text("ipv4VXLANTunnelAddr").checks(&[Check::Is(&IPV4)]),
        Field::text("vxlanTunnelMACAddr").checks(&[Check::Is(&MAC)]),
        Field::text("ipv6VXLANTunnelAddr").checks(&[Check::Is(&IPV6)]),
        Field::text("vxlanTunnelMACAddrV6").checks(&[Check::Is(&MAC)]),
        Field::list("orchRefs", &Shape::of(Type::Object(&ORCH_REF))),
        Field::object("wireguard", &WIREGUARD).if_present(),
        Field::list("addresses", &Shape::of(Type::Object(&ADDRESS))),
        Field::list("interfaces", &Shape::of(Type::Object(&INTERFACE))),
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
        Field::new("asNumber", Type::AsNumber).if_present(),
        Field::text("ipv4Address").checks(&[Check::Is(&CIDR_V4)]),
        Field::text("ipv6Address").checks(&[Check::Is(&CIDR_V6)]),
        Field::text("ipv4IPIPTunnelAddr").checks(&[Check::Is(&IPV4)]),
        Field::text("routeReflectorClusterID").checks(&[Check::Is(&IPV4)]),
    ],
    rules: &[],
};

static ORCH_REF: Object =
    Object { fields: &[Field::text("nodeName"), Field::text("orchestrator").always()], rules: &[] };

static WIREGUARD: Object = Object {
    fields: &[
        Field::text("interfaceIPv4Address").checks(&[Check::Is(&IPV4)]),
        Field::text("interfaceIPv6Address").checks(&[Check::Is(&IPV6)]),
    ],
    rules: &[],
};

static ADDRESS: Object =
    Object { fields: &[Field::text("address").always(), Field::text("type")], rules: &[] };

static INTERFACE: Object =
    Object { fields: &[Field::text("name"), Field::new("addresses", TEXTS)], rules: &[] };

static STATUS: Object = Object {
    fields: &[
        Field::text("wireguardPublicKey").checks(&[Check::Is(&WIREGUARD_KEY)]),
        Field::text("wireguardPublicKeyV6").checks(&[Check::Is(&WIREGUARD_KEY)]),
        Field::new("podCIDRs", TEXTS),
    ],
    rules: &[],
};
