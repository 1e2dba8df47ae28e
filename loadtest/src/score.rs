//! What all agents of a run have found, gathered.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::{
    delivery::{Found, Ledger},
    judge::{Fault, Kind},
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
    examples: Mutex<Vec<String>>,
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
            examples: Mutex::default(),
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

fn histogram() -> Histogram<u64> {
    #[allow(clippy::unwrap_used, reason = "the bounds are valid: 2 <= LONGEST, and 3 digits")]
    Histogram::new_with_bounds(1, LONGEST, 3).unwrap()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic under the lock leaves counts behind, nothing that could be broken.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
