//! The store, its history, and the model: what a node must hold, computed from the history alone.

use std::collections::BTreeMap;

use bytes::Bytes;
use model::view::{Endpoint, Entry, Pool, ProfileRules, Rule, Topic};
use siphasher::sip128::SipHasher24;

/// The nodes that agents are of.
pub(crate) const NODES: [&str; 2] = ["a", "b"];
/// The cluster's key of digests.
pub(crate) const KEY: [u8; 16] = [3; 16];
/// No store has more streams here.
pub(crate) const STREAMS: usize = 2;
/// Up to which version each stream is known.
pub(crate) type Reached = [u64; STREAMS];

const POOL: &str = "10.0.0.0/16";
const SECOND: &str = "10.1.0.0/16";
const ENDPOINT: &str = "wep/k8s/default/pod/eth0/u";
const PROFILE: &str = "p";

/// One version of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Happening {
    /// The pool, in a topic that all nodes have, is written or deleted. Values 1 and 2 differ in a
    /// field that this version of the program doesn't know.
    Pool(Option<u8>),
    /// The same of another pool in that topic.
    Second(Option<u8>),
    /// A node's endpoint is written, with or without the profile, or deleted.
    Endpoint(usize, Option<bool>),
    /// The profile's rules, in a topic that a node has while its endpoint uses the profile.
    Rules(u8),
    /// A write that no stream is about.
    Elsewhere,
}

impl Happening {
    fn stream(self, streams: usize) -> Option<usize> {
        match self {
            Self::Pool(_) | Self::Second(_) | Self::Rules(_) => Some(0),
            Self::Endpoint(..) => Some(streams - 1),
            Self::Elsewhere => None,
        }
    }
}

/// Entries by topic and key.
pub(crate) type Contents = BTreeMap<(String, String), Bytes>;

/// The objects of the store at some versions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct World {
    pub(crate) pool: Option<u8>,
    pub(crate) second: Option<u8>,
    pub(crate) endpoints: [Option<bool>; 2],
    pub(crate) rules: u8,
}

impl World {
    pub(crate) fn apply(&mut self, happening: Happening) {
        match happening {
            Happening::Pool(pool) => self.pool = pool,
            Happening::Second(pool) => self.second = pool,
            Happening::Endpoint(node, endpoint) => self.endpoints[node] = endpoint,
            Happening::Rules(rules) => self.rules = rules,
            Happening::Elsewhere => {}
        }
    }

    pub(crate) fn uses_profile(&self, node: usize) -> bool {
        self.endpoints[node] == Some(true)
    }

    /// The model: what a node must hold.
    pub(crate) fn view(&self, node: usize) -> Contents {
        let mut view = Contents::new();
        let mut put = |topic: Topic, key: &str, value| {
            view.insert((topic.to_string(), key.to_owned()), value);
        };
        for (key, value) in [(POOL, self.pool), (SECOND, self.second)] {
            if let Some(value) = value {
                put(Topic::Pools, key, pool_entry(value));
            }
        }
        if let Some(uses_profile) = self.endpoints[node] {
            put(Topic::Node(NODES[node].into()), ENDPOINT, endpoint_entry(uses_profile));
        }
        if self.uses_profile(node) {
            put(Topic::Profile(PROFILE.into()), "", rules_entry(self.rules));
        }
        view
    }
}

/// A history of the store: version n is what happened n-th.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    pub(crate) happenings: Vec<Happening>,
    pub(crate) streams: usize,
}

impl Log {
    /// The store's objects as they are for one who knows each stream up to a version.
    pub(crate) fn world(&self, reached: &Reached) -> World {
        let mut world = World::default();
        for (version, stream, happening) in self.events() {
            if version <= reached[stream] {
                world.apply(happening);
            }
        }
        world
    }

