//! What this node should be: the entries of its topics, read into types, and what changed in them.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    ops::Bound,
    sync::Arc,
};

use arcstr::ArcStr;
use ipnet::IpNet;
use model::view::{
    ConfigEntry, Endpoint, Entry, Host, IpSetKind, Policy, PolicyId, PolicyList, Pool,
    ProfileRules, Route, Topic, shard,
};

use crate::family::{Family, is_host};

/// A member of an IP set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Member {
    /// Addresses.
    Net(IpNet),
    /// An address with protocol number and port.
    AddressPort(IpAddr, u8, u16),
}

impl Member {
    /// The family of its addresses.
    pub(crate) fn family(&self) -> Family {
        match self {
            Self::Net(net) => Family::of_net(*net),
            Self::AddressPort(address, ..) => Family::of(*address),
        }
    }

    /// Reads `10.0.0.0/8` or `10.0.0.1,tcp:80`, as the set's kind asks.
    fn parse(kind: IpSetKind, text: &str) -> Result<Self, String> {
        match kind {
            IpSetKind::Net => canonical_net(text).map(Self::Net),
            IpSetKind::AddressPort => {
                let parts = || {
                    let (address, rest) = text.rsplit_once(',')?;
                    let (protocol, port) = rest.split_once(':')?;
                    let protocol = match protocol {
                        "tcp" => 6,
                        "udp" => 17,
                        "sctp" => 132,
                        _ => return None,
                    };
                    Some(Self::AddressPort(address.parse().ok()?, protocol, port.parse().ok()?))
                };
                parts().ok_or_else(|| {
                    format!("{text:?} is no member of this set: expected such as 10.0.0.1,tcp:80")
                })
            }
        }
    }
}

/// Reads a CIDR that must be spelled as we spell it, so that no two keys mean the same.
fn canonical_net(text: &str) -> Result<IpNet, String> {
    let net: IpNet = text
        .parse()
        .map_err(|_| format!("{text:?} is no CIDR: expected such as 10.0.0.0/8 or fd00::/64"))?;
    let canonical = net.trunc();
    if canonical.to_string() == text {
        Ok(canonical)
    } else {
        Err(format!("{text:?} is not spelled canonically: expected {canonical}"))
    }
}

/// What changed since a reconciler last looked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) config: bool,
    pub(crate) pools: bool,
    pub(crate) hosts: BTreeSet<ArcStr>,
    pub(crate) routes: BTreeSet<IpNet>,
    pub(crate) endpoints: BTreeSet<ArcStr>,
    pub(crate) plists: BTreeSet<ArcStr>,
    pub(crate) policies: BTreeSet<PolicyId>,
    pub(crate) profiles: BTreeSet<ArcStr>,
    pub(crate) members: BTreeMap<ArcStr, BTreeSet<Member>>,
}

/// How much a view holds, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Own endpoints.
    pub endpoints: usize,
    /// Policies in use.
    pub policies: usize,
    /// IP sets that have members.
    pub sets: usize,
    /// Nodes.
    pub hosts: usize,
    /// Routes.
    pub routes: usize,
}

/// The desired view of this node, whole commits at a time.
///
/// The owner puts the entries of one commit in with [`NodeView::set`] and then calls
/// [`crate::Reconciler::commit`].
#[derive(Clone, Debug, Default)]
pub struct NodeView {
    pub(crate) config: BTreeMap<ArcStr, ConfigEntry>,
    /// Configuration for this node alone; key `config/<name>`.
    pub(crate) overrides: BTreeMap<ArcStr, ConfigEntry>,
    pub(crate) pools: BTreeMap<IpNet, Pool>,
    pub(crate) hosts: BTreeMap<ArcStr, Host>,
    pub(crate) routes: BTreeMap<IpNet, Route>,
    pub(crate) endpoints: BTreeMap<ArcStr, Endpoint>,
    pub(crate) plists: BTreeMap<ArcStr, PolicyList>,
    pub(crate) policies: BTreeMap<PolicyId, Policy>,
    pub(crate) profiles: BTreeMap<ArcStr, ProfileRules>,
    pub(crate) sets: BTreeMap<ArcStr, BTreeSet<Member>>,
    /// Entries that couldn't be read, and why.
    pub(crate) bad: BTreeMap<(Topic, ArcStr), String>,
    pub(crate) changes: Changes,
}

