//! Rules with a name: what names, labels, selectors, addresses and the like must be.

use std::net::IpAddr;

use base64::{
    Engine as _, alphabet,
    engine::general_purpose::{GeneralPurpose, PAD},
};
use serde_json::Value;

use super::{
    net::{Cidr, ip},
    regex,
    schema::{
        Format,
        Server::{self, Cel, Formats, MaxLength, Never, Pattern, Range},
    },
};
use crate::{kinds::PROTOCOLS, selector::Selector};

/// Base64 as Go decodes it: bits that no byte holds may be set.
const KEYS: GeneralPurpose =
    GeneralPurpose::new(&alphabet::STANDARD, PAD.with_decode_allow_trailing_bits(true));

/// A number from 1 to 65535; zeros may lead.
macro_rules! number16 {
    () => {
        "0*([1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
    };
}
pub(super) use number16;

/// A number from 0 to 65535 without leading zeros.
macro_rules! part16 {
    () => {
        "(0|[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])"
    };
}
pub(super) use part16;

/// A number from 0 to 4294967295 without leading zeros.
macro_rules! part32 {
    () => {
        concat!(
            "(0|[1-9][0-9]{0,8}|[1-3][0-9]{9}|4[01][0-9]{8}|42[0-8][0-9]{7}|429[0-3][0-9]{6}|4294[0-8][0-9]{5}",
            "|42949[0-5][0-9]{4}|429496[0-6][0-9]{3}|4294967[01][0-9]{2}|42949672[0-8][0-9]|429496729[0-5])",
        )
    };
}
pub(super) use part32;

/// The name of a port, of any length: parts of letters and digits with a - between them, and a
/// letter somewhere.
macro_rules! port_name {
    () => {
        "([0-9]+-)*[0-9]*[a-z][a-z0-9]*(-[a-z0-9]+)*"
    };
}

/// What looks like IPv4, also in IPv6.
macro_rules! ipv4 {
    () => {
        "^[0-9.]+(/[0-9]+)?$|^[0:]*:[fF]{4}:"
    };
}

/// What looks like IPv4 in IPv6.
const MAPPED: &str = "^[0:]*:[fF]{4}:";

/// An address or a network.
const NETWORK: Server = Formats(&["cidr", "ipv4", "ipv6"]);
/// These formats of `OpenAPI` take `010.0.0.1`.
const NO_ZERO_LEADS: Server = Never("(^|:)0[0-9]+[.]|[.]0[0-9]");
/// A network without host bits. What CEL can't read, such as IPv4 in IPv6, passes.
const MASKED: Server = Cel("!isCIDR(self) || cidr(self) == cidr(self).masked()");
/// `0000:0000:0000:0000:0000:ffff:255.255.255.255/128`.
const MAX_NET: usize = 49;

/// A DNS subdomain of any length.
const DNS_NAME: &str = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$";

/// One condition of a selector.
macro_rules! condition {
    () => {
        concat!(
            r"([!(][ \t]*)*(has\([ \t]*[A-Za-z0-9_./-]+[ \t]*\)|(all|global)\([ \t]*\)|[A-Za-z0-9_./-]+[ \t]*(",
            r#"(==|!=|contains|(starts|ends)[ \t]*with)[ \t]*('[^']*'|"[^"]*")|"#,
            r#"(in|not[ \t]*in)[ \t]*\{[ \t]*(('[^']*'|"[^"]*")[ \t]*(,[ \t]*('[^']*'|"[^"]*")[ \t]*)*(,[ \t]*)?)?\}"#,
            r"))[ \t]*(\)[ \t]*)*",
        )
    };
}

/// The words of selectors in an order that they can have; parentheses aren't counted.
const TOKENS: &str = concat!(r"^[ \t]*(", condition!(), r"((&&|\|\|)[ \t]*", condition!(), ")*)?$");

