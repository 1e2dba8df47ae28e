//! What was written against what an agent's Commits show.
//!
//! A Commit says with its version how far the agent's state is complete. So at each Commit what the
//! agent holds of each slot must be what the last write at or below that version made of it.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, Instant},
};

use model::view::{Entry, Topic};
use sync::EntryChange;

use crate::{
    churn::{Effect, Mark, Slot},
    world::{self, NAMESPACE, World},
};

/// A write that the store has taken.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    /// The store's version of it.
    pub(crate) version: u64,
    /// When the schedule said that it was due.
    pub(crate) due: Instant,
    pub(crate) effects: Vec<Effect>,
}

/// Every write of a run, in the order of versions.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    writes: Vec<Written>,
    /// All writes up to this version are in.
    known: u64,
}

impl Ledger {
    /// Nothing was written after `version`.
    pub(crate) fn start(version: u64) -> Self {
        Self { writes: Vec::new(), known: version }
    }

    /// The next writes, all of one version.
    pub(crate) fn add(&mut self, version: u64, writes: impl IntoIterator<Item = Written>) {
        self.writes.extend(writes);
        self.known = version;
    }

    /// Nothing more will be written.
    pub(crate) fn close(&mut self) {
        self.known = u64::MAX;
    }
}

/// What a look at an agent's Commits found.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Found {
    /// For each write that the agent needed and that its Commits cover: how long that took.
    pub(crate) latencies: Vec<Duration>,
    /// Slots that a Commit covers and that the agent doesn't hold so.
    pub(crate) lost: Vec<(Slot, Mark, Mark)>,
    /// Slots that changed without a write.
    pub(crate) unasked: Vec<(Slot, Mark)>,
}

struct Commit {
    version: u64,
    at: Instant,
    observed: Vec<(Slot, Mark)>,
}

/// One agent's side.
pub(crate) struct Delivery {
    agent: u32,
    world: World,
    /// The agent knows what it holds, else only what Commits say.
    holds: bool,
    /// Index of the first write that no Commit has covered.
    next: usize,
    /// What the agent holds of each slot that was ever changed for it.
    seen: HashMap<Slot, Mark>,
    /// What it should hold and doesn't: when it comes late, that is no second error.
    owed: HashMap<Slot, Mark>,
    /// Commits that aren't compared yet: the writer may not know its versions so far.
    commits: VecDeque<Commit>,
}

impl Delivery {
    pub(crate) fn new(agent: u32, world: World, holds: bool) -> Self {
        Self {
            agent,
            world,
            holds,
            next: 0,
            seen: HashMap::new(),
            owed: HashMap::new(),
            commits: VecDeque::new(),
        }
    }

    /// A Commit became visible.
    pub(crate) fn committed(&mut self, version: u64, at: Instant, changes: &[EntryChange]) {
        let observed = changes.iter().filter_map(observe).collect();
        self.commits.push_back(Commit { version, at, observed });
    }

    /// Whether there are Commits that were not compared.
    pub(crate) fn waits(&self) -> bool {
        !self.commits.is_empty()
    }

    /// Compares the Commits up to what the ledger knows.
    pub(crate) fn settle(&mut self, ledger: &Ledger) -> Found {
        let mut found = Found::default();
        while let Some(commit) = self.commits.pop_front_if(|c| c.version <= ledger.known) {
            let mut expected = HashMap::new();
            let rest = ledger.writes.get(self.next..).unwrap_or_default();
            for write in rest.iter().take_while(|write| write.version <= commit.version) {
                let mut needed = false;
                for effect in &write.effects {
                    if effect.audience.has(self.agent, &self.world) {
                        needed = true;
                        if !self.holds {
                            break;
                        }
                        expected.insert(effect.slot, effect.now);
                    }
                }
                if needed {
                    found.latencies.push(commit.at.saturating_duration_since(write.due));
                }
                self.next += 1;
            }
            for (slot, mark) in commit.observed {
                let before = self.seen(slot);
                self.seen.insert(slot, mark);
                let owed = self.owed.remove(&slot) == Some(mark);
                if before != mark && !owed && !expected.contains_key(&slot) {
                    found.unasked.push((slot, mark));
                }
            }
            for (slot, mark) in expected {
                let held = self.seen(slot);
                if held != mark {
                    self.owed.insert(slot, mark);
                    found.lost.push((slot, mark, held));
                }
            }
        }
        found
    }

