//! At every Commit an agent holds exactly its view of one publication, whatever happened before.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, sync::Arc};

use bulrush_sync::{
    Advance, Change, ClientSession, Committed, DigestKey, Event, Outgoing, Publisher, ServerFacts,
    ServerSession, Snapshot, Vector, ViewChange,
};
use bytes::Bytes;
use model::{
    StreamIndex,
    view::{SHARDS, Topic},
};
use proptest::prelude::*;
use proto::v1::{AgentHello, ServerMessage, View, agent_message, server_message::Message};

fn facts(incarnation: &str) -> Arc<ServerFacts> {
    Arc::new(ServerFacts {
        incarnation: incarnation.into(),
        epoch: "e".into(),
        streams: vec!["etcd".into()],
        digest_key: KEY,
        heartbeat_seconds: 10,
        version: "0".into(),
    })
}

const KEY: DigestKey = DigestKey([3; 16]);

type Contents = BTreeMap<(String, String), Bytes>;

/// What the view of `node` holds at a snapshot, from the snapshot alone.
fn expected(snapshot: &Snapshot, node: &str) -> Contents {
    let view = snapshot.node_view(&node.into());
    let topics = snapshot.topics().filter(|(topic, _)| view.contains(topic));
    topics
        .flat_map(|(topic, state)| {
            state
                .entries
                .iter()
                .map(move |(key, value)| ((topic.to_string(), key.to_string()), value.clone()))
        })
        .collect()
}

fn held(client: &ClientSession) -> Contents {
    client
        .entries()
        .map(|(topic, key, value)| ((topic.to_string(), key.to_string()), value.clone()))
        .collect()
}

/// A server: what it has published of the store's history.
struct Replica {
    facts: Arc<ServerFacts>,
    publisher: Publisher,
    version: usize,
}

impl Replica {
    fn new(incarnation: &str) -> Self {
        // A small budget, so that history often doesn't reach back.
        let publisher = Publisher::with_history(KEY, 200_000);
        let mut replica = Self { facts: facts(incarnation), publisher, version: 0 };
        replica.catch_up(&[], 0);
        replica
    }

    /// Publishes the store's history up to a version, as one publication.
    fn catch_up(&mut self, history: &[Version], to: usize) {
        self.publish(history, to, to);
    }

    /// The same from a list: the newest version among its items may be older than the list, where
    /// the last thing that happened was a delete.
    fn list(&mut self, history: &[Version], to: usize) {
        self.publish(history, to, to.saturating_sub(1));
    }

    fn publish(&mut self, history: &[Version], to: usize, newest: usize) {
        let (mut vector, mut progress) = (Vector::default(), Vector::default());
        vector.advance(StreamIndex(0), newest as u64);
        progress.advance(StreamIndex(0), to as u64);
        let news = &history[self.version..to];
        let changes = news.iter().flat_map(|(changes, _)| changes).map(|(index, key, value)| {
            let value = value.map(|v| Bytes::from(vec![v; 30_000]));
            Change { topic: topic(*index), key: arcstr::format!("{key}"), value }
        });
        let views = news.iter().flat_map(|(_, views)| views).map(|(agent, index, add)| {
            let (add, drop) =
                if *add { (vec![topic(*index)], vec![]) } else { (vec![], vec![topic(*index)]) };
            ViewChange { node: node(*agent).into(), add, drop }
        });
        self.publisher.publish(changes, views, &vector, &progress, to as u64);
        self.version = to;
    }
}

/// An agent, its own copy of the state, kept from the changes alone, and where it is connected.
struct Agent {
    node: &'static str,
    client: ClientSession,
    replica: Contents,
    connection: Option<(usize, ServerSession)>,
    /// The version that it was told that it has.
    told: u64,
}

impl Agent {
    fn new(node: &'static str) -> Self {
        let (client, replica) = (ClientSession::new(), Contents::new());
        Self { node, client, replica, connection: None, told: 0 }
    }

    fn connect(&mut self, server: usize, replica: &Replica) {
        self.client.disconnected();
        let base = AgentHello { node: self.node.into(), ..AgentHello::default() };
        let hello = self.client.hello(base, false);
        let session = ServerSession::new(&hello, replica.facts.clone()).unwrap();
        self.client.receive(replica.facts.hello()).unwrap();
        self.connection = Some((server, session));
    }

