//! The state machine behind [`follow`](crate::follow()): list, then watch, then list again where a watch can't go
//! on. Without IO: results, time and random numbers are arguments.
//!
//! ```text
//!            list ok                    compacted, went back, other store, out of order
//!   List ───────────────> Watch ──────────────────────────────────────────────> List
//!    ^ │ list failed       ^ │ watch failed
//!    └─┘ (wait, again)     └─┘ (wait, again from the same version)
//! ```
//!
//! It keeps what it delivered as a version and a hash per key, so that a new list becomes the smallest set of puts
//! and deletes. A failed list changes nothing.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use model::{Key, Stored, StreamIndex, Update};

use crate::error::{Error, Result};
use crate::store::{Change, Early, Item, Listing, Position, WatchEvent};

/// The first wait after a failure; it doubles with each further one, and a random half is taken off.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// A resource that isn't served, and of which nothing was seen, is asked for again after so long.
const NOT_SERVED_WAIT: Duration = Duration::from_secs(10);
/// The longest wait between two tries.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// What a follower says about its stream.
#[derive(Clone, Debug)]
pub enum Feed {
    /// Objects changed: those of one version of a watch, whole, or the difference between what was delivered
    /// before and a new list.
    Changes {
        /// The stream.
        stream: StreamIndex,
        /// The version of the newest object event applied when these updates are: the stream's component of the
        /// version vector. It decreases only after [`Feed::Reset`]. 0: objects of the first list, which isn't whole.
        version: u64,
        /// Each key once. An object that was found missing in a list carries `version`: when it went isn't known.
        updates: Vec<Update>,
        /// How many objects the stream has then.
        objects: u64,
        /// The version of the list that they bring the stream to; none: a watch told of them.
        list: Option<u64>,
    },
    /// A list is complete, its changes delivered: the stream is in sync.
    Synced {
        /// The stream.
        stream: StreamIndex,
        /// What list and watch are of.
        at: Position,
        /// The version of the newest object event applied, as in [`Feed::Changes`].
        newest: u64,
        /// How many objects the stream has.
        objects: u64,
    },
    /// Everything up to this version was delivered.
    Progress {
        /// The stream.
        stream: StreamIndex,
        /// The version.
        version: u64,
    },
    /// The store can't be read. What was delivered stays, and ages. Said once per reason.
    Lost {
        /// The stream.
        stream: StreamIndex,
        /// The reason.
        error: Error,
        /// Since when, for whatever reason.
        since: Instant,
    },
    /// The store can be read again, after [`Feed::Lost`].
    Regained {
        /// The stream.
        stream: StreamIndex,
        /// How long it couldn't.
        after: Duration,
    },
    /// The store went back in time, or is another one. What follows is the difference to it.
    Reset {
        /// The stream.
        stream: StreamIndex,
        /// What had been followed.
        had: Position,
        /// What is followed from now on.
        now: Position,
    },
}

/// What to do next for a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing before this time.
    Wait(Instant),
    /// List, and report the result to [`Follower::listed`].
    List,
    /// Watch from here, unless a watch is open already, and report its next event to [`Follower::watched`].
    Watch(Position),
}

/// Follows one stream. See the module's documentation.
pub struct Follower {
    stream: StreamIndex,
    hasher: RandomState,
    /// What was delivered.
    seen: HashMap<Key, Seen>,
    /// The list in which an object was last found, counted.
    round: u32,
    /// Up to where `seen` is complete; none before the first list.
    at: Option<Position>,
    /// The version of the newest object event applied.
    newest: u64,
    next: Next,
    not_before: Option<Instant>,
    /// Failures without success between them.
    failures: u32,
    lost: Option<Lost>,
    /// Its first answer was that it isn't served, which made it in sync.
    was_not_served: bool,
    /// Values are only a part of what is written: most writes change nothing here, and are not told.
    slim: bool,
    /// The list that is being read has begun to tell.
    early: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    List,
    Watch,
}

struct Seen {
    version: u64,
    hash: u64,
    round: u32,
}

struct Lost {
    since: Instant,
    reason: String,
}

impl Follower {
    /// One that has seen nothing.
    pub fn new(stream: StreamIndex) -> Self {
        Self {
            stream,
            hasher: RandomState::new(),
            seen: HashMap::new(),
            round: 0,
            at: None,
            newest: 0,
            next: Next::List,
            not_before: None,
            failures: 0,
            lost: None,
            was_not_served: false,
            slim: false,
            early: false,
        }
    }

    /// One that has seen nothing, of a stream whose values are only a part of what is written: see
    /// [`crate::StreamInfo::slim`].
    pub fn slim(stream: StreamIndex) -> Self {
        Self { slim: true, ..Self::new(stream) }
    }

    /// What to do now.
    pub fn step(&self, now: Instant) -> Step {
        match (self.not_before, self.next, &self.at) {
            (Some(time), ..) if time > now => Step::Wait(time),
            (_, Next::Watch, Some(at)) => Step::Watch(at.clone()),
            _ => Step::List,
        }
    }

