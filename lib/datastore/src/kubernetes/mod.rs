//! A [`Datastore`] on the Kubernetes API: core objects, translated, and Calico's custom resources.
//!
//! ```text
//!   list (streamed, or in pages) ─┐
//!                                 ├─> slim JSON ─> shape ─> (Key, Stored) as in etcd
//!   watch (own loop over lines) ──┘
//! ```
//!
//! One stream per resource. There is no order between them. Each object is read by itself: one that can't be read is
//! named, and the others go on.

mod connection;
mod group;
mod lines;
mod list;
mod ours;
mod protobuf;
mod resources;
mod service;
mod shape;
mod slim;
mod tokens;
mod watch;
mod write;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arcstr::ArcStr;
use futures::FutureExt;
use futures::future::BoxFuture;
use futures::stream::{self, BoxStream, StreamExt};
use model::{Key, Stored, StreamIndex};
use tokio::sync::mpsc::Sender;

use crate::config::KubernetesConfig;
use crate::error::{Error, Result};
use crate::selection::Selection;
use crate::store::{
    Capabilities, Compare, Datastore, Early, Item, Listing, Position, StreamHealth, StreamInfo,
    WatchEvent, Write,
};
use connection::Connection;
pub use group::ApiGroup;
use group::Groups;
use resources::{RESOURCES, Resource, Source};
pub use service::{Addresses, Service};
pub use tokens::{Holder, Tokens};

/// The cluster's identity is asked for again after so long.
const EPOCH_AGE: Duration = Duration::from_secs(10);

/// A Kubernetes cluster.
pub struct KubernetesStore {
    shared: Arc<Shared>,
    streams: Vec<StreamInfo>,
}

/// What lists, watches and writes share.
struct Shared {
    connection: Connection,
    groups: Groups,
    /// Where our own objects are.
    namespace: String,
    /// A watch without a sign of life for so long is dead.
    idle: Duration,
    /// Whether lists are asked for as streams. An API server that can't, says so.
    streamed_lists: AtomicBool,
    epoch: Mutex<Epoch>,
    /// By [`StreamIndex`].
    streams: Vec<StreamState>,
}

/// The cluster's identity, and whether it may still be another's connection that told it.
#[derive(Default)]
struct Epoch {
    /// With the time when it was asked for.
    known: Option<(ArcStr, Instant)>,
    /// When a connection last ended: behind the next one may be another cluster.
    ended: Option<Instant>,
}

#[derive(Default)]
struct StreamState {
    /// The newest version seen: nothing older is believed.
    newest: AtomicU64,
    health: Mutex<StreamHealth>,
}

impl KubernetesStore {
    /// Connects, and returns when the API server has answered.
    pub async fn connect(config: KubernetesConfig) -> Result<Self> {
        let connection = Connection::open(&config).await?;
        let namespace = ours::namespace(&config);
        let shared = Arc::new(Shared {
            connection,
            groups: Groups::new(config.api_group),
            namespace,
            idle: config.idle,
            streamed_lists: AtomicBool::new(config.streamed_lists),
            epoch: Mutex::default(),
            streams: RESOURCES.iter().map(|_| StreamState::default()).collect(),
        });
        shared.epoch().await?;
        let streams = RESOURCES.iter().zip(0..).map(|(resource, index)| StreamInfo {
            name: resource.stream.into(),
            index: StreamIndex(index),
            slim: resource.source != Source::Calico,
        });
        Ok(Self { shared, streams: streams.collect() })
    }

    /// The group of Calico's objects that is in use; none: the cluster serves none yet.
    pub async fn api_group(&self) -> Result<Option<ApiGroup>> {
        self.shared.groups.current(&self.shared.connection).await
    }
}

impl Datastore for KubernetesStore {
    fn describe(&self) -> String {
        self.shared.connection.describe()
    }

    fn streams(&self) -> &[StreamInfo] {
        &self.streams
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { atomic_writes: 1, services: true }
    }

