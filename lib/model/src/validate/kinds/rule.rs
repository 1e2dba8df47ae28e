//! One rule of a policy or a profile.

use serde_json::Value;

use crate::validate::{
    format::{ANNOTATIONS, NAME, PORT, PROTOCOL, RULE_NET, SELECTOR, version},
    net::Cidr,
    schema::{Breach, Check, Field, Format, Object, Rule, Scope, Server, Shape, TEXT, TEXTS, Type},
};

/// The longest selector, in characters.
pub(super) const MAX_SELECTOR: Check = Check::MaxLength(1024);

/// A rule of a policy.
pub(super) static RULE: Shape = Shape::of(Type::Object(&RULE_OBJECT));

static RULE_OBJECT: Object = Object {
    fields: &[
        Field::text("action").doc("What is done with the packet: `Pass` goes on to the next tier, `Log` writes a line and goes on to the next rule.").always().checks(&[Check::OneOf(&["Allow", "Deny", "Log", "Pass"])]),
        Field::int("ipVersion").doc("4 or 6.").absent("both").if_present(),
        protocol("protocol").doc("The protocol, by name or by number.").absent("any"),
        Field::object("icmp", &ICMP).doc("The type and the code of ICMP.").if_present(),
        protocol("notProtocol").doc("Not this protocol."),
        Field::object("notICMP", &ICMP).doc("Not this type and code of ICMP.").if_present(),
        Field::object("source", &ENTITY).doc("Where the packet comes from.").unless_zero(),
        Field::object("destination", &ENTITY).doc("Where the packet goes.").unless_zero(),
        HTTP,
        METADATA,
    ],
    rules: &[
        VERSION_IS_4_OR_6,
        NO_HTTP,
        ICMP_NEEDS_PROTOCOL,
        ICMP_HAS_A_VERSION,
        PORTS_NEED_PROTOCOL,
        NOT_ALL_NETS,
        ONE_VERSION,
        SERVICES_HAVE_PORTS,
    ],
};

/// A rule of a profile. Calico has no schema for profiles, and so asks less of it.
pub(super) static PROFILE_RULE: Shape = Shape::of(Type::Object(&PROFILE_RULE_OBJECT));

static PROFILE_RULE_OBJECT: Object = Object {
    fields: &[
        Field::text("action").doc("What is done with the packet: `Pass` goes on to the next tier, `Log` writes a line and goes on to the next rule.").always(),
        Field::int("ipVersion").doc("4 or 6.").absent("both").if_present(),
        protocol("protocol").doc("The protocol, by name or by number.").absent("any"),
        Field::object("icmp", &PROFILE_ICMP).doc("The type and the code of ICMP.").if_present(),
        protocol("notProtocol").doc("Not this protocol."),
        Field::object("notICMP", &PROFILE_ICMP).doc("Not this type and code of ICMP.").if_present(),
        Field::object("source", &PROFILE_ENTITY).doc("Where the packet comes from.").unless_zero(),
        Field::object("destination", &PROFILE_ENTITY).doc("Where the packet goes.").unless_zero(),
        HTTP,
        METADATA,
    ],
    rules: &[NO_HTTP, PORTS_NEED_PROTOCOL, NOT_ALL_NETS, ONE_VERSION],
};

const fn protocol(name: &'static str) -> Field {
    Field::new(name, Type::NameOrByte).if_present().checks(&PROTOCOLS)
}
static PROTOCOLS: [Check; 1] = [Check::Is(&PROTOCOL)];

const HTTP: Field = Field::new("http", Type::Any)
    .doc("Not supported: nothing here enforces it, and so a rule with it is refused.")
    .if_present();
const METADATA: Field = Field::object("metadata", &METADATA_OBJECT)
    .doc("Words about the rule, for people.")
    .if_present();

