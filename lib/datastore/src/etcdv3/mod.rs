//! A [`Datastore`] on etcd's v3 API: real etcd, or the embedded store.
//!
//! One stream, named `etcd`: a watch on Calico's keys. One etcd revision is one version.

mod connection;
mod diagnose;
mod history;
pub mod keys;
mod list;
mod progress;
mod refusal;
mod tls;
mod watch;
mod write;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use arcstr::ArcStr;
use etcd_client::{GetOptions, ResponseHeader};
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use model::{Key, Stored, StreamIndex};
use tokio::sync::mpsc::Sender;

use crate::config::EtcdConfig;
use crate::error::{Error, Result};
use crate::selection::Selection;
use crate::store::{
    Capabilities, Compare, Datastore, Early, Item, Listing, Position, StreamHealth, StreamInfo,
    WatchEvent, Write,
};
use connection::Connection;
use history::History;

/// etcd's own limit of operations in a transaction, unless its operator raised it (`--max-txn-ops`).
const TXN_LIMIT: usize = 128;

/// An etcd cluster.
pub struct EtcdStore {
    shared: Arc<Shared>,
    streams: [StreamInfo; 1],
}

/// What watches share with the store.
struct Shared {
    connection: Connection,
    health: Mutex<Health>,
    history: Mutex<History>,
}

#[derive(Default)]
struct Health {
    stream: StreamHealth,
    /// How many watches are in place.
    watches: usize,
}

impl EtcdStore {
    /// Connects, and returns when a member has answered.
    pub async fn connect(config: EtcdConfig) -> Result<Self> {
        let shared = Shared {
            connection: Box::pin(Connection::open(config)).await?,
            health: Mutex::default(),
            history: Mutex::default(),
        };
        let info = StreamInfo { name: "etcd".into(), index: StreamIndex(0), slim: false };
        Ok(Self { shared: Arc::new(shared), streams: [info] })
    }
}

impl Datastore for EtcdStore {
    fn describe(&self) -> String {
        self.shared.connection.describe()
    }

    fn streams(&self) -> &[StreamInfo] {
        &self.streams
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { atomic_writes: TXN_LIMIT, services: false }
    }

    fn epoch(&self) -> BoxFuture<'_, Result<ArcStr>> {
        async { Ok(self.shared.now().await?.epoch) }.boxed()
    }

    fn list(&self, _: StreamIndex, selection: Selection) -> BoxFuture<'_, Result<Listing>> {
        list::list(&self.shared, selection, None).boxed()
    }

    fn list_early(
        &self,
        _: StreamIndex,
        selection: Selection,
        early: Sender<Early>,
    ) -> BoxFuture<'_, Result<Listing>> {
        list::list(&self.shared, selection, Some(early)).boxed()
    }

    fn watch(
        &self,
        _: StreamIndex,
        selection: Selection,
        from: Position,
    ) -> BoxStream<'static, Result<WatchEvent>> {
        watch::watch(Arc::clone(&self.shared), selection, from)
    }

    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Item>>> {
        write::get(&self.shared, key).boxed()
    }

    fn create<'a>(&'a self, key: &'a Key, value: &'a Stored) -> BoxFuture<'a, Result<u64>> {
        write::create(&self.shared, key, value).boxed()
    }

    fn update<'a>(
        &'a self,
        key: &'a Key,
        value: &'a Stored,
        expected: u64,
    ) -> BoxFuture<'a, Result<u64>> {
        write::update(&self.shared, key, value, expected).boxed()
    }

    fn delete<'a>(&'a self, key: &'a Key, expected: Option<u64>) -> BoxFuture<'a, Result<bool>> {
        write::delete(&self.shared, key, expected).boxed()
    }

    fn txn<'a>(
        &'a self,
        compares: &'a [Compare],
        writes: &'a [Write],
    ) -> BoxFuture<'a, Result<u64>> {
        write::txn(&self.shared, compares, writes).boxed()
    }

    fn get_or_create_raw<'a>(
        &'a self,
        name: &'a str,
        bytes: &'a [u8],
    ) -> BoxFuture<'a, Result<Vec<u8>>> {
        write::get_or_create_raw(&self.shared, name, bytes).boxed()
    }

    fn health(&self) -> Vec<StreamHealth> {
        vec![lock(&self.shared.health).stream.clone()]
    }
}

impl Shared {
    /// Where the cluster is, by a read that a majority stands behind.
    async fn now(&self) -> Result<Position> {
        let before = *lock(&self.history);
        let options = GetOptions::new().with_count_only();
        let response = self.connection.read(keys::ROOT, options).await?;
        let header = self.header(response.header())?;
        let mut history = lock(&self.history);
        history.saw(before, header);
        Ok(Position {
            epoch: epoch(header),
            version: version(header.revision()),
            history: history.replaced,
        })
    }

    fn header<'a>(&self, header: Option<&'a ResponseHeader>) -> Result<&'a ResponseHeader> {
        header.ok_or_else(|| Error::Unavailable {
            store: self.connection.describe(),
            reason: "an answer without a header; it is no etcd".to_owned(),
        })
    }

    /// A list was read, in which `unknown` keys meant nothing to us.
    fn saw_list(&self, unknown: u64) {
        let health = &mut lock(&self.health).stream;
        health.last_progress = Some(Instant::now());
        health.unknown_keys = unknown;
    }

    /// A watch said something: how far it is, or a change too.
    fn saw_watch(&self, event: bool, unknown: u64) {
        let now = Some(Instant::now());
        let health = &mut lock(&self.health).stream;
        health.last_progress = now;
        health.unknown_keys += unknown;
        if event {
            health.last_event = now;
        }
    }
}

/// A poisoned lock only means that another thread panicked; what these guard is whole after each statement.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn epoch(header: &ResponseHeader) -> ArcStr {
    arcstr::format!("{:x}", header.cluster_id())
}

/// etcd's revisions start at 1 and grow.
fn version(revision: i64) -> u64 {
    u64::try_from(revision).unwrap_or_default()
}

/// As etcd wants it.
fn revision(version: u64) -> i64 {
    i64::try_from(version).unwrap_or(i64::MAX)
}
