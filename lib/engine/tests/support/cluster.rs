//! An engine and everything that it has said, as its consumers hold it.

use std::collections::{BTreeMap, BTreeSet};

use arcstr::ArcStr;
use bulrush_engine::{Change, Engine, Options, Output};
use model::{
    Key, Stored, StreamIndex, Update,
    view::{Entry, PolicyList, Topic},
};

/// Entries by key, by topic.
pub(crate) type Topics = BTreeMap<Topic, BTreeMap<ArcStr, Entry>>;

/// Any id will do that is equal for equal lists.
pub(crate) fn plist_id(list: &PolicyList) -> ArcStr {
    format!("{list:?}").into()
}

pub(crate) struct Cluster {
    pub(crate) engine: Engine,
    pub(crate) topics: Topics,
    /// What view changes add up to.
    pub(crate) views: BTreeMap<ArcStr, BTreeSet<Topic>>,
    version: u64,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        Self {
            engine: Engine::new(Options { plist_id }),
            topics: Topics::new(),
            views: BTreeMap::new(),
            version: 0,
        }
    }

    /// One that knows the backends of services, the ranges of nodes' pods, or not.
    pub(crate) fn knowing(services: bool, pod_cidrs: bool) -> Self {
        let mut engine = Engine::new(Options { plist_id });
        if services {
            engine = engine.with_services();
        }
        if pod_cidrs {
            engine = engine.with_pod_cidrs();
        }
        Self { engine, ..Self::new() }
    }

    /// One for this node alone.
    pub(crate) fn for_node(self, node: &str) -> Self {
        Self { engine: self.engine.for_node(node.into()), ..self }
    }

    /// One that can be asked about what it doesn't publish.
    pub(crate) fn keeping_objects() -> Self {
        let engine = Engine::new(Options { plist_id }).keep_objects().with_services();
        Self { engine, ..Self::new() }
    }

    pub(crate) fn put(&mut self, key: &Key, bytes: &[u8]) {
        self.update(key, Some(Stored::from_bytes(bytes)));
    }

    pub(crate) fn delete(&mut self, key: &Key) {
        self.update(key, None);
    }

    pub(crate) fn update(&mut self, key: &Key, value: Option<Stored>) {
        self.version += 1;
        let (stream, version) = (StreamIndex(0), self.version);
        self.engine.apply(&Update { stream, key: key.clone(), value, version });
    }

    /// Takes over what the engine says, and holds it to its promises.
    pub(crate) fn flush(&mut self) -> Output {
        let output = self.engine.flush();
        let order = |change: &Change| (change.topic.clone(), change.key.clone());
        assert!(
            output.changes.is_sorted_by(|a, b| order(a) < order(b)),
            "changes are sorted, and at most one per topic and key: {:#?}",
            output.changes
        );
        for change in &output.changes {
            let entries = self.topics.entry(change.topic.clone()).or_default();
            let before = match &change.entry {
                Some(entry) => entries.insert(change.key.clone(), entry.clone()),
                None => entries.remove(&change.key),
            };
            assert_ne!(before, change.entry, "a change that is none: {change:?}");
            if entries.is_empty() {
                self.topics.remove(&change.topic);
            }
        }
        for change in &output.views {
            let view = self.views.entry(change.node.clone()).or_default();
            assert!(!change.add.is_empty() || !change.drop.is_empty(), "{change:?}");
            for topic in &change.add {
                assert!(view.insert(topic.clone()), "{} already has {topic}", change.node);
            }
            for topic in &change.drop {
                assert!(view.remove(topic), "{} hasn't {topic}", change.node);
            }
        }
        for (node, view) in &self.views {
            assert_eq!(&self.engine.view(node), view, "view changes of {node} add up to its view");
        }
        output
    }

    pub(crate) fn topic(&self, topic: &Topic) -> BTreeMap<ArcStr, Entry> {
        self.topics.get(topic).cloned().unwrap_or_default()
    }
}
