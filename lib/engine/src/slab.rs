//! Tables with small stable ids: what refers to what is a number, not a copy of a name.

use std::{
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
    marker::PhantomData,
    ops::{Index, IndexMut},
};

/// The place of a `T` in its [`Slab`].
pub(crate) struct Id<T>(u32, PhantomData<fn() -> T>);

impl<T> Clone for Id<T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Id<T> {}

impl<T> PartialEq for Id<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl<T> Eq for Id<T> {}

impl<T> PartialOrd for Id<T> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<T> Ord for Id<T> {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.cmp(&other.0)
    }
}

impl<T> Hash for Id<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}

impl<T> fmt::Debug for Id<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T> Id<T> {
    /// The bare number, for keys that mix ids of several tables.
    pub(crate) fn number(self) -> u32 {
        self.0
    }
}

/// A table. Ids of removed values are given again: whoever removes a value has taken its id out of
/// everything that held it. Using it all the same is a bug, and panics while the slot is empty.
pub(crate) struct Slab<T> {
    slots: Vec<Option<T>>,
    free: Vec<u32>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    pub(crate) fn insert(&mut self, value: T) -> Id<T> {
        let slot = if let Some(slot) = self.free.pop() {
            self.slots[slot as usize] = Some(value);
            slot
        } else {
            self.slots.push(Some(value));
            (self.slots.len() - 1) as u32
        };
        Id(slot, PhantomData)
    }

    pub(crate) fn remove(&mut self, id: Id<T>) -> T {
        self.free.push(id.0);
        match self.slots[id.0 as usize].take() {
            Some(value) => value,
            None => unreachable!("removed twice: {id:?}"),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.slots.iter().flatten()
    }
}

impl<T> Index<Id<T>> for Slab<T> {
    type Output = T;

    fn index(&self, id: Id<T>) -> &T {
        match &self.slots[id.0 as usize] {
            Some(value) => value,
            None => unreachable!("used after it was removed: {id:?}"),
        }
    }
}

impl<T> IndexMut<Id<T>> for Slab<T> {
    fn index_mut(&mut self, id: Id<T>) -> &mut T {
        match &mut self.slots[id.0 as usize] {
            Some(value) => value,
            None => unreachable!("used after it was removed: {id:?}"),
        }
    }
}
