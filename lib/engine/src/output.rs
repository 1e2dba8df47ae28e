//! What a flush says: changes of entries and of views, in a fixed order.

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
    /// At most one per node.
    views: Vec<ViewChange>,
}

impl Out {
    /// For so many updates; most say two or three things.
    pub(crate) fn with_capacity(updates: usize) -> Self {
        Self { changes: Vec::with_capacity(3 * updates), ..Self::default() }
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

    /// What changes in the view of a node; all of it at once.
    pub(crate) fn view(&mut self, node: &ArcStr, changes: impl Iterator<Item = (Topic, bool)>) {
        let (mut add, mut drop) = (Vec::new(), Vec::new());
        for (topic, now) in changes {
            if now { add.push(topic) } else { drop.push(topic) }
        }
        let (add, drop) = (sorted_topics(add), sorted_topics(drop));
        self.views.push(ViewChange { node: node.clone(), add, drop });
    }

    pub(crate) fn finish(mut self) -> Output {
        self.views.sort_unstable_by(|a, b| a.node.cmp(&b.node));
        Output { changes: sorted(self.changes), views: self.views }
    }
}

fn sorted_topics(topics: Vec<Topic>) -> Vec<Topic> {
    let mut order = topics.into_iter().map(|it| (prefix(&it, ""), it)).collect::<Vec<_>>();
    order.sort_unstable();
    order.into_iter().map(|(_, topic)| topic).collect()
}

/// Sorted by topic and key. The first bytes of what orders them are looked at first: of two changes
/// they mostly differ, and lie side by side.
fn sorted(mut changes: Vec<Change>) -> Vec<Change> {
    let mut order = Vec::with_capacity(changes.len());
    order.extend(
        changes
            .iter()
            .enumerate()
            .map(|(place, change)| (prefix(&change.topic, &change.key), place as u32)),
    );
    order.sort_unstable_by(|(a, a_place), (b, b_place)| {
        let change = |place: u32| {
            let change = &changes[place as usize];
            (&change.topic, &change.key)
        };
        a.cmp(b).then_with(|| change(*a_place).cmp(&change(*b_place)))
    });
    let mut from = order.into_iter().map(|(_, place)| place as usize).collect::<Vec<_>>();
    // In place, for a first list is large: each change goes where it belongs, and what was there on.
    for start in 0..from.len() {
        let mut at = start;
        while from[at] != start {
            let next = from[at];
            changes.swap(at, next);
            from[at] = at;
            at = next;
        }
        from[at] = at;
    }
    changes
}

/// A number that never orders two topics, or keys of a topic, otherwise than they do: the topic's kind,
/// and the first bytes of what comes next.
fn prefix(topic: &Topic, key: &str) -> u128 {
    let (head, text): (&[u8], &str) = match topic {
        Topic::Config => (&[0], key),
        Topic::Pools => (&[1], key),
        Topic::Hosts(shard) => (&[2, *shard], key),
        Topic::Routes(shard) => (&[3, *shard], key),
        Topic::Node(name) => (&[4], name),
        Topic::Plist(id) => (&[5], id),
        Topic::Policy(id) => match id.kind.as_str() {
            "GlobalNetworkPolicy" => (&[6, 0], &id.namespace),
            "KubernetesClusterNetworkPolicy" => (&[6, 1], &id.namespace),
            "KubernetesNetworkPolicy" => (&[6, 2], &id.namespace),
            "NetworkPolicy" => (&[6, 3], &id.namespace),
            // The staged ones.
            _ => (&[6, 4], ""),
        },
        Topic::Profile(name) => (&[7], name),
        Topic::IpSet(id) => (&[8], id),
        Topic::Res(kind, shard) => (&[9, *kind as u8, *shard], key),
    };
    let mut bytes = [0; 16];
    bytes[..head.len()].copy_from_slice(head);
    for (byte, from) in bytes[head.len()..].iter_mut().zip(text.bytes()) {
        *byte = from;
    }
    u128::from_be_bytes(bytes)
}
