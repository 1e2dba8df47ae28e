//! Updates that wait for a flush: the last one of each key, in the order in which keys came.
//!
//! The order doesn't change what follows, but how fast: objects that belong together come together,
//! and what one of them needs is at hand when the next one needs it.

use std::collections::hash_map::Entry;

use model::Key;

use crate::HashMap;

/// So many values lie together, and are given back together when they are taken: a first list as a
/// whole would be moved each time that it grows.
const CHUNK: usize = 256;

/// The last value of each key.
pub(crate) struct Waiting<T> {
    places: HashMap<Key, usize>,
    /// Each but the last is full.
    chunks: Vec<Vec<(Key, T)>>,
}

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self { places: HashMap::default(), chunks: Vec::new() }
    }
}

impl<T> Waiting<T> {
    pub(crate) fn insert(&mut self, key: Key, value: T) {
        let count = self.places.len();
        match self.places.entry(key.clone()) {
            Entry::Occupied(place) => {
                let place = *place.get();
                self.chunks[place / CHUNK][place % CHUNK].1 = value;
            }
            Entry::Vacant(place) => {
                place.insert(count);
                if count.is_multiple_of(CHUNK) {
                    // Most flushes are of a few updates.
                    let room = if count == 0 { 0 } else { CHUNK };
                    self.chunks.push(Vec::with_capacity(room));
                }
                self.chunks[count / CHUNK].push((key, value));
            }
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.places.len()
    }

    /// All of them; nothing waits any more.
    pub(crate) fn take(&mut self) -> impl Iterator<Item = (Key, T)> + use<T> {
        self.places = HashMap::default();
        std::mem::take(&mut self.chunks).into_iter().flatten()
    }
}
