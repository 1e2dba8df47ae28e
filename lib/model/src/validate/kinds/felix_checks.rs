//! What the fields of `FelixConfiguration` must be.

use std::net::{Ipv4Addr, Ipv6Addr};

use serde_json::Value;

use crate::validate::{
    format::{self, CIDR, is_dns_label, is_word},
    schema::{
        Breach, Check, Field, Format, INT, Object, Pattern, Rule,
        Server::{Cel, Formats, MaxLength, Never, Pattern as Matches},
        Shape, Type, UINT16,
    },
};

// Numbers.
pub(super) const AT_LEAST_MINUS_ONE: &[Check] = &[Check::Range(-1, i64::MAX)];
pub(super) const LISTENING_PORT: &[Check] = &[Check::Range(1, 65535)];
pub(super) const MAGLEV: &[Check] = &[Check::Range(1, 3000)];
pub(super) const MARK: &[Check] = &[Check::Range(0, u32::MAX as i64)];
pub(super) const PORT_NUMBER: &[Check] = &[Check::Range(0, 65535)];
pub(super) const ROUTE_PRIORITY: &[Check] = &[Check::Range(1, 2_147_483_646)];

// Choices.
pub(super) const ON_OR_OFF: &[Check] = &[Check::OneOf(&["Enabled", "Disabled"])];

