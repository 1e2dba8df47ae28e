//! What a node needs, as entries of topics (`docs/protocol.md`).
//!
//! A topic is a named map from a key to an entry. The engine computes entries, `proto` gives them
//! their one canonical encoding, `sync` moves the bytes, and the agent decodes them again.
//!
//! ```text
//! config, pools, hosts/<n>, routes/<n>            every node
//! node/<name> -> plist/<id> -> policy/… -> ipset/…   what that node's endpoints use
//!             -> profile/…                -> ipset/…
//! res/<Kind>/<n>                                  the FULL view: every object as JSON
//! ```

use std::{fmt, hash::Hasher, net::IpAddr, ops::Deref, str::FromStr, sync::Arc};

use arcstr::ArcStr;
use ipnet::IpNet;
use serde::{Serialize, Serializer};

use crate::key::{Key, Kind};

/// How many topics `hosts/…`, `routes/…` and `services/…` are spread over.
pub const SHARDS: u8 = 64;
/// How many topics the objects of one kind are spread over in the FULL view.
pub const RES_SHARDS: u8 = 16;

/// FNV-1a-64: cheap, and equal on every machine. It spreads keys over topics, nothing more.
fn fnv(key: &str) -> u64 {
    let mut hasher = fnv::FnvHasher::default();
    hasher.write(key.as_bytes());
    hasher.finish()
}

/// The shard of a key in `hosts/…`, `routes/…` and `services/…`: the top 6 bits of its hash.
pub fn shard(key: &str) -> u8 {
    (fnv(key) >> 58) as u8
}

/// The shard of an object's key in `res/<Kind>/…`: the top 4 bits of its hash.
pub fn res_shard(key: &str) -> u8 {
    (fnv(key) >> 60) as u8
}

/// How many buckets a large topic's keys are spread over, to find what differs in it.
pub const BUCKETS: u8 = 64;

/// The bucket of a key in its topic: the top 6 bits of its hash, mixed (Fibonacci hashing), for the top bits of the
/// hash itself are the same for all keys of one [`shard`].
pub fn bucket(key: &str) -> u8 {
    let hash = fnv(key);
    ((hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 58) as u8
}

/// A named map of entries: the unit that a view is made of.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    /// Cluster-wide configuration objects and tiers; key `<Kind>/<name>`.
    Config,
    /// Address pools; key: the CIDR.
    Pools,
    /// Nodes of one shard; key: the node's name.
    Hosts(u8),
    /// Where addresses live, one shard; key: the CIDR.
    Routes(u8),
    /// What one node alone needs: its endpoints and overrides.
    Node(ArcStr),
    /// One ordered list of tiers and policies, named by its content; the one key is empty.
    Plist(ArcStr),
    /// The rules of one policy; the one key is empty.
    Policy(PolicyId),
    /// The rules of one profile; the one key is empty.
    Profile(ArcStr),
    /// The members of one IP set; key: the member.
    IpSet(ArcStr),
    /// Objects of one kind as JSON, one shard; key: [`Key::path`].
    Res(Kind, u8),
}

impl Topic {
    /// The topic and the key under which a node's addresses are published.
    pub fn host(node: &str) -> Self {
        Self::Hosts(shard(node))
    }

    /// The topic in which the route to a CIDR is published.
    pub fn route(cidr: IpNet) -> Self {
        Self::Routes(shard(&cidr.to_string()))
    }

    /// The topic in which an object is published in the FULL view.
    pub fn res(key: &Key) -> Self {
        Self::Res(key.kind, res_shard(&key.path()))
    }

    /// The topics that are in every node's view.
    pub fn common() -> impl Iterator<Item = Self> {
        [Self::Config, Self::Pools]
            .into_iter()
            .chain((0..SHARDS).map(Self::Hosts))
            .chain((0..SHARDS).map(Self::Routes))
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Config => f.write_str("config"),
            Self::Pools => f.write_str("pools"),
            Self::Hosts(n) => write!(f, "hosts/{n}"),
            Self::Routes(n) => write!(f, "routes/{n}"),
            Self::Node(name) => write!(f, "node/{name}"),
            Self::Plist(id) => write!(f, "plist/{id}"),
            Self::Policy(id) => write!(f, "policy/{id}"),
            Self::Profile(name) => write!(f, "profile/{name}"),
            Self::IpSet(id) => write!(f, "ipset/{id}"),
            Self::Res(kind, n) => write!(f, "res/{kind}/{n}"),
        }
    }
}

/// A text that names no topic of this version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown topic {0:?}")]
pub struct UnknownTopic(pub String);

impl FromStr for Topic {
    type Err = UnknownTopic;

