//! Making writes durable: one group at a time goes to the disk while the next one gathers.
//!
//! A group that fails is undone, with all that was built on it, and the store is read-only from then on. Once a second
//! it tries an empty commit, and writes again when that comes through.

use std::future::pending;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::disk::{Commit, Disk, Failure};
use crate::store::{Mark, Refusal, Store};

/// How often a store that can't write tries to.
const RETRY: Duration = Duration::from_secs(1);

/// Told whether what was applied is durable.
pub(crate) type Release = Box<dyn FnOnce(Result<(), Refusal>) + Send>;

/// How the disk is, as clients may know it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Health {
    /// Why nothing can be written now.
    pub(crate) trouble: Option<Refusal>,
    /// The size of the file; none without a data folder.
    pub(crate) disk_bytes: Option<u64>,
}

/// The way from applied to durable.
pub(crate) struct Committer {
    place: Place,
    /// Those who wait for what was applied since the last commit began.
    waiting: Vec<Release>,
    retry_at: Instant,
    health: watch::Sender<Health>,
}

enum Place {
    Memory,
    Disk(Disk),
    /// On its way to the disk, which a thread has meanwhile.
    Busy(Group),
    /// A thread that wrote panicked.
    Lost,
}

struct Group {
    task: JoinHandle<(Disk, Result<(), Failure>)>,
    mark: Mark,
    waiting: Vec<Release>,
}

/// The disk is gone by a programming error.
#[derive(Debug)]
pub(crate) struct Lost;

impl Committer {
    pub(crate) fn new(disk: Option<Disk>, now: Instant) -> Self {
        let health = Health { trouble: None, disk_bytes: disk.as_ref().map(Disk::size) };
        Self {
            place: disk.map_or(Place::Memory, Place::Disk),
            waiting: Vec::new(),
            retry_at: now,
            health: watch::Sender::new(health),
        }
    }

    pub(crate) fn health(&self) -> watch::Receiver<Health> {
        self.health.subscribe()
    }

    /// Why nothing can be written now.
    pub(crate) fn trouble(&self) -> Option<Refusal> {
        self.health.borrow().trouble
    }

    /// When to try again; none while that is under way.
    pub(crate) fn retry_at(&self) -> Option<Instant> {
        (!self.is_busy()).then_some(self.retry_at)
    }

    /// Releases when all that was applied up to now is durable, or has failed to be.
    pub(crate) fn wait(&mut self, release: Release) {
        self.waiting.push(release);
    }

    /// Tries again without waiting, and releases when it is known how that went.
    pub(crate) fn retry(&mut self, now: Instant, release: Release) {
        self.retry_at = now;
        self.waiting.push(release);
    }

    /// Whether a commit is under way.
    pub(crate) fn is_busy(&self) -> bool {
        matches!(self.place, Place::Busy(_))
    }

    /// Whether somebody waits for a commit, one that is under way or the next.
    pub(crate) fn is_waited_for(&self) -> bool {
        self.is_busy() || !self.waiting.is_empty()
    }

    /// Begins a commit if there is something to commit, and nothing under way. True when something became visible
    /// at once, because there was nothing to write.
    pub(crate) fn begin(&mut self, store: &mut Store, now: Instant) -> bool {
        let trouble = self.trouble().is_some();
        let retry = trouble && self.retry_at <= now;
        if matches!(self.place, Place::Busy(_) | Place::Lost) || trouble && !retry {
            return false;
        }
        if !store.is_unsettled() && !retry {
            self.waiting.drain(..).for_each(|release| release(Ok(())));
            return false;
        }
        let (unsaved, mark) = store.take_unsaved();
        match std::mem::replace(&mut self.place, Place::Lost) {
            Place::Disk(mut disk) => {
                let whole = trouble.then(|| store.saved());
                let commit = Commit { revision: mark.revision, unsaved, whole };
                let task = spawn_blocking(move || {
                    let result = disk.commit(&commit);
                    (disk, result)
                });
                self.place =
                    Place::Busy(Group { task, mark, waiting: std::mem::take(&mut self.waiting) });
                false
            }
            place => {
                self.place = place;
                store.publish(mark);
                self.waiting.drain(..).for_each(|release| release(Ok(())));
                true
            }
        }
    }

    /// Returns when the commit under way has ended; never without one. May be dropped and called again.
    pub(crate) async fn ended(&mut self) -> Result<Ended, Lost> {
        let Place::Busy(group) = &mut self.place else { return pending().await };
        let result = (&mut group.task).await;
        let Place::Busy(group) = std::mem::replace(&mut self.place, Place::Lost) else {
            return Err(Lost);
        };
        let (disk, result) = result.map_err(|_| Lost)?;
        let disk_bytes = Some(disk.size());
        self.place = Place::Disk(disk);
        Ok(Ended { mark: group.mark, waiting: group.waiting, result, disk_bytes })
    }

    /// Takes the consequences. True when something became visible.
    pub(crate) fn conclude(&mut self, ended: Ended, store: &mut Store, now: Instant) -> bool {
        let before = self.trouble();
        let (trouble, releases) = match &ended.result {
            Ok(()) => {
                store.publish(ended.mark);
                if before.is_some() {
                    tracing::info!("the store can write again");
                }
                (None, ended.waiting)
            }
            Err(failure) => {
                store.roll_back();
                self.retry_at = now + RETRY;
                let refusal = match failure {
                    Failure::Full(_) => Refusal::NoSpace,
                    Failure::Broken(_) => Refusal::DiskFailed,
                };
                if before != Some(refusal) {
                    tracing::error!(%failure, "the store is read-only until it can write again");
                }
                // What was applied after the group stood on it.
                (Some(refusal), ended.waiting.into_iter().chain(self.waiting.drain(..)).collect())
            }
        };
        self.health.send_replace(Health { trouble, disk_bytes: ended.disk_bytes });
        let outcome = trouble.map_or(Ok(()), Err);
        for release in releases {
            release(outcome);
        }
        trouble.is_none()
    }
}

/// A commit that came through or failed.
pub(crate) struct Ended {
    mark: Mark,
    waiting: Vec<Release>,
    result: Result<(), Failure>,
    disk_bytes: Option<u64>,
}
