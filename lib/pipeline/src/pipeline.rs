//! The pure part: what feeds do to the engine, and what comes out at a tick.

use std::{collections::BTreeMap, sync::Arc, time::Instant};

use arcstr::ArcStr;
use bytes::Bytes;
use datastore::Feed;
use engine::{Engine, Problem};
use model::{Key, StreamIndex};
use sync::{Change, DigestKey, Publisher, ServerFacts, Versions, ViewChange};
use tracing::{info, warn};

/// The objects that don't have the effect that was written, by key.
pub type Problems = Vec<(Key, Problem)>;

/// How the store is.
#[derive(Clone, Debug, Default)]
pub struct StoreState {
    /// Streams that were never read whole.
    pub unsynced: Vec<String>,
    /// Streams that can't be read now: since when, and why.
    pub lost: BTreeMap<StreamIndex, (Instant, String)>,
    /// The store says `datastoreReady: false`.
    pub frozen: bool,
}

impl StoreState {
    /// Why a server that has published nothing hasn't.
    pub fn why_not_in_sync(&self) -> String {
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
    pub fn error(&self) -> Option<String> {
        self.lost.values().map(|(_, error)| error.clone()).next()
    }

    /// How long the store has been out of reach; 0: it is in reach.
    pub fn stale_milliseconds(&self) -> u64 {
        let oldest = self.lost.values().map(|(since, _)| since.elapsed()).max();
        oldest.map_or(0, |age| age.as_millis() as u64)
    }
}

/// Whose views are made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Every node's, and full views: a server of agents.
    Everyone,
    /// This node's: an agent without a server.
    Node(ArcStr),
}

/// What the engine makes beside what it always does.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Options {
    /// IP sets of services: the store has them.
    pub(crate) services: bool,
    /// Routes of nodes' `podCIDRs`.
    pub(crate) pod_cidrs: bool,
}

