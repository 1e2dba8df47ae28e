//! The trait of all stores, and what is said through it.

use std::fmt;
use std::time::Instant;

use arcstr::ArcStr;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use model::{Key, Stored, StreamIndex};
use tokio::sync::mpsc::Sender;

use crate::error::Result;
use crate::selection::Selection;

/// Where state lives. Used as `Arc<dyn Datastore>`.
pub trait Datastore: Send + Sync + 'static {
    /// The store in a few words for people, with its address: `etcd at http://127.0.0.1:2379`.
    fn describe(&self) -> String;

    /// The streams, by [`StreamIndex`]. etcd has one, Kubernetes one per resource.
    fn streams(&self) -> &[StreamInfo];

    /// What this store can do that others can't.
    fn capabilities(&self) -> Capabilities;

    /// The store's identity (etcd: the cluster id in hex). Versions of different epochs can't be compared.
    fn epoch(&self) -> BoxFuture<'_, Result<ArcStr>>;

    /// All objects of the selection in a stream as they were at one version. It is read in pages; an error means
    /// that nothing is known, never that a part is.
    fn list(&self, stream: StreamIndex, selection: Selection) -> BoxFuture<'_, Result<Listing>>;

    /// As [`Datastore::list`], but what was read may be sent before the whole list is: then it isn't in the result.
    /// It is worth nothing before the result is there. A store that can't do so sends nothing. The list waits for
    /// who takes what is sent.
    fn list_early(
        &self,
        stream: StreamIndex,
        selection: Selection,
        early: Sender<Early>,
    ) -> BoxFuture<'_, Result<Listing>> {
        drop(early);
        self.list(stream, selection)
    }

    /// Every change of the selection in a stream after `from`: in order, nothing lost, nothing twice. It ends with
    /// an error, with [`WatchEvent::Compacted`], [`WatchEvent::WentBack`] or [`WatchEvent::OtherStore`].
    fn watch(
        &self,
        stream: StreamIndex,
        selection: Selection,
        from: Position,
    ) -> BoxStream<'static, Result<WatchEvent>>;

    /// One object as it is now; none: it doesn't exist.
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Item>>>;

    /// Writes an object that must not exist yet, and returns its version. [`Stored::Raw`] is written byte by byte,
    /// for callers that care about the spelling of their JSON.
    fn create<'a>(&'a self, key: &'a Key, value: &'a Stored) -> BoxFuture<'a, Result<u64>>;

    /// Overwrites an object that must be at version `expected`, and returns its new version.
    fn update<'a>(
        &'a self,
        key: &'a Key,
        value: &'a Stored,
        expected: u64,
    ) -> BoxFuture<'a, Result<u64>>;

    /// Removes an object, at version `expected` if one is given. Returns whether it was there; with an expected
    /// version one that isn't there is a conflict.
    fn delete<'a>(&'a self, key: &'a Key, expected: Option<u64>) -> BoxFuture<'a, Result<bool>>;

    /// Carries out all writes if all compares hold, else none (a conflict, which carries the keys that differ).
    /// Returns the version of the writes. Only where [`Capabilities::atomic_writes`] allows so many; elsewhere
    /// callers follow an order that is safe to stop at any point.
    fn txn<'a>(
        &'a self,
        compares: &'a [Compare],
        writes: &'a [Write],
    ) -> BoxFuture<'a, Result<u64>>;

    /// The bytes of our own key `name` (`digest-key` is `/bulrush/digest-key` in etcd), written as given if there
    /// are none yet: all callers get the bytes of the first.
    fn get_or_create_raw<'a>(
        &'a self,
        name: &'a str,
        bytes: &'a [u8],
    ) -> BoxFuture<'a, Result<Vec<u8>>>;

    /// The health of each stream, in the order of [`Datastore::streams`].
    fn health(&self) -> Vec<StreamHealth>;
}

