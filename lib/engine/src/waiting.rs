//! Updates that wait for a flush: the last one of each key, in the order in which keys came.
//!
//! The order doesn't change what follows, but how fast: objects that belong together come together,
//! and what one of them needs is at hand when the next one needs it.

use model::Key;

use crate::HashMap;

/// The last value of each key.
pub(crate) struct Waiting<T> {
    places: HashMap<Key, usize>,
    values: Vec<(Key, T)>,
}

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self { places: HashMap::default(), values: Vec::new() }
    }
}

impl<T> Waiting<T> {
    pub(crate) fn insert(&mut self, key: Key, value: T) {
        if let Some(place) = self.places.get(&key) {
            self.values[*place].1 = value;
        } else {
            self.places.insert(key.clone(), self.values.len());
            self.values.push((key, value));
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.values.len()
    }

    /// All of them; nothing waits any more.
    pub(crate) fn take(&mut self) -> Vec<(Key, T)> {
        self.places = HashMap::default();
        std::mem::take(&mut self.values)
    }
}