/// Checks that are one pattern.
macro_rules! patterns {
    ($($(#[$doc:meta])* $name:ident = $text:literal;)*) => {
        $($(#[$doc])* pub(super) static $name: &[Check] = {
            static PATTERN: Pattern = Pattern::new($text);
            &[Check::Pattern(&PATTERN)]
        };)*
    };
}

patterns! {
    ACCEPT_OR_RETURN = "^(?i)(Accept|Return)?$";
    BPF_LOG_LEVEL = "^(?i)(Off|Info|Debug)?$";
    BPF_RPF = "^(?i)(Disabled|Strict|Loose)?$";
    BPF_SCALING = "^(?i)(Disabled|DoubleIfFull)?$";
    BPF_SERVICE_MODE = "^(?i)(Tunnel|DSR)?$";
    DROP_ACCEPT_OR_RETURN = "^(?i)(Drop|Accept|Return)?$";
    DROP_OR_REJECT = "^(?i)(Drop|Reject)?$";
    /// Calico's pattern has one backslash too many and refuses fractions.
    DURATION = r"^([0-9]+(\.[0-9]+)?(ms|s|m|h))*$";
    INSERT_OR_APPEND = "^(?i)(Insert|Append)?$";
    INTERFACE_FILTER = "^[a-zA-Z0-9:._+-]{1,15}$";
    LOG_LEVEL = "^(?i)(Trace|Debug|Info|Warning|Error|Fatal)?$";
    LOG_PREFIX = "^([a-zA-Z0-9%: /_-])*$";
    METRICS_HOST = "^[a-zA-Z0-9:._+-]{1,64}$";
    RATE_LIMIT = "^[1-9][0-9]{0,3}/(?:second|minute|hour|day)$";
    ROUTE_SOURCE = "^(?i)(WorkloadIPs|CalicoIPAM)?$";
}

// Formats.
pub(super) const INTERFACE: &[Check] = &[Check::Is(&format::INTERFACE)];
pub(super) const PORT: &[Check] = &[Check::Is(&format::PORT)];
pub(super) const REGULAR: &[Check] = &[Check::Is(&format::REGEX)];
/// Calico doesn't read it before it is stored.
pub(super) const SELECTOR: &[Check] = &[Check::Is(&format::SELECTOR), Check::MaxLength(1024)];
pub(super) const SOURCE_V4: &[Check] = &[Check::Is(&IPV4)];
pub(super) const SOURCE_V6: &[Check] = &[Check::Is(&IPV6)];
pub(super) const OPENSTACK_REGION: &[Check] = &[Check::Is(&REGION)];
pub(super) const LOG_FILTERS: &[Check] = &[Check::Is(&FILTERED)];
pub(super) static FEATURE_OVERRIDES: &[Check] = {
    static PATTERN: Pattern =
        Pattern::new("^([a-zA-Z0-9_-]+=(true|false|),)*([a-zA-Z0-9_-]+=(true|false|))?$");
    &[Check::Pattern(&PATTERN), Check::Is(&KEYS_AND_VALUES)]
};
pub(super) static FEATURE_GATES: &[Check] = {
    static PATTERN: Pattern = Pattern::new("^([a-zA-Z0-9_-]+=([^=]+),)*([a-zA-Z0-9_-]+=([^=]+))?$");
    &[Check::Pattern(&PATTERN), Check::Is(&KEYS_AND_VALUES)]
};

macro_rules! formats {
    ($($(#[$doc:meta])* $name:ident = $says:literal, $server:expr, $holds:expr;)*) => {
        $($(#[$doc])* static $name: Format = Format {
            says: $says,
            server: $server,
            breach: |value| {
                let holds: fn(&str) -> bool = $holds;
                value.as_str().filter(|text| !holds(text)).map(|_| String::new())
            },
        };)*
    };
}

formats! {
    /// IPv4 in IPv6 is refused.
    IPV4 = "an IPv4 address", &[Formats(&["ipv4"]), Never("(^|[.])0[0-9]")], |text| text.parse::<Ipv4Addr>().is_ok();
    IPV6 = "an IPv6 address that isn't IPv4 in IPv6",
        &[Formats(&["ipv6"]), Never("^[0:]*:[fF]{4}:")],
        |text| text.parse::<Ipv6Addr>().is_ok_and(|ip| ip.to_ipv4_mapped().is_none());
    /// The length leaves room for the prefix of names that are made from it.
    REGION = "at most 46 of a-z, 0-9 and -, with a letter or digit at both ends",
        &[Matches("^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"), MaxLength(46)],
        |text| text.len() <= 46 && is_dns_label(text);
    KEYS_AND_VALUES = "keys of letters, digits and _ with values: A=b,C=d",
        &[Matches(r"^(\s*[A-Za-z0-9_]+=[^,]*)?(,(\s*[A-Za-z0-9_]+=[^,]*)?)*$")],
        |text| text.split(',').all(|item| item.is_empty() || has_key(item));
    NOT_NEGATIVE = "a duration that isn't negative", &[Matches("^[^-]")], |text| !text.starts_with('-');
    FAILSAFE_PROTOCOL = "TCP, UDP or SCTP", &[Matches("^(?i)(TCP|UDP|SCTP)$")], |text| {
        ["TCP", "UDP", "SCTP"].iter().any(|known| known.eq_ignore_ascii_case(text))
    };
}

fn has_key(item: &str) -> bool {
    let Some((key, _)) = item.split_once('=') else { return false };
    is_word(key.trim_start(), usize::MAX, b"_")
}

static FILTERED: Format = Format {
    says: "filters by interface, whose names have 1 to 15 of A-Z a-z 0-9 _ . -",
    server: &[Cel("self.all(name, name.matches('^[A-Za-z0-9_.-]{1,15}$'))")],
    breach: |value| {
        let wrong = value.as_object()?.keys().find(|name| !is_word(name, 15, b"_.-"))?;
        Some(format!("{wrong:?} is none"))
    },
};

// Items of lists.
pub(super) static NET: Shape = Shape::checked(Type::Text, &[Check::Is(&CIDR)]);
pub(super) static NET_V4: Shape = Shape::checked(Type::Text, &[Check::Is(&format::CIDR_V4)]);
pub(super) static FILTERED_INTERFACE: Shape = {
    static PATTERN: Pattern = Pattern::new("^[a-zA-Z0-9:._+-]{1,15}$");
    static CHECKS: [Check; 1] = [Check::Pattern(&PATTERN)];
    Shape::checked(Type::Text, &CHECKS)
};

pub(super) static NUMBERED_PORT: Shape =
    Shape::checked(Type::Port, &[Check::Is(&format::PORT), Check::Is(&WITHOUT_NAME)]);
static WITHOUT_NAME: Format = Format {
    says: "a port number or a range of them such as 30000:32767",
    server: &[Matches("^[0-9]+(:[0-9]+)?$")],
    breach: |value| value.as_str().filter(|text| !text.contains(':')).map(|_| String::new()),
};

pub(super) static HEALTH_TIMEOUT: Shape = Shape::of(Type::Object(&HEALTH_TIMEOUT_OBJECT));
static HEALTH_TIMEOUT_OBJECT: Object = Object {
    fields: &[
        Field::text("name")
            .doc("The part, such as `InternalDataplaneMainLoop`.")
            .always()
            .checks(&[Check::Pattern(&COMPONENT)]),
        Field::new("timeout", Type::Duration)
            .doc("How long it may be silent, as a duration.")
            .always()
            .checks(&[Check::Is(&NOT_NEGATIVE)]),
    ],
    rules: &[],
};
static COMPONENT: Pattern = Pattern::new("^[a-zA-Z0-9_ -]+$");

pub(super) static FAILSAFE_PORT: Shape = Shape::of(Type::Object(&FAILSAFE_PORT_OBJECT));
/// Calico checks nothing of it.
static FAILSAFE_PORT_OBJECT: Object = Object {
    fields: &[
        Field::text("protocol")
            .doc("TCP, UDP or SCTP.")
            .absent("TCP")
            .checks(&[Check::Is(&FAILSAFE_PROTOCOL)]),
        Field::new("port", UINT16).doc("The port.").always(),
        Field::text("net")
            .doc("Only from or to this network.")
            .absent("all")
            .checks(&[Check::Is(&CIDR)]),
    ],
    rules: &[],
};

const TIMEOUT: &[Check] = &[Check::Pattern(&TIMEOUT_PATTERN)];
static TIMEOUT_PATTERN: Pattern = Pattern::new(r"^(([0-9]*(\.[0-9]*)?(ms|s|h|m|us)+)+|Auto)$");
pub(super) static TIMEOUTS: Object = Object {
    fields: &[
        Field::text("creationGracePeriod")
            .doc("How long a new connection is kept in any case, as a duration.")
            .absent("10s")
            .if_present()
            .checks(TIMEOUT),
        Field::text("tcpSynSent")
            .doc("While it is made.")
            .absent("20s")
            .if_present()
            .checks(TIMEOUT),
        Field::text("tcpEstablished")
            .doc("While it stands.")
            .absent("1h")
            .if_present()
            .checks(TIMEOUT),
        Field::text("tcpFinsSeen")
            .doc("After both ends closed it.")
            .absent("Auto")
            .if_present()
            .checks(TIMEOUT),
        Field::text("tcpResetSeen")
            .doc("After a reset.")
            .absent("40s")
            .if_present()
            .checks(TIMEOUT),
        Field::text("udpTimeout").doc("UDP.").absent("60s").if_present().checks(TIMEOUT),
        Field::text("genericTimeout")
            .doc("Other protocols.")
            .absent("10m")
            .if_present()
            .checks(TIMEOUT),
        Field::text("icmpTimeout").doc("ICMP.").absent("5s").if_present().checks(TIMEOUT),
    ],
    rules: &[],
};

// Route tables.
pub(super) static ROUTE_TABLE_RANGE: Object = Object {
    fields: &[
        Field::int("min").doc("The first.").always().checks(&[Check::Range(1, 250)]),
        Field::int("max").doc("The last.").always().checks(&[Check::Range(1, 250)]),
    ],
    rules: &[IN_ORDER],
};

pub(super) static ROUTE_TABLES: Shape = Shape::of(Type::Object(&ROUTE_TABLES_OBJECT));
static ROUTE_TABLES_OBJECT: Object = Object {
    fields: &[
        Field::int("min").doc("The first.").always().checks(&[Check::Range(1, i64::MAX)]),
        Field::new("max", INT).doc("The last.").always(),
    ],
    rules: &[IN_ORDER],
};

const IN_ORDER: Rule = Rule {
    says: "a range goes from min up to max",
    cel: &["self.min <= self.?max.orValue(0)"],
    breach: |range| {
        if range.get("min")?.as_i64()? <= range.get("max")?.as_i64()? {
            return None;
        }
        Breach::at("max", "raise it, or lower min")
    },
};

/// The most tables that all ranges may have together.
const MAX_TABLES: i64 = 0xFFFF;
pub(super) const ROUTE_TABLE_RANGES: &[Check] = &[Check::Is(&NOT_TOO_MANY_TABLES)];
static NOT_TOO_MANY_TABLES: Format = Format {
    says: "ranges of at most 65535 tables in all",
    server: &[Cel("self.map(range, range.max - range.min + 1).sum() <= 65535")],
    breach: |value| {
        let end = |range: &Value, field| range.get(field).and_then(Value::as_i64).unwrap_or(0);
        let size = |range| end(range, "max").saturating_sub(end(range, "min")).saturating_add(1);
        let tables = value.as_array()?.iter().map(size).fold(0_i64, i64::saturating_add);
        (tables > MAX_TABLES).then(|| format!("they have {tables}"))
    },
};

pub(super) const ROUTE_TABLES_ONCE: Rule = Rule {
    says: "routeTableRanges replaces routeTableRange",
    cel: &["!has(self.routeTableRange) || !has(self.routeTableRanges)"],
    breach: |spec| match (spec.get("routeTableRange"), spec.get("routeTableRanges")) {
        (Some(_), Some(_)) => Breach::at("routeTableRange", "leave it out"),
        _ => None,
    },
};

pub(super) const NODE_SELECTOR_IS_OF_SOME: Rule = Rule {
    says: "the configurations called default and node.NAME say by their names whose they are",
    cel: &[
        "!has(self.spec) || !has(self.spec.nodeSelector) || self.metadata.name != 'default' && !self.metadata.name.startsWith('node.')",
    ],
    breach: |object| {
        object.child("spec").get("nodeSelector")?;
        let name = object.child("metadata").text("name");
        if name != "default" && !name.starts_with("node.") {
            return None;
        }
        Breach::at("spec.nodeSelector", "leave it out, or take another name")
    },
};
