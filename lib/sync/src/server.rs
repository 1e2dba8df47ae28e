//! The server's side of one session: from snapshots to the frames that this agent needs.
//!
//! A session keeps a cursor, the publication that the agent has, and what its node needs; nothing per
//! topic. Each newer snapshot gives, for each topic of the view that changed after the cursor, its
//! frames, or all of it where history doesn't reach back or the topic is new in the view; and one
//! Commit. A session that lags does the same with an older cursor.
//!
//! An agent that comes back says what it holds. It gets the gap:
//! * an agent ahead of this server waits until the server has caught up, for time must not run back;
//! * from the same run of the same server: what changed since the publication that it has;
//! * from another: the topics whose digests differ, of a large one the buckets.

mod held;

use std::{
    collections::BTreeSet,
    sync::{Arc, LazyLock},
};

use arcstr::ArcStr;
use model::{
    Kind,
    view::{RES_SHARDS, Topic},
};
use proto::v1::{
    AgentHello, Behind, Commit, Heartbeat, ServerHello, ServerMessage, View,
    server_message::Message,
};

use crate::{
    digest::DigestKey,
    frames::Frames,
    planted::{self, Planted},
    snapshot::{Affected, Snapshot},
    topic::Outgoing,
    vector::Vector,
    versions::Lists,
};

