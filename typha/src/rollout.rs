//! How far the last change of an object has come on the nodes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    time::{SystemTime, UNIX_EPOCH},
};

use arcstr::ArcStr;
use imbl::ordmap::DiffItem;
use model::{
    Key, Kind,
    view::{Entry, PolicyId, RES_SHARDS, Topic},
};
use serde::{Deserialize, Serialize};
use sync::Snapshot;

use crate::{
    sessions::SessionInfo,
    writer::{Made, Recent},
};

/// What a node has of a change. Of what several servers say of a node, the greatest counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeState {
    /// Its agent has no session with the server that says so.
    Unknown,
    /// Its agent has not acknowledged the change.
    Pending,
    /// Its kernel holds its view less what its agent names, which is this.
    Failed,
    /// Its kernel holds it.
    Enforced,
}

/// What a node has of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRollout {
    /// Whether the object is in the node's view: always, of what is no policy.
    pub uses: bool,
    /// How far the change has come.
    pub state: NodeState,
    /// Why it failed, in the agent's words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// From the change until its kernel held it, where the node had something to change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub milliseconds: Option<u64>,
}

/// The answer of `/api/v1/rollout?kind=KIND&namespace=NAMESPACE&name=NAME`: how far the last change of an object has
/// come, as this server knows it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ObjectRollout {
    /// The publication that brought the change, or a later one.
    pub publication: u64,
    /// When that was seen, milliseconds since 1970; none: too long ago.
    pub observed_at_ms: Option<u64>,
    /// Grows with what this server has read of the store: of two servers, the one with more has the newer object.
    pub version: u64,
    /// The object, canonical JSON.
    pub content: String,
    /// Every node of the store.
    pub nodes: BTreeMap<String, NodeRollout>,
}

/// How far a change has come on all nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutSummary {
    /// On how many nodes it is enforced.
    pub enforced: usize,
    /// Nodes on which it failed, with each agent's reason.
    pub failed: BTreeMap<String, String>,
    /// Nodes that have not acknowledged it.
    pub pending: Vec<String>,
    /// Nodes whose agents have no session with those that were asked.
    pub unknown: Vec<String>,
    /// How many nodes the object is for.
    pub uses: usize,
    /// From the change to the kernel, milliseconds: the median over the nodes whose time is known.
    pub p50_ms: Option<u64>,
    /// Of 100 of these nodes, 99 took at most this.
    pub p99_ms: Option<u64>,
}

/// A policy among the answers of `/api/v1/rollouts`: those that changed last.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct PolicyRollout {
    /// Its kind.
    pub kind: String,
    /// Its namespace; empty: it has none.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The publication that brought the change.
    pub publication: u64,
    /// When that was seen, milliseconds since 1970.
    pub observed_at_ms: u64,
    /// How far it has come.
    #[serde(flatten)]
    pub rollout: RolloutSummary,
}

impl NodeRollout {
    fn unknown() -> Self {
        Self { uses: false, state: NodeState::Unknown, reason: None, milliseconds: None }
    }
}

impl RolloutSummary {
    /// Of these nodes.
    pub fn of(nodes: &BTreeMap<String, NodeRollout>) -> Self {
        let named = |state: NodeState| {
            let of_state = nodes.iter().filter(move |(_, node)| node.state == state);
            of_state.map(|(name, _)| name.clone()).collect::<Vec<_>>()
        };
        let mut times: Vec<u64> = nodes.values().filter_map(|node| node.milliseconds).collect();
        times.sort_unstable();
        let percentile = |percent: usize| {
            let place = (times.len() * percent).div_ceil(100).saturating_sub(1);
            times.get(place).copied()
        };
        let failed = nodes.iter().filter(|(_, node)| node.state == NodeState::Failed);
        Self {
            enforced: named(NodeState::Enforced).len(),
            failed: failed
                .map(|(name, node)| (name.clone(), node.reason.clone().unwrap_or_default()))
                .collect(),
            pending: named(NodeState::Pending),
            unknown: named(NodeState::Unknown),
            uses: nodes.values().filter(|node| node.uses).count(),
            p50_ms: percentile(50),
            p99_ms: percentile(99),
        }
    }
}

/// A change of a policy that this server saw.
#[derive(Clone, Debug)]
pub(crate) struct Changed {
    key: Key,
    publication: u64,
    /// Nanoseconds since 1970.
    observed_at: u64,
}

