//! The agent's side of a session: stages frames, and turns each Commit into changes, all or none.

mod saved;

use std::collections::{BTreeMap, BTreeSet};

use arcstr::ArcStr;
use bytes::Bytes;
use proto::v1::{
    Ack, AgentHello, AgentMessage, Behind, Commit, Delta, Digest, Failure, GoAway, Heartbeat,
    HeldTopic, Replace, Resync, ServerHello, ServerMessage, agent_message, server_message::Message,
};

use crate::{
    digest::{DIGEST_KEY_LEN, DigestKey, TopicDigest, view_digest},
    planted::Planted,
    vector::Vector,
};

pub use saved::SavedError;

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
    /// A Commit came before all parts of a topic had.
    #[error("topic {topic}: a Commit came after {parts} of its parts, and the last is missing")]
    Incomplete {
        /// The topic.
        topic: String,
        /// How many parts had come.
        parts: u32,
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
    /// The server has not caught up with what this agent has seen, and waits.
    Behind(Behind),
    /// The server ends the session.
    GoAway(GoAway),
}

#[derive(Clone, Debug, Default)]
struct Held {
    entries: BTreeMap<ArcStr, Bytes>,
    digest: TopicDigest,
}

/// What has come of a topic since the last Commit.
#[derive(Clone, Debug, Default)]
struct Staged {
    /// The topic comes whole: what is held of it doesn't count.
    whole: bool,
    /// Entries that are written, and (none) gone, on top of what is held.
    changes: BTreeMap<ArcStr, Option<Bytes>>,
    digest: TopicDigest,
    next_part: u32,
    complete: bool,
}

impl Staged {
    /// The entry as it would be at a Commit now.
    fn get<'a>(&'a self, held: Option<&'a Held>, key: &str) -> Option<&'a Bytes> {
        match self.changes.get(key) {
            Some(change) => change.as_ref(),
            None if self.whole => None,
            None => held?.entries.get(key),
        }
    }

    fn set(
        &mut self,
        digest_key: &DigestKey,
        topic: &str,
        held: Option<&Held>,
        key: ArcStr,
        value: Option<Bytes>,
    ) {
        if let Some(old) = self.get(held, &key) {
            let old = old.clone();
            self.digest.remove(digest_key, topic, &key, &old);
        }
        if let Some(value) = &value {
            self.digest.add(digest_key, topic, &key, value);
        }
        self.changes.insert(key, value);
    }
}

/// A view, and what has come of the next publication.
#[derive(Clone, Debug, Default)]
pub struct ClientSession {
    /// Of the live session; none: there is none.
    digest_key: Option<DigestKey>,
    /// The store and the run of the server that the visible publication is of.
    epoch: String,
    incarnation: String,
    /// The same of the live session.
    server: (String, String),
    accept_rollback: bool,
    held: BTreeMap<ArcStr, Held>,
    staged: BTreeMap<ArcStr, Staged>,
    /// Topics that came out differently than the server says, and have not come again.
    broken: BTreeSet<ArcStr>,
    /// View changes of Commits that could not be made visible because of `broken`.
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

    /// The hello of the next session: `base` says who the agent is, the rest is what it holds. With
    /// `accept_rollback` it takes an older state than it has seen.
    pub fn hello(&mut self, base: AgentHello, accept_rollback: bool) -> AgentHello {
        self.accept_rollback = accept_rollback;
        AgentHello {
            epoch: self.epoch.clone(),
            vector: self.vector.whole(),
            incarnation: self.incarnation.clone(),
            publication: self.publication,
            held: self
                .digests()
                .map(|(topic, digest)| HeldTopic {
                    topic: topic.to_string(),
                    digest: Some(digest.into()),
                })
                .collect(),
            accept_rollback,
            ..base
        }
    }

