//! The publisher: the one owner of what a server has published, and the snapshots that sessions read.
//!
//! Each publication applies a batch of changes, all at one version vector, and numbers it. Sessions
//! get the state as an immutable [`Snapshot`] that shares its structure with the one before.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use arcstr::ArcStr;
use bytes::Bytes;
use imbl::OrdMap;
use model::view::Topic;

use crate::{
    digest::{DigestKey, TopicDigest},
    vector::Vector,
};

/// One entry, encoded: written or, without a value, gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The topic.
    pub topic: Topic,
    /// The key in the topic.
    pub key: ArcStr,
    /// The entry's bytes as they travel.
    pub value: Option<Bytes>,
}

/// What a node needs besides the common topics and its own, as a difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ViewChange {
    /// Whose view.
    pub node: ArcStr,
    /// Topics that it needs now.
    pub add: Vec<Topic>,
    /// Topics that it no longer needs.
    pub drop: Vec<Topic>,
}

/// A topic at a publication.
#[derive(Clone, Debug, Default)]
pub struct TopicState {
    /// Its entries, in the order of their keys.
    pub entries: OrdMap<ArcStr, Bytes>,
    /// Their digest.
    pub digest: TopicDigest,
    /// The publication that changed it last.
    pub changed: u64,
}

/// All topics and views at one publication. Cloning it is cheap.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// The number of the publication; 0: nothing was published yet.
    pub publication: u64,
    /// The version of the last event applied, per stream.
    pub vector: Vector,
    /// The version known to be complete, per stream.
    pub progress: Vector,
    /// When the newest change was seen, nanoseconds since 1970.
    pub observed_at: u64,
    /// Only topics that have entries.
    topics: OrdMap<Topic, Arc<TopicState>>,
    views: OrdMap<ArcStr, Arc<BTreeSet<Topic>>>,
    /// The topics that a publication emptied while somebody could see them, and when: they are not
    /// in `topics` any more.
    emptied: OrdMap<Topic, u64>,
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

    /// The whole view of a node: the common topics, its own, and what its endpoints use.
    pub fn node_view(&self, node: &ArcStr) -> BTreeSet<Topic> {
        let mut view: BTreeSet<Topic> = Topic::common().collect();
        view.insert(Topic::Node(node.clone()));
        if let Some(needed) = self.views.get(node) {
            view.extend(needed.iter().cloned());
        }
        view
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
}

/// Applies changes and makes snapshots.
#[derive(Debug)]
pub struct Publisher {
    key: DigestKey,
    now: Snapshot,
    /// In how many views each topic is, so that an emptied one is forgotten with its last view.
    users: HashMap<Topic, usize>,
}

impl Publisher {
    /// A publisher that has published nothing.
    pub fn new(key: DigestKey) -> Self {
        Self { key, now: Snapshot::default(), users: HashMap::new() }
    }

    /// The newest publication.
    pub fn snapshot(&self) -> Snapshot {
        self.now.clone()
    }

    /// The store went back in time: versions start anew. Sessions notice, because theirs went back,
    /// and end.
    pub fn rewind(&mut self) {
        self.now.vector = Vector::default();
        self.now.progress = Vector::default();
    }

    /// Publishes a batch. `vector` and `progress` say what the store's streams had reached when the
    /// batch was computed; `observed_at` is the clock then. A write of what is there already counts
    /// as no change; when nothing at all changes, the number of the publication stays.
    pub fn publish(
        &mut self,
        changes: impl IntoIterator<Item = Change>,
        views: impl IntoIterator<Item = ViewChange>,
        vector: &Vector,
        progress: &Vector,
        observed_at: u64,
    ) -> &Snapshot {
        let publication = self.now.publication + 1;
        let mut any = self.now.publication == 0;
        for change in changes {
            any |= self.apply(change, publication);
        }
        for view in views {
            any = true;
            self.apply_view(view, publication);
        }
        self.now.vector.join(vector);
        self.now.progress.join(progress);
        if any {
            self.now.publication = publication;
            self.now.observed_at = observed_at;
        }
        &self.now
    }

    fn apply(&mut self, change: Change, publication: u64) -> bool {
        let Change { topic, key, value } = change;
        let old = self.now.topics.get(&topic).and_then(|state| state.entries.get(&key)).cloned();
        if old == value {
            return false;
        }
        let name = topic.to_string();
        let state = Arc::make_mut(self.now.topics.entry(topic.clone()).or_default());
        if let Some(old) = old {
            state.digest.remove(&self.key, &name, &key, &old);
            state.entries.remove(&key);
        }
        if let Some(value) = value {
            state.digest.add(&self.key, &name, &key, &value);
            state.entries.insert(key, value);
        }
        state.changed = publication;
        if state.entries.is_empty() {
            self.now.topics.remove(&topic);
            if !is_by_need(&topic) || self.users.contains_key(&topic) {
                self.now.emptied.insert(topic, publication);
            }
        } else {
            self.now.emptied.remove(&topic);
        }
        true
    }