    /// Whether an open watch is still of use.
    pub fn is_watching(&self) -> bool {
        self.next == Next::Watch && self.not_before.is_none()
    }

    /// How many objects were delivered and are not gone.
    pub fn objects(&self) -> usize {
        self.seen.len()
    }

    /// Whether parts of a list can be used before it is whole: as long as nothing that is delivered counts, because
    /// the stream was never in sync. A later list has to be delivered at once.
    pub fn takes_early(&self) -> bool {
        self.at.is_none()
    }

    /// A part of the list that is being read, or its begin, which feeds nothing. The feed is of version 0: what the
    /// stream is at is known when the list is whole.
    pub fn early(&mut self, early: Early) -> Option<Feed> {
        let is_first = !std::mem::replace(&mut self.early, true);
        if is_first || matches!(early, Early::Anew) {
            self.begin_list();
        }
        let Early::Items(items) = early else { return None };
        let mut updates = Vec::with_capacity(items.len());
        self.found(items, false, &mut updates);
        let objects = self.seen.len() as u64;
        Some(Feed::Changes { stream: self.stream, version: 0, updates, objects, list: None })
    }

    /// What is found from now on counts, and nothing that was found before.
    fn begin_list(&mut self) {
        self.round = self.round.wrapping_add(1);
        if self.at.is_none() {
            self.newest = 0;
        }
    }

    /// A list ended. `jitter` is random, in 0..1.
    pub fn listed(&mut self, now: Instant, jitter: f64, result: Result<Listing>) -> Vec<Feed> {
        self.not_before = None;
        if !std::mem::take(&mut self.early) {
            self.begin_list();
        }
        let listing = match result {
            Ok(listing) => listing,
            Err(Error::NotServed { .. }) if self.seen.is_empty() => {
                return self.not_served(now, jitter);
            }
            Err(error) => return self.failed(now, jitter, error),
        };
        if listing.items.is_empty()
            && !listing.emptiness_is_certain
            && !self.seen.is_empty()
            && let Some(had) = self.at.clone()
        {
            let (now_at, objects) = (listing.at, self.seen.len());
            return self.failed(now, jitter, Error::Emptied { had, now: now_at, objects });
        }
        let mut feeds = Vec::new();
        let replaced = self.at.clone().filter(|had| !had.leads_to(&listing.at));
        // Before the first list is whole nothing says of what history an earlier try was.
        let same_history = self.at.is_some() && replaced.is_none();
        if let Some(had) = replaced {
            if listing.items.is_empty() && !self.seen.is_empty() {
                let (now_at, objects) = (listing.at, self.seen.len());
                return self.failed(now, jitter, Error::Emptied { had, now: now_at, objects });
            }
            self.newest = 0;
            feeds.push(Feed::Reset { stream: self.stream, had, now: listing.at.clone() });
        }
        let at = listing.at.clone();
        let updates = self.difference(listing, same_history);
        self.at = Some(at.clone());
        self.next = Next::Watch;
        if let Some(regained) = self.regained(now) {
            feeds.insert(0, regained);
        }
        let (stream, newest, objects) = (self.stream, self.newest, self.seen.len() as u64);
        if !updates.is_empty() {
            let list = Some(at.version);
            feeds.push(Feed::Changes { stream, version: newest, updates, objects, list });
        }
        feeds.push(Feed::Synced { stream, at, newest, objects });
        feeds
    }

    /// A watch said something, failed, or ended (none). `jitter` is random, in 0..1.
    pub fn watched(
        &mut self,
        now: Instant,
        jitter: f64,
        event: Option<Result<WatchEvent>>,
    ) -> Vec<Feed> {
        self.not_before = None;
        match event.unwrap_or(Err(Error::WatchEnded)) {
            Ok(WatchEvent::Open) => self.regained(now).into_iter().collect(),
            Ok(WatchEvent::Changes { version, changes }) => {
                if let Err(error) = self.advance(version) {
                    self.next = Next::List;
                    return self.failed(now, jitter, error);
                }
                let updates: Vec<Update> =
                    changes.into_iter().filter_map(|c| self.changed(version, c)).collect();
                if updates.is_empty() {
                    return vec![Feed::Progress { stream: self.stream, version }];
                }
                self.newest = version;
                let (stream, objects) = (self.stream, self.seen.len() as u64);
                vec![Feed::Changes { stream, version, updates, objects, list: None }]
            }
            // Not every store keeps such a notice from being older than what was delivered already.
            Ok(WatchEvent::Progress(version)) => match self.advance(version) {
                Ok(()) => vec![Feed::Progress { stream: self.stream, version }],
                Err(_) => Vec::new(),
            },
            Ok(
                WatchEvent::Compacted { .. }
                | WatchEvent::WentBack { .. }
                | WatchEvent::OtherStore { .. },
            ) => {
                self.next = Next::List;
                self.wait(now, jitter);
                Vec::new()
            }
            Err(error @ Error::NotServed { .. }) => {
                self.next = Next::List;
                if self.seen.is_empty() {
                    self.not_served(now, jitter)
                } else {
                    self.failed(now, jitter, error)
                }
            }
            Err(error) => self.failed(now, jitter, error),
        }
    }