    fn committed(&mut self, committed: Committed) {
        for change in committed.changes {
            let key = (change.topic.to_string(), change.key.to_string());
            match change.value {
                Some(value) => drop(self.replica.insert(key, value)),
                None => assert!(self.replica.remove(&key).is_some(), "{key:?} was not there"),
            }
        }
        let version = committed.vector.get(StreamIndex(0));
        assert!(version >= self.told, "the vector went back from {} to {version}", self.told);
        self.told = version;
    }

    /// Delivers the first `limit` frames of what the server has for this agent, and breaks the
    /// stream where there were more.
    fn deliver(&mut self, replicas: &[Replica; 2], limit: usize) {
        let Some((server, session)) = &mut self.connection else { return };
        let replica = &replicas[*server];
        let snapshot = replica.publisher.snapshot();
        let frames = match session.advance(&snapshot) {
            Advance::Frames(frames) => frames,
            Advance::Behind(behind) => {
                assert!(behind.need > behind.have);
                assert!(self.told > snapshot.progress.get(StreamIndex(0)));
                return;
            }
            Advance::Rewound => panic!("no store went back"),
        };
        let before = held(&self.client);
        let whole = frames.clone().count() <= limit;
        for frame in frames.into_iter().take(limit) {
            match self.client.receive(frame.into_message()).unwrap() {
                Event::Committed(committed) => self.committed(*committed),
                Event::Nothing => {}
                other => panic!("unexpected {other:?}"),
            }
        }
        if whole {
            assert_eq!(held(&self.client), expected(&snapshot, self.node));
            let version = replica.version as u64;
            assert!(version >= self.told, "it has {version} and was told {}", self.told);
        } else {
            // Frames without their Commit have no effect.
            assert_eq!(held(&self.client), before);
            self.client.disconnected();
            self.connection = None;
        }
        assert_eq!(self.replica, held(&self.client));
    }
}

/// Changes of entries, and of views, of one version of the store.
type Version = (Vec<(usize, u8, Option<u8>)>, Vec<(bool, usize, bool)>);

#[derive(Clone, Debug)]
enum Step {
    Write(Version),
    /// A replica takes in some of the versions that it lacks.
    CatchUp(usize, usize),
    Deliver(bool, usize),
    Connect(bool, usize),
    Restart(usize),
}

const TOPICS: usize = 6;

fn topic(index: usize) -> Topic {
    match index {
        0 => Topic::Config,
        1 => Topic::Hosts(SHARDS - 1),
        2 => Topic::Node("a".into()),
        3 => Topic::Node("b".into()),
        4 => Topic::IpSet("s:1".into()),
        _ => Topic::Profile("p".into()),
    }
}

fn node(a: bool) -> &'static str {
    if a { "a" } else { "b" }
}

