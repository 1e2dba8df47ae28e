//! The columns of tables, kind by kind, with calicoctl's headings (Calico: `resourcemgr`).

use std::fmt::Write as _;

use model::Kind;
use serde_json::Value;

/// How long a list in a cell may be.
const LONGEST_LIST: usize = 80;
/// The AS number of a cluster that configures none.
pub(crate) const DEFAULT_AS_NUMBER: u32 = 64512;

/// The columns of a kind.
pub(crate) struct Columns {
    /// Those of the plain table.
    pub(crate) plain: &'static [&'static str],
    /// Those of `-o wide`.
    pub(crate) wide: &'static [&'static str],
    /// Those that only `-o custom-columns` shows.
    more: &'static [&'static str],
}

impl Columns {
    const fn new(
        plain: &'static [&'static str],
        wide: &'static [&'static str],
        more: &'static [&'static str],
    ) -> Self {
        Self { plain, wide, more }
    }

    /// Every heading of the kind, sorted.
    pub(crate) fn all(&self, kind: Kind) -> Vec<&'static str> {
        let namespace = kind.is_namespaced().then_some("NAMESPACE");
        let mut all: Vec<_> =
            [self.plain, self.wide, self.more].into_iter().flatten().copied().collect();
        all.extend(namespace);
        all.sort_unstable();
        all.dedup();
        all
    }
}

const NAME: &[&str] = &["NAME"];
const POLICY: &[&str] = &["NAME", "TIER"];
const POLICY_WIDE: &[&str] = &["NAME", "TIER", "ORDER", "SELECTOR"];

/// The columns of a kind.
pub(crate) fn of(kind: Kind) -> Columns {
    const BGP_CONFIGURATION: &[&str] = &["NAME", "LOGSEVERITY", "MESHENABLED", "ASNUMBER"];
    const BGP_FILTER: &[&str] = &["NAME", "EXPORTV4", "IMPORTV4", "EXPORTV6", "IMPORTV6"];
    const BGP_PEER: &[&str] = &["NAME", "PEERIP", "NODE", "ASN"];
    const CLUSTER: &[&str] =
        &["NAME", "CLUSTERGUID", "CLUSTERTYPE", "CALICOVERSION", "DATASTOREREADY"];
    const IPAM: &[&str] = &["NAME", "STRICTAFFINITY", "AUTOALLOCATEBLOCKS"];
    const IPAM_WIDE: &[&str] =
        &["NAME", "STRICTAFFINITY", "AUTOALLOCATEBLOCKS", "MAXBLOCKSPERHOST"];
    const POOL: &[&str] = &["NAME", "CIDR", "SELECTOR"];
    const POOL_WIDE: &[&str] = &[
        "NAME",
        "CIDR",
        "NAT",
        "IPIPMODE",
        "VXLANMODE",
        "DISABLED",
        "DISABLEBGPEXPORT",
        "SELECTOR",
        "ASSIGNMENTMODE",
    ];
    const TIER: &[&str] = &["NAME", "ORDER"];
    const ENDPOINT: &[&str] = &["WORKLOAD", "NODE", "NETWORKS", "INTERFACE"];
    const ENDPOINT_WIDE: &[&str] =
        &["NAME", "WORKLOAD", "NODE", "NETWORKS", "INTERFACE", "PROFILES", "NATS"];
    match kind {
        Kind::BGPConfiguration => Columns::new(BGP_CONFIGURATION, BGP_CONFIGURATION, &[]),
        Kind::BGPFilter => Columns::new(BGP_FILTER, BGP_FILTER, &[]),
        Kind::BGPPeer => Columns::new(BGP_PEER, BGP_PEER, &[]),
        Kind::CalicoNodeStatus => {
            Columns::new(&["NAME", "NODE"], &["NAME", "NODE", "CLASSES"], &[])
        }
        Kind::ClusterInformation => Columns::new(CLUSTER, CLUSTER, &[]),
        Kind::GlobalNetworkPolicy
        | Kind::NetworkPolicy
        | Kind::StagedGlobalNetworkPolicy
        | Kind::StagedNetworkPolicy => Columns::new(POLICY, POLICY_WIDE, &[]),
        Kind::GlobalNetworkSet | Kind::NetworkSet => Columns::new(NAME, &["NAME", "NETS"], &[]),
        Kind::HostEndpoint => {
            Columns::new(&["NAME", "NODE"], &["NAME", "NODE", "INTERFACE", "IPS", "PROFILES"], &[])
        }
        Kind::IPAMConfiguration => Columns::new(IPAM, IPAM_WIDE, &[]),
        Kind::IPPool => Columns::new(POOL, POOL_WIDE, &[]),
        Kind::IPReservation => Columns::new(NAME, &["NAME", "CIDRS"], &[]),
        Kind::Node => Columns::new(NAME, &["NAME", "ASN", "IPV4", "IPV6"], &[]),
        Kind::Profile => Columns::new(NAME, &["NAME", "LABELS"], &[]),
        Kind::StagedKubernetesNetworkPolicy => Columns::new(NAME, &["NAME", "PODSELECTOR"], &[]),
        Kind::Tier => Columns::new(TIER, TIER, &[]),
        Kind::WorkloadEndpoint => Columns::new(ENDPOINT, ENDPOINT_WIDE, &["ORCHESTRATOR"]),
        Kind::BlockAffinity
        | Kind::EndpointSlice
        | Kind::FelixConfiguration
        | Kind::IPAMBlock
        | Kind::IPAMHandle
        | Kind::KubeControllersConfiguration
        | Kind::KubernetesClusterNetworkPolicy
        | Kind::KubernetesNetworkPolicy => Columns::new(NAME, NAME, &[]),
    }
}