impl NodeView {
    /// Sets or removes one entry. One that doesn't fit its topic is left out, and reported by every
    /// commit until it is set anew or removed; an older good value doesn't live on.
    pub fn set(&mut self, topic: &Topic, key: &str, entry: Option<Entry>) {
        let place = (topic.clone(), ArcStr::from(key));
        self.bad.remove(&place);
        let removed = entry.is_none();
        if let Err(reason) = self.put(topic, &place.1, entry)
            && !removed
        {
            // What can't be read must not leave its predecessor in force.
            let _ = self.put(topic, &place.1, None);
            self.bad.insert(place, reason);
        }
    }

    /// Notes an entry that couldn't be read: it is left out and reported, and an older good value
    /// doesn't live on.
    pub fn set_unreadable(&mut self, topic: &Topic, key: &str, reason: String) {
        self.set(topic, key, None);
        self.bad.insert((topic.clone(), key.into()), reason);
    }

    /// How much there is of everything.
    pub fn sizes(&self) -> Sizes {
        Sizes {
            endpoints: self.endpoints.len(),
            policies: self.policies.len(),
            sets: self.sets.len(),
            hosts: self.hosts.len(),
            routes: self.routes.len(),
        }
    }

    /// Removes a topic with all its entries.
    pub fn drop_topic(&mut self, topic: &Topic) {
        for key in self.keys(topic) {
            self.set(topic, &key, None);
        }
        self.bad.retain(|(bad, _), _| bad != topic);
    }

    /// The keys of a topic, those of unreadable entries left out.
    pub fn keys(&self, topic: &Topic) -> Vec<ArcStr> {
        fn text<'a, K: ToString + 'a>(keys: impl Iterator<Item = &'a K>) -> Vec<ArcStr> {
            keys.map(|key| key.to_string().into()).collect()
        }
        let one = |there: bool| if there { vec![ArcStr::new()] } else { Vec::new() };
        match topic {
            Topic::Config => text(self.config.keys()),
            Topic::Pools => text(self.pools.keys()),
            Topic::Hosts(n) => text(self.hosts.keys().filter(|key| shard(key) == *n)),
            Topic::Routes(n) => {
                text(self.routes.keys().filter(|key| shard(&key.to_string()) == *n))
            }
            Topic::Node(_) => text(self.endpoints.keys().chain(self.overrides.keys())),
            Topic::Plist(id) => one(self.plists.contains_key(id)),
            Topic::Policy(id) => one(self.policies.contains_key(id)),
            Topic::Profile(name) => one(self.profiles.contains_key(name)),
            Topic::IpSet(id) => {
                let members = self.sets.get(id).into_iter().flatten();
                members.map(|member| member.to_string().into()).collect()
            }
            Topic::Res(..) => Vec::new(),
        }
    }

