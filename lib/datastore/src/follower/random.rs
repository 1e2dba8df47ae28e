//! A follower against a store in a few lines, through random changes and faults.

use std::collections::BTreeMap;

use model::Kind;
use proptest::prelude::*;

use super::*;
use crate::store::Item;

type Objects = BTreeMap<u8, (u64, u8)>;

/// A store: its state at each version since the last compaction.
#[derive(Clone)]
struct Sim {
    epoch: u32,
    history: u32,
    version: u64,
    oldest: u64,
    states: BTreeMap<u64, Objects>,
}

impl Sim {
    fn new(epoch: u32) -> Self {
        Self {
            epoch,
            history: 0,
            version: 1,
            oldest: 1,
            states: BTreeMap::from([(1, Objects::new())]),
        }
    }

    fn now(&self) -> &Objects {
        &self.states[&self.version]
    }

    /// One version that writes (some) and removes (none).
    fn write(&mut self, changes: &[(u8, Option<u8>)]) {
        let mut objects = self.now().clone();
        self.version += 1;
        for &(name, value) in changes {
            match value {
                Some(value) => objects.insert(name, (self.version, value)),
                None => objects.remove(&name),
            };
        }
        self.states.insert(self.version, objects);
    }

    fn at(&self) -> Position {
        let epoch = arcstr::format!("{:x}", self.epoch);
        Position { epoch, version: self.version, history: self.history }
    }

    fn list(&self) -> Listing {
        let items = self.now().iter().map(|(&name, &(version, value))| Item {
            key: key(name),
            value: stored(value),
            version,
        });
        Listing { at: self.at(), items: items.collect(), emptiness_is_certain: true }
    }

    /// What happened in `version`.
    fn event(&self, version: u64) -> WatchEvent {
        let (before, after) = (&self.states[&(version - 1)], &self.states[&version]);
        let written = after.iter().filter(|(_, object)| object.0 == version);
        let mut changes: Vec<Change> = written
            .map(|(&name, &(_, value))| Change { key: key(name), value: Some(stored(value)) })
            .collect();
        let gone = before.keys().filter(|name| !after.contains_key(name));
        changes.extend(gone.map(|&name| Change { key: key(name), value: None }));
        if changes.is_empty() {
            return WatchEvent::Progress(version);
        }
        WatchEvent::Changes { version, changes }
    }
}

fn key(name: u8) -> Key {
    Key::global(Kind::Tier, format!("t{name}"))
}

fn stored(value: u8) -> Stored {
    Stored::Json(value.into())
}

#[derive(Clone, Debug)]
enum Op {
    /// Writes and deletes in one version.
    Write(Vec<(u8, Option<u8>)>),
    /// The follower takes this many steps.
    Follow(u8),
    Compact,
    /// The connection breaks.
    Cut,
    /// The next lists fail.
    FailLists(u8),
    /// Of the next lists so many objects are delivered before they are whole, or fail, or start over after a change.
    Early(u8, bool),
    /// The store is saved, or restored to what was saved.
    Backup,
    Restore,
    /// Another store takes over the address.
    Replace,
    /// The watch misbehaves: an event again, or progress ahead of what comes.
    Repeat,
    Overtake,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let change = (0..6u8, proptest::option::weighted(0.7, 0..4u8));
    let op = prop_oneof![
        8 => proptest::collection::vec(change, 1..4).prop_map(Op::Write),
        8 => (1..8u8).prop_map(Op::Follow),
        2 => Just(Op::Compact),
        2 => Just(Op::Cut),
        1 => (1..3u8).prop_map(Op::FailLists),
        2 => (0..4u8, any::<bool>()).prop_map(|(objects, twice)| Op::Early(objects, twice)),
        1 => Just(Op::Backup),
        1 => Just(Op::Restore),
        1 => Just(Op::Replace),
        1 => Just(Op::Repeat),
        1 => Just(Op::Overtake),
    ];
    proptest::collection::vec(op, 1..60)
}