/// The text of one cell. `as_number` is the cluster's, for nodes without one of their own.
pub(crate) fn cell(kind: Kind, heading: &str, object: &Value, as_number: &str) -> String {
    let (metadata, spec) = (&object["metadata"], &object["spec"]);
    let field = |name: &str| scalar(&spec[name]);
    let flag = |name: &str| spec[name].as_bool().unwrap_or_default().to_string();
    let or = |text: String, other: &str| if text.is_empty() { other.to_owned() } else { text };
    match (kind, heading) {
        (_, "NAME") => scalar(&metadata["name"]),
        (_, "NAMESPACE") => scalar(&metadata["namespace"]),
        (Kind::BGPConfiguration, "LOGSEVERITY") => field("logSeverityScreen"),
        (Kind::BGPConfiguration, "MESHENABLED") => or(field("nodeToNodeMeshEnabled"), "-"),
        (Kind::BGPConfiguration, "ASNUMBER") => or(field("asNumber"), "-"),
        (Kind::BGPFilter, _) => {
            let name = match heading {
                "EXPORTV4" => "exportV4",
                "IMPORTV4" => "importV4",
                "EXPORTV6" => "exportV6",
                _ => "importV6",
            };
            filter_rules(&spec[name])
        }
        (Kind::BGPPeer, "PEERIP") => field("peerIP"),
        (Kind::BGPPeer, "NODE") => or(or(field("node"), &field("nodeSelector")), "(global)"),
        (Kind::BGPPeer, "ASN") => or(field("asNumber"), "0"),
        (Kind::CalicoNodeStatus, "CLASSES") => list(&spec["classes"]).join(","),
        (Kind::ClusterInformation, "CLUSTERGUID") => field("clusterGUID"),
        (Kind::ClusterInformation, "CLUSTERTYPE") => field("clusterType"),
        (Kind::ClusterInformation, "CALICOVERSION") => field("calicoVersion"),
        (Kind::ClusterInformation, "DATASTOREREADY") => or(field("datastoreReady"), "<nil>"),
        (Kind::HostEndpoint, "IPS") => list(&spec["expectedIPs"]).join(","),
        (Kind::IPAMConfiguration, "STRICTAFFINITY") => flag("strictAffinity"),
        (Kind::IPAMConfiguration, "AUTOALLOCATEBLOCKS") => flag("autoAllocateBlocks"),
        (Kind::IPAMConfiguration, "MAXBLOCKSPERHOST") => or(field("maxBlocksPerHost"), "0"),
        (Kind::IPPool, "CIDR") => field("cidr"),
        (Kind::IPPool, "NAT") => flag("natOutgoing"),
        (Kind::IPPool, "IPIPMODE") => or(field("ipipMode"), "Never"),
        (Kind::IPPool, "VXLANMODE") => or(field("vxlanMode"), "Never"),
        (Kind::IPPool, "DISABLED") => flag("disabled"),
        (Kind::IPPool, "DISABLEBGPEXPORT") => flag("disableBGPExport"),
        (Kind::IPPool, "SELECTOR") => field("nodeSelector"),
        (Kind::IPPool, "ASSIGNMENTMODE") => or(field("assignmentMode"), "Automatic"),
        (Kind::IPReservation, "CIDRS") => cut(&list(&spec["reservedCIDRs"]).join(",")),
        (Kind::GlobalNetworkSet | Kind::NetworkSet, "NETS") => cut(&list(&spec["nets"]).join(",")),
        (Kind::Node, "ASN") => match &spec["bgp"] {
            Value::Object(bgp) => {
                or(bgp.get("asNumber").map(scalar).unwrap_or_default(), &format!("({as_number})"))
            }
            _ => String::new(),
        },
        (Kind::Node, "IPV4") => scalar(&spec["bgp"]["ipv4Address"]),
        (Kind::Node, "IPV6") => scalar(&spec["bgp"]["ipv6Address"]),
        (Kind::Profile, "LABELS") => match &spec["labelsToApply"] {
            Value::Object(labels) => {
                let pairs: Vec<_> = labels
                    .iter()
                    .map(|(name, value)| format!("{name}={}", scalar(value)))
                    .collect();
                pairs.join(",")
            }
            _ => String::new(),
        },
        (Kind::StagedKubernetesNetworkPolicy, "PODSELECTOR") => pod_selector(&spec["podSelector"]),
        (_, "TIER") => field("tier"),
        (_, "ORDER") => spec["order"].as_f64().map_or_else(|| "<nil>".to_owned(), float),
        (_, "SELECTOR") => field("selector"),
        (Kind::WorkloadEndpoint, "WORKLOAD") => or(field("workload"), &field("pod")),
        (Kind::WorkloadEndpoint, "ORCHESTRATOR") => field("orchestrator"),
        (Kind::WorkloadEndpoint, "NETWORKS") => list(&spec["ipNetworks"]).join(","),
        (Kind::WorkloadEndpoint, "NATS") => {
            let nats = spec["ipNATs"].as_array().into_iter().flatten();
            let pairs: Vec<_> = nats
                .map(|nat| format!("{}/{}", scalar(&nat["internalIP"]), scalar(&nat["externalIP"])))
                .collect();
            pairs.join(",")
        }
        (_, "NODE") => field("node"),
        (_, "INTERFACE") => field("interfaceName"),
        (_, "PROFILES") => list(&spec["profiles"]).join(","),
        _ => String::new(),
    }
}

