//! An agent with its connection: the shipped sessions of both ends, what is in flight between them, and
//! the checks of what the agent sees.

use std::{collections::BTreeMap, collections::VecDeque};

use bulrush_sync::{Advance, ClientError, ClientSession, Committed, Event, ServerSession, Vector};
use bytes::Bytes;
use model::view::{Entry, Topic};
use proto::v1::{AgentHello, ServerMessage, agent_message, server_message::Message};

use crate::{
    invariants::{Invariant::*, Violation, violated},
    replica::{Replica, index},
    scope::Scope,
    store::{self, Contents, Log, NODES, Reached},
};

#[derive(Clone, Debug)]
pub(crate) struct Agent {
    pub(crate) node: usize,
    client: ClientSession,
    /// What the client has been told since its last visible Commit.
    since: Vec<ServerMessage>,
    /// The vector that it was told last.
    told: Vector,
    /// Up to where the server knew the store that it was told of last; only strict scopes ask.
    seen: Option<(u8, Reached)>,
    pub(crate) link: Option<Link>,
    /// What it would find in its file.
    saved: Option<(ClientSession, Vector)>,
    /// What its kernel holds, and of which publication of the live session that is.
    kernel: (Option<u64>, Contents),
}

#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) replica: usize,
    session: ServerSession,
    /// On its way to the agent.
    pub(crate) down: VecDeque<Packet>,
    /// The server told the agent that it has not caught up.
    pub(crate) behind: bool,
    /// The agent takes an older state.
    rollback: bool,
    /// The publication that the agent acknowledged.
    acked: u64,
    committed: bool,
}

/// One message that says something, and those without content before it: to lose the one or the other
/// of these is the same.
#[derive(Clone)]
pub(crate) struct Packet {
    messages: Vec<ServerMessage>,
    /// Where the server was when it sent this.
    sent_at: (u8, Reached),
}

type Result<T> = std::result::Result<T, Violation>;

impl Agent {
    pub(crate) fn new(scope: &Scope, node: usize) -> Self {
        let client = if scope.foreign { foreign(node) } else { ClientSession::new() };
        Self {
            node,
            kernel: (None, Contents::new()),
            client,
            since: Vec::new(),
            told: Vector::default(),
            seen: None,
            link: None,
            saved: None,
        }
    }

