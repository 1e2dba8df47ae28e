//! Policies, profiles, tiers and their rules.
//!
//! A condition that can't be read isn't forgotten: the rule says so, because without it an Allow
//! would match more than was written. What follows from it is the business of the engine.

use arcstr::ArcStr;
use ipnet::IpNet;
use serde_json::Value;

use super::{
    Invalid, Labels, net,
    read::{Fields, Path},
};
pub use crate::view::Icmp;
use crate::view::{Action, PortRange, Protocol};

/// To an endpoint, or from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// Packets to the endpoint.
    Ingress,
    /// Packets from the endpoint.
    Egress,
}

/// `NetworkPolicy` and `GlobalNetworkPolicy`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "they are fields of the object")]
pub struct Policy {
    /// The default is `default`.
    pub tier: ArcStr,
    /// Position in the tier; none: last.
    pub order: Option<Order>,
    /// Which endpoints; empty: all (of its namespace).
    pub selector: ArcStr,
    /// Only endpoints in namespaces with such labels; empty: no such condition.
    pub namespace_selector: ArcStr,
    /// Only endpoints of service accounts with such labels; empty: no such condition.
    pub service_account_selector: ArcStr,
    /// It acts on packets to the endpoints.
    pub acts_on_ingress: bool,
    /// It acts on packets from the endpoints.
    pub acts_on_egress: bool,
    /// Only on host endpoints, before connection tracking.
    pub do_not_track: bool,
    /// Only on host endpoints, before destination NAT.
    pub pre_dnat: bool,
    /// On host endpoints also for forwarded packets.
    pub apply_on_forward: bool,
    /// For packets to the endpoints, first one first.
    pub ingress: Vec<Rule>,
    /// For packets from the endpoints, first one first.
    pub egress: Vec<Rule>,
    /// What a staged policy would do to the policy of its name; none: it isn't a staged one.
    pub staged: Option<StagedAction>,
}

/// What becomes of a policy when its staged version is enforced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum StagedAction {
    /// It is made, or replaced. Also what stands for any action but the other.
    #[default]
    Set,
    /// It goes.
    Delete,
}

/// A position: any finite number, compared as such.
#[derive(Clone, Copy, Debug)]
pub struct Order(pub f64);

impl PartialEq for Order {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Order {}

impl PartialOrd for Order {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Order {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        // Adding zero makes -0 equal to 0.
        (self.0 + 0.0).total_cmp(&(other.0 + 0.0))
    }
}

impl Policy {
    /// `global`: its kind has no namespace. Only such a policy has flags: in one of a namespace they
    /// are fields that nobody knows, and it acts on its pods all the same.
    pub(super) fn read(
        spec: Fields<'_>,
        global: bool,
        faults: &mut Vec<Invalid>,
    ) -> Result<Self, Invalid> {
        let mut flag = |name| global && or_fault(spec.flag(name), faults).unwrap_or(false);
        let do_not_track = flag("doNotTrack");
        let pre_dnat = flag("preDNAT");
        let apply_on_forward = flag("applyOnForward");
        let (acts_on_ingress, acts_on_egress) = read_types(spec, faults);
        let tier = spec.shared("tier")?;
        Ok(Self {
            tier: if tier.is_empty() { arcstr::literal!("default") } else { tier },
            // Its place is unknown, not its rules: it goes to the end, where its tier still denies.
            order: or_fault(spec.float("order"), faults).map(Order),
            selector: spec.shared("selector")?,
            namespace_selector: spec.shared("namespaceSelector")?,
            service_account_selector: spec.shared("serviceAccountSelector")?,
            acts_on_ingress,
            acts_on_egress,
            do_not_track,
            pre_dnat,
            apply_on_forward,
            ingress: Rule::read_all(spec, "ingress"),
            egress: Rule::read_all(spec, "egress"),
            staged: None,
        })
    }

