//! At every Commit an agent holds exactly its view of one publication, whatever happened before.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
use std::collections::BTreeMap;

use bulrush_sync::{
    Change, ClientSession, Committed, DigestKey, Event, Publisher, ServerFacts, ServerSession,
    Snapshot, Vector, ViewChange,
};
use bytes::Bytes;
use model::{
    StreamIndex,
    view::{SHARDS, Topic},
};
use proptest::prelude::*;
use proto::v1::{AgentHello, ServerMessage, View, agent_message, server_message::Message};

fn facts() -> ServerFacts {
    ServerFacts {
        incarnation: "i".into(),
        epoch: "e".into(),
        streams: vec!["etcd".into()],
        digest_key: DigestKey([3; 16]),
        heartbeat_seconds: 10,
        version: "0".into(),
    }
}

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

/// An agent with a connection, and its own copy of the state, kept from the changes alone.
struct Agent {
    node: &'static str,
    server: ServerSession,
    client: ClientSession,
    replica: Contents,
}

impl Agent {
    fn new(node: &'static str) -> Self {
        let mut client = ClientSession::new();
        client.receive(facts().hello()).unwrap();
        Self { node, server: session(node), client, replica: Contents::new() }
    }

    fn reconnect(&mut self) {
        self.client.disconnected();
        self.server = session(self.node);
        self.client.receive(facts().hello()).unwrap();
    }

    fn committed(&mut self, committed: Committed) {
        for change in committed.changes {
            let key = (change.topic.to_string(), change.key.to_string());
            match change.value {
                Some(value) => drop(self.replica.insert(key, value)),
                None => assert!(self.replica.remove(&key).is_some(), "{key:?} was not there"),
            }
        }
    }

    /// Delivers the first `limit` frames of what the server has for this agent.
    fn deliver(&mut self, snapshot: &Snapshot, limit: usize) -> bool {
        let frames = self.server.advance(snapshot);
        let whole = frames.len() <= limit;
        for frame in frames.into_iter().take(limit) {
            match self.client.receive(frame).unwrap() {
                Event::Committed(committed) => self.committed(*committed),
                Event::Nothing => {}
                other => panic!("unexpected {other:?}"),
            }
        }
        whole
    }
}

fn session(node: &str) -> ServerSession {
    ServerSession::new(&AgentHello { node: node.into(), ..AgentHello::default() }).unwrap()
}