/// A list + watch of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamInfo {
    /// `etcd`, or the resource in Kubernetes.
    pub name: ArcStr,
    /// Its place.
    pub index: StreamIndex,
    /// Its values are only a part of the objects in the store: most writes change nothing of them, and are told as
    /// progress.
    pub slim: bool,
}

/// What a store can do that others can't.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// How many writes, and how many compares, one [`Datastore::txn`] may have: 1 where several keys can't be
    /// written together.
    pub atomic_writes: usize,
    /// It has the backends of services.
    pub services: bool,
}

/// One object of a list.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Which object.
    pub key: Key,
    /// Its value.
    pub value: Stored,
    /// The version of its last change, in its stream. [`Datastore::update`] expects it.
    pub version: u64,
}

/// A place in the history of a stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Position {
    /// Whose history.
    pub epoch: ArcStr,
    /// Everything up to and including this version.
    pub version: u64,
    /// Counts how often this program saw the epoch's history being replaced: the store was restored from a backup,
    /// or lost its data. Versions of different histories can't be compared.
    pub history: u32,
}

impl Position {
    /// Whether `later` can be a later place in the same history.
    pub fn leads_to(&self, later: &Self) -> bool {
        self.epoch == later.epoch && self.history == later.history && self.version <= later.version
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "version {} of store {}", self.version, self.epoch)
    }
}

/// What is known of a list that is still being read.
#[derive(Clone, Debug, PartialEq)]
pub enum Early {
    /// A try begins, the first one too: what was sent before it counts no more, also when the list is then whole
    /// without another part.
    Anew,
    /// Some of its objects.
    Items(Vec<Item>),
}

/// All objects at one version.
#[derive(Clone, Debug, PartialEq)]
pub struct Listing {
    /// The version that they are of. A watch goes on from here.
    pub at: Position,
    /// The objects, in no particular order.
    pub items: Vec<Item>,
    /// Whether a list without objects means that there are none. Of an API server it doesn't: it may be of a
    /// definition that was deleted and made again, or from something in between.
    pub emptiness_is_certain: bool,
}

/// One object written (`value`) or gone (none).
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Which object.
    pub key: Key,
    /// What it is now.
    pub value: Option<Stored>,
}

/// What a watch says.
#[derive(Clone, Debug, PartialEq)]
pub enum WatchEvent {
    /// The watch is in place: what happens from now on will be seen.
    Open,
    /// What one version changed, whole and never empty.
    Changes {
        /// The version.
        version: u64,
        /// Its changes, each key once.
        changes: Vec<Change>,
    },
    /// Everything up to this version was delivered.
    Progress(u64),
    /// The history after `from` is gone: list again.
    Compacted {
        /// The oldest version that a watch may still start from.
        oldest: u64,
    },
    /// `from` isn't in the store's past: it was restored from a backup, or lost its data. List again.
    WentBack {
        /// The version that the store is at.
        version: u64,
    },
    /// Another store answers at this address. List again.
    OtherStore {
        /// Its identity.
        epoch: ArcStr,
    },
}

/// What must hold for a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expected {
    /// It doesn't exist.
    Absent,
    /// It exists at this version.
    Version(u64),
}

/// A condition of [`Datastore::txn`].
#[derive(Clone, Debug, PartialEq)]
pub struct Compare {
    /// Which object.
    pub key: Key,
    /// What must hold.
    pub expected: Expected,
}

/// A write of [`Datastore::txn`].
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// Write the value, whatever was there.
    Put(Key, Stored),
    /// Remove the object, if it is there.
    Delete(Key),
}

/// How a stream is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamHealth {
    /// Since when a watch is in place without a break; none: there is none.
    pub connected_since: Option<Instant>,
    /// When the last change of an object came.
    pub last_event: Option<Instant>,
    /// When the store last said how far it is complete: by an event, a progress notification or a list.
    pub last_progress: Option<Instant>,
    /// Keys that mean nothing to this version and were skipped: those of the last list, and events since.
    pub unknown_keys: u64,
}
