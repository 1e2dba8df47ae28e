//! Writes events on a schedule that waits for nobody.
//!
//! An event is due at its place in the schedule, and its latency counts from there, though the
//! writer may be late. Events that are due together go in one transaction.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use datastore::{Datastore, Write};
use model::Key;

use crate::{
    churn::{Churn, Event},
    delivery::Written,
    score::Score,
};

/// Writes of one transaction; etcd takes 128 unless told otherwise.
const MOST_WRITES: usize = 100;

/// What the writer did.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    /// Events written.
    pub(crate) events: u64,
    /// How often an agent needs one of them.
    pub(crate) due_deliveries: u64,
    /// For each transaction: how late it was sent.
    pub(crate) lags: Vec<Duration>,
}

/// Writes events at `rate` per second for `length`.
pub(crate) async fn write(
    store: &dyn Datastore,
    found: &Score,
    churn: &mut Churn,
    agents: u32,
    rate: f64,
    length: Duration,
) -> anyhow::Result<Schedule> {
    let start = Instant::now();
    let due = |index: u64| start + Duration::from_secs_f64(index as f64 / rate);
    let end = start + length;
    let mut schedule = Schedule::default();
    let mut next = None;
    while due(schedule.events) < end {
        tokio::time::sleep_until(due(schedule.events).into()).await;
        let mut batch: Vec<(Instant, Event)> = Vec::new();
        let mut keys = BTreeSet::new();
        while due(schedule.events) < end && due(schedule.events) <= Instant::now() {
            let event = next.take().unwrap_or_else(|| churn.next());
            let new = event.writes.iter().map(key_of).all(|key| !keys.contains(key));
            let fits = keys.len() + event.writes.len() <= MOST_WRITES;
            if !(batch.is_empty() || new && fits) {
                next = Some(event);
                break;
            }
            keys.extend(event.writes.iter().map(|write| key_of(write).clone()));
            schedule.due_deliveries += event.audience(agents, churn.world());
            batch.push((due(schedule.events), event));
            schedule.events += 1;
        }
        if let Some((first, _)) = batch.first() {
            schedule.lags.push(first.elapsed());
        }
        send(store, found, batch).await?;
    }
    Ok(schedule)
}

/// Writes events in one transaction, and notes them.
pub(crate) async fn send(
    store: &dyn Datastore,
    found: &Score,
    batch: Vec<(Instant, Event)>,
) -> anyhow::Result<u64> {
    let mut writes = Vec::new();
    let mut notes = Vec::new();
    for (due, event) in batch {
        writes.extend(event.writes);
        notes.push((due, event.effects));
    }
    let version = store.txn(&[], &writes).await.context("writing a change")?;
    let written = notes.into_iter().map(|(due, effects)| Written { version, due, effects });
    found.written(version, written.collect());
    Ok(version)
}

fn key_of(write: &Write) -> &Key {
    match write {
        Write::Put(key, _) | Write::Delete(key) => key,
    }
}

/// Of 100 times 99 are at most this.
pub(crate) fn p99(times: &[Duration]) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let index = (sorted.len() * 99).div_ceil(100).saturating_sub(1);
    sorted.get(index).copied().unwrap_or_default()
}