    fn from_str(text: &str) -> Result<Self, UnknownTopic> {
        let unknown = || UnknownTopic(text.to_owned());
        let below =
            |n: &str, limit: u8| n.parse::<u8>().ok().filter(|n| *n < limit).ok_or_else(unknown);
        let (head, rest) = text.split_once('/').unwrap_or((text, ""));
        Ok(match head {
            "config" if rest.is_empty() => Self::Config,
            "pools" if rest.is_empty() => Self::Pools,
            "hosts" => Self::Hosts(below(rest, SHARDS)?),
            "routes" => Self::Routes(below(rest, SHARDS)?),
            "node" => Self::Node(rest.into()),
            "plist" => Self::Plist(rest.into()),
            "policy" => Self::Policy(rest.parse().map_err(|_| unknown())?),
            "profile" => Self::Profile(rest.into()),
            "ipset" => Self::IpSet(rest.into()),
            "res" => {
                let (kind, n) = rest.split_once('/').ok_or_else(unknown)?;
                Self::Res(Kind::from_name(kind).ok_or_else(unknown)?, below(n, RES_SHARDS)?)
            }
            _ => return Err(unknown()),
        })
    }
}

/// Which policy: the kind that it was written as, its namespace (empty for a global one), its name.
///
/// The kind is text, because it also names sources that are no [`Kind`] of ours, such as
/// `KubernetesNetworkPolicy`.
///
/// One reference, for ids are everywhere where policies are: in lists, topics, keys of tables.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyId(Arc<PolicyParts>);

/// What a [`PolicyId`] is made of.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PolicyParts {
    /// For example `NetworkPolicy`.
    pub kind: ArcStr,
    /// Empty for a global policy.
    pub namespace: ArcStr,
    /// The object's name.
    pub name: ArcStr,
}

impl Deref for PolicyId {
    type Target = PolicyParts;

    fn deref(&self) -> &PolicyParts {
        &self.0
    }
}

impl PolicyId {
    /// The id of these parts; `namespace` is empty for a global policy.
    pub fn new(
        kind: impl Into<ArcStr>,
        namespace: impl Into<ArcStr>,
        name: impl Into<ArcStr>,
    ) -> Self {
        let (kind, namespace, name) = (kind.into(), namespace.into(), name.into());
        Self(Arc::new(PolicyParts { kind, namespace, name }))
    }

    /// The policy's place among those of the same order: the bytes of `name/namespace/kind`.
    pub fn tie_break(&self) -> String {
        format!("{}/{}/{}", self.name, self.namespace, self.kind)
    }
}

impl Serialize for PolicyId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl fmt::Display for PolicyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.kind, self.namespace, self.name)
    }
}

/// A text that isn't `kind/namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not kind/namespace/name")]
pub struct BadPolicyId(pub String);

impl FromStr for PolicyId {
    type Err = BadPolicyId;

    fn from_str(text: &str) -> Result<Self, BadPolicyId> {
        let mut parts = text.splitn(3, '/');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(kind), Some(namespace), Some(name)) if !kind.is_empty() && !name.is_empty() => {
                Ok(Self::new(kind, namespace, name))
            }
            _ => Err(BadPolicyId(text.to_owned())),
        }
    }
}

/// The value of one key of a topic. What is large lies elsewhere, and rules are shared: there are
/// many entries at once.
#[derive(Clone, Debug, PartialEq)]
pub enum Entry {
    /// In [`Topic::Config`] and, as overrides, in [`Topic::Node`].
    Config(ConfigEntry),
    /// In [`Topic::Pools`].
    Pool(Pool),
    /// In [`Topic::Hosts`].
    Host(Box<Host>),
    /// In [`Topic::Routes`].
    Route(Route),
    /// In [`Topic::Node`].
    Endpoint(Endpoint),
    /// In [`Topic::Node`].
    HostEndpoint(Box<HostEndpoint>),
    /// In [`Topic::Plist`].
    Plist(PolicyList),
    /// In [`Topic::Policy`].
    Policy(Arc<Policy>),
    /// In [`Topic::Profile`].
    Profile(Arc<ProfileRules>),
    /// In [`Topic::IpSet`].
    Member,
    /// In [`Topic::Res`]: the object as canonical JSON.
    Res(String),
}

impl Entry {
    /// The entry for people and programs that look on; the wire has its own form.
    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::{Value, json};
        // What was JSON is shown as such. None of these types can fail to be written: their maps
        // have text keys.
        match self {
            Self::Res(json) => serde_json::from_str(json).unwrap_or(Value::Null),
            Self::Config(config) => serde_json::from_str(&config.spec_json).unwrap_or(Value::Null),
            Self::Pool(pool) => json!(pool),
            Self::Host(host) => json!(host),
            Self::Route(route) => json!(route),
            Self::Endpoint(endpoint) => json!(endpoint),
            Self::HostEndpoint(endpoint) => json!(endpoint),
            Self::Plist(plist) => json!(plist),
            Self::Policy(policy) => json!(**policy),
            Self::Profile(profile) => json!(**profile),
            Self::Member => json!({}),
        }
    }
}

