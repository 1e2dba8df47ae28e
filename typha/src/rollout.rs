//! How far the last change of an object has come on the nodes.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use arcstr::ArcStr;
use imbl::ordmap::DiffItem;
use model::{
    Key, Kind,
    view::{Entry, PolicyId, RES_SHARDS, Topic},
};
use proto::v1::Failure;
use serde::{Deserialize, Serialize};
use sync::{Affected, Snapshot};

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

/// What a server knows of an object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Presence {
    /// It is in the store.
    #[default]
    There,
    /// It is not, and this server remembers its deletion.
    Deleted,
    /// It is not, and this server remembers nothing of it.
    Absent,
}

/// What a node has of an object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRollout {
    /// Whether the object is in the node's view, or was until its deletion: always, of what is no policy.
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
    /// Whether it is in the store. Of an object that isn't there is an answer only for those who ask with
    /// `deleted=true`: others, as earlier versions, would take it for an object that is.
    #[serde(default)]
    pub presence: Presence,
    /// The publication that brought the change, or a later one.
    pub publication: u64,
    /// When that was seen, milliseconds since 1970; none: too long ago.
    pub observed_at_ms: Option<u64>,
    /// Grows with what this server has read of the store: of two servers, the one with more has the newer object.
    pub version: u64,
    /// How long the store has been out of reach; 0: it is in reach.
    #[serde(default)]
    pub stale_milliseconds: u64,
    /// The object, canonical JSON; empty: it is not in the store.
    pub content: String,
    /// Every node of the store.
    pub nodes: BTreeMap<String, NodeRollout>,
}

/// How far a change has come on all nodes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutSummary {
    /// The change is that the object was deleted.
    #[serde(default)]
    pub deleted: bool,
    /// On how many nodes it is enforced; of a deletion, from how many the object is gone.
    pub enforced: usize,
    /// Nodes on which it failed, with each agent's reason.
    pub failed: BTreeMap<String, String>,
    /// Nodes that have not acknowledged it.
    pub pending: Vec<String>,
    /// Nodes whose agents have no session with those that were asked.
    pub unknown: Vec<String>,
    /// How many nodes the object is for, or was for until its deletion.
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
    /// Of these nodes; `deleted`: the change is that the object was.
    pub fn of(nodes: &BTreeMap<String, NodeRollout>, deleted: bool) -> Self {
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
            deleted,
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
    deleted: bool,
    /// The nodes from whose views the change took it.
    left: Arc<HashSet<ArcStr>>,
}

/// The policies that changed last, deletions too, newest last: each once.
#[derive(Clone, Debug, Default)]
pub(crate) struct LastChanged(VecDeque<Changed>);

/// So many policies are remembered as those that changed last.
pub const REMEMBERED: usize = 10;

impl LastChanged {
    /// Takes what a publication has changed since the one `before`, which is what those `affected` may see.
    pub(crate) fn add(
        &mut self,
        before: &Snapshot,
        now: &Snapshot,
        affected: &Affected,
        observed_at: u64,
    ) {
        let mut touched = Vec::new();
        for kind in policies().filter(|kind| affected.kinds.contains(kind)) {
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
                    touched.push((key, !is.contains_key(path)));
                }
            }
        }
        let keys: HashSet<&Key> = touched.iter().map(|(key, _)| key).collect();
        self.0.retain(|changed| !keys.contains(&changed.key));
        // Who had a policy is looked up only if it is remembered: however many have changed, that is a few lookups for
        // each node that the publication had something for anyway.
        let forgotten = touched.len().saturating_sub(REMEMBERED);
        self.0.extend(touched.drain(forgotten..).map(|(key, deleted)| Changed {
            left: Arc::new(left(before, now, affected, &key)),
            key,
            publication: now.publication,
            observed_at,
            deleted,
        }));
        self.0.drain(..self.0.len().saturating_sub(REMEMBERED));
    }

    fn of(&self, key: &Key) -> Option<&Changed> {
        self.0.iter().find(|changed| changed.key == *key)
    }
}

/// The nodes from whose views a publication took a policy: they are among those that it affects.
fn left(before: &Snapshot, now: &Snapshot, affected: &Affected, key: &Key) -> HashSet<ArcStr> {
    let Some(policy) = policy(key) else { return HashSet::new() };
    let has_left = |node: &&ArcStr| before.needs(node, &policy) && !now.needs(node, &policy);
    affected.nodes.iter().filter(has_left).cloned().collect()
}

fn policies() -> impl Iterator<Item = Kind> {
    let kinds = Kind::all().chain(Kind::derived());
    kinds.filter(|kind| policy(&Key::namespaced(*kind, "", "")).is_some())
}