fn step() -> impl Strategy<Value = Step> {
    let change = (0..TOPICS, 0..4u8, proptest::option::of(0..3u8));
    let view = (any::<bool>(), 4..TOPICS, any::<bool>());
    let limit = prop_oneof![3 => Just(usize::MAX), 1 => 0..140_usize];
    prop_oneof![
        4 => (prop::collection::vec(change, 0..5), prop::collection::vec(view, 0..3))
            .prop_map(Step::Write),
        4 => (0..2_usize, 1..4_usize).prop_map(|(replica, n)| Step::CatchUp(replica, n)),
        6 => (any::<bool>(), limit).prop_map(|(agent, limit)| Step::Deliver(agent, limit)),
        3 => (any::<bool>(), 0..2_usize).prop_map(|(agent, server)| Step::Connect(agent, server)),
        1 => (0..2_usize).prop_map(Step::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// Two servers on one store, each as far as it is; agents that move between them, with streams
    /// that break anywhere.
    #[test]
    fn every_commit_shows_one_publication_whole_and_time_never_runs_back(
        steps in prop::collection::vec(step(), 1..60),
    ) {
        let mut history: Vec<Version> = Vec::new();
        let mut replicas = [Replica::new("x"), Replica::new("y")];
        let mut agents = [Agent::new("a"), Agent::new("b")];
        let mut runs = 0;
        for step in steps {
            match step {
                Step::Write(version) => history.push(version),
                Step::CatchUp(replica, n) => {
                    let to = (replicas[replica].version + n).min(history.len());
                    replicas[replica].catch_up(&history, to);
                }
                Step::Deliver(agent, limit) => agents[usize::from(agent)].deliver(&replicas, limit),
                Step::Connect(agent, server) => {
                    agents[usize::from(agent)].connect(server, &replicas[server]);
                }
                Step::Restart(server) => {
                    runs += 1;
                    let to = replicas[server].version;
                    replicas[server] = Replica::new(&format!("run {runs}"));
                    replicas[server].list(&history, to);
                    for agent in &mut agents {
                        if agent.connection.as_ref().is_some_and(|(at, _)| *at == server) {
                            agent.connection = None;
                            agent.client.disconnected();
                        }
                    }
                }
            }
        }
        // When all is quiet, everybody has everything.
        for replica in &mut replicas {
            replica.catch_up(&history, history.len());
        }
        for (index, agent) in agents.iter_mut().enumerate() {
            if agent.connection.is_none() {
                agent.connect(index, &replicas[index]);
            }
            agent.deliver(&replicas, usize::MAX);
            let newest = replicas[index].publisher.snapshot();
            prop_assert_eq!(&held(&agent.client), &expected(&newest, agent.node));
        }
        let digests = |replica: &Replica| -> Vec<_> {
            let snapshot = replica.publisher.snapshot();
            snapshot.topics().map(|(topic, state)| (topic.clone(), state.digest)).collect()
        };
        prop_assert_eq!(digests(&replicas[0]), digests(&replicas[1]));
    }
}

/// A server at a publication with one topic of `entries`.
fn replica_with(entries: usize) -> Replica {
    let mut replica = Replica::new("x");
    let changes = (0..entries).map(|n| Change {
        topic: Topic::Pools,
        key: arcstr::format!("{n}"),
        value: Some(Bytes::from(vec![1; 40_000])),
    });
    replica.publisher.publish(changes, [], &Vector::default(), &Vector::default(), 1);
    replica
}

/// A new session with a server, its first frames, and the agent's side of it.
fn first_sync(replica: &Replica) -> (ServerSession, Vec<ServerMessage>, ClientSession) {
    let mut agent = Agent::new("a");
    agent.connect(0, replica);
    let (_, mut server) = agent.connection.unwrap();
    let frames = advance(&mut server, &replica.publisher.snapshot());
    (server, frames, agent.client)
}

fn advance(server: &mut ServerSession, snapshot: &Snapshot) -> Vec<ServerMessage> {
    match server.advance(snapshot) {
        Advance::Frames(frames) => frames.into_iter().map(Outgoing::into_message).collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_large_topic_comes_in_parts_and_a_frame_lost_between_them_ends_the_session() {
    let (_, frames, mut client) = first_sync(&replica_with(4));
    let parts: Vec<usize> = (0..frames.len())
        .filter(|n| matches!(&frames[*n].message, Some(Message::Replace(r)) if r.topic == "pools"))
        .collect();
    assert_eq!(parts.len(), 4, "40 kB entries, parts of at most 64 kB");

    let lost = parts[1];
    let mut result = Ok(Event::Nothing);
    for (index, frame) in frames.into_iter().enumerate().filter(|(index, _)| *index != lost) {
        result = client.receive(frame);
        if result.is_err() {
            assert_eq!(index, parts[2]);
            break;
        }
    }
    assert!(result.unwrap_err().to_string().contains("pools"));
}

/// Changes what the first entry of a frame says.
fn corrupt(frame: &mut ServerMessage) {
    let entry = match &mut frame.message {
        Some(Message::Replace(replace)) => replace.entries.first_mut(),
        Some(Message::Delta(delta)) => delta.puts.first_mut(),
        _ => None,
    };
    if let Some(entry) = entry {
        entry.value = Bytes::from_static(b"something else");
    }
}

/// Gives frames to a client that must not make anything visible, and returns the topics that it
/// asks for.
fn asked(client: &mut ClientSession, frames: Vec<ServerMessage>) -> Vec<String> {
    let mut asked = Vec::new();
    for frame in frames {
        match client.receive(frame).unwrap() {
            Event::Nothing => {}
            Event::Send(message) => {
                let Some(agent_message::Message::Resync(resync)) = message.message else {
                    panic!()
                };
                asked.push(resync.topic);
            }
            other => panic!("visible: {other:?}"),
        }
    }
    asked
}

#[test]
fn a_corrupted_topic_is_asked_for_again_and_nothing_is_visible_before() {
    let replica = replica_with(1);
    let (mut server, mut frames, mut client) = first_sync(&replica);
    frames.iter_mut().for_each(corrupt);
    assert_eq!(asked(&mut client, frames), ["pools"]);
    assert_eq!((client.entry_count(), client.resyncs()), (0, 1));

    server.resync("pools");
    let mut last = Event::Nothing;
    for frame in advance(&mut server, &replica.publisher.snapshot()) {
        last = client.receive(frame).unwrap();
    }
    let Event::Committed(committed) = last else { panic!("{last:?}") };
    assert!(committed.first);
    assert_eq!(held(&client), expected(&replica.publisher.snapshot(), "a"));
}

#[test]
fn a_corrupted_change_is_noticed_and_the_topic_comes_whole() {
    let mut replica = replica_with(3);
    let (mut server, frames, mut client) = first_sync(&replica);
    for frame in frames {
        client.receive(frame).unwrap();
    }
    let before = held(&client);

    let put = |value: &'static [u8]| Change {
        topic: Topic::Pools,
        key: "1".into(),
        value: Some(Bytes::from_static(value)),
    };
    let none = Vector::default();
    replica.publisher.publish([put(b"new")], [], &none, &none, 2);
    let mut frames = advance(&mut server, &replica.publisher.snapshot());
    assert!(matches!(frames[0].message, Some(Message::Delta(_))), "{frames:?}");
    corrupt(&mut frames[0]);
    assert_eq!(asked(&mut client, frames), ["pools"]);

    // A later change can't be added to what isn't there, and shows nothing either.
    replica.publisher.publish([put(b"newer")], [], &none, &none, 3);
    let frames = advance(&mut server, &replica.publisher.snapshot());
    assert_eq!(asked(&mut client, frames), [""; 0]);
    assert_eq!(held(&client), before);

    server.resync("pools");
    for frame in advance(&mut server, &replica.publisher.snapshot()) {
        client.receive(frame).unwrap();
    }
    assert_eq!(held(&client), expected(&replica.publisher.snapshot(), "a"));
}

/// A server with a pool whose view of node "a" can take in and leave a set, and an agent that has it.
fn with_a_set() -> (Replica, ServerSession, ClientSession) {
    let mut replica = replica_with(1);
    publish_set(&mut replica, Some(b"1"), true);
    let (server, frames, mut client) = first_sync(&replica);
    for frame in frames {
        client.receive(frame).unwrap();
    }
    (replica, server, client)
}

fn publish_set(replica: &mut Replica, value: Option<&'static [u8]>, in_view: bool) {
    let set = topic(4);
    let value = value.map(Bytes::from_static);
    let change = Change { topic: set.clone(), key: "m".into(), value };
    let (add, drop) = if in_view { (vec![set], vec![]) } else { (vec![], vec![set]) };
    let view = ViewChange { node: "a".into(), add, drop };
    replica.publisher.publish([change], [view], &Vector::default(), &Vector::default(), 2);
}

#[test]
fn a_topic_that_is_awaited_and_leaves_the_view_holds_nothing_up() {
    let (mut replica, mut server, mut client) = with_a_set();
    publish_set(&mut replica, Some(b"2"), true);
    let mut frames = advance(&mut server, &replica.publisher.snapshot());
    frames.iter_mut().for_each(corrupt);
    assert_eq!(asked(&mut client, frames), [topic(4).to_string()]);

    // Before the server hears of it the topic is gone.
    publish_set(&mut replica, None, false);
    let mut last = Event::Nothing;
    for frame in advance(&mut server, &replica.publisher.snapshot()) {
        last = client.receive(frame).unwrap();
    }
    assert!(matches!(last, Event::Committed(_)), "{last:?}");
    assert_eq!(held(&client), expected(&replica.publisher.snapshot(), "a"));
}

#[test]
fn a_topic_that_comes_and_goes_while_another_is_awaited_is_not_held() {
    let (mut replica, mut server, mut client) = with_a_set();
    publish_set(&mut replica, None, false);
    for frame in advance(&mut server, &replica.publisher.snapshot()) {
        client.receive(frame).unwrap();
    }
    let put = |value| Change { topic: Topic::Pools, key: "1".into(), value: Some(value) };
    let (none, news) = (Vector::default(), put(Bytes::from_static(b"new")));
    replica.publisher.publish([news], [], &none, &none, 3);
    let mut frames = advance(&mut server, &replica.publisher.snapshot());
    corrupt(&mut frames[0]);
    assert_eq!(asked(&mut client, frames), ["pools"]);

    publish_set(&mut replica, Some(b"3"), true);
    let frames = advance(&mut server, &replica.publisher.snapshot());
    assert_eq!(asked(&mut client, frames), [""; 0]);
    publish_set(&mut replica, None, false);
    let frames = advance(&mut server, &replica.publisher.snapshot());
    assert_eq!(asked(&mut client, frames), [""; 0]);

    server.resync("pools");
    for frame in advance(&mut server, &replica.publisher.snapshot()) {
        client.receive(frame).unwrap();
    }
    assert_eq!(held(&client), expected(&replica.publisher.snapshot(), "a"));
    assert!(client.digests().all(|(topic, _)| *topic != self::topic(4).to_string()));
}

#[test]
fn an_agent_that_comes_back_gets_the_gap_from_this_server_and_from_another() {
    let mut replica = replica_with(50);
    let mut agent = Agent::new("a");
    agent.connect(0, &replica);
    let (_, mut server) = agent.connection.take().unwrap();
    for frame in advance(&mut server, &replica.publisher.snapshot()) {
        agent.client.receive(frame).unwrap();
    }
    let change =
        Change { topic: Topic::Pools, key: "1".into(), value: Some(Bytes::from_static(b"new")) };
    let none = Vector::default();
    replica.publisher.publish([change], [], &none, &none, 2);

    let gap = |agent: &mut Agent, replica: &Replica| {
        agent.connect(0, replica);
        let (_, mut server) = agent.connection.take().unwrap();
        advance(&mut server, &replica.publisher.snapshot())
    };
    let from_this = gap(&mut agent, &replica);
    assert_eq!(from_this.len(), 2, "the change and a Commit");
    assert!(matches!(&from_this[0].message, Some(Message::Delta(d)) if d.puts.len() == 1));

    replica.facts = facts("another run");
    let from_another = gap(&mut agent, &replica);
    let topics: std::collections::BTreeSet<_> = from_another
        .iter()
        .filter_map(|frame| match &frame.message {
            Some(Message::Replace(replace)) => Some(replace.topic.as_str()),
            _ => None,
        })
        .collect();
    assert_eq!(topics.into_iter().collect::<Vec<_>>(), ["pools"], "only what differs");
    for frame in from_another {
        agent.client.receive(frame).unwrap();
    }
    assert_eq!(held(&agent.client), expected(&replica.publisher.snapshot(), "a"));
    assert_eq!(gap(&mut agent, &replica).len(), 1, "nothing differs: just the Commit");
}

#[test]
fn what_is_held_of_another_store_is_replaced_and_what_is_not_there_leaves() {
    let replica = replica_with(2);
    let (_, frames, mut client) = first_sync(&replica);
    for frame in frames {
        client.receive(frame).unwrap();
    }

    let mut other = Replica::new("other");
    let mut others = (*facts("other")).clone();
    others.epoch = "another store".into();
    other.facts = Arc::new(others);
    client.disconnected();
    let base = AgentHello { node: "b".into(), ..AgentHello::default() };
    let hello = client.hello(base, false);
    let mut server = ServerSession::new(&hello, other.facts.clone()).unwrap();
    client.receive(other.facts.hello()).unwrap();
    for frame in advance(&mut server, &other.publisher.snapshot()) {
        client.receive(frame).unwrap();
    }
    assert_eq!(held(&client), Contents::new());
    assert!(client.digests().all(|(topic, _)| topic != "node/a"), "node b has no such topic");
}

#[test]
fn an_older_store_is_taken_only_when_the_agent_accepts_it() {
    let newer = {
        let mut replica = Replica::new("newer");
        let mut vector = Vector::default();
        vector.advance(StreamIndex(0), 9);
        replica.publisher.publish([], [], &vector, &vector, 1);
        replica
    };
    let (_, frames, mut client) = first_sync(&newer);
    for frame in frames {
        client.receive(frame).unwrap();
    }
    assert_eq!(client.vector().get(StreamIndex(0)), 9);

    let older = Replica::new("older");
    let mut meet = |accept_rollback| {
        client.disconnected();
        let base = AgentHello { node: "a".into(), ..AgentHello::default() };
        let hello = client.hello(base, accept_rollback);
        let mut server = ServerSession::new(&hello, older.facts.clone()).unwrap();
        client.receive(older.facts.hello()).unwrap();
        match server.advance(&older.publisher.snapshot()) {
            Advance::Behind(behind) => Err((behind.stream, behind.have, behind.need)),
            Advance::Frames(frames) => {
                for frame in frames {
                    client.receive(frame.into_message()).unwrap();
                }
                Ok(client.vector().get(StreamIndex(0)))
            }
            Advance::Rewound => panic!(),
        }
    };
    assert_eq!(meet(false), Err(("etcd".into(), 0, 9)));
    assert_eq!(meet(true), Ok(0));
}

#[test]
fn a_session_ends_when_its_store_goes_back_in_time() {
    let mut replica = replica_with(1);
    let (mut server, _, _) = first_sync(&replica);
    replica.publisher.rewind();
    assert!(matches!(server.advance(&replica.publisher.snapshot()), Advance::Rewound));
}

#[test]
fn a_server_that_is_none_of_ours_or_goes_back_in_time_is_refused() {
    let replica = replica_with(1);
    let (_, frames, _) = first_sync(&replica);
    let mut client = ClientSession::new();
    let error = client.receive(frames[0].clone()).unwrap_err();
    assert!(error.to_string().contains("not a hello"), "{error}");

    let commit = |version| {
        let stream = proto::v1::StreamVersion { stream: 0, version };
        let commit = proto::v1::Commit { vector: vec![stream], ..Default::default() };
        ServerMessage { message: Some(Message::Commit(commit)) }
    };
    let mut client = ClientSession::new();
    client.receive(replica.facts.hello()).unwrap();
    client.receive(commit(5)).unwrap();
    let error = client.receive(commit(4)).unwrap_err();
    assert!(error.to_string().contains("went back"), "{error}");
}

#[test]
fn the_full_view_holds_the_kinds_asked_for_and_no_others() {
    let mut publisher = Publisher::new(KEY);
    let change = |topic: Topic| Change { topic, key: "x".into(), value: Some(Bytes::new()) };
    let topics = ["res/Tier/0", "res/IPPool/0", "config"].map(|t| change(t.parse().unwrap()));
    publisher.publish(topics, [], &Vector::default(), &Vector::default(), 1);
    let view = |kinds: &[&str]| {
        let kinds = kinds.iter().map(ToString::to_string).collect();
        let hello = AgentHello { view: View::Full.into(), kinds, ..AgentHello::default() };
        let mut client = ClientSession::new();
        client.receive(facts("x").hello()).unwrap();
        let mut server = ServerSession::new(&hello, facts("x")).unwrap();
        for frame in advance(&mut server, &publisher.snapshot()) {
            client.receive(frame).unwrap();
        }
        held(&client).into_keys().map(|(topic, _)| topic).collect::<Vec<_>>()
    };
    assert_eq!(view(&[]), ["res/IPPool/0", "res/Tier/0"]);
    assert_eq!(view(&["Tier"]), ["res/Tier/0"]);
}
