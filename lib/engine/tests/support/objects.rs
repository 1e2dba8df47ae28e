//! Random objects, and how they look in a store.
//!
//! There are few names, labels and addresses, so that things meet. Everything that can be wrong in
//! an object sometimes is.

use model::{Key, Kind, Stored};
use proptest::{
    collection::vec,
    option::{of, weighted},
    prelude::*,
    sample::{select, subsequence},
    strategy::Union,
};
use serde_json::{Map, Value, json};

/// A selector, so that nobody has to parse one to know what it means.
#[derive(Clone, Debug)]
pub(crate) enum Sel {
    All,
    /// Everything; in a rule's namespace selector, what is in no namespace.
    Global,
    Has(&'static str),
    Eq(&'static str, &'static str),
    Ne(&'static str, &'static str),
    In(&'static str, Vec<&'static str>),
    NotIn(&'static str, Vec<&'static str>),
    Starts(&'static str, &'static str),
    Ends(&'static str, &'static str),
    Contains(&'static str, &'static str),
    And(Box<Sel>, Box<Sel>),
    Or(Box<Sel>, Box<Sel>),
    Not(Box<Sel>),
    /// Text that isn't a selector.
    Bad,
}

impl Sel {
    /// As a person may write it.
    pub(crate) fn text(&self) -> String {
        let list =
            |values: &[&str]| values.iter().map(|v| format!("'{v}'")).collect::<Vec<_>>().join(",");
        match self {
            Self::All => "all()".to_owned(),
            Self::Global => "global( )".to_owned(),
            Self::Has(l) => format!("has( {l} )"),
            Self::Eq(l, v) => format!("{l}=='{v}'"),
            Self::Ne(l, v) => format!("{l} != \"{v}\""),
            Self::In(l, v) => format!("{l} in {{{}}}", list(v)),
            Self::NotIn(l, v) => format!("{l} not in {{ {} }}", list(v)),
            Self::Starts(l, v) => format!("{l} starts with '{v}'"),
            Self::Ends(l, v) => format!("{l} endswith '{v}'"),
            Self::Contains(l, v) => format!("{l}\tcontains '{v}'"),
            Self::And(a, b) => format!("(({}) && {})", a.text(), b.text()),
            Self::Or(a, b) => format!("({} || ({}))", a.text(), b.text()),
            Self::Not(a) => format!("! ({})", a.text()),
            Self::Bad => "a == ".to_owned(),
        }
    }

