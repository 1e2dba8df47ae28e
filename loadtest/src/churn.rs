//! What a load test changes, and by construction of each profile: who must hear of it.

use std::collections::VecDeque;

use clap::ValueEnum;
use datastore::Write;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde::{Deserialize, Serialize};

use crate::world::{Role, World, stored};

/// What changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Profile {
    /// Endpoints of random pods change: in a node's view one agent needs each.
    Steady,
    /// A deployment is replaced pod by pod: the set of its addresses changes for every agent, and
    /// the two nodes of the pods change besides.
    RollingUpdate,
    /// Nodes that have no agent go, with their pods, and come back: every agent needs it.
    NodeLoss,
    /// Policies on every node flip between allow and deny: every agent needs it.
    PolicyFlip,
}

/// What an agent asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum View {
    /// What one node needs; each agent is another node's.
    Node,
    /// Every object.
    Full,
}

/// A thing that agents hold, and of which the newest mark is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Slot {
    /// A pod's endpoint.
    Pod(u32),
    /// An address in a set of addresses. It is there or not; its mark is always 0.
    Member(u32),
    /// A node.
    Node(u32),
    /// A policy's rules.
    Policy(u32),
}

/// The mark of a slot; none: it isn't there.
pub(crate) type Mark = Option<u64>;

/// Who needs a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Audience {
    /// Every agent.
    All,
    /// The agent with this number.
    One(u32),
}

impl Audience {
    /// Whether this agent is among them.
    pub(crate) fn has(self, agent: u32) -> bool {
        match self {
            Self::All => true,
            Self::One(one) => one == agent,
        }
    }
}

/// What a write makes of one slot at those who need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Effect {
    pub(crate) audience: Audience,
    pub(crate) slot: Slot,
    pub(crate) now: Mark,
}

/// One change of the cluster.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) writes: Vec<Write>,
    pub(crate) effects: Vec<Effect>,
}

impl Event {
    /// How many of so many agents need it.
    pub(crate) fn audience(&self, agents: u32) -> u64 {
        let one = |agent: &u32| self.effects.iter().any(|effect| effect.audience.has(*agent));
        if self.effects.iter().any(|effect| effect.audience == Audience::All) {
            return agents.into();
        }
        (0..agents).filter(one).count() as u64
    }
}

/// The events of a profile, one after the other. The same seed gives the same events.
pub(crate) struct Churn {
    world: World,
    profile: Profile,
    view: View,
    random: StdRng,
    mark: u64,
    /// The deployment that is rolled: pods and their nodes, the oldest first.
    webs: VecDeque<(u32, u32)>,
    next_pod: u32,
    lost: VecDeque<u32>,
    kept: VecDeque<u32>,
}

impl Churn {
    pub(crate) fn new(world: World, profile: Profile, view: View, seed: u64) -> Self {
        let webs = (0..world.nodes * world.pods_per_node)
            .filter(|pod| world.role(*pod) == Role::Web)
            .map(|pod| (pod, world.node_of(pod)))
            .collect();
        Self {
            world,
            profile,
            view,
            random: StdRng::seed_from_u64(seed),
            mark: 0,
            webs,
            next_pod: world.pods(),
            lost: VecDeque::new(),
            kept: (world.nodes..world.all_nodes()).collect(),
        }
    }

    /// The next event.
    pub(crate) fn next(&mut self) -> Event {
        self.mark += 1;
        match self.profile {
            Profile::Steady => self.touch(1),
            Profile::RollingUpdate => self.roll(),
            Profile::NodeLoss => self.lose_or_regain(),
            Profile::PolicyFlip => self.flip(),
        }
    }

    /// An event that changes so many pods, each another one.
    pub(crate) fn next_of(&mut self, count: u32) -> Event {
        self.mark += 1;
        self.touch(count)
    }

    fn touch(&mut self, count: u32) -> Event {
        let pods = self.world.nodes * self.world.pods_per_node;
        let first = self.random.random_range(0..pods);
        let mut event = Event { writes: Vec::new(), effects: Vec::new() };
        for pod in (0..count.min(pods)).map(|n| (first + n) % pods) {
            let node = self.world.node_of(pod);
            let (key, value) = self.world.pod(pod, node, self.world.role(pod), self.mark);
            event.writes.push(Write::Put(key, stored(value)));
            event.effects.push(self.of_node(node, Slot::Pod(pod), Some(self.mark)));
        }
        event
    }

    /// An effect that only the node's own agent needs, unless all see everything.
    fn of_node(&self, node: u32, slot: Slot, now: Mark) -> Effect {
        let audience = match self.view {
            View::Node => Audience::One(node),
            View::Full => Audience::All,
        };
        Effect { audience, slot, now }
    }

