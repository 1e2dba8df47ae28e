//! Does a selector match these labels?

use std::{
    borrow::Borrow,
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher, Hash},
    slice,
};

use super::{
    Selector,
    tree::{Compare, Group, Leaf, Member, Node},
};

/// Something with labels.
pub trait Labels {
    /// The value of a label, or none where it is missing.
    fn get(&self, label: &str) -> Option<&str>;
}

impl<T: Labels + ?Sized> Labels for &T {
    fn get(&self, label: &str) -> Option<&str> {
        (**self).get(label)
    }
}

impl<K: Borrow<str> + Ord, V: AsRef<str>> Labels for BTreeMap<K, V> {
    fn get(&self, label: &str) -> Option<&str> {
        self.get(label).map(AsRef::as_ref)
    }
}

impl<K: Borrow<str> + Hash + Eq, V: AsRef<str>, S: BuildHasher> Labels for HashMap<K, V, S> {
    fn get(&self, label: &str) -> Option<&str> {
        self.get(label).map(AsRef::as_ref)
    }
}

/// Pairs in any order; the first of a name counts.
impl<K: AsRef<str>, V: AsRef<str>> Labels for [(K, V)] {
    fn get(&self, label: &str) -> Option<&str> {
        self.iter().find(|(name, _)| name.as_ref() == label).map(|(_, value)| value.as_ref())
    }
}

impl<K: AsRef<str>, V: AsRef<str>, const N: usize> Labels for [(K, V); N] {
    fn get(&self, label: &str) -> Option<&str> {
        Labels::get(self.as_slice(), label)
    }
}

impl Leaf {
    fn matches(&self, labels: &(impl Labels + ?Sized)) -> bool {
        match self {
            Self::All | Self::Global => true,
            Self::Has(label) => labels.get(label).is_some(),
            Self::Compare(label, compare, text) => {
                let Some(value) = labels.get(label) else { return *compare == Compare::Ne };
                match compare {
                    Compare::Eq => value == text,
                    Compare::Ne => value != text,
                    Compare::Contains => value.contains(text.as_str()),
                    Compare::StartsWith => value.starts_with(text.as_str()),
                    Compare::EndsWith => value.ends_with(text.as_str()),
                }
            }
            Self::Member(label, member, values) => {
                let is_in = labels.get(label).is_some_and(|value| {
                    values.binary_search_by(|each| each.as_str().cmp(value)).is_ok()
                });
                is_in == (*member == Member::In)
            }
        }
    }
}

/// Groups within so many others are looked at by recursion: it costs no memory, and written selectors are flat.
pub(super) const SHALLOW: u8 = 8;

impl Selector {
    /// Whether it matches. It stops at the first member of a group that decides.
    pub fn matches(&self, labels: &(impl Labels + ?Sized)) -> bool {
        self.matches_within(labels, SHALLOW)
    }

    fn matches_within(&self, labels: &(impl Labels + ?Sized), depth: u8) -> bool {
        let matches = |member: &Self| member.matches_within(labels, depth - 1);
        match &*self.0 {
            Node::Leaf(leaf) => leaf.matches(labels),
            Node::Group(..) if depth == 0 => self.matches_deep(labels),
            Node::Group(Group::Not, members) => !members.iter().all(matches),
            Node::Group(Group::And, members) => members.iter().all(matches),
            Node::Group(Group::Or, members) => members.iter().any(matches),
        }
    }

    /// The same, however deep.
    fn matches_deep(&self, labels: &(impl Labels + ?Sized)) -> bool {
        let mut open: Vec<(Group, slice::Iter<'_, Selector>)> = Vec::new();
        let mut next = self;
        loop {
            let mut result = match &*next.0 {
                Node::Leaf(leaf) => leaf.matches(labels),
                Node::Group(group, members) => {
                    let mut rest = members.iter();
                    let first = rest.next();
                    open.push((*group, rest));
                    // A group has members (see `Group`), so the way is always down.
                    if let Some(first) = first {
                        next = first;
                    }
                    continue;
                }
            };
            loop {
                let Some((group, mut rest)) = open.pop() else { return result };
                let undecided = match group {
                    Group::Not => {
                        result = !result;
                        None
                    }
                    Group::And => rest.next().filter(|_| result),
                    Group::Or => rest.next().filter(|_| !result),
                };
                if let Some(member) = undecided {
                    open.push((group, rest));
                    next = member;
                    break;
                }
            }
        }
    }
}
