//! The writer: the one task that owns the engine and the publisher.
//!
//! ```text
//! Feed (datastore) --> Core: engine, vector, progress --tick--> Publisher --> Snapshot
//! ```
//!
//! A version of the store is applied whole, and a publication is made of whole versions. Nothing is
//! published before every stream was read once, nor while the store says `datastoreReady: false`.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use bytes::Bytes;
use datastore::{Datastore, Feed, Selection};
use engine::Engine;
use futures::StreamExt as _;
use model::StreamIndex;
use sync::{Change, DigestKey, Publisher, Snapshot, Vector, ViewChange};
use tokio::{sync::watch, task::JoinHandle};
use tracing::{error, info, warn};

use crate::{status::Problem, tick::Tick};

/// How many publications the status page remembers.
const RECENT: usize = 20;
/// The writer says at least so often that it moves.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// What the rest of the server reads of the writer.
#[derive(Clone)]
pub(crate) struct Outputs {
    /// The newest publication; none before the first.
    pub(crate) published: watch::Receiver<Option<Arc<Snapshot>>>,
    pub(crate) store: watch::Receiver<StoreState>,
    /// When the writer last moved.
    pub(crate) heartbeat: watch::Receiver<Instant>,
}

/// How the store is, and what was made of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct StoreState {
    /// Streams that were never read whole.
    pub(crate) unsynced: Vec<String>,
    /// Streams that can't be read now: since when, and why.
    pub(crate) lost: BTreeMap<StreamIndex, (Instant, String)>,
    /// The store says `datastoreReady: false`.
    pub(crate) frozen: bool,
    pub(crate) problems: Vec<Problem>,
    pub(crate) recent: VecDeque<Recent>,
}

/// A publication that was made.
#[derive(Clone, Debug)]
pub(crate) struct Recent {
    pub(crate) publication: u64,
    pub(crate) changes: usize,
    pub(crate) observed_at: u64,
}

impl StoreState {
    /// Why a server that has published nothing hasn't.
    pub(crate) fn why_not_in_sync(&self) -> String {
        if let Some((since, error)) = self.lost.values().next() {
            return format!("the store can't be read for {} s: {error}", since.elapsed().as_secs());
        }
        if !self.unsynced.is_empty() {
            return format!("still reading {}", self.unsynced.join(", "));
        }
        if self.frozen {
            return "ClusterInformation default says datastoreReady: false".into();
        }
        "nothing was published yet".into()
    }

    /// Why the store can't be read now.
    pub(crate) fn error(&self) -> Option<String> {
        self.lost.values().map(|(_, error)| error.clone()).next()
    }

    /// How long the store has been out of reach; 0: it is in reach.
    pub(crate) fn stale_milliseconds(&self) -> u64 {
        let oldest = self.lost.values().map(|(since, _)| since.elapsed()).max();
        oldest.map_or(0, |age| age.as_millis() as u64)
    }
}

/// The pure part: what feeds do to the engine, and what comes out at a tick.
struct Core {
    engine: Engine,
    publisher: Publisher,
    vector: Vector,
    progress: Vector,
    names: Vec<String>,
    state: StoreState,
    observed_at: u64,
}

impl Core {
    fn new(names: Vec<String>, key: DigestKey) -> Self {
        let state = StoreState { unsynced: names.clone(), ..StoreState::default() };
        Self {
            engine: Engine::new(engine::Options { plist_id: proto::plist_id }),
            publisher: Publisher::new(key),
            vector: Vector::default(),
            progress: Vector::default(),
            names,
            state,
            observed_at: 0,
        }
    }

    /// Takes one feed. `observed_at` is the clock, nanoseconds since 1970. True: there may be
    /// something to publish.
    fn feed(&mut self, feed: Feed, observed_at: u64) -> bool {
        match feed {
            Feed::Changes { stream, version, updates } => {
                for update in &updates {
                    self.engine.apply(update);
                }
                self.vector.advance(stream, version);
                self.progress.advance(stream, version);
                self.observed_at = observed_at;
                true
            }
            Feed::Synced { stream, at, newest } => {
                self.vector.advance(stream, newest);
                self.progress.advance(stream, at.version);
                let name = &self.names[usize::from(stream.0)];
                info!(stream = name, version = at.version, "in sync");
                self.state.unsynced.retain(|unsynced| unsynced != name);
                true
            }
            Feed::Progress { stream, version } => {
                self.progress.advance(stream, version);
                true
            }
            Feed::Lost { stream, error, since } => {
                warn!(stream = self.names[usize::from(stream.0)], %error, "the store can't be read");
                self.state.lost.insert(stream, (since, error.to_string()));
                false
            }
            Feed::Regained { stream, after } => {
                let stream_name = &self.names[usize::from(stream.0)];
                info!(stream = stream_name, ?after, "the store can be read again");
                self.state.lost.remove(&stream);
                false
            }
            Feed::Reset { had, now, .. } => {
                warn!(%had, %now, "the store went back in time: agents are told by new sessions");
                self.vector = Vector::default();
                self.progress = Vector::default();
                self.publisher.rewind();
                false
            }
        }
    }