static METADATA_OBJECT: Object = Object {
    fields: &[Field::new("annotations", Type::Map(&TEXT))
        .doc("Keys and values.")
        .checks(&[Check::Is(&ANNOTATIONS)])],
    rules: &[],
};

static PROFILE_ICMP: Object = Object { fields: &ICMP_FIELDS, rules: &[] };
static ICMP: Object = Object {
    fields: &ICMP_FIELDS,
    rules: &[Rule {
        says: "an ICMP code needs its type",
        cel: &["!has(self.code) || has(self.type)"],
        breach: |icmp| match (icmp.get("type"), icmp.get("code")) {
            (None, Some(_)) => Breach::at("code", "set type"),
            _ => None,
        },
    }],
};

static ICMP_FIELDS: [Field; 2] = [
    Field::int("type").doc("The type.").absent("any").if_present().checks(&[Check::Range(0, 254)]),
    Field::int("code")
        .doc("The code, of the given type.")
        .absent("any")
        .if_present()
        .checks(&[Check::Range(0, 255)]),
];

static ENTITY: Object = Object {
    fields: &[
        nets("nets").doc("In one of these networks."),
        selector("selector").doc("Selects by labels endpoints and network sets; in a namespaced policy, of its namespace unless `namespaceSelector` is given."),
        selector("namespaceSelector").doc("Selects by labels the namespaces of what `selector` selects; `global()`: what has no namespace."),
        Field::object("services", &SERVICE).doc("The endpoints of a service, with its ports.").if_present(),
        ports("ports").doc("One of these ports: a number, a range `a:b`, or the name of a port of the endpoint."),
        nets("notNets").doc("In none of these networks."),
        selector("notSelector").doc("Not what this selects."),
        ports("notPorts").doc("None of these ports."),
        Field::object("serviceAccounts", &SERVICE_ACCOUNTS).doc("The service accounts of the pods.").if_present(),
    ],
    rules: &[GLOBAL_IN_ITS_PLACE, GLOBAL_ALONE, SERVICES_ALONE, SERVICES_HAVE_A_NAME],
};

static PROFILE_ENTITY: Object = Object {
    fields: &[
        Field::list("nets", &NETS).doc("In one of these networks."),
        Field::text("selector")
            .doc("Selects by labels endpoints and network sets.")
            .checks(&[Check::Is(&SELECTOR)]),
        Field::text("namespaceSelector")
            .doc("Selects by labels the namespaces of what `selector` selects.")
            .checks(&[Check::Is(&SELECTOR)]),
        Field::object("services", &SERVICE)
            .doc("The endpoints of a service, with its ports.")
            .if_present(),
        Field::list("ports", &PORTS).doc(
            "One of these ports: a number, a range `a:b`, or the name of a port of the endpoint.",
        ),
        Field::list("notNets", &NETS).doc("In none of these networks."),
        Field::text("notSelector").doc("Not what this selects.").checks(&[Check::Is(&SELECTOR)]),
        Field::list("notPorts", &PORTS).doc("None of these ports."),
        Field::object("serviceAccounts", &SERVICE_ACCOUNTS)
            .doc("The service accounts of the pods.")
            .if_present(),
    ],
    rules: &[GLOBAL_ALONE],
};

const fn nets(name: &'static str) -> Field {
    Field::list(name, &NETS).checks(&NETS_CHECKS)
}
static NETS_CHECKS: [Check; 2] = [Check::MaxItems(256), Check::Is(&OF_ONE_VERSION)];
/// The part of [`ONE_VERSION`] that costs an API server nothing here, and too much there.
static OF_ONE_VERSION: Format = Format {
    says: "of one IP version",
    server: &[Server::ItemsAllMatch(&["^[^:]*$|^[0:]*:[fF]{4}:", ":"])],
    breach: |_| None,
};
static NETS: Shape = Shape::checked(Type::Text, &[Check::Is(&RULE_NET)]);