    /// How many writes that the agent needed no Commit has covered.
    pub(crate) fn missing(&self, ledger: &Ledger) -> u64 {
        let rest = ledger.writes.get(self.next..).unwrap_or_default();
        let needed = |write: &&Written| {
            write.effects.iter().any(|effect| effect.audience.has(self.agent, &self.world))
        };
        rest.iter().filter(needed).count() as u64
    }

    fn seen(&self, slot: Slot) -> Mark {
        let at_start = || match slot {
            Slot::Pod(pod) => (pod < self.world.pods()).then_some(0),
            Slot::Node(node) => (node < self.world.all_nodes()).then_some(0),
            Slot::Policy(_) => Some(0),
            Slot::Member(address) => self.world.is_member_at_start(address).then_some(0),
        };
        self.seen.get(&slot).copied().unwrap_or_else(at_start)
    }
}

/// What a change says of a slot; none: it is of something that no load test writes.
fn observe(change: &EntryChange) -> Option<(Slot, Mark)> {
    let topic: Topic = change.topic.parse().ok()?;
    let key = change.key.as_str();
    let slot = match &topic {
        Topic::Node(_) => Slot::Pod(world::pod_of(key.split('/').nth(3)?)?),
        Topic::Hosts(_) => Slot::Node(world::node_of(key)?),
        Topic::IpSet(_) => Slot::Member(world::address_of(key)?),
        Topic::Policy(id) if id.namespace == NAMESPACE => Slot::Policy(world::policy_of(&id.name)?),
        Topic::Res(..) => object_slot(&topic, key)?,
        _ => return None,
    };
    let Some(value) = &change.value else { return Some((slot, None)) };
    let mark = match proto::decode(&topic, value, &[]).ok()? {
        Entry::Endpoint(endpoint) => world::mark_of_mac(&endpoint.mac)?,
        Entry::Host(host) => world::mark_of_as(host.as_number?.into())?,
        Entry::Member => 0,
        Entry::Policy(policy) => {
            let net = policy.ingress.first()?.source.nets.first()?;
            world::mark_of_address(&net.addr().to_string())?
        }
        Entry::Res(json) => object_mark(slot, &json)?,
        _ => return None,
    };
    Some((slot, Some(mark)))
}

/// The slot of an object, from its key in the full view.
fn object_slot(topic: &Topic, key: &str) -> Option<Slot> {
    let Topic::Res(kind, _) = topic else { return None };
    let ours = || {
        let (namespace, name) = key.split_once('/')?;
        world::is_our_namespace(namespace).then_some(name)
    };
    match kind {
        model::Kind::Node => Some(Slot::Node(world::node_of(key)?)),
        model::Kind::NetworkPolicy => Some(Slot::Policy(world::policy_of(ours()?)?)),
        model::Kind::WorkloadEndpoint => {
            let name = ours()?.rsplit_once("-k8s-")?.1.strip_suffix("-eth0")?.replace("--", "-");
            Some(Slot::Pod(world::pod_of(&name)?))
        }
        _ => None,
    }
}