    /// `StagedNetworkPolicy` and `StagedGlobalNetworkPolicy`: a policy and what becomes of it.
    pub(super) fn read_staged(
        spec: Fields<'_>,
        global: bool,
        faults: &mut Vec<Invalid>,
    ) -> Result<Self, Invalid> {
        let action = match or_fault(spec.str("stagedAction"), faults) {
            "Delete" => StagedAction::Delete,
            _ => StagedAction::Set,
        };
        Ok(Self { staged: Some(action), ..Self::read(spec, global, faults)? })
    }
}

fn or_fault<T: Default>(result: Result<T, Invalid>, faults: &mut Vec<Invalid>) -> T {
    result.unwrap_or_else(|fault| {
        faults.push(fault);
        T::default()
    })
}

/// Without types a policy acts in both directions; a type that isn't one adds none.
fn read_types(spec: Fields<'_>, faults: &mut Vec<Invalid>) -> (bool, bool) {
    let path = spec.path("types");
    let types = or_fault(spec.list("types"), faults);
    if types.is_empty() {
        return (true, true);
    }
    let (mut ingress, mut egress) = (false, false);
    for (index, value) in types.iter().enumerate() {
        match value.as_str() {
            Some(text) if text.eq_ignore_ascii_case("ingress") => ingress = true,
            Some(text) if text.eq_ignore_ascii_case("egress") => egress = true,
            _ => faults.push(path.index(index).invalid(value, "must be Ingress or Egress")),
        }
    }
    (ingress, egress)
}

/// One rule, with what of it could be read.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Rule {
    /// An action that isn't one is [`Action::Deny`].
    pub action: Action,
    /// 4 or 6; none: both. A protocol that belongs to one version implies it.
    pub ip_version: Option<u8>,
    /// Of this protocol.
    pub protocol: Option<Protocol>,
    /// Not of this protocol.
    pub not_protocol: Option<Protocol>,
    /// Of this ICMP type.
    pub icmp: Option<Icmp>,
    /// Not of this ICMP type.
    pub not_icmp: Option<Icmp>,
    /// Conditions on where the packet comes from.
    pub source: Conditions,
    /// Conditions on where the packet goes.
    pub destination: Conditions,
    /// Conditions that were written and can't be kept; the rule above is without them. Single
    /// entries of lists are not here but in their [`Entries`].
    pub unknown: Vec<Invalid>,
    /// An action that isn't one.
    pub bad_action: Option<Invalid>,
}

/// The conditions on one side of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Conditions {
    /// In one of these; host bits cleared.
    pub nets: Entries<IpNet>,
    /// In none of these; host bits cleared.
    pub not_nets: Entries<IpNet>,
    /// Empty: no such condition.
    pub selector: ArcStr,
    /// Empty: no such condition.
    pub not_selector: ArcStr,
    /// On labels of the namespace; empty: no such condition.
    pub namespace_selector: ArcStr,
    /// None: no such condition.
    pub service_accounts: Option<ServiceAccounts>,
    /// None: no such condition.
    pub service: Option<ServiceRef>,
    /// One of these.
    pub ports: Entries<PortMatch>,
    /// None of these.
    pub not_ports: Entries<PortMatch>,
}

impl Conditions {
    /// There is none.
    pub fn is_absent(&self) -> bool {
        let Self { nets, not_nets, ports, not_ports, .. } = self;
        let Self { selector, not_selector, namespace_selector, service_accounts, service, .. } =
            self;
        nets.is_absent()
            && not_nets.is_absent()
            && ports.is_absent()
            && not_ports.is_absent()
            && [selector, not_selector, namespace_selector].iter().all(|text| text.is_empty())
            && service_accounts.is_none()
            && service.is_none()
    }
}

/// The entries of a list, and those that can't be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entries<T> {
    /// In the order of the list.
    pub items: Vec<T>,
    /// The others.
    pub bad: Vec<Invalid>,
}

impl<T> Default for Entries<T> {
    fn default() -> Self {
        Self { items: Vec::new(), bad: Vec::new() }
    }
}

impl<T> Entries<T> {
    /// Nothing was written: there is no such condition.
    pub fn is_absent(&self) -> bool {
        self.items.is_empty() && self.bad.is_empty()
    }
}

/// Which service accounts: one of these names, if there are any, and such labels.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ServiceAccounts {
    /// Empty: every name.
    pub names: Vec<ArcStr>,
    /// On labels of the service account; empty: all.
    pub selector: ArcStr,
}

