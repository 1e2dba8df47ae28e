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
    /// Topics of other nodes, and of the full view, are left out.
    pub(crate) only: Option<ArcStr>,
    changes: Vec<Change>,
    /// At most one per node.
    views: Vec<ViewChange>,
    order: Vec<(Prefix, u32)>,
    topics: Vec<(bool, Prefix, Topic)>,
}

/// From so many changes on, what collected them is handed out, and not copied.
const LARGE: usize = 1024;

impl Out {
    /// Makes room for what so many updates say: most say two or three things.
    pub(crate) fn reserve(&mut self, updates: usize) {
        self.changes.reserve(3 * updates);
    }

    pub(crate) fn put(&mut self, topic: Topic, key: ArcStr, entry: Entry) {
        self.set(topic, key, Some(entry));
    }

    pub(crate) fn delete(&mut self, topic: Topic, key: ArcStr) {
        self.set(topic, key, None);
    }

    pub(crate) fn set(&mut self, topic: Topic, key: ArcStr, entry: Option<Entry>) {
        let is_foreign = self.only.as_ref().is_some_and(|only| match &topic {
            Topic::Node(node) => node != only,
            topic => matches!(topic, Topic::Res(..)),
        });
        if !is_foreign {
            self.changes.push(Change { topic, key, entry });
        }
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
        order.reserve_exact(changes.len());
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

/// The first bytes of what orders a change.
type Prefix = [u64; 3];

/// Never orders two topics, or keys of a topic, otherwise than they do: the topic's kind, and the first
/// bytes of what comes next.
fn prefix(topic: &Topic, key: &str) -> Prefix {
    let (head, first, second): (&[u8], &str, &str) = match topic {
        Topic::Config => (&[0], key, ""),
        Topic::Pools => (&[1], key, ""),
        Topic::Hosts(shard) => (&[2, *shard], key, ""),
        Topic::Routes(shard) => (&[3, *shard], key, ""),
        Topic::Node(name) => (&[4], name, key),
        Topic::Plist(id) => (&[5], id, key),
        Topic::Policy(id) => match id.kind.as_str() {
            "GlobalNetworkPolicy" => (&[6, 0], &id.namespace, &id.name),
            "KubernetesClusterNetworkPolicy" => (&[6, 1], &id.namespace, &id.name),
            "KubernetesNetworkPolicy" => (&[6, 2], &id.namespace, &id.name),
            "NetworkPolicy" => (&[6, 3], &id.namespace, &id.name),
            // The staged ones.
            _ => (&[6, 4], "", ""),
        },
        Topic::Profile(name) => (&[7], name, key),
        Topic::IpSet(id) => (&[8], id, key),
        Topic::Res(kind, shard) => (&[9, *kind as u8, *shard], key, ""),
    };
    let mut bytes = [0; PREFIX];
    let start = append(&mut bytes, 0, head);
    let gap = append(&mut bytes, start, first.as_bytes());
    // A zero between them: so a text comes before those that it begins.
    let second_start = (gap + 1).min(PREFIX);
    let end = append(&mut bytes, second_start, second.as_bytes());
    // Each byte of a text is one more than it was: none is zero, and in UTF-8 none is the highest.
    std::array::from_fn(|word| {
        let mut eight = [0; 8];
        eight.copy_from_slice(&bytes[8 * word..8 * word + 8]);
        let ones = |from: usize, to: usize| ONES[to][word] - ONES[from][word];
        u64::from_be_bytes(eight) + ones(start, gap) + ones(second_start, end)
    })
}

const PREFIX: usize = 24;

/// By number: so many bytes of one, then zeros.
const ONES: [Prefix; PREFIX + 1] = {
    let mut ones = [[0; 3]; PREFIX + 1];
    let mut count = 1;
    while count <= PREFIX {
        ones[count] = ones[count - 1];
        ones[count][(count - 1) / 8] += 1 << (56 - 8 * ((count - 1) % 8));
        count += 1;
    }
    ones
};

/// Writes what there is room for from a place on, and returns the place after it.
fn append(bytes: &mut [u8; PREFIX], start: usize, text: &[u8]) -> usize {
    let end = PREFIX.min(start + text.len());
    bytes[start..end].copy_from_slice(&text[..end - start]);
    end
}

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;

    use model::view::PolicyId;

    use super::*;

    #[test]
    fn a_prefix_orders_as_what_it_begins() {
        let texts =
            ["", "\0", "\0a", "a", "a\0", "a\0b", "a-b", "ab", "a long name that is cut", "ü"];
        let policy = |kind: &str, namespace: &str, name: &str| {
            Topic::Policy(PolicyId::new(kind, namespace, name))
        };
        let mut all = Vec::new();
        for a in texts {
            for b in texts {
                for kind in ["GlobalNetworkPolicy", "NetworkPolicy", "StagedNetworkPolicy"] {
                    all.push((policy(kind, a, b), ""));
                }
                all.push((Topic::Node(a.into()), b));
                all.push((Topic::IpSet(a.into()), b));
            }
            all.push((Topic::Config, a));
            all.push((Topic::Routes(7), a));
            all.push((Topic::Res(model::Kind::Node, 7), a));
        }
        for (a, a_key) in &all {
            for (b, b_key) in &all {
                let prefixes = prefix(a, a_key).cmp(&prefix(b, b_key));
                let whole = (a, a_key).cmp(&(b, b_key));
                assert!(
                    prefixes == Ordering::Equal || prefixes == whole,
                    "{a} {a_key} {b} {b_key}"
                );
            }
        }
    }
}