    pub(crate) fn name(&self) -> &'static str {
        NODES[self.node]
    }

    /// Connects and says hello; the server's hello arrives.
    pub(crate) fn connect(&self, at: usize, replica: &Replica, rollback: bool) -> Result<Self> {
        let mut agent = self.clone();
        let base = AgentHello { node: self.name().into(), ..AgentHello::default() };
        let hello = agent.client.hello(base, rollback);
        let session = ServerSession::new(&hello, replica.facts.clone());
        let session = session.or_else(|refusal| violated(I10, format!("refused: {refusal}")))?;
        agent.receive(replica.facts.hello())?;
        agent.link = Some(Link {
            replica: at,
            session,
            down: VecDeque::new(),
            behind: false,
            rollback,
            acked: 0,
            committed: false,
        });
        Ok(agent)
    }

    /// The server's session looks at what is published.
    pub(crate) fn wake(&self, replica: &Replica) -> Result<Self> {
        let mut agent = self.clone();
        let Some(link) = &mut agent.link else { return Ok(agent) };
        let frames = match link.session.advance(&replica.snapshot()) {
            Advance::Frames(frames) => frames,
            Advance::Behind(_) => {
                link.behind = true;
                return Ok(agent);
            }
            Advance::Rewound => return agent.cut(),
        };
        link.behind = false;
        let messages: Vec<_> = frames.into_iter().map(|frame| frame.into_message()).collect();
        bounded(&messages, replica)?;
        let sent_at = (replica.branch, replica.reached);
        let mut packet = Vec::new();
        for message in messages {
            let topic = topic(&message).to_owned();
            if topic.starts_with("node/") && topic != format!("node/{}", NODES[self.node]) {
                return violated(I12, format!("agent {} is sent topic {topic}", NODES[self.node]));
            }
            let complete = says_something(&message);
            packet.push(message);
            if complete {
                let messages = std::mem::take(&mut packet);
                link.down.push_back(Packet { messages, sent_at });
            }
        }
        if !packet.is_empty() {
            return violated(I10, "the last message of a publication is not a Commit");
        }
        Ok(agent)
    }

    /// The next packet arrives.
    pub(crate) fn deliver(&self, scope: &Scope, logs: &[Log]) -> Result<Self> {
        let mut agent = self.clone();
        let packet = agent.link.as_mut().and_then(|link| link.down.pop_front());
        let Some(packet) = packet else { return Ok(agent) };
        for message in packet.messages {
            let before = contents(&agent.client);
            if says_something(&message) {
                agent.since.push(message.clone());
            }
            match agent.receive(message)? {
                Event::Committed(committed) => {
                    agent.committed(scope, *committed, &before, packet.sent_at, logs)?;
                    if scope.acks {
                        agent.acknowledge()?;
                    }
                }
                Event::Nothing => unchanged(&before, &agent.client, "a frame")?,
                Event::Send(message) => {
                    let Some(agent_message::Message::Resync(resync)) = message.message else {
                        return violated(I5, format!("the agent wants to send {message:?}"));
                    };
                    return violated(I5, format!("the digest of {} disagrees", resync.topic));
                }
                other => return violated(I10, format!("it is told {other:?}")),
            }
        }
        Ok(agent)
    }

    fn receive(&mut self, message: ServerMessage) -> Result<Event> {
        self.client.receive(message).or_else(|error| match error {
            ClientError::WentBack { .. } => violated(I3, format!("the agent refuses: {error}")),
            error => violated(I10, format!("the agent refuses: {error}")),
        })
    }

    fn committed(
        &mut self,
        scope: &Scope,
        committed: Committed,
        before: &Contents,
        (branch, reached): (u8, Reached),
        logs: &[Log],
    ) -> Result<()> {
        let held = contents(&self.client);
        self.follows(&committed, before, &held)?;

        let Some(link) = &mut self.link else { return Ok(()) };
        if let Some(stream) = committed.vector.first_behind(&self.told).filter(|_| !link.rollback) {
            let (have, got) = (self.told.get(stream), committed.vector.get(stream));
            return violated(I3, format!("stream {} went back from {have} to {got}", stream.0));
        }
        let log = &logs[usize::from(branch)];
        if scope.strict {
            let seen = self.seen.replace((branch, reached));
            let seen = seen.filter(|(of, _)| *of == branch && !link.rollback);
            let lost = log.events().find(|(version, stream, _)| {
                let seen = seen.map_or(0, |(_, seen)| seen[*stream]);
                *version <= seen && *version > reached[*stream]
            });
            if let Some((version, _, happening)) = lost {
                let seen =
                    format!("agent {} had seen {happening:?} of {version}", NODES[self.node]);
                return violated(I3, seen);
            }
        }
        link.rollback = false;
        link.committed = true;
        self.told = committed.vector.clone();

        for stream in 0..log.streams {
            let vector = committed.vector.get(index(stream));
            let progress = committed.progress.get(index(stream));
            let newest = log.newest(stream, reached[stream]);
            if vector > progress || progress > reached[stream] || vector < newest {
                let (at, seen) = (reached[stream], (newest, vector, progress));
                return violated(
                    I1,
                    format!(
                        "stream {stream}: the server knows it up to {at} with the newest object of \
                     {}, and the Commit says V={} P={}",
                        seen.0, seen.1, seen.2,
                    ),
                );
            }
        }
        references_resolve(self.node, &self.client, &held)?;
        let model = log.world(&reached).view(self.node);
        if held != model {
            let (held, model) = (show(&held), show(&model));
            return violated(
                I1,
                format!(
                    "at {reached:?} the model says {model}, and agent {} holds {held}",
                    self.name(),
                ),
            );
        }
        digests_are_the_definitions(&self.client, &held)
    }

    /// What became visible is what a naive reader of the messages would hold; and the changes that the
    /// client names lead there too.
    fn follows(&mut self, committed: &Committed, before: &Contents, held: &Contents) -> Result<()> {
        let mut naive = before.clone();
        let mut parts: BTreeMap<String, Contents> = BTreeMap::new();
        for message in std::mem::take(&mut self.since) {
            match message.message {
                Some(Message::Replace(replace)) => {
                    let part = parts.entry(replace.topic.clone()).or_default();
                    for entry in replace.entries {
                        part.insert((replace.topic.clone(), entry.key), entry.value);
                    }
                    if replace.last {
                        naive.retain(|(topic, _), _| *topic != replace.topic);
                        naive.extend(parts.remove(&replace.topic).unwrap_or_default());
                    }
                }
                Some(Message::Delta(delta)) => {
                    for entry in delta.puts {
                        naive.insert((delta.topic.clone(), entry.key), entry.value);
                    }
                    for key in delta.deletes {
                        naive.remove(&(delta.topic.clone(), key));
                    }
                }
                Some(Message::Commit(commit)) => {
                    naive.retain(|(topic, _), _| !commit.drop.contains(topic));
                }
                _ => {}
            }
        }
        if let Some(((topic, key), _)) = naive.iter().find(|(key, _)| !held.contains_key(*key)) {
            return violated(I7, format!("{topic} {key:?} went, and nothing said so"));
        }
        if naive != *held {
            let (held, naive) = (show(held), show(&naive));
            return violated(I6, format!("the messages say {naive}, and the agent holds {held}"));
        }
        let mut changed = before.clone();
        for change in &committed.changes {
            let key = (change.topic.to_string(), change.key.to_string());
            match &change.value {
                Some(value) => drop(changed.insert(key, value.clone())),
                None => drop(changed.remove(&key)),
            }
        }
        if changed != *held {
            return violated(I1, format!("the changes lead to {}", show(&changed)));
        }
        Ok(())
    }

    /// The kernel holds what is visible.
    pub(crate) fn apply(&self) -> Result<Self> {
        let mut agent = self.clone();
        if agent.link.as_ref().is_some_and(|link| link.committed) {
            agent.kernel_follows();
            agent.acknowledge()?;
        }
        Ok(agent)
    }

    fn kernel_follows(&mut self) {
        self.kernel = (Some(self.client.publication()), contents(&self.client));
    }

    /// Acknowledges what the kernel holds, where that is due, and the server hears it.
    fn acknowledge(&mut self) -> Result<()> {
        let Some(link) = &mut self.link else { return Ok(()) };
        let Some(applied) = self.kernel.0 else { return Ok(()) };
        let Some(message) = self.client.ack_applied(applied, Vec::new()) else { return Ok(()) };
        let Some(agent_message::Message::Ack(ack)) = message.message else {
            return violated(I11, format!("for an ack the client gives {message:?}"));
        };
        link.acked = ack.publication;
        if ack.publication != applied || contents(&self.client) != self.kernel.1 {
            let said = ack.publication;
            return violated(I11, format!("{said} is acknowledged, the kernel holds {applied}"));
        }
        Ok(())
    }

    /// The connection breaks, and what is in flight is lost.
    pub(crate) fn cut(&self) -> Result<Self> {
        let mut agent = self.clone();
        let before = contents(&agent.client);
        agent.client.disconnected();
        unchanged(&before, &agent.client, "a broken connection")?;
        agent.link = None;
        agent.since.clear();
        agent.kernel.0 = None;
        Ok(agent)
    }

    pub(crate) fn save(&self) -> Self {
        let mut saved = self.client.clone();
        saved.disconnected();
        Self { saved: Some((saved, self.told.clone())), ..self.clone() }
    }

    pub(crate) fn can_start(&self, from_file: bool) -> bool {
        self.saved.is_some() || !from_file
    }

    /// The agent starts anew, from its file or from nothing. Its kernel is as it was.
    pub(crate) fn crash(&self, from_file: bool) -> Self {
        let saved = self.saved.clone().filter(|_| from_file);
        let (client, told) = saved.unwrap_or_default();
        Self {
            client,
            told,
            seen: None,
            kernel: (None, self.kernel.1.clone()),
            node: self.node,
            link: None,
            since: Vec::new(),
            saved: None,
        }
    }

    /// Whether a server has not got to what the agent has seen.
    pub(crate) fn has_seen_more_than(&self, replica: &Replica) -> bool {
        replica.versions().1.first_behind(self.client.vector()).is_some()
    }

    /// What is wrong with this agent when nothing is left to happen.
    pub(crate) fn quiet(&self, scope: &Scope, replica: &Replica, logs: &[Log]) -> Result<()> {
        let who = self.name();
        let Some(link) = &self.link else {
            return violated(I10, format!("agent {who} has no session"));
        };
        if link.behind {
            return violated(I10, format!("agent {who} waits at {} for ever", replica.name()));
        }
        let model = logs[usize::from(replica.branch)].world(&replica.reached).view(self.node);
        let held = contents(&self.client);
        if held != model {
            let (held, model) = (show(&held), show(&model));
            return violated(I8, format!("agent {who} stays at {held}; newest is {model}"));
        }
        if scope.acks && (link.acked != link.session.committed() || self.kernel.1 != held) {
            let (acked, sent) = (link.acked, link.session.committed());
            return violated(I8, format!("{acked} is acknowledged, and {sent} was sent"));
        }
        Ok(())
    }

    /// What is in flight, for a trace.
    pub(crate) fn in_flight(&self) -> impl Iterator<Item = String> + '_ {
        self.link.iter().flat_map(|link| &link.down).map(Packet::describe)
    }

    /// What it holds, for a trace.
    pub(crate) fn describe(&self) -> String {
        let vector: Vec<_> = self.client.vector().iter().map(|(_, version)| version).collect();
        format!("V={vector:?} holds {}", show(&contents(&self.client)))
    }
}