/// A Kubernetes service.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct ServiceRef {
    /// Empty: the policy's own.
    pub namespace: ArcStr,
    /// Its name.
    pub name: ArcStr,
}

/// A port, a range, or the name of a port of the endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PortMatch {
    /// A number is a range of one.
    Range(PortRange),
    /// What endpoints call it.
    Named(ArcStr),
}

impl PortMatch {
    /// Reads `80`, `80:90` and `http`.
    pub fn parse(text: &str) -> Option<Self> {
        let number = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
            digits.then(|| text.parse::<u16>().ok())
        };
        if let Some(port) = number(text) {
            return port.map(|port| Self::Range(PortRange { first: port, last: port }));
        }
        if let Some((first, last)) = text.split_once(':') {
            let (first, last) = (number(first)??, number(last)??);
            return (first <= last).then_some(Self::Range(PortRange { first, last }));
        }
        let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
        let name = (1..=128).contains(&text.len()) && text.bytes().all(legal);
        name.then(|| Self::Named(text.into()))
    }

    fn read(value: &Value) -> Option<Self> {
        match value {
            Value::String(text) => Self::parse(text),
            Value::Number(number) => {
                let port = u16::try_from(number.as_u64()?).ok()?;
                Some(Self::Range(PortRange { first: port, last: port }))
            }
            _ => None,
        }
    }
}

/// The protocols that have a name in rules, as Calico spells it.
pub const PROTOCOLS: [(&str, Protocol); 6] = [
    ("TCP", Protocol(6)),
    ("UDP", Protocol(17)),
    ("ICMP", Protocol(1)),
    ("ICMPv6", Protocol(58)),
    ("SCTP", Protocol(132)),
    ("UDPLite", Protocol(136)),
];

/// A protocol in small letters, if it has a name in rules; else its number.
pub fn protocol_text(protocol: Protocol) -> String {
    let named = PROTOCOLS.iter().find(|(_, known)| *known == protocol);
    named.map_or_else(|| protocol.0.to_string(), |(name, _)| name.to_ascii_lowercase())
}

/// The number of a protocol that has a name in rules, in any case.
pub(super) fn named_protocol(name: &str) -> Option<Protocol> {
    let is_it = |(known, _): &&(&str, Protocol)| name.eq_ignore_ascii_case(known);
    PROTOCOLS.iter().find(is_it).map(|(_, protocol)| *protocol)
}

/// Reads a protocol as rules have it: a name in any case, or a number from 1 to 255.
pub fn parse_protocol(text: &str) -> Option<Protocol> {
    named_protocol(text).or_else(|| numbered_protocol(text.parse().ok()?))
}

fn numbered_protocol(number: u64) -> Option<Protocol> {
    u8::try_from(number).ok().filter(|number| *number > 0).map(Protocol)
}

/// TCP, UDP and SCTP: the protocols whose ports rules can match.
pub fn has_ports(protocol: Protocol) -> bool {
    matches!(protocol.0, 6 | 17 | 132)
}

impl Rule {
    /// The rules in a list. A list that can't be read is one rule that can't be read.
    fn read_all(spec: Fields<'_>, name: &str) -> Vec<Self> {
        let path = spec.path(name);
        match spec.get(name) {
            None => Vec::new(),
            Some(Value::Array(rules)) => {
                rules.iter().enumerate().map(|(i, v)| Self::read(&path.index(i), v)).collect()
            }
            Some(other) => {
                let bad_action = Some(path.invalid(other, "must be a list of rules"));
                vec![Self { bad_action, ..Self::default() }]
            }
        }
    }