    fn apply_view(&mut self, change: ViewChange, publication: u64) {
        let view = Arc::make_mut(self.now.views.entry(change.node.clone()).or_default());
        for topic in &change.drop {
            if !view.remove(topic) {
                continue;
            }
            if let Some(users) = self.users.get_mut(topic) {
                *users -= 1;
                if *users == 0 {
                    self.users.remove(topic);
                    self.now.emptied.remove(topic);
                }
            }
        }
        for topic in change.add {
            if view.insert(topic.clone()) {
                // A session that lags may hold it from before it was emptied and forgotten.
                if !self.now.topics.contains_key(&topic) {
                    self.now.emptied.insert(topic.clone(), publication);
                }
                *self.users.entry(topic).or_default() += 1;
            }
        }
        if view.is_empty() {
            self.now.views.remove(&change.node);
        }
    }
}

/// Topics that come and go with what uses them: only a node view that names them shows them.
fn is_by_need(topic: &Topic) -> bool {
    matches!(topic, Topic::Plist(_) | Topic::Policy(_) | Topic::Profile(_) | Topic::IpSet(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: DigestKey = DigestKey([7; 16]);

    fn put(topic: &Topic, key: &str, value: &str) -> Change {
        let value = Some(Bytes::copy_from_slice(value.as_bytes()));
        Change { topic: topic.clone(), key: key.into(), value }
    }

    fn delete(topic: &Topic, key: &str) -> Change {
        Change { topic: topic.clone(), key: key.into(), value: None }
    }

    fn publish(publisher: &mut Publisher, changes: Vec<Change>) -> Snapshot {
        publisher.publish(changes, [], &Vector::default(), &Vector::default(), 0).clone()
    }

    #[test]
    fn what_is_written_again_is_no_publication() {
        let mut publisher = Publisher::new(KEY);
        let first = publish(&mut publisher, vec![put(&Topic::Pools, "a", "1")]);
        let again = publish(&mut publisher, vec![put(&Topic::Pools, "a", "1")]);
        assert_eq!((first.publication, again.publication), (1, 1));
        let gone = publish(&mut publisher, vec![delete(&Topic::Config, "never there")]);
        assert_eq!(gone.publication, 1);
    }

    #[test]
    fn a_topic_that_lost_its_last_entry_still_says_when() {
        let mut publisher = Publisher::new(KEY);
        publish(&mut publisher, vec![put(&Topic::Pools, "a", "1")]);
        let empty = publish(&mut publisher, vec![delete(&Topic::Pools, "a")]);
        assert_eq!(empty.changed(&Topic::Pools), 2);
        assert!(empty.topic(&Topic::Pools).is_none());
    }

    #[test]
    fn an_emptied_topic_is_forgotten_with_its_last_view() {
        let set = Topic::IpSet("s:x".into());
        let view = |add: &[Topic], drop: &[Topic]| ViewChange {
            node: "a".into(),
            add: add.to_vec(),
            drop: drop.to_vec(),
        };
        let none = Vector::default();
        let mut publisher = Publisher::new(KEY);
        let fill = [put(&set, "10.0.0.1/32", "")];
        publisher.publish(fill, [view(std::slice::from_ref(&set), &[])], &none, &none, 0);
        publisher.publish([delete(&set, "10.0.0.1/32")], [], &none, &none, 0);
        assert_eq!(publisher.snapshot().changed(&set), 2, "in a view, so its end is news");
        publisher.publish([], [view(&[], std::slice::from_ref(&set))], &none, &none, 0);
        assert!(publisher.snapshot().emptied.is_empty());
    }

    #[test]
    fn a_snapshot_stays_as_it_was_when_the_publisher_goes_on() {
        let mut publisher = Publisher::new(KEY);
        let before = publish(&mut publisher, vec![put(&Topic::Pools, "a", "1")]);
        publish(&mut publisher, vec![put(&Topic::Pools, "a", "2"), put(&Topic::Pools, "b", "1")]);
        assert_eq!(before.topic(&Topic::Pools).unwrap().entries.len(), 1);
        assert_eq!(publisher.snapshot().entry_count(), 2);
    }

    #[test]
    fn two_ways_to_the_same_content_give_the_same_digest() {
        let mut one = Publisher::new(KEY);
        publish(&mut one, vec![put(&Topic::Pools, "a", "1"), put(&Topic::Pools, "b", "2")]);
        let one = publish(&mut one, vec![put(&Topic::Pools, "a", "3")]);
        let mut two = Publisher::new(KEY);
        publish(&mut two, vec![put(&Topic::Pools, "b", "2"), put(&Topic::Pools, "x", "2")]);
        let two = publish(&mut two, vec![delete(&Topic::Pools, "x"), put(&Topic::Pools, "a", "3")]);
        let digest = |snapshot: &Snapshot| snapshot.topic(&Topic::Pools).unwrap().digest;
        assert_eq!(digest(&one), digest(&two));
    }

    #[test]
    fn a_node_sees_the_common_topics_its_own_and_what_it_needs() {
        let mut publisher = Publisher::new(KEY);
        let set = Topic::IpSet("s:x".into());
        let views = [ViewChange { node: "a".into(), add: vec![set.clone()], drop: Vec::new() }];
        publisher.publish([], views, &Vector::default(), &Vector::default(), 0);
        let snapshot = publisher.snapshot();
        assert!(snapshot.node_view(&"a".into()).contains(&set));
        assert!(!snapshot.node_view(&"b".into()).contains(&set));
        assert!(!snapshot.node_view(&"b".into()).contains(&Topic::Node("a".into())));
    }
}
