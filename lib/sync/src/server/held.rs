//! What an agent that comes back holds, and what it lacks of its view.

use std::collections::BTreeMap;

use model::view::Topic;
use proto::v1::{AgentHello, HeldTopic};

use crate::{
    buckets::Buckets,
    digest::TopicDigest,
    topic::{Outgoing, TopicState, Whole},
    vector::Vector,
    versions::Lists,
};

/// When more of its buckets differ, a topic is sent whole: that is shared with those who lack all of it.
const MOST_BUCKETS: usize = 32;

/// What an agent said that it holds.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) epoch: String,
    pub(super) incarnation: String,
    pub(super) publication: u64,
    pub(super) vector: Vector,
    pub(super) lists: Lists,
    pub(super) topics: BTreeMap<Topic, HeldState>,
    /// Topics that this version doesn't know: they leave the view.
    pub(super) unknown: Vec<String>,
    pub(super) accept_rollback: bool,
}

/// A topic as the agent holds it.
#[derive(Clone, Debug)]
pub(super) struct HeldState {
    digest: TopicDigest,
    /// It is of no publication: it came whole in a session that broke before its Commit.
    staged: bool,
    buckets: Option<Buckets>,
}

impl From<&AgentHello> for Held {
    fn from(hello: &AgentHello) -> Self {
        let mut topics = BTreeMap::new();
        let mut unknown = Vec::new();
        for held in &hello.held {
            match (held.topic.parse::<Topic>(), HeldState::read(held)) {
                (Ok(topic), Some(state)) => drop(topics.insert(topic, state)),
                _ => unknown.push(held.topic.clone()),
            }
        }
        Self {
            epoch: hello.epoch.clone(),
            incarnation: hello.incarnation.clone(),
            publication: hello.publication,
            vector: hello.vector.as_slice().into(),
            lists: hello.lists.as_slice().into(),
            topics,
            unknown,
            accept_rollback: hello.accept_rollback,
        }
    }
}

impl HeldState {
    fn read(held: &HeldTopic) -> Option<Self> {
        let digest = TopicDigest::try_from(held.digest.as_ref()?).ok()?;
        let buckets = Buckets::from_bytes(&held.buckets);
        Some(Self { digest, staged: held.staged, buckets })
    }

    /// What turns it into `state`, the topic now. `run`: the publication that the agent has of the same run of this
    /// server.
    pub(super) fn gap(
        &self,
        topic: &str,
        state: Option<&TopicState>,
        run: Option<u64>,
    ) -> Vec<Outgoing> {
        if self.digest == state.map(|state| state.digest).unwrap_or_default() {
            return Vec::new();
        }
        let Some(state) = state else { return vec![whole(topic, None)] };
        let history = run.filter(|_| !self.staged).and_then(|publication| state.since(publication));
        // No history, and another content: then the agent has something else than it was sent.
        if let Some(frames) = history.filter(|frames| !frames.is_empty()) {
            return frames.into_iter().map(Outgoing::Shared).collect();
        }
        let both = self.buckets.as_ref().zip(state.buckets.as_ref());
        let differing = both.map(|(held, now)| held.differing(now));
        if let Some(buckets) = differing.filter(|buckets| buckets.len() <= MOST_BUCKETS) {
            let buckets = buckets.into_iter().map(|bucket| state.bucket(topic, bucket));
            return buckets.map(Whole::outgoing).collect();
        }
        vec![whole(topic, Some(state))]
    }
}

/// A topic, all of it; none: it is empty.
pub(super) fn whole(topic: &str, state: Option<&TopicState>) -> Outgoing {
    match state {
        Some(state) => state.whole(topic),
        None => TopicState::default().whole(topic),
    }
    .outgoing()
}

/// How a session began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resume {
    /// The agent held nothing.
    Fresh,
    /// It was served by the same run of this server.
    SameRun,
    /// It was served by another server, or by an earlier run: digests said what differs.
    Digests,
    /// It was served from another store.
    OtherStore,
}

impl Resume {
    /// All kinds.
    pub const ALL: [Self; 4] = [Self::Fresh, Self::SameRun, Self::Digests, Self::OtherStore];

    /// The kind in one word.
    pub fn name(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::SameRun => "same_run",
            Self::Digests => "digests",
            Self::OtherStore => "other_store",
        }
    }
}
