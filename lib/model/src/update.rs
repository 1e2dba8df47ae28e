//! What a datastore says: one object written or gone, at a version of one stream.

use serde_json::Value;

use crate::key::Key;

/// What the store holds under a key, before anyone judged it.
#[derive(Clone, Debug, PartialEq)]
pub enum Stored {
    /// A JSON document, as it is: fields that we don't know included.
    Json(Value),
    /// Bytes that are not JSON. The object exists, and is invalid.
    Raw(Vec<u8>),
}

impl Stored {
    /// Reads the bytes of a store. It never fails: what isn't JSON is [`Stored::Raw`].
    pub fn from_bytes(bytes: &[u8]) -> Self {
        serde_json::from_slice(bytes).map_or_else(|_| Self::Raw(bytes.to_vec()), Self::Json)
    }
}

/// A list + watch of a store, by its place in the store's list of streams: etcd has one,
/// Kubernetes one per resource. There is no order between streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamIndex(pub u16);

/// One object written (`value`) or gone (none).
#[derive(Clone, Debug, PartialEq)]
pub struct Update {
    /// The stream that says so.
    pub stream: StreamIndex,
    /// Which object.
    pub key: Key,
    /// What it is now.
    pub value: Option<Stored>,
    /// The version of `stream` at which that became true.
    pub version: u64,
}