const fn ports(name: &'static str) -> Field {
    Field::list(name, &PORTS).checks(&[Check::MaxItems(50)])
}
static PORTS: Shape = Shape::checked(Type::Port, &[Check::Is(&PORT)]);

pub(super) const fn selector(name: &'static str) -> Field {
    Field::text(name).checks(&SELECTORS)
}
static SELECTORS: [Check; 2] = [Check::Is(&SELECTOR), MAX_SELECTOR];

static SERVICE: Object = Object {
    fields: &[
        Field::text("name")
            .doc("The service's name.")
            .checks(&[Check::Is(&NAME), Check::MaxLength(253)]),
        Field::text("namespace")
            .doc("The service's namespace.")
            .absent("the policy's")
            .checks(&[Check::Is(&NAME), Check::MaxLength(253)]),
    ],
    rules: &[],
};

static SERVICE_ACCOUNTS: Object = Object {
    fields: &[
        Field::new("names", TEXTS).doc("By name."),
        Field::text("selector")
            .doc("Selects by labels service accounts.")
            .checks(&[Check::Is(&SELECTOR)]),
    ],
    rules: &[],
};

const VERSION_IS_4_OR_6: Rule = Rule {
    says: "ipVersion is 4 or 6",
    cel: &["!has(self.ipVersion) || self.ipVersion in [4, 6]"],
    breach: |rule| match rule.get("ipVersion")?.as_i64() {
        Some(4 | 6) => None,
        _ => Breach::at("ipVersion", "leave it out for both"),
    },
};

/// Calico enforces it with a proxy beside each workload. Without one, a rule that asks for a
/// method or a path would allow everything else too.
const NO_HTTP: Rule = Rule {
    says: "nothing here enforces matches of HTTP",
    cel: &["!has(self.http)"],
    breach: |rule| {
        rule.get("http")?;
        Breach::at("http", "leave http out, and write what the rule may allow without it")
    },
};

const ICMP_NEEDS_PROTOCOL: Rule = Rule {
    says: "icmp needs protocol ICMP or ICMPv6",
    cel: &[
        "!has(self.icmp) || has(self.protocol) && (self.protocol == 'ICMP' || self.protocol == 'ICMPv6' || self.protocol == 1 || self.protocol == 58 || self.protocol == '1' || self.protocol == '58')",
    ],
    breach: |rule| {
        rule.get("icmp")?;
        let is_icmp = is_protocol(rule, "protocol", "ICMP", 1);
        if is_icmp || is_protocol(rule, "protocol", "ICMPv6", 58) {
            return None;
        }
        Breach::at("icmp", "set protocol")
    },
};

const ICMP_HAS_A_VERSION: Rule = Rule {
    says: "ICMP is IPv4, ICMPv6 is IPv6",
    cel: &[
        "!has(self.ipVersion) || !has(self.protocol) || !(self.ipVersion == 4 ? self.protocol == 58 || self.protocol == '58' || self.protocol == 'ICMPv6' : self.protocol == 1 || self.protocol == '1' || self.protocol == 'ICMP')",
        "!has(self.ipVersion) || !has(self.notProtocol) || !(self.ipVersion == 4 ? self.notProtocol == 58 || self.notProtocol == '58' || self.notProtocol == 'ICMPv6' : self.notProtocol == 1 || self.notProtocol == '1' || self.notProtocol == 'ICMP')",
    ],
    breach: |rule| {
        let ip_version = rule.get("ipVersion")?.as_i64()?;
        let is_other = ["protocol", "notProtocol"].into_iter().any(|field| {
            is_protocol(rule, field, "ICMP", 1) && ip_version != 4
                || is_protocol(rule, field, "ICMPv6", 58) && ip_version != 6
        });
        if is_other { Breach::at("ipVersion", "leave it out") } else { None }
    },
};

