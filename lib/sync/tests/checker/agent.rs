//! An agent with its connection: the shipped sessions of both ends, what is in flight between them, and
//! the checks of what the agent sees.

use std::collections::{BTreeSet, VecDeque};

use bulrush_sync::{
    Advance, ClientError, ClientSession, Committed, Event, Outgoing, ServerSession, Vector,
};
use bytes::Bytes;
use proto::v1::{AgentHello, ServerMessage, agent_message, server_message::Message};

use crate::{
    invariants::{Invariant::*, Violation, violated},
    replica::{EPOCH, Replica, index},
    scope::Scope,
    sight::{
        bounded, came_whole, contents, digests_are_the_definitions, follows, references_resolve,
        says_something, show, topic as topic_of, unchanged,
    },
    store::{self, Contents, Log, NODES, Reached},
};

#[derive(Clone, Debug)]
pub(crate) struct Agent {
    pub(crate) node: usize,
    client: ClientSession,
    /// What the client has been told since its last visible Commit.
    since: Vec<ServerMessage>,
    /// Topics that it asked for again: until they come whole, nothing of them counts.
    broken: BTreeSet<String>,
    /// The vector that it was told last.
    told: Vector,
    /// Up to where the server knew the store that it was told of last; only strict scopes ask.
    seen: Option<(u8, Reached)>,
    pub(crate) link: Option<Link>,
    /// What it would find in its file.
    saved: Option<(Bytes, Vector)>,
    /// What its kernel holds, and of which publication of the live session that is.
    kernel: (Option<u64>, Contents),
}

#[derive(Clone, Debug)]
pub(crate) struct Link {
    pub(crate) replica: usize,
    session: ServerSession,
    /// The server's session must look at what is published, for up to this publication, which has
    /// something for the agent, none had.
    due: Option<u64>,
    /// On its way to the agent.
    pub(crate) down: VecDeque<Packet>,
    /// On its way to the server: topics that the agent asks for.
    pub(crate) up: VecDeque<String>,
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

/// The first publication: a session that must look is not told that it isn't affected.
const LOOK: u64 = 1;

type Result<T> = std::result::Result<T, Violation>;

impl Agent {
    pub(crate) fn new(scope: &Scope, node: usize) -> Self {
        let client = if scope.foreign { foreign(node) } else { ClientSession::new() };
        let client = client.with_buckets_from(scope.buckets_from);
        Self {
            node,
            kernel: (None, Contents::new()),
            client,
            since: Vec::new(),
            broken: BTreeSet::new(),
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
            due: Some(LOOK),
            down: VecDeque::new(),
            up: VecDeque::new(),
            behind: false,
            rollback,
            acked: 0,
            committed: false,
        });
        Ok(agent)
    }

    /// The server has moved on: its session with this agent is woken where there is reason to.
    pub(crate) fn published(&self, replica: &Replica, rewound: bool) -> Self {
        let mut agent = self.clone();
        if let Some(link) = &mut agent.link {
            if replica.news && link.session.subscription().is_affected(replica.affected()) {
                link.due.get_or_insert(replica.snapshot().publication);
            }
            if link.behind || rewound {
                link.due = Some(LOOK);
            }
        }
        agent
    }

    pub(crate) fn is_awake(&self) -> bool {
        self.link.as_ref().is_some_and(|link| link.due.is_some())
    }

    /// The server's session looks at what is published.
    pub(crate) fn wake(&self, replica: &Replica) -> Result<Self> {
        let mut agent = self.clone();
        let Some(link) = &mut agent.link else { return Ok(agent) };
        if let Some(first) = link.due.take() {
            link.session.unaffected_until(first - 1);
        }
        let frames = match link.session.advance(&replica.snapshot()) {
            Advance::Frames(frames) => frames,
            Advance::Behind(_) => {
                link.behind = true;
                return Ok(agent);
            }
            Advance::Rewound => return agent.cut(),
        };
        link.behind = false;
        let messages: Vec<_> = frames.into_iter().map(Outgoing::into_message).collect();
        bounded(&messages, replica)?;
        let sent_at = (replica.branch, replica.reached);
        let mut packet = Vec::new();
        for message in messages {
            let topic = topic_of(&message).to_owned();
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
            agent.hear(&message);
            match agent.receive(message)? {
                Event::Committed(committed) => {
                    agent.committed(scope, &committed, &before, packet.sent_at, logs)?;
                    if scope.acks {
                        agent.acknowledge()?;
                    }
                }
                Event::Nothing => unchanged(&before, &agent.client, "a frame")?,
                Event::Send(message) => {
                    let Some(agent_message::Message::Resync(resync)) = message.message else {
                        return violated(I5, format!("the agent wants to send {message:?}"));
                    };
                    let topic = resync.topic;
                    if scope.corruptions == 0 {
                        return violated(I5, format!("the digest of {topic} disagrees"));
                    }
                    unchanged(&before, &agent.client, "a wrong digest")?;
                    agent.since.retain(|message| topic_of(message) != topic);
                    agent.broken.insert(topic.clone());
                    agent.link.iter_mut().for_each(|link| link.up.push_back(topic.clone()));
                }
                other => return violated(I10, format!("it is told {other:?}")),
            }
        }
        Ok(agent)
    }