/// The spec of a configuration object (`FelixConfiguration`, `ClusterInformation`, `Tier`, …).
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize)]
pub struct ConfigEntry {
    /// The spec as JSON with sorted keys.
    pub spec_json: String,
}

/// How packets to a pool's addresses travel between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize)]
pub enum EncapMode {
    /// Not by this tunnel.
    #[default]
    Never,
    /// Always by this tunnel.
    Always,
    /// By this tunnel when the nodes are in different subnets.
    CrossSubnet,
}

/// An address pool, as far as a node must know it.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize)]
pub struct Pool {
    /// IP-in-IP.
    pub ipip: EncapMode,
    /// VXLAN; wins where both are set.
    pub vxlan: EncapMode,
    /// Traffic that leaves all pools takes the node's address.
    pub nat_outgoing: bool,
}

/// A node's addresses. Addresses are without prefix unless the field says so.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize)]
pub struct Host {
    /// Main IPv4 address with the prefix of its subnet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv4: Option<IpNet>,
    /// Main IPv6 address with the prefix of its subnet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<IpNet>,
    /// Address of the IPIP device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ipip_address: Option<IpAddr>,
    /// Address of the IPv4 VXLAN device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vxlan_address: Option<IpAddr>,
    /// MAC of the IPv4 VXLAN device; never empty where `vxlan_address` is set.
    #[serde(skip_serializing_if = "ArcStr::is_empty")]
    pub vxlan_mac: ArcStr,
    /// Address of the IPv6 VXLAN device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vxlan_address_v6: Option<IpAddr>,
    /// MAC of the IPv6 VXLAN device; never empty where `vxlan_address_v6` is set.
    #[serde(skip_serializing_if = "ArcStr::is_empty")]
    pub vxlan_mac_v6: ArcStr,
    /// Public key of the IPv4 WireGuard device; empty: none.
    #[serde(skip_serializing_if = "ArcStr::is_empty")]
    pub wireguard_key: ArcStr,
    /// Public key of the IPv6 WireGuard device; empty: none.
    #[serde(skip_serializing_if = "ArcStr::is_empty")]
    pub wireguard_key_v6: ArcStr,
    /// Address of the IPv4 WireGuard device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wireguard_address: Option<IpAddr>,
    /// Address of the IPv6 WireGuard device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wireguard_address_v6: Option<IpAddr>,
    /// The node's own AS number; none: the cluster's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub as_number: Option<u32>,
}

/// Where the addresses of a CIDR live.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize)]
pub struct Route {
    /// The node that holds them.
    pub node: ArcStr,
    /// The pool that decides on encapsulation; none: outside every pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pool: Option<IpNet>,
    /// A single address that lives on another node than its block.
    pub borrowed: bool,
    /// The address of a tunnel device, not of a workload.
    pub tunnel: bool,
}

/// A workload endpoint of the node.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize)]
pub struct Endpoint {
    /// Name of the host's side of its link.
    pub interface: ArcStr,
    /// MAC inside the workload; empty: unknown.
    #[serde(skip_serializing_if = "ArcStr::is_empty")]
    pub mac: ArcStr,
    /// Its addresses, each a /32 or /128; empty while the endpoint is pending.
    pub addresses: Vec<IpNet>,
    /// Profiles in order; they decide where no tier applies.
    pub profiles: Vec<ArcStr>,
    /// Id of its [`Topic::Plist`]; none: no policy selects it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plist: Option<ArcStr>,
}

/// An interface of the node itself. Each list is the id of a [`Topic::Plist`]; none: no such policy
/// selects it.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize)]
pub struct HostEndpoint {
    /// Which interface: its name, `*` for all, or empty for those that have one of `addresses`.
    pub interface: ArcStr,
    /// Addresses that it is expected to have.
    pub addresses: Vec<IpAddr>,
    /// Profiles in order; they decide where no tier of `plist` applies.
    pub profiles: Vec<ArcStr>,
    /// For packets to and from the node itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plist: Option<ArcStr>,
    /// For packets that the node forwards; where no tier applies they pass.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub forward: Option<ArcStr>,
    /// Before connection tracking; what isn't decided goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub untracked: Option<ArcStr>,
    /// Before destination NAT, ingress only; what isn't decided goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pre_dnat: Option<ArcStr>,
}

/// Tiers in evaluation order.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize)]
pub struct PolicyList {
    /// Only tiers with an enforced policy for one of the endpoint's directions.
    pub tiers: Vec<PolicyTier>,
}

