//! The server's side of one session: from snapshots to the frames that this agent needs.
//!
//! A session keeps a cursor, the publication that the agent has, and the topics of its view. Each
//! newer snapshot gives the topics that changed after the cursor, the topics that are new in the
//! view, and one Commit.

use std::collections::BTreeSet;

use arcstr::ArcStr;
use model::{
    Kind,
    view::{RES_SHARDS, Topic},
};
use proto::v1::{
    AgentHello, Commit, Heartbeat, KeyValue, Replace, ServerHello, ServerMessage, View,
    server_message::Message,
};

use crate::{
    digest::DigestKey,
    publisher::{Snapshot, TopicState},
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

#[derive(Debug)]
enum Subscription {
    Node(ArcStr),
    Full(BTreeSet<Topic>),
}

/// One agent's session.
#[derive(Debug)]
pub struct ServerSession {
    subscription: Subscription,
    /// The topics that the agent has.
    sent: BTreeSet<Topic>,
    /// The publication that the agent has; 0: none.
    cursor: u64,
    /// The publication of the last Commit: later ones changed nothing for this agent.
    committed: u64,
    vector: Vector,
    progress: Vector,
}

impl ServerSession {
    /// A session for this hello, at nothing sent.
    pub fn new(hello: &AgentHello) -> Result<Self, Refusal> {
        let subscription = match View::try_from(hello.view) {
            Ok(View::Node) if hello.node.is_empty() => return Err(Refusal::NoNode),
            Ok(View::Node) => Subscription::Node(hello.node.as_str().into()),
            Ok(View::Full) => Subscription::Full(full_view(&hello.kinds)?),
            Err(_) => return Err(Refusal::UnknownView(hello.view)),
        };
        Ok(Self {
            subscription,
            sent: BTreeSet::new(),
            cursor: 0,
            committed: 0,
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

    /// The frames that bring the agent to `snapshot`, the last of them a Commit; none when nothing
    /// in its view has changed.
    pub fn advance(&mut self, snapshot: &Snapshot) -> Vec<ServerMessage> {
        if snapshot.publication <= self.cursor {
            return Vec::new();
        }
        let view = match &self.subscription {
            Subscription::Node(node) => snapshot.node_view(node),
            Subscription::Full(topics) => topics.clone(),
        };
        let mut frames = Vec::new();
        for topic in &view {
            if !self.sent.contains(topic) || snapshot.changed(topic) > self.cursor {
                replace(topic, snapshot.topic(topic).map(AsRef::as_ref), &mut frames);
            }
        }
        let names =
            |topics: &mut dyn Iterator<Item = &Topic>| topics.map(ToString::to_string).collect();
        let add: Vec<String> = names(&mut view.difference(&self.sent));
        let drop: Vec<String> = names(&mut self.sent.difference(&view));
        self.cursor = snapshot.publication;
        if frames.is_empty() && drop.is_empty() {
            return frames;
        }
        self.sent = view;
        self.committed = snapshot.publication;
        frames.push(message(Message::Commit(Commit {
            publication: snapshot.publication,
            vector: snapshot.vector.changed_since(&self.vector),
            progress: snapshot.progress.changed_since(&self.progress),
            add,
            drop,
            in_sync: true,
            observed_at: snapshot.observed_at,
        })));
        self.vector = snapshot.vector.clone();
        self.progress = snapshot.progress.clone();
        frames
    }

    /// The agent's digest of a topic came out differently: the topic goes again, with the next
    /// Commit.
    pub fn resync(&mut self, topic: &str) {
        if let Ok(topic) = topic.parse::<Topic>()
            && self.sent.remove(&topic)
        {
            // The next advance must not find the agent up to date.
            self.cursor = self.cursor.saturating_sub(1);
        }
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
fn replace(topic: &Topic, state: Option<&TopicState>, frames: &mut Vec<ServerMessage>) {
    let name = topic.to_string();
    let mut part = Replace { topic: name.clone(), ..Replace::default() };
    let mut bytes = 0;
    for (key, value) in state.into_iter().flat_map(|state| state.entries.iter()) {
        let size = key.len() + value.len();
        if bytes + size > PART_BYTES && !part.entries.is_empty() {
            let next = Replace { topic: name.clone(), part: part.part + 1, ..Replace::default() };
            frames.push(message(Message::Replace(std::mem::replace(&mut part, next))));
            bytes = 0;
        }
        bytes += size;
        part.entries.push(KeyValue { key: key.to_string(), value: value.clone() });
    }
    part.last = true;
    part.digest_after = Some(state.map(|state| state.digest).unwrap_or_default().into());
    frames.push(message(Message::Replace(part)));
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
        assert_eq!(ServerSession::new(&hello("", 0, &[])).unwrap_err(), Refusal::NoNode);
        assert_eq!(ServerSession::new(&hello("n", 7, &[])).unwrap_err(), Refusal::UnknownView(7));
        assert_eq!(
            ServerSession::new(&hello("", 1, &["Pod"])).unwrap_err(),
            Refusal::UnknownKind("Pod".into())
        );
        assert!(ServerSession::new(&hello("", 1, &["Tier", "IPPool"])).is_ok());
    }
}
