//! What `FelixConfiguration` asks for, merged: built-in defaults, `default`, then the node's own.

use std::{collections::BTreeMap, time::Duration};

use arcstr::ArcStr;
use model::view::{PortRange, Topic};
use serde_json::Value;

use crate::{Failure, view::NodeView};

/// Mark bits that kube-proxy uses: never ours.
const KUBE_PROXY_MARKS: u32 = 0xc000;
/// The mark bits that we need: accept and pass.
const MARK_BITS: u32 = 2;

/// What becomes of a packet that policy denies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Deny {
    Drop,
    Reject,
}

/// The mark bits by which chains tell their callers what they found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Marks {
    pub(crate) accept: u32,
    pub(crate) pass: u32,
}

impl Marks {
    pub(crate) fn both(self) -> u32 {
        self.accept | self.pass
    }
}

/// The merged configuration. Field names follow `FelixConfiguration`'s.
#[allow(clippy::struct_excessive_bools, reason = "they are independent switches of the user's")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) interface_prefixes: Vec<ArcStr>,
    pub(crate) vxlan_port: u16,
    pub(crate) vxlan_vni: u32,
    /// 0: from the parent device.
    pub(crate) vxlan_mtu: u32,
    pub(crate) vxlan_mtu_v6: u32,
    pub(crate) ipip_mtu: u32,
    /// Whether packets from workloads to their own host go on, once policy let them out.
    pub(crate) endpoint_to_host: bool,
    pub(crate) marks: Marks,
    pub(crate) deny: Deny,
    pub(crate) log_prefix: ArcStr,
    pub(crate) nat_ports: Option<PortRange>,
    /// Whether traffic to other nodes keeps its source too.
    pub(crate) nat_exclude_hosts: bool,
    pub(crate) allow_vxlan_from_workloads: bool,
    pub(crate) allow_ipip_from_workloads: bool,
    /// How often routes and devices are checked whole; none: never.
    pub(crate) route_refresh: Option<Duration>,
    /// How often the nftables table is checked whole; none: never.
    pub(crate) nftables_refresh: Option<Duration>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            interface_prefixes: vec!["cali".into()],
            vxlan_port: 4789,
            vxlan_vni: 4096,
            vxlan_mtu: 0,
            vxlan_mtu_v6: 0,
            ipip_mtu: 0,
            endpoint_to_host: false,
            marks: Marks { accept: 0x1_0000, pass: 0x2_0000 },
            deny: Deny::Drop,
            log_prefix: "calico-packet: ".into(),
            nat_ports: None,
            nat_exclude_hosts: false,
            allow_vxlan_from_workloads: false,
            allow_ipip_from_workloads: false,
            route_refresh: Some(Duration::from_secs(90)),
            nftables_refresh: Some(Duration::from_mins(3)),
        }
    }
}

impl Config {
    /// Merges the view's configuration. A field that can't be used keeps its default, and is named.
    pub(crate) fn read(view: &NodeView) -> (Self, Vec<Failure>) {
        let mut failures = Vec::new();
        let mut fields: BTreeMap<String, (Value, &ArcStr)> = BTreeMap::new();
        let global: ArcStr = "FelixConfiguration/default".into();
        let sources = view.config.get_key_value(&global).into_iter().chain(&view.overrides);
        for (key, entry) in sources {
            match serde_json::from_str::<BTreeMap<String, Value>>(&entry.spec_json) {
                Ok(spec) => fields.extend(spec.into_iter().map(|(k, v)| (k, (v, key)))),
                Err(error) => failures.push(Failure {
                    topic: Topic::Config,
                    key: key.clone(),
                    reason: format!("the spec is no JSON object ({error}); it is left out"),
                }),
            }
        }
        let mut reader = Reader { fields, failures };
        let mut config = Self::default();
        reader.interface_prefixes("interfacePrefix", &mut config.interface_prefixes);
        reader.number("vxlanPort", 1..=65535, &mut config.vxlan_port);
        reader.number("vxlanVNI", 1..=0xff_ffff, &mut config.vxlan_vni);
        reader.number("vxlanMTU", 0..=65535, &mut config.vxlan_mtu);
        reader.number("vxlanMTUV6", 0..=65535, &mut config.vxlan_mtu_v6);
        reader.number("ipipMTU", 0..=65535, &mut config.ipip_mtu);
        let choices = [("Drop", false), ("Accept", true), ("Return", true)];
        reader.choice("defaultEndpointToHostAction", &choices, &mut config.endpoint_to_host);
        let choices = [("Drop", Deny::Drop), ("Reject", Deny::Reject)];
        reader.choice("iptablesFilterDenyAction", &choices, &mut config.deny);
        reader.choice("nftablesFilterDenyAction", &choices, &mut config.deny);
        reader.marks("iptablesMarkMask", &mut config.marks);
        reader.marks("nftablesMarkMask", &mut config.marks);
        reader.log_prefix("logPrefix", &mut config.log_prefix);
        reader.port_range("natPortRange", &mut config.nat_ports);
        let choices = [("IPPoolsOnly", false), ("IPPoolsAndHostIPs", true)];
        reader.choice("natOutgoingExclusions", &choices, &mut config.nat_exclude_hosts);
        reader.flag("allowVXLANPacketsFromWorkloads", &mut config.allow_vxlan_from_workloads);
        reader.flag("allowIPIPPacketsFromWorkloads", &mut config.allow_ipip_from_workloads);
        reader.duration("routeRefreshInterval", &mut config.route_refresh);
        reader.duration("iptablesRefreshInterval", &mut config.nftables_refresh);
        reader.duration("nftablesRefreshInterval", &mut config.nftables_refresh);
        (config, reader.failures)
    }
}

