//! How far a search goes: what happens in the store, who is there, and how many faults.

use crate::store::{Happening, Log};

/// What a store, or a library in front of it, does wrong. Others have shipped each of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StoreFault {
    /// A progress notice comes before the event that it covers.
    ProgressAhead,
    /// A watch that was opened again delivers an older event after a newer one.
    WatchWentBack,
    /// Each event is delivered twice.
    Duplicates,
    /// Of several events at once the first is lost, as when a compaction is not noticed.
    LostAtCompaction,
    /// A server that starts lists a cache that lags, and takes the list for current.
    StaleList,
}

#[derive(Clone, Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each says whether something may happen")]
pub(crate) struct Scope {
    pub(crate) replicas: usize,
    pub(crate) agents: usize,
    /// The node of the first of them.
    pub(crate) first: usize,
    pub(crate) streams: usize,
    /// What happens in the store.
    pub(crate) script: Vec<Happening>,
    /// What happens in it after it was restored from a backup.
    pub(crate) after_restore: Vec<Happening>,
    /// Versions that a backup may be of; empty: there is none.
    pub(crate) backups: Vec<u8>,
    /// A publication is of at most so many events.
    pub(crate) batch: u8,
    /// Bytes of frames that a server keeps.
    pub(crate) history: usize,
    /// Of these faults, so many in all.
    pub(crate) faults: u8,
    /// Connections that break.
    pub(crate) cuts: u8,
    /// Agents that crash. Their kernels stay.
    pub(crate) crashes: u8,
    /// Servers that crash and come back with nothing.
    pub(crate) restarts: u8,
    /// Frames that arrive with another value than was sent.
    pub(crate) corruptions: u8,
    /// Agents that write what they hold to a file, and may start from it. For each crash one is
    /// enough: what is overwritten is never read.
    pub(crate) saves: u8,
    /// Agents begin with a file that they wrote for another cluster.
    pub(crate) foreign: bool,
    /// Servers hear from the store that nothing has happened.
    pub(crate) bookmarks: bool,
    /// Kernels take their time, and agents acknowledge.
    pub(crate) acks: bool,
    /// What an agent has seen of the store is remembered: it may not go back to before that, not
    /// even where a vector can't tell, as of a delete that only a list knew of.
    pub(crate) strict: bool,
    /// Topics with more entries than this have digests of their buckets.
    pub(crate) buckets_from: usize,
    pub(crate) fault: Option<StoreFault>,
}

impl Scope {
    /// One server, one agent, no faults.
    pub(crate) fn of(script: impl Into<Vec<Happening>>) -> Self {
        Self {
            replicas: 1,
            agents: 1,
            first: 0,
            streams: 1,
            script: script.into(),
            after_restore: Vec::new(),
            backups: Vec::new(),
            batch: u8::MAX,
            history: 10_000,
            faults: u8::MAX,
            cuts: 0,
            crashes: 0,
            restarts: 0,
            corruptions: 0,
            saves: 0,
            foreign: false,
            bookmarks: false,
            acks: false,
            strict: false,
            buckets_from: usize::MAX,
            fault: None,
        }
    }

    /// The store's history: 0 is the first, n + 1 the one after a restore of the n-th backup.
    pub(crate) fn logs(&self) -> Vec<Log> {
        let log = |happenings| Log { happenings, streams: self.streams };
        let restored = self.backups.iter().map(|version| {
            let kept = self.script.iter().take(usize::from(*version));
            log(kept.chain(&self.after_restore).copied().collect())
        });
        std::iter::once(log(self.script.clone())).chain(restored).collect()
    }
}
