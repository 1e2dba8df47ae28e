//! What all agents of a run have found, gathered.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc::UnboundedSender;

use crate::{
    delivery::{Found, Ledger, Written},
    judge::{Fault, Kind},
    worker::Order,
};

/// Agents share so many histograms, so that they seldom wait for each other.
const SHARDS: usize = 16;
/// How many errors are kept in words.
const EXAMPLES: usize = 10;
/// The longest latency that is told apart, in microseconds: an hour.
const LONGEST: u64 = 3_600_000_000;

/// Errors by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Errors {
    /// Time ran back, or a frame came when it couldn't belong.
    pub(crate) order: u64,
    /// The agent's state was not the server's.
    pub(crate) digest: u64,
    /// A change never came, or a Commit claimed one that hadn't come.
    pub(crate) lost: u64,
}

impl Errors {
    /// All of them.
    pub(crate) fn total(&self) -> u64 {
        self.order + self.digest + self.lost
    }
}

/// What agents of another process have found since they last said so.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Tally {
    errors: Errors,
    examples: Vec<String>,
    commits: u64,
    delivered: u64,
    reconnects: u64,
    synced: u64,
    sessions: u64,
    held: u64,
    again: u64,
    /// Latencies in microseconds, and how often each was seen.
    latencies: Vec<(u64, u64)>,
    /// Nothing comes after it.
    pub(crate) last: bool,
}

/// Counters, the ledger, and the latencies. No lock is held across an await.
pub(crate) struct Score {
    pub(crate) ledger: RwLock<Ledger>,
    deadline: Duration,
    order: AtomicU64,
    digest: AtomicU64,
    lost: AtomicU64,
    pub(crate) commits: AtomicU64,
    pub(crate) delivered: AtomicU64,
    pub(crate) reconnects: AtomicU64,
    /// Agents that had their first Commit.
    pub(crate) synced: AtomicU64,
    /// Sessions that had their first Commit.
    pub(crate) sessions: AtomicU64,
    /// Topics that were held when sessions began, and those of them that came whole again.
    held: AtomicU64,
    again: AtomicU64,
    examples: Mutex<Vec<String>>,
    /// Other processes with agents.
    workers: Mutex<Vec<UnboundedSender<Arc<Order>>>>,
    latencies: Vec<Mutex<Histogram<u64>>>,
}

impl Score {
    /// A change that takes longer than `deadline` is lost.
    pub(crate) fn new(ledger: Ledger, deadline: Duration) -> Self {
        Self {
            ledger: RwLock::new(ledger),
            deadline,
            order: AtomicU64::default(),
            digest: AtomicU64::default(),
            lost: AtomicU64::default(),
            commits: AtomicU64::default(),
            delivered: AtomicU64::default(),
            reconnects: AtomicU64::default(),
            synced: AtomicU64::default(),
            sessions: AtomicU64::default(),
            held: AtomicU64::default(),
            again: AtomicU64::default(),
            examples: Mutex::default(),
            workers: Mutex::default(),
            latencies: (0..SHARDS).map(|_| Mutex::new(histogram())).collect(),
        }
    }

    /// An error of an agent.
    pub(crate) fn fault(&self, agent: &str, fault: &Fault) {
        self.count(fault.kind).fetch_add(1, Ordering::Relaxed);
        let mut examples = lock(&self.examples);
        if examples.len() < EXAMPLES {
            examples.push(format!("{agent}: {}", fault.text));
        }
    }

    fn count(&self, kind: Kind) -> &AtomicU64 {
        match kind {
            Kind::Order => &self.order,
            Kind::Digest => &self.digest,
            Kind::Lost => &self.lost,
        }
    }

    /// What an agent's Commits have shown.
    pub(crate) fn found(&self, number: u32, agent: &str, found: &Found) {
        if !found.latencies.is_empty() {
            let mut histogram = lock(&self.latencies[number as usize % SHARDS]);
            for latency in &found.latencies {
                histogram.saturating_record((latency.as_micros() as u64).max(1));
            }
        }
        self.delivered.fetch_add(found.latencies.len() as u64, Ordering::Relaxed);
        for latency in found.latencies.iter().filter(|latency| **latency > self.deadline) {
            let text = format!("a change took {} s", latency.as_secs());
            self.fault(agent, &Fault { kind: Kind::Lost, text });
        }
        for (slot, expected, held) in &found.lost {
            let text = format!("a Commit covers {slot:?} at {expected:?}, held is {held:?}");
            self.fault(agent, &Fault { kind: Kind::Lost, text });
        }
        for (slot, mark) in &found.unasked {
            let text = format!("{slot:?} became {mark:?}, which nobody wrote then");
            self.fault(agent, &Fault { kind: Kind::Order, text });
        }
    }

    /// Changes that never came.
    pub(crate) fn missing(&self, agent: &str, count: u64) {
        if count > 0 {
            let text = format!("{count} changes never came");
            self.fault(agent, &Fault { kind: Kind::Lost, text });
            self.lost.fetch_add(count - 1, Ordering::Relaxed);
        }
    }

