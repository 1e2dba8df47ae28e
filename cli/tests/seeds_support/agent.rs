//! An agent with the agents' own client, of which each Commit is held against what the store held.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Arc, Mutex},
    time::Duration,
};

use arcstr::ArcStr;
use client::{Link, News, Options, StreamError};
use model::{
    StreamIndex,
    view::{Entry, Peer, Rule, Topic},
};
use proto::v1::{AgentHello, View};
use serde_json::Value;
use sync::{ClientSession, Committed};
use tokio::{sync::watch, time::Instant};

use super::{
    ledger::{Ledger, Name, locked},
    writes::CLOCK,
};

/// An agent lets itself be taken back when all servers were behind for so long.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// The entries of a view.
pub(crate) type Entries = BTreeMap<(ArcStr, ArcStr), Vec<u8>>;

/// What agents have seen, of all of them.
#[derive(Debug, Default)]
pub(crate) struct Board {
    /// The moment that each is at.
    pub(crate) at: BTreeMap<String, usize>,
    /// What a view was at a moment, whoever got it and from whom.
    views: HashMap<(String, usize), u64>,
    pub(crate) commits: u64,
    /// Times that an agent went back with a store that was restored.
    pub(crate) rollbacks: u64,
    pub(crate) sessions: u64,
    pub(crate) restarts: u64,
    /// Times that a server had not seen what an agent has.
    pub(crate) behind: u64,
}

/// What an agent is told.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Order {
    /// It restarts when this changes.
    pub(crate) lives: u64,
    pub(crate) stop: bool,
}

/// One agent.
pub(crate) struct Agent {
    /// Its name; that of its node, unless it gets the full view.
    name: String,
    is_full: bool,
    link: Link,
    servers: Vec<String>,
    ledger: Arc<Mutex<Ledger>>,
    board: Arc<Mutex<Board>>,
    /// The moment that is visible.
    at: Option<usize>,
    version: u64,
    /// When a server served it last.
    served: Instant,
    /// Topics of the view: of one without entries nothing is held.
    topics: BTreeSet<ArcStr>,
    /// Since its last restart.
    has_committed: bool,
    /// What stands for the kernel: it outlives a restart.
    kernel: Entries,
    saved: Option<(Vec<u8>, Option<usize>, u64)>,
    commits: u64,
}

impl Agent {
    pub(crate) fn new(
        name: &str,
        is_full: bool,
        servers: Vec<String>,
        ledger: Arc<Mutex<Ledger>>,
        board: Arc<Mutex<Board>>,
    ) -> Self {
        let link = link(name, is_full, servers.clone(), ClientSession::new());
        Self {
            name: name.to_owned(),
            is_full,
            link,
            servers,
            ledger,
            board,
            at: None,
            version: 0,
            served: Instant::now(),
            topics: BTreeSet::new(),
            has_committed: false,
            kernel: Entries::new(),
            saved: None,
            commits: 0,
        }
    }

