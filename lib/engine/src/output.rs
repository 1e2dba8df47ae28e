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

impl Change {
    /// The change; what stays in its place means nothing.
    fn take(&mut self) -> Self {
        let topic = std::mem::replace(&mut self.topic, Topic::Config);
        Self { topic, key: std::mem::take(&mut self.key), entry: self.entry.take() }
    }
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

/// Collects changes while a flush runs. Its room is used again by the next one.
#[derive(Default)]
pub(crate) struct Out {
    changes: Vec<Change>,
    /// At most one per node.
    views: Vec<ViewChange>,
    order: Vec<(u128, u32)>,
    topics: Vec<(bool, u128, Topic)>,
}

/// From so many changes on, what collected them is handed out, and not copied.
const LARGE: usize = 1024;

impl Out {
    /// Makes room for what so many updates say: most say two or three things.
    pub(crate) fn reserve(&mut self, updates: usize) {
        self.changes.reserve(3 * updates);
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
        let topics = &mut self.topics;
        topics.extend(changes.map(|(topic, now)| (now, prefix(&topic, ""), topic)));
        topics.sort_unstable();
        let adds = topics.partition_point(|(now, ..)| !now);
        let add = topics.drain(adds..).map(|(.., topic)| topic).collect();
        let drop = topics.drain(..).map(|(.., topic)| topic).collect();
        self.views.push(ViewChange { node: node.clone(), add, drop });
    }

    /// What was collected, in order.
    pub(crate) fn finish(&mut self) -> Output {
        let mut views = std::mem::take(&mut self.views);
        views.sort_unstable_by(|a, b| a.node.cmp(&b.node));
        Output { changes: self.sorted(), views }
    }

    /// The first bytes of what orders changes are looked at first: of two changes they mostly differ,
    /// and lie side by side.
    fn sorted(&mut self) -> Vec<Change> {
        let Self { changes, order, .. } = self;
        let prefixes = changes.iter().map(|change| prefix(&change.topic, &change.key));
        order.extend(prefixes.zip(0..));
        order.sort_unstable_by(|(a, a_place), (b, b_place)| {
            let change = |place: u32| {
                let change = &changes[place as usize];
                (&change.topic, &change.key)
            };
            a.cmp(b).then_with(|| change(*a_place).cmp(&change(*b_place)))
        });
        let mut sorted = Vec::new();
        if changes.len() < LARGE {
            sorted.reserve_exact(changes.len());
            for (_, place) in order.drain(..) {
                sorted.push(changes[place as usize].take());
            }
            changes.clear();
        } else {
            let mut from = std::mem::take(order);
            sorted = std::mem::take(changes);
            // In place, for a first list is large: each change goes where it belongs, and what was there on.
            for start in 0..from.len() {
                let mut at = start;
                while from[at].1 as usize != start {
                    let next = from[at].1 as usize;
                    sorted.swap(at, next);
                    from[at].1 = at as u32;
                    at = next;
                }
                from[at].1 = at as u32;
            }
        }
        sorted
    }
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