/// A number with a fraction as Go prints it: 100, 0.5, 1e+06.
pub(super) fn float(number: f64) -> String {
    let scientific = format!("{number:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if (-4..=5).contains(&exponent) {
        return number.to_string();
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}

/// A number, text or boolean as it is read; anything else is empty.
pub(crate) fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(flag) => flag.to_string(),
        // 100.0 is 100.
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() => float.to_string(),
            _ => number.to_string(),
        },
        Value::Null | Value::Array(_) | Value::Object(_) => String::new(),
    }
}

fn list(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(scalar).collect()
}

/// A text that is too long for a table, with its end left out.
fn cut(text: &str) -> String {
    match text.char_indices().nth(LONGEST_LIST) {
        None => text.to_owned(),
        Some(_) => text.chars().take(LONGEST_LIST - 3).chain("...".chars()).collect(),
    }
}

/// Rules as `Accept In 10.0.0.0/8; Reject`.
fn filter_rules(rules: &Value) -> String {
    let rules = rules.as_array().into_iter().flatten();
    let texts: Vec<_> = rules
        .map(|rule| {
            let mut text = scalar(&rule["action"]);
            for field in ["matchOperator", "cidr", "source", "interface"] {
                let value = scalar(&rule[field]);
                if !value.is_empty() {
                    // Writing to a String doesn't fail.
                    let _ = write!(text, " {value}");
                }
            }
            text
        })
        .collect();
    texts.join("; ")
}

/// The labels and the number of expressions of a Kubernetes label selector.
fn pod_selector(selector: &Value) -> String {
    let labels = selector["matchLabels"].as_object().into_iter().flatten();
    let mut texts: Vec<_> =
        labels.map(|(name, value)| format!("{name}={}", scalar(value))).collect();
    for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
        let values = list(&expression["values"]);
        let set =
            if values.is_empty() { String::new() } else { format!(" ({})", values.join(",")) };
        texts.push(format!(
            "{} {}{set}",
            scalar(&expression["key"]),
            scalar(&expression["operator"])
        ));
    }
    texts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_written_as_by_go() {
        for (number, text) in [
            (0.0, "0"),
            (100.0, "100"),
            (0.5, "0.5"),
            (50.25, "50.25"),
            (123_456.5, "123456.5"),
            (999_999.0, "999999"),
            (1_000_000.0, "1e+06"),
            (1_234_567.0, "1.234567e+06"),
            (-10_000_000.0, "-1e+07"),
            (1e100, "1e+100"),
            (0.0001, "0.0001"),
            (0.000_05, "5e-05"),
        ] {
            assert_eq!(float(number), text);
        }
    }
}
