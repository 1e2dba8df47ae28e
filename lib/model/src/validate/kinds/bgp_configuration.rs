//! `BGPConfiguration`: how nodes speak BGP.

use serde_json::Value;

use super::{
    bgp::{AS_NUMBER, CLUSTER_ROUTES, PASSWORD, is_community},
    metadata::METADATA,
    nothing, text_at,
};
use crate::{
    Kind,
    validate::{
        fault::{Faults, Path},
        format::{IPV4, IPV6, NAME, NET, PREFIX, is_word, part16, part32},
        schema::{
            Breach, Check, Field, Format, Literal, Object, Pattern, Rule, Schema, Scope, Server,
            ServerRule, Shape, TEXTS, Type, UINT16, Write,
        },
    },
};

pub(super) static SCHEMA: Schema = Schema {
    kind: Kind::BGPConfiguration,
    doc: "How nodes speak BGP: `default` for all, `node.NAME` for one.",
    object: Object { fields: &[METADATA, Field::object("spec", &SPEC).always()], rules: &[] },
    name: &NAME,
    on_write: nothing,
    write_rules: only_in_default,
    on_server: &[ServerRule {
        says: "the mesh, asNumber, services and nodeMeshPassword are of the whole cluster: set them in the BGPConfiguration called default",
        cel: "self.metadata.name == 'default' || !has(self.spec) || ![has(self.spec.nodeToNodeMeshEnabled), has(self.spec.asNumber), has(self.spec.nodeMeshPassword), has(self.spec.nodeMeshMaxRestartTime), has(self.spec.serviceLoadBalancerIPs) && size(self.spec.serviceLoadBalancerIPs) > 0, has(self.spec.serviceExternalIPs) && size(self.spec.serviceExternalIPs) > 0, has(self.spec.serviceClusterIPs) && size(self.spec.serviceClusterIPs) > 0].exists(is, is)",
    }],
};

static LOG_LEVEL: Pattern = Pattern::new("^(?i)(Trace|Debug|Info|Warning|Error|Fatal)?$");
const ON_OR_OFF: &[Check] = &[Check::OneOf(&["Enabled", "Disabled"])];
const ROUTE_PRIORITY: &[Check] = &[Check::Range(1, 2_147_483_646)];

static SPEC: Object = Object {
    fields: &[
        Field::text("logSeverityScreen").doc("From which level the BGP speaker writes log lines.")
            .checks(&[Check::Pattern(&LOG_LEVEL)])
            .default(Literal::Text("Info")),
        Field::bool("nodeToNodeMeshEnabled").doc("Whether all nodes peer with each other. Only in `default`.").absent("true").if_present(),
        Field::new("asNumber", Type::AsNumber).doc("The AS number of nodes that have none of their own. Only in `default`.").absent("64512").if_present().checks(AS_NUMBER),
        Field::list("serviceLoadBalancerIPs", &BLOCK).doc("Networks whose addresses of services of type LoadBalancer are announced. Only in `default`."),
        Field::text("serviceLoadBalancerAggregation").doc("Whether a network of load balancers is announced as one, or each address by itself.")
            .if_present()
            .checks(ON_OR_OFF)
            .default(Literal::Text("Enabled")),
        Field::list("serviceExternalIPs", &BLOCK).doc("Networks whose external addresses of services are announced. Only in `default`."),
        Field::list("serviceClusterIPs", &BLOCK).doc("Networks of cluster addresses of services that are announced. Only in `default`."),
        Field::list("communities", &Shape::of(Type::Object(&COMMUNITY))).doc("Names for BGP communities, for use in `prefixAdvertisements`.").checks(&[Check::MaxItems(500)]),
        Field::list("prefixAdvertisements", &Shape::of(Type::Object(&ADVERTISEMENT))).doc("Communities that networks are announced with.").checks(&[Check::MaxItems(500)]),
        Field::new("listenPort", UINT16).doc("The port on which nodes listen for BGP.").absent("179").checks(&[Check::Range(1, 65535)]),
        Field::object("nodeMeshPassword", &PASSWORD).doc("The password of all peerings of the mesh. Only in `default`.").absent("none").if_present(),
        Field::new("nodeMeshMaxRestartTime", Type::Duration).doc("How long peers in the mesh keep routes of a node whose BGP speaker restarts, as a duration. Only in `default`.").absent("the speaker's own default, 120s").if_present(),
        Field::text("bindMode").doc("Whether the BGP speaker listens on all addresses (`None`) or only on the node's (`NodeIP`).").absent("None").if_present().checks(&[Check::OneOf(&["None", "NodeIP"])]),
        Field::list(
            "ignoredInterfaces",
            &Shape::checked(Type::Text, &[Check::Is(&IGNORED_INTERFACE)]),
        ).doc("Interfaces whose routes aren't announced; `*` stands for any characters."),
        Field::text("localWorkloadPeeringIPV4").doc("The IPv4 address under which nodes peer with workloads on them.").checks(&[Check::Is(&IPV4)]),
        Field::text("localWorkloadPeeringIPV6").doc("The IPv6 address under which nodes peer with workloads on them.").checks(&[Check::Is(&IPV6)]),
        Field::text("programClusterRoutes").doc("For which pools the BGP speaker, and not the agent, writes the routes between nodes into the kernel: with `EnabledIPIPOnly` for those with IPIP, with `EnabledNoEncapOnly` for those without encapsulation.").absent("EnabledNoEncapOnly").if_present().checks(CLUSTER_ROUTES),
        Field::int("ipv4NormalRoutePriority").doc("The metric of IPv4 routes that the BGP speaker writes; less wins.").absent("1024").if_present().checks(ROUTE_PRIORITY),
        Field::int("ipv6NormalRoutePriority").doc("The metric of IPv6 routes that the BGP speaker writes; less wins.").absent("1024").if_present().checks(ROUTE_PRIORITY),
    ],
    rules: &[
        Rule {
            says: "nodeMeshPassword and nodeMeshMaxRestartTime need the mesh",
            cel: &[
                "self.?nodeToNodeMeshEnabled.orValue(true) || !has(self.nodeMeshPassword) && !has(self.nodeMeshMaxRestartTime)",
            ],
            breach: |spec| {
                if spec.get("nodeToNodeMeshEnabled")? == true {
                    return None;
                }
                let field = ["nodeMeshPassword", "nodeMeshMaxRestartTime"]
                    .into_iter()
                    .find(|field| spec.get(field).is_some())?;
                Breach::at(field, "leave it out, or set nodeToNodeMeshEnabled to true")
            },
        },
        Rule {
            says: "communities are for prefixAdvertisements",
            cel: &[
                "!has(self.communities) || size(self.communities) == 0 || has(self.prefixAdvertisements) && size(self.prefixAdvertisements) > 0",
            ],
            breach: |spec| {
                let is_used = !spec.list("prefixAdvertisements").is_empty();
                if is_used || spec.list("communities").is_empty() {
                    return None;
                }
                Breach::at("communities", "use them in prefixAdvertisements, or leave them out")
            },
        },
        Rule {
            says: "an advertisement names communities of this configuration, or has values",
            cel: &[],
            breach: |spec| {
                let defined: Vec<_> =
                    spec.list("communities").iter().map(|it| text_at(it, "name")).collect();
                let advertisements = spec.list("prefixAdvertisements").iter().enumerate();
                advertisements.into_iter().find_map(|(index, advertisement)| {
                    let used = advertisement.get("communities")?.as_array()?;
                    let wrong = used.iter().position(|community| {
                        let community = community.as_str().unwrap_or_default();
                        !is_community(community) && !defined.contains(&community)
                    })?;
                    let at = format!("prefixAdvertisements[{index}].communities[{wrong}]");
                    Breach::at(at, "add it to communities, or write aa:nn or aa:nn:mm")
                })
            },
        },
    ],
};

