//! What happened, revision by revision, since the last compaction: what watchers are served from.

use std::collections::VecDeque;
use std::sync::Arc;

use super::KeyValue;

/// What an event costs in memory beside its key and value, roughly.
const OVERHEAD: usize = 256;

/// One change of one key.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Put(Arc<KeyValue>),
    Delete(Vec<u8>),
}

impl Change {
    pub(crate) fn key(&self) -> &[u8] {
        match self {
            Self::Put(kv) => &kv.key,
            Self::Delete(key) => key,
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        OVERHEAD
            + match self {
                Self::Put(kv) => kv.key.len() + kv.value.len(),
                Self::Delete(key) => key.len(),
            }
    }
}

/// All changes of one revision, in their order.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) revision: i64,
    pub(crate) changes: Vec<Change>,
}

impl Entry {
    fn bytes(&self) -> usize {
        self.changes.iter().map(Change::bytes).sum()
    }
}

/// The entries, one per revision without gaps, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Log {
    entries: VecDeque<Entry>,
    bytes: usize,
}

impl Log {
    pub(crate) fn push(&mut self, entry: Entry) {
        self.bytes += entry.bytes();
        self.entries.push_back(entry);
    }

    /// The entries from `revision` on.
    pub(crate) fn from(&self, revision: i64) -> impl Iterator<Item = &Entry> {
        let first = self.entries.partition_point(|entry| entry.revision < revision);
        self.entries.range(first..)
    }

    /// Takes the last entry away if it is newer than `revision`.
    pub(crate) fn pop_after(&mut self, revision: i64) -> Option<Entry> {
        let entry = self.entries.pop_back_if(|entry| entry.revision > revision)?;
        self.bytes -= entry.bytes();
        Some(entry)
    }

    /// Takes the first entry away if it is older than `revision`.
    pub(crate) fn pop_before(&mut self, revision: i64) -> Option<Entry> {
        let entry = self.entries.pop_front_if(|entry| entry.revision < revision)?;
        self.bytes -= entry.bytes();
        Some(entry)
    }

    /// The first revision from which on the log takes at most `limit` bytes.
    pub(crate) fn fitting(&self, limit: usize) -> Option<i64> {
        let mut excess = self.bytes.checked_sub(limit)?;
        for entry in &self.entries {
            if excess == 0 {
                return Some(entry.revision);
            }
            excess = excess.saturating_sub(entry.bytes());
        }
        None
    }

    /// About how much memory it takes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}
