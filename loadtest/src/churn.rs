//! What a load test changes, and by construction of each profile: who must hear of it.

use std::collections::{BTreeSet, VecDeque};

use clap::ValueEnum;
use datastore::Write;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde::{Deserialize, Serialize};

use crate::world::{Peers, Pod, Role, Topology, World, stored};

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Audience {
    /// Every agent.
    All,
    /// The agent with this number.
    One(u32),
    /// Agents of nodes with pods in these namespaces.
    Namespaces(Peers),
    /// The agents that have these numbers, from the first to before the last.
    Nodes(u32, u32),
}

impl Audience {
    /// Whether this agent is among them.
    pub(crate) fn has(self, agent: u32, world: &World) -> bool {
        match self {
            Self::All => true,
            Self::One(one) => one == agent,
            Self::Namespaces(peers) => world.is_home(agent, peers),
            Self::Nodes(first, end) => (first..end).contains(&agent),
        }
    }
}

/// What a write makes of one slot at those who need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    pub(crate) fn audience(&self, agents: u32, world: &World) -> u64 {
        if self.effects.iter().any(|effect| effect.audience == Audience::All) {
            return agents.into();
        }
        let mut need = BTreeSet::new();
        for audience in self.effects.iter().map(|effect| effect.audience) {
            match audience {
                Audience::One(agent) => need.extend((agent < agents).then_some(agent)),
                _ => need.extend((0..agents).filter(|agent| audience.has(*agent, world))),
            }
        }
        need.len() as u64
    }
}

/// The events of a profile, one after the other. The same seed gives the same events.
pub(crate) struct Churn {
    world: World,
    profile: Profile,
    view: View,
    random: StdRng,
    mark: u64,
    /// The deployment that is rolled, the oldest pod first.
    webs: VecDeque<Pod>,
    next_pod: u32,
    lost: VecDeque<u32>,
    kept: VecDeque<u32>,
}

impl Churn {
    pub(crate) fn new(world: World, profile: Profile, view: View, seed: u64) -> Self {
        let webs = (0..world.nodes * world.pods_per_node)
            .map(|pod| world.pod(pod))
            .filter(|pod| pod.role == Role::Web)
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
        for pod in (0..count.min(pods)).map(|n| self.world.pod((first + n) % pods)) {
            let (key, value) = self.world.endpoint(&pod, self.mark);
            event.writes.push(Write::Put(key, stored(value)));
            event.effects.push(self.of_node(pod.node, Slot::Pod(pod.number), Some(self.mark)));
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

    /// A pod that others may talk to comes or goes.
    fn member(&self, pod: &Pod, there: bool) -> Option<Effect> {
        let slot = Slot::Member(self.world.address(pod.number).into());
        let audience = match self.world.topology {
            Topology::Clients | Topology::All | Topology::Cohorts => Audience::All,
            Topology::Inside | Topology::Across => {
                Audience::Namespaces(self.world.peers(pod.namespace))
            }
        };
        let is_seen = self.view == View::Node && self.world.is_member(pod.role);
        is_seen.then_some(Effect { audience, slot, now: there.then_some(0) })
    }

    /// The oldest pod of the deployment goes, and a new one of its namespace comes, mostly on another node.
    fn roll(&mut self) -> Event {
        let random = self.random.random_range(0..self.world.nodes);
        let old = self.webs.pop_front();
        let (namespace, node) = match (self.world.topology, old) {
            (Topology::Inside | Topology::Across | Topology::All, Some(old)) => {
                (old.namespace, self.world.home(old.namespace, random))
            }
            _ => (0, random),
        };
        let new = Pod { number: self.next_pod, node, namespace, role: Role::Web };
        self.next_pod += 1;
        let (key, value) = self.world.endpoint(&new, self.mark);
        let mut writes = vec![Write::Put(key, stored(value))];
        let mut effects = vec![self.of_node(node, Slot::Pod(new.number), Some(self.mark))];
        effects.extend(self.member(&new, true));
        if let Some(old) = old {
            writes.push(Write::Delete(self.world.endpoint_key(&old)));
            effects.push(self.of_node(old.node, Slot::Pod(old.number), None));
            effects.extend(self.member(&old, false));
        }
        self.webs.push_back(new);
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
            let pod = self.world.pod(pod);
            let (key, value) = self.world.endpoint(&pod, self.mark);
            event.writes.push(if regain {
                Write::Put(key, stored(value))
            } else {
                Write::Delete(key)
            });
            if self.view == View::Full {
                event.effects.push(all_see(Slot::Pod(pod.number), mark));
            } else {
                event.effects.extend(self.member(&pod, regain));
            }
        }
        event
    }

    fn flip(&mut self) -> Event {
        let policy = (self.mark % u64::from(crate::world::POLICIES)) as u32;
        self.flipped(policy, Audience::All)
    }

    /// An event that flips the policy of one of two cohorts.
    pub(crate) fn next_of_cohort(&mut self, policy: u32) -> Event {
        self.mark += 1;
        let nodes = self.world.cohort(policy);
        self.flipped(policy, Audience::Nodes(nodes.start, nodes.end))
    }

    fn flipped(&self, policy: u32, audience: Audience) -> Event {
        let (key, value) = self.world.policy(policy, self.mark);
        let effect = Effect { audience, slot: Slot::Policy(policy), now: Some(self.mark) };
        Event { writes: vec![Write::Put(key, stored(value))], effects: vec![effect] }
    }

    /// What it is about.
    pub(crate) fn world(&self) -> &World {
        &self.world
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WORLD: World =
        World { nodes: 10, spare: 2, pods_per_node: 5, topology: Topology::Clients };

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
        assert_eq!(churn.next().audience(10, &WORLD), 10);
        let mut churn = Churn::new(WORLD, Profile::Steady, View::Node, 1);
        assert_eq!(churn.next().audience(10, &WORLD), 1);
        let nodes = churn.next_of(10).audience(10, &WORLD);
        assert!((2..=3).contains(&nodes), "ten pods in a row, five on each node: {nodes}");
    }
}