/// The message that says something; the others follow from it.
impl std::fmt::Debug for Packet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {:?}", self.messages.last(), self.sent_at)
    }
}

impl Packet {
    pub(crate) fn describe(&self) -> String {
        match self.messages.last().and_then(|message| message.message.as_ref()) {
            Some(Message::Replace(r)) => format!("Replace {} of {}", r.topic, r.entries.len()),
            Some(Message::Delta(d)) => {
                let (puts, deletes) = (d.puts.len(), d.deletes.len());
                format!("Delta {} {}..{} +{puts} -{deletes}", d.topic, d.from, d.to)
            }
            Some(Message::Commit(c)) => {
                let versions = |list: &[proto::v1::StreamVersion]| {
                    list.iter().map(|v| format!("{}:{}", v.stream, v.version)).collect::<Vec<_>>()
                };
                let (vector, progress) = (versions(&c.vector), versions(&c.progress));
                let drop = &c.drop;
                format!("Commit {} V={vector:?} P={progress:?} drop={drop:?}", c.publication)
            }
            other => format!("{other:?}"),
        }
    }
}

/// A client that has seen much of another cluster.
fn foreign(node: usize) -> ClientSession {
    use store::Happening::*;
    let script = [Pool(Some(1)), Rules(1), Endpoint(node, Some(true))];
    let scope = Scope::of([&script[..], &[Elsewhere; 6], &[Pool(Some(0))]].concat());
    let log = &scope.logs()[0];
    let replica = Replica::start(&scope, 0, 0, (0, log), log.happenings.len() as u64);
    let mut client = ClientSession::new();
    let hello = AgentHello { node: NODES[node].into(), ..AgentHello::default() };
    let facts = crate::replica::facts("another store", "z".into());
    let mut session = ServerSession::new(&hello, facts.clone()).unwrap();
    client.receive(facts.hello()).unwrap();
    let Advance::Frames(frames) = session.advance(&replica.unwrap().snapshot()) else { panic!() };
    for frame in frames {
        client.receive(frame.into_message()).unwrap();
    }
    client.disconnected();
    client
}

