//! One rule of a policy or a profile.

use serde_json::Value;

use crate::validate::{
    format::{ANNOTATIONS, NAME, NET, PORT, PROTOCOL, SELECTOR, version},
    net::Cidr,
    schema::{Breach, Check, Field, Object, Rule, Scope, Shape, TEXT, TEXTS, Type},
};

/// The longest selector, in characters.
pub(super) const MAX_SELECTOR: Check = Check::MaxLength(1024);

/// A rule of a policy.
pub(super) static RULE: Shape = Shape::of(Type::Object(&RULE_OBJECT));

static RULE_OBJECT: Object = Object {
    fields: &[
        Field::text("action").always().checks(&[Check::OneOf(&["Allow", "Deny", "Log", "Pass"])]),
        Field::int("ipVersion").if_present(),
        protocol("protocol"),
        Field::object("icmp", &ICMP).if_present(),
        protocol("notProtocol"),
        Field::object("notICMP", &ICMP).if_present(),
        Field::object("source", &ENTITY).unless_zero(),
        Field::object("destination", &ENTITY).unless_zero(),
        HTTP,
        METADATA,
    ],
    rules: &[
        VERSION_IS_4_OR_6,
        NO_HTTP,
        ICMP_NEEDS_PROTOCOL,
        ICMP_HAS_A_VERSION,
        PORTS_NEED_PROTOCOL,
        NETS_ARE_NETWORKS,
        NOT_ALL_NETS,
        ONE_VERSION,
        SERVICES_HAVE_PORTS,
    ],
};

/// A rule of a profile. Calico has no schema for profiles, and so asks less of it.
pub(super) static PROFILE_RULE: Shape = Shape::of(Type::Object(&PROFILE_RULE_OBJECT));

static PROFILE_RULE_OBJECT: Object = Object {
    fields: &[
        Field::text("action").always(),
        Field::int("ipVersion").if_present(),
        protocol("protocol"),
        Field::object("icmp", &PROFILE_ICMP).if_present(),
        protocol("notProtocol"),
        Field::object("notICMP", &PROFILE_ICMP).if_present(),
        Field::object("source", &PROFILE_ENTITY).unless_zero(),
        Field::object("destination", &PROFILE_ENTITY).unless_zero(),
        HTTP,
        METADATA,
    ],
    rules: &[NO_HTTP, PORTS_NEED_PROTOCOL, NETS_ARE_NETWORKS, NOT_ALL_NETS, ONE_VERSION],
};

const fn protocol(name: &'static str) -> Field {
    Field::new(name, Type::NameOrByte).if_present().checks(&PROTOCOLS)
}
static PROTOCOLS: [Check; 1] = [Check::Is(&PROTOCOL)];

const HTTP: Field = Field::new("http", Type::Any).if_present();
const METADATA: Field = Field::object("metadata", &METADATA_OBJECT).if_present();

static METADATA_OBJECT: Object = Object {
    fields: &[Field::new("annotations", Type::Map(&TEXT)).checks(&[Check::Is(&ANNOTATIONS)])],
    rules: &[],
};

static PROFILE_ICMP: Object = Object { fields: &ICMP_FIELDS, rules: &[] };
static ICMP: Object = Object {
    fields: &ICMP_FIELDS,
    rules: &[Rule {
        says: "an ICMP code needs its type",
        breach: |icmp| match (icmp.get("type"), icmp.get("code")) {
            (None, Some(_)) => Breach::at("code", "set type"),
            _ => None,
        },
    }],
};

static ICMP_FIELDS: [Field; 2] = [
    Field::int("type").if_present().checks(&[Check::Range(0, 254)]),
    Field::int("code").if_present().checks(&[Check::Range(0, 255)]),
];

