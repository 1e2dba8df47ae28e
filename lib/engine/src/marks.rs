//! Ids that are to be looked at: each once, however often it is marked.

use crate::slab::Id;

/// A set that is filled, and emptied at once.
pub(crate) struct Marks<T> {
    /// In the order in which they came; without a bit it was taken back.
    ids: Vec<Id<T>>,
    /// By number.
    bits: Vec<u64>,
}

impl<T> Default for Marks<T> {
    fn default() -> Self {
        Self { ids: Vec::new(), bits: Vec::new() }
    }
}

/// Room is kept for so many.
const SMALL: usize = 256;

fn place<T>(id: Id<T>) -> (usize, u64) {
    let number = id.number() as usize;
    (number / 64, 1 << (number % 64))
}

impl<T> Marks<T> {
    pub(crate) fn insert(&mut self, id: Id<T>) {
        let (word, bit) = place(id);
        if word >= self.bits.len() {
            self.bits.resize(word + 1, 0);
        }
        if self.bits[word] & bit == 0 {
            self.bits[word] |= bit;
            self.ids.push(id);
        }
    }

    pub(crate) fn extend<'i>(&mut self, ids: impl IntoIterator<Item = &'i Id<T>>)
    where
        T: 'i,
    {
        for id in ids {
            self.insert(*id);
        }
    }

    pub(crate) fn remove(&mut self, id: Id<T>) {
        let (word, bit) = place(id);
        if let Some(bits) = self.bits.get_mut(word) {
            *bits &= !bit;
        }
    }

    /// All of them; one that was taken back and marked again may come twice.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Id<T>> {
        let is_marked = |id: &Id<T>| {
            let (word, bit) = place(*id);
            self.bits[word] & bit != 0
        };
        self.ids.iter().copied().filter(is_marked)
    }

    /// All of them, sorted; none is marked any more.
    pub(crate) fn take(&mut self) -> Vec<Id<T>> {
        // As many may be marked the next time.
        let room = Vec::with_capacity(self.ids.len().min(SMALL));
        let mut ids = std::mem::replace(&mut self.ids, room);
        ids.retain(|id| {
            let (word, bit) = place(*id);
            let is_marked = self.bits[word] & bit != 0;
            self.bits[word] &= !bit;
            is_marked
        });
        ids.sort_unstable();
        ids
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slab::Slab;

    #[test]
    fn each_is_taken_once_and_what_is_taken_back_is_not() {
        let mut slab = Slab::default();
        let ids = (0..200).map(|n| slab.insert(n)).collect::<Vec<_>>();
        let mut marks = Marks::default();
        marks.extend([&ids[150], &ids[3], &ids[150], &ids[70]]);
        marks.remove(ids[3]);
        marks.remove(ids[199]);
        marks.remove(ids[70]);
        marks.insert(ids[70]);
        assert_eq!(marks.take(), [ids[70], ids[150]]);
        assert_eq!(marks.take(), []);
        marks.insert(ids[70]);
        assert_eq!(marks.take(), [ids[70]]);
    }
}
