//! `BGPFilter`: which routes are taken from and given to peers.

use super::{
    bgp::{AS_NUMBER, is_community},
    metadata::METADATA,
    no_write_rules, nothing,
};
use crate::{
    Kind,
    validate::{
        format::{NAME, NET_V4, NET_V6, PREFIX, is_word, part16, part32},
        schema::{Breach, Check, Field, Format, INT32, Object, Rule, Schema, Server, Shape, Type},
    },
};

pub(super) static SCHEMA: Schema = Schema {
    kind: Kind::BGPFilter,
    doc: "Which routes are taken from and given to the BGP peers that name it.",
    object: Object { fields: &[METADATA, Field::object("spec", &SPEC).always()], rules: &[] },
    name: &NAME,
    on_write: nothing,
    write_rules: no_write_rules,
    on_server: &[],
};

static SPEC: Object = Object {
    fields: &[
        Field::list("exportV4", &RULE_V4).doc("Rules for IPv4 routes that are given to peers, in order; the first that matches decides."),
        Field::list("importV4", &RULE_V4).doc("Rules for IPv4 routes that are taken from peers, in order; the first that matches decides."),
        Field::list("exportV6", &RULE_V6).doc("Rules for IPv6 routes that are given to peers, in order; the first that matches decides."),
        Field::list("importV6", &RULE_V6).doc("Rules for IPv6 routes that are taken from peers, in order; the first that matches decides."),
    ],
    rules: &[],
};

static RULE_V4: Shape = Shape::of(Type::Object(&RULE_V4_OBJECT));
static RULE_V4_OBJECT: Object = Object {
    fields: &[
        Field::text("cidr").doc("The network that the route is compared with.").checks(&[
            Check::Is(&NET_V4),
            Check::Is(&PREFIX),
            Check::MaxLength(18),
        ]),
        Field::object("prefixLength", &LENGTH_V4)
            .doc("Which lengths of prefixes match, with `In`.")
            .if_present(),
        SOURCE,
        INTERFACE,
        MATCH_OPERATOR,
        PEER_TYPE,
        COMMUNITIES,
        AS_PATH_PREFIX,
        PRIORITY,
        ACTION,
        OPERATIONS,
    ],
    rules: RULES,
};

static RULE_V6: Shape = Shape::of(Type::Object(&RULE_V6_OBJECT));
static RULE_V6_OBJECT: Object = Object {
    fields: &[
        Field::text("cidr").doc("The network that the route is compared with.").checks(&[
            Check::Is(&NET_V6),
            Check::Is(&PREFIX),
            Check::MaxLength(43),
        ]),
        Field::object("prefixLength", &LENGTH_V6)
            .doc("Which lengths of prefixes match, with `In`.")
            .if_present(),
        SOURCE,
        INTERFACE,
        MATCH_OPERATOR,
        PEER_TYPE,
        COMMUNITIES,
        AS_PATH_PREFIX,
        PRIORITY,
        ACTION,
        OPERATIONS,
    ],
    rules: RULES,
};

const SOURCE: Field = Field::text("source")
    .doc("Only routes from other BGP peers (`RemotePeers`).")
    .absent("routes of any source")
    .checks(&[Check::OneOf(&["RemotePeers"])]);
const INTERFACE: Field = Field::text("interface")
    .doc("Only routes through this interface; `*` stands for any characters.")
    .absent("any interface")
    .checks(&INTERFACES);
static INTERFACES: [Check; 1] = [Check::Is(&INTERFACE_NAME)];
const MATCH_OPERATOR: Field = Field::text("matchOperator")
    .doc("How the route is compared with `cidr`: equal, or within it.")
    .checks(&[Check::OneOf(&["Equal", "NotEqual", "In", "NotIn"])]);
const PEER_TYPE: Field = Field::text("peerType")
    .doc("Only peers outside (`eBGP`) or inside (`iBGP`) the AS.")
    .absent("both")
    .checks(&[Check::OneOf(&["eBGP", "iBGP"])]);
const COMMUNITIES: Field = Field::object("communities", &COMMUNITY_MATCH)
    .doc("Only routes with these communities.")
    .if_present();
const AS_PATH_PREFIX: Field = Field::list("asPathPrefix", &AS_NUMBERS)
    .doc("Only routes whose AS path begins with these numbers.");
const PRIORITY: Field = Field::int("priority")
    .doc("Only routes with this metric.")
    .if_present()
    .checks(&[Check::Range(1, 2_147_483_646)]);
const ACTION: Field = Field::text("action")
    .doc("What is done with the route.")
    .always()
    .checks(&[Check::OneOf(&["Accept", "Reject"])]);
const OPERATIONS: Field = Field::list("operations", &OPERATION)
    .doc("Changes of the route that is accepted, in order.")
    .checks(&[Check::MaxItems(10)]);

static AS_NUMBERS: Shape = Shape::checked(Type::AsNumber, AS_NUMBER);

