//! All topics and views at one publication, and what the newest publications changed.

use std::{collections::BTreeSet, sync::Arc};

use arcstr::ArcStr;
use imbl::{OrdMap, Vector as List};
use model::{
    Kind, StreamIndex,
    view::{SHARDS, Topic},
};

use crate::{
    topic::{Frame, TopicState},
    vector::Vector,
    versions::{Listings, Lists},
};

/// How many publications a snapshot remembers the topics of. A session that is further behind looks
/// at every topic of its view.
const LOG: usize = 256;
/// How many topics they may have in all.
const LOG_TOPICS: usize = 16 * 1024;

/// All topics and views at one publication. Cloning it is cheap.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The number of the publication; 0: nothing was published yet.
    pub publication: u64,
    /// How often the store went back in time. A session lives in one generation.
    pub generation: u64,
    /// The version of the last event applied, per stream.
    pub vector: Vector,
    /// The version known to be complete, per stream.
    pub progress: Vector,
    /// What lists have told.
    pub(crate) listings: Arc<Listings>,
    /// When the newest change was seen, nanoseconds since 1970.
    pub observed_at: u64,
    /// Only topics that have entries.
    pub(crate) topics: OrdMap<Topic, Arc<TopicState>>,
    pub(crate) views: OrdMap<ArcStr, Arc<BTreeSet<Topic>>>,
    /// The topics that a publication emptied while somebody could see them, and when: they are not
    /// in `topics` any more.
    pub(crate) emptied: OrdMap<Topic, u64>,
    pub(crate) log: Log,
}

impl Snapshot {
    /// A topic's state, if it has entries.
    pub fn topic(&self, topic: &Topic) -> Option<&Arc<TopicState>> {
        self.topics.get(topic)
    }

    /// The publication that changed a topic last; 0: never.
    pub fn changed(&self, topic: &Topic) -> u64 {
        match self.topics.get(topic) {
            Some(state) => state.changed,
            None => self.emptied.get(topic).copied().unwrap_or(0),
        }
    }

    /// The first stream of which one of `lists` knows what this snapshot doesn't, and its version.
    pub(crate) fn behind_list(&self, lists: &Lists) -> Option<(StreamIndex, u64)> {
        let behind = self.listings.first_behind(&self.progress, lists)?;
        Some((behind.0, behind.1.version))
    }

    /// Every node of the store.
    pub fn nodes(&self) -> impl Iterator<Item = &ArcStr> {
        let hosts = (0..SHARDS).filter_map(|shard| self.topic(&Topic::Hosts(shard)));
        hosts.flat_map(|hosts| hosts.entries.keys())
    }

    /// The whole view of a node: the common topics, its own, and what its endpoints use.
    pub fn node_view(&self, node: &ArcStr) -> BTreeSet<Topic> {
        let mut view: BTreeSet<Topic> = Topic::common().collect();
        view.insert(Topic::Node(node.clone()));
        if let Some(needed) = self.views.get(node) {
            view.extend(needed.iter().cloned());
        }
        view
    }

    /// Whether the node's endpoints use a topic.
    pub fn needs(&self, node: &ArcStr, topic: &Topic) -> bool {
        self.views.get(node).is_some_and(|needed| needed.contains(topic))
    }

    /// How many topics have entries.
    pub fn topic_count(&self) -> usize {
        self.topics.len()
    }

    /// How many entries all topics have.
    pub fn entry_count(&self) -> usize {
        self.topics.values().map(|topic| topic.entries.len()).sum()
    }

    /// Every topic that has entries, in order.
    pub fn topics(&self) -> impl Iterator<Item = (&Topic, &Arc<TopicState>)> {
        self.topics.iter()
    }

    /// Forgets whole topics that were encoded for sessions, and for which nobody has asked since
    /// this was called last.
    pub fn forget_unused(&self) {
        self.topics.values().for_each(|topic| topic.forget_unused());
    }
}

/// The topics that one publication changed, by who may see them.
#[derive(Debug, Default)]
pub(crate) struct Changed {
    publication: u64,
    /// In every node's view.
    pub(crate) common: Vec<Topic>,
    /// Of the full view.
    pub(crate) full: Vec<Topic>,
    /// What it did to these, one after the other; none: they come whole. Only of the newest publication.
    frames: Vec<Option<Arc<Frame>>>,
    /// Of one node alone: the node.
    pub(crate) own: BTreeSet<ArcStr>,
    /// In the views of those that need them.
    pub(crate) by_need: BTreeSet<Topic>,
}

impl Changed {
    pub(crate) fn new(publication: u64) -> Self {
        Self { publication, ..Self::default() }
    }

    pub(crate) fn add(&mut self, topic: &Topic, frame: Option<&Arc<Frame>>) {
        match topic {
            Topic::Config | Topic::Pools | Topic::Hosts(_) | Topic::Routes(_) => {
                self.common.push(topic.clone());
            }
            Topic::Node(node) => drop(self.own.insert(node.clone())),
            Topic::Plist(_) | Topic::Policy(_) | Topic::Profile(_) | Topic::IpSet(_) => {
                self.by_need.insert(topic.clone());
            }
            Topic::Res(..) => {
                self.full.push(topic.clone());
                self.frames.push(frame.cloned());
            }
        }
    }

    fn topic_count(&self) -> usize {
        self.common.len() + self.full.len() + self.own.len() + self.by_need.len()
    }
}

/// The newest publications, without gaps, oldest first.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    publications: List<Arc<Changed>>,
    topics: usize,
    /// Of the newest publication, its frames of the full view. Older ones would keep what history has forgotten.
    newest: Arc<Vec<Option<Arc<Frame>>>>,
}

impl Log {
    pub(crate) fn push(&mut self, mut changed: Changed) {
        self.newest = Arc::new(std::mem::take(&mut changed.frames));
        self.topics += changed.topic_count();
        self.publications.push_back(Arc::new(changed));
        while self.publications.len() > LOG || self.topics > LOG_TOPICS {
            let Some(oldest) = self.publications.pop_front() else { return };
            self.topics -= oldest.topic_count();
        }
    }

    /// What the one publication after this one did to topics of the full view, when there is only one.
    pub(crate) fn next(
        &self,
        publication: u64,
    ) -> Option<impl Iterator<Item = (&Topic, Option<&Arc<Frame>>)>> {
        let newest = self.publications.last()?;
        let frames = self.newest.iter().map(Option::as_ref);
        (newest.publication == publication + 1).then(|| newest.full.iter().zip(frames))
    }

    /// What every publication after this one changed; none when that is not known any more.
    pub(crate) fn after(&self, publication: u64) -> Option<impl Iterator<Item = &Changed>> {
        let oldest = self.publications.front().map_or(u64::MAX, |oldest| oldest.publication);
        (oldest <= publication + 1).then(|| {
            let newer = self.publications.iter().rev().map(AsRef::as_ref);
            newer.take_while(move |changed| changed.publication > publication)
        })
    }
}

/// Who may see something of a publication: all others needn't be woken.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Affected {
    /// Every node view.
    pub every_node: bool,
    /// The views of these nodes.
    pub nodes: BTreeSet<ArcStr>,
    /// Full views that have one of these kinds.
    pub kinds: BTreeSet<Kind>,
}