    /// Runs until it is told to stop; what it holds then.
    pub(crate) async fn run(mut self, mut orders: watch::Receiver<Order>) -> Entries {
        let mut lives = 0;
        loop {
            let order = *orders.borrow_and_update();
            if order.stop {
                break;
            }
            if order.lives != lives {
                lives = order.lives;
                self.restart();
            }
            let news = tokio::select! {
                news = self.link.next() => news,
                changed = orders.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => break,
                },
            };
            match news {
                News::Committed(committed) => self.committed(&committed),
                News::Lost(error @ StreamError::Protocol { .. }) => {
                    panic!("agent {}: {error}", self.name)
                }
                News::Behind { .. } => locked(&self.board).behind += 1,
                News::Lost(_) => self.is_as_committed(),
                News::Opened { .. } | News::Heartbeat(_) => {}
            }
            assert_eq!(self.link.session().resyncs(), 0, "agent {}: a digest disagreed", self.name);
        }
        locked(&self.board).sessions += self.link.opened();
        self.kernel
    }

    /// Without a Commit nothing is visible of what came.
    fn is_as_committed(&self) {
        let name = &self.name;
        assert!(
            !self.has_committed || self.kernel == held(self.link.session()),
            "agent {name}: more than a Commit said"
        );
    }

    /// As after `kill -9`: the kernel stays, and what was saved last is older.
    fn restart(&mut self) {
        locked(&self.board).sessions += self.link.opened();
        locked(&self.board).restarts += 1;
        let session = if let Some((saved, at, version)) = &self.saved {
            (self.at, self.version) = (*at, *version);
            ClientSession::restore(&self.name, saved).expect("what was saved can be read")
        } else {
            (self.at, self.version) = (None, 0);
            ClientSession::new()
        };
        self.has_committed = false;
        self.topics = session.digests().map(|(topic, _)| topic.clone()).collect();
        self.link = link(&self.name, self.is_full, self.servers.clone(), session);
    }

    fn committed(&mut self, committed: &Committed) {
        let name = &self.name;
        let session = self.link.session();
        let held = held(session);
        // After a restart the kernel is compared with the first Commit whole; then what changes is all that changes.
        if !self.has_committed {
            self.kernel.clone_from(&held);
        }
        for change in &committed.changes {
            let key = (change.topic.clone(), change.key.clone());
            match &change.value {
                Some(value) => drop(self.kernel.insert(key, value.to_vec())),
                None => drop(self.kernel.remove(&key)),
            }
        }
        assert!(self.kernel == held, "agent {name}: the changes don't lead to what is held");

        self.has_committed = true;
        self.topics.extend(committed.added.iter().cloned());
        for topic in &committed.dropped {
            self.topics.remove(topic);
        }

        let (stream, tick) = (StreamIndex(0), tick(&held).unwrap_or(0));
        let (version, progress) = (committed.vector.get(stream), committed.progress.get(stream));
        let ledger = locked(&self.ledger);
        let Some(at) = ledger.seen(tick, progress) else {
            panic!("agent {name}: at revision {progress} the store never had tick {tick}")
        };
        // What was written and deleted since is not missed: a server may not have heard of either.
        let at = match self.at {
            Some(before) if at < before && ledger.is_same(before, at) => before,
            _ => at,
        };
        let went_back = self.at.is_some_and(|before| at < before);
        let unserved = std::mem::replace(&mut self.served, Instant::now()).elapsed();
        assert!(
            !went_back || unserved >= PATIENCE,
            "agent {name}: from moment {:?} back to {at} after {unserved:?}",
            self.at
        );
        if let Some(before) = self.at {
            assert!(ledger.may_follow(before, at), "agent {name}: moment {at} after {before}");
        }
        assert!(
            version >= self.version || went_back,
            "agent {name}: {version} after {}",
            self.version
        );
        if self.is_full {
            let wanted = &*ledger.moment(at).objects;
            let objects = stamped(&held);
            assert!(
                objects == *wanted,
                "agent {name}: not what the store held at revision {progress}: {:?}",
                difference(&objects, wanted),
            );
        } else {
            whole(name, &held, &self.topics);
        }
        drop(ledger);
        (self.at, self.version) = (Some(at), version);

        let mut hasher = DefaultHasher::new();
        held.hash(&mut hasher);
        let hash = hasher.finish();
        let view = if self.is_full { "full".to_owned() } else { name.clone() };
        let mut board = locked(&self.board);
        let known = *board.views.entry((view, at)).or_insert(hash);
        assert_eq!(known, hash, "agent {name}: another view of moment {at} than before");
        board.at.insert(name.clone(), at);
        board.commits += 1;
        board.rollbacks += u64::from(went_back);
        drop(board);

        self.commits += 1;
        if !self.is_full && self.commits % 16 == 1 {
            let saved = session.save(name).map(|saved| (saved.to_vec(), self.at, version));
            self.saved = saved.or(self.saved.take());
        }
        self.link.acknowledge(self.link.session().publication(), Vec::new(), None);
    }
}

fn link(name: &str, is_full: bool, servers: Vec<String>, session: ClientSession) -> Link {
    let hello = if is_full {
        AgentHello { view: View::Full.into(), ..AgentHello::default() }
    } else {
        AgentHello { node: name.to_owned(), ..AgentHello::default() }
    };
    Link::new(Options { servers, tls: None, hello }, session)
}