// A range without a protocol is let through in CEL: to look into so many texts costs too much.
const PORTS_NEED_PROTOCOL: Rule = Rule {
    says: "ports need protocol TCP, UDP or SCTP; names of ports may do without",
    cel: &[
        "has(self.protocol) && (self.protocol == 'TCP' || self.protocol == 'UDP' || self.protocol == 'SCTP' || self.protocol == 6 || self.protocol == 17 || self.protocol == 132 || self.protocol == '6' || self.protocol == '17' || self.protocol == '132') || !has(self.source) || !has(self.source.ports) || self.source.ports.all(port, !has(self.protocol) && type(port) == string)",
        "has(self.protocol) && (self.protocol == 'TCP' || self.protocol == 'UDP' || self.protocol == 'SCTP' || self.protocol == 6 || self.protocol == 17 || self.protocol == 132 || self.protocol == '6' || self.protocol == '17' || self.protocol == '132') || !has(self.source) || !has(self.source.notPorts) || self.source.notPorts.all(port, !has(self.protocol) && type(port) == string)",
        "has(self.protocol) && (self.protocol == 'TCP' || self.protocol == 'UDP' || self.protocol == 'SCTP' || self.protocol == 6 || self.protocol == 17 || self.protocol == 132 || self.protocol == '6' || self.protocol == '17' || self.protocol == '132') || !has(self.destination) || !has(self.destination.ports) || self.destination.ports.all(port, !has(self.protocol) && type(port) == string)",
        "has(self.protocol) && (self.protocol == 'TCP' || self.protocol == 'UDP' || self.protocol == 'SCTP' || self.protocol == 6 || self.protocol == 17 || self.protocol == 132 || self.protocol == '6' || self.protocol == '17' || self.protocol == '132') || !has(self.destination) || !has(self.destination.notPorts) || self.destination.notPorts.all(port, !has(self.protocol) && type(port) == string)",
    ],
    breach: |rule| {
        let protocol = rule.get("protocol");
        if protocol.is_some_and(has_ports) {
            return None;
        }
        let (at, _) = entity_lists(rule, ["ports", "notPorts"]).find(|(_, ports)| {
            protocol.is_some() && !ports.is_empty() || !ports.iter().all(is_port_name)
        })?;
        Breach::at(at, "set protocol to TCP, UDP or SCTP")
    },
};

const NOT_ALL_NETS: Rule = Rule {
    says: "notNets without a remainder match nothing",
    cel: &[
        "!has(self.source) || !has(self.source.notNets) || self.source.notNets.all(net, net != '0.0.0.0/0' && !(net.contains(':') && net.endsWith('/0')))",
        "!has(self.destination) || !has(self.destination.notNets) || self.destination.notNets.all(net, net != '0.0.0.0/0' && !(net.contains(':') && net.endsWith('/0')))",
    ],
    breach: |rule| {
        let (at, index, _) = all_nets(rule).find(|(at, _, text)| {
            let all = Cidr::parse(text).filter(|net| net.ones == 0);
            // Calico's rule: IPv4 in this notation, IPv6 in any.
            at.ends_with("notNets") && all.is_some_and(|net| *text == "0.0.0.0/0" || !net.is_ipv4())
        })?;
        Breach::at(format!("{at}[{index}]"), "leave it out, or leave the rule out")
    },
};