/// Whether a message is of a topic that ever has entries here, or of none.
fn says_something(message: &ServerMessage) -> bool {
    matches!(topic(message).split('/').next(), Some("" | "pools" | "node" | "profile"))
}

/// The topic that a message is of; empty for one that is of none.
fn topic(message: &ServerMessage) -> &str {
    match &message.message {
        Some(Message::Replace(replace)) => &replace.topic,
        Some(Message::Delta(delta)) => &delta.topic,
        _ => "",
    }
}

pub(crate) fn contents(client: &ClientSession) -> Contents {
    let entries = client.entries();
    entries
        .map(|(topic, key, value)| ((topic.to_string(), key.to_string()), value.clone()))
        .collect()
}

fn unchanged(before: &Contents, client: &ClientSession, why: &str) -> Result<()> {
    let held = contents(client);
    if held == *before {
        return Ok(());
    }
    violated(I6, format!("{why} made {} of {}", show(&held), show(before)))
}

/// What a server hands out at once: each topic whole at most once, or frames no longer than it.
fn bounded(messages: &[ServerMessage], replica: &Replica) -> Result<()> {
    let mut replaced = BTreeMap::new();
    let mut frames: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    let size = |key: &str, value: &Bytes| key.len() + value.len();
    for message in messages {
        match &message.message {
            Some(Message::Replace(replace)) if replace.last => {
                *replaced.entry(replace.topic.as_str()).or_insert(0) += 1;
            }
            Some(Message::Delta(delta)) => {
                let puts: usize = delta.puts.iter().map(|put| size(&put.key, &put.value)).sum();
                let deletes: usize = delta.deletes.iter().map(String::len).sum();
                frames.entry(&delta.topic).or_default().push(puts + deletes);
            }
            _ => {}
        }
    }
    if let Some((topic, times)) = replaced.iter().find(|(_, times)| **times > 1) {
        return violated(I9, format!("topic {topic} is sent whole {times} times at once"));
    }
    let snapshot = replica.snapshot();
    for (topic, sizes) in frames {
        let state = topic.parse::<Topic>().ok().and_then(|topic| snapshot.topic(&topic).cloned());
        let whole = state.map_or(0, |state| state.entries.iter().map(|(k, v)| size(k, v)).sum());
        let bytes: usize = sizes.iter().sum();
        if replaced.contains_key(topic) || (sizes.len() > 1 && bytes > whole) {
            return violated(I9, format!("{bytes} bytes of frames for {whole} of topic {topic}"));
        }
    }
    Ok(())
}

