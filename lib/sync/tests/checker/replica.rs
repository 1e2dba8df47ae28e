//! A server: the shipped publisher and versions, fed from the store's history.

use std::sync::Arc;

use bulrush_sync::{
    Affected, Change, DigestKey, Publisher, ServerFacts, Snapshot, Vector, Versions, ViewChange,
};
use model::{StreamIndex, view::Topic};

use crate::{
    invariants::{Invariant::I9, Violation, violated},
    scope::{Scope, StoreFault},
    store::{self, KEY, Log, NODES, Reached, STREAMS, World},
};

pub(crate) const EPOCH: &str = "this store";

#[derive(Clone, Debug)]
pub(crate) struct Replica {
    index: usize,
    incarnation: u8,
    pub(crate) branch: u8,
    pub(crate) facts: Arc<ServerFacts>,
    publisher: Publisher,
    versions: Versions,
    /// What this server knows of the store, in the order in which it was told.
    world: World,
    /// Up to where it was told everything.
    pub(crate) reached: Reached,
    /// Whether its last step made a publication.
    pub(crate) news: bool,
}

pub(crate) fn facts(epoch: &str, incarnation: String) -> Arc<ServerFacts> {
    Arc::new(ServerFacts {
        incarnation,
        epoch: epoch.into(),
        streams: vec!["objects".into(), "endpoints".into()],
        digest_key: DigestKey(KEY),
        heartbeat_seconds: 10,
        version: "0".into(),
    })
}

impl Replica {
    /// A server that has just listed everything.
    pub(crate) fn start(
        scope: &Scope,
        index: usize,
        incarnation: u8,
        (branch, log): (u8, &Log),
        at: u64,
    ) -> Result<Self, Violation> {
        let name = ["x", "y"][index];
        let mut replica = Self {
            index,
            incarnation,
            branch,
            facts: facts(EPOCH, format!("{name}{incarnation}")),
            publisher: Publisher::with_history(DigestKey(KEY), scope.history)
                .with_buckets_from(scope.buckets_from),
            versions: Versions::default(),
            world: World::default(),
            reached: [0; STREAMS],
            news: false,
        };
        replica.list(scope, log, at)?;
        Ok(replica)
    }

    /// The same server, run anew.
    pub(crate) fn restarted(
        &self,
        scope: &Scope,
        history: (u8, &Log),
        at: u64,
    ) -> Result<Self, Violation> {
        Self::start(scope, self.index, self.incarnation + 1, history, at)
    }

    /// The server notices that its store is not where it was, and lists it.
    pub(crate) fn noticed(
        &self,
        scope: &Scope,
        (branch, log): (u8, &Log),
        at: u64,
    ) -> Result<Self, Violation> {
        let mut replica = self.clone();
        replica.branch = branch;
        for stream in 0..scope.streams {
            replica.versions.reset(index(stream));
        }
        replica.publisher.rewind();
        replica.list(scope, log, at)?;
        Ok(replica)
    }

    fn list(&mut self, scope: &Scope, log: &Log, at: u64) -> Result<(), Violation> {
        let mut known = at;
        if scope.fault == Some(StoreFault::StaleList) {
            known = at.saturating_sub(1);
        }
        self.reached = [0; STREAMS];
        for stream in 0..scope.streams {
            self.reached[stream] = at;
            let objects = log.objects(stream, known).len() as u64;
            self.versions.listed(index(stream), at, log.newest(stream, at), objects);
        }
        self.publish(scope, log.world(&[known; STREAMS]))
    }

    /// The next events of a stream, as one publication; none when there are not so many.
    pub(crate) fn read(
        &self,
        scope: &Scope,
        log: &Log,
        stream: usize,
        count: usize,
    ) -> Option<Result<Self, Violation>> {
        let news = log
            .events()
            .filter(|(version, of, _)| *of == stream && *version > self.reached[stream]);
        let mut news: Vec<_> = news.take(count).collect();
        let (last, ..) = *news.last().filter(|_| news.len() == count)?;
        match scope.fault {
            Some(StoreFault::LostAtCompaction) if count > 1 => drop(news.remove(0)),
            Some(StoreFault::WatchWentBack) if count > 1 => news.push(news[0]),
            Some(StoreFault::Duplicates) => news.extend(news.clone()),
            _ => {}
        }
        let mut replica = self.clone();
        let mut world = self.world.clone();
        for (_, _, happening) in &news {
            world.apply(*happening);
        }
        replica.reached[stream] = last;
        let objects = log.objects(stream, last).len() as u64;
        replica.versions.changed(index(stream), last, objects);
        Some(replica.publish(scope, world).map(|()| replica))
    }

