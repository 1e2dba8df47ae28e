//! The publisher: the one owner of what a server has published, and the snapshots that sessions read.
//!
//! Each publication applies a batch of changes, all at one version vector, and numbers it. Sessions
//! get the state as an immutable [`Snapshot`] that shares its structure with the one before.
//!
//! A topic also carries its newest changes as [`Frame`]s, one per publication, so that a session a
//! little behind gets the difference. All topics' frames share one budget of bytes; the oldest go
//! first, and a session that would need them gets the topic whole.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use arcstr::ArcStr;
use bytes::Bytes;
use imbl::OrdMap;
use model::view::Topic;
use proto::v1::{Delta, KeyValue};

use crate::{
    buckets::{BUCKETS_FROM, Buckets},
    digest::{DigestKey, TopicDigest},
    planted::{self, Planted},
    snapshot::{Affected, Changed, Snapshot},
    topic::{Frame, TopicState},
    vector::Vector,
    versions::Versions,
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

/// How many bytes of frames a publisher keeps for all topics, unless told otherwise.
pub(crate) const HISTORY_BYTES: usize = 64 * 1024 * 1024;

/// Applies changes and makes snapshots.
#[derive(Clone, Debug)]
pub struct Publisher {
    key: DigestKey,
    buckets_from: usize,
    now: Snapshot,
    /// The nodes in whose views each topic is: an emptied one is forgotten with its last view.
    users: BTreeMap<Topic, BTreeSet<ArcStr>>,
    affected: Affected,
    history: History,
    late: planted::Late,
}

/// The frames of all topics, oldest first.
#[derive(Clone, Debug)]
struct History {
    budget: usize,
    bytes: usize,
    order: VecDeque<(Topic, u64)>,
    /// How many of `order` stand for frames that are gone.
    stale: usize,
}

/// What one publication does to one topic.
#[derive(Debug, Default)]
struct Gathered {
    puts: BTreeMap<ArcStr, Bytes>,
    deletes: BTreeSet<ArcStr>,
}

impl Publisher {
    /// A publisher that has published nothing.
    pub fn new(key: DigestKey) -> Self {
        Self::with_history(key, HISTORY_BYTES)
    }

    /// A publisher that keeps frames of at most so many bytes.
    pub fn with_history(key: DigestKey, budget: usize) -> Self {
        let history = History { budget, bytes: 0, order: VecDeque::new(), stale: 0 };
        Self {
            key,
            buckets_from: BUCKETS_FROM,
            now: Snapshot::default(),
            users: BTreeMap::new(),
            affected: Affected::default(),
            history,
            late: planted::Late::default(),
        }
    }

    /// Topics with more entries than `entries` have digests of their buckets, in place of
    /// [`BUCKETS_FROM`].
    #[must_use]
    pub fn with_buckets_from(self, entries: usize) -> Self {
        Self { buckets_from: entries, ..self }
    }

    /// What lists have told, for the next publication.
    pub fn heard(&mut self, versions: &Versions) {
        let listings = versions.listings();
        if *self.now.listings != listings {
            self.now.listings = Arc::new(listings);
        }
    }

    /// The newest publication.
    pub fn snapshot(&self) -> Snapshot {
        self.now.clone()
    }

    /// How many bytes of frames all topics keep together.
    pub fn history_bytes(&self) -> usize {
        self.history.bytes
    }

    /// Who may see something of the newest publication.
    pub fn affected(&self) -> &Affected {
        &self.affected
    }

    /// The store went back in time: versions start anew, in a new generation.
    pub fn rewind(&mut self) {
        self.now.generation += 1;
        self.now.vector = Vector::default();
        self.now.progress = Vector::default();
        self.now.listings = Arc::default();
    }

    /// Another store answers: everything is published anew, as one publication under another key of
    /// digests. What was published before is another publisher's.
    pub fn begin_anew(&mut self, key: DigestKey) {
        let anew = Self::with_history(key, self.history.budget);
        let anew = anew.with_buckets_from(self.buckets_from);
        let before = std::mem::replace(self, anew).now;
        let entries = before.topics.iter().flat_map(|(topic, state)| {
            let change = |(key, value): (&ArcStr, &Bytes)| Change {
                topic: topic.clone(),
                key: key.clone(),
                value: Some(value.clone()),
            };
            state.entries.iter().map(change)
        });
        let views = before.views.iter().map(|(node, topics)| ViewChange {
            node: node.clone(),
            add: topics.iter().cloned().collect(),
            drop: Vec::new(),
        });
        let none = Vector::default();
        self.publish(entries, views, &none, &none, before.observed_at);
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
        let (changes, views) = self.late.shift(changes, views);
        let publication = self.now.publication + 1;
        let mut gathered: BTreeMap<Topic, Gathered> = BTreeMap::new();
        for Change { topic, key, value } in changes {
            let topic = gathered.entry(topic).or_default();
            topic.puts.remove(&key);
            topic.deletes.remove(&key);
            match value {
                Some(value) => drop(topic.puts.insert(key, value)),
                None => drop(topic.deletes.insert(key)),
            }
        }
        let mut any = self.now.publication == 0;
        let mut touched = Changed::new(publication);
        let mut viewers = BTreeSet::new();
        for (topic, gathered) in gathered {
            any |= self.apply(topic, gathered, publication, &mut touched);
        }
        for view in views {
            any = true;
            viewers.insert(view.node.clone());
            self.apply_view(view, publication, &mut touched);
        }
        self.now.vector.join(vector);
        self.now.progress.join(progress);
        if any {
            self.now.publication = publication;
            self.now.observed_at = observed_at;
            self.affected = self.affected_by(&touched, viewers);
            self.now.log.push(touched);
        }
        self.trim();
        &self.now
    }

    /// Who sees what has changed, besides those whose views have.
    fn affected_by(&self, changed: &Changed, mut nodes: BTreeSet<ArcStr>) -> Affected {
        nodes.extend(changed.own.iter().cloned());
        let users = changed.by_need.iter().filter_map(|topic| self.users.get(topic));
        if !Planted::Unwoken.is_here() {
            nodes.extend(users.flatten().cloned());
        }
        let kinds = changed.full.iter().filter_map(|topic| match topic {
            Topic::Res(kind, _) => Some(*kind),
            _ => None,
        });
        Affected { every_node: !changed.common.is_empty(), nodes, kinds: kinds.collect() }
    }

    /// Changes a topic; whether that was a change at all.
    fn apply(
        &mut self,
        topic: Topic,
        gathered: Gathered,
        publication: u64,
        changed: &mut Changed,
    ) -> bool {
        let there = self.now.topics.get(&topic);
        let old = |key: &ArcStr| there.and_then(|state| state.entries.get(key));
        let Gathered { mut puts, mut deletes } = gathered;
        puts.retain(|key, value| old(key) != Some(&*value));
        deletes.retain(|key| old(key).is_some());
        if puts.is_empty() && deletes.is_empty() {
            return false;
        }

        let name = topic.to_string();
        let is_new = there.is_none();
        let state = Arc::make_mut(self.now.topics.entry(topic.clone()).or_default());
        state.changing();
        for key in puts.keys().chain(&deletes) {
            if let Some(old) = state.entries.remove(key) {
                let hash = self.key.entry(&name, key, &old);
                state.digest.minus(hash);
                state.buckets.iter_mut().for_each(|buckets| buckets.at(key).minus(hash));
                state.bytes -= key.len() + old.len();
            }
        }
        for (key, value) in &puts {
            let hash = self.key.entry(&name, key, value);
            state.digest.plus(hash);
            state.buckets.iter_mut().for_each(|buckets| buckets.at(key).plus(hash));
            state.bytes += key.len() + value.len();
        }
        if is_new {
            state.entries = filled(std::mem::take(&mut puts));
        } else {
            state.entries.extend(puts.iter().map(|(key, value)| (key.clone(), value.clone())));
        }
        keep_buckets(state, self.buckets_from, &self.key, &name);
        let from = std::mem::replace(&mut state.changed, publication);

        if state.entries.is_empty() {
            self.history.bytes -= state.frame_bytes;
            self.history.stale += state.frames.len();
            self.now.topics.remove(&topic);
            changed.add(&topic, None);
            if !is_by_need(&topic) || self.users.contains_key(&topic) {
                self.now.emptied.insert(topic, publication);
            }
            return true;
        }
        self.now.emptied.remove(&topic);
        if is_new {
            // What it was before isn't known: who holds an older state of it gets it whole.
            state.floor = publication;
            changed.add(&topic, None);
            return true;
        }
        let delta = delta(name, (from, publication), puts, &deletes, state.digest);
        let frame = Arc::new(Frame::new(delta));
        changed.add(&topic, Some(&frame));
        self.history.bytes += frame.bytes;
        self.history.order.push_back((topic, publication));
        state.frame_bytes += frame.bytes;
        state.frames.push_back(frame);
        // Nobody is sent more of the topic's past than the topic itself is.
        while state.frame_bytes > state.bytes
            && state.frames.len() > 1
            && !Planted::HistoryUnbounded.is_here()
        {
            self.history.bytes -= state.forget_oldest();
            self.history.stale += 1;
        }
        true
    }

    /// Forgets the oldest frames above the budget.
    fn trim(&mut self) {
        // Topics that were emptied have left their places in the order behind.
        if self.history.stale > 1024 + self.history.order.len() / 2 {
            let topics = &self.now.topics;
            self.history
                .order
                .retain(|(topic, to)| topics.get(topic).is_some_and(|state| state.floor < *to));
            self.history.stale = 0;
        }
        while self.history.bytes > self.history.budget && !Planted::HistoryUnbounded.is_here() {
            let Some((topic, publication)) = self.history.order.pop_front() else { return };
            // A topic that was emptied has taken its frames with it.
            let Some(state) = self.now.topics.get_mut(&topic) else { continue };
            if state.frames.front().is_some_and(|frame| frame.delta.to == publication) {
                self.history.bytes -= Arc::make_mut(state).forget_oldest();
            }
        }
    }

    fn apply_view(&mut self, change: ViewChange, publication: u64, changed: &mut Changed) {
        let view = Arc::make_mut(self.now.views.entry(change.node.clone()).or_default());
        for topic in &change.drop {
            if !view.remove(topic) {
                continue;
            }
            if let Some(users) = self.users.get_mut(topic) {
                users.remove(&change.node);
                if users.is_empty() {
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
                    changed.add(&topic, None);
                }
                self.users.entry(topic).or_default().insert(change.node.clone());
            }
        }
        if view.is_empty() {
            self.now.views.remove(&change.node);
        }
    }
}

/// A map of these. Every second one comes first: filled in order, a leaf is split when it is full, and
/// stays half empty.
fn filled(entries: BTreeMap<ArcStr, Bytes>) -> OrdMap<ArcStr, Bytes> {
    let mut map = OrdMap::new();
    let mut between = Vec::with_capacity(entries.len() / 2);
    for (place, (key, value)) in entries.into_iter().enumerate() {
        if place % 2 == 0 {
            map.insert(key, value);
        } else {
            between.push((key, value));
        }
    }
    map.extend(between);
    map
}

/// A topic that has become large has digests of its buckets, until it is half as large.
fn keep_buckets(state: &mut TopicState, from: usize, key: &DigestKey, topic: &str) {
    let count = state.entries.len();
    if count > from && state.buckets.is_none() {
        state.buckets = Some(Buckets::of(key, topic, state.entries.iter()));
    } else if count <= from / 2 {
        state.buckets = None;
    }
}

/// What a publication did to a topic, as it is sent.
fn delta(
    topic: String,
    (from, to): (u64, u64),
    puts: BTreeMap<ArcStr, Bytes>,
    deletes: &BTreeSet<ArcStr>,
    digest_after: TopicDigest,
) -> Delta {
    let puts = puts.into_iter().map(|(key, value)| KeyValue { key: key.to_string(), value });
    Delta {
        topic,
        from,
        to,
        puts: puts.collect(),
        deletes: deletes.iter().map(ToString::to_string).collect(),
        digest_after: Some(digest_after.into()),
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
    fn history_says_what_happened_since_and_forgets_the_oldest_above_its_budget() {
        // Each change below is 1 + 10 bytes; the first of a topic has no history.
        let mut publisher = Publisher::with_history(KEY, 25);
        let value = |n: u64| format!("{n:010}");
        for n in 1..=5 {
            let padding = put(&Topic::Pools, "p", &"x".repeat(1000));
            publish(&mut publisher, vec![put(&Topic::Pools, "a", &value(n)), padding]);
        }
        let snapshot = publisher.snapshot();
        let pools = snapshot.topic(&Topic::Pools).unwrap();
        assert!(pools.since(2).is_none(), "frames 2 and 3 are over the budget");
        let since = |publication| -> Vec<u64> {
            let frames = pools.since(publication).unwrap();
            frames.iter().map(|frame| frame.delta.to).collect()
        };
        assert_eq!(since(3), [4, 5]);
        assert_eq!(since(4), [5]);
        assert_eq!(since(5), [0; 0]);
    }

    #[test]
    fn a_history_longer_than_the_topic_is_no_use() {
        let mut publisher = Publisher::new(KEY);
        for n in 0..10 {
            publish(&mut publisher, vec![put(&Topic::Pools, "a", &format!("{n}"))]);
        }
        let snapshot = publisher.snapshot();
        let pools = snapshot.topic(&Topic::Pools).unwrap();
        assert!(pools.since(1).is_none());
        assert_eq!(pools.since(9).unwrap().len(), 1);
        assert_eq!((pools.frames.len(), publisher.history_bytes()), (1, 2), "nor is it kept");
    }

    #[test]
    fn a_topic_that_was_emptied_gives_its_bytes_back() {
        let mut publisher = Publisher::new(KEY);
        for n in 0..3 {
            publish(&mut publisher, vec![put(&Topic::Pools, "a", &format!("{n}"))]);
        }
        assert!(publisher.history.bytes > 0);
        publish(&mut publisher, vec![delete(&Topic::Pools, "a")]);
        assert_eq!(publisher.history.bytes, 0);
        let again = publish(&mut publisher, vec![put(&Topic::Pools, "a", "9")]);
        assert!(again.topic(&Topic::Pools).unwrap().since(3).is_none(), "it was gone in between");
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
    fn who_begins_anew_shows_the_same_under_another_key() {
        let mut publisher = Publisher::new(KEY);
        let set = Topic::IpSet("s:x".into());
        let view = ViewChange { node: "a".into(), add: vec![set.clone()], drop: Vec::new() };
        let none = Vector::default();
        let mut vector = Vector::default();
        vector.advance(model::StreamIndex(0), 9);
        publisher.publish([put(&set, "m", "")], [view.clone()], &vector, &vector, 0);
        publish(&mut publisher, vec![put(&Topic::Pools, "a", "1")]);
        let before = publisher.snapshot();

        publisher.begin_anew(DigestKey([8; 16]));
        let after = publisher.snapshot();
        assert_eq!((after.publication, &after.vector), (1, &none));
        assert_eq!(after.node_view(&"a".into()), before.node_view(&"a".into()));
        for (topic, state) in before.topics() {
            let now = after.topic(topic).unwrap();
            assert_eq!(now.entries, state.entries);
            assert_ne!(now.digest, state.digest);
        }
        publisher.publish(
            [],
            [ViewChange { add: vec![], drop: vec![set.clone()], ..view }],
            &none,
            &none,
            0,
        );
        assert!(!publisher.snapshot().node_view(&"a".into()).contains(&set));
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