/// The view of an agent that holds nothing before, from this server.
pub(crate) async fn fresh(name: &str, is_full: bool, server: String) -> Entries {
    let mut link = link(name, is_full, vec![server], ClientSession::new());
    while !matches!(link.next().await, News::Committed(_)) {}
    held(link.session())
}

fn held(session: &ClientSession) -> Entries {
    let entries = session.entries();
    entries.map(|(topic, key, value)| ((topic.clone(), key.clone()), value.to_vec())).collect()
}

fn decoded(topic: &str, value: &[u8]) -> Entry {
    let topic: Topic = topic.parse().expect("a topic that is known");
    proto::decode(&topic, value, &[]).expect("an entry that can be read")
}

/// What the clock shows.
fn tick(held: &Entries) -> Option<u64> {
    let spec = held.iter().find_map(|((topic, key), value)| {
        let is_clock = topic == "config" && key == CLOCK
            || topic.starts_with("res/FelixConfiguration/") && key == "default";
        let json = match is_clock.then(|| decoded(topic, value))? {
            Entry::Config(config) => serde_json::from_str(&config.spec_json).expect("JSON"),
            Entry::Res(object) => {
                serde_json::from_str::<Value>(&object).expect("JSON")["spec"].take()
            }
            other => panic!("{other:?}"),
        };
        Some(json)
    })?;
    spec["logPrefix"].as_str()?.strip_prefix("tick-")?.parse().ok()
}

/// The stamps of a full view.
fn stamped(held: &Entries) -> BTreeMap<Name, String> {
    let object = |((topic, key), value): (&(ArcStr, ArcStr), &Vec<u8>)| {
        let Entry::Res(text) = decoded(topic, value) else { return None };
        let object: Value = serde_json::from_str(&text).expect("JSON");
        let stamp = object["metadata"]["labels"]["stamp"].as_str()?.to_owned();
        let kind = topic.split('/').nth(1)?.to_owned();
        Some(((kind, key.to_string()), stamp))
    };
    held.iter().filter_map(object).collect()
}

fn difference(have: &BTreeMap<Name, String>, want: &BTreeMap<Name, String>) -> Vec<String> {
    let names: BTreeSet<&Name> = have.keys().chain(want.keys()).collect();
    let differs = names.into_iter().filter(|name| have.get(*name) != want.get(*name));
    differs
        .map(|name| format!("{name:?}: {:?}, not {:?}", have.get(name), want.get(name)))
        .collect()
}

/// Only the own node's topic is there, and all that entries refer to.
fn whole(node: &str, held: &Entries, topics: &BTreeSet<ArcStr>) {
    let there = |topic: String, by: &str| {
        assert!(
            topics.contains(topic.as_str()),
            "agent {node}: {topic} is not there, which {by} refers to"
        );
    };
    let sets = |rules: &[Rule], by: &str| {
        for Peer { sets, not_sets, port_sets, not_port_sets, .. } in
            rules.iter().flat_map(|rule| [&rule.source, &rule.destination])
        {
            for id in [sets, not_sets, port_sets, not_port_sets].into_iter().flatten() {
                there(Topic::IpSet(id.clone()).to_string(), by);
            }
        }
    };
    for ((topic, key), value) in held {
        let of_node = topic.strip_prefix("node/");
        assert!(of_node.is_none_or(|of| of == node), "agent {node} holds {topic}");
        let lists = match decoded(topic, value) {
            Entry::Endpoint(endpoint) => vec![endpoint.plist],
            Entry::HostEndpoint(host) => {
                vec![host.plist, host.forward, host.untracked, host.pre_dnat]
            }
            Entry::Plist(list) => {
                for tier in list.tiers {
                    for policy in tier.ingress.into_iter().chain(tier.egress) {
                        there(Topic::Policy(policy).to_string(), topic);
                    }
                }
                Vec::new()
            }
            Entry::Policy(policy) => {
                sets(&policy.ingress, topic);
                sets(&policy.egress, topic);
                Vec::new()
            }
            Entry::Profile(profile) => {
                sets(&profile.ingress, topic);
                sets(&profile.egress, topic);
                Vec::new()
            }
            _ => Vec::new(),
        };
        for list in lists.into_iter().flatten() {
            there(Topic::Plist(list).to_string(), key);
        }
    }
}