/// A rule over texts without a way out of its own.
macro_rules! text_format {
    ($($(#[$doc:meta])* $name:ident = $says:literal, $server:expr, $holds:expr;)*) => {
        $($(#[$doc])* pub(super) static $name: Format = Format {
            says: $says,
            server: $server,
            breach: |value| {
                let holds: fn(&str) -> bool = $holds;
                value.as_str().filter(|text| !holds(text)).map(|_| String::new())
            },
        };)*
    };
}

text_format! {
    /// Calico's "containerID".
    CONTAINER_ID = "made of letters, digits and -, with a letter or digit at both ends",
        &[],
        |text| is_delimited(text, is_alphanumeric, b"-");
    INTERFACE = "* or the name of an interface: 1 to 15 of A-Z a-z 0-9 _ . -",
        &[Pattern(r"^(\*|[A-Za-z0-9_.-]{1,15})$")],
        |text| text == "*" || is_word(text, 15, b"_.-");
    PORT_NAME = "the name of a port: at most 15 of a-z 0-9 -, with a letter, without - at an end or --",
        &[Pattern(concat!("^", port_name!(), "$")), MaxLength(15)],
        is_port_name;
    PORT_NAME_OR_NONE = "the name of a port: at most 15 of a-z 0-9 -, with a letter, without - at an end or --",
        &[],
        |text| text.is_empty() || is_port_name(text);
    IPV4 = "an IPv4 address", &[Formats(&["ipv4", "ipv6"]), NO_ZERO_LEADS, Pattern(ipv4!())], |text| ip(text).is_some_and(|ip| ip.is_ipv4());
    IPV6 = "an IPv6 address", &[Formats(&["ipv6"]), Never(MAPPED)], |text| ip(text).is_some_and(|ip| ip.is_ipv6());
    IP = "an IP address", &[Formats(&["ipv4", "ipv6"]), NO_ZERO_LEADS], |text| ip(text).is_some();
    IP_OR_NONE = "an IP address", &[Formats(&["ipv4", "ipv6"]), NO_ZERO_LEADS], |text| text.is_empty() || ip(text).is_some();
    /// Calico's "cidr". Nothing passes too.
    CIDR = "an address or a network such as 10.0.0.0/8",
        &[NETWORK, NO_ZERO_LEADS],
        |text| text.is_empty() || Cidr::parse_or_ip(text).is_some();
    CIDR_V4 = "an IPv4 address, with or without a mask such as /24",
        &[NETWORK, NO_ZERO_LEADS, Pattern(ipv4!())],
        |text| Cidr::parse_or_ip(text).is_some_and(|net| net.ip.is_ipv4());
    CIDR_V6 = "an IPv6 address, with or without a mask such as /64",
        &[NETWORK, Pattern(":"), Never(MAPPED)],
        |text| Cidr::parse_or_ip(text).is_some_and(|net| net.ip.is_ipv6());
    /// Go's `net.ParseMAC`.
    MAC = "a MAC address such as 00:11:22:33:44:55", &[Formats(&["mac"])], is_mac;
    WIREGUARD_KEY = "a WireGuard key: 32 bytes in base64",
        &[],
        |text| KEYS.decode(text).is_ok_and(|key| key.len() == 32);
    /// `OpenAPI`'s format "cidr".
    PREFIX = "a network such as 10.0.0.0/8", &[Formats(&["cidr"]), NO_ZERO_LEADS], |text| Cidr::parse(text).is_some();
}

/// Calico's "name": a DNS subdomain.
pub(super) static NAME: Format = Format {
    says: "a DNS name: a-z, 0-9, - and ., with a letter or digit at both ends of each part",
    server: &[Pattern(DNS_NAME)],
    breach: |value| named(value, is_dns_name),
};

pub(super) static DNS_LABEL: Format = Format {
    says: "at most 63 of a-z, 0-9 and -, with a letter or digit at both ends",
    server: &[Pattern("^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"), MaxLength(63)],
    breach: |value| named(value, |text| text.len() <= 63 && is_dns_label(text)),
};

/// Policy names (Calico: `networkPolicyNameRegex`): one dot at most, except for policies made
/// from Kubernetes' and `OpenStack`'s.
pub(super) static POLICY_NAME: Format = Format {
    says: "a DNS name with at most one dot",
    server: &[Pattern(r"^((knp|ossg)\.default\..+|[^.]+(\.[^.]+)?)$")],
    breach: |value| {
        named(value, |text| {
            let derived = ["knp.default.", "ossg.default."];
            let derived = derived.iter().find_map(|prefix| text.strip_prefix(prefix));
            derived.is_some_and(is_dns_name) || is_dns_name(text) && text.matches('.').count() < 2
        })
    },
};

pub(super) static GLOBAL_POLICY_NAME: Format = Format {
    says: "a DNS name with at most one dot",
    server: &[Pattern(r"^[^.]+(\.[^.]+)?$")],
    breach: |value| named(value, |text| is_dns_name(text) && text.matches('.').count() < 2),
};

pub(super) static SELECTOR: Format = Format {
    says: "a selector such as app == 'web' && has(tier)",
    server: &[Pattern(TOKENS)],
    breach: |value| Some(Selector::parse(value.as_str()?).err()?.to_string()),
};

/// An expression that Go's `regexp` compiles.
pub(super) static REGEX: Format = Format {
    says: "a regular expression",
    // A text that doesn't compile is an error of the rule.
    server: &[Cel("''.matches(self) ? true : true")],
    breach: |value| regex::check(value.as_str()?).err(),
};

/// Calico's "net": a network without host bits, or an address. Nothing passes too.
pub(super) static NET: Format = Format {
    says: "an address, or a network without host bits such as 10.0.0.0/8",
    server: &[NETWORK, NO_ZERO_LEADS, MASKED, MaxLength(MAX_NET)],
    breach: |value| net(value, |_| true),
};
/// The same without addresses: what rules take.
pub(super) static RULE_NET: Format = Format {
    says: "a network without host bits such as 10.0.0.0/8",
    server: &[Formats(&["cidr"]), NO_ZERO_LEADS, MASKED, MaxLength(MAX_NET)],
    breach: |value| {
        let text = value.as_str()?;
        match Cidr::parse(text) {
            Some(net) if net.is_masked() => None,
            Some(net) => Some(format!("without its host bits it is {}", net.text())),
            None => Some(match Cidr::parse_or_ip(text) {
                Some(net) => format!("write {}", net.text()),
                None => String::new(),
            }),
        }
    },
};
pub(super) static NET_V4: Format = Format {
    says: "an IPv4 address, or an IPv4 network without host bits such as 10.0.0.0/8",
    server: &[NETWORK, NO_ZERO_LEADS, MASKED, MaxLength(MAX_NET), Pattern(ipv4!())],
    breach: |value| net(value, |net| net.ip.is_ipv4()),
};
pub(super) static NET_V6: Format = Format {
    says: "an IPv6 address, or an IPv6 network without host bits such as fd00::/8",
    server: &[NETWORK, NO_ZERO_LEADS, MASKED, MaxLength(MAX_NET), Pattern(":"), Never(MAPPED)],
    breach: |value| net(value, |net| net.ip.is_ipv6()),
};

/// The way out where a text is no such network.
fn net(value: &Value, fits: fn(&Cidr) -> bool) -> Option<String> {
    let text = value.as_str().filter(|text| !text.is_empty())?;
    match Cidr::parse_or_ip(text) {
        Some(net) if !fits(&net) => Some(String::new()),
        Some(net) if net.is_masked() => None,
        Some(net) => Some(format!("without its host bits it is {}", net.text())),
        None => Some(String::new()),
    }
}

/// A port of a rule, as it is written after reading.
pub(super) static PORT: Format = Format {
    says: "a port from 1 to 65535, a range of them such as 80:90, or the name of a port",
    server: &[
        Range(1, 65535),
        MaxLength(15),
        Pattern(concat!("^(", number16!(), "(:", number16!(), ")?|", port_name!(), ")$")),
        Cel(
            "type(self) == int || !self.contains(':') || int(self.split(':')[0]) <= int(self.split(':')[1])",
        ),
    ],
    breach: |value| match value {
        Value::Number(number) => (number.as_u64() == Some(0)).then(String::new),
        Value::String(text) => {
            let holds = match text.split_once(':') {
                Some((from, _)) => from != "0",
                None => is_port_name(text),
            };
            (!holds).then(|| {
                "names have at most 15 of a-z 0-9 -, with a letter, without - at an end or --"
                    .to_owned()
            })
        }
        _ => None,
    },
};

pub(super) static PROTOCOL: Format = Format {
    says: "TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite or a number from 1 to 255",
    server: &[
        Range(1, 255),
        Pattern(
            "^(TCP|UDP|ICMP|ICMPv6|SCTP|UDPLite|0*([1-9][0-9]?|1[0-9]{2}|2[0-4][0-9]|25[0-5]))$",
        ),
    ],
    breach: |value| match value {
        Value::Number(number) => (number.as_u64() == Some(0)).then(String::new),
        Value::String(text) if PROTOCOLS.iter().all(|(name, _)| name != text) => {
            let alike = PROTOCOLS.iter().find(|(name, _)| name.eq_ignore_ascii_case(text));
            Some(alike.map(|(name, _)| format!("did you mean {name}?")).unwrap_or_default())
        }
        _ => None,
    },
};

/// Kubernetes' rules for labels.
pub(super) static LABELS: Format = Format {
    says: "labels: keys such as app or example.com/app, values of at most 63 of A-Z a-z 0-9 - _ . with a letter or digit at both ends",
    server: &[],
    breach: |value| {
        value.as_object()?.iter().find_map(|(key, value)| {
            if !is_qualified_name(key) {
                return Some(format!("the key {key:?} is wrong"));
            }
            let value = value.as_str()?;
            (!is_label_value(value)).then(|| format!("the value {value:?} of {key} is wrong"))
        })
    },
};

/// The most bytes that the keys and values of annotations may have together.
const MAX_ANNOTATIONS: usize = 256 << 10;

pub(super) static ANNOTATIONS: Format = Format {
    says: "annotations: keys such as example.com/purpose, and at most 262144 bytes in all",
    server: &[],
    breach: |value| {
        let annotations = value.as_object()?;
        let wrong = annotations.keys().find(|key| !is_qualified_name(&key.to_lowercase()));
        if let Some(key) = wrong {
            return Some(format!("the key {key:?} is wrong"));
        }
        let values = annotations.values().filter_map(Value::as_str).map(str::len);
        let size = annotations.keys().map(String::len).sum::<usize>() + values.sum::<usize>();
        (size > MAX_ANNOTATIONS).then(|| format!("they have {size} bytes"))
    },
};

/// Lower case as the way out, where that helps.
fn named(value: &Value, holds: impl Fn(&str) -> bool) -> Option<String> {
    let text = value.as_str()?;
    if holds(text) {
        return None;
    }
    let tamed = text.to_lowercase().replace(['_', ' '], "-");
    Some(if tamed != text && holds(&tamed) {
        format!("for example {tamed}")
    } else {
        String::new()
    })
}

/// Bytes that are alphanumeric, or one of `more`, up to `max` of them, at least one.
pub(super) fn is_word(text: &str, max: usize, more: &[u8]) -> bool {
    (1..=max).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || more.contains(&byte))
}

/// Bytes of `core`, with those of `more` only between them.
fn is_delimited(text: &str, core: fn(u8) -> bool, more: &[u8]) -> bool {
    let bytes = text.as_bytes();
    bytes.iter().all(|byte| core(*byte) || more.contains(byte))
        && bytes.first().is_some_and(|byte| core(*byte))
        && bytes.last().is_some_and(|byte| core(*byte))
}

fn is_alphanumeric(byte: u8) -> bool {
    byte.is_ascii_alphanumeric()
}

fn is_lower(byte: u8) -> bool {
    byte.is_ascii_lowercase() || byte.is_ascii_digit()
}

/// A part of a DNS name, of any length.
pub(super) fn is_dns_label(text: &str) -> bool {
    is_delimited(text, is_lower, b"-")
}

/// A DNS subdomain of any length.
pub(super) fn is_dns_name(text: &str) -> bool {
    text.split('.').all(is_dns_label)
}

/// The name of a label, with or without a prefix.
pub(crate) fn is_qualified_name(text: &str) -> bool {
    let (prefix, name) = match text.split_once('/') {
        Some((prefix, name)) => (Some(prefix), name),
        None => (None, text),
    };
    prefix.is_none_or(|prefix| prefix.len() <= 253 && is_dns_name(prefix))
        && name.len() <= 63
        && is_delimited(name, is_alphanumeric, b"-_.")
}

/// The value of a label.
pub(crate) fn is_label_value(text: &str) -> bool {
    text.is_empty() || text.len() <= 63 && is_delimited(text, is_alphanumeric, b"-_.")
}

/// A container's port.
pub(crate) fn is_port_name(text: &str) -> bool {
    text.len() <= 15
        && is_dns_label(text)
        && !text.contains("--")
        && text.bytes().any(|byte| byte.is_ascii_lowercase())
}

/// Six, eight or twenty bytes: digits alone, pairs with `:` or `-`, or groups of four with `.`.
fn is_mac(text: &str) -> bool {
    let Some(separator) = text.chars().find(|char| !char.is_ascii_hexdigit()) else {
        return [12, 16, 40].contains(&text.len());
    };
    let width = match separator {
        ':' | '-' => 2,
        '.' => 4,
        _ => return false,
    };
    let groups: Vec<&str> = text.split(separator).collect();
    let is_hex =
        |group: &&str| group.len() == width && group.bytes().all(|byte| byte.is_ascii_hexdigit());
    groups.iter().all(is_hex) && [6, 8, 20].contains(&(groups.len() * width / 2))
}

/// The version of IP that an address is of.
pub(super) fn version(ip: IpAddr) -> i64 {
    if ip.is_ipv4() { 4 } else { 6 }
}
