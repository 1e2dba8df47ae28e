//! The writer: the one task that owns the engine and the publisher.
//!
//! ```text
//! Feed (datastore) --> Core: engine, versions --tick--> Publisher --> Snapshot
//! ```
//!
//! A version of the store is applied whole, and a publication is made of whole versions. Nothing is
//! published before every stream was read once, nor while the store says `datastoreReady: false`.
//!
//! When another store answers at the address, the server begins anew: another epoch, key of digests
//! and incarnation. Sessions end, and agents get the difference by digests that they can't compare,
//! so whole.

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
use sync::{
    Change, DIGEST_KEY_LEN, DigestKey, Publisher, ServerFacts, Snapshot, Versions, ViewChange,
};
use tokio::{sync::watch, task::JoinHandle};
use tracing::{error, info, warn};

use crate::{sessions::Sessions, status::Problem, tick::Tick};

/// How many publications the status page remembers.
const RECENT: usize = 20;
/// The writer says at least so often that it moves.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// Another store's key of digests is asked for so often.
const KEY_PAUSE: Duration = Duration::from_secs(1);

/// What sessions see.
pub(crate) struct Published {
    /// Who says so: a session lives as long as it.
    pub(crate) facts: Arc<ServerFacts>,
    pub(crate) snapshot: Snapshot,
    /// How many bytes of frames are kept for those that lag.
    pub(crate) history_bytes: usize,
}

/// What the rest of the server reads of the writer.
#[derive(Clone)]
pub(crate) struct Outputs {
    /// The newest publication; none before the first.
    pub(crate) published: watch::Receiver<Option<Arc<Published>>>,
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
    facts: Arc<ServerFacts>,
    engine: Engine,
    publisher: Publisher,
    versions: Versions,
    state: StoreState,
    observed_at: u64,
    /// The store went back in time, and nothing was published since.
    went_back: bool,
    /// Another store answers, and its key of digests isn't known yet: nothing is published.
    other_store: Option<String>,
    /// It has begun anew, and nothing was published since.
    anew: bool,
}

impl Core {
    fn new(facts: ServerFacts) -> Self {
        let state = StoreState { unsynced: facts.streams.clone(), ..StoreState::default() };
        Self {
            engine: Engine::new(engine::Options { plist_id: proto::plist_id }),
            publisher: Publisher::new(facts.digest_key),
            facts: Arc::new(facts),
            versions: Versions::default(),
            state,
            observed_at: 0,
            went_back: false,
            other_store: None,
            anew: false,
        }
    }

    /// Goes on as the server of another store.
    fn begin_anew(&mut self, epoch: String, key: DigestKey) {
        info!(epoch, "begun anew: agents are told by new sessions");
        let facts = ServerFacts { epoch, digest_key: key, ..(*self.facts).clone() };
        self.facts = Arc::new(ServerFacts { incarnation: incarnation(), ..facts });
        self.publisher.begin_anew(key);
        self.other_store = None;
        self.anew = true;
    }

    /// Takes one feed. `observed_at` is the clock, nanoseconds since 1970. True: there may be
    /// something to publish.
    fn feed(&mut self, feed: Feed, observed_at: u64) -> bool {
        match feed {
            Feed::Changes { stream, version, updates } => {
                // One by one, so that a list isn't held beside all that is made of it.
                for update in updates {
                    self.engine.apply(&update);
                }
                self.versions.changed(stream, version);
                self.observed_at = observed_at;
                true
            }
            Feed::Synced { stream, at, newest } => {
                self.versions.listed(stream, at.version, newest);
                let facts = self.facts.clone();
                let name = &facts.streams[usize::from(stream.0)];
                info!(stream = name, version = at.version, "in sync");
                self.state.unsynced.retain(|unsynced| unsynced != name);
                true
            }
            Feed::Progress { stream, version } => {
                self.versions.progressed(stream, version);
                true
            }
            Feed::Lost { stream, error, since } => {
                warn!(stream = self.facts.streams[usize::from(stream.0)], %error, "the store can't be read");
                self.state.lost.insert(stream, (since, error.to_string()));
                false
            }
            Feed::Regained { stream, after } => {
                let stream_name = &self.facts.streams[usize::from(stream.0)];
                info!(stream = stream_name, ?after, "the store can be read again");
                self.state.lost.remove(&stream);
                false
            }
            Feed::Reset { stream, had, now } => {
                self.versions.reset(stream);
                // Until its new list is complete, what there is belongs to no version.
                let name = self.facts.streams[usize::from(stream.0)].clone();
                if !self.state.unsynced.contains(&name) {
                    self.state.unsynced.push(name);
                }
                if now.epoch.as_str() == self.facts.epoch {
                    warn!(%had, %now, "the store went back in time: agents are told by new sessions");
                    self.went_back = true;
                    self.other_store = None;
                } else {
                    warn!(%had, %now, "another store answers at the address of the one before");
                    if self.other_store.as_deref() != Some(now.epoch.as_str()) {
                        self.versions = Versions::default();
                        self.state.unsynced.clone_from(&self.facts.streams);
                    }
                    self.other_store = Some(now.epoch.to_string());
                }
                false
            }
        }
    }