#[derive(Clone, Debug)]
enum Step {
    Publish { changes: Vec<(usize, u8, Option<u8>)>, views: Vec<(bool, usize, bool)> },
    Deliver(bool, usize),
    Reconnect(bool),
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
    prop_oneof![
        4 => (prop::collection::vec(change, 0..5), prop::collection::vec(view, 0..3))
            .prop_map(|(changes, views)| Step::Publish { changes, views }),
        4 => (any::<bool>(), prop_oneof![Just(usize::MAX), 0..140_usize])
            .prop_map(|(agent, limit)| Step::Deliver(agent, limit)),
        1 => any::<bool>().prop_map(Step::Reconnect),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn every_commit_shows_one_publication_whole(steps in prop::collection::vec(step(), 1..40)) {
        let mut publisher = Publisher::new(facts().digest_key);
        let mut agents = [Agent::new("a"), Agent::new("b")];
        let mut version = 0;
        for step in steps.into_iter().chain([
            Step::Publish { changes: vec![(0, 9, Some(9))], views: Vec::new() },
            Step::Deliver(true, usize::MAX),
            Step::Deliver(false, usize::MAX),
        ]) {
            match step {
                Step::Publish { changes, views } => {
                    version += 1;
                    let mut vector = Vector::default();
                    vector.advance(StreamIndex(0), version);
                    let changes = changes.into_iter().map(|(index, key, value)| Change {
                        topic: topic(index),
                        key: arcstr::format!("{key}"),
                        value: value.map(|v| Bytes::from(vec![v; 30_000])),
                    });
                    let views = views.into_iter().map(|(agent, index, add)| {
                        let (a, d) = if add {
                            (vec![topic(index)], vec![])
                        } else {
                            (vec![], vec![topic(index)])
                        };
                        ViewChange { node: node(agent).into(), add: a, drop: d }
                    });
                    publisher.publish(changes, views, &vector, &vector, version);
                }
                Step::Reconnect(agent) => agents[usize::from(agent)].reconnect(),
                Step::Deliver(agent, limit) => {
                    let agent = &mut agents[usize::from(agent)];
                    let snapshot = publisher.snapshot();
                    let before = held(&agent.client);
                    if agent.deliver(&snapshot, limit) {
                        prop_assert_eq!(&held(&agent.client), &expected(&snapshot, agent.node));
                    } else {
                        // Frames without their Commit have no effect, and the stream breaks here.
                        prop_assert_eq!(held(&agent.client), before);
                        agent.reconnect();
                    }
                    prop_assert_eq!(&agent.replica, &held(&agent.client));
                }
            }
        }
    }
}

/// A server session at a snapshot with one topic of `entries`, and the frames of its first sync.
fn first_sync(entries: usize) -> (Publisher, ServerSession, Vec<ServerMessage>) {
    let mut publisher = Publisher::new(facts().digest_key);
    let changes = (0..entries).map(|n| Change {
        topic: Topic::Pools,
        key: arcstr::format!("{n}"),
        value: Some(Bytes::from(vec![1; 40_000])),
    });
    publisher.publish(changes, [], &Vector::default(), &Vector::default(), 1);
    let mut server = session("a");
    let frames = server.advance(&publisher.snapshot());
    (publisher, server, frames)
}

#[test]
fn a_large_topic_comes_in_parts_and_a_frame_lost_between_them_ends_the_session() {
    let (_, _, frames) = first_sync(4);
    let parts: Vec<usize> = (0..frames.len())
        .filter(|n| matches!(&frames[*n].message, Some(Message::Replace(r)) if r.topic == "pools"))
        .collect();
    assert_eq!(parts.len(), 4, "40 kB entries, parts of at most 64 kB");

    let mut client = ClientSession::new();
    client.receive(facts().hello()).unwrap();
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

#[test]
fn a_corrupted_entry_is_asked_for_again_and_nothing_is_visible_before() {
    let (publisher, mut server, mut frames) = first_sync(1);
    for frame in &mut frames {
        if let Some(Message::Replace(replace)) = &mut frame.message
            && let Some(entry) = replace.entries.first_mut()
        {
            entry.value = Bytes::from_static(b"something else");
        }
    }
    let mut client = ClientSession::new();
    client.receive(facts().hello()).unwrap();
    let mut asked = Vec::new();
    for frame in frames {
        match client.receive(frame).unwrap() {
            Event::Nothing => {}
            Event::Send(message) => asked.push(message),
            other => panic!("visible: {other:?}"),
        }
    }
    assert_eq!(client.entry_count(), 0);
    assert_eq!(client.resyncs(), 1);
    let Some(agent_message::Message::Resync(resync)) = &asked[0].message else { panic!() };
    server.resync(&resync.topic);

    let again: Vec<Event> = server
        .advance(&publisher.snapshot())
        .into_iter()
        .map(|frame| client.receive(frame).unwrap())
        .collect();
    let Some(Event::Committed(committed)) = again.last() else { panic!("{again:?}") };
    assert!(committed.first);
    assert_eq!(held(&client), expected(&publisher.snapshot(), "a"));
}

#[test]
fn a_server_that_is_none_of_ours_or_goes_back_in_time_is_refused() {
    let (_, _, frames) = first_sync(1);
    let mut client = ClientSession::new();
    let error = client.receive(frames[0].clone()).unwrap_err();
    assert!(error.to_string().contains("not a hello"), "{error}");

    let commit = |version| {
        let stream = proto::v1::StreamVersion { stream: 0, version };
        let commit = proto::v1::Commit { vector: vec![stream], ..Default::default() };
        ServerMessage { message: Some(Message::Commit(commit)) }
    };
    let mut client = ClientSession::new();
    client.receive(facts().hello()).unwrap();
    client.receive(commit(5)).unwrap();
    let error = client.receive(commit(4)).unwrap_err();
    assert!(error.to_string().contains("went back"), "{error}");
}

#[test]
fn the_full_view_holds_the_kinds_asked_for_and_no_others() {
    let mut publisher = Publisher::new(facts().digest_key);
    let change = |topic: Topic| Change { topic, key: "x".into(), value: Some(Bytes::new()) };
    let topics = ["res/Tier/0", "res/IPPool/0", "config"].map(|t| change(t.parse().unwrap()));
    publisher.publish(topics, [], &Vector::default(), &Vector::default(), 1);
    let view = |kinds: &[&str]| {
        let kinds = kinds.iter().map(ToString::to_string).collect();
        let hello = AgentHello { view: View::Full.into(), kinds, ..AgentHello::default() };
        let mut client = ClientSession::new();
        client.receive(facts().hello()).unwrap();
        for frame in ServerSession::new(&hello).unwrap().advance(&publisher.snapshot()) {
            client.receive(frame).unwrap();
        }
        held(&client).into_keys().map(|(topic, _)| topic).collect::<Vec<_>>()
    };
    assert_eq!(view(&[]), ["res/IPPool/0", "res/Tier/0"]);
    assert_eq!(view(&["Tier"]), ["res/Tier/0"]);
}