static BLOCK: Shape = Shape::of(Type::Object(&BLOCK_OBJECT));
static BLOCK_OBJECT: Object = Object {
    fields: &[Field::text("cidr")
        .doc("A network such as `10.96.0.0/12`.")
        .checks(&[Check::Is(&NET), Check::Is(&PREFIX)])],
    rules: &[],
};

static COMMUNITY: Object = Object {
    fields: &[
        Field::text("name")
            .doc("The name that `prefixAdvertisements` use.")
            .required()
            .checks(&[Check::Is(&NAME), Check::MaxLength(253)]),
        Field::text("value")
            .doc("The community: `aa:nn`, or `aa:nn:mm` for a large one.")
            .required()
            .checks(&[Check::Is(&COMMUNITY_VALUE), Check::MaxLength(40)]),
    ],
    rules: &[],
};

static COMMUNITY_VALUE: Format = Format {
    says: "a community: aa:nn with 16 bits each, or aa:nn:mm with 32 bits each",
    server: &[Server::Pattern(concat!(
        "^(0*",
        part16!(),
        ":0*",
        part16!(),
        "|0*",
        part32!(),
        ":0*",
        part32!(),
        ":0*",
        part32!(),
        ")$"
    ))],
    breach: |value| value.as_str().filter(|text| !is_community(text)).map(|_| String::new()),
};

static ADVERTISEMENT: Object = Object {
    fields: &[
        Field::text("cidr")
            .doc("The network that is announced.")
            .required()
            .checks(&[Check::Is(&NET), Check::Is(&PREFIX)]),
        Field::new("communities", TEXTS)
            .doc("Communities, by name from `communities` or by value.")
            .required()
            .checks(&[Check::MaxItems(50)]),
    ],
    rules: &[],
};

static IGNORED_INTERFACE: Format = Format {
    says: "the name of an interface, or a part of it with *: 1 to 15 of A-Z a-z 0-9 _ . * -",
    server: &[Server::Pattern(r"^([A-Za-z0-9_.-][A-Za-z0-9_.*-]{0,14}|\*[A-Za-z0-9_.*-]{1,14})$")],
    breach: |value| {
        let is_one = |text: &&str| *text != "*" && is_word(text, 15, b"_.*-");
        value.as_str().filter(|text| !is_one(text)).map(|_| String::new())
    },
};

/// Some fields are of the whole cluster.
fn only_in_default(write: &Write<'_>, faults: &mut Faults) {
    let object = Scope { fields: write.object, read: write.object };
    if object.child("metadata").text("name") == "default" {
        return;
    }
    let spec = object.child("spec");
    for field in [
        "nodeToNodeMeshEnabled",
        "asNumber",
        "serviceLoadBalancerIPs",
        "serviceExternalIPs",
        "serviceClusterIPs",
        "nodeMeshPassword",
        "nodeMeshMaxRestartTime",
    ] {
        let found = spec.get(field).unwrap_or(&Value::Null);
        if !found.is_null() && found.as_array().is_none_or(|list| !list.is_empty()) {
            let rule = format!("{field} is of the whole cluster");
            let hint = "set it in the BGPConfiguration called default";
            faults.add(&Path::ROOT.field("spec"), field, found, rule, hint);
        }
    }
}