/// One tier of a [`PolicyList`].
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize)]
pub struct PolicyTier {
    /// The tier's name.
    pub name: ArcStr,
    /// At the end of the tier, in a direction with a policy, go on to the next tier: else drop.
    pub default_pass: bool,
    /// Policies for packets to the endpoint, first one first.
    pub ingress: Vec<PolicyId>,
    /// Policies for packets from the endpoint, first one first.
    pub egress: Vec<PolicyId>,
}

/// The rules of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize)]
pub struct Policy {
    /// The tier that it belongs to.
    pub tier: ArcStr,
    /// For packets to the endpoint.
    pub ingress: Vec<Rule>,
    /// For packets from the endpoint.
    pub egress: Vec<Rule>,
}

/// The rules of a profile.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize)]
pub struct ProfileRules {
    /// For packets to the endpoint.
    pub ingress: Vec<Rule>,
    /// For packets from the endpoint.
    pub egress: Vec<Rule>,
}

/// What a matching packet meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize)]
pub enum Action {
    /// Accepted.
    Allow,
    /// Dropped; also what stands for anything unknown.
    #[default]
    Deny,
    /// Logged; evaluation goes on.
    Log,
    /// On to the next tier.
    Pass,
}

/// A transport protocol: a number, because names differ between tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Protocol(pub u8);

/// An ICMP type, and the code where the rule has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Icmp {
    /// The type.
    pub kind: u8,
    /// The code; none: any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<u8>,
}

/// Ports from `first` to `last`, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct PortRange {
    /// The lowest.
    pub first: u16,
    /// The highest.
    pub last: u16,
}

/// One rule: all conditions that are present must hold; within a list, one suffices.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize)]
pub struct Rule {
    /// What it does.
    pub action: Action,
    /// 4 or 6; none: both.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_version: Option<u8>,
    /// Of this protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// Not of this protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_protocol: Option<Protocol>,
    /// Of this ICMP type (of the packet's IP version).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub icmp: Option<Icmp>,
    /// Not of this ICMP type.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_icmp: Option<Icmp>,
    /// Where it comes from.
    pub source: Peer,
    /// Where it goes.
    pub destination: Peer,
}

/// The conditions on one side of a packet. Ids name [`Topic::IpSet`]s; the packet must be in each.
#[derive(Clone, Debug, PartialEq, Eq, Default, Serialize)]
pub struct Peer {
    /// In one of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub nets: Vec<IpNet>,
    /// In none of these.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_nets: Vec<IpNet>,
    /// In all of these sets of addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sets: Vec<ArcStr>,
    /// In none of these sets of addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_sets: Vec<ArcStr>,
    /// In one of these ranges, or in one of `port_sets`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortRange>,
    /// Its address, protocol and port in one of these sets (named ports), or in `ports`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub port_sets: Vec<ArcStr>,
    /// In none of these ranges.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_ports: Vec<PortRange>,
    /// Its address, protocol and port in none of these sets.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_port_sets: Vec<ArcStr>,
    /// Its address, protocol and port in all of these sets (services).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub service_sets: Vec<ArcStr>,
}

/// What the members of an IP set look like; the id's prefix says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IpSetKind {
    /// Addresses and prefixes: `10.0.0.0/8`, `10.0.0.1/32`.
    Net,
    /// Address, protocol, port: `10.0.0.1,tcp:80`.
    AddressPort,
}

impl IpSetKind {
    /// The kind of the set with this id: `s:…` and `svcnoport:…` hold nets, `n:…` and `svc:…`
    /// addresses with ports.
    pub fn of(id: &str) -> Option<Self> {
        match id.split_once(':')?.0 {
            "s" | "svcnoport" => Some(Self::Net),
            "n" | "svc" => Some(Self::AddressPort),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_read_back_from_its_text() {
        let id = PolicyId::new("NetworkPolicy", "a", "b");
        let global = PolicyId::new("GlobalNetworkPolicy", "", "b");
        let topics = Topic::common().chain([
            Topic::Node("n".into()),
            Topic::Plist("x-_".into()),
            Topic::Policy(id),
            Topic::Policy(global),
            Topic::Profile("kns.a".into()),
            Topic::IpSet("s:abc".into()),
            Topic::Res(Kind::IPPool, 15),
        ]);
        for topic in topics {
            assert_eq!(topic.to_string().parse(), Ok(topic));
        }
        for bad in ["", "hosts/64", "hosts/-1", "hosts/", "res/IPPool/16", "policy/x", "config/x"] {
            assert!(bad.parse::<Topic>().is_err(), "{bad}");
        }
    }

    #[test]
    fn shards_follow_fnv_1a() {
        // The published test vector of FNV-1a-64 for "foobar".
        assert_eq!(fnv("foobar"), 0x8594_4171_f739_67e8);
        assert_eq!(shard("foobar"), 0x85 >> 2);
        assert_eq!(res_shard("foobar"), 0x8);
    }
}