    /// What happened in the streams: version, stream and what.
    pub(crate) fn events(&self) -> impl Iterator<Item = (u64, usize, Happening)> + '_ {
        self.happenings.iter().zip(1..).filter_map(|(happening, version)| {
            happening.stream(self.streams).map(|stream| (version, stream, *happening))
        })
    }

    /// Whether what happens after `version` is no event of a stream.
    pub(crate) fn is_elsewhere(&self, version: u8) -> bool {
        self.happenings.get(usize::from(version)) == Some(&Happening::Elsewhere)
    }

    /// The objects of a stream and their versions: what a list can tell.
    pub(crate) fn objects(&self, stream: usize, at: u64) -> BTreeMap<usize, u64> {
        let mut objects = BTreeMap::new();
        for (version, of, happening) in self.events() {
            if of == stream && version <= at {
                let (object, there) = match happening {
                    Happening::Pool(pool) => (0, pool.is_some()),
                    Happening::Second(pool) => (1, pool.is_some()),
                    Happening::Rules(_) => (2, true),
                    Happening::Endpoint(node, endpoint) => (3 + node, endpoint.is_some()),
                    Happening::Elsewhere => continue,
                };
                if there {
                    objects.insert(object, version)
                } else {
                    objects.remove(&object)
                };
            }
        }
        objects
    }

    /// The newest version among the objects that are there.
    pub(crate) fn newest(&self, stream: usize, at: u64) -> u64 {
        self.objects(stream, at).into_values().max().unwrap_or(0)
    }
}

pub(crate) fn pool_change(value: Option<u8>) -> (Topic, &'static str, Option<Bytes>) {
    (Topic::Pools, POOL, value.map(pool_entry))
}

pub(crate) fn second_change(value: Option<u8>) -> (Topic, &'static str, Option<Bytes>) {
    (Topic::Pools, SECOND, value.map(pool_entry))
}

pub(crate) fn endpoint_change(
    node: usize,
    endpoint: Option<bool>,
) -> (Topic, &'static str, Option<Bytes>) {
    (Topic::Node(NODES[node].into()), ENDPOINT, endpoint.map(endpoint_entry))
}

pub(crate) fn rules_change(rules: Option<u8>) -> (Topic, &'static str, Option<Bytes>) {
    (profile(), "", rules.map(rules_entry))
}

pub(crate) fn profile() -> Topic {
    Topic::Profile(PROFILE.into())
}

fn pool_entry(value: u8) -> Bytes {
    let entry = Entry::Pool(Pool { nat_outgoing: value > 0, ..Pool::default() });
    let mut bytes = proto::encode(&entry);
    if value > 1 {
        // Field 99, a number: `value`.
        bytes.extend([0x98, 0x06, value]);
    }
    bytes.into()
}

fn endpoint_entry(uses_profile: bool) -> Bytes {
    let profiles = uses_profile.then(|| PROFILE.into()).into_iter().collect();
    let entry = Endpoint { interface: "cali1".into(), profiles, ..Endpoint::default() };
    proto::encode(&Entry::Endpoint(entry)).into()
}

fn rules_entry(rules: u8) -> Bytes {
    let ingress = vec![Rule::default(); rules.into()];
    proto::encode(&Entry::Profile(ProfileRules { ingress, egress: Vec::new() }.into())).into()
}

/// The digest of entries of one topic as the protocol defines it: the sum of keyed hashes, and the
/// number.
pub(crate) fn digest<'a>(
    topic: &str,
    entries: impl Iterator<Item = (&'a str, &'a [u8])>,
) -> (u128, u64) {
    entries.fold((0, 0), |(sum, count), (key, value)| {
        let mut hashed = Vec::new();
        for part in [topic.as_bytes(), key.as_bytes(), value] {
            hashed.extend(u32::try_from(part.len()).unwrap().to_le_bytes());
            hashed.extend(part);
        }
        let hash = SipHasher24::new_with_key(&KEY).hash(&hashed);
        (u128::wrapping_add(sum, u128::from_le_bytes(hash.as_bytes())), count + 1)
    })
}