struct Reader<'a> {
    fields: BTreeMap<String, (Value, &'a ArcStr)>,
    failures: Vec<Failure>,
}

impl Reader<'_> {
    /// Reads a field into its place, or says why not.
    fn read<T>(
        &mut self,
        field: &str,
        expected: &str,
        parse: impl Fn(&Value) -> Option<T>,
        into: &mut T,
    ) {
        let Some((value, key)) = self.fields.get(field).filter(|(value, _)| !value.is_null())
        else {
            return;
        };
        match parse(value) {
            Some(value) => *into = value,
            None => self.failures.push(Failure {
                topic: Topic::Config,
                key: ArcStr::clone(key),
                reason: format!("{field}: {value}: expected {expected}; the field is left out"),
            }),
        }
    }

    fn number<T: TryFrom<u64>>(
        &mut self,
        field: &str,
        range: std::ops::RangeInclusive<u64>,
        into: &mut T,
    ) {
        let expected = format!("a number from {} to {}", range.start(), range.end());
        let parse = |value: &Value| value.as_u64().filter(|n| range.contains(n))?.try_into().ok();
        self.read(field, &expected, parse, into);
    }

    fn choice<T: Copy>(&mut self, field: &str, choices: &[(&str, T)], into: &mut T) {
        let names: Vec<&str> = choices.iter().map(|(name, _)| *name).collect();
        let parse = |value: &Value| {
            let text = value.as_str()?;
            choices.iter().find(|(name, _)| name.eq_ignore_ascii_case(text)).map(|(_, v)| *v)
        };
        self.read(field, &format!("one of {}", names.join(", ")), parse, into);
    }

    fn flag(&mut self, field: &str, into: &mut bool) {
        self.read(field, "true or false", Value::as_bool, into);
    }

    fn interface_prefixes(&mut self, field: &str, into: &mut Vec<ArcStr>) {
        let parse = |value: &Value| {
            let prefixes: Vec<ArcStr> = value.as_str()?.split(',').map(ArcStr::from).collect();
            prefixes.iter().all(|prefix| is_interface_name(prefix)).then_some(prefixes)
        };
        self.read(field, "prefixes of interface names such as cali,tap", parse, into);
    }

    fn marks(&mut self, field: &str, into: &mut Marks) {
        let expected = format!(
            "a mask with at least {MARK_BITS} bits beside kube-proxy's {KUBE_PROXY_MARKS:#x}"
        );
        let parse = |value: &Value| {
            let mask = u32::try_from(value.as_u64()?).ok()? & !KUBE_PROXY_MARKS;
            let mut bits = (0..u32::BITS).map(|n| 1 << n).filter(|bit| mask & bit != 0);
            Some(Marks { accept: bits.next()?, pass: bits.next()? })
        };
        self.read(field, &expected, parse, into);
    }

    fn log_prefix(&mut self, field: &str, into: &mut ArcStr) {
        let parse = |value: &Value| {
            // The kernel takes 127 bytes, and nft has no escape for a quote.
            let text = value.as_str()?;
            let fits = text.len() <= 120
                && text.chars().all(|c| (c.is_ascii_graphic() && c != '"') || c == ' ');
            fits.then(|| ArcStr::from(format!("{text}: ")))
        };
        self.read(field, "up to 120 printable ASCII characters, no quote", parse, into);
    }

    fn port_range(&mut self, field: &str, into: &mut Option<PortRange>) {
        let parse = |value: &Value| {
            let text = match value {
                Value::String(text) => text.clone(),
                other => other.as_u64()?.to_string(),
            };
            let (first, last) = text.split_once(':').unwrap_or((&text, &text));
            let range = PortRange { first: first.parse().ok()?, last: last.parse().ok()? };
            (0 < range.first && range.first <= range.last).then_some(Some(range))
        };
        self.read(field, "ports such as 32768:65535", parse, into);
    }

    fn duration(&mut self, field: &str, into: &mut Option<Duration>) {
        let parse = |value: &Value| {
            let duration = go_duration(value.as_str()?)?;
            Some((!duration.is_zero()).then_some(duration))
        };
        self.read(field, "a duration such as 90s or 1m30s, 0s for never", parse, into);
    }
}

/// Whether the kernel and nft take this as an interface's name or the beginning of one.
pub(crate) fn is_interface_name(text: &str) -> bool {
    (1..=15).contains(&text.len())
        && text != "."
        && text != ".."
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"_-.".contains(&b))
}

/// Reads Go's form of a duration: numbers with units, the largest first.
fn go_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text;
    let mut sum = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit_len = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        sum += number
            * match &rest[..unit_len] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                "us" | "µs" => 1e-6,
                "ns" => 1e-9,
                _ => return None,
            };
        rest = &rest[unit_len..];
    }
    if text.is_empty() { None } else { Duration::try_from_secs_f64(sum).ok() }
}