    /// A pod of the set that clients may talk to comes or goes.
    fn member(&self, pod: u32, there: bool) -> Option<Effect> {
        let slot = Slot::Member(self.world.address(pod).into());
        let effect = Effect { audience: Audience::All, slot, now: there.then_some(0) };
        (self.view == View::Node).then_some(effect)
    }

    /// The oldest pod of the deployment goes, and a new one comes on another node.
    fn roll(&mut self) -> Event {
        let (new, node) = (self.next_pod, self.random.random_range(0..self.world.nodes));
        self.next_pod += 1;
        let (key, value) = self.world.pod(new, node, Role::Web, self.mark);
        let mut writes = vec![Write::Put(key, stored(value))];
        let mut effects = vec![self.of_node(node, Slot::Pod(new), Some(self.mark))];
        effects.extend(self.member(new, true));
        if let Some((old, was)) = self.webs.pop_front() {
            writes.push(Write::Delete(World::pod_object(old, was)));
            effects.push(self.of_node(was, Slot::Pod(old), None));
            effects.extend(self.member(old, false));
        }
        self.webs.push_back((new, node));
        Event { writes, effects }
    }

    /// Half of the spare nodes are away at most; each comes back.
    fn lose_or_regain(&mut self) -> Event {
        let all_see = |slot, now| Effect { audience: Audience::All, slot, now };
        let mut event = Event { writes: Vec::new(), effects: Vec::new() };
        let regain = self.kept.len() <= self.lost.len();
        let (mut from, mut to) = (&mut self.kept, &mut self.lost);
        if regain {
            (from, to) = (to, from);
        }
        let Some(node) = from.pop_front() else { return self.touch(1) };
        to.push_back(node);
        let mark = regain.then_some(self.mark);
        let (key, value) = World::node(node, self.mark);
        event.writes.push(if regain { Write::Put(key, stored(value)) } else { Write::Delete(key) });
        event.effects.push(all_see(Slot::Node(node), mark));
        for pod in (0..self.world.pods_per_node).map(|n| node * self.world.pods_per_node + n) {
            let role = self.world.role(pod);
            let (key, value) = self.world.pod(pod, node, role, self.mark);
            event.writes.push(if regain {
                Write::Put(key, stored(value))
            } else {
                Write::Delete(key)
            });
            if self.view == View::Full {
                event.effects.push(all_see(Slot::Pod(pod), mark));
            } else if role == Role::Web {
                event.effects.extend(self.member(pod, regain));
            }
        }
        event
    }

    fn flip(&mut self) -> Event {
        let policy = (self.mark % u64::from(crate::world::POLICIES)) as u32;
        let (key, value) = World::policy(policy, self.mark);
        Event {
            writes: vec![Write::Put(key, stored(value))],
            effects: vec![Effect {
                audience: Audience::All,
                slot: Slot::Policy(policy),
                now: Some(self.mark),
            }],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORLD: World = World { nodes: 10, spare: 2, pods_per_node: 5 };

    #[test]
    fn the_same_seed_gives_the_same_events() {
        for profile in Profile::value_variants() {
            let events = |seed| {
                let mut churn = Churn::new(WORLD, *profile, View::Node, seed);
                (0..50).map(|_| churn.next().writes).collect::<Vec<_>>()
            };
            assert_eq!(events(7), events(7));
        }
    }

    #[test]
    fn a_node_that_is_lost_comes_back_and_no_agents_node_is_lost() {
        let mut churn = Churn::new(WORLD, Profile::NodeLoss, View::Node, 1);
        let mut away = std::collections::BTreeSet::new();
        for _ in 0..20 {
            for effect in churn.next().effects {
                if let Slot::Node(node) = effect.slot {
                    assert!(node >= WORLD.nodes);
                    let changed =
                        if effect.now.is_some() { away.remove(&node) } else { away.insert(node) };
                    assert!(changed, "node {node}");
                }
            }
        }
    }

    #[test]
    fn who_needs_a_change_is_counted_once() {
        let mut churn = Churn::new(WORLD, Profile::RollingUpdate, View::Node, 1);
        assert_eq!(churn.next().audience(10), 10);
        let mut churn = Churn::new(WORLD, Profile::Steady, View::Node, 1);
        assert_eq!(churn.next().audience(10), 1);
        let nodes = churn.next_of(10).audience(10);
        assert!((2..=3).contains(&nodes), "ten pods in a row, five on each node: {nodes}");
    }
}