/// Whether the object is a policy that agents enforce.
pub fn is_policy(key: &Key) -> bool {
    policy(key).is_some()
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
        let Changed { key, publication, observed_at, deleted, .. } = changed;
        let nodes = Rollout::of(changed).on_nodes(snapshot, &acting);
        PolicyRollout {
            kind: key.kind.name().to_owned(),
            namespace: key.namespace.to_string(),
            name: key.name.to_string(),
            publication: *publication,
            observed_at_ms: observed_at / 1_000_000,
            rollout: RolloutSummary::of(&nodes, *deleted),
        }
    };
    made.policies.0.iter().rev().map(rollout).collect()
}

/// What these sessions have of an object; none: it can't be read.
///
/// Of an object that isn't among the policies that changed last, the publication is that of the newest change among the
/// objects that share its topic in the full view, so it is the object's own or a later one: a node may be said to be
/// pending that isn't, and none enforced that isn't. If it isn't in the store either, the publication is the newest.
pub(crate) fn of_object(
    snapshot: &Snapshot,
    sessions: &[SessionInfo],
    made: &Made,
    stale_milliseconds: u64,
    key: &Key,
) -> Option<ObjectRollout> {
    let name = Topic::res(key);
    let topic = snapshot.topic(&name);
    let entry = topic.and_then(|topic| topic.entries.get(key.path().as_str()));
    let content = match entry.map(|entry| proto::decode(&name, entry, &[])) {
        Some(Ok(Entry::Res(content))) => Some(content),
        Some(_) => return None,
        None => None,
    };
    // What was made may be of a later publication than the snapshot.
    let last = made.policies.of(key).filter(|last| last.deleted == content.is_none());
    let unremembered = || {
        let publication = match topic {
            Some(topic) if content.is_some() => topic.changed,
            _ => snapshot.publication,
        };
        let of = |recent: &&Recent| recent.publication == publication;
        let recent = made.recent.iter().find(of).filter(|_| content.is_some());
        Rollout {
            policy: policy(key),
            publication,
            observed_at_ms: recent.map(|recent| recent.observed_at / 1_000_000),
            deleted: content.is_none(),
            left: None,
        }
    };
    let change = last.map_or_else(unremembered, Rollout::of);
    Some(ObjectRollout {
        presence: match (&content, last) {
            (Some(_), _) => Presence::There,
            (None, Some(_)) => Presence::Deleted,
            (None, None) => Presence::Absent,
        },
        publication: change.publication,
        observed_at_ms: change.observed_at_ms,
        version: snapshot.vector.iter().map(|(_, version)| version).sum(),
        stale_milliseconds,
        content: content.unwrap_or_default(),
        nodes: change.on_nodes(snapshot, &acting(sessions)),
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

/// The last change of an object, to be looked for on the nodes.
struct Rollout<'a> {
    /// The topic of its rules, if it is a policy.
    policy: Option<Topic>,
    /// The publication that brought it, or a later one.
    publication: u64,
    /// When it was seen; none: too long ago.
    observed_at_ms: Option<u64>,
    deleted: bool,
    /// The nodes from whose views it took the object, if that is remembered.
    left: Option<&'a HashSet<ArcStr>>,
}

impl<'a> Rollout<'a> {
    fn of(changed: &'a Changed) -> Self {
        Self {
            policy: policy(&changed.key),
            publication: changed.publication,
            observed_at_ms: Some(changed.observed_at / 1_000_000),
            deleted: changed.deleted,
            left: Some(&changed.left),
        }
    }

    fn on_nodes(
        &self,
        snapshot: &Snapshot,
        acting: &HashMap<&ArcStr, &SessionInfo>,
    ) -> BTreeMap<String, NodeRollout> {
        let nodes = snapshot.nodes().map(|node| {
            let has_left = self.left.is_some_and(|left| left.contains(node));
            let uses = match &self.policy {
                Some(_) if self.deleted => has_left,
                Some(policy) => snapshot.needs(node, policy),
                None => true,
            };
            let state = acting.get(node).map_or_else(NodeRollout::unknown, |it| self.on_node(it));
            // Others had nothing to change: what they acknowledged first since then is something else.
            let milliseconds = state.milliseconds.filter(|_| uses || has_left);
            (node.to_string(), NodeRollout { uses, milliseconds, ..state })
        });
        nodes.collect()
    }

    fn on_node(&self, session: &SessionInfo) -> NodeRollout {
        if session.committed == 0 || session.holds() < self.publication {
            return NodeRollout { state: NodeState::Pending, ..NodeRollout::unknown() };
        }
        let failure = session.reported.failed.iter().find(|failure| self.is_kept_by(failure));
        let milliseconds =
            session.reported.acks.first_of(self.publication).zip(self.observed_at_ms);
        NodeRollout {
            state: if failure.is_some() { NodeState::Failed } else { NodeState::Enforced },
            reason: failure.map(|failure| failure.reason.clone()),
            milliseconds: milliseconds.map(|(acked, observed)| acked.saturating_sub(observed)),
            ..NodeRollout::unknown()
        }
    }

    /// Whether a failure keeps the change from the kernel.
    fn is_kept_by(&self, failure: &Failure) -> bool {
        let Some(policy) = &self.policy else { return true };
        // An agent that came after a deletion names no policy that it never had. If it could write nothing at all,
        // which it says of the whole configuration, what an earlier run wrote is in force.
        let nothing = failure.topic == Topic::Config.to_string() && failure.key.is_empty();
        failure.topic == policy.to_string() || (self.deleted && nothing)
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

    use bytes::Bytes;
    use sync::{Change, DigestKey, Publisher, Vector, ViewChange};

    use super::*;
    use crate::sessions::Reported;

    const SECOND: u64 = 1_000_000_000;

    /// What a writer has made of a cluster with the nodes a, b and c.
    struct Cluster {
        publisher: Publisher,
        made: Made,
    }

    impl Cluster {
        fn new() -> Self {
            let mut publisher = Publisher::new(DigestKey([7; 16]));
            let hosts = ["a", "b", "c"].map(|node| Change {
                topic: Topic::Hosts(0),
                key: node.into(),
                value: Some(Bytes::from_static(b"host")),
            });
            let none = Vector::default();
            publisher.publish(hosts, [], &none, &none, 0);
            Self { publisher, made: Made::default() }
        }

        /// Each policy of `policies` is written, or deleted where there is no text. `views`: the nodes that need the
        /// policy from now on, or no longer. Returns the publication.
        fn publish(
            &mut self,
            policies: &[(&str, Option<&str>)],
            views: &[(&str, &str, bool)],
        ) -> u64 {
            let before = self.publisher.snapshot();
            let changes = policies.iter().map(|(name, text)| Change {
                topic: Topic::res(&key(name)),
                key: (*name).into(),
                value: text.map(|text| proto::encode(&Entry::Res(text.to_owned())).into()),
            });
            let views = views.iter().map(|(node, name, needs)| {
                let (add, drop): (Vec<_>, Vec<_>) =
                    policy(&key(name)).into_iter().partition(|_| *needs);
                ViewChange { node: (*node).into(), add, drop }
            });
            let none = Vector::default();
            self.publisher.publish(changes, views, &none, &none, 0);
            let now = self.publisher.snapshot();
            self.made.policies.add(&before, &now, self.publisher.affected(), 100 * SECOND);
            now.publication
        }

        fn rollout(&self, name: &str, sessions: &[SessionInfo]) -> ObjectRollout {
            let snapshot = self.publisher.snapshot();
            of_object(&snapshot, sessions, &self.made, 0, &key(name)).unwrap()
        }
    }

    fn key(name: &str) -> Key {
        Key::global(Kind::GlobalNetworkPolicy, name)
    }

    /// An agent that was brought to `sent`, its last Commit, and acknowledged each of these, one second later each.
    fn session(node: &str, sent: u64, acked: &[u64]) -> SessionInfo {
        let mut reported = Reported::default();
        for (publication, at) in acked.iter().zip(101..) {
            reported.acks.add(*publication, UNIX_EPOCH + Duration::from_secs(at));
        }
        SessionInfo {
            node: node.into(),
            full: false,
            observer: false,
            version: String::new(),
            address: ([127, 0, 0, 1], 1).into(),
            since: UNIX_EPOCH,
            sent,
            committed: sent,
            acked: acked.last().copied().unwrap_or(0),
            reported,
        }
    }

    #[test]
    fn a_policy_is_gone_from_the_nodes_that_acknowledged_its_deletion_and_those_that_had_it_are_known()
     {
        let mut cluster = Cluster::new();
        let written = cluster.publish(&[("p", Some("{}"))], &[("a", "p", true), ("b", "p", true)]);
        let deleted = cluster.publish(&[("p", None)], &[("a", "p", false), ("b", "p", false)]);
        let later = cluster.publish(&[("q", Some("{}"))], &[("c", "q", true)]);
        let sessions = [
            session("a", deleted, &[written, deleted]),
            session("b", deleted, &[written]),
            session("c", later, &[later]),
        ];
        let said = cluster.rollout("p", &sessions);
        assert_eq!((said.presence, said.publication), (Presence::Deleted, deleted));
        assert_eq!((said.observed_at_ms, &*said.content), (Some(100_000), ""));
        let node =
            |uses, state, milliseconds| NodeRollout { uses, state, reason: None, milliseconds };
        let expected = [
            ("a", node(true, NodeState::Enforced, Some(2_000))),
            ("b", node(true, NodeState::Pending, None)),
            // It acknowledged something else since, and had nothing to remove.
            ("c", node(false, NodeState::Enforced, None)),
        ];
        assert_eq!(said.nodes, expected.map(|(name, node)| (name.to_owned(), node)).into());
        let snapshot = cluster.publisher.snapshot();
        let last = of_last_changed(&snapshot, &sessions, &cluster.made);
        let last: Vec<_> =
            last.iter().map(|it| (&*it.name, it.rollout.deleted, it.rollout.uses)).collect();
        assert_eq!(last, [("q", false, 1), ("p", true, 2)]);

        // Made again it is a policy as any other.
        let again = cluster.publish(&[("p", Some("{}"))], &[("c", "p", true)]);
        let said = cluster.rollout("p", &[session("c", again, &[later, again])]);
        assert_eq!((said.presence, said.publication), (Presence::There, again));
        assert_eq!((said.nodes["a"].uses, said.nodes["c"].uses), (false, true));
        assert_eq!(said.nodes["c"].milliseconds, Some(2_000));
    }

    #[test]
    fn a_change_that_takes_a_policy_from_a_node_has_a_time_there() {
        let mut cluster = Cluster::new();
        cluster.publish(&[("p", Some("{}"))], &[("a", "p", true), ("b", "p", true)]);
        let narrowed = cluster.publish(&[("p", Some("narrower"))], &[("a", "p", false)]);
        let later = narrowed + 1;
        let sessions = [
            session("a", narrowed, &[narrowed]),
            session("b", narrowed, &[narrowed]),
            session("c", later, &[later]),
        ];
        let said = cluster.rollout("p", &sessions);
        let times = said.nodes.values().map(|node| (node.uses, node.milliseconds));
        let expected = [(false, Some(1_000)), (true, Some(1_000)), (false, None)];
        assert_eq!(times.collect::<Vec<_>>(), expected);
    }

    #[test]
    fn of_many_deletions_at_once_as_many_are_remembered_as_of_changes() {
        let mut cluster = Cluster::new();
        let names: Vec<String> = (0..25).map(|number| format!("p{number:02}")).collect();
        let all = |text: Option<&'static str>| -> Vec<(&str, Option<&str>)> {
            names.iter().map(|name| (&**name, text)).collect()
        };
        let views = |needs| -> Vec<(&str, &str, bool)> {
            names.iter().map(|name| ("a", &**name, needs)).collect()
        };
        cluster.publish(&all(Some("{}")), &views(true));
        let deleted = cluster.publish(&all(None), &views(false));
        let later = cluster.publish(&[("p00", Some("{}"))], &[]);
        let sessions = [session("a", deleted, &[deleted])];
        let said: Vec<_> = names.iter().map(|name| cluster.rollout(name, &sessions)).collect();
        assert_eq!(said[0].presence, Presence::There);
        let remembered: Vec<_> =
            said.iter().filter(|said| said.presence == Presence::Deleted).collect();
        assert_eq!(remembered.len(), REMEMBERED - 1, "and one that was made again");
        for said in remembered {
            let on = &said.nodes["a"];
            assert_eq!((said.publication, on.uses, on.state), (deleted, true, NodeState::Enforced));
        }
        // What isn't remembered may have gone with the newest publication.
        let forgotten = said.iter().find(|said| said.presence == Presence::Absent).unwrap();
        assert_eq!((forgotten.publication, forgotten.observed_at_ms), (later, None));
        assert_eq!(forgotten.nodes["a"].state, NodeState::Pending);
        let never = cluster.rollout("never", &sessions);
        assert_eq!((never.presence, never.publication), (Presence::Absent, later));
    }

    #[test]
    fn a_policy_is_not_gone_from_a_kernel_into_which_nothing_could_be_written() {
        let mut cluster = Cluster::new();
        cluster.publish(&[("p", Some("{}")), ("q", Some("{}"))], &[("a", "p", true)]);
        let deleted = cluster.publish(&[("p", None)], &[("a", "p", false)]);
        let mut refused = session("a", deleted, &[deleted]);
        refused.reported.failed = vec![Failure {
            topic: Topic::Config.to_string(),
            key: String::new(),
            reason: "not permitted".into(),
        }];
        let said = cluster.rollout("p", &[refused.clone()]);
        assert_eq!(said.nodes["a"].state, NodeState::Failed);
        assert_eq!(said.nodes["a"].reason.as_deref(), Some("not permitted"));
        // A policy that can't be written is named itself.
        assert_eq!(cluster.rollout("q", &[refused]).nodes["a"].state, NodeState::Enforced);
    }

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
