//! The agent's side of a session: stages frames, and turns each Commit into changes, all or none.

use std::collections::{BTreeMap, BTreeSet};

use arcstr::ArcStr;
use bytes::Bytes;
use proto::v1::{
    Ack, AgentMessage, Commit, Failure, GoAway, Heartbeat, Replace, Resync, ServerHello,
    ServerMessage, agent_message, server_message::Message,
};

use crate::{
    digest::{DIGEST_KEY_LEN, DigestKey, TopicDigest, view_digest},
    vector::Vector,
};

/// What a server must never send; the session ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// Something came before the hello.
    #[error("the server's first message is not a hello: is this a typha of Bulrush?")]
    NoHello,
    /// A second hello.
    #[error("a second hello in one session")]
    SecondHello,
    /// The digest key is of the wrong length.
    #[error("the hello's digest key has {0} bytes, not {DIGEST_KEY_LEN}")]
    DigestKey(usize),
    /// A version vector went back within a session, which would be time running backwards.
    #[error("stream {stream} went back from version {have} to {got}")]
    WentBack {
        /// Index of the stream.
        stream: u16,
        /// The version that was committed.
        have: u64,
        /// The lower one that came.
        got: u64,
    },
    /// Parts of a topic came out of order.
    #[error("topic {topic}: part {got} came where {expected} was due")]
    Part {
        /// The topic.
        topic: String,
        /// The number that was due.
        expected: u32,
        /// The number that came.
        got: u32,
    },
}

/// One change of the desired state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryChange {
    /// The topic, as text: it may be one that this version doesn't know.
    pub topic: ArcStr,
    /// The key in the topic.
    pub key: ArcStr,
    /// The entry's bytes; none: it is gone.
    pub value: Option<Bytes>,
}

/// A publication that became visible.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Committed {
    /// Its number.
    pub publication: u64,
    /// The first of this session: it is complete.
    pub first: bool,
    /// Versions of the newest events in it.
    pub vector: Vector,
    /// Versions known to be complete.
    pub progress: Vector,
    /// The differences to the state before, sorted by topic and key.
    pub changes: Vec<EntryChange>,
    /// Topics that came into the view.
    pub added: Vec<ArcStr>,
    /// Topics that left it; their entries are among `changes`, as gone.
    pub dropped: Vec<ArcStr>,
    /// The server's clock when it saw the newest change, nanoseconds since 1970.
    pub observed_at: u64,
}

/// What a message of the server means to the agent.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The session is open.
    Hello(ServerHello),
    /// Staged, skipped, or news that needs nothing done.
    Nothing,
    /// Act on this.
    Committed(Box<Committed>),
    /// A digest disagreed: send this; nothing newer becomes visible until the topic came again.
    Send(AgentMessage),
    /// The server is there and has nothing new.
    Heartbeat(Heartbeat),
    /// The server ends the session.
    GoAway(GoAway),
}

#[derive(Debug, Default)]
struct Held {
    entries: BTreeMap<ArcStr, Bytes>,
    digest: TopicDigest,
}

#[derive(Debug, Default)]
struct Staged {
    entries: BTreeMap<ArcStr, Bytes>,
    digest: TopicDigest,
    next_part: u32,
    complete: bool,
}

/// A view, and what has come of the next publication.
#[derive(Debug, Default)]
pub struct ClientSession {
    digest_key: Option<DigestKey>,
    held: BTreeMap<ArcStr, Held>,
    staged: BTreeMap<ArcStr, Staged>,
    /// Topics that came out differently than the server says, and have not come again.
    broken: BTreeSet<ArcStr>,
    /// Views changes of Commits that could not be made visible because of `broken`.
    pending_drop: Vec<String>,
    pending_add: Vec<String>,
    /// What Commits have said, those included that are not visible yet.
    announced: (Vector, Vector),
    /// What is visible.
    vector: Vector,
    progress: Vector,
    publication: u64,
    /// A Commit was made visible in this session.
    committed: bool,
    resyncs: u64,
}

impl ClientSession {
    /// A session that holds nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// The stream broke: what was staged is gone, what was committed stays. The next session's
    /// first Commit is complete, and comes out as the difference to what is held.
    pub fn disconnected(&mut self) {
        self.digest_key = None;
        self.staged.clear();
        self.broken.clear();
        self.pending_add.clear();
        self.pending_drop.clear();
        self.committed = false;
        // Another server may be a little behind: its word counts, until hellos say what is held.
        self.announced = <(Vector, Vector)>::default();
        self.vector = Vector::default();
        self.progress = Vector::default();
    }

    /// The newest publication that is visible.
    pub fn publication(&self) -> u64 {
        self.publication
    }

    /// Versions of the newest events that are visible.
    pub fn vector(&self) -> &Vector {
        &self.vector
    }

    /// How often a digest came out differently.
    pub fn resyncs(&self) -> u64 {
        self.resyncs
    }

    /// How many entries are held.
    pub fn entry_count(&self) -> usize {
        self.held.values().map(|topic| topic.entries.len()).sum()
    }

    /// The digests of the topics held, in order.
    pub fn digests(&self) -> impl Iterator<Item = (&ArcStr, TopicDigest)> {
        self.held.iter().map(|(topic, held)| (topic, held.digest))
    }

    /// The entries held, in order of topic and key.
    pub fn entries(&self) -> impl Iterator<Item = (&ArcStr, &ArcStr, &Bytes)> {
        self.held.iter().flat_map(|(topic, held)| {
            held.entries.iter().map(move |(key, value)| (topic, key, value))
        })
    }