    fn read(path: &Path<'_>, value: &Value) -> Self {
        let mut rule = Self::default();
        let fields = match Fields::of(path, Some(value)) {
            Ok(fields) => fields,
            Err(fault) => return Self { bad_action: Some(fault), ..rule },
        };
        match read_action(fields) {
            Ok(action) => rule.action = action,
            Err(fault) => rule.bad_action = Some(fault),
        }
        let mut unknown = Vec::new();
        let mut note = Note { unknown: &mut unknown };
        rule.ip_version = note.keep(fields.int("ipVersion", 4u8, 6)).and_then(|version| {
            if version == 5 {
                let five = Value::from(5);
                note.unknown.push(fields.path("ipVersion").invalid(&five, "must be 4 or 6"));
                return None;
            }
            Some(version)
        });
        rule.protocol = note.keep(read_protocol(fields, "protocol"));
        rule.not_protocol = note.keep(read_protocol(fields, "notProtocol"));
        if rule.ip_version.is_none()
            && let Some(Value::String(name)) = fields.get("protocol")
        {
            rule.ip_version = match name.to_ascii_lowercase().as_str() {
                "icmp" => Some(4),
                "icmpv6" => Some(6),
                _ => None,
            };
        }
        rule.icmp = note.keep(read_icmp(fields, "icmp"));
        rule.not_icmp = note.keep(read_icmp(fields, "notICMP"));
        if let Some(http) = fields.get("http") {
            let reason = "not supported: nothing enforces conditions on HTTP";
            note.unknown.push(fields.path("http").invalid(http, reason));
        }
        rule.source = note.conditions(fields, "source");
        rule.destination = note.conditions(fields, "destination");
        rule.unknown = unknown;
        rule
    }
}

/// `Pass` only in this spelling, the others in any case: that is what Calico's dataplane acts on.
fn read_action(fields: Fields<'_>) -> Result<Action, Invalid> {
    let rule = "must be Allow, Deny, Log or Pass: counted as Deny";
    let text = fields.str("action")?;
    Ok(match text.to_ascii_lowercase().as_str() {
        "allow" => Action::Allow,
        "deny" => Action::Deny,
        "log" => Action::Log,
        "pass" if text == "Pass" => Action::Pass,
        _ => return Err(fields.path("action").invalid(&Value::from(text), rule)),
    })
}

fn read_protocol<'a>(fields: Fields<'a>, name: &'a str) -> Result<Option<Protocol>, Invalid> {
    let Some(value) = fields.get(name) else { return Ok(None) };
    let protocol = match value {
        Value::Number(number) => number.as_u64().and_then(numbered_protocol),
        Value::String(text) => parse_protocol(text),
        _ => None,
    };
    let rule =
        "must be a protocol's number from 1 to 255, or TCP, UDP, ICMP, ICMPv6, SCTP, UDPLite";
    protocol.map(Some).ok_or_else(|| fields.path(name).invalid(value, rule))
}

fn read_icmp<'a>(fields: Fields<'a>, name: &'a str) -> Result<Option<Icmp>, Invalid> {
    let path = fields.path(name);
    let icmp = fields.child(&path)?;
    if icmp.is_empty() {
        return Ok(None);
    }
    match (icmp.int("type", 0, u8::MAX)?, icmp.int("code", 0, u8::MAX)?) {
        (Some(kind), code) => Ok(Some(Icmp { kind, code })),
        (None, None) => Ok(None),
        (None, Some(_)) => Err(path.missing("must have a type beside the code")),
    }
}

/// Collects the conditions that can't be kept.
struct Note<'n> {
    unknown: &'n mut Vec<Invalid>,
}

