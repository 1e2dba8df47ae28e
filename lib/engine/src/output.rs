//! What a flush says: changes of entries and of views, in a fixed order.

use std::collections::BTreeMap;

use arcstr::ArcStr;
use model::view::{Entry, Topic};

/// What differs from the last flush.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Output {
    /// Sorted by topic and key; at most one per topic and key.
    pub changes: Vec<Change>,
    /// Sorted by node; at most one per node.
    pub views: Vec<ViewChange>,
}

/// One entry of one topic.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Where.
    pub topic: Topic,
    /// The key in the topic.
    pub key: ArcStr,
    /// What it is now; none: deleted.
    pub entry: Option<Entry>,
}

/// Topics that a node needs from now on, or no longer: beyond those that every node needs and its
/// own `node/<name>`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ViewChange {
    /// The node's name.
    pub node: ArcStr,
    /// Sorted.
    pub add: Vec<Topic>,
    /// Sorted.
    pub drop: Vec<Topic>,
}

/// Collects changes while a flush runs.
#[derive(Default)]
pub(crate) struct Out {
    changes: Vec<Change>,
    views: BTreeMap<ArcStr, ViewChange>,
}

impl Out {
    /// For so many updates; most say two things.
    pub(crate) fn with_capacity(updates: usize) -> Self {
        Self { changes: Vec::with_capacity(2 * updates), ..Self::default() }
    }

    pub(crate) fn put(&mut self, topic: Topic, key: ArcStr, entry: Entry) {
        self.changes.push(Change { topic, key, entry: Some(entry) });
    }

    pub(crate) fn delete(&mut self, topic: Topic, key: ArcStr) {
        self.changes.push(Change { topic, key, entry: None });
    }

    pub(crate) fn set(&mut self, topic: Topic, key: ArcStr, entry: Option<Entry>) {
        self.changes.push(Change { topic, key, entry });
    }

    pub(crate) fn view(&mut self, node: &ArcStr, topic: Topic, add: bool) {
        let view = self
            .views
            .entry(node.clone())
            .or_insert_with(|| ViewChange { node: node.clone(), ..ViewChange::default() });
        if add { view.add.push(topic) } else { view.drop.push(topic) }
    }

    pub(crate) fn finish(mut self) -> Output {
        self.changes.sort_unstable_by(|a, b| (&a.topic, &a.key).cmp(&(&b.topic, &b.key)));
        let mut views = self.views.into_values().collect::<Vec<_>>();
        for view in &mut views {
            view.add.sort_unstable();
            view.drop.sort_unstable();
        }
        Output { changes: self.changes, views }
    }
}