const ONE_VERSION: Rule = Rule {
    says: "a rule is of one IP version",
    cel: &[
        "!has(self.ipVersion) || !has(self.source) || !has(self.source.nets) || size(self.source.nets) == 0 || self.source.nets[0].matches('^[^:]*$|^[0:]*:[fF]{4}:') == (self.ipVersion == 4)",
        "!has(self.ipVersion) || !has(self.source) || !has(self.source.notNets) || size(self.source.notNets) == 0 || self.source.notNets[0].matches('^[^:]*$|^[0:]*:[fF]{4}:') == (self.ipVersion == 4)",
        "!has(self.ipVersion) || !has(self.destination) || !has(self.destination.nets) || size(self.destination.nets) == 0 || self.destination.nets[0].matches('^[^:]*$|^[0:]*:[fF]{4}:') == (self.ipVersion == 4)",
        "!has(self.ipVersion) || !has(self.destination) || !has(self.destination.notNets) || size(self.destination.notNets) == 0 || self.destination.notNets[0].matches('^[^:]*$|^[0:]*:[fF]{4}:') == (self.ipVersion == 4)",
        "!has(self.source) || !has(self.source.nets) || size(self.source.nets) == 0 || !has(self.source.notNets) || size(self.source.notNets) == 0 || self.source.nets[0].matches('^[^:]*$|^[0:]*:[fF]{4}:') == self.source.notNets[0].matches('^[^:]*$|^[0:]*:[fF]{4}:')",
        "!has(self.source) || !has(self.source.nets) || size(self.source.nets) == 0 || !has(self.destination) || !has(self.destination.nets) || size(self.destination.nets) == 0 || self.source.nets[0].matches('^[^:]*$|^[0:]*:[fF]{4}:') == self.destination.nets[0].matches('^[^:]*$|^[0:]*:[fF]{4}:')",
        "!has(self.source) || !has(self.source.nets) || size(self.source.nets) == 0 || !has(self.destination) || !has(self.destination.notNets) || size(self.destination.notNets) == 0 || self.source.nets[0].matches('^[^:]*$|^[0:]*:[fF]{4}:') == self.destination.notNets[0].matches('^[^:]*$|^[0:]*:[fF]{4}:')",
        "!has(self.source) || !has(self.source.notNets) || size(self.source.notNets) == 0 || !has(self.destination) || !has(self.destination.nets) || size(self.destination.nets) == 0 || self.source.notNets[0].matches('^[^:]*$|^[0:]*:[fF]{4}:') == self.destination.nets[0].matches('^[^:]*$|^[0:]*:[fF]{4}:')",
        "!has(self.source) || !has(self.source.notNets) || size(self.source.notNets) == 0 || !has(self.destination) || !has(self.destination.notNets) || size(self.destination.notNets) == 0 || self.source.notNets[0].matches('^[^:]*$|^[0:]*:[fF]{4}:') == self.destination.notNets[0].matches('^[^:]*$|^[0:]*:[fF]{4}:')",
        "!has(self.destination) || !has(self.destination.nets) || size(self.destination.nets) == 0 || !has(self.destination.notNets) || size(self.destination.notNets) == 0 || self.destination.nets[0].matches('^[^:]*$|^[0:]*:[fF]{4}:') == self.destination.notNets[0].matches('^[^:]*$|^[0:]*:[fF]{4}:')",
    ],
    breach: |rule| {
        let mut seen = rule.get("ipVersion").and_then(Value::as_i64);
        let (at, index, _) = all_nets(rule).find(|(_, _, text)| {
            let Some(net) = Cidr::parse(text) else { return false };
            let version = version(net.network);
            *seen.get_or_insert(version) != version
        })?;
        Breach::at(format!("{at}[{index}]"), "take a rule for each version")
    },
};

const SERVICES_HAVE_PORTS: Rule = Rule {
    says: "ports of a service are those of its endpoints",
    cel: &[
        "!has(self.destination) || !has(self.destination.services) || (!has(self.destination.ports) || size(self.destination.ports) == 0) && (!has(self.destination.notPorts) || size(self.destination.notPorts) == 0)",
    ],
    breach: |rule| {
        let destination = rule.child("destination");
        destination.get("services")?;
        let field =
            ["ports", "notPorts"].into_iter().find(|field| !destination.list(field).is_empty())?;
        Breach::at(format!("destination.{field}"), "leave them out")
    },
};

const GLOBAL_IN_ITS_PLACE: Rule = Rule {
    says: "global() belongs into namespaceSelector",
    cel: &["!has(self.selector) || !self.selector.contains('global(')"],
    breach: |entity| {
        if !entity.text("selector").contains("global(") {
            return None;
        }
        Breach::at("selector", "namespaceSelector: global() says the same")
    },
};

