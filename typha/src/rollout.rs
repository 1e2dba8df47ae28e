//! How far the last change of one object has come on the nodes.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::{SystemTime, UNIX_EPOCH},
};

use arcstr::ArcStr;
use model::{
    Key, Kind,
    view::{Entry, PolicyId, Topic},
};
use sync::Snapshot;

use crate::{
    sessions::SessionInfo,
    status::{NodeRollout, ObjectRollout},
    writer::Recent,
};

/// What these sessions have of an object; none: the store has no such object.
///
/// The publication is that of the newest change among the objects that share its topic in the full view, so it is the
/// object's own or a later one: a node may be said to be pending that isn't, and none enforced that isn't.
pub(crate) fn of_object(
    snapshot: &Snapshot,
    sessions: &[SessionInfo],
    recent: &VecDeque<Recent>,
    key: &Key,
) -> Option<ObjectRollout> {
    let name = Topic::res(key);
    let topic = snapshot.topic(&name)?;
    let Ok(Entry::Res(content)) =
        proto::decode(&name, topic.entries.get(key.path().as_str())?, &[])
    else {
        return None;
    };
    let publication = topic.changed;
    let observed_at = recent.iter().find(|it| it.publication == publication);
    let observed_at_ms = observed_at.map(|recent| recent.observed_at / 1_000_000);
    let policy = match key.kind {
        Kind::NetworkPolicy
        | Kind::GlobalNetworkPolicy
        | Kind::KubernetesNetworkPolicy
        | Kind::KubernetesClusterNetworkPolicy => Some(Topic::Policy(PolicyId {
            kind: key.kind.name().into(),
            namespace: key.namespace.clone(),
            name: key.name.clone(),
        })),
        _ => None,
    };
    let mut acting: HashMap<&ArcStr, &SessionInfo> = HashMap::new();
    for session in sessions.iter().filter(|session| !session.observer && !session.full) {
        // A session that is being replaced may still be there.
        let newest = acting.entry(&session.node).or_insert(session);
        if session.since > newest.since {
            *newest = session;
        }
    }
    let nodes = snapshot.nodes().map(|node| {
        let uses = policy.as_ref().is_none_or(|policy| snapshot.node_view(node).contains(policy));
        let state = acting.get(node).map_or_else(NodeRollout::unknown, |session| {
            node_state(session, publication, policy.as_ref(), observed_at_ms)
        });
        (node.to_string(), NodeRollout { uses, ..state })
    });
    Some(ObjectRollout {
        publication,
        observed_at_ms,
        version: snapshot.vector.iter().map(|(_, version)| version).sum(),
        content,
        nodes: nodes.collect::<BTreeMap<_, _>>(),
    })
}

fn node_state(
    session: &SessionInfo,
    publication: u64,
    policy: Option<&Topic>,
    observed_at_ms: Option<u64>,
) -> NodeRollout {
    if session.committed == 0 || session.holds() < publication {
        return NodeRollout { state: "pending", ..NodeRollout::unknown() };
    }
    let policy = policy.map(ToString::to_string);
    let failure = session
        .reported
        .failed
        .iter()
        .find(|failure| policy.as_ref().is_none_or(|policy| failure.topic == *policy));
    let milliseconds = session.reported.acks.first_of(publication).zip(observed_at_ms);
    NodeRollout {
        state: if failure.is_some() { "failed" } else { "enforced" },
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