    /// The stream broke: what was staged is gone, what was committed stays. The next session gives
    /// the gap, and its first Commit is complete.
    pub fn disconnected(&mut self) {
        self.digest_key = None;
        self.server = Default::default();
        self.accept_rollback = false;
        self.announced = Default::default();
        if !Planted::StagedSurvives.is_here() {
            self.staged.clear();
        }
        self.broken.clear();
        self.pending_add.clear();
        self.pending_drop.clear();
        self.committed = false;
    }

    /// The store that the visible publication is of; empty before the first Commit.
    pub fn epoch(&self) -> &str {
        &self.epoch
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

    /// Commits that have come are not visible until topics come again whose digests disagreed.
    pub fn is_waiting(&self) -> bool {
        !self.broken.is_empty()
    }

    /// How many entries are held.
    pub fn entry_count(&self) -> usize {
        self.held.values().map(|topic| topic.entries.len()).sum()
    }

    /// The digests of the topics held, in order.
    pub fn digests(&self) -> impl Iterator<Item = (&ArcStr, TopicDigest)> {
        self.held.iter().map(|(topic, held)| (topic, held.digest))
    }

    /// The digest of a topic that is held.
    pub fn digest(&self, topic: &str) -> Option<TopicDigest> {
        self.held.get(topic).map(|held| held.digest)
    }

    /// The entries held, in order of topic and key.
    pub fn entries(&self) -> impl Iterator<Item = (&ArcStr, &ArcStr, &Bytes)> {
        self.held.iter().flat_map(|(topic, held)| {
            held.entries.iter().map(move |(key, value)| (topic, key, value))
        })
    }

    /// The message that the kernel holds publication `applied`, less what failed. None unless that is
    /// what this session made visible last: the newest alone is acknowledged.
    pub fn ack_applied(&self, applied: u64, failed: Vec<Failure>) -> Option<AgentMessage> {
        let newest = self.committed && applied == self.publication;
        (newest || Planted::AckAtReceipt.is_here()).then(|| self.ack(failed))
    }

    /// The message that the visible publication, less what failed, is held by what this agent has
    /// in place of a kernel.
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
                self.server = (hello.epoch.clone(), hello.incarnation.clone());
                // Versions of another store, or of one that may be older, say nothing of time here.
                let comparable = hello.epoch == self.epoch && !self.accept_rollback;
                // What is complete is this server's to say: another may have known more.
                let vector = if comparable { self.vector.clone() } else { Vector::default() };
                let kept = Some(&self.progress).filter(|_| Planted::ProgressKept.is_here());
                self.announced = (vector, kept.cloned().unwrap_or_default());
                Ok(Event::Hello(hello))
            }
            (Message::GoAway(go_away), _) => Ok(Event::GoAway(go_away)),
            (_, None) => Err(ClientError::NoHello),
            (Message::Replace(replace), Some(key)) => self.replace(replace, &key),
            (Message::Delta(delta), Some(key)) => Ok(self.delta(delta, &key)),
            (Message::Commit(commit), _) => self.commit(commit),
            (Message::Heartbeat(heartbeat), _) => Ok(Event::Heartbeat(heartbeat)),
            (Message::Behind(behind), _) => Ok(Event::Behind(behind)),
        }
    }

    fn replace(&mut self, replace: Replace, key: &DigestKey) -> Result<Event, ClientError> {
        let topic = ArcStr::from(replace.topic.as_str());
        let staged = self.staged.entry(topic.clone()).or_default();
        if staged.complete || replace.part == 0 {
            // A newer state of the topic, ahead of the same Commit.
            *staged = Staged { whole: true, ..Staged::default() };
        }
        if replace.part != staged.next_part {
            let expected = staged.next_part;
            return Err(ClientError::Part { topic: replace.topic, expected, got: replace.part });
        }
        staged.next_part += 1;
        for entry in replace.entries {
            staged.set(key, &topic, None, entry.key.into(), Some(entry.value));
        }
        if !replace.last {
            return Ok(Event::Nothing);
        }
        staged.complete = true;
        Ok(self.verify(topic, replace.digest_after.as_ref()))
    }

    fn delta(&mut self, delta: Delta, key: &DigestKey) -> Event {
        let topic = ArcStr::from(delta.topic);
        if self.broken.contains(&topic) {
            // It comes whole; until then there is nothing that this could be added to.
            return Event::Nothing;
        }
        let held = self.held.get(&topic);
        let staged = self.staged.entry(topic.clone()).or_insert_with(|| Staged {
            digest: held.map(|held| held.digest).unwrap_or_default(),
            complete: true,
            ..Staged::default()
        });
        for entry in delta.puts {
            staged.set(key, &topic, held, entry.key.into(), Some(entry.value));
        }
        for entry in delta.deletes {
            staged.set(key, &topic, held, entry.into(), None);
        }
        self.verify(topic, delta.digest_after.as_ref())
    }

    /// Holds what is staged of a topic against what the server says of it.
    fn verify(&mut self, topic: ArcStr, expected: Option<&Digest>) -> Event {
        let expected = expected.and_then(|digest| TopicDigest::try_from(digest).ok());
        if self.staged.get(&topic).map(|staged| staged.digest) == expected && expected.is_some() {
            self.broken.remove(&topic);
            return Event::Nothing;
        }
        self.staged.remove(&topic);
        self.resyncs += 1;
        let resync = agent_message::Message::Resync(Resync { topic: topic.to_string() });
        self.broken.insert(topic);
        Event::Send(AgentMessage { message: Some(resync) })
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
        // What has left the view needn't come again, and what came of it before doesn't count.
        for topic in &commit.drop {
            self.broken.remove(topic.as_str());
            self.staged.remove(topic.as_str());
        }
        if let Some((topic, staged)) = self.staged.iter().find(|(_, staged)| !staged.complete) {
            let (topic, parts) = (topic.to_string(), staged.next_part);
            return Err(ClientError::Incomplete { topic, parts });
        }
        self.pending_add.extend(commit.add);
        self.pending_drop.extend(commit.drop);
        if !self.broken.is_empty() {
            return Ok(Event::Nothing);
        }

        let first = !self.committed;
        self.committed = true;
        self.publication = commit.publication;
        (self.epoch, self.incarnation) = self.server.clone();
        (self.vector, self.progress) = self.announced.clone();
        let added: Vec<ArcStr> = self.pending_add.drain(..).map(ArcStr::from).collect();
        let mut dropped: BTreeSet<ArcStr> = self.pending_drop.drain(..).map(ArcStr::from).collect();
        // A topic that left in one pending Commit and came back in a later one was sent again.
        dropped.retain(|topic| !self.staged.contains_key(topic));

        if first && Planted::UnmentionedIsGone.is_here() {
            dropped.extend(self.held.keys().filter(|t| !self.staged.contains_key(*t)).cloned());
        }
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
            adopt(&topic, held, staged, &mut changes);
            // Servers needn't send a topic that is empty: it counts like one that never came.
            if held.entries.is_empty() {
                self.held.remove(&topic);
            }
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

/// Makes what is staged of a topic what is held of it, and notes each difference.
fn adopt(topic: &ArcStr, held: &mut Held, staged: Staged, changes: &mut Vec<EntryChange>) {
    let mut change = |key: ArcStr, value: Option<Bytes>| {
        changes.push(EntryChange { topic: topic.clone(), key, value });
    };
    if staged.whole {
        let written = |key: &ArcStr| staged.changes.get(key).is_some_and(Option::is_some);
        let gone: Vec<ArcStr> = held.entries.keys().filter(|key| !written(key)).cloned().collect();
        for key in gone {
            held.entries.remove(&key);
            change(key, None);
        }
    }
    for (key, value) in staged.changes {
        let old = match &value {
            Some(value) => held.entries.insert(key.clone(), value.clone()),
            None => held.entries.remove(&key),
        };
        if old != value {
            change(key, value);
        }
    }
    held.digest = staged.digest;
}