/// The policies that changed last, newest last: each once, as long as it is there.
#[derive(Clone, Debug, Default)]
pub(crate) struct LastChanged(VecDeque<Changed>);

impl LastChanged {
    /// So many are remembered.
    const MOST: usize = 10;

    /// Takes what a publication has changed since the one `before`, which are objects of these `kinds`.
    pub(crate) fn add(
        &mut self,
        before: &Snapshot,
        now: &Snapshot,
        kinds: &BTreeSet<Kind>,
        observed_at: u64,
    ) {
        let (mut touched, mut there) = (HashSet::new(), Vec::new());
        for kind in policies().filter(|kind| kinds.contains(kind)) {
            for shard in 0..RES_SHARDS {
                let topic = Topic::Res(kind, shard);
                if now.changed(&topic) <= before.changed(&topic) {
                    continue;
                }
                let entries = |snapshot: &Snapshot| {
                    snapshot.topic(&topic).map(|topic| topic.entries.clone()).unwrap_or_default()
                };
                let (was, is) = (entries(before), entries(now));
                for change in was.diff(&is) {
                    let (DiffItem::Add(path, _)
                    | DiffItem::Remove(path, _)
                    | DiffItem::Update { new: (path, _), .. }) = change;
                    let key = match path.split_once('/') {
                        Some((namespace, name)) => Key::namespaced(kind, namespace, name),
                        None => Key::global(kind, path.as_str()),
                    };
                    if is.contains_key(path) {
                        let publication = now.publication;
                        there.push(Changed { key: key.clone(), publication, observed_at });
                    }
                    touched.insert(key);
                }
            }
        }
        self.0.retain(|changed| !touched.contains(&changed.key));
        self.0.extend(there);
        self.0.drain(..self.0.len().saturating_sub(Self::MOST));
    }

    fn of(&self, key: &Key) -> Option<&Changed> {
        self.0.iter().find(|changed| changed.key == *key)
    }
}

fn policies() -> impl Iterator<Item = Kind> {
    let kinds = Kind::all().chain(Kind::derived());
    kinds.filter(|kind| policy(&Key::namespaced(*kind, "", "")).is_some())
}

/// The topic of its rules, if the object is a policy.
fn policy(key: &Key) -> Option<Topic> {
    match key.kind {
        Kind::NetworkPolicy
        | Kind::GlobalNetworkPolicy
        | Kind::KubernetesNetworkPolicy
        | Kind::KubernetesClusterNetworkPolicy => {
            let id = PolicyId::new(key.kind.name(), key.namespace.clone(), key.name.clone());
            Some(Topic::Policy(id))
        }
        _ => None,
    }
}

/// What these sessions have of the policies that changed last, newest first.
pub(crate) fn of_last_changed(
    snapshot: &Snapshot,
    sessions: &[SessionInfo],
    made: &Made,
) -> Vec<PolicyRollout> {
    let acting = acting(sessions);
    let rollout = |changed: &Changed| {
        let Changed { key, publication, observed_at } = changed;
        let observed_at_ms = observed_at / 1_000_000;
        let nodes = of_nodes(snapshot, &acting, key, *publication, Some(observed_at_ms));
        PolicyRollout {
            kind: key.kind.name().to_owned(),
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
            publication: *publication,
            observed_at_ms,
            rollout: RolloutSummary::of(&nodes),
        }
    };
    made.policies.0.iter().rev().map(rollout).collect()
}

/// What these sessions have of an object; none: the store has no such object.
///
/// Of an object that isn't among the policies that changed last, the publication is that of the newest change among the
/// objects that share its topic in the full view, so it is the object's own or a later one: a node may be said to be
/// pending that isn't, and none enforced that isn't.
pub(crate) fn of_object(
    snapshot: &Snapshot,
    sessions: &[SessionInfo],
    made: &Made,
    key: &Key,
) -> Option<ObjectRollout> {
    let name = Topic::res(key);
    let topic = snapshot.topic(&name)?;
    let Ok(Entry::Res(content)) =
        proto::decode(&name, topic.entries.get(key.path().as_str())?, &[])
    else {
        return None;
    };
    let own = made.policies.of(key).map(|changed| (changed.publication, Some(changed.observed_at)));
    let (publication, observed_at) = own.unwrap_or_else(|| {
        let of = |recent: &&Recent| recent.publication == topic.changed;
        (topic.changed, made.recent.iter().find(of).map(|recent| recent.observed_at))
    });
    let observed_at_ms = observed_at.map(|at| at / 1_000_000);
    Some(ObjectRollout {
        publication,
        observed_at_ms,
        version: snapshot.vector.iter().map(|(_, version)| version).sum(),
        content,
        nodes: of_nodes(snapshot, &acting(sessions), key, publication, observed_at_ms),
    })
}

