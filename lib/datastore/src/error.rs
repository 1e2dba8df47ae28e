//! What can go wrong with a datastore, with the way out in each message.

use model::Key;

use crate::store::{Item, Position};

/// A result of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong with a datastore.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The configuration can't be used. The text names the variable or file, its value, and the way out.
    #[error("{0}")]
    Config(String),
    /// The store can't be reached, or doesn't answer in time. After a write its outcome is unknown: read the key.
    #[error("{store}: {reason}")]
    Unavailable {
        /// The store with the address that was asked: `etcd at http://127.0.0.1:2379`.
        store: String,
        /// What was seen, and where it is known the way out.
        reason: String,
    },
    /// The store knows us and says no, or doesn't want to know us.
    #[error("{store} refuses: {reason}")]
    Denied {
        /// The store with the address that was asked: `etcd at http://127.0.0.1:2379`.
        store: String,
        /// What was refused to whom, and the way out.
        reason: String,
    },
    /// The store understood the request and can't carry it out: out of space, too large, too many operations.
    #[error("{store} can't: {reason}")]
    Refused {
        /// The store with the address that was asked: `etcd at http://127.0.0.1:2379`.
        store: String,
        /// The store's words, and the way out.
        reason: String,
    },
    /// A compare-and-swap found another value than expected. Nothing was written.
    #[error(transparent)]
    Conflict(Box<Conflict>),
    /// This store has no place for such a key.
    #[error("{key} has no place in the store: {reason}")]
    Key {
        /// The key.
        key: Key,
        /// Why not.
        reason: &'static str,
    },
    /// The history that a list needs was compacted away while it was read, again and again.
    #[error(
        "{store}: what a list was reading was compacted away {attempts} times; \
         keep history for longer (--auto-compaction-retention)"
    )]
    Compacted {
        /// The store with the address that was asked: `etcd at http://127.0.0.1:2379`.
        store: String,
        /// How often it was tried.
        attempts: u32,
    },
    /// An API server doesn't serve a resource: its definition is missing, or is being deleted. What was seen of it is
    /// kept.
    #[error(
        "{store}: it doesn't serve {what}: their definition (CRD) is missing or being deleted; what was received of \
         them is kept"
    )]
    NotServed {
        /// The store with the address that was asked.
        store: String,
        /// The resource.
        what: &'static str,
    },
    /// An API server answered with an older state than it, or another of its cluster, had shown.
    #[error(
        "{store}: its {what} are of version {got}, where {had} was seen: they went back in time, and what was received \
         is kept. An API server that lags catches up; if etcd was restored from a backup, restart this program"
    )]
    WentBack {
        /// The store with the address that was asked.
        store: String,
        /// The resource.
        what: &'static str,
        /// The version that came.
        got: u64,
        /// The version that was seen before.
        had: u64,
    },
    /// The watch ended without a reason.
    #[error("the watch ended; it is started again")]
    WatchEnded,
    /// A watch delivered what it must not: a version again, or one below what it had called complete.
    #[error(
        "the watch delivered version {got} after {had}: its order can't be trusted, so everything is listed again"
    )]
    OutOfOrder {
        /// The version that came.
        got: u64,
        /// What had been delivered or declared complete before.
        had: u64,
    },
    /// Another store, or an older state of it, lists nothing at all: more likely a wrong address or lost data than
    /// the wish to remove everything.
    #[error(
        "the store was {had} and is now {now}, without a single object, where {objects} had been seen: they are kept. \
         Check the address, or restore the data; if it is meant to be empty, restart this program"
    )]
    Emptied {
        /// What was followed.
        had: Position,
        /// What answers now.
        now: Position,
        /// How many objects are kept.
        objects: usize,
    },
}

impl Error {
    /// Whether the same call may succeed later without anyone changing the configuration or the request.
    pub fn is_temporary(&self) -> bool {
        !matches!(
            self,
            Self::Config(_) | Self::Key { .. } | Self::Conflict(_) | Self::Refused { .. }
        )
    }
}

/// The keys of a failed compare-and-swap that weren't as expected, as they are now.
#[derive(Clone, Debug)]
pub struct Conflict {
    /// Each such key with its current value and version; none: it doesn't exist.
    pub current: Vec<(Key, Option<Item>)>,
}

impl std::error::Error for Conflict {}

impl std::fmt::Display for Conflict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("update conflict: ")?;
        for (index, (key, item)) in self.current.iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            match item {
                Some(item) => write!(f, "{separator}{key} is at version {}", item.version)?,
                None => write!(f, "{separator}{key} doesn't exist")?,
            }
        }
        f.write_str("; read again and retry")
    }
}