const RULES: &[Rule] = &[
    Rule {
        says: "cidr and matchOperator come together",
        cel: &["(self.?cidr.orValue('') == '') == (self.?matchOperator.orValue('') == '')"],
        breach: |rule| match (rule.has_text("cidr"), rule.has_text("matchOperator")) {
            (true, false) => Breach::at("matchOperator", "Equal, NotEqual, In or NotIn"),
            (false, true) => Breach::at("cidr", "set it, or leave out matchOperator"),
            _ => None,
        },
    },
    Rule {
        says: "prefixLength needs cidr",
        cel: &["!has(self.prefixLength) || self.?cidr.orValue('') != ''"],
        breach: |rule| {
            rule.get("prefixLength")?;
            if rule.has_text("cidr") { None } else { Breach::at("prefixLength", "set cidr") }
        },
    },
    Rule {
        says: "operations change routes that are accepted",
        cel: &["!has(self.operations) || size(self.operations) == 0 || self.action == 'Accept'"],
        breach: |rule| {
            if rule.list("operations").is_empty() || rule.text("action") == "Accept" {
                return None;
            }
            Breach::at("operations", "leave them out, or set action to Accept")
        },
    },
];

static LENGTH_V4: Object = Object {
    fields: &[
        Field::new("min", INT32).doc("The shortest.").if_present().checks(&[Check::Range(0, 32)]),
        Field::new("max", INT32).doc("The longest.").if_present().checks(&[Check::Range(0, 32)]),
    ],
    rules: &[],
};

static LENGTH_V6: Object = Object {
    fields: &[
        Field::new("min", INT32).doc("The shortest.").if_present().checks(&[Check::Range(0, 128)]),
        Field::new("max", INT32).doc("The longest.").if_present().checks(&[Check::Range(0, 128)]),
    ],
    rules: &[],
};

static COMMUNITY_MATCH: Object = Object {
    fields: &[Field::list("values", &COMMUNITY)
        .doc("The community: `aa:nn`, or `aa:nn:mm` for a large one.")
        .always()
        .required()
        .checks(&[Check::MinItems(1), Check::MaxItems(1)])],
    rules: &[],
};

static COMMUNITY: Shape = Shape::checked(Type::Text, &COMMUNITY_CHECKS);
static COMMUNITY_CHECKS: [Check; 2] = [Check::Is(&COMMUNITY_VALUE), Check::MaxLength(32)];

static OPERATION: Shape = Shape::of(Type::Object(&OPERATION_OBJECT));
static OPERATION_OBJECT: Object = Object {
    fields: &[
        Field::object("addCommunity", &ADD_COMMUNITY).doc("Adds a community.").if_present(),
        Field::object("prependASPath", &PREPEND)
            .doc("Puts AS numbers in front of the path.")
            .if_present(),
        Field::object("setPriority", &SET_PRIORITY).doc("Sets the metric.").if_present(),
    ],
    rules: &[Rule {
        says: "an operation is one of addCommunity, prependASPath, setPriority",
        cel: &[
            "(has(self.addCommunity) ? 1 : 0) + (has(self.prependASPath) ? 1 : 0) + (has(self.setPriority) ? 1 : 0) == 1",
        ],
        breach: |operation| {
            if operation.fields.len() == 1 {
                return None;
            }
            Breach::at("", "take an item of the list for each")
        },
    }],
};

static ADD_COMMUNITY: Object = Object {
    fields: &[Field::text("value")
        .doc("The community: `aa:nn`, or `aa:nn:mm` for a large one.")
        .always()
        .checks(&COMMUNITY_CHECKS)],
    rules: &[],
};

static PREPEND: Object = Object {
    fields: &[Field::list("prefix", &AS_NUMBERS)
        .doc("The AS numbers, in the order in which they stand in the path.")
        .always()
        .required()
        .checks(&[Check::MinItems(1), Check::MaxItems(10)])],
    rules: &[],
};

static SET_PRIORITY: Object = Object {
    fields: &[Field::int("value")
        .doc("The metric; less wins.")
        .always()
        .checks(&[Check::Range(1, 2_147_483_646)])],
    rules: &[],
};

static INTERFACE_NAME: Format = Format {
    says: "the name of an interface, or a part of it with *: 1 to 15 of A-Z a-z 0-9 _ . * -",
    server: &[Server::Pattern("^[A-Za-z0-9_.*-]{1,15}$")],
    breach: |value| {
        value.as_str().filter(|text| !is_word(text, 15, b"_.*-")).map(|_| String::new())
    },
};

/// As BGP configurations have them, but without leading zeros.
static COMMUNITY_VALUE: Format = Format {
    says: "a community without leading zeros: aa:nn with 16 bits each, or aa:nn:mm with 32",
    server: &[Server::Pattern(concat!(
        "^(",
        part16!(),
        ":",
        part16!(),
        "|",
        part32!(),
        ":",
        part32!(),
        ":",
        part32!(),
        ")$"
    ))],
    breach: |value| {
        let text = value.as_str()?;
        let has_leading_zero = text.split(':').any(|part| part.len() > 1 && part.starts_with('0'));
        (!is_community(text) || has_leading_zero).then(String::new)
    },
};
