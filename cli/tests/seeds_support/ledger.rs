//! What the store held, moment by moment: written down by the one that writes, and asked by the agents.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// An object's kind, and its name in the full view.
pub(crate) type Name = (String, String);

/// The stamp of each object: which write it is of.
pub(crate) type Objects = Arc<BTreeMap<Name, String>>;

/// What the store holds from one revision to the next.
#[derive(Clone, Debug)]
pub(crate) struct Moment {
    pub(crate) revision: u64,
    /// What the clock shows, an object in every view.
    pub(crate) tick: u64,
    pub(crate) objects: Objects,
}

/// All moments in the order in which they were. A restored store goes on from an earlier one.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    moments: Vec<Moment>,
    /// The moment of the backup, and the first after it was restored.
    restored: Option<(usize, usize)>,
}

impl Ledger {
    /// Before the write is sent: an agent can't have seen it earlier. The moment's number.
    pub(crate) fn write(&mut self, moment: Moment) -> usize {
        self.moments.push(moment);
        self.newest()
    }

    pub(crate) fn newest(&self) -> usize {
        self.moments.len() - 1
    }

    pub(crate) fn moment(&self, number: usize) -> &Moment {
        &self.moments[number]
    }

    /// The store holds again what it held at the moment `backup`.
    pub(crate) fn restored_to(&mut self, backup: usize) {
        self.restored = Some((backup, self.moments.len()));
    }

    /// The moment that an agent sees whose clock shows `tick`, and that knows all up to revision `progress`.
    pub(crate) fn seen(&self, tick: u64, progress: u64) -> Option<usize> {
        let (backup, restored) = self.restored.unwrap_or((usize::MAX, self.moments.len()));
        let before = 0..restored;
        let after =
            (0..self.moments.len()).filter(|number| *number <= backup || *number >= restored);
        let newest = |line: &mut dyn Iterator<Item = usize>| {
            line.filter(|number| self.moments[*number].revision <= progress).last()
        };
        let candidates = [newest(&mut before.into_iter()), newest(&mut after.into_iter())];
        candidates.into_iter().flatten().find(|number| self.moments[*number].tick == tick)
    }

    /// Whether the store held the same at both: it can't be seen which it is.
    pub(crate) fn is_same(&self, one: usize, other: usize) -> bool {
        let (one, other) = (self.moment(one), self.moment(other));
        one.tick == other.tick && one.objects == other.objects
    }

    /// Whether an agent may see `now` after `before`: later, or what a restored store went back to.
    pub(crate) fn may_follow(&self, before: usize, now: usize) -> bool {
        let went_back = |(backup, restored)| now <= backup && before < restored;
        now >= before || self.restored.is_some_and(went_back)
    }
}

/// Also after a panic: what the first one found is told, not that another task met it.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