static ENTITY: Object = Object {
    fields: &[
        nets("nets"),
        selector("selector"),
        selector("namespaceSelector"),
        Field::object("services", &SERVICE).if_present(),
        ports("ports"),
        nets("notNets"),
        selector("notSelector"),
        ports("notPorts"),
        Field::object("serviceAccounts", &SERVICE_ACCOUNTS).if_present(),
    ],
    rules: &[GLOBAL_IN_ITS_PLACE, GLOBAL_ALONE, SERVICES_ALONE, SERVICES_HAVE_A_NAME],
};

static PROFILE_ENTITY: Object = Object {
    fields: &[
        Field::list("nets", &NETS),
        Field::text("selector").checks(&[Check::Is(&SELECTOR)]),
        Field::text("namespaceSelector").checks(&[Check::Is(&SELECTOR)]),
        Field::object("services", &SERVICE).if_present(),
        Field::list("ports", &PORTS),
        Field::list("notNets", &NETS),
        Field::text("notSelector").checks(&[Check::Is(&SELECTOR)]),
        Field::list("notPorts", &PORTS),
        Field::object("serviceAccounts", &SERVICE_ACCOUNTS).if_present(),
    ],
    rules: &[GLOBAL_ALONE],
};

const fn nets(name: &'static str) -> Field {
    Field::list(name, &NETS).checks(&[Check::MaxItems(256)])
}
static NETS: Shape = Shape::checked(Type::Text, &[Check::Is(&NET)]);

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
        Field::text("name").checks(&[Check::Is(&NAME), Check::MaxLength(253)]),
        Field::text("namespace").checks(&[Check::Is(&NAME), Check::MaxLength(253)]),
    ],
    rules: &[],
};

static SERVICE_ACCOUNTS: Object =
    Object { fields: &[Field::new("names", TEXTS), selector("selector")], rules: &[] };

const VERSION_IS_4_OR_6: Rule = Rule {
    says: "ipVersion is 4 or 6",
    breach: |rule| match rule.get("ipVersion")?.as_i64() {
        Some(4 | 6) => None,
        _ => Breach::at("ipVersion", "leave it out for both"),
    },
};

/// Calico enforces it with a proxy beside each workload. Without one, a rule that asks for a
/// method or a path would allow everything else too.
const NO_HTTP: Rule = Rule {
    says: "nothing here enforces matches of HTTP",
    breach: |rule| {
        rule.get("http")?;
        Breach::at("http", "leave http out, and write what the rule may allow without it")
    },
};

const ICMP_NEEDS_PROTOCOL: Rule = Rule {
    says: "icmp needs protocol ICMP or ICMPv6",
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
    breach: |rule| {
        let ip_version = rule.get("ipVersion")?.as_i64()?;
        let is_other = ["protocol", "notProtocol"].into_iter().any(|field| {
            is_protocol(rule, field, "ICMP", 1) && ip_version != 4
                || is_protocol(rule, field, "ICMPv6", 58) && ip_version != 6
        });
        if is_other { Breach::at("ipVersion", "leave it out") } else { None }
    },
};

const PORTS_NEED_PROTOCOL: Rule = Rule {
    says: "ports need protocol TCP, UDP or SCTP; names of ports may do without",
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

const NETS_ARE_NETWORKS: Rule = Rule {
    says: "nets of a rule are networks such as 10.0.0.0/8",
    breach: |rule| {
        let (at, index, text) = all_nets(rule).find(|(_, _, text)| Cidr::parse(text).is_none())?;
        let hint = Cidr::parse_or_ip(text).map(|net| format!("write {}", net.text()));
        Breach::at(format!("{at}[{index}]"), hint.unwrap_or_default())
    },
};

const NOT_ALL_NETS: Rule = Rule {
    says: "notNets without a remainder match nothing",
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
    breach: |entity| {
        if !entity.text("selector").contains("global(") {
            return None;
        }
        Breach::at("selector", "namespaceSelector: global() says the same")
    },
};

const GLOBAL_ALONE: Rule = Rule {
    says: "global() can't be combined with other selectors",
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