const GLOBAL_ALONE: Rule = Rule {
    says: "global() can't be combined with other selectors",
    cel: &[
        "!has(self.namespaceSelector) || !self.namespaceSelector.contains('global(') || self.namespaceSelector.matches('^[ \\t]*global[(][ \\t]*[)][ \\t]*$')",
    ],
    breach: |entity| {
        let text = entity.text("namespaceSelector");
        if !text.contains("global(") || is_global_alone(text) {
            return None;
        }
        Breach::at("namespaceSelector", "take a rule for each")
    },
};

const SERVICES_ALONE: Rule = Rule {
    says: "services can't be combined with nets, selectors or service accounts",
    cel: &[
        "!has(self.services) || self.?selector.orValue('') == '' && self.?notSelector.orValue('') == '' && self.?namespaceSelector.orValue('') == '' && (!has(self.nets) || size(self.nets) == 0) && (!has(self.notNets) || size(self.notNets) == 0) && !has(self.serviceAccounts)",
    ],
    breach: |entity| {
        entity.get("services")?;
        let other = ["selector", "notSelector", "namespaceSelector"]
            .into_iter()
            .find(|field| entity.has_text(field))
            .or_else(|| {
                let lists = ["nets", "notNets"];
                lists.into_iter().find(|field| !entity.list(field).is_empty())
            })
            .or_else(|| entity.get("serviceAccounts").map(|_| "serviceAccounts"))?;
        Breach::at(other, "take a rule for each")
    },
};

const SERVICES_HAVE_A_NAME: Rule = Rule {
    says: "services need the name of one",
    cel: &["!has(self.services) || self.services.?name.orValue('') != ''"],
    breach: |entity| {
        entity.get("services")?;
        if entity.child("services").has_text("name") {
            return None;
        }
        Breach::at("services.name", "")
    },
};

/// Whether the selector is one `global()` with nothing but blanks around and in it.
fn is_global_alone(text: &str) -> bool {
    let blanks = [' ', '\t'];
    text.trim_matches(blanks)
        .strip_prefix("global(")
        .is_some_and(|rest| rest.trim_start_matches(blanks) == ")")
}

fn is_protocol(rule: &Scope<'_>, field: &str, name: &str, number: u64) -> bool {
    rule.get(field).is_some_and(|protocol| {
        protocol.as_str() == Some(name) || protocol.as_u64() == Some(number)
    })
}

/// Whether packets of this protocol have ports.
pub(super) fn has_ports(protocol: &Value) -> bool {
    match protocol {
        Value::Number(number) => matches!(number.as_u64(), Some(6 | 17 | 132)),
        Value::String(name) => matches!(name.as_str(), "TCP" | "UDP" | "SCTP"),
        _ => false,
    }
}

fn is_port_name(port: &Value) -> bool {
    port.as_str().is_some_and(|text| !text.contains(':'))
}

/// Lists of source and destination, with their paths in the rule.
fn entity_lists<'a>(
    rule: &Scope<'a>,
    fields: [&'static str; 2],
) -> impl Iterator<Item = (String, &'a [Value])> {
    let rule = *rule;
    ["source", "destination"].into_iter().flat_map(move |entity| {
        let scope = rule.child(entity);
        fields.map(|field| (format!("{entity}.{field}"), scope.list(field)))
    })
}

/// All nets of the rule: the path of the list, the index, the text.
fn all_nets<'a>(rule: &Scope<'a>) -> impl Iterator<Item = (String, usize, &'a str)> {
    entity_lists(rule, ["nets", "notNets"]).flat_map(|(at, nets)| {
        nets.iter()
            .enumerate()
            .map(move |(index, net)| (at.clone(), index, net.as_str().unwrap_or_default()))
    })
}