/// The newest session of each node that acts for it: one that is being replaced may still be there.
fn acting(sessions: &[SessionInfo]) -> HashMap<&ArcStr, &SessionInfo> {
    let mut acting: HashMap<&ArcStr, &SessionInfo> = HashMap::new();
    for session in sessions.iter().filter(|session| !session.observer && !session.full) {
        let newest = acting.entry(&session.node).or_insert(session);
        if session.since > newest.since {
            *newest = session;
        }
    }
    acting
}

fn of_nodes(
    snapshot: &Snapshot,
    acting: &HashMap<&ArcStr, &SessionInfo>,
    key: &Key,
    publication: u64,
    observed_at_ms: Option<u64>,
) -> BTreeMap<String, NodeRollout> {
    let policy = policy(key);
    let nodes = snapshot.nodes().map(|node| {
        let uses = policy.as_ref().is_none_or(|policy| snapshot.needs(node, policy));
        let state = acting.get(node).map_or_else(NodeRollout::unknown, |session| {
            node_state(session, publication, policy.as_ref(), observed_at_ms)
        });
        (node.to_string(), NodeRollout { uses, ..state })
    });
    nodes.collect()
}

fn node_state(
    session: &SessionInfo,
    publication: u64,
    policy: Option<&Topic>,
    observed_at_ms: Option<u64>,
) -> NodeRollout {
    if session.committed == 0 || session.holds() < publication {
        return NodeRollout { state: NodeState::Pending, ..NodeRollout::unknown() };
    }
    let policy = policy.map(ToString::to_string);
    let failure = session
        .reported
        .failed
        .iter()
        .find(|failure| policy.as_ref().is_none_or(|policy| failure.topic == *policy));
    let milliseconds = session.reported.acks.first_of(publication).zip(observed_at_ms);
    NodeRollout {
        state: if failure.is_some() { NodeState::Failed } else { NodeState::Enforced },
        reason: failure.map(|failure| failure.reason.clone()),
        milliseconds: milliseconds.map(|(acked, observed)| acked.saturating_sub(observed)),
        ..NodeRollout::unknown()
    }
}

/// When the newest acknowledgements of a session came.
#[derive(Clone, Debug, Default)]
pub(crate) struct Acks {
    newest: VecDeque<(u64, SystemTime)>,
    /// There were older ones.
    is_cut: bool,
}

impl Acks {
    /// So many are remembered: the time of a change is asked for soon after it.
    const MOST: usize = 8;

    pub(crate) fn add(&mut self, publication: u64, at: SystemTime) {
        if self.newest.len() == Self::MOST {
            self.newest.pop_front();
            self.is_cut = true;
        }
        self.newest.push_back((publication, at));
    }

    /// When a publication was acknowledged first, milliseconds since 1970, if that is remembered.
    fn first_of(&self, publication: u64) -> Option<u64> {
        let first = self.newest.iter().position(|(acked, _)| *acked >= publication)?;
        if first == 0 && self.is_cut {
            return None;
        }
        let at = self.newest[first].1.duration_since(UNIX_EPOCH).ok()?;
        u64::try_from(at.as_millis()).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_time_of_an_acknowledgement_is_known_while_it_is_certainly_the_first() {
        let mut acks = Acks::default();
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        for publication in [3, 5, 9] {
            acks.add(publication, at(publication));
        }
        assert_eq!(acks.first_of(1), Some(3000));
        assert_eq!(acks.first_of(4), Some(5000));
        assert_eq!(acks.first_of(10), None);
        for publication in 10..16 {
            acks.add(publication, at(publication));
        }
        assert_eq!(acks.first_of(4), None, "an older one may have been the first");
        assert_eq!(acks.first_of(6), Some(9000));
    }
}