    /// Whether the publisher's state is one that the store had.
    fn is_whole(&self) -> bool {
        self.state.unsynced.is_empty() && self.other_store.is_none() && !self.state.frozen
    }

    /// Publishes what has gathered, if it may be. True: there is a new publication.
    fn publish(&mut self) -> bool {
        if !self.state.unsynced.is_empty() || self.other_store.is_some() {
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
        if std::mem::take(&mut self.went_back) {
            self.publisher.rewind();
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
            .publish(
                changes,
                views,
                self.versions.vector(),
                self.versions.progress(),
                self.observed_at,
            )
            .publication;
        if publication == before && !std::mem::take(&mut self.anew) {
            return false;
        }
        self.anew = false;
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

/// Another number for each run of a server.
pub(crate) fn incarnation() -> String {
    format!("{:016x}", rand::random::<u64>())
}

/// The store's key of digests, made where it has none.
pub(crate) async fn digest_key(store: &dyn Datastore) -> Result<DigestKey, DigestKeyError> {
    let ours: [u8; DIGEST_KEY_LEN] = rand::random();
    let key = store.get_or_create_raw("digest-key", &ours).await?;
    let length = key.len();
    key.try_into().map(DigestKey).map_err(|_| DigestKeyError::Length(length))
}

/// Why there is no key of digests.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DigestKeyError {
    #[error(transparent)]
    Store(#[from] datastore::Error),
    #[error(
        "the key /bulrush/digest-key has {0} bytes, not {DIGEST_KEY_LEN}: delete it, and servers \
         make a new one"
    )]
    Length(usize),
}

/// Starts the writer.
pub(crate) fn start(
    store: Arc<dyn Datastore>,
    facts: ServerFacts,
    sessions: Arc<Sessions>,
) -> (JoinHandle<()>, Outputs) {
    let core = Core::new(facts);
    let (published, published_reader) = watch::channel(None);
    let (state, state_reader) = watch::channel(core.state.clone());
    let (heartbeat, heartbeat_reader) = watch::channel(Instant::now());
    let outputs =
        Outputs { published: published_reader, store: state_reader, heartbeat: heartbeat_reader };
    let writer = Writer { core, sessions, published, state, heartbeat };
    (tokio::spawn(writer.run(store)), outputs)
}

struct Writer {
    core: Core,
    sessions: Arc<Sessions>,
    published: watch::Sender<Option<Arc<Published>>>,
    state: watch::Sender<StoreState>,
    heartbeat: watch::Sender<Instant>,
}

impl Writer {
    async fn run(mut self, store: Arc<dyn Datastore>) {
        let mut feeds = datastore::follow(&store, Selection::fan_out());
        let mut tick = Tick::default();
        // The key of another store, while it is being asked for.
        let mut key = None;
        loop {
            if let Some(epoch) = self.core.other_store.clone()
                && key.as_ref().is_none_or(|(of, _)| *of != epoch)
            {
                key = Some((epoch, Box::pin(other_key(store.clone()))));
            }
            let due = tick.due().map(tokio::time::Instant::from_std);
            tokio::select! {
                biased;
                () = async { tokio::time::sleep_until(due.unwrap_or_else(far)).await } => {
                    if due.is_some() {
                        self.publish();
                        tick.published(Instant::now());
                    }
                }
                known = async { match &mut key {
                    Some((_, asked)) => asked.await,
                    None => std::future::pending().await,
                } } => {
                    if let Some((epoch, _)) = key.take()
                        && self.core.other_store.as_ref() == Some(&epoch)
                    {
                        self.core.begin_anew(epoch, known);
                        tick.changed(Instant::now());
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
        let snapshot = self.core.publisher.snapshot();
        let before = self.published.borrow().clone();
        if self.core.is_whole() && (news || before.is_some()) {
            let publication = snapshot.publication;
            let facts = self.core.facts.clone();
            let same = before.is_some_and(|before| {
                Arc::ptr_eq(&before.facts, &facts)
                    && before.snapshot.generation == snapshot.generation
            });
            let history_bytes = self.core.publisher.history_bytes();
            self.published.send_replace(Some(Arc::new(Published {
                facts,
                snapshot,
                history_bytes,
            })));
            if !same {
                self.sessions.wake_all();
            }
            if news {
                self.sessions.publish(publication, self.core.publisher.affected());
            }
            self.sessions.progressed();
        }
        self.state.send_replace(self.core.state.clone());
    }
}

/// The key of another store, asked for until it is told.
async fn other_key(store: Arc<dyn Datastore>) -> DigestKey {
    loop {
        match digest_key(store.as_ref()).await {
            Ok(key) => return key,
            Err(error) => warn!(%error, "no key of digests: nothing is published until there is"),
        }
        tokio::time::sleep(KEY_PAUSE).await;
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

#[cfg(test)]
mod tests {
    use datastore::Position;

    use super::*;

    fn core() -> Core {
        Core::new(ServerFacts {
            incarnation: "run".into(),
            epoch: "store".into(),
            streams: vec!["a".into(), "b".into()],
            digest_key: DigestKey([0; DIGEST_KEY_LEN]),
            heartbeat_seconds: 10,
            version: String::new(),
        })
    }

    fn at(epoch: &str, version: u64, history: u32) -> Position {
        Position { epoch: epoch.into(), version, history }
    }

    fn synced(stream: u16, at: Position) -> Feed {
        let newest = at.version;
        Feed::Synced { stream: StreamIndex(stream), at, newest }
    }

    #[test]
    fn a_store_that_went_back_is_seen_when_its_new_list_is_complete_and_not_before() {
        let mut core = core();
        core.feed(synced(0, at("store", 9, 0)), 0);
        assert!(!core.publish(), "one stream was never read");
        core.feed(synced(1, at("store", 7, 0)), 0);
        assert!(core.publish() && core.is_whole());

        let (had, now) = (at("store", 9, 0), at("store", 3, 1));
        core.feed(Feed::Reset { stream: StreamIndex(0), had, now: now.clone() }, 0);
        assert!(!core.publish() && !core.is_whole());
        let before = core.publisher.snapshot();
        assert_eq!((before.generation, before.progress.get(StreamIndex(0))), (0, 9));

        core.feed(synced(0, now), 0);
        core.publish();
        assert!(core.is_whole());
        let after = core.publisher.snapshot();
        let progress = [0, 1].map(|stream| after.progress.get(StreamIndex(stream)));
        assert_eq!((after.generation, progress), (1, [3, 7]), "the other stream stays");
    }

    #[test]
    fn nothing_of_another_store_is_seen_before_each_of_its_streams_was_read() {
        let mut core = core();
        let streams = [0, 1];
        for stream in streams {
            core.feed(synced(stream, at("store", 9, 0)), 0);
        }
        core.publish();
        let mut turn = |stream| {
            let (had, now) = (at("store", 9, 0), at("other", 2, 0));
            core.feed(Feed::Reset { stream: StreamIndex(stream), had, now: now.clone() }, 0);
            if core.other_store.is_some() {
                core.begin_anew("other".into(), DigestKey([1; DIGEST_KEY_LEN]));
            }
            core.feed(synced(stream, now), 0);
            core.publish();
            core.is_whole()
        };
        assert_eq!(streams.map(&mut turn), [false, true]);
    }
}
