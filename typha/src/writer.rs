//! The writer: the one task that owns the pipeline.
//!
//! ```text
//! Running: follows the store --tick--> Snapshot, and whom it wakes
//! ```
//!
//! When another store answers at the address, the server begins anew. Sessions end, and agents get
//! the difference by digests that they can't compare, so whole.

use std::{collections::VecDeque, sync::Arc, time::Instant};

use datastore::Datastore;
use pipeline::{Problems, Reading, Running, StoreState, Turn};
use sync::{ServerFacts, Snapshot};
use tokio::{sync::watch, task::JoinHandle};
use tracing::error;

use crate::{rollout::LastChanged, sessions::Sessions};

/// How many publications the status page remembers.
const RECENT: usize = 20;
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
    pub(crate) made: watch::Receiver<Made>,
    /// When the writer last moved.
    pub(crate) heartbeat: watch::Receiver<Instant>,
}

/// What was made of the store, for people.
#[derive(Clone, Debug, Default)]
pub(crate) struct Made {
    pub(crate) problems: Arc<Problems>,
    /// Of which state of the pipeline they are.
    problem_changes: u64,
    /// The newest publications, newest last.
    pub(crate) recent: VecDeque<Recent>,
    pub(crate) policies: LastChanged,
}

impl Made {
    /// The publication up to which it is known; 0: none.
    pub(crate) fn publication(&self) -> u64 {
        self.recent.back().map_or(0, |recent| recent.publication)
    }
}

/// A publication that was made.
#[derive(Clone, Debug)]
pub(crate) struct Recent {
    pub(crate) publication: u64,
    pub(crate) changes: usize,
    pub(crate) observed_at: u64,
}

/// Starts the writer.
pub(crate) fn start(
    store: Arc<dyn Datastore>,
    facts: ServerFacts,
    sessions: Arc<Sessions>,
    reading: Reading,
) -> (JoinHandle<()>, Outputs) {
    let running = Running::new(store, facts, reading);
    let (published, published_reader) = watch::channel(None);
    let (state, state_reader) = watch::channel(running.pipeline().state().clone());
    let (made, made_reader) = watch::channel(Made::default());
    let (heartbeat, heartbeat_reader) = watch::channel(Instant::now());
    let outputs = Outputs {
        published: published_reader,
        store: state_reader,
        made: made_reader,
        heartbeat: heartbeat_reader,
    };
    let writer = Writer { running, sessions, published, state, made, heartbeat };
    (tokio::spawn(writer.run()), outputs)
}

struct Writer {
    running: Running,
    sessions: Arc<Sessions>,
    published: watch::Sender<Option<Arc<Published>>>,
    state: watch::Sender<StoreState>,
    made: watch::Sender<Made>,
    heartbeat: watch::Sender<Instant>,
}

impl Writer {
    async fn run(mut self) {
        while let Some(turn) = self.running.next(|| self.sessions.are_busy()).await {
            match turn {
                Turn::Published(changes) => self.published(changes),
                Turn::Store => self.say_state(),
                Turn::Nothing => {}
            }
            self.heartbeat.send_replace(Instant::now());
        }
        error!("the store is no longer followed");
    }

    fn say_state(&self) {
        self.state.send_replace(self.running.pipeline().state().clone());
    }

    fn published(&self, changes: Option<usize>) {
        let pipeline = self.running.pipeline();
        let snapshot = pipeline.publisher().snapshot();
        let before = self.published.borrow().clone();
        if pipeline.is_whole() && (changes.is_some() || before.is_some()) {
            let publication = snapshot.publication;
            let facts = pipeline.facts().clone();
            let before = before.filter(|before| Arc::ptr_eq(&before.facts, &facts));
            let generation = before.as_ref().map(|before| before.snapshot.generation);
            let same = generation == Some(snapshot.generation);
            let history_bytes = pipeline.publisher().history_bytes();
            self.published.send_replace(Some(Arc::new(Published {
                facts,
                snapshot: snapshot.clone(),
                history_bytes,
            })));
            if !same {
                self.sessions.wake_all();
            }
            if let Some(changes) = changes {
                self.sessions.publish(publication, pipeline.publisher().affected());
                let before = before.as_ref().map(|before| &before.snapshot);
                self.made(publication, changes, before.map(|before| (before, &snapshot)));
            }
            self.sessions.progressed();
        }
        if self.state.borrow().frozen != pipeline.state().frozen {
            self.say_state();
        }
    }

    /// A publication was made: what there was before and is now, of one store.
    fn made(&self, publication: u64, changes: usize, difference: Option<(&Snapshot, &Snapshot)>) {
        let pipeline = self.running.pipeline();
        let observed_at = pipeline.observed_at();
        self.made.send_modify(|made| {
            if made.recent.len() == RECENT {
                made.recent.pop_front();
            }
            made.recent.push_back(Recent { publication, changes, observed_at });
            match difference {
                Some((before, now)) => {
                    let affected = pipeline.publisher().affected();
                    made.policies.add(before, now, affected, observed_at);
                }
                None => made.policies = LastChanged::default(),
            }
            if made.problem_changes != pipeline.problem_changes() {
                made.problem_changes = pipeline.problem_changes();
                let now = pipeline.problems();
                made.problems = Arc::new(now.map(|(k, p)| (k.clone(), p.clone())).collect());
            }
        });
    }
}