pub use held::Resume;
use held::{Held, whole};

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
    /// The server's first message, with its store in reach.
    pub fn hello(&self) -> ServerMessage {
        self.stale_hello(0)
    }

    /// The server's first message; `stale_milliseconds`: how long its store has been out of reach.
    pub fn stale_hello(&self, stale_milliseconds: u64) -> ServerMessage {
        message(Message::Hello(ServerHello {
            incarnation: self.incarnation.clone(),
            epoch: self.epoch.clone(),
            streams: self.streams.clone(),
            digest_key: self.digest_key.0.to_vec(),
            heartbeat_seconds: self.heartbeat_seconds,
            version: self.version.clone(),
            stale_milliseconds,
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

/// What a session may see.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subscription {
    /// The view of this node.
    Node(ArcStr),
    /// All objects of these kinds; sessions of every kind share the set.
    Full(Arc<BTreeSet<Kind>>),
}

impl Subscription {
    /// Whether a publication has something for it.
    pub fn is_affected(&self, by: &Affected) -> bool {
        match self {
            Self::Node(node) => by.every_node || by.nodes.contains(node),
            Self::Full(kinds) => !kinds.is_disjoint(&by.kinds),
        }
    }

    /// What its node needs, besides what every node does and its own topic.
    fn needed(&self, snapshot: &Snapshot) -> Needed {
        match self {
            Self::Node(node) => snapshot.views.get(node).cloned().unwrap_or_default(),
            Self::Full(_) => Needed::default(),
        }
    }

    /// Whether a topic is in the view.
    fn has(&self, topic: &Topic, needed: &Needed) -> bool {
        match (self, topic) {
            (Self::Full(kinds), Topic::Res(kind, _)) => kinds.contains(kind),
            (Self::Full(_), _) | (_, Topic::Res(..)) => false,
            (_, Topic::Config | Topic::Pools | Topic::Hosts(_) | Topic::Routes(_)) => true,
            (Self::Node(node), Topic::Node(own)) => node == own,
            (Self::Node(_), by_need) => needed.contains(by_need),
        }
    }

    /// The whole view.
    fn topics(&self, needed: &Needed) -> BTreeSet<Topic> {
        match self {
            Self::Node(node) => {
                let own = std::iter::once(Topic::Node(node.clone()));
                planted::common_topics().chain(own).chain(needed.iter().cloned()).collect()
            }
            Self::Full(kinds) => {
                let shards = |kind: &Kind| {
                    let kind = *kind;
                    (0..RES_SHARDS).map(move |n| Topic::Res(kind, n))
                };
                kinds.iter().flat_map(shards).collect()
            }
        }
    }

    /// The topics of the view that changed after a publication.
    fn changed(&self, snapshot: &Snapshot, needed: &Needed, after: u64) -> BTreeSet<Topic> {
        let Some(log) = snapshot.log.after(after) else {
            let mut topics = self.topics(needed);
            topics.retain(|topic| snapshot.changed(topic) > after);
            return topics;
        };
        let mut topics = BTreeSet::new();
        for changed in log {
            match self {
                Self::Full(_) => {
                    let full = changed.full.iter();
                    topics.extend(full.filter(|topic| self.has(topic, needed)).cloned());
                }
                Self::Node(node) => {
                    topics.extend(changed.common.iter().cloned());
                    if changed.own.contains(node) {
                        topics.insert(Topic::Node(node.clone()));
                    }
                    if Planted::OthersTopics.is_here() {
                        topics.extend(changed.own.iter().cloned().map(Topic::Node));
                    }
                    // The shorter of the two is looked through.
                    if needed.len() < changed.by_need.len() {
                        let both = needed.iter().filter(|topic| changed.by_need.contains(topic));
                        topics.extend(both.cloned());
                    } else {
                        let both = changed.by_need.iter().filter(|topic| needed.contains(topic));
                        topics.extend(both.cloned());
                    }
                }
            }
        }
        topics
    }
}

/// What a node needs, shared with the snapshot that it was taken from.
type Needed = Arc<BTreeSet<Topic>>;

/// What a snapshot means to a session.
#[derive(Debug)]
pub enum Advance {
    /// Send these, in this order; empty: nothing in the view has changed.
    Frames(Frames),
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
    held: Option<Box<Held>>,
    resumed: Option<Resume>,
    generation: Option<u64>,
    /// What the node needed at the last Commit.
    needed: Needed,
    /// Topics of the view that must go whole, whatever the cursor says.
    lacks: BTreeSet<Topic>,
    /// The publication that the agent has; 0: none.
    cursor: u64,
    /// The publication of the last Commit: later ones changed nothing for this agent.
    committed: u64,
    /// What the agent had seen when it came: it is never told of less.
    seen: Vector,
    /// The same of lists, until this server has got there: up to then it might show what the agent
    /// has seen deleted.
    seen_lists: Lists,
    /// The newest publication is behind what the agent has seen.
    waits: bool,
    vector: Vector,
    progress: Vector,
    lists: Lists,
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
            held: Some(Box::new(hello.into())),
            resumed: None,
            generation: None,
            needed: Needed::default(),
            lacks: BTreeSet::new(),
            cursor: 0,
            committed: 0,
            seen: Vector::default(),
            seen_lists: Lists::default(),
            waits: false,
            vector: Vector::default(),
            progress: Vector::default(),
            lists: Lists::default(),
        })
    }

    /// How it began; none: it hasn't yet.
    pub fn resumed(&self) -> Option<Resume> {
        self.resumed
    }

    /// What it may see.
    pub fn subscription(&self) -> &Subscription {
        &self.subscription
    }

    /// No publication up to this one had something for the agent that it doesn't have: by
    /// [`Subscription::is_affected`] of each.
    pub fn unaffected_until(&mut self, publication: u64) {
        if !self.is_waiting() {
            self.cursor = self.cursor.max(publication);
        }
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
        let behind = self.behind(snapshot);
        self.waits = behind.is_some();
        if let Some(behind) = behind {
            return Advance::Behind(behind);
        }
        let (first, mut frames, mut news) =
            (self.held.is_some(), Frames::default(), ViewNews::default());
        if let Some(held) = self.held.take() {
            (frames, news) = self.resume(*held, snapshot);
        } else {
            if self.lacks.is_empty() && snapshot.publication <= self.cursor {
                return Advance::Frames(frames);
            }
            let needed = self.subscription.needed(snapshot);
            if !Arc::ptr_eq(&needed, &self.needed) {
                news = self.view_changed(needed, snapshot);
            }
            frames = self.next_frames(snapshot).unwrap_or_else(|| self.changed_frames(snapshot));
        }
        self.lacks.clear();
        self.cursor = snapshot.publication;
        if !first && frames.is_empty() && news.add.is_empty() && news.drop.is_empty() {
            return Advance::Frames(frames);
        }
        self.committed = snapshot.publication;
        let mut vector = snapshot.vector.clone();
        vector.join(&self.seen);
        frames.push(Outgoing::Own(Box::new(message(Message::Commit(Commit {
            publication: snapshot.publication,
            vector: vector.changed_since(&self.vector),
            progress: snapshot.progress.changed_since(&self.progress),
            add: news.add,
            drop: news.drop,
            in_sync: true,
            observed_at: snapshot.observed_at,
            lists: snapshot.listings.lists.changed_since(&self.lists),
        })))));
        self.lists.clone_from(&snapshot.listings.lists);
        self.vector = vector;
        self.progress = snapshot.progress.clone();
        Advance::Frames(frames)
    }

    /// What has changed since the cursor, and what is lacking.
    fn changed_frames(&self, snapshot: &Snapshot) -> Frames {
        let mut topics = self.subscription.changed(snapshot, &self.needed, self.cursor);
        topics.extend(self.lacks.iter().cloned());
        let mut frames = Frames::default();
        for topic in topics {
            let state = snapshot.topic(&topic);
            let known = !self.lacks.contains(&topic);
            match state.filter(|_| known).and_then(|state| state.since(self.cursor)) {
                Some(history) => frames.extend(history.into_iter().map(Outgoing::Shared)),
                None => frames.push(whole(&topic.to_string(), state.map(AsRef::as_ref))),
            }
        }
        frames
    }

    /// The short way of a full view that is one publication behind, and lacks nothing whole.
    fn next_frames(&self, snapshot: &Snapshot) -> Option<Frames> {
        let Subscription::Full(kinds) = &self.subscription else { return None };
        let next = snapshot.log.next(self.cursor).filter(|_| self.lacks.is_empty())?;
        let mut frames = Frames::with_capacity(next.size_hint().0 + 1);
        for (topic, frame) in next {
            if matches!(topic, Topic::Res(kind, _) if kinds.contains(kind)) {
                frames.push(Outgoing::Shared(frame?.clone()));
            }
        }
        Some(frames)
    }

    /// Takes over what the node needs now. A topic that came and is empty needn't be sent: the agent
    /// has nothing of it.
    fn view_changed(&mut self, needed: Needed, snapshot: &Snapshot) -> ViewNews {
        let before = std::mem::replace(&mut self.needed, needed);
        let mut news = ViewNews::default();
        for topic in self.needed.difference(&before) {
            news.add.push(topic.to_string());
            if snapshot.topic(topic).is_some() {
                self.lacks.insert(topic.clone());
            }
        }
        for topic in before.difference(&self.needed) {
            news.drop.push(topic.to_string());
            self.lacks.remove(topic);
        }
        news
    }

    /// Where the agent has seen more than this server knows. Versions of events are compared with
    /// what is known to be complete, so that a quiet stream holds nobody up. What the agent knows by
    /// a list is no event: it is compared until this server knows as much, for the events that the
    /// list stands for may yet come here, one after the other.
    fn behind(&mut self, snapshot: &Snapshot) -> Option<Behind> {
        let (stream, need) = if let Some(held) = &self.held {
            let skipped = Planted::RuleTwoSkipped.is_here();
            if held.accept_rollback || !self.is_of_this_store(&held.epoch) || skipped {
                return None;
            }
            match snapshot.progress.first_behind(&held.vector) {
                Some(stream) => (stream, held.vector.get(stream)),
                None => snapshot.behind_list(&held.lists)?,
            }
        } else {
            self.seen_lists.after(&snapshot.progress);
            snapshot.behind_list(&self.seen_lists)?
        };
        let name = self.facts.streams.get(usize::from(stream.0)).cloned();
        Some(Behind {
            stream: name.unwrap_or_else(|| stream.0.to_string()),
            have: snapshot.progress.get(stream),
            need,
            stale_milliseconds: 0,
        })
    }

    fn is_of_this_store(&self, epoch: &str) -> bool {
        epoch == self.facts.epoch || Planted::ForeignEpoch.is_here()
    }

    /// Takes over what the agent holds: what turns it into its view, and how that differs.
    fn resume(&mut self, held: Held, snapshot: &Snapshot) -> (Frames, ViewNews) {
        self.needed = self.subscription.needed(snapshot);
        let view = self.subscription.topics(&self.needed);
        let not_in_view = held.topics.keys().filter(|topic| !view.contains(topic));
        let mut drop: Vec<String> = not_in_view.map(ToString::to_string).collect();
        drop.extend(held.unknown);
        drop.sort_unstable();
        drop.dedup();
        let same_epoch = self.is_of_this_store(&held.epoch);
        if same_epoch && !held.accept_rollback {
            if !Planted::JoinLeftOut.is_here() {
                self.seen = held.vector;
            }
            if !Planted::ListSeenOnce.is_here() {
                self.seen_lists = held.lists;
            }
        }
        let same_run = same_epoch
            && held.incarnation == self.facts.incarnation
            && held.publication <= snapshot.publication;
        self.resumed = Some(match (held.epoch.is_empty(), same_epoch, same_run) {
            (true, ..) => Resume::Fresh,
            (_, false, _) => Resume::OtherStore,
            (.., true) => Resume::SameRun,
            (.., false) => Resume::Digests,
        });
        let run = same_run.then_some(held.publication);
        let (mut add, mut frames) = (Vec::with_capacity(view.len()), Frames::default());
        for topic in view {
            let state = snapshot.topic(&topic).map(AsRef::as_ref);
            let name = topic.to_string();
            let has = held.topics.get(&topic);
            if has.is_none() {
                add.push(name.clone());
            }
            match has.filter(|_| same_epoch) {
                Some(has) => frames.extend(has.gap(&name, state, run)),
                None if has.is_some() || state.is_some() => frames.push(whole(&name, state)),
                None => {}
            }
        }
        (frames, ViewNews { add, drop })
    }

    /// The agent's digest of a topic came out differently: the topic goes again, with the next
    /// Commit.
    pub fn resync(&mut self, topic: &str) {
        if let Ok(topic) = topic.parse::<Topic>()
            && self.held.is_none()
            && self.subscription.has(&topic, &self.needed)
        {
            self.lacks.insert(topic);
        }
    }

    /// The agent waits for this server to catch up with what it has seen.
    pub fn is_waiting(&self) -> bool {
        self.held.is_some() || self.waits
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

/// How a view has changed, by names of topics.
#[derive(Debug, Default)]
struct ViewNews {
    add: Vec<String>,
    drop: Vec<String>,
}

fn message(message: Message) -> ServerMessage {
    ServerMessage { message: Some(message) }
}

fn full_view(kinds: &[String]) -> Result<Arc<BTreeSet<Kind>>, Refusal> {
    static EVERY_KIND: LazyLock<Arc<BTreeSet<Kind>>> =
        LazyLock::new(|| Arc::new(Kind::all().chain(Kind::derived()).collect()));
    if kinds.is_empty() {
        return Ok(EVERY_KIND.clone());
    }
    let parse =
        |kind: &String| Kind::from_name(kind).ok_or_else(|| Refusal::UnknownKind(kind.clone()));
    kinds.iter().map(parse).collect::<Result<_, _>>().map(Arc::new)
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
