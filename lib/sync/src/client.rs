//! The agent's side of a session: stages frames, and turns each Commit into changes, all or none.

mod saved;
mod staged;

use std::collections::{BTreeMap, BTreeSet};

use arcstr::ArcStr;
use bytes::Bytes;
use proto::v1::{
    Ack, AgentHello, AgentMessage, Behind, Commit, Delta, Digest, Failure, GoAway, Heartbeat,
    HeldTopic, Replace, Resync, ServerHello, ServerMessage, agent_message, server_message::Message,
};

use crate::{
    buckets::{BUCKETS_FROM, Buckets},
    digest::{DIGEST_KEY_LEN, DigestKey, TopicDigest, view_digest},
    planted::Planted,
    vector::Vector,
    versions::Lists,
};

use staged::{Held, Staged};

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
    /// A bucket that there isn't, or an entry in another one than it belongs to.
    #[error("topic {topic}: an entry came in a bucket that it isn't in")]
    Bucket {
        /// The topic.
        topic: String,
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

/// What Commits have said, those included that are not visible yet.
#[derive(Clone, Debug, Default)]
struct Announced {
    vector: Vector,
    progress: Vector,
    lists: Lists,
}

/// A view, and what has come of the next publication.
#[derive(Clone, Debug)]
pub struct ClientSession {
    /// Of the live session; none: there is none.
    digest_key: Option<DigestKey>,
    /// The store and the run of the server that the visible publication is of, and its key of digests, where it is
    /// known.
    epoch: String,
    incarnation: String,
    held_key: Option<DigestKey>,
    /// The same of the live session.
    server: (String, String),
    accept_rollback: bool,
    held: BTreeMap<ArcStr, Held>,
    staged: BTreeMap<ArcStr, Staged>,
    /// The store, and its key, of what is staged from a session that broke; none: nothing is.
    staged_of: Option<(String, DigestKey)>,
    /// Topics that came out differently than the server says, and have not come again.
    broken: BTreeSet<ArcStr>,
    /// View changes of Commits that could not be made visible because of `broken`.
    pending_drop: Vec<String>,
    pending_add: Vec<String>,
    announced: Announced,
    /// What is visible.
    vector: Vector,
    progress: Vector,
    lists: Lists,
    publication: u64,
    /// A Commit was made visible in this session.
    committed: bool,
    resyncs: u64,
    buckets_from: usize,
}

impl Default for ClientSession {
    fn default() -> Self {
        Self {
            digest_key: None,
            epoch: String::new(),
            incarnation: String::new(),
            held_key: None,
            server: Default::default(),
            accept_rollback: false,
            held: BTreeMap::new(),
            staged: BTreeMap::new(),
            staged_of: None,
            broken: BTreeSet::new(),
            pending_drop: Vec::new(),
            pending_add: Vec::new(),
            announced: Announced::default(),
            vector: Vector::default(),
            progress: Vector::default(),
            lists: Lists::default(),
            publication: 0,
            committed: false,
            resyncs: 0,
            buckets_from: BUCKETS_FROM,
        }
    }
}

impl ClientSession {
    /// A session that holds nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// It says the digests of the buckets of topics with more entries than `entries`, in place of [`BUCKETS_FROM`].
    #[must_use]
    pub fn with_buckets_from(self, entries: usize) -> Self {
        Self { buckets_from: entries, ..self }
    }

    /// The hello of the next session: `base` says who the agent is, the rest is what it holds. With
    /// `accept_rollback` it takes an older state than it has seen.
    pub fn hello(&mut self, base: AgentHello, accept_rollback: bool) -> AgentHello {
        self.accept_rollback = accept_rollback;
        // Before the first Commit the store is that of what is staged.
        let epoch = match &self.staged_of {
            Some((epoch, _)) if self.epoch.is_empty() => epoch,
            _ => &self.epoch,
        };
        AgentHello {
            epoch: epoch.clone(),
            vector: self.vector.whole(),
            lists: self.lists.whole(),
            incarnation: self.incarnation.clone(),
            publication: self.publication,
            held: self.told(),
            accept_rollback,
            ..base
        }
    }

    /// What is held of each topic, or staged from a session that broke.
    fn told(&self) -> Vec<HeldTopic> {
        let told = |_: &ArcStr| !Planted::StagedSurvives.is_here();
        let staged = self.staged.iter().filter(|(topic, _)| told(topic));
        let is_staged = |topic: &ArcStr| told(topic) && self.staged.contains_key(topic);
        let held = self.held.iter().filter(|(topic, _)| !is_staged(topic));
        let held = held.map(|(topic, held)| self.told_of(topic, held));
        let staged = staged.map(|(topic, staged)| {
            let is_large = staged.changes.len() > self.buckets_from;
            let key = self.staged_of.as_ref().filter(|_| is_large).map(|(_, key)| key);
            HeldTopic {
                topic: topic.to_string(),
                digest: Some(staged.digest.into()),
                staged: true,
                buckets: key.map_or_else(Vec::new, |key| {
                    Buckets::of(key, topic, staged.entries()).to_bytes()
                }),
            }
        });
        staged.chain(held).collect()
    }

    fn told_of(&self, topic: &ArcStr, held: &Held) -> HeldTopic {
        let is_large = held.entries.len() > self.buckets_from;
        let buckets = match (&held.buckets, &self.held_key) {
            (Some(buckets), _) if is_large => buckets.to_bytes(),
            (None, Some(key)) if is_large => {
                Buckets::of(key, topic, held.entries.iter()).to_bytes()
            }
            _ => Vec::new(),
        };
        let (topic, digest) = (topic.to_string(), Some(held.digest.into()));
        HeldTopic { topic, digest, staged: false, buckets }
    }

    /// The stream broke: what was committed stays, and what had come whole stays staged. The next
    /// session gives the gap, and its first Commit is complete.
    pub fn disconnected(&mut self) {
        self.keep_whole();
        self.digest_key = None;
        self.server = Default::default();
        self.accept_rollback = false;
        self.announced = Announced::default();
        self.broken.clear();
        self.pending_add.clear();
        self.pending_drop.clear();
        self.committed = false;
    }

    /// Of what is staged, keeps the topics that came whole, of the store that the visible publication is of.
    fn keep_whole(&mut self) {
        let Some(key) = self.digest_key else { return };
        let comparable = self.epoch.is_empty() || self.epoch == self.server.0;
        if !Planted::StagedSurvives.is_here() {
            self.staged.retain(|_, staged| comparable && staged.is_whole());
        }
        if Planted::StagedShown.is_here() {
            for (topic, staged) in std::mem::take(&mut self.staged) {
                staged.adopt(&topic, self.held.entry(topic.clone()).or_default(), &mut Vec::new());
            }
        }
        self.staged_of = (!self.staged.is_empty()).then(|| (self.server.0.clone(), key));
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

    /// What lists told of streams in which nothing later is visible.
    pub fn lists(&self) -> &Lists {
        &self.lists
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
                self.opened(&hello, DigestKey(key));
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

    /// A server answered.
    fn opened(&mut self, hello: &ServerHello, key: DigestKey) {
        self.digest_key = Some(key);
        self.server = (hello.epoch.clone(), hello.incarnation.clone());
        // Versions of another store, or of one that may be older, say nothing of time here.
        let comparable = hello.epoch == self.epoch && !self.accept_rollback;
        self.announced = Announced::default();
        if comparable {
            // What is complete is this server's to say: another may have known more.
            self.announced.vector = self.vector.clone();
            if !Planted::ListForgotten.is_here() {
                self.announced.lists = self.lists.clone();
            }
        }
        if Planted::ProgressKept.is_here() {
            self.announced.progress = self.progress.clone();
        }
        // Of another store, or of another key: then the digests said nothing, and all comes anew.
        let same = self.staged_of.take().is_none_or(|of| of == (hello.epoch.clone(), key));
        if !same {
            self.staged.clear();
        }
    }

    fn replace(&mut self, replace: Replace, key: &DigestKey) -> Result<Event, ClientError> {
        let topic = ArcStr::from(replace.topic.as_str());
        if let Some(bucket) = replace.bucket {
            if !self.broken.contains(&topic) {
                let held = self.held.get(&topic);
                let staged = self.staged.entry(topic).or_insert_with(|| Staged::on(held));
                staged.bucket(key, held, bucket, replace)?;
            }
            return Ok(Event::Nothing);
        }
        let staged = self.staged.entry(topic.clone()).or_default();
        if staged.complete || replace.part == 0 {
            // A newer state of the topic, ahead of the same Commit.
            *staged = Staged::anew();
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
        let staged = self.staged.entry(topic.clone()).or_insert_with(|| Staged::on(held));
        // Its buckets, where any came, are seen to be right with this change.
        staged.due = None;
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
        self.ask_again(topic)
    }

    /// What came of a topic is not what the server has.
    fn ask_again(&mut self, topic: ArcStr) -> Event {
        self.staged.remove(&topic);
        self.resyncs += 1;
        let resync = agent_message::Message::Resync(Resync { topic: topic.to_string() });
        self.broken.insert(topic);
        Event::Send(AgentMessage { message: Some(resync) })
    }

    fn commit(&mut self, commit: Commit) -> Result<Event, ClientError> {
        let announced = &mut self.announced;
        for (stream, got) in Vector::from(commit.vector.as_slice()).iter() {
            let have = announced.vector.get(stream);
            if got < have {
                return Err(ClientError::WentBack { stream: stream.0, have, got });
            }
        }
        announced.vector.join(&commit.vector.as_slice().into());
        announced.progress.join(&commit.progress.as_slice().into());
        // What this server knows too, it says itself.
        announced.lists.after(&announced.progress);
        announced.lists.join(&commit.lists.as_slice().into());
        // What has left the view needn't come again, and what came of it before doesn't count.
        for topic in &commit.drop {
            self.broken.remove(topic.as_str());
            self.staged.remove(topic.as_str());
        }
        let incomplete = self.staged.iter().find_map(|(t, staged)| Some((t, staged.incomplete()?)));
        if let Some((topic, parts)) = incomplete {
            return Err(ClientError::Incomplete { topic: topic.to_string(), parts });
        }
        self.pending_add.extend(commit.add);
        self.pending_drop.extend(commit.drop);
        // One at a time: while one is asked for nothing is visible, and the next Commit looks again.
        let wrong = |staged: &Staged| staged.due.is_some_and(|due| due != staged.digest);
        let wrong = self.staged.iter().find(|(_, staged)| wrong(staged)).map(|(t, _)| t.clone());
        if let Some(topic) = wrong {
            return Ok(self.ask_again(topic));
        }
        if !self.broken.is_empty() {
            return Ok(Event::Nothing);
        }

        let first = !self.committed;
        self.committed = true;
        self.publication = commit.publication;
        (self.epoch, self.incarnation) = self.server.clone();
        self.held_key = self.digest_key;
        let Announced { vector, progress, lists } = self.announced.clone();
        (self.vector, self.progress, self.lists) = (vector, progress, lists);
        self.lists.after(&self.vector);
        let mut added: Vec<ArcStr> = self.pending_add.drain(..).map(ArcStr::from).collect();
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
            // The server can't know that of this one nothing was visible.
            if first && !self.held.contains_key(&topic) && !added.contains(&topic) {
                added.push(topic.clone());
            }
            let held = self.held.entry(topic.clone()).or_default();
            staged.adopt(&topic, held, &mut changes);
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