    /// These were written, all of one version.
    pub(crate) fn written(&self, version: u64, writes: Vec<Written>) {
        let workers = lock(&self.workers);
        if !workers.is_empty() {
            tell(&workers, Order::written(version, &writes));
        }
        self.ledger.write().unwrap_or_else(PoisonError::into_inner).add(version, writes);
    }

    /// Nothing more will be written: a Commit of a version that nobody here wrote may be compared.
    pub(crate) fn closed(&self) {
        tell(&lock(&self.workers), Order::Closed);
        self.ledger.write().unwrap_or_else(PoisonError::into_inner).close();
    }

    /// Another process with agents is told what is written.
    pub(crate) fn add_worker(&self, orders: UnboundedSender<Arc<Order>>) {
        lock(&self.workers).push(orders);
    }

    /// Every other process with agents is told.
    pub(crate) fn tell_workers(&self, order: Order) {
        tell(&lock(&self.workers), order);
    }

    /// A session began with so many topics that were held, of which so many came whole again.
    pub(crate) fn resumed(&self, held: u64, again: u64) {
        self.held.fetch_add(held, Ordering::Relaxed);
        self.again.fetch_add(again, Ordering::Relaxed);
    }

    /// Of the topics that agents held when sessions began, the part that did not come again. Later calls count anew.
    pub(crate) fn take_resumed(&self) -> Option<f64> {
        let held = self.held.swap(0, Ordering::Relaxed);
        let again = self.again.swap(0, Ordering::Relaxed);
        (held > 0).then(|| 1.0 - again as f64 / held as f64)
    }

    /// What was found since this was last called.
    pub(crate) fn tally(&self, last: bool) -> Tally {
        let take = |counter: &AtomicU64| counter.swap(0, Ordering::Relaxed);
        Tally {
            errors: Errors {
                order: take(&self.order),
                digest: take(&self.digest),
                lost: take(&self.lost),
            },
            examples: std::mem::take(&mut lock(&self.examples)),
            commits: take(&self.commits),
            delivered: take(&self.delivered),
            reconnects: take(&self.reconnects),
            synced: take(&self.synced),
            sessions: take(&self.sessions),
            held: take(&self.held),
            again: take(&self.again),
            latencies: self
                .take_latencies()
                .iter_recorded()
                .map(|value| (value.value_iterated_to(), value.count_since_last_iteration()))
                .collect(),
            last,
        }
    }

    /// What agents of another process have found.
    pub(crate) fn add(&self, tally: &Tally) {
        let add = |counter: &AtomicU64, more: u64| counter.fetch_add(more, Ordering::Relaxed);
        add(&self.order, tally.errors.order);
        add(&self.digest, tally.errors.digest);
        add(&self.lost, tally.errors.lost);
        let mut examples = lock(&self.examples);
        let room = EXAMPLES.saturating_sub(examples.len());
        examples.extend(tally.examples.iter().take(room).cloned());
        add(&self.commits, tally.commits);
        add(&self.delivered, tally.delivered);
        add(&self.reconnects, tally.reconnects);
        add(&self.synced, tally.synced);
        add(&self.sessions, tally.sessions);
        self.resumed(tally.held, tally.again);
        let mut histogram = lock(&self.latencies[0]);
        for (value, count) in &tally.latencies {
            histogram.saturating_record_n(*value, *count);
        }
    }

    /// The latencies since this was last called, in microseconds.
    pub(crate) fn take_latencies(&self) -> Histogram<u64> {
        let mut all = histogram();
        for shard in &self.latencies {
            let mut shard = lock(shard);
            // All have the same bounds.
            let _ = all.add(&*shard);
            shard.reset();
        }
        all
    }

    /// The errors so far.
    pub(crate) fn errors(&self) -> Errors {
        Errors {
            order: self.order.load(Ordering::Relaxed),
            digest: self.digest.load(Ordering::Relaxed),
            lost: self.lost.load(Ordering::Relaxed),
        }
    }

    /// The first errors in words.
    pub(crate) fn examples(&self) -> Vec<String> {
        lock(&self.examples).clone()
    }

    /// All latencies, in microseconds.
    pub(crate) fn latencies(&self) -> Histogram<u64> {
        let mut all = histogram();
        for shard in &self.latencies {
            // All have the same bounds.
            let _ = all.add(&*lock(shard));
        }
        all
    }
}

fn tell(workers: &[UnboundedSender<Arc<Order>>], order: Order) {
    let order = Arc::new(order);
    for worker in workers {
        // One that is gone is noticed by whoever reads from it.
        let _ = worker.send(order.clone());
    }
}

fn histogram() -> Histogram<u64> {
    #[allow(clippy::unwrap_used, reason = "the bounds are valid: 2 <= LONGEST, and 3 digits")]
    Histogram::new_with_bounds(1, LONGEST, 3).unwrap()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic under the lock leaves counts behind, nothing that could be broken.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