    /// The store says that nothing happened up to `at`; none when that says nothing.
    pub(crate) fn bookmarked(&self, scope: &Scope, log: &Log, at: u64) -> Option<Self> {
        let mut replica = self.clone();
        for stream in 0..scope.streams {
            let mut unread = log.events().filter(|(version, of, _)| {
                *of == stream && (self.reached[stream] + 1..=at).contains(version)
            });
            let ahead = scope.fault == Some(StoreFault::ProgressAhead);
            let complete = unread.next().is_none();
            if complete || ahead {
                replica.versions.progressed(index(stream), at);
            }
            if complete {
                replica.reached[stream] = replica.reached[stream].max(at);
            }
        }
        (replica.versions != self.versions).then(|| {
            replica.say();
            replica
        })
    }

    /// Publishes the versions alone.
    fn say(&mut self) {
        self.news = false;
        let Self { publisher, versions, .. } = self;
        publisher.heard(versions);
        publisher.publish([], [], versions.vector(), versions.progress(), 0);
    }

    /// Publishes the difference to `world`: what an engine would compute.
    fn publish(&mut self, scope: &Scope, world: World) -> Result<(), Violation> {
        let old = std::mem::replace(&mut self.world, world);
        let new = &self.world;
        let mut changes = Vec::new();
        let mut views = Vec::new();
        if old.pool != new.pool {
            changes.push(store::pool_change(new.pool));
        }
        if old.second != new.second {
            changes.push(store::second_change(new.second));
        }
        for (node, name) in NODES.iter().enumerate() {
            if old.endpoints[node] != new.endpoints[node] {
                changes.push(store::endpoint_change(node, new.endpoints[node]));
            }
            let topics = |change| if change { vec![store::profile()] } else { Vec::new() };
            let (before, after) = (old.uses_profile(node), new.uses_profile(node));
            if before != after {
                let (add, drop) = (topics(after), topics(before));
                views.push(ViewChange { node: (*name).into(), add, drop });
            }
        }
        let rules = |world: &World| {
            (0..NODES.len()).any(|node| world.uses_profile(node)).then_some(world.rules)
        };
        if rules(&old) != rules(new) {
            changes.push(store::rules_change(rules(new)));
        }
        let changes =
            changes.into_iter().map(|(topic, key, value)| Change { topic, key: key.into(), value });
        let Self { publisher, versions, .. } = self;
        let before = publisher.snapshot().publication;
        publisher.heard(versions);
        let after = publisher.publish(changes, views, versions.vector(), versions.progress(), 0);
        self.news = after.publication != before;
        let kept = self.publisher.history_bytes();
        if kept > scope.history {
            return violated(
                I9,
                format!("history keeps {kept} bytes, more than {}", scope.history),
            );
        }
        Ok(())
    }

    /// Who may see something of the newest publication.
    pub(crate) fn affected(&self) -> &Affected {
        self.publisher.affected()
    }

    pub(crate) fn snapshot(&self) -> Snapshot {
        self.publisher.snapshot()
    }

    pub(crate) fn versions(&self) -> (&Vector, &Vector) {
        (self.versions.vector(), self.versions.progress())
    }

    pub(crate) fn name(&self) -> &str {
        &self.facts.incarnation
    }

    /// Every topic and its digest.
    pub(crate) fn digests(&self) -> Vec<(Topic, bulrush_sync::TopicDigest)> {
        let snapshot = self.publisher.snapshot();
        snapshot.topics().map(|(topic, state)| (topic.clone(), state.digest)).collect()
    }
}

pub(crate) fn index(stream: usize) -> StreamIndex {
    StreamIndex(u16::try_from(stream).unwrap())
}
