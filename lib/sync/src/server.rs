//! The server's side of one session: from snapshots to the frames that this agent needs.
//!
//! A session keeps a cursor, the publication that the agent has, and the topics of its view. Each
//! newer snapshot gives, for each topic, its frames after the cursor, or all of it where history
//! doesn't reach back or the topic is new in the view; and one Commit.
//!
//! An agent that comes back says what it holds. It gets the gap:
//! * an agent ahead of this server waits until the server has caught up, for time must not run back;
//! * from the same run of the same server: what changed since the publication that it has;
//! * from another: the topics whose digests differ.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use arcstr::ArcStr;
use model::{
    Kind,
    view::{RES_SHARDS, Topic},
};
use proto::v1::{
    AgentHello, Behind, Commit, Heartbeat, KeyValue, Replace, ServerHello, ServerMessage, View,
    server_message::Message,
};

use crate::{
    digest::{DigestKey, TopicDigest},
    publisher::{Frame, Snapshot, TopicState},
    vector::Vector,
};

/// The entries of one part of a [`Replace`] stay below this many bytes, unless one alone is larger.
const PART_BYTES: usize = 64 * 1024;

/// What is the same for all sessions of a server.
#[derive(Clone, Debug)]
pub struct ServerFacts {
    /// This run of this server.
    pub incarnation: String,
    /// The store's identity.
    pub epoch: String,
    /// The names of the store's streams, in the order of their indexes.
    pub streams: Vec<String>,
    /// The cluster's key of digests.
    pub digest_key: DigestKey,
    /// A heartbeat comes after so much quiet.
    pub heartbeat_seconds: u32,
    /// The program's version.
    pub version: String,
}

impl ServerFacts {
    /// The server's first message.
    pub fn hello(&self) -> ServerMessage {
        message(Message::Hello(ServerHello {
            incarnation: self.incarnation.clone(),
            epoch: self.epoch.clone(),
            streams: self.streams.clone(),
            digest_key: self.digest_key.0.to_vec(),
            heartbeat_seconds: self.heartbeat_seconds,
            version: self.version.clone(),
        }))
    }
}

/// Why a hello can't be served.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A node view needs a node.
    #[error("the hello names no node: set `node`, or ask for the full view")]
    NoNode,
    /// Not a value of `View`.
    #[error("unknown view {0}: this server has NODE (0) and FULL (1)")]
    UnknownView(i32),
    /// A kind filter with a word that is no kind.
    #[error("unknown kind {0:?} in the hello's kinds")]
    UnknownKind(String),
}

#[derive(Clone, Debug)]
enum Subscription {
    Node(ArcStr),
    Full(BTreeSet<Topic>),
}

impl Subscription {
    fn view(&self, snapshot: &Snapshot) -> BTreeSet<Topic> {
        match self {
            Self::Node(node) => snapshot.node_view(node),
            Self::Full(topics) => topics.clone(),
        }
    }
}

/// What an agent said that it holds.
#[derive(Clone, Debug)]
struct Held {
    epoch: String,
    incarnation: String,
    publication: u64,
    vector: Vector,
    topics: BTreeMap<Topic, TopicDigest>,
    /// Topics that this version doesn't know: they leave the view.
    unknown: Vec<String>,
    accept_rollback: bool,
}

impl From<&AgentHello> for Held {
    fn from(hello: &AgentHello) -> Self {
        let mut topics = BTreeMap::new();
        let mut unknown = Vec::new();
        for held in &hello.held {
            let digest = held.digest.as_ref().and_then(|digest| TopicDigest::try_from(digest).ok());
            match (held.topic.parse::<Topic>(), digest) {
                (Ok(topic), Some(digest)) => drop(topics.insert(topic, digest)),
                _ => unknown.push(held.topic.clone()),
            }
        }
        Self {
            epoch: hello.epoch.clone(),
            incarnation: hello.incarnation.clone(),
            publication: hello.publication,
            vector: hello.vector.as_slice().into(),
            topics,
            unknown,
            accept_rollback: hello.accept_rollback,
        }
    }
}

/// Something for one agent.
#[derive(Clone, Debug)]
pub enum Outgoing {
    /// A frame that other agents get too.
    Shared(Arc<Frame>),
    /// A message of this session.
    Own(ServerMessage),
}

impl Outgoing {
    /// The message, copied where it is shared.
    pub fn into_message(self) -> ServerMessage {
        match self {
            Self::Shared(frame) => message(Message::Delta(frame.delta.clone())),
            Self::Own(message) => message,
        }
    }
}

/// What a snapshot means to a session.
#[derive(Debug)]
pub enum Advance {
    /// Send these, in this order; empty: nothing in the view has changed.
    Frames(Vec<Outgoing>),
    /// The agent has seen a later state than this server: it is told, and waits.
    Behind(Behind),
    /// The store went back in time: the session must end, and the agent decide anew.
    Rewound,
}