/// A consumer, and the checks of what it is told.
struct World {
    sim: Sim,
    backup: Option<Sim>,
    follower: Follower,
    now: Instant,
    /// What the consumer believes.
    mirror: Objects,
    newest: u64,
    /// The version that the watch has delivered; none: no watch is open.
    watch: Option<u64>,
    fail_lists: u8,
    /// How many objects of a list come early, and whether the list starts over after them.
    early: (u8, bool),
    /// What the consumer knows to be complete.
    progress: Option<Position>,
    misbehaved: bool,
}

impl World {
    fn new() -> Self {
        Self {
            sim: Sim::new(1),
            backup: None,
            follower: Follower::new(StreamIndex(0)),
            now: Instant::now(),
            mirror: Objects::new(),
            newest: 0,
            watch: None,
            fail_lists: 0,
            early: (0, false),
            progress: None,
            misbehaved: false,
        }
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Write(mut changes) => {
                changes.sort_unstable();
                changes.dedup_by_key(|change| change.0);
                self.sim.write(&changes);
            }
            Op::Follow(steps) => (0..steps).for_each(|_| self.step()),
            Op::Compact => self.sim.oldest = self.sim.version,
            Op::Cut => self.break_watch(),
            Op::FailLists(lists) => self.fail_lists = lists,
            Op::Early(objects, twice) => self.early = (objects, twice),
            Op::Backup => self.backup = Some(self.sim.clone()),
            Op::Restore => {
                if let Some(backup) = self.backup.clone().filter(|b| b.epoch == self.sim.epoch) {
                    let history = self.sim.history + 1;
                    self.sim = Sim { history, ..backup };
                    self.break_watch();
                }
            }
            Op::Replace => {
                let mut other = Sim::new(self.sim.epoch + 1);
                other.write(&[(0, Some(3)), (9, Some(0))]);
                self.sim = other;
                self.break_watch();
            }
            Op::Repeat => {
                if let Some(version) = self.watch.filter(|version| *version > self.sim.oldest) {
                    self.report(Ok(self.sim.event(version)));
                }
            }
            Op::Overtake => {
                // Progress up to now, and only then the event that it covers.
                let in_reach =
                    |version: &u64| (self.sim.oldest..self.sim.version).contains(version);
                let Some(version) = self.watch.filter(in_reach) else { return };
                let event = self.sim.event(version + 1);
                if matches!(event, WatchEvent::Changes { .. }) {
                    self.misbehaved = true;
                    self.report(Ok(WatchEvent::Progress(self.sim.version)));
                    self.report(Ok(event));
                }
            }
        }
    }

    fn break_watch(&mut self) {
        if self.watch.is_some() {
            self.report(Err(Error::WatchEnded));
        }
    }

    fn step(&mut self) {
        match self.follower.step(self.now) {
            Step::Wait(until) => self.now = until,
            Step::List => {
                let is_early = self.follower.takes_early();
                let mut listing = self.begin_list(is_early);
                if is_early && self.early.1 {
                    self.sim.write(&[(0, None)]);
                    listing = self.begin_list(true);
                }
                let result = if self.fail_lists > 0 {
                    self.fail_lists -= 1;
                    Err(Error::WatchEnded)
                } else {
                    Ok(listing)
                };
                let feeds = self.follower.listed(self.now, 0.0, result);
                self.check(feeds);
            }
            Step::Watch(from) => self.watched(&from),
        }
        assert!(self.follower.is_watching() || self.watch.is_none());
    }

    /// A try to list, of which some may have been delivered.
    fn begin_list(&mut self, is_early: bool) -> Listing {
        let mut listing = self.sim.list();
        if is_early {
            let some = usize::from(self.early.0).min(listing.items.len());
            let items: Vec<_> = listing.items.drain(..some).collect();
            let part = (!items.is_empty()).then_some(Early::Items(items));
            for part in std::iter::once(Early::Anew).chain(part) {
                let feed = self.follower.early(part);
                self.check(feed.into_iter().collect());
            }
        }
        listing
    }

    fn watched(&mut self, from: &Position) {
        let here = self.sim.at();
        let event = match self.watch {
            None if from.epoch != here.epoch => WatchEvent::OtherStore { epoch: here.epoch },
            None if !from.leads_to(&here) => WatchEvent::WentBack { version: here.version },
            None if from.version < self.sim.oldest => {
                WatchEvent::Compacted { oldest: self.sim.oldest }
            }
            None => {
                self.watch = Some(from.version);
                return self.report(Ok(WatchEvent::Open));
            }
            Some(version) if version == here.version => WatchEvent::Progress(version),
            Some(version) if version < self.sim.oldest => {
                WatchEvent::Compacted { oldest: self.sim.oldest }
            }
            Some(version) => {
                self.watch = Some(version + 1);
                self.sim.event(version + 1)
            }
        };
        self.report(Ok(event));
    }

    fn report(&mut self, event: Result<WatchEvent>) {
        let feeds = self.follower.watched(self.now, 0.0, Some(event));
        if !self.follower.is_watching() {
            self.watch = None;
        }
        self.check(feeds);
    }

    fn check(&mut self, feeds: Vec<Feed>) {
        for feed in feeds {
            match feed {
                Feed::Changes { version, updates, objects, .. } => {
                    let is_early = version == 0 && self.progress.is_none();
                    assert!(is_early || version >= self.newest, "the version vector went back");
                    self.newest = self.newest.max(version);
                    self.mirror_updates(updates);
                    assert_eq!(objects, self.mirror.len() as u64);
                }
                Feed::Synced { at, newest, objects, .. } => {
                    assert_eq!(objects, self.mirror.len() as u64);
                    assert!(newest >= self.newest, "the version vector went back");
                    self.newest = newest;
                    assert_eq!(at, self.sim.at());
                    assert_eq!(&self.mirror, self.sim.now(), "in sync and different");
                    self.progress = Some(at);
                    self.misbehaved = false;
                }
                Feed::Progress { version, .. } => {
                    let progress = self.progress.as_mut().expect("no progress before a list");
                    assert!(version > progress.version, "progress went back");
                    progress.version = version;
                    if !self.misbehaved {
                        assert_eq!(self.mirror, self.sim.states[&version], "not complete");
                    }
                }
                Feed::Reset { had, now, .. } => {
                    assert_eq!(Some(had), self.progress.take());
                    assert_eq!(now, self.sim.at());
                    self.newest = 0;
                }
                Feed::Lost { .. } | Feed::Regained { .. } => {}
            }
        }
    }

    fn mirror_updates(&mut self, updates: Vec<Update>) {
        let mut keys: Vec<Key> = updates.iter().map(|update| update.key.clone()).collect();
        keys.sort_unstable();
        keys.dedup();
        assert_eq!(keys.len(), updates.len(), "a key came twice");
        // A watch delivers one version, whole.
        let watched = self.watch.is_some();
        for update in updates {
            let name: u8 = update.key.name[1..].parse().expect("a name of ours");
            match update.value {
                Some(Stored::Json(value)) => {
                    let value = u8::try_from(value.as_u64().expect("a number")).expect("small");
                    let before = self.mirror.insert(name, (update.version, value));
                    assert_ne!(before, Some((update.version, value)), "nothing new");
                }
                Some(Stored::Raw(_)) => unreachable!("the store has JSON only"),
                None => assert!(self.mirror.remove(&name).is_some(), "gone twice"),
            }
        }
        if let (true, Some(progress)) = (watched && !self.misbehaved, self.progress.as_mut()) {
            progress.version = self.newest;
            assert_eq!(self.mirror, self.sim.states[&self.newest], "not whole");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn what_was_delivered_is_what_the_store_holds(ops in ops()) {
        let mut world = World::new();
        for op in ops {
            world.apply(op);
        }
        // When the faults stop, everything arrives.
        world.fail_lists = 0;
        // A restored store without any object isn't believed; one with a single object is.
        world.apply(Op::Write(vec![(5, Some(1))]));
        for _ in 0..200 {
            world.step();
        }
        prop_assert_eq!(&world.mirror, world.sim.now());
    }
}
