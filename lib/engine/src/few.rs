//! Sets of ids, small when there are few: most sets of an index have one id, and some have all.

use std::{collections::BTreeSet, fmt, slice};

use crate::slab::Id;

/// A sorted set.
#[derive(Default)]
pub(crate) enum IdSet<T> {
    #[default]
    None,
    One(Id<T>),
    Few(Vec<Id<T>>),
    #[allow(clippy::box_collection, reason = "a set in place would make every set larger")]
    Many(Box<BTreeSet<Id<T>>>),
}

/// From here on a tree is cheaper than moving what comes after.
const MANY: usize = 64;

impl<T> Clone for IdSet<T> {
    fn clone(&self) -> Self {
        match self {
            Self::None => Self::None,
            Self::One(id) => Self::One(*id),
            Self::Few(ids) => Self::Few(ids.clone()),
            Self::Many(ids) => Self::Many(ids.clone()),
        }
    }
}

impl<T> fmt::Debug for IdSet<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self).finish()
    }
}

impl<T> IdSet<T> {
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::None => 0,
            Self::One(_) => 1,
            Self::Few(ids) => ids.len(),
            Self::Many(ids) => ids.len(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True: it wasn't there.
    pub(crate) fn insert(&mut self, id: Id<T>) -> bool {
        match self {
            Self::None => *self = Self::One(id),
            Self::One(known) if *known == id => return false,
            Self::One(known) => {
                // Room for four is as large as an allocation for three.
                let mut few = Vec::with_capacity(4);
                few.extend([(*known).min(id), (*known).max(id)]);
                *self = Self::Few(few);
            }
            Self::Few(ids) => match ids.binary_search(&id) {
                Ok(_) => return false,
                Err(_) if ids.len() == MANY => {
                    let mut many = ids.drain(..).collect::<BTreeSet<_>>();
                    many.insert(id);
                    *self = Self::Many(Box::new(many));
                }
                Err(place) => ids.insert(place, id),
            },
            Self::Many(ids) => return ids.insert(id),
        }
        true
    }

    /// True: it was there.
    #[allow(clippy::trivially_copy_pass_by_ref, reason = "as of the standard library's sets")]
    pub(crate) fn remove(&mut self, id: &Id<T>) -> bool {
        let found = match self {
            Self::None => false,
            Self::One(known) => known == id,
            Self::Few(ids) => match ids.binary_search(id) {
                Ok(place) => {
                    ids.remove(place);
                    true
                }
                Err(_) => false,
            },
            Self::Many(ids) => ids.remove(id),
        };
        match self {
            Self::One(_) if found => *self = Self::None,
            Self::Few(ids) if ids.is_empty() => *self = Self::None,
            Self::Many(ids) if ids.len() < MANY / 2 => {
                *self = Self::Few(ids.iter().copied().collect());
            }
            _ => {}
        }
        found
    }

    /// In order.
    pub(crate) fn iter(&self) -> Iter<'_, T> {
        match self {
            Self::None => Iter::Slice([].iter()),
            Self::One(id) => Iter::Slice(slice::from_ref(id).iter()),
            Self::Few(ids) => Iter::Slice(ids.iter()),
            Self::Many(ids) => Iter::Tree(ids.iter()),
        }
    }
}

impl<'a, T> IntoIterator for &'a IdSet<T> {
    type Item = &'a Id<T>;
    type IntoIter = Iter<'a, T>;

    fn into_iter(self) -> Iter<'a, T> {
        self.iter()
    }
}

/// See [`IdSet::iter`].
pub(crate) enum Iter<'a, T> {
    Slice(slice::Iter<'a, Id<T>>),
    Tree(std::collections::btree_set::Iter<'a, Id<T>>),
}

impl<'a, T> Iterator for Iter<'a, T> {
    type Item = &'a Id<T>;

    fn next(&mut self) -> Option<&'a Id<T>> {
        match self {
            Self::Slice(ids) => ids.next(),
            Self::Tree(ids) => ids.next(),
        }
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        match self {
            Self::Slice(ids) => ids.size_hint(),
            Self::Tree(ids) => ids.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slab::Slab;

    #[test]
    fn it_is_a_sorted_set_of_whatever_size() {
        let mut slab = Slab::default();
        let ids = (0..200).map(|n| slab.insert(n)).collect::<Vec<_>>();
        let (mut set, mut tree) = (IdSet::default(), BTreeSet::new());
        // Up to many and down to none, in a crooked order.
        for step in 0..2_000_usize {
            let id = ids[step * 37 % 200];
            let more = step < 1_000 || step % 7 == 0;
            if more && step % 3 > 0 {
                assert_eq!(set.insert(id), tree.insert(id));
            } else {
                assert_eq!(set.remove(&id), tree.remove(&id));
            }
            assert!(set.iter().eq(&tree), "step {step}");
            assert_eq!((set.len(), set.is_empty()), (tree.len(), tree.is_empty()));
        }
        for id in &ids {
            set.remove(id);
        }
        assert!(matches!(set, IdSet::None));
    }
}