/// One agent's session.
#[derive(Clone, Debug)]
pub struct ServerSession {
    subscription: Subscription,
    facts: Arc<ServerFacts>,
    /// What the agent said that it holds, until the first Commit.
    held: Option<Held>,
    generation: Option<u64>,
    /// The topics that the agent has.
    sent: BTreeSet<Topic>,
    /// The publication that the agent has; 0: none.
    cursor: u64,
    /// The publication of the last Commit: later ones changed nothing for this agent.
    committed: u64,
    /// A topic must go again, though nothing has changed.
    owes: bool,
    /// What the agent had seen when it came: it is never told of less.
    seen: Vector,
    vector: Vector,
    progress: Vector,
}

impl ServerSession {
    /// A session for this hello, at nothing sent.
    pub fn new(hello: &AgentHello, facts: Arc<ServerFacts>) -> Result<Self, Refusal> {
        let subscription = match View::try_from(hello.view) {
            Ok(View::Node) if hello.node.is_empty() => return Err(Refusal::NoNode),
            Ok(View::Node) => Subscription::Node(hello.node.as_str().into()),
            Ok(View::Full) => Subscription::Full(full_view(&hello.kinds)?),
            Err(_) => return Err(Refusal::UnknownView(hello.view)),
        };
        Ok(Self {
            subscription,
            facts,
            held: Some(hello.into()),
            generation: None,
            sent: BTreeSet::new(),
            cursor: 0,
            committed: 0,
            owes: false,
            seen: Vector::default(),
            vector: Vector::default(),
            progress: Vector::default(),
        })
    }

    /// The publication that the agent has been brought to.
    pub fn cursor(&self) -> u64 {
        self.cursor
    }

    /// The publication of the last Commit that the agent was sent, which is the one that it
    /// acknowledges. It is less than [`Self::cursor`] when later ones changed nothing for it.
    pub fn committed(&self) -> u64 {
        self.committed
    }

    /// What brings the agent to `snapshot`. The last frame is a Commit.
    pub fn advance(&mut self, snapshot: &Snapshot) -> Advance {
        if *self.generation.get_or_insert(snapshot.generation) != snapshot.generation {
            return Advance::Rewound;
        }
        let mut drop = Vec::new();
        let first = self.held.is_some();
        if let Some(held) = &self.held {
            if let Some(behind) = self.behind(held, snapshot) {
                return Advance::Behind(behind);
            }
            drop = self.resume(snapshot);
        }
        if !first && !self.owes && snapshot.publication <= self.cursor {
            return Advance::Frames(Vec::new());
        }
        self.owes = false;
        let view = self.subscription.view(snapshot);
        let mut frames = Vec::new();
        for topic in &view {
            let state = snapshot.topic(topic).map(AsRef::as_ref);
            if self.sent.contains(topic) && snapshot.changed(topic) <= self.cursor {
                continue;
            }
            let known = self.sent.contains(topic);
            match state.filter(|_| known).and_then(|state| state.since(self.cursor)) {
                Some(history) => frames.extend(history.into_iter().map(Outgoing::Shared)),
                None => replace(topic, state, &mut frames),
            }
        }
        let names =
            |topics: &mut dyn Iterator<Item = &Topic>| topics.map(ToString::to_string).collect();
        let add: Vec<String> = names(&mut view.difference(&self.sent));
        let gone: Vec<String> = names(&mut self.sent.difference(&view));
        drop.extend(gone);
        drop.sort_unstable();
        drop.dedup();
        self.cursor = snapshot.publication;
        if !first && frames.is_empty() && drop.is_empty() {
            return Advance::Frames(frames);
        }
        self.sent = view;
        self.committed = snapshot.publication;
        let mut vector = snapshot.vector.clone();
        vector.join(&self.seen);
        frames.push(Outgoing::Own(message(Message::Commit(Commit {
            publication: snapshot.publication,
            vector: vector.changed_since(&self.vector),
            progress: snapshot.progress.changed_since(&self.progress),
            add,
            drop,
            in_sync: true,
            observed_at: snapshot.observed_at,
        }))));
        self.vector = vector;
        self.progress = snapshot.progress.clone();
        Advance::Frames(frames)
    }

    /// Where the agent has seen more than this server knows. Versions of events are compared with
    /// what is known to be complete, so that a quiet stream holds nobody up.
    fn behind(&self, held: &Held, snapshot: &Snapshot) -> Option<Behind> {
        if held.accept_rollback || held.epoch != self.facts.epoch {
            return None;
        }
        let stream = snapshot.progress.first_behind(&held.vector)?;
        let name = self.facts.streams.get(usize::from(stream.0)).cloned();
        Some(Behind {
            stream: name.unwrap_or_else(|| stream.0.to_string()),
            have: snapshot.progress.get(stream),
            need: held.vector.get(stream),
        })
    }

