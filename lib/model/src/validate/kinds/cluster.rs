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
    doc: "What the cluster is; there is one, `default`.",
    object: Object { fields: &[METADATA, Field::object("spec", &INFORMATION_SPEC)], rules: &[] },
    name: &NAME,
    on_write: nothing,
    write_rules: only_default,
    on_server: &[DEFAULT_ALONE],
};

static INFORMATION_SPEC: Object = Object {
    fields: &[
        Field::text("clusterGUID").doc("Tells clusters apart; made once."),
        Field::text("clusterType").doc("Words about the cluster, such as `k8s,bgp`."),
        Field::text("calicoVersion").doc("The version of Calico's data that the cluster has."),
        Field::bool("datastoreReady").doc("Whether the data may be acted on. False while it is migrated: agents and controllers then hold still.").absent("true").if_present(),
        Field::text("variant").doc("Calico or an edition of it."),
    ],
    rules: &[],
};

pub(super) static NODE_STATUS: Schema = Schema {
    kind: Kind::CalicoNodeStatus,
    doc: "A request for a node's state of BGP, and the answer.",
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
        Field::text("node").doc("The node.").required().checks(&[Check::Is(&NAME)]),
        Field::list(
            "classes",
            &Shape::checked(Type::Text, &[Check::OneOf(&["Agent", "BGP", "Routes"])]),
        )
        .doc("What is reported.")
        .required()
        .checks(&[Check::MinItems(1), Check::MaxItems(3), Check::Unique]),
        Field::new("updatePeriodSeconds", UINT32)
            .doc("How often it is reported, in seconds; 0: never.")
            .if_present()
            .required()
            .checks(&[Check::Range(0, 86400)]),
    ],
    rules: &[],
};

static STATUS: Object = Object {
    fields: &[
        Field::new("lastUpdated", Type::Time).doc("When it was reported.").always(),
        Field::object("agent", &AGENT).doc("The BGP speakers."),
        Field::object("bgp", &BGP).doc("The peerings."),
        Field::object("routes", &ROUTES).doc("The routes that the speakers hold."),
    ],
    rules: &[],
};

static AGENT: Object = Object {
    fields: &[
        Field::object("birdV4", &BIRD).doc("That of IPv4."),
        Field::object("birdV6", &BIRD).doc("That of IPv6."),
    ],
    rules: &[],
};

static BIRD: Object = Object {
    fields: &[
        Field::text("state")
            .doc("Whether it is ready.")
            .checks(&[Check::OneOf(&["Ready", "NotReady"])]),
        Field::text("version").doc("Its version."),
        Field::text("routerID").doc("Its router id."),
        Field::text("lastBootTime").doc("When it started."),
        Field::text("lastReconfigurationTime").doc("When its configuration was last read."),
    ],
    rules: &[],
};

static BGP: Object = Object {
    fields: &[
        Field::int("numberEstablishedV4").doc("How many IPv4 peerings stand.").always(),
        Field::int("numberNotEstablishedV4").doc("How many IPv4 peerings don't.").always(),
        Field::int("numberEstablishedV6").doc("How many IPv6 peerings stand.").always(),
        Field::int("numberNotEstablishedV6").doc("How many IPv6 peerings don't.").always(),
        Field::list("peersV4", &PEER).doc("The IPv4 peers."),
        Field::list("peersV6", &PEER).doc("The IPv6 peers."),
    ],
    rules: &[],
};

static PEER: Shape = Shape::of(Type::Object(&PEER_OBJECT));
static PEER_OBJECT: Object = Object {
    fields: &[
        Field::text("peerIP").doc("Its address."),
        Field::text("type")
            .doc("Why it is a peer: the mesh, a BGPPeer of the node, or one of all nodes.")
            .checks(&[Check::OneOf(&["NodeMesh", "NodePeer", "GlobalPeer"])]),
        Field::text("state").doc("The state of the session.").checks(&[Check::OneOf(&[
            "Idle",
            "Connect",
            "Active",
            "OpenSent",
            "OpenConfirm",
            "Established",
            "Close",
        ])]),
        Field::text("since").doc("Since when."),
    ],
    rules: &[],
};

static ROUTES: Object = Object {
    fields: &[
        Field::list("routesV4", &ROUTE).doc("IPv4 routes."),
        Field::list("routesV6", &ROUTE).doc("IPv6 routes."),
    ],
    rules: &[],
};

static ROUTE: Shape = Shape::of(Type::Object(&ROUTE_OBJECT));
static ROUTE_OBJECT: Object = Object {
    fields: &[
        Field::text("type")
            .doc("Whether it is in the kernel (`FIB`) or only in the speaker (`RIB`).")
            .checks(&[Check::OneOf(&["FIB", "RIB"])]),
        Field::text("destination").doc("Where it leads."),
        Field::text("gateway").doc("The next hop."),
        Field::text("interface").doc("The interface."),
        Field::object("learnedFrom", &LEARNED_FROM).doc("Where it comes from."),
    ],
    rules: &[],
};

static LEARNED_FROM: Object = Object {
    fields: &[
        Field::text("sourceType")
            .doc("What told of it.")
            .checks(&[Check::OneOf(&["Kernel", "Static", "Direct", "NodeMesh", "BGPPeer"])]),
        Field::text("peerIP").doc("The peer's address."),
    ],
    rules: &[],
};