    /// Publishes what has gathered, if it may be. True: there is a new publication.
    fn publish(&mut self) -> bool {
        if !self.state.unsynced.is_empty() {
            return false;
        }
        let frozen = !self.engine.datastore_ready();
        if frozen != self.state.frozen {
            info!(frozen, "datastoreReady has changed");
            self.state.frozen = frozen;
        }
        if frozen {
            return false;
        }
        let output = self.engine.flush();
        let before = self.publisher.snapshot().publication;
        let count = output.changes.len();
        let changes = output.changes.into_iter().map(|change| Change {
            topic: change.topic,
            key: change.key,
            value: change.entry.map(|entry| Bytes::from(proto::encode(&entry))),
        });
        let views = output.views.into_iter().map(|view| ViewChange {
            node: view.node,
            add: view.add,
            drop: view.drop,
        });
        let publication = self
            .publisher
            .publish(changes, views, &self.vector, &self.progress, self.observed_at)
            .publication;
        if publication == before {
            return false;
        }
        self.state.problems = self
            .engine
            .problems()
            .map(|(key, problem)| Problem { object: key.to_string(), text: problem.to_string() })
            .collect();
        if self.state.recent.len() == RECENT {
            self.state.recent.pop_front();
        }
        self.state.recent.push_back(Recent {
            publication,
            changes: count,
            observed_at: self.observed_at,
        });
        true
    }
}

/// Starts the writer.
pub(crate) fn start(store: Arc<dyn Datastore>, key: DigestKey) -> (JoinHandle<()>, Outputs) {
    let names: Vec<String> = store.streams().iter().map(|stream| stream.name.to_string()).collect();
    let core = Core::new(names, key);
    let (published, published_reader) = watch::channel(None);
    let (state, state_reader) = watch::channel(core.state.clone());
    let (heartbeat, heartbeat_reader) = watch::channel(Instant::now());
    let outputs =
        Outputs { published: published_reader, store: state_reader, heartbeat: heartbeat_reader };
    let writer = Writer { core, published, state, heartbeat };
    (tokio::spawn(writer.run(store)), outputs)
}

struct Writer {
    core: Core,
    published: watch::Sender<Option<Arc<Snapshot>>>,
    state: watch::Sender<StoreState>,
    heartbeat: watch::Sender<Instant>,
}

impl Writer {
    async fn run(mut self, store: Arc<dyn Datastore>) {
        let mut feeds = datastore::follow(&store, Selection::fan_out());
        let mut tick = Tick::default();
        loop {
            let due = tick.due().map(tokio::time::Instant::from_std);
            tokio::select! {
                biased;
                () = async { tokio::time::sleep_until(due.unwrap_or_else(far)).await } => {
                    if due.is_some() {
                        self.publish();
                        tick.published(Instant::now());
                    }
                }
                feed = feeds.next() => {
                    let Some(feed) = feed else {
                        error!("the store is no longer followed");
                        return;
                    };
                    if self.core.feed(feed, now_nanoseconds()) {
                        tick.changed(Instant::now());
                    }
                    self.state.send_replace(self.core.state.clone());
                }
            }
            self.heartbeat.send_replace(Instant::now());
        }
    }

    fn publish(&mut self) {
        let news = self.core.publish();
        let snapshot = Arc::new(self.core.publisher.snapshot());
        // Readers see the newest versions in any case; sessions wake for a publication only.
        self.published.send_if_modified(|published| {
            if news || published.is_some() {
                *published = Some(snapshot);
            }
            news
        });
        self.state.send_replace(self.core.state.clone());
    }
}

/// Something to wait for when nothing is due: the loop turns, and says that it lives.
fn far() -> tokio::time::Instant {
    tokio::time::Instant::now() + HEARTBEAT
}

fn now_nanoseconds() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_nanos() as u64)
}