/// What feeds do to the engine, and what comes out at a tick.
pub struct Pipeline {
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

impl Pipeline {
    /// One that has read nothing.
    pub(crate) fn new(facts: ServerFacts, scope: Scope, options: Options) -> Self {
        let mut engine = Engine::new(engine::Options { plist_id: proto::plist_id });
        if let Scope::Node(node) = scope {
            engine = engine.for_node(node);
        }
        if options.services {
            engine = engine.with_services();
        }
        if options.pod_cidrs {
            engine = engine.with_pod_cidrs();
        }
        let state = StoreState { unsynced: facts.streams.clone(), ..StoreState::default() };
        Self {
            engine,
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
    pub(crate) fn begin_anew(&mut self, epoch: String, key: DigestKey) {
        info!(epoch, "begun anew: agents are told by new sessions");
        let facts = ServerFacts { epoch, digest_key: key, ..(*self.facts).clone() };
        self.facts = Arc::new(ServerFacts { incarnation: crate::incarnation(), ..facts });
        self.publisher.begin_anew(key);
        self.other_store = None;
        self.anew = true;
    }

    /// Takes one feed. `observed_at` is the clock, nanoseconds since 1970. True: there may be
    /// something to publish.
    pub(crate) fn feed(&mut self, feed: Feed, observed_at: u64) -> bool {
        match feed {
            Feed::Changes { stream, version, updates, objects, list } => {
                // One by one, so that a list isn't held beside all that is made of it.
                for update in updates {
                    self.engine.apply(&update);
                }
                match list {
                    Some(at) => self.versions.listed(stream, at, version, objects),
                    None => self.versions.changed(stream, version, objects),
                }
                self.observed_at = observed_at;
                true
            }
            Feed::Synced { stream, at, newest, objects } => {
                self.versions.listed(stream, at.version, newest, objects);
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
    pub fn is_whole(&self) -> bool {
        self.state.unsynced.is_empty() && self.other_store.is_none() && !self.state.frozen
    }

    /// Publishes what has gathered, if it may be. A new publication gives the number of entries that
    /// it changed.
    pub(crate) fn publish(&mut self) -> Option<usize> {
        if !self.state.unsynced.is_empty() || self.other_store.is_some() {
            return None;
        }
        let frozen = !self.engine.datastore_ready();
        if frozen != self.state.frozen {
            info!(frozen, "datastoreReady has changed");
            self.state.frozen = frozen;
        }
        if frozen {
            return None;
        }
        if std::mem::take(&mut self.went_back) {
            self.publisher.rewind();
        }
        self.publisher.heard(&self.versions);
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
            return None;
        }
        self.anew = false;
        Some(count)
    }

    /// Who it serves as.
    pub fn facts(&self) -> &Arc<ServerFacts> {
        &self.facts
    }

    /// How the store is.
    pub fn state(&self) -> &StoreState {
        &self.state
    }

    /// Another store answers: the epoch that it has. Nothing is published until
    /// [`Self::begin_anew`].
    pub(crate) fn other_store(&self) -> Option<&str> {
        self.other_store.as_deref()
    }

    /// What it publishes to.
    pub fn publisher(&self) -> &Publisher {
        &self.publisher
    }

    /// When the newest change was seen, nanoseconds since 1970.
    pub fn observed_at(&self) -> u64 {
        self.observed_at
    }

    /// Objects that are present and can't be used, or not whole.
    pub fn problems(&self) -> impl Iterator<Item = (&Key, &Problem)> {
        self.engine.problems()
    }

    /// Grows with each change of [`Self::problems`].
    pub fn problem_changes(&self) -> u64 {
        self.engine.problem_changes()
    }
}

#[cfg(test)]
mod tests {
    use datastore::Position;
    use sync::DIGEST_KEY_LEN;

    use super::*;

    fn pipeline() -> Pipeline {
        Pipeline::new(
            ServerFacts {
                incarnation: "run".into(),
                epoch: "store".into(),
                streams: vec!["a".into(), "b".into()],
                digest_key: DigestKey([0; DIGEST_KEY_LEN]),
                heartbeat_seconds: 10,
                version: String::new(),
            },
            Scope::Everyone,
            Options::default(),
        )
    }

    fn at(epoch: &str, version: u64, history: u32) -> Position {
        Position { epoch: epoch.into(), version, history }
    }

    fn synced(stream: u16, at: Position) -> Feed {
        let newest = at.version;
        Feed::Synced { stream: StreamIndex(stream), at, newest, objects: 1 }
    }

    #[test]
    fn a_store_that_went_back_is_seen_when_its_new_list_is_complete_and_not_before() {
        let mut pipeline = pipeline();
        pipeline.feed(synced(0, at("store", 9, 0)), 0);
        assert!(pipeline.publish().is_none(), "one stream was never read");
        pipeline.feed(synced(1, at("store", 7, 0)), 0);
        assert!(pipeline.publish().is_some() && pipeline.is_whole());

        let (had, now) = (at("store", 9, 0), at("store", 3, 1));
        pipeline.feed(Feed::Reset { stream: StreamIndex(0), had, now: now.clone() }, 0);
        assert!(pipeline.publish().is_none() && !pipeline.is_whole());
        let before = pipeline.publisher.snapshot();
        assert_eq!((before.generation, before.progress.get(StreamIndex(0))), (0, 9));

        pipeline.feed(synced(0, now), 0);
        pipeline.publish();
        assert!(pipeline.is_whole());
        let after = pipeline.publisher.snapshot();
        let progress = [0, 1].map(|stream| after.progress.get(StreamIndex(stream)));
        assert_eq!((after.generation, progress), (1, [3, 7]), "the other stream stays");
    }

    #[test]
    fn nothing_of_another_store_is_seen_before_each_of_its_streams_was_read() {
        let mut pipeline = pipeline();
        let streams = [0, 1];
        for stream in streams {
            pipeline.feed(synced(stream, at("store", 9, 0)), 0);
        }
        pipeline.publish();
        let mut turn = |stream| {
            let (had, now) = (at("store", 9, 0), at("other", 2, 0));
            pipeline.feed(Feed::Reset { stream: StreamIndex(stream), had, now: now.clone() }, 0);
            if pipeline.other_store.is_some() {
                pipeline.begin_anew("other".into(), DigestKey([1; DIGEST_KEY_LEN]));
            }
            pipeline.feed(synced(stream, now), 0);
            pipeline.publish();
            pipeline.is_whole()
        };
        assert_eq!(streams.map(&mut turn), [false, true]);
    }
}