    /// Takes over what the agent holds and needs no more than the gap of, and says which topics it
    /// holds that are not in its view.
    fn resume(&mut self, snapshot: &Snapshot) -> Vec<String> {
        let Some(held) = self.held.take() else { return Vec::new() };
        let view = self.subscription.view(snapshot);
        let not_in_view = held.topics.keys().filter(|topic| !view.contains(topic));
        let mut drop: Vec<String> = not_in_view.map(ToString::to_string).collect();
        drop.extend(held.unknown);
        if held.epoch != self.facts.epoch {
            return drop;
        }
        if !held.accept_rollback {
            self.seen = held.vector;
        }
        let same_run =
            held.incarnation == self.facts.incarnation && held.publication <= snapshot.publication;
        self.cursor = if same_run { held.publication } else { snapshot.publication };
        for (topic, digest) in held.topics {
            let state = snapshot.topic(&topic);
            let now = state.map(|state| state.digest).unwrap_or_default();
            let changed = snapshot.changed(&topic) > self.cursor;
            // What has changed since is checked by the digest that its frames end with.
            if view.contains(&topic) && (changed || digest == now) {
                self.sent.insert(topic);
            }
        }
        drop
    }

    /// The agent's digest of a topic came out differently: the topic goes again, with the next
    /// Commit.
    pub fn resync(&mut self, topic: &str) {
        if let Ok(topic) = topic.parse::<Topic>()
            && self.sent.remove(&topic)
        {
            self.owes = true;
        }
    }

    /// The agent waits for this server to catch up: nothing was committed yet.
    pub fn is_waiting(&self) -> bool {
        self.held.is_some()
    }

    /// What is said when nothing else was for a while.
    pub fn heartbeat(&self, snapshot: &Snapshot, stale_milliseconds: u64) -> ServerMessage {
        message(Message::Heartbeat(Heartbeat {
            publication: snapshot.publication,
            progress: snapshot.progress.changed_since(&self.progress),
            stale_milliseconds,
        }))
    }
}

fn message(message: Message) -> ServerMessage {
    ServerMessage { message: Some(message) }
}

fn full_view(kinds: &[String]) -> Result<BTreeSet<Topic>, Refusal> {
    let kinds: Vec<Kind> = if kinds.is_empty() {
        Kind::all().collect()
    } else {
        let parse = |kind: &String| kind.parse().map_err(|_| Refusal::UnknownKind(kind.clone()));
        kinds.iter().map(parse).collect::<Result<_, _>>()?
    };
    Ok(kinds.iter().flat_map(|kind| (0..RES_SHARDS).map(|n| Topic::Res(*kind, n))).collect())
}

/// A topic whole, in parts; one empty part for a topic without entries.
fn replace(topic: &Topic, state: Option<&TopicState>, frames: &mut Vec<Outgoing>) {
    let own = |part| Outgoing::Own(message(Message::Replace(part)));
    let name = topic.to_string();
    let mut part = Replace { topic: name.clone(), ..Replace::default() };
    let mut bytes = 0;
    for (key, value) in state.into_iter().flat_map(|state| state.entries.iter()) {
        let size = key.len() + value.len();
        if bytes + size > PART_BYTES && !part.entries.is_empty() {
            let next = Replace { topic: name.clone(), part: part.part + 1, ..Replace::default() };
            frames.push(own(std::mem::replace(&mut part, next)));
            bytes = 0;
        }
        bytes += size;
        part.entries.push(KeyValue { key: key.to_string(), value: value.clone() });
    }
    part.last = true;
    part.digest_after = Some(state.map(|state| state.digest).unwrap_or_default().into());
    frames.push(own(part));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hello_that_cannot_be_served_is_refused_by_what_is_wrong_with_it() {
        let hello = |node: &str, view: i32, kinds: &[&str]| AgentHello {
            node: node.into(),
            view,
            kinds: kinds.iter().map(ToString::to_string).collect(),
            ..AgentHello::default()
        };
        let facts = Arc::new(ServerFacts {
            incarnation: String::new(),
            epoch: String::new(),
            streams: Vec::new(),
            digest_key: DigestKey([0; 16]),
            heartbeat_seconds: 1,
            version: String::new(),
        });
        let refusal = |hello| ServerSession::new(&hello, facts.clone()).unwrap_err();
        assert_eq!(refusal(hello("", 0, &[])), Refusal::NoNode);
        assert_eq!(refusal(hello("n", 7, &[])), Refusal::UnknownView(7));
        assert_eq!(refusal(hello("", 1, &["Pod"])), Refusal::UnknownKind("Pod".into()));
        assert!(ServerSession::new(&hello("", 1, &["Tier", "IPPool"]), facts).is_ok());
    }
}