/// The mark in an object. Its JSON is not read whole: that would cost more than all else here.
fn object_mark(slot: Slot, json: &str) -> Option<u64> {
    let after = |start: &str| {
        let (_, rest) = json.split_once(start)?;
        rest.split_once('"').map(|(text, _)| text)
    };
    match slot {
        Slot::Pod(_) => world::mark_of_mac(after(r#""mac":""#)?),
        Slot::Node(_) => {
            let (_, rest) = json.split_once(r#""asNumber":"#)?;
            world::mark_of_as(rest.split_once([',', '}'])?.0.parse().ok()?)
        }
        Slot::Policy(_) => world::mark_of_address(after(r#""nets":[""#)?.strip_suffix("/32")?),
        Slot::Member(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{churn::Audience, world::Topology};

    const WORLD: World =
        World { nodes: 4, spare: 0, pods_per_node: 5, topology: Topology::Clients };
    const POD: Slot = Slot::Pod(3);

    /// What one agent holds and what the writer wrote, both under a test's control.
    struct Rig {
        start: Instant,
        ledger: Ledger,
        delivery: Delivery,
    }

    impl Rig {
        fn new() -> Self {
            let (ledger, delivery) = (Ledger::start(100), Delivery::new(0, WORLD, true));
            Self { start: Instant::now(), ledger, delivery }
        }

        fn at(&self, ms: u64) -> Instant {
            self.start + Duration::from_millis(ms)
        }

        /// A write that is due at this time.
        fn wrote(&mut self, version: u64, due: u64, agent: u32, slot: Slot, now: Mark) {
            let effects = vec![Effect { audience: Audience::One(agent), slot, now }];
            let written = Written { version, due: self.at(due), effects };
            self.ledger.add(version, [written]);
        }

        /// A Commit at this time.
        fn sees(&mut self, version: u64, at: u64, observed: &[(Slot, Mark)]) -> Found {
            let (at, observed) = (self.at(at), observed.to_vec());
            self.delivery.commits.push_back(Commit { version, at, observed });
            self.delivery.settle(&self.ledger)
        }
    }

    fn latencies(ms: &[u64]) -> Found {
        let latencies = ms.iter().map(|ms| Duration::from_millis(*ms)).collect();
        Found { latencies, ..Found::default() }
    }

    #[test]
    fn latency_counts_from_when_a_write_was_due_to_the_first_commit_that_covers_it() {
        let mut rig = Rig::new();
        rig.wrote(101, 0, 0, POD, Some(1));
        rig.wrote(102, 10, 0, POD, Some(2));
        // Both writes in one Commit: the first's value was never seen, and that is well.
        assert_eq!(rig.sees(102, 25, &[(POD, Some(2))]), latencies(&[25, 15]));
    }

    #[test]
    fn a_commit_that_overtakes_the_writers_answer_is_looked_at_later() {
        let mut rig = Rig::new();
        assert_eq!(rig.sees(101, 5, &[(POD, Some(1))]), Found::default());
        assert!(rig.delivery.waits());
        rig.wrote(101, 0, 0, POD, Some(1));
        assert_eq!(rig.delivery.settle(&rig.ledger), latencies(&[5]));
    }

    #[test]
    fn what_others_need_is_none_of_this_agents_business() {
        let mut rig = Rig::new();
        rig.wrote(101, 0, 1, Slot::Pod(8), Some(1));
        rig.wrote(102, 0, 0, POD, Some(2));
        assert_eq!(rig.delivery.missing(&rig.ledger), 1);
        assert_eq!(rig.sees(102, 5, &[(POD, Some(2))]), latencies(&[5]));
        assert_eq!(rig.delivery.missing(&rig.ledger), 0);
    }

    #[test]
    fn a_commit_that_covers_a_write_without_its_change_has_lost_it_once() {
        let mut rig = Rig::new();
        rig.wrote(101, 0, 0, POD, Some(1));
        let found = rig.sees(101, 5, &[]);
        assert_eq!(found.lost, [(POD, Some(1), Some(0))]);
        // It comes late: no second error.
        let late = rig.sees(101, 9, &[(POD, Some(1))]);
        assert_eq!(late, Found::default());
    }

    #[test]
    fn a_value_that_was_overwritten_and_comes_back_is_an_error() {
        let mut rig = Rig::new();
        rig.wrote(101, 0, 0, POD, Some(1));
        rig.wrote(102, 0, 0, POD, Some(2));
        rig.sees(102, 5, &[(POD, Some(2))]);
        rig.wrote(103, 0, 0, Slot::Pod(4), Some(3));
        let found = rig.sees(103, 6, &[(POD, Some(1)), (Slot::Pod(4), Some(3))]);
        assert_eq!(found.unasked, [(POD, Some(1))]);
    }

    #[test]
    fn what_comes_and_goes_between_two_commits_need_not_be_seen() {
        let mut rig = Rig::new();
        let new = Slot::Pod(99);
        rig.wrote(101, 0, 0, new, Some(1));
        rig.wrote(102, 0, 0, new, None);
        assert_eq!(rig.sees(102, 5, &[]), latencies(&[5, 5]));
    }
}