fn references_resolve(node: usize, client: &ClientSession, held: &Contents) -> Result<()> {
    let own = Topic::Node(NODES[node].into());
    for ((topic, key), value) in held.iter().filter(|((topic, _), _)| *topic == own.to_string()) {
        let Ok(Entry::Endpoint(endpoint)) = proto::decode(&own, value, &[]) else { continue };
        for profile in endpoint.profiles {
            let name = Topic::Profile(profile).to_string();
            let there = client.digests().any(|(topic, _)| *topic == name)
                && held.contains_key(&(name.clone(), String::new()));
            if !there {
                return violated(I2, format!("{topic} {key:?} needs {name}, which is not there"));
            }
        }
    }
    Ok(())
}

fn digests_are_the_definitions(client: &ClientSession, held: &Contents) -> Result<()> {
    for (topic, digest) in client.digests() {
        let entries = held.iter().filter(|((of, _), _)| *of == topic.as_str());
        let entries = entries.map(|((_, key), value)| (key.as_str(), value.as_ref()));
        if (digest.sum, digest.count) != store::digest(topic, entries) {
            return violated(I5, format!("the digest of {topic} is not that of the definition"));
        }
    }
    Ok(())
}

fn show(contents: &Contents) -> String {
    let entry = |((topic, key), value): (&(String, String), &Bytes)| {
        let bytes: String = value.iter().rev().take(3).map(|b| format!("{b:02x}")).collect();
        format!("{topic} {key}={bytes}")
    };
    format!("{{{}}}", contents.iter().map(entry).collect::<Vec<_>>().join(", "))
}