    fn put(&mut self, topic: &Topic, key: &ArcStr, entry: Option<Entry>) -> Result<(), String> {
        let changes = &mut self.changes;
        match (topic, entry) {
            (Topic::Config, Some(Entry::Config(value))) => {
                changes.config |= put(&mut self.config, key.clone(), Some(value));
            }
            (Topic::Config, None) => changes.config |= put(&mut self.config, key.clone(), None),
            (Topic::Node(_), Some(Entry::Config(value))) if key.starts_with("config/") => {
                changes.config |= put(&mut self.overrides, key.clone(), Some(value));
            }
            (Topic::Node(_), None) if key.starts_with("config/") => {
                changes.config |= put(&mut self.overrides, key.clone(), None);
            }
            // For whoever configures a BGP speaker: nothing here does.
            (Topic::Node(_), _) if key.starts_with("bgp") => {}
            (Topic::Node(_), entry) => {
                let value = match entry {
                    None => None,
                    Some(Entry::Endpoint(value)) => Some(value),
                    Some(_) => return Err(unfit(topic)),
                };
                if put(&mut self.endpoints, key.clone(), value) {
                    changes.endpoints.insert(key.clone());
                }
            }
            (Topic::Pools, entry) => {
                let value = match entry {
                    None => None,
                    Some(Entry::Pool(value)) => Some(value),
                    Some(_) => return Err(unfit(topic)),
                };
                changes.pools |= put(&mut self.pools, canonical_net(key)?, value);
            }
            (Topic::Hosts(n), entry) => {
                let value = match entry {
                    None => None,
                    Some(Entry::Host(value)) if shard(key) == *n => Some(*value),
                    Some(_) => return Err(unfit(topic)),
                };
                if put(&mut self.hosts, key.clone(), value) {
                    changes.hosts.insert(key.clone());
                }
            }
            (Topic::Routes(n), entry) => {
                let value = match entry {
                    None => None,
                    Some(Entry::Route(value)) if shard(key) == *n => Some(value),
                    Some(_) => return Err(unfit(topic)),
                };
                let cidr = canonical_net(key)?;
                if put(&mut self.routes, cidr, value) {
                    changes.routes.insert(cidr);
                }
            }
            (Topic::Plist(id), entry) => {
                let value = match entry {
                    None => None,
                    Some(Entry::Plist(value)) => Some(value),
                    Some(_) => return Err(unfit(topic)),
                };
                if put(&mut self.plists, id.clone(), value) {
                    changes.plists.insert(id.clone());
                }
            }
            (Topic::Policy(id), entry) => {
                let value = match entry {
                    None => None,
                    Some(Entry::Policy(value)) => Some(Arc::unwrap_or_clone(value)),
                    Some(_) => return Err(unfit(topic)),
                };
                if put(&mut self.policies, id.clone(), value) {
                    changes.policies.insert(id.clone());
                }
            }
            (Topic::Profile(name), entry) => {
                let value = match entry {
                    None => None,
                    Some(Entry::Profile(value)) => Some(Arc::unwrap_or_clone(value)),
                    Some(_) => return Err(unfit(topic)),
                };
                if put(&mut self.profiles, name.clone(), value) {
                    changes.profiles.insert(name.clone());
                }
            }
            (Topic::IpSet(id), entry) => return self.put_member(id, key, entry.as_ref()),
            (Topic::Config | Topic::Res(..), _) => return Err(unfit(topic)),
        }
        Ok(())
    }

    fn put_member(
        &mut self,
        id: &ArcStr,
        key: &ArcStr,
        entry: Option<&Entry>,
    ) -> Result<(), String> {
        let kind = IpSetKind::of(id).ok_or_else(|| format!("{id:?} is no id of an IP set"))?;
        let member = Member::parse(kind, key)?;
        let changed = match entry {
            Some(Entry::Member) => self.sets.entry(id.clone()).or_default().insert(member),
            Some(_) => return Err(unfit(&Topic::IpSet(id.clone()))),
            None => {
                let Some(members) = self.sets.get_mut(id) else { return Ok(()) };
                let removed = members.remove(&member);
                if members.is_empty() {
                    self.sets.remove(id);
                }
                removed
            }
        };
        if changed {
            self.changes.members.entry(id.clone()).or_default().insert(member);
        }
        Ok(())
    }

    /// The prefixes (not single addresses) among a set's members that lie within `net`.
    pub(crate) fn prefixes_within(&self, id: &str, net: IpNet) -> impl Iterator<Item = IpNet> {
        // A net sorts by its first address and then its length, so all within lie side by side.
        let last = IpNet::new_assert(net.broadcast(), net.max_prefix_len());
        let range = (Bound::Included(Member::Net(net)), Bound::Included(Member::Net(last)));
        self.sets.get(id).into_iter().flat_map(move |members| members.range(range)).filter_map(
            |member| match member {
                Member::Net(net) if !is_host(*net) => Some(*net),
                _ => None,
            },
        )
    }
}

impl std::fmt::Display for Member {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Net(net) => write!(f, "{net}"),
            Self::AddressPort(address, protocol, port) => {
                let protocol = match protocol {
                    6 => "tcp",
                    17 => "udp",
                    _ => "sctp",
                };
                write!(f, "{address},{protocol}:{port}")
            }
        }
    }
}

/// Sets or removes a key; whether that changed anything.
fn put<K: Ord, V: PartialEq>(map: &mut BTreeMap<K, V>, key: K, value: Option<V>) -> bool {
    match value {
        None => map.remove(&key).is_some(),
        Some(value) => {
            if map.get(&key) == Some(&value) {
                return false;
            }
            map.insert(key, value);
            true
        }
    }
}

fn unfit(topic: &Topic) -> String {
    format!("this entry doesn't belong into topic {topic}: agent and server may differ in version")
}
