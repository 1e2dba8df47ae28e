//! One rule of a policy or a profile.

use serde_json::Value;

use crate::validate::{
    format::{ANNOTATIONS, NAME, NET, PORT, PROTOCOL, SELECTOR, version},
    net::Cidr,
    schema::{Breach, Check, Field, INT, Object, Rule, Scope, Shape, TEXT, TEXTS, Type},
};

/// The longest selector, in characters.
pub(super) const MAX_SELECTOR: Check = Check::MaxLength(1024);

/// A list of rules.
pub(super) const RULES: Type = Type::List(&RULE);
pub(super) static RULE: Shape = Shape::of(Type::Object(&RULE_OBJECT));

static RULE_OBJECT: Object = Object {
    fields: &[
        Field::text("action").always().checks(&[Check::OneOf(&["Allow", "Deny", "Log", "Pass"])]),
        Field::new("ipVersion", INT).if_present(),
        Field::new("protocol", Type::Protocol).if_present().checks(&[Check::Is(&PROTOCOL)]),
        Field::object("icmp", &ICMP).if_present(),
        Field::new("notProtocol", Type::Protocol).if_present().checks(&[Check::Is(&PROTOCOL)]),
        Field::object("notICMP", &ICMP).if_present(),
        Field::object("source", &ENTITY).unless_zero(),
        Field::object("destination", &ENTITY).unless_zero(),
        Field::new("http", Type::Any).if_present(),
        Field::object("metadata", &METADATA).if_present(),
    ],
    rules: &[
        Rule {
            says: "ipVersion is 4 or 6",
            breach: |rule| match rule.get("ipVersion")?.as_i64() {
                Some(4 | 6) => None,
                _ => Breach::at("ipVersion", "leave it out for both"),
            },
        },
        // Calico enforces it with a proxy beside each workload. Without one, a rule that asks for
        // a method or a path would allow everything else too.
        Rule {
            says: "nothing here enforces matches of HTTP",
            breach: |rule| {
                rule.get("http")?;
                Breach::at("http", "leave http out, and write what the rule may allow without it")
            },
        },
        Rule {
            says: "icmp needs protocol ICMP or ICMPv6",
            breach: |rule| {
                rule.get("icmp")?;
                if is_protocol(rule, "protocol", "ICMP", 1)
                    || is_protocol(rule, "protocol", "ICMPv6", 58)
                {
                    return None;
                }
                Breach::at("icmp", "set protocol")
            },
        },
        Rule {
            says: "ICMP is IPv4, ICMPv6 is IPv6",
            breach: |rule| {
                let ip_version = rule.get("ipVersion")?.as_i64()?;
                let is_other = ["protocol", "notProtocol"].into_iter().any(|field| {
                    is_protocol(rule, field, "ICMP", 1) && ip_version != 4
                        || is_protocol(rule, field, "ICMPv6", 58) && ip_version != 6
                });
                if is_other { Breach::at("ipVersion", "leave it out") } else { None }
            },
        },
        Rule {
            says: "ports need protocol TCP, UDP or SCTP; names of ports may do without",
            breach: |rule| {
                let protocol = rule.get("protocol");
                if protocol.is_some_and(has_ports) {
                    return None;
                }
                let at = entity_lists(rule, ["ports", "notPorts"]).find(|(_, ports)| {
                    protocol.is_some() && !ports.is_empty() || !ports.iter().all(is_port_name)
                })?;
                Breach::at(at.0, "set protocol to TCP, UDP or SCTP")
            },
        },
        Rule {
            says: "nets of a rule are networks such as 10.0.0.0/8",
            breach: |rule| {
                let (at, index, text) =
                    nets(rule).find(|(_, _, text)| Cidr::parse(text).is_none())?;
                let hint = Cidr::parse_or_ip(text)
                    .map(|net| format!("write {}", net.text()))
                    .unwrap_or_default();
                Breach::at(format!("{at}[{index}]"), hint)
            },
        },
        Rule {
            says: "notNets without a remainder match nothing",
            breach: |rule| {
                let (at, index, _) = nets(rule).find(|(at, _, text)| {
                    let all = Cidr::parse(text).filter(|net| net.ones == 0);
                    // Calico's rule: IPv4 in this notation, IPv6 in any.
                    at.ends_with("notNets")
                        && all.is_some_and(|net| *text == "0.0.0.0/0" || !net.is_ipv4())
                })?;
                Breach::at(format!("{at}[{index}]"), "leave it out, or leave the rule out")
            },
        },
        Rule {
            says: "a rule is of one IP version",
            breach: |rule| {
                let mut seen = rule.get("ipVersion").and_then(Value::as_i64);
                let (at, index, _) = nets(rule).find(|(_, _, text)| {
                    let Some(net) = Cidr::parse(text) else { return false };
                    let version = version(net.network);
                    *seen.get_or_insert(version) != version
                })?;
                Breach::at(format!("{at}[{index}]"), "take a rule for each version")
            },
        },
        Rule {
            says: "ports of a service are those of its endpoints",
            breach: |rule| {
                let destination = rule.child("destination");
                destination.get("services")?;
                let has_ports = ["ports", "notPorts"]
                    .into_iter()
                    .find(|field| !destination.list(field).is_empty())?;
                Breach::at(format!("destination.{has_ports}"), "leave them out")
            },
        },
    ],
};

