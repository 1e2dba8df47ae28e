//! Tables with small stable ids: what refers to what is a number, not a copy of a name.

use std::{
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
    marker::PhantomData,
    num::NonZeroU32,
    ops::{Index, IndexMut},
};

/// The place of a `T` in its [`Slab`].
///
/// Counted from one, so that no id costs nothing.
pub(crate) struct Id<T>(NonZeroU32, PhantomData<fn() -> T>);

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
        self.0.get()
    }

    /// The id of this [`Id::number`].
    pub(crate) fn of_number(number: u32) -> Option<Self> {
        NonZeroU32::new(number).map(|number| Self(number, PhantomData))
    }

    fn place(self) -> (usize, usize) {
        let slot = self.number() as usize - 1;
        (slot / CHUNK, slot % CHUNK)
    }
}

/// A table grows by so many slots: one that doubled would be half empty, and be moved each time.
const CHUNK: usize = 256;

/// A table. Ids of removed values are given again: whoever removes a value has taken its id out of
/// everything that held it. Using it all the same is a bug, and panics while the slot is empty.
pub(crate) struct Slab<T> {
    /// Each but the last is full.
    chunks: Vec<Vec<Option<T>>>,
    free: Vec<Id<T>>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), free: Vec::new() }
    }
}

impl<T> Slab<T> {
    pub(crate) fn insert(&mut self, value: T) -> Id<T> {
        if let Some(id) = self.free.pop() {
            *self.slot(id) = Some(value);
            return id;
        }
        if self.chunks.last().is_none_or(|last| last.len() == CHUNK) {
            // Most tables stay small.
            let capacity = if self.chunks.is_empty() { 0 } else { CHUNK };
            self.chunks.push(Vec::with_capacity(capacity));
        }
        let before = CHUNK * (self.chunks.len() - 1);
        let last = self.chunks.last_mut().map_or(0, |last| {
            last.push(Some(value));
            last.len()
        });
        let number = before + last;
        Id(NonZeroU32::MIN.saturating_add(number as u32 - 1), PhantomData)
    }

    fn slot(&mut self, id: Id<T>) -> &mut Option<T> {
        let (chunk, slot) = id.place();
        &mut self.chunks[chunk][slot]
    }

    pub(crate) fn remove(&mut self, id: Id<T>) -> T {
        self.free.push(id);
        match self.slot(id).take() {
            Some(value) => value,
            None => unreachable!("removed twice: {id:?}"),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.chunks.iter().map(Vec::len).sum::<usize>() - self.free.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.chunks.iter().flatten().flatten()
    }
}

impl<T> Index<Id<T>> for Slab<T> {
    type Output = T;

    fn index(&self, id: Id<T>) -> &T {
        let (chunk, slot) = id.place();
        match &self.chunks[chunk][slot] {
            Some(value) => value,
            None => unreachable!("used after it was removed: {id:?}"),
        }
    }
}

impl<T> IndexMut<Id<T>> for Slab<T> {
    fn index_mut(&mut self, id: Id<T>) -> &mut T {
        match self.slot(id) {
            Some(value) => value,
            None => unreachable!("used after it was removed: {id:?}"),
        }
    }
}