impl Note<'_> {
    fn keep<T: Default>(&mut self, result: Result<T, Invalid>) -> T {
        result.unwrap_or_else(|fault| {
            self.unknown.push(fault);
            T::default()
        })
    }

    fn conditions<'a>(&mut self, rule: Fields<'a>, name: &'a str) -> Conditions {
        let path = rule.path(name);
        let side = match rule.child(&path) {
            Ok(side) => side,
            Err(fault) => {
                self.unknown.push(fault);
                return Conditions::default();
            }
        };
        if side.is_empty() {
            return Conditions::default();
        }
        let accounts_path = side.path("serviceAccounts");
        let service_accounts = side.child(&accounts_path).and_then(|accounts| {
            Ok(ServiceAccounts {
                names: accounts.texts("names")?,
                selector: accounts.text("selector")?,
            })
        });
        let service_path = side.path("services");
        let service = side.child(&service_path).and_then(|service| {
            let found =
                ServiceRef { namespace: service.text("namespace")?, name: service.text("name")? };
            if side.has("services") && found.name.is_empty() {
                return Err(service_path.missing("must have the name of a service"));
            }
            Ok(found)
        });
        let net = |value: &Value| Some(net::parse_net(value.as_str()?)?.trunc());
        let net_rule = "must be a CIDR such as 10.0.0.0/8";
        let port_rule = "must be a port from 0 to 65535, a range such as 80:90, or a port's name";
        Conditions {
            nets: self.entries(side, "nets", net_rule, net),
            not_nets: self.entries(side, "notNets", net_rule, net),
            selector: self.keep(side.shared("selector")),
            not_selector: self.keep(side.shared("notSelector")),
            namespace_selector: self.keep(side.shared("namespaceSelector")),
            service_accounts: Some(self.keep(service_accounts))
                .filter(|accounts| *accounts != ServiceAccounts::default()),
            service: Some(self.keep(service)).filter(|service| *service != ServiceRef::default()),
            ports: self.entries(side, "ports", port_rule, PortMatch::read),
            not_ports: self.entries(side, "notPorts", port_rule, PortMatch::read),
        }
    }

    fn entries<'a, T>(
        &mut self,
        side: Fields<'a>,
        name: &'a str,
        rule: &str,
        read: impl Fn(&Value) -> Option<T>,
    ) -> Entries<T> {
        let path = side.path(name);
        let mut entries = Entries::default();
        for (index, value) in self.keep(side.list(name)).iter().enumerate() {
            match read(value) {
                Some(item) => entries.items.push(item),
                None => entries.bad.push(path.index(index).invalid(value, rule)),
            }
        }
        entries
    }
}

/// `Profile`: rules that decide where no tier applies, and labels for its endpoints.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Profile {
    /// For packets to the endpoint.
    pub ingress: Vec<Rule>,
    /// For packets from the endpoint.
    pub egress: Vec<Rule>,
    /// Labels that its endpoints inherit, sorted.
    pub labels_to_apply: Labels,
}

impl Profile {
    /// One label that is none costs all of them, as in Calico; the rules stay.
    pub(super) fn read(spec: Fields<'_>, faults: &mut Vec<Invalid>) -> Self {
        let mut labels_to_apply = or_fault(spec.labels("labelsToApply"), faults);
        let bad = labels_to_apply.iter().find(|(k, v)| !(is_label_key(k) && is_label_value(v)));
        if let Some((key, value)) = bad {
            let text = Value::from(format!("{key}={value}"));
            let rule = "must be a label as in Kubernetes: the profile's labels are left out";
            faults.push(spec.path("labelsToApply").invalid(&text, rule));
            labels_to_apply.clear();
        }
        Self {
            ingress: Rule::read_all(spec, "ingress"),
            egress: Rule::read_all(spec, "egress"),
            labels_to_apply,
        }
    }
}

/// Up to 63 letters, digits, dashes, underscores and dots, with a letter or digit at each end.
fn is_label_part(text: &str) -> bool {
    let end = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    text.len() <= 63
        && end(text.as_bytes().first())
        && end(text.as_bytes().last())
        && text.bytes().all(inner)
}

/// As in Kubernetes: a name, with a DNS subdomain and a slash in front if any.
fn is_label_key(key: &str) -> bool {
    match key.split_once('/') {
        None => is_label_part(key),
        Some((domain, name)) => {
            let label = |part: &str| {
                is_label_part(part) && part.bytes().all(|b| !b.is_ascii_uppercase() && b != b'_')
            };
            is_label_part(name) && domain.len() <= 253 && domain.split('.').all(label)
        }
    }
}

fn is_label_value(value: &str) -> bool {
    value.is_empty() || is_label_part(value)
}

/// `Tier`.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Tier {
    /// Position among the tiers; none: last.
    pub order: Option<Order>,
    /// `Pass`, and only in this spelling; everything else is Deny.
    pub default_pass: bool,
}

impl Tier {
    pub(super) fn read(spec: Fields<'_>) -> Result<Self, Invalid> {
        Ok(Self {
            order: spec.float("order")?.map(Order),
            default_pass: spec.str("defaultAction")? == "Pass",
        })
    }
}