    /// The message that the kernel holds the visible publication, less what failed.
    pub fn ack(&self, failed: Vec<Failure>) -> AgentMessage {
        let digest = self.digest_key.map(|key| {
            let topics = self.held.iter().map(|(topic, held)| (topic.as_str(), held.digest));
            view_digest(&key, topics).into()
        });
        let ack = Ack { publication: self.publication, failed, view_digest: digest };
        AgentMessage { message: Some(agent_message::Message::Ack(ack)) }
    }

    /// Takes the server's next message.
    pub fn receive(&mut self, message: ServerMessage) -> Result<Event, ClientError> {
        let Some(message) = message.message else { return Ok(Event::Nothing) };
        match (message, self.digest_key) {
            (Message::Hello(_), Some(_)) => Err(ClientError::SecondHello),
            (Message::Hello(hello), None) => {
                let key = hello.digest_key.as_slice().try_into();
                let key = key.map_err(|_| ClientError::DigestKey(hello.digest_key.len()))?;
                self.digest_key = Some(DigestKey(key));
                Ok(Event::Hello(hello))
            }
            (Message::GoAway(go_away), _) => Ok(Event::GoAway(go_away)),
            (_, None) => Err(ClientError::NoHello),
            (Message::Replace(replace), Some(key)) => self.stage(replace, &key),
            (Message::Commit(commit), _) => self.commit(commit),
            (Message::Heartbeat(heartbeat), _) => Ok(Event::Heartbeat(heartbeat)),
            // Not asked for: this version's hello says that it holds nothing.
            (Message::Delta(_) | Message::Behind(_), _) => Ok(Event::Nothing),
        }
    }

    fn stage(&mut self, replace: Replace, key: &DigestKey) -> Result<Event, ClientError> {
        let topic = ArcStr::from(replace.topic.as_str());
        let staged = self.staged.entry(topic.clone()).or_default();
        if staged.complete || replace.part == 0 {
            // A newer state of the topic, ahead of the same Commit.
            *staged = Staged::default();
        }
        if replace.part != staged.next_part {
            let expected = staged.next_part;
            return Err(ClientError::Part { topic: replace.topic, expected, got: replace.part });
        }
        staged.next_part += 1;
        for entry in replace.entries {
            let entry_key = ArcStr::from(entry.key);
            staged.digest.add(key, &topic, &entry_key, &entry.value);
            staged.entries.insert(entry_key, entry.value);
        }
        if !replace.last {
            return Ok(Event::Nothing);
        }
        staged.complete = true;
        let expected = replace.digest_after.as_ref().and_then(|d| TopicDigest::try_from(d).ok());
        if expected == Some(staged.digest) {
            self.broken.remove(&topic);
            return Ok(Event::Nothing);
        }
        self.staged.remove(&topic);
        self.broken.insert(topic);
        self.resyncs += 1;
        let resync = agent_message::Message::Resync(Resync { topic: replace.topic });
        Ok(Event::Send(AgentMessage { message: Some(resync) }))
    }

    fn commit(&mut self, commit: Commit) -> Result<Event, ClientError> {
        for (stream, got) in Vector::from(commit.vector.as_slice()).iter() {
            let have = self.announced.0.get(stream);
            if got < have {
                return Err(ClientError::WentBack { stream: stream.0, have, got });
            }
        }
        self.announced.0.join(&commit.vector.as_slice().into());
        self.announced.1.join(&commit.progress.as_slice().into());
        self.pending_add.extend(commit.add);
        self.pending_drop.extend(commit.drop);
        if !self.broken.is_empty() {
            return Ok(Event::Nothing);
        }

        let first = !self.committed;
        self.committed = true;
        self.publication = commit.publication;
        (self.vector, self.progress) = self.announced.clone();
        let added: Vec<ArcStr> = self.pending_add.drain(..).map(ArcStr::from).collect();
        let mut dropped: BTreeSet<ArcStr> = self.pending_drop.drain(..).map(ArcStr::from).collect();
        if first {
            // The first Commit is complete: what it doesn't name is no longer in the view.
            let kept: BTreeSet<&ArcStr> = added.iter().collect();
            let gone = self.held.keys().filter(|topic| !kept.contains(topic)).cloned();
            dropped.extend(gone);
        }
        // A topic that left in one pending Commit and came back in a later one was sent again.
        dropped.retain(|topic| !self.staged.contains_key(topic));

        let mut changes = Vec::new();
        for topic in &dropped {
            let old = self.held.remove(topic).unwrap_or_default();
            changes.extend(old.entries.into_keys().map(|key| EntryChange {
                topic: topic.clone(),
                key,
                value: None,
            }));
        }
        for (topic, staged) in std::mem::take(&mut self.staged) {
            let held = self.held.entry(topic.clone()).or_default();
            difference(&topic, &held.entries, &staged.entries, &mut changes);
            *held = Held { entries: staged.entries, digest: staged.digest };
        }
        changes.sort_by(|a, b| (&a.topic, &a.key).cmp(&(&b.topic, &b.key)));
        Ok(Event::Committed(Box::new(Committed {
            publication: commit.publication,
            first,
            vector: self.vector.clone(),
            progress: self.progress.clone(),
            changes,
            added,
            dropped: dropped.into_iter().collect(),
            observed_at: commit.observed_at,
        })))
    }
}

fn difference(
    topic: &ArcStr,
    old: &BTreeMap<ArcStr, Bytes>,
    new: &BTreeMap<ArcStr, Bytes>,
    changes: &mut Vec<EntryChange>,
) {
    let change = |key: &ArcStr, value: Option<&Bytes>| EntryChange {
        topic: topic.clone(),
        key: key.clone(),
        value: value.cloned(),
    };
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        changes.push(change(key, None));
    }
    for (key, value) in new.iter().filter(|(key, value)| old.get(*key) != Some(*value)) {
        changes.push(change(key, Some(value)));
    }
}
