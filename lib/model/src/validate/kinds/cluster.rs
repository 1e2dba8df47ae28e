//! `ClusterInformation` and `CalicoNodeStatus`: what a cluster and its nodes say of themselves.

use super::{DEFAULT_ALONE, metadata::METADATA, no_write_rules, nothing, only_default};
use crate::{
    Kind,
    validate::{
        format::NAME,
        schema::{Check, Field, Object, Schema, Shape, Type, UINT32},
    },
};

pub(super) static INFORMATION: Schema = Schema {
    kind: Kind::ClusterInformation,
    doc: "",
    object: Object { fields: &[METADATA, Field::object("spec", &INFORMATION_SPEC)], rules: &[] },
    name: &NAME,
    on_write: nothing,
    write_rules: only_default,
    on_server: &[DEFAULT_ALONE],
};

static INFORMATION_SPEC: Object = Object {
    fields: &[
        Field::text("clusterGUID"),
        Field::text("clusterType"),
        Field::text("calicoVersion"),
        Field::bool("datastoreReady").if_present(),
        Field::text("variant"),
    ],
    rules: &[],
};

pub(super) static NODE_STATUS: Schema = Schema {
    kind: Kind::CalicoNodeStatus,
    doc: "",
    object: Object {
        fields: &[
            METADATA,
            Field::object("spec", &STATUS_SPEC).always(),
            Field::object("status", &STATUS),
        ],
        rules: &[],
    },
    name: &NAME,
    on_write: nothing,
    write_rules: no_write_rules,
    on_server: &[],
};

static STATUS_SPEC: Object = Object {
    fields: &[
        Field::text("node").required().checks(&[Check::Is(&NAME)]),
        Field::list(
            "classes",
            &Shape::checked(Type::Text, &[Check::OneOf(&["Agent", "BGP", "Routes"])]),
        )
        .required()
        .checks(&[Check::MinItems(1), Check::MaxItems(3), Check::Unique]),
        Field::new("updatePeriodSeconds", UINT32)
            .if_present()
            .required()
            .checks(&[Check::Range(0, 86400)]),
    ],
    rules: &[],
};

static STATUS: Object = Object {
    fields: &[
        Field::new("lastUpdated", Type::Time).always(),
        Field::object("agent", &AGENT),
        Field::object("bgp", &BGP),
        Field::object("routes", &ROUTES),
    ],
    rules: &[],
};

static AGENT: Object = Object {
    fields: &[Field::object("birdV4", &BIRD), Field::object("birdV6", &BIRD)],
    rules: &[],
};

static BIRD: Object = Object {
    fields: &[
        Field::text("state").checks(&[Check::OneOf(&["Ready", "NotReady"])]),
        Field::text("version"),
        Field::text("routerID"),
        Field::text("lastBootTime"),
        Field::text("lastReconfigurationTime"),
    ],
    rules: &[],
};

static BGP: Object = Object {
    fields: &[
        Field::int("numberEstablishedV4").always(),
        Field::int("numberNotEstablishedV4").always(),
        Field::int("numberEstablishedV6").always(),
        Field::int("numberNotEstablishedV6").always(),
        Field::list("peersV4", &PEER),
        Field::list("peersV6", &PEER),
    ],
    rules: &[],
};

static PEER: Shape = Shape::of(Type::Object(&PEER_OBJECT));
static PEER_OBJECT: Object = Object {
    fields: &[
        Field::text("peerIP"),
        Field::text("type").checks(&[Check::OneOf(&["NodeMesh", "NodePeer", "GlobalPeer"])]),
        Field::text("state").checks(&[Check::OneOf(&[
            "Idle",
            "Connect",
            "Active",
            "OpenSent",
            "OpenConfirm",
            "Established",
            "Close",
        ])]),
        Field::text("since"),
    ],
    rules: &[],
};

static ROUTES: Object = Object {
    fields: &[Field::list("routesV4", &ROUTE), Field::list("routesV6", &ROUTE)],
    rules: &[],
};

static ROUTE: Shape = Shape::of(Type::Object(&ROUTE_OBJECT));
static ROUTE_OBJECT: Object = Object {
    fields: &[
        Field::text("type").checks(&[Check::OneOf(&["FIB", "RIB"])]),
        Field::text("destination"),
        Field::text("gateway"),
        Field::text("interface"),
        Field::object("learnedFrom", &LEARNED_FROM),
    ],
    rules: &[],
};

static LEARNED_FROM: Object = Object {
    fields: &[
        Field::text("sourceType")
            .checks(&[Check::OneOf(&["Kernel", "Static", "Direct", "NodeMesh", "BGPPeer"])]),
        Field::text("peerIP"),
    ],
    rules: &[],
};