    fn epoch(&self) -> BoxFuture<'_, Result<ArcStr>> {
        self.shared.epoch().boxed()
    }

    fn list(&self, stream: StreamIndex, selection: Selection) -> BoxFuture<'_, Result<Listing>> {
        list::list(&self.shared, stream, selection, None).boxed()
    }

    fn list_early(
        &self,
        stream: StreamIndex,
        selection: Selection,
        early: Sender<Early>,
    ) -> BoxFuture<'_, Result<Listing>> {
        list::list(&self.shared, stream, selection, Some(early)).boxed()
    }

    fn watch(
        &self,
        stream: StreamIndex,
        selection: Selection,
        from: Position,
    ) -> BoxStream<'static, Result<WatchEvent>> {
        let Some(resource) = Resource::of(stream) else { return stream::empty().boxed() };
        if !selection.contains(resource.kind) {
            // Nothing will ever happen to what nobody asked for.
            let open = stream::once(async { Ok(WatchEvent::Open) });
            return open.chain(stream::pending()).boxed();
        }
        watch::watch(Arc::clone(&self.shared), stream, resource, from)
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
        ours::get_or_create_raw(&self.shared, name, bytes).boxed()
    }

    fn health(&self) -> Vec<StreamHealth> {
        self.shared.streams.iter().map(|state| lock(&state.health).clone()).collect()
    }
}

impl Shared {
    /// The uid of `kube-system`, which lives as long as its cluster.
    async fn epoch(&self) -> Result<ArcStr> {
        if let Epoch { known: Some((epoch, at)), ended } = &*lock(&self.epoch)
            && at.elapsed() < EPOCH_AGE
            && ended.is_none_or(|ended| ended < *at)
        {
            return Ok(epoch.clone());
        }
        let asked = Instant::now();
        let operation = "get namespace kube-system";
        let namespace = self.connection.get(operation, "/api/v1/namespaces/kube-system").await?;
        let uid = namespace["metadata"]["uid"].as_str().filter(|uid| !uid.is_empty());
        let Some(uid) = uid.map(ArcStr::from) else {
            return Err(self
                .connection
                .unavailable(operation, "it has no uid; is this Kubernetes?"));
        };
        lock(&self.epoch).known = Some((uid.clone(), asked));
        Ok(uid)
    }

    /// A connection ended.
    fn ended(&self) {
        lock(&self.epoch).ended = Some(Instant::now());
    }

    /// The group of a resource's objects, which means nothing to those that aren't Calico's; the error: no group of
    /// Calico is served yet.
    async fn group(&self, resource: &Resource) -> Result<ApiGroup> {
        let group = match resource.source {
            Source::Calico => self.groups.current(&self.connection).await?,
            Source::Kubernetes(..) | Source::Custom(..) => Some(ApiGroup::V3),
        };
        group.ok_or_else(|| self.not_served(resource))
    }

    fn not_served(&self, resource: &Resource) -> Error {
        Error::NotServed { store: self.connection.describe(), what: resource.stream }
    }

    fn stream(&self, stream: StreamIndex) -> &StreamState {
        &self.streams[usize::from(stream.0)]
    }
}

impl StreamState {
    fn newest(&self) -> u64 {
        self.newest.load(Ordering::Relaxed)
    }

    /// A version was seen; true: nothing newer had been.
    fn saw(&self, version: u64) -> bool {
        self.newest.fetch_max(version, Ordering::Relaxed) <= version
    }

    fn saw_list(&self, unknown: u64) {
        let mut health = lock(&self.health);
        health.last_progress = Some(Instant::now());
        health.unknown_keys = unknown;
    }

    fn saw_watch(&self, event: bool, unknown: u64) {
        let now = Some(Instant::now());
        let mut health = lock(&self.health);
        health.last_progress = now;
        health.unknown_keys += unknown;
        if event {
            health.last_event = now;
        }
    }

    fn connected(&self, since: Option<Instant>) {
        lock(&self.health).connected_since = since;
    }
}

/// A poisoned lock only means that another thread panicked; what these guard is whole after each statement.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A resource version as a number: versions of one resource are compared so since Kubernetes 1.35 (KEP-5504), and
/// were of this form before.
fn version(text: &str) -> Option<u64> {
    text.parse().ok()
}

/// What went wrong with a version.
fn bad_version(connection: &Connection, operation: &str, text: &str) -> Error {
    connection.unavailable(
        operation,
        &format!("resourceVersion {text:?} is no number, so that versions can't be compared"),
    )
}