    pub(crate) fn is_bad(&self) -> bool {
        match self {
            Self::Bad => true,
            Self::And(a, b) | Self::Or(a, b) => a.is_bad() || b.is_bad(),
            Self::Not(a) => a.is_bad(),
            _ => false,
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Port {
    Number(u16),
    Range(u16, u16),
    Named(&'static str),
    Bad,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Side {
    /// `None`: a net that isn't one.
    pub(crate) nets: Vec<Option<&'static str>>,
    pub(crate) not_nets: Vec<Option<&'static str>>,
    pub(crate) selector: Option<Sel>,
    pub(crate) not_selector: Option<Sel>,
    pub(crate) namespace_selector: Option<Sel>,
    pub(crate) service_accounts: Vec<&'static str>,
    pub(crate) account_selector: Option<Sel>,
    pub(crate) ports: Vec<Port>,
    pub(crate) not_ports: Vec<Port>,
    /// Whose service `s`.
    pub(crate) service: Option<&'static str>,
}

/// Type and code. A code alone can't be.
pub(crate) type IcmpOf = (Option<u8>, Option<u8>);

#[derive(Clone, Debug)]
pub(crate) struct RuleOf {
    /// One that isn't among the four is none.
    pub(crate) action: &'static str,
    /// `Some("FOO")` isn't one.
    pub(crate) protocol: Option<&'static str>,
    pub(crate) not_protocol: Option<&'static str>,
    /// Neither 4 nor 6 is none.
    pub(crate) version: Option<u8>,
    pub(crate) icmp: IcmpOf,
    pub(crate) not_icmp: IcmpOf,
    pub(crate) source: Side,
    pub(crate) destination: Side,
    pub(crate) http: bool,
}

/// The flags of a policy that say where it acts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Stage {
    Plain,
    Forward,
    Untracked,
    PreDnat,
    /// Before tracking and before NAT.
    Both,
}

#[derive(Clone, Debug)]
pub(crate) struct PolicyOf {
    pub(crate) tier: &'static str,
    pub(crate) order: Option<f64>,
    pub(crate) selector: Option<Sel>,
    pub(crate) namespace_selector: Option<Sel>,
    pub(crate) account_selector: Option<Sel>,
    pub(crate) types: Vec<&'static str>,
    pub(crate) stage: Stage,
    pub(crate) ingress: Vec<RuleOf>,
    pub(crate) egress: Vec<RuleOf>,
}

/// Addresses of a node; an `x` isn't one.
#[derive(Clone, Debug)]
pub(crate) struct NodeOf {
    pub(crate) labels: Pairs,
    pub(crate) ipv4: Option<&'static str>,
    pub(crate) ipv6: Option<&'static str>,
    pub(crate) internal: Vec<&'static str>,
    pub(crate) external: Vec<&'static str>,
    pub(crate) ipip: Option<&'static str>,
    pub(crate) vxlan: Option<&'static str>,
    pub(crate) vxlan_mac: Option<&'static str>,
    pub(crate) vxlan_v6: Option<&'static str>,
    pub(crate) wireguard: Option<&'static str>,
    pub(crate) wireguard_key: Option<&'static str>,
    pub(crate) pod_cidrs: Vec<&'static str>,
    pub(crate) as_number: Option<u32>,
}

/// Backends of a service, by what they are stored as: addresses, and ports by protocol.
#[derive(Clone, Debug)]
pub(crate) struct SliceOf {
    pub(crate) addresses: Vec<&'static str>,
    pub(crate) ports: Vec<(u8, u16)>,
}

pub(crate) type Pairs = Vec<(&'static str, &'static str)>;

/// What a store holds under a key.
#[derive(Clone, Debug)]
pub(crate) enum Obj {
    /// Bytes that aren't JSON.
    Raw,
    /// JSON of the wrong shape.
    List,
    Wep {
        uid: &'static str,
        labels: Pairs,
        account: Option<&'static str>,
        profiles: Vec<&'static str>,
        nets: Vec<&'static str>,
        ports: Vec<(&'static str, &'static str, u16)>,
        bad_mac: bool,
    },
    Hep {
        /// Empty: it names none.
        node: &'static str,
        interface: &'static str,
        labels: Pairs,
        profiles: Vec<&'static str>,
        ips: Vec<&'static str>,
        ports: Vec<(&'static str, &'static str, u16)>,
    },
    Nets {
        labels: Pairs,
        nets: Vec<&'static str>,
    },
    Policy(PolicyOf),
    Tier {
        order: Option<f64>,
        action: &'static str,
    },
    Profile {
        labels: Pairs,
        ingress: Vec<RuleOf>,
        egress: Vec<RuleOf>,
    },
    Node(NodeOf),
    BgpPeer {
        node: Option<&'static str>,
        selector: Option<Sel>,
        filters: Vec<&'static str>,
    },
    BgpFilter {
        flag: bool,
    },
    /// A policy of Kubernetes that is staged. Good or bad, it is in no list.
    StagedKubernetes {
        bad: bool,
    },
    Pool {
        cidr: &'static str,
        ipip: &'static str,
        vxlan: &'static str,
        nat: bool,
        balancer: bool,
    },
    Block {
        cidr: &'static str,
        owner: Option<&'static str>,
        holders: Vec<Option<&'static str>>,
    },
    Bgp {
        flag: bool,
    },
    Felix {
        flag: bool,
    },
    Cluster {
        ready: Option<bool>,
    },
}

impl Obj {
    pub(crate) fn stored(&self, key: &Key) -> Stored {
        match self {
            Self::Raw => Stored::Raw(b"{{".to_vec()),
            Self::List => Stored::Json(json!([])),
            _ => Stored::Json(self.json(key)),
        }
    }

    pub(crate) fn json(&self, key: &Key) -> Value {
        let pairs = |pairs: &Pairs| {
            let pairs = pairs.iter().map(|(k, v)| ((*k).to_owned(), json!(v)));
            Value::Object(pairs.collect::<Map<_, _>>())
        };
        let mut metadata = json!({"name": key.name.as_str(), "resourceVersion": "7"});
        let spec = match self {
            Self::Raw | Self::List => return json!([]),
            Self::Wep { uid, labels, account, profiles, nets, ports, bad_mac } => {
                metadata["uid"] = json!(uid);
                metadata["labels"] = pairs(labels);
                let port = |(name, protocol, port): &(&str, &str, u16)| json!({"name": name, "protocol": protocol, "port": port});
                json!({
                    "interfaceName": "cali1",
                    "mac": if *bad_mac { "zz" } else { "AA-BB-CC-00-00-01" },
                    "ipNetworks": nets,
                    "profiles": profiles,
                    "serviceAccountName": account,
                    "ports": ports.iter().map(port).collect::<Vec<_>>(),
                })
            }
            Self::Hep { node, interface, labels, profiles, ips, ports } => {
                metadata["labels"] = pairs(labels);
                let port = |(name, protocol, port): &(&str, &str, u16)| json!({"name": name, "protocol": protocol, "port": port});
                json!({
                    "node": node,
                    "interfaceName": interface,
                    "expectedIPs": ips,
                    "profiles": profiles,
                    "ports": ports.iter().map(port).collect::<Vec<_>>(),
                })
            }
            Self::Nets { labels, nets } => {
                metadata["labels"] = pairs(labels);
                json!({ "nets": nets })
            }
            Self::Policy(policy) => json!({
                "tier": policy.tier,
                "order": policy.order,
                "selector": policy.selector.as_ref().map(Sel::text),
                "namespaceSelector": policy.namespace_selector.as_ref().map(Sel::text),
                "serviceAccountSelector": policy.account_selector.as_ref().map(Sel::text),
                "types": policy.types,
                "applyOnForward": policy.stage == Stage::Forward,
                "doNotTrack": matches!(policy.stage, Stage::Untracked | Stage::Both),
                "preDNAT": matches!(policy.stage, Stage::PreDnat | Stage::Both),
                "ingress": policy.ingress.iter().map(rule).collect::<Vec<_>>(),
                "egress": policy.egress.iter().map(rule).collect::<Vec<_>>(),
            }),
            Self::Tier { order, action } => json!({"order": order, "defaultAction": action}),
            Self::Profile { labels, ingress, egress } => json!({
                "labelsToApply": pairs(labels),
                "ingress": ingress.iter().map(rule).collect::<Vec<_>>(),
                "egress": egress.iter().map(rule).collect::<Vec<_>>(),
            }),
            Self::Node(of) => {
                metadata["labels"] = pairs(&of.labels);
                return node_json(of, &metadata);
            }
            Self::BgpPeer { node, selector, filters } => json!({
                "node": node,
                "nodeSelector": selector.as_ref().map(Sel::text),
                "filters": filters,
            }),
            Self::BgpFilter { flag } => json!({ "flag": flag }),
            Self::StagedKubernetes { bad } => json!({
                "podSelector": {},
                "ingress": [{"from": [{"ipBlock": {"cidr": if *bad { "x" } else { "10.0.0.0/8" }}}]}],
            }),
            Self::Pool { cidr, ipip, vxlan, nat, balancer } => json!({
                "cidr": cidr,
                "ipipMode": ipip,
                "vxlanMode": vxlan,
                "natOutgoing": nat,
                "allowedUses": if *balancer { json!(["LoadBalancer"]) } else { json!(null) },
            }),
            // Flat, as in etcd.
            Self::Block { cidr, owner, holders } => {
                let mut attributes = Vec::new();
                let allocations = holders.iter().map(|holder| {
                    let holder = (*holder)?;
                    attributes.push(json!({"handle_id": "h", "secondary": {"node": holder}}));
                    Some(attributes.len() - 1)
                });
                return json!({
                    "cidr": cidr,
                    "affinity": owner.map(|owner| format!("host:{owner}")),
                    "allocations": allocations.collect::<Vec<_>>(),
                    "attributes": attributes,
                });
            }
            Self::Felix { flag } => json!({ "wireguardEnabled": flag }),
            Self::Bgp { flag } => {
                json!({ "logSeverityScreen": if *flag { "Info" } else { "Debug" } })
            }
            Self::Cluster { ready } => json!({ "datastoreReady": ready }),
        };
        json!({"kind": key.kind.name(), "metadata": metadata, "spec": spec})
    }
}

fn node_json(node: &NodeOf, metadata: &Value) -> Value {
    let address = |kind: &'static str| move |text: &&str| json!({"address": text, "type": kind});
    let internal = node.internal.iter().map(address("InternalIP"));
    let external = node.external.iter().map(address("ExternalIP"));
    let spec = json!({
        "bgp": {
            "ipv4Address": node.ipv4,
            "ipv6Address": node.ipv6,
            "ipv4IPIPTunnelAddr": node.ipip,
            "asNumber": node.as_number,
        },
        "addresses": external.chain(internal).collect::<Vec<_>>(),
        "ipv4VXLANTunnelAddr": node.vxlan,
        "vxlanTunnelMACAddr": node.vxlan_mac,
        "ipv6VXLANTunnelAddr": node.vxlan_v6,
        "wireguard": {"interfaceIPv4Address": node.wireguard},
    });
    let status = json!({"wireguardPublicKey": node.wireguard_key, "podCIDRs": node.pod_cidrs});
    json!({"kind": "Node", "metadata": metadata, "spec": spec, "status": status})
}

fn rule(rule: &RuleOf) -> Value {
    let mut out = json!({
        "action": rule.action,
        "protocol": rule.protocol,
        "notProtocol": rule.not_protocol,
        "ipVersion": rule.version,
        "icmp": {"type": rule.icmp.0, "code": rule.icmp.1},
        "notICMP": {"type": rule.not_icmp.0, "code": rule.not_icmp.1},
        "source": side(&rule.source),
        "destination": side(&rule.destination),
    });
    if rule.http {
        out["http"] = json!({"methods": ["GET"]});
    }
    out
}

fn side(side: &Side) -> Value {
    let nets = |nets: &[Option<&str>]| {
        nets.iter().map(|net| net.unwrap_or("10.0.0.0/33").to_owned()).collect::<Vec<_>>()
    };
    let ports = |ports: &[Port]| {
        let port = |port: &Port| match port {
            Port::Number(number) => json!(number),
            Port::Range(first, last) => json!(format!("{first}:{last}")),
            Port::Named(name) => json!(name),
            Port::Bad => json!(70000),
        };
        ports.iter().map(port).collect::<Vec<_>>()
    };
    let selector = |selector: &Option<Sel>| selector.as_ref().map(Sel::text);
    let mut out = json!({
        "nets": nets(&side.nets),
        "notNets": nets(&side.not_nets),
        "selector": selector(&side.selector),
        "notSelector": selector(&side.not_selector),
        "namespaceSelector": selector(&side.namespace_selector),
        "ports": ports(&side.ports),
        "notPorts": ports(&side.not_ports),
    });
    if !side.service_accounts.is_empty() || side.account_selector.is_some() {
        let selector = side.account_selector.as_ref().map(Sel::text);
        out["serviceAccounts"] = json!({"names": side.service_accounts, "selector": selector});
    }
    if let Some(namespace) = side.service {
        out["services"] = json!({"name": "s", "namespace": namespace});
    }
    out
}

const LABELS: &[&str] = &["a", "b", "pcns.a", "pcsa.a", "projectcalico.org/namespace"];
const VALUES: &[&str] = &["1", "2", "12", "ns1"];
const NODES: &[&str] = &["n1", "n2", "n3"];
const NAMESPACES: &[&str] = &["ns1", "ns2"];
const PROFILES: &[&str] = &["kns.ns1", "kns.ns2", "x", "projectcalico-default-allow"];
const TIERS: &[&str] = &["default", "t1", "t2", "kube-admin"];
/// Orders that are equal, lower, higher, and none.
const ORDERS: &[Option<f64>] = &[None, Some(-1.5), Some(0.0), Some(10.0), Some(9.0)];

fn sel() -> impl Strategy<Value = Sel> {
    let label = || prop_oneof![Just("a"), select(LABELS)];
    let value = || prop_oneof![Just("1"), select(VALUES)];
    let leaf = prop_oneof![
        2 => Just(Sel::All),
        1 => Just(Sel::Global),
        3 => label().prop_map(Sel::Has),
        5 => (label(), value()).prop_map(|(l, v)| Sel::Eq(l, v)),
        1 => (label(), value()).prop_map(|(l, v)| Sel::Ne(l, v)),
        2 => (label(), vec(value(), 0..3)).prop_map(|(l, v)| Sel::In(l, v)),
        1 => (label(), vec(value(), 0..3)).prop_map(|(l, v)| Sel::NotIn(l, v)),
        1 => (label(), value()).prop_map(|(l, v)| Sel::Starts(l, v)),
        1 => (label(), value()).prop_map(|(l, v)| Sel::Ends(l, v)),
        1 => (label(), value()).prop_map(|(l, v)| Sel::Contains(l, v)),
    ];
    let tree = leaf.prop_recursive(2, 5, 2, |inner| {
        let two = || (inner.clone().prop_map(Box::new), inner.clone().prop_map(Box::new));
        prop_oneof![
            two().prop_map(|(a, b)| Sel::And(a, b)),
            two().prop_map(|(a, b)| Sel::Or(a, b)),
            inner.clone().prop_map(|a| Sel::Not(Box::new(a))),
        ]
    });
    prop_oneof![30 => tree, 1 => Just(Sel::Bad)]
}

fn side_of() -> impl Strategy<Value = Side> {
    let net = || {
        prop_oneof![
            6 => select(&["10.0.0.0/8", "10.1.2.3/16", "fd00::/8"][..]).prop_map(Some),
            1 => Just(None),
        ]
    };
    let nets = || prop_oneof![4 => Just(Vec::new()), 1 => vec(net(), 1..3)];
    let port = || {
        prop_oneof![
            3 => select(&[80u16, 443][..]).prop_map(Port::Number),
            1 => Just(Port::Range(8000, 9000)),
            3 => select(&["http", "dns"][..]).prop_map(Port::Named),
            1 => Just(Port::Bad),
        ]
    };
    let ports = || prop_oneof![3 => Just(Vec::new()), 1 => vec(port(), 1..3)];
    let accounts = prop_oneof![6 => Just(Vec::new()), 1 => subsequence(vec!["s", "t"], 1..=2)];
    let accounts = (accounts, weighted(0.05, sel()));
    let service = prop::bool::weighted(0.1).prop_map(|is| is.then_some(NAMESPACES[0]));
    let selectors = (of(sel()), weighted(0.15, sel()), weighted(0.2, sel()));
    (nets(), nets(), selectors, accounts, ports(), ports(), service).prop_map(
        |(nets, not_nets, selectors, accounts, ports, not_ports, service)| {
            let (selector, not_selector, namespace_selector) = selectors;
            let (service_accounts, account_selector) = accounts;
            Side {
                nets,
                not_nets,
                selector,
                not_selector,
                namespace_selector,
                service_accounts,
                account_selector,
                ports,
                not_ports,
                service,
            }
        },
    )
}

fn rule_of() -> impl Strategy<Value = RuleOf> {
    let action = prop_oneof![
        5 => Just("Allow"),
        2 => Just("Deny"),
        2 => Just("Log"),
        2 => Just("Pass"),
        1 => select(&["pass", ""][..]),
    ];
    let protocol = select(
        &[
            None,
            Some("TCP"),
            Some("TCP"),
            Some("UDP"),
            Some("ICMP"),
            Some("ICMPv6"),
            Some("UDPLite"),
            Some("47"),
            Some("FOO"),
        ][..],
    );
    let not_protocol = select(&["TCP", "UDP", "ICMP", "FOO"][..]);
    let version = select(&[4u8, 6, 5][..]);
    let kind = || (of(select(&[0u8, 8][..])), of(select(&[0u8, 1][..])));
    let icmp = || prop_oneof![9 => Just((None, None)), 1 => kind()];
    let rare = (weighted(0.05, not_protocol), weighted(0.1, version), icmp(), icmp());
    let quiet = || prop_oneof![2 => Just(Side::default()), 1 => side_of()];
    let source = prop_oneof![1 => Just(Side::default()), 2 => side_of()];
    (action, protocol, rare, source, quiet(), prop::bool::weighted(0.03)).prop_map(
        |(action, protocol, rare, source, destination, http)| {
            let (not_protocol, version, icmp, not_icmp) = rare;
            RuleOf {
                action,
                protocol,
                not_protocol,
                version,
                icmp,
                not_icmp,
                source,
                destination,
                http,
            }
        },
    )
}

fn rules() -> impl Strategy<Value = Vec<RuleOf>> {
    vec(rule_of(), 0..3)
}

fn policy() -> impl Strategy<Value = Obj> {
    let types = select(&["", "I", "E", "IE", "X"][..]).prop_map(|types| match types {
        "I" => vec!["ingress"],
        "E" => vec!["Egress"],
        "IE" => vec!["Ingress", "Egress"],
        "X" => vec!["Both"],
        _ => Vec::new(),
    });
    let tier = prop_oneof![3 => Just("default"), 2 => select(TIERS)];
    let selectors = (of(sel()), weighted(0.2, sel()), weighted(0.1, sel()));
    let head = (tier, select(ORDERS), selectors, types);
    let stage = prop_oneof![
        12 => Just(Stage::Plain),
        4 => Just(Stage::Forward),
        2 => Just(Stage::Untracked),
        2 => Just(Stage::PreDnat),
        1 => Just(Stage::Both),
    ];
    let rest = (stage, rules(), rules());
    (head, rest).prop_map(|(head, (stage, ingress, egress))| {
        let (tier, order, (selector, namespace_selector, account_selector), types) = head;
        Obj::Policy(PolicyOf {
            tier,
            order,
            selector,
            namespace_selector,
            account_selector,
            types,
            stage,
            ingress,
            egress,
        })
    })
}

fn labels() -> impl Strategy<Value = Pairs> {
    let some = (subsequence(LABELS, 0..=3), any::<bool>()).prop_map(|(mut keys, more)| {
        if more && !keys.contains(&"a") {
            keys.insert(0, "a");
        }
        keys
    });
    some.prop_flat_map(|keys| {
        let values = vec(select(VALUES), keys.len());
        values.prop_map(move |values| keys.iter().copied().zip(values).collect())
    })
}

fn wep() -> impl Strategy<Value = Obj> {
    let address = select(&["10.0.0.1/32", "10.0.0.2", "10.0.1.9/24", "fd00::1/128"][..]);
    let port =
        (select(&["http", "dns"][..]), select(&["TCP", "udp"][..]), select(&[80u16, 53][..]));
    (
        select(&["", "u1", "u2"][..]),
        labels(),
        weighted(0.3, select(&["s", "t"][..])),
        prop_oneof![vec(select(PROFILES), 0..3), subsequence(PROFILES, 2..4)],
        vec(address, 0..3),
        vec(port, 0..3),
        prop::bool::weighted(0.05),
    )
        .prop_map(|(uid, labels, account, profiles, nets, ports, bad_mac)| Obj::Wep {
            uid,
            labels,
            account,
            profiles,
            nets,
            ports,
            bad_mac,
        })
}

fn hep() -> impl Strategy<Value = Obj> {
    let port =
        (select(&["http", "dns"][..]), select(&["TCP", "udp"][..]), select(&[80u16, 53][..]));
    (
        prop_oneof![9 => select(NODES), 1 => Just("")],
        prop_oneof![9 => select(&["eth0", "*", ""][..]), 1 => Just("much-too-long-name")],
        labels(),
        vec(select(PROFILES), 0..2),
        vec(select(&["10.0.0.1", "10.7.0.1", "fd00::1", "bad"][..]), 0..3),
        vec(port, 0..2),
    )
        .prop_map(|(node, interface, labels, profiles, ips, ports)| Obj::Hep {
            node,
            interface,
            labels,
            profiles,
            ips,
            ports,
        })
}

fn nets() -> impl Strategy<Value = Obj> {
    let net = select(
        &[
            "10.0.0.0/8",
            "10.0.0.0/24",
            "10.0.0.1/32",
            "0.0.0.0/0",
            "10.0.1.7/25",
            "bad",
            "fd00::/16",
        ][..],
    );
    (labels(), vec(net, 0..4)).prop_map(|(labels, nets)| Obj::Nets { labels, nets })
}

fn block() -> impl Strategy<Value = Obj> {
    let holders = vec(of(select(NODES)), 4);
    (select(&["10.0.0.0/30", "10.0.0.4/30", "10.9.0.0/30"][..]), of(select(NODES)), holders)
        .prop_map(|(cidr, owner, holders)| Obj::Block { cidr, owner, holders })
}

const MODES: &[&str] = &["Never", "Always", "CrossSubnet"];

fn node() -> impl Strategy<Value = Obj> {
    let one = |texts: &'static [&'static str]| weighted(0.5, select(texts));
    let rare = |texts: &'static [&'static str]| weighted(0.15, select(texts));
    let addresses = (
        one(&["10.7.0.1/24", "10.7.0.2/24", "10.0.0.1/24", "x"]),
        rare(&["fd00:7::1/64", "10.7.0.1", "x"]),
        vec(select(&["10.7.0.3", "10.0.0.2", "fd00:7::2", "x"][..]), 0..2),
        vec(select(&["10.7.0.4", "fd00:7::3"][..]), 0..2),
    );
    let tunnels = (
        rare(&["10.0.0.1", "10.0.0.5", "10.8.0.2", "x"]),
        one(&["10.0.0.0", "10.0.0.5", "10.8.0.1", "x"]),
        rare(&["EE-EE-EE-00-00-01", "x"]),
        rare(&["fd00:8::1", "fd00:9::1"]),
        rare(&["10.0.0.2", "10.8.0.1"]),
    );
    let key = (rare(&["a key"]), labels());
    let ranges = &["10.0.0.0/24", "10.0.0.1/32", "10.0.0.4/30", "fd00:9::/64", "x"][..];
    (addresses, tunnels, key, vec(select(ranges), 0..3), weighted(0.1, select(&[1u32, 64512][..])))
        .prop_map(|(addresses, tunnels, key, pod_cidrs, as_number)| {
            let (wireguard_key, labels) = key;
            let (ipv4, ipv6, internal, external) = addresses;
            let (ipip, vxlan, vxlan_mac, vxlan_v6, wireguard) = tunnels;
            Obj::Node(NodeOf {
                labels,
                ipv4,
                ipv6,
                internal,
                external,
                ipip,
                vxlan,
                vxlan_mac,
                vxlan_v6,
                wireguard,
                wireguard_key,
                pod_cidrs,
                as_number,
            })
        })
}

/// Which slice of the service `s` of which namespace, and what it holds; none: it is gone.
pub(crate) fn slice() -> impl Strategy<Value = ((&'static str, &'static str), Option<SliceOf>)> {
    let addresses = vec(select(&["10.0.0.1", "10.9.9.9", "fd00::1"][..]), 0..3);
    let ports = vec((select(&[6u8, 17][..]), select(&[80u16, 53][..])), 0..3);
    let held = (addresses, ports).prop_map(|(addresses, ports)| SliceOf { addresses, ports });
    ((select(NAMESPACES), select(&["x", "y"][..])), weighted(0.8, held))
}

/// What a world is about: the fewer kinds, the more of what there is meets.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Focus {
    Everything,
    /// Endpoints, and what acts on them.
    Policies,
    /// Nodes, pools, blocks, configuration.
    Network,
}

pub(crate) fn focus() -> impl Strategy<Value = Focus> {
    prop_oneof![
        2 => Just(Focus::Everything),
        4 => Just(Focus::Policies),
        1 => Just(Focus::Network),
    ]
}

/// A key with an object that may be under it.
pub(crate) fn object() -> impl Strategy<Value = (Key, Obj)> {
    object_of(Focus::Everything)
}

/// A key with an object that may be under it, of the kinds that a world is about.
pub(crate) fn object_of(focus: Focus) -> impl Strategy<Value = (Key, Obj)> {
    let global = |kind: Kind, names: &'static [&'static str]| {
        select(names).prop_map(move |name| Key::global(kind, name))
    };
    let namespaced = |kind: Kind, names: &'static [&'static str]| {
        (select(NAMESPACES), select(names))
            .prop_map(move |(namespace, name)| Key::namespaced(kind, namespace, name))
    };
    let weps = (select(NAMESPACES), select(NODES), select(&["p", "p--1"][..]), 0..4u8, wep());
    let weps = weps.prop_map(|(namespace, node, pod, stranger, mut wep)| {
        let name = format!("{node}-k8s-{pod}-eth0");
        if let Obj::Wep { labels, .. } = &mut wep
            && stranger > 0
        {
            labels.retain(|(label, _)| *label != "projectcalico.org/namespace");
            labels.push(("projectcalico.org/namespace", namespace));
        }
        (Key::namespaced(Kind::WorkloadEndpoint, namespace, name), wep)
    });
    let policies = &["x", "x-y", "x.y"][..];
    let profile = (labels(), rules(), rules()).prop_map(|(labels, ingress, egress)| Obj::Profile {
        labels,
        ingress,
        egress,
    });
    let tier = (select(ORDERS), select(&["Deny", "Pass", "pass"][..]))
        .prop_map(|(order, action)| Obj::Tier { order, action });
    let pool = (
        select(&["10.0.0.0/16", "10.0.0.0/24", "10.0.0.0/8", "x"][..]),
        select(MODES),
        select(MODES),
        any::<bool>(),
        prop::bool::weighted(0.2),
    )
        .prop_map(|(cidr, ipip, vxlan, nat, balancer)| Obj::Pool {
            cidr,
            ipip,
            vxlan,
            nat,
            balancer,
        });
    let staged = prop::bool::weighted(0.3).prop_map(|bad| Obj::StagedKubernetes { bad });
    let felix = any::<bool>().prop_map(|flag| Obj::Felix { flag });
    let bgp = any::<bool>().prop_map(|flag| Obj::Bgp { flag });
    let cluster = of(any::<bool>()).prop_map(|ready| Obj::Cluster { ready });
    let configurations = &["default", "node.n1", "other"];
    let endpoints = [
        (14, weps.boxed()),
        (5, (global(Kind::HostEndpoint, &["h", "i"]), hep()).boxed()),
        (3, (namespaced(Kind::NetworkSet, &["s"]), nets()).boxed()),
        (3, (global(Kind::GlobalNetworkSet, &["s", "t"]), nets()).boxed()),
        (10, (global(Kind::Profile, PROFILES), profile).boxed()),
    ];
    let acting = [
        (8, (namespaced(Kind::NetworkPolicy, policies), policy()).boxed()),
        (8, (global(Kind::GlobalNetworkPolicy, policies), policy()).boxed()),
        (2, (namespaced(Kind::KubernetesNetworkPolicy, policies), policy()).boxed()),
        (1, (global(Kind::KubernetesClusterNetworkPolicy, policies), policy()).boxed()),
        (2, (namespaced(Kind::StagedNetworkPolicy, policies), policy()).boxed()),
        (2, (global(Kind::StagedGlobalNetworkPolicy, policies), policy()).boxed()),
        (1, (namespaced(Kind::StagedKubernetesNetworkPolicy, policies), staged).boxed()),
        (4, (global(Kind::Tier, TIERS), tier).boxed()),
    ];
    let peer = (weighted(0.3, select(NODES)), of(sel()), subsequence(&["f", "g"][..], 0..=2));
    let peer = peer.prop_map(|(node, selector, filters)| Obj::BgpPeer { node, selector, filters });
    let filter = any::<bool>().prop_map(|flag| Obj::BgpFilter { flag });
    let network = [
        (6, (global(Kind::Node, NODES), node()).boxed()),
        (2, (global(Kind::BGPPeer, &["p", "q"]), peer).boxed()),
        (1, (global(Kind::BGPFilter, &["f", "g"]), filter).boxed()),
        (3, (global(Kind::IPPool, &["a", "b"]), pool).boxed()),
        (4, (global(Kind::IPAMBlock, &["k", "l"]), block()).boxed()),
        (1, (global(Kind::FelixConfiguration, configurations), felix).boxed()),
        (1, (global(Kind::BGPConfiguration, configurations), bgp).boxed()),
        (1, (global(Kind::ClusterInformation, &["default"]), cluster).boxed()),
    ];
    let mut kinds = Vec::new();
    if focus != Focus::Network {
        kinds.extend(endpoints);
        kinds.extend(acting);
    }
    if focus != Focus::Policies {
        kinds.extend(network);
    }
    let sound = Union::new_weighted(kinds);
    (sound, prop::num::u8::ANY).prop_map(|((key, obj), damage)| match damage {
        0..=5 => (key, Obj::Raw),
        6..=10 => (key, Obj::List),
        _ => (key, obj),
    })
}