static METADATA: Object = Object {
    fields: &[Field::new("annotations", Type::Map(&TEXT)).checks(&[Check::Is(&ANNOTATIONS)])],
    rules: &[],
};

static ICMP: Object = Object {
    fields: &[
        Field::int("type").if_present().checks(&[Check::Range(0, 254)]),
        Field::int("code").if_present().checks(&[Check::Range(0, 255)]),
    ],
    rules: &[Rule {
        says: "an ICMP code needs its type",
        breach: |icmp| match (icmp.get("type"), icmp.get("code")) {
            (None, Some(_)) => Breach::at("code", "set type"),
            _ => None,
        },
    }],
};

static NETS: Shape = Shape::checked(Type::Text, &[Check::Is(&NET)]);
static PORTS: Shape = Shape::checked(Type::Port, &[Check::Is(&PORT)]);

static ENTITY: Object = Object {
    fields: &[
        Field::list("nets", &NETS).checks(&[Check::MaxItems(256)]),
        Field::text("selector").checks(&[Check::Is(&SELECTOR), MAX_SELECTOR]),
        Field::text("namespaceSelector").checks(&[Check::Is(&SELECTOR), MAX_SELECTOR]),
        Field::object("services", &SERVICE).if_present(),
        Field::list("ports", &PORTS).checks(&[Check::MaxItems(50)]),
        Field::list("notNets", &NETS).checks(&[Check::MaxItems(256)]),
        Field::text("notSelector").checks(&[Check::Is(&SELECTOR), MAX_SELECTOR]),
        Field::list("notPorts", &PORTS).checks(&[Check::MaxItems(50)]),
        Field::object("serviceAccounts", &SERVICE_ACCOUNTS).if_present(),
    ],
    rules: &[
        Rule {
            says: "global() belongs into namespaceSelector",
            breach: |entity| {
                if !entity.text("selector").contains("global(") {
                    return None;
                }
                Breach::at("selector", "namespaceSelector: global() says the same")
            },
        },
        Rule {
            says: "global() can't be combined with other selectors",
            breach: |entity| {
                let text = entity.text("namespaceSelector");
                if !text.contains("global(") || is_global_alone(text) {
                    return None;
                }
                Breach::at("namespaceSelector", "take a rule for each")
            },
        },
        Rule {
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
        },
        Rule {
            says: "services need the name of one",
            breach: |entity| {
                entity.get("services")?;
                if entity.child("services").has_text("name") {
                    return None;
                }
                Breach::at("services.name", "")
            },
        },
    ],
};

static SERVICE: Object = Object {
    fields: &[
        Field::text("name").checks(&[Check::Is(&NAME), Check::MaxLength(253)]),
        Field::text("namespace").checks(&[Check::Is(&NAME), Check::MaxLength(253)]),
    ],
    rules: &[],
};

static SERVICE_ACCOUNTS: Object = Object {
    fields: &[
        Field::new("names", TEXTS),
        Field::text("selector").checks(&[Check::Is(&SELECTOR), MAX_SELECTOR]),
    ],
    rules: &[],
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
fn nets<'a>(rule: &Scope<'a>) -> impl Iterator<Item = (String, usize, &'a str)> {
    entity_lists(rule, ["nets", "notNets"]).flat_map(|(at, nets)| {
        nets.iter()
            .enumerate()
            .map(move |(index, net)| (at.clone(), index, net.as_str().unwrap_or_default()))
    })
}
