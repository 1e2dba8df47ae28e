//! From a store's feeds to publications: the one writer of the engine and the publisher.
//!
//! ```text
//! Feed (datastore) --> engine, versions --publish--> Publisher --> Snapshot
//! ```
//!
//! A version of the store is applied whole, and a publication is made of whole versions. Nothing is
//! published before every stream was read once, nor while the store says `datastoreReady: false`.
//!
//! When another store answers at the address, the pipeline begins anew: another epoch, key of digests
//! and incarnation.

mod pipeline;
mod recording;
mod running;
mod tick;

use datastore::Datastore;
use sync::{DIGEST_KEY_LEN, DigestKey, ServerFacts};

pub use pipeline::{Pipeline, Problems, Scope, StoreState};
pub use recording::Recording;
pub use running::{Reading, Running, Turn};

/// The part of a store's server that it says of itself.
#[derive(Clone, Copy, Debug)]
pub struct About {
    /// A heartbeat comes after so much quiet.
    pub heartbeat_seconds: u32,
    /// The program's version.
    pub version: &'static str,
}

/// Who serves `scope` from this store: a new run. Servers of everyone share the store's key of digests,
/// which is made where there is none; who serves only itself has one of its own, and needs no right to
/// the store's.
///
/// # Errors
/// When the store can't be read or written, or its key is unusable.
pub async fn facts(
    store: &dyn Datastore,
    scope: &Scope,
    about: About,
) -> Result<ServerFacts, FactsError> {
    Ok(ServerFacts {
        incarnation: incarnation(),
        epoch: store.epoch().await?.to_string(),
        streams: store.streams().iter().map(|stream| stream.name.to_string()).collect(),
        digest_key: digest_key(store, scope).await?,
        heartbeat_seconds: about.heartbeat_seconds,
        version: about.version.to_owned(),
    })
}

/// Another number for each run of a server.
fn incarnation() -> String {
    format!("{:016x}", rand::random::<u64>())
}

async fn digest_key(store: &dyn Datastore, scope: &Scope) -> Result<DigestKey, FactsError> {
    let ours: [u8; DIGEST_KEY_LEN] = rand::random();
    if *scope != Scope::Everyone {
        return Ok(DigestKey(ours));
    }
    let key = store.get_or_create_raw("digest-key", &ours).await?;
    let length = key.len();
    key.try_into().map(DigestKey).map_err(|_| FactsError::Length(length))
}

/// Why it isn't known who a server of a store is.
#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    /// The store's word.
    #[error(transparent)]
    Store(#[from] datastore::Error),
    /// The key of digests isn't one.
    #[error(
        "the key /bulrush/digest-key has {0} bytes, not {DIGEST_KEY_LEN}: delete it, and servers \
         make a new one"
    )]
    Length(usize),
}