    /// What isn't served has no objects, until it is.
    fn not_served(&mut self, now: Instant, jitter: f64) -> Vec<Feed> {
        self.not_before = Some(now + NOT_SERVED_WAIT.mul_f64(0.5 + jitter / 2.0));
        self.failures = 0;
        let mut feeds: Vec<Feed> = self.regained(now).into_iter().collect();
        if self.at.is_none() && !std::mem::replace(&mut self.was_not_served, true) {
            let at = Position { epoch: arcstr::ArcStr::new(), version: 0, history: 0 };
            feeds.push(Feed::Synced { stream: self.stream, at, newest: 0, objects: 0 });
        }
        feeds
    }

    /// Moves on to `version`, which must be new.
    fn advance(&mut self, version: u64) -> Result<()> {
        let Some(at) = &mut self.at else {
            return Err(Error::OutOfOrder { got: version, had: 0 });
        };
        if version <= at.version {
            return Err(Error::OutOfOrder { got: version, had: at.version });
        }
        at.version = version;
        self.failures = 0;
        Ok(())
    }

    /// The update of a change that says anything new: most writes of a pod are about what nobody here reads.
    fn changed(&mut self, version: u64, change: Change) -> Option<Update> {
        match (self.seen.get_mut(&change.key), &change.value) {
            (Some(seen), Some(value)) if self.slim && seen.hash == hash(&self.hasher, value) => {
                seen.version = version;
                None
            }
            (None, None) if self.slim => None,
            _ => Some(self.applied(version, change)),
        }
    }

    fn applied(&mut self, version: u64, change: Change) -> Update {
        let Change { key, value } = change;
        match &value {
            Some(value) => {
                let seen = Seen { version, hash: hash(&self.hasher, value), round: self.round };
                self.seen.insert(key.clone(), seen);
            }
            None => drop(self.seen.remove(&key)),
        }
        Update { stream: self.stream, key, value, version }
    }

    /// The updates that turn what was delivered into `listing`. An equal version of another history says nothing;
    /// there the content is compared too.
    fn difference(&mut self, listing: Listing, same_history: bool) -> Vec<Update> {
        let round = self.round;
        let mut updates = Vec::new();
        self.found(listing.items, same_history, &mut updates);
        let mut gone: Vec<Key> = self
            .seen
            .iter()
            .filter(|(_, seen)| seen.round != round)
            .map(|(k, _)| k.clone())
            .collect();
        gone.sort_unstable();
        let version = self.newest;
        updates
            .extend(gone.into_iter().map(|key| self.applied(version, Change { key, value: None })));
        updates
    }

    /// Objects of a list, of which those that differ are told.
    fn found(&mut self, items: Vec<Item>, same_history: bool, updates: &mut Vec<Update>) {
        let round = self.round;
        for item in items {
            self.newest = self.newest.max(item.version);
            if let Some(seen) = self.seen.get_mut(&item.key) {
                seen.round = round;
                let is_same_version = seen.version == item.version;
                if (is_same_version && same_history)
                    || ((is_same_version || self.slim)
                        && seen.hash == hash(&self.hasher, &item.value))
                {
                    seen.version = item.version;
                    continue;
                }
            }
            let change = Change { key: item.key, value: Some(item.value) };
            updates.push(self.applied(item.version, change));
        }
    }

    fn failed(&mut self, now: Instant, jitter: f64, error: Error) -> Vec<Feed> {
        self.wait(now, jitter);
        let reason = error.to_string();
        let lost = self.lost.get_or_insert(Lost { since: now, reason: String::new() });
        if lost.reason == reason {
            return Vec::new();
        }
        lost.reason = reason;
        vec![Feed::Lost { stream: self.stream, error, since: lost.since }]
    }

    fn regained(&mut self, now: Instant) -> Option<Feed> {
        let lost = self.lost.take()?;
        Some(Feed::Regained { stream: self.stream, after: now.duration_since(lost.since) })
    }

    fn wait(&mut self, now: Instant, jitter: f64) {
        let doubled = FIRST_WAIT.saturating_mul(1 << self.failures.min(10));
        let wait = doubled.min(LONGEST_WAIT).mul_f64(0.5 + jitter / 2.0);
        self.failures = self.failures.saturating_add(1);
        self.not_before = Some(now + wait);
    }
}

fn hash(hasher: &RandomState, value: &Stored) -> u64 {
    let mut state = hasher.build_hasher();
    match value {
        Stored::Json(json) => json.hash(&mut state),
        Stored::Raw(bytes) => bytes.hash(&mut state),
    }
    state.finish()
}

#[cfg(test)]
mod random;
#[cfg(test)]
mod tests;
