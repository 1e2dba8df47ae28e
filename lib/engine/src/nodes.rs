//! What each node needs beyond the common topics, by reference counts.

use std::{
    collections::BTreeSet,
    hash::{Hash, Hasher},
};

use arcstr::ArcStr;

use crate::{
    HashMap,
    endpoints::{Data, Item},
    planted::Planted,
    policies::{Plist, Pol, Prof},
    sets::Set,
    slab::{Id, Slab},
};

/// A node with endpoints.
#[derive(Default)]
pub(crate) struct Node {
    pub(crate) name: ArcStr,
    pub(crate) endpoints: usize,
    /// Whether what it needs counts.
    pub(crate) served: bool,
    /// What it needs, and how many things there say so.
    needs: HashMap<Need, u32>,
}

/// A topic that nodes need because of something of theirs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Need {
    Plist(Id<Plist>),
    Policy(Id<Pol>),
    Profile(Id<Prof>),
    Set(Id<Set>),
}

/// Up to so many changed needs the room for them is kept for the next flush.
const SMALL: usize = 1024;

impl Need {
    /// Another one for each.
    fn number(self) -> u64 {
        let (kind, id) = match self {
            Self::Plist(id) => (0, id.number()),
            Self::Policy(id) => (1, id.number()),
            Self::Profile(id) => (2, id.number()),
            Self::Set(id) => (3, id.number()),
        };
        kind << 32 | u64::from(id)
    }

    /// The need of this [`Need::number`]; higher bits don't count.
    fn of_number(number: u64) -> Option<Self> {
        let id = number as u32;
        Some(match number >> 32 & 3 {
            0 => Self::Plist(Id::of_number(id)?),
            1 => Self::Policy(Id::of_number(id)?),
            2 => Self::Profile(Id::of_number(id)?),
            _ => Self::Set(Id::of_number(id)?),
        })
    }
}

/// The bits of a [`Need::number`]. The others are for nodes: a billion of them.
const NEED_BITS: u32 = 34;

/// A node and a need as one number.
fn mark(node: Id<Node>, need: Need) -> u64 {
    u64::from(node.number()) << NEED_BITS | need.number()
}

impl Hash for Need {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.number());
    }
}

/// All nodes with endpoints.
#[derive(Default)]
pub(crate) struct Nodes {
    pub(crate) slab: Slab<Node>,
    by_name: HashMap<ArcStr, Id<Node>>,
    /// What other nodes need doesn't count.
    pub(crate) only: Option<ArcStr>,
    /// What began or ended to be needed since the last flush, as often as it did: see [`mark`].
    touched: Vec<u64>,
    /// Nodes that may have no endpoint left.
    idle: BTreeSet<Id<Node>>,
}

impl Nodes {
    /// An endpoint more on a node.
    pub(crate) fn join(&mut self, name: &ArcStr) -> Id<Node> {
        let id = *self.by_name.entry(name.clone()).or_insert_with(|| {
            let served = self.only.as_ref().is_none_or(|only| only == name)
                || Planted::OthersServed.is_here();
            self.slab.insert(Node { name: name.clone(), served, ..Node::default() })
        });
        self.slab[id].endpoints += 1;
        id
    }

    /// Whether an item is an endpoint of a node whose needs count.
    pub(crate) fn serves(&self, item: &Item) -> bool {
        matches!(&item.data, Data::Endpoint(local) if self.slab[local.node].served)
    }

    /// An endpoint less.
    pub(crate) fn leave(&mut self, id: Id<Node>) {
        self.slab[id].endpoints -= 1;
        self.idle.insert(id);
    }

    /// One thing more (or less) on a node says that it needs this. True: it is the first (or was
    /// the last) one.
    pub(crate) fn count(&mut self, id: Id<Node>, need: Need, more: bool) -> bool {
        if !self.slab[id].served {
            return false;
        }
        let needs = &mut self.slab[id].needs;
        let count = needs.entry(need).or_default();
        let before = *count;
        let less = if Planted::NeedNotCounted.is_here() { before } else { 1 };
        *count = if more { before + 1 } else { before.saturating_sub(less) };
        let after = *count;
        if after == 0 {
            needs.remove(&need);
        }
        let crossed = (before == 0) != (after == 0);
        if crossed {
            self.touched.push(mark(id, need));
        }
        crossed
    }

    /// What this node needs.
    pub(crate) fn needs(&self, name: &str) -> impl Iterator<Item = Need> {
        let node = self.by_name.get(name).map(|id| &self.slab[*id]);
        node.into_iter().flat_map(|node| node.needs.keys().copied())
    }

    /// Calls back with what really changed, once for each node: its name, what it needs, and whether
    /// now.
    pub(crate) fn flush(&mut self, mut change: impl FnMut(&ArcStr, &[(Need, bool)])) {
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        let mut changed = Vec::with_capacity(touched.len().min(SMALL));
        for of_node in touched.chunk_by(|a, b| a >> NEED_BITS == b >> NEED_BITS) {
            let Some(id) = Id::of_number((of_node[0] >> NEED_BITS) as u32) else { continue };
            let node = &self.slab[id];
            for of_need in of_node.chunk_by(|a, b| a == b) {
                // What began and ended as often is as it was.
                if of_need.len() % 2 == 1
                    && let Some(need) = Need::of_number(of_need[0])
                {
                    changed.push((need, node.needs.contains_key(&need)));
                }
            }
            if !changed.is_empty() {
                change(&node.name, &changed);
                changed.clear();
            }
        }
        if touched.len() <= SMALL {
            touched.clear();
            self.touched = touched;
        }
        for id in std::mem::take(&mut self.idle) {
            if self.slab[id].endpoints == 0 {
                let node = self.slab.remove(id);
                self.by_name.remove(&node.name);
            }
        }
    }
}