    /// Notes a message, unless it is a change of what isn't there.
    fn hear(&mut self, message: &ServerMessage) {
        let topic = topic_of(message);
        if matches!(&message.message, Some(Message::Replace(replace)) if replace.bucket.is_none()) {
            self.broken.remove(topic);
        }
        if says_something(message) && !self.broken.contains(topic) {
            self.since.push(message.clone());
        }
    }

    /// The next message is changed on its way; none: it has nothing that could be.
    pub(crate) fn corrupted(&self) -> Option<Self> {
        let mut agent = self.clone();
        let packet = agent.link.as_mut()?.down.front_mut()?;
        let message = packet.messages.last_mut()?.message.as_mut()?;
        let value = match message {
            Message::Replace(replace) => &mut replace.entries.first_mut()?.value,
            Message::Delta(delta) => &mut delta.puts.first_mut()?.value,
            _ => return None,
        };
        *value = [&value[..], b"?"].concat().into();
        Some(agent)
    }

    /// The server hears which topic the agent asks for.
    pub(crate) fn heard(&self) -> Self {
        let mut agent = self.clone();
        if let Some(link) = &mut agent.link
            && let Some(topic) = link.up.pop_front()
        {
            link.session.resync(&topic);
            link.due = Some(LOOK);
        }
        agent
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
        committed: &Committed,
        before: &Contents,
        (branch, reached): (u8, Reached),
        logs: &[Log],
    ) -> Result<()> {
        let held = contents(&self.client);
        follows(std::mem::take(&mut self.since), committed, before, &held)?;

        let Some(link) = &mut self.link else { return Ok(()) };
        if let Some(stream) = committed.vector.first_behind(&self.told).filter(|_| !link.rollback) {
            let (have, got) = (self.told.get(stream), committed.vector.get(stream));
            return violated(I3, format!("stream {} went back from {have} to {got}", stream.0));
        }
        let log = &logs[usize::from(branch)];
        if scope.strict {
            let seen = self.seen.filter(|(of, _)| *of == branch && !link.rollback);
            let mut newest = reached;
            if let Some((_, seen)) = seen {
                for stream in 0..log.streams {
                    // What was deleted in between makes no difference once it is.
                    if log.objects(stream, seen[stream]) != log.objects(stream, reached[stream])
                        && reached[stream] < seen[stream]
                    {
                        let (who, seen) = (NODES[self.node], seen[stream]);
                        let shown = format!("is shown {} of stream {stream}", reached[stream]);
                        return violated(I3, format!("agent {who} had seen {seen}, and {shown}"));
                    }
                    newest[stream] = reached[stream].max(seen[stream]);
                }
            }
            self.seen = Some((branch, newest));
        }
        link.rollback = false;
        link.committed = true;
        self.told = committed.vector.clone();

        for (stream, at) in reached.iter().copied().enumerate().take(log.streams) {
            let vector = committed.vector.get(index(stream));
            let progress = committed.progress.get(index(stream));
            let newest = log.newest(stream, at);
            if vector > progress || progress > at || vector < newest {
                let said = format!("the Commit says V={vector} P={progress}");
                let known =
                    format!("its server knows up to {at}, the newest object is of {newest}");
                return violated(I1, format!("stream {stream}: {said}; {known}"));
            }
        }
        references_resolve(self.node, &self.client, &held)?;
        let model = log.world(&reached).view(self.node);
        if held != model {
            let (held, model) = (show(&held), show(&model));
            return violated(I1, format!("at {reached:?} the model says {model}, held is {held}"));
        }
        digests_are_the_definitions(&self.client, &held)
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
        let comparable = ["", EPOCH].contains(&agent.client.epoch());
        agent.client.disconnected();
        unchanged(&before, &agent.client, "a broken connection")?;
        agent.link = None;
        agent.since.retain(|_| comparable);
        agent.since = came_whole(std::mem::take(&mut agent.since));
        agent.broken.clear();
        agent.kernel.0 = None;
        Ok(agent)
    }

    pub(crate) fn save(&self) -> Self {
        let saved = self.client.save(self.name()).map(|bytes| (bytes, self.told.clone()));
        Self { saved, ..self.clone() }
    }

    pub(crate) fn can_start(&self, from_file: bool) -> bool {
        self.saved.is_some() || !from_file
    }

    /// The agent starts anew, from its file or from nothing. Its kernel is as it was.
    pub(crate) fn crash(&self, scope: &Scope, from_file: bool) -> Self {
        let saved = self.saved.clone().filter(|_| from_file);
        let (client, told) = saved.map_or_else(Default::default, |(bytes, told)| {
            let client = ClientSession::restore(self.name(), &bytes);
            (client.expect("it was saved by this node's agent"), told)
        });
        Self {
            client: client.with_buckets_from(scope.buckets_from),
            told,
            seen: None,
            kernel: (None, self.kernel.1.clone()),
            node: self.node,
            link: None,
            since: Vec::new(),
            broken: BTreeSet::new(),
            saved: None,
        }
    }

    /// Whether a server has not got to what the agent has seen.
    pub(crate) fn has_seen_more_than(&self, replica: &Replica, log: &Log) -> bool {
        let progress = replica.versions().1;
        let mut lists = self.client.lists().iter();
        progress.first_behind(self.client.vector()).is_some()
            || lists.any(|(stream, list)| {
                let known = log.objects(stream.0.into(), replica.reached[usize::from(stream.0)]);
                progress.get(stream) < list.version && known.len() as u64 != list.objects
            })
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
