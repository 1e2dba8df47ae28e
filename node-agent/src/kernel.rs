//! The thread that owns the reconciler: commits in, outcomes out.
//!
//! The drivers are synchronous and act in the network namespace of their thread, so they get one of
//! their own. Commits that come while the kernel is being changed are put together: the next
//! change brings the newest of them.

use std::{
    sync::mpsc::{Receiver, RecvTimeoutError},
    time::{Duration, Instant},
};

use model::view::Topic;
use proto::v1::EndpointStatus;
use sync::Committed;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::{Failure, KernelEvent, Reconciler, Source, drivers::Kernel, view::Sizes};

/// How long the thread sleeps when nothing is due; it then says that it lives.
const IDLE: Duration = Duration::from_secs(5);

/// What the thread is given.
#[derive(Debug)]
pub(crate) enum Work {
    /// A publication of this session became visible.
    Commit(u64, Box<Committed>),
    /// Others changed the kernel.
    Event(KernelEvent),
}

/// What the kernel holds.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    /// The session whose publication it is; 0: none yet.
    pub(crate) session: u64,
    pub(crate) publication: u64,
    pub(crate) failed: Vec<Failure>,
    pub(crate) endpoints: Vec<EndpointStatus>,
    pub(crate) sizes: Sizes,
    /// How often something could not be brought into the kernel.
    pub(crate) failures: u64,
    /// How often, and for how long in all, the kernel was brought to the view.
    pub(crate) applied: u64,
    pub(crate) applying: Duration,
    /// When the thread last moved.
    pub(crate) alive: Instant,
}

impl Held {
    pub(crate) fn nothing() -> Self {
        Self {
            session: 0,
            publication: 0,
            failed: Vec::new(),
            endpoints: Vec::new(),
            sizes: Sizes::default(),
            failures: 0,
            applied: 0,
            applying: Duration::ZERO,
            alive: Instant::now(),
        }
    }
}

/// Runs until the senders of `work` are gone.
pub(crate) fn run<K: Kernel>(
    mut reconciler: Reconciler<K>,
    work: &Receiver<Work>,
    held: &watch::Sender<Held>,
) {
    let mut next: Option<Instant> = None;
    loop {
        let wait = next.map_or(IDLE, |next| next.saturating_duration_since(Instant::now()));
        let mut dirty = false;
        match work.recv_timeout(wait.min(IDLE)) {
            Ok(first) => {
                for item in std::iter::once(first).chain(work.try_iter()) {
                    dirty |= take(&mut reconciler, item, held);
                }
            }
            Err(RecvTimeoutError::Timeout) => dirty = next.is_some_and(|at| at <= Instant::now()),
            Err(RecvTimeoutError::Disconnected) => return,
        }
        // Before a server has said what this node needs there is nothing to bring anywhere.
        if dirty && held.borrow().session > 0 {
            next = commit(&mut reconciler, held);
        }
        held.send_modify(|held| held.alive = Instant::now());
    }
}

/// Takes one item in; whether the kernel must be looked at.
fn take<K: Kernel>(reconciler: &mut Reconciler<K>, item: Work, held: &watch::Sender<Held>) -> bool {
    let (session, committed) = match item {
        Work::Event(event) => return reconciler.kernel_event(&event),
        Work::Commit(session, committed) => (session, committed),
    };
    let view = reconciler.view();
    for change in committed.changes {
        // A topic that this version doesn't know can't be among those that it acts on.
        let Ok(topic) = change.topic.parse::<Topic>() else { continue };
        match change.value.map(|bytes| proto::decode(&topic, &bytes, &[])) {
            None => view.set(&topic, &change.key, None),
            Some(Ok(entry)) => view.set(&topic, &change.key, Some(entry)),
            Some(Err(error)) => view.set_unreadable(&topic, &change.key, error.to_string()),
        }
    }
    held.send_modify(|held| {
        held.session = session;
        held.publication = committed.publication;
    });
    true
}

fn commit<K: Kernel>(
    reconciler: &mut Reconciler<K>,
    held: &watch::Sender<Held>,
) -> Option<Instant> {
    let begin = Instant::now();
    let outcome = reconciler.commit(Source::Server, begin);
    let took = begin.elapsed();
    let own = Topic::Node(reconciler.node().into());
    let failure = |key: &str| {
        let mut failed = outcome.failed.iter();
        failed.find(|failure| failure.topic == own && failure.key == key)
    };
    let keys = reconciler.view().keys(&own);
    let endpoints = keys.iter().filter(|key| key.starts_with("wep/")).map(|key| {
        let reason = failure(key).map(|failure| failure.reason.clone()).or_else(|| {
            outcome.waiting.contains(key).then(|| "its interface is not there or not up".into())
        });
        EndpointStatus {
            key: key.to_string(),
            up: reason.is_none(),
            reason: reason.unwrap_or_default(),
        }
    });
    let endpoints = endpoints.collect();
    let sizes = reconciler.view().sizes();
    let before = held.borrow().failed.clone();
    for failure in outcome.failed.iter().filter(|failure| !before.contains(failure)) {
        let Failure { topic, key, reason } = failure;
        warn!(%topic, %key, reason, "not in the kernel");
    }
    for failure in before.iter().filter(|failure| !outcome.failed.contains(failure)) {
        info!(topic = %failure.topic, key = %failure.key, "in the kernel now");
    }
    held.send_modify(|held| {
        held.failures += outcome.failed.len() as u64;
        held.failed = outcome.failed;
        held.endpoints = endpoints;
        held.sizes = sizes;
        held.applied += 1;
        held.applying += took;
    });
    outcome.next
}
