//! What an agent that comes back is sent: no more than it lacks.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use bulrush_sync::{
    Advance, Change, ClientSession, DigestKey, Event, Outgoing, Publisher, ServerFacts,
    ServerSession, Snapshot, Vector,
};
use bytes::Bytes;
use model::view::Topic;
use prost::Message as _;
use proto::v1::{AgentHello, Replace, ServerMessage, agent_message, server_message::Message};

const KEY: DigestKey = DigestKey([9; 16]);

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

type Write = (Topic, String, Option<&'static str>);

fn publish(publisher: &mut Publisher, writes: &[Write]) -> Snapshot {
    let changes = writes.iter().map(|(topic, key, value)| Change {
        topic: topic.clone(),
        key: key.as_str().into(),
        value: value.map(|value| Bytes::from_static(value.as_bytes())),
    });
    publisher.publish(changes, [], &Vector::default(), &Vector::default(), 0).clone()
}

/// What a server sends to a client that connects, after its hello.
fn connect(
    client: &mut ClientSession,
    snapshot: &Snapshot,
    incarnation: &str,
) -> (ServerSession, Vec<ServerMessage>) {
    client.disconnected();
    let hello = client.hello(AgentHello { node: "n".into(), ..AgentHello::default() }, false);
    let facts = facts(incarnation);
    let mut session = ServerSession::new(&hello, facts.clone()).unwrap();
    client.receive(facts.hello()).unwrap();
    let messages = advance(&mut session, snapshot);
    (session, messages)
}

fn advance(session: &mut ServerSession, snapshot: &Snapshot) -> Vec<ServerMessage> {
    let Advance::Frames(frames) = session.advance(snapshot) else { panic!() };
    frames.into_iter().map(Outgoing::into_message).collect()
}

/// The Replaces among messages.
fn replaces(messages: &[ServerMessage]) -> Vec<&Replace> {
    let replace = |message: &'_ ServerMessage| matches!(message.message, Some(Message::Replace(_)));
    let all = messages.iter().filter(|message| replace(message));
    all.map(|message| match &message.message {
        Some(Message::Replace(replace)) => replace,
        other => panic!("{other:?}"),
    })
    .collect()
}

fn take(client: &mut ClientSession, messages: &[ServerMessage]) -> Event {
    let mut last = Event::Nothing;
    for message in messages {
        last = client.receive(message.clone()).unwrap();
    }
    last
}

/// A client holds the common topics of a snapshot.
fn assert_same(client: &ClientSession, snapshot: &Snapshot) {
    for (topic, state) in snapshot.topics() {
        assert_eq!(client.digest(&topic.to_string()), Some(state.digest), "{topic}");
    }
    let held: Vec<_> = client.entries().map(|(t, k, v)| (t.to_string(), k.clone(), v)).collect();
    let entries = snapshot.topics().flat_map(|(topic, state)| {
        state.entries.iter().map(|(key, value)| (topic.to_string(), key.clone(), value))
    });
    let mut expected: Vec<_> = entries.collect();
    expected.sort();
    assert_eq!(held, expected);
}

#[test]
fn a_stream_that_is_cut_in_its_first_sync_goes_on_with_the_topics_that_had_not_come() {
    let mut publisher = Publisher::new(KEY);
    let entry = |topic, value| (topic, "k".to_owned(), Some(value));
    let snapshot = publish(
        &mut publisher,
        &[entry(Topic::Config, "1"), entry(Topic::Pools, "2"), entry(Topic::Hosts(3), "3")],
    );
    let mut client = ClientSession::new();
    let (_, messages) = connect(&mut client, &snapshot, "x");
    assert_eq!(messages.len(), 4);
    assert_eq!(take(&mut client, &messages[..2]), Event::Nothing);
    assert_eq!((client.entry_count(), client.save("n")), (0, None), "nothing is visible");

    // Of two servers, one is where the first was; at the other a topic that had come has changed.
    let (_, rest) = connect(&mut client.clone(), &snapshot, "y");
    let came: Vec<&str> = replaces(&rest).iter().map(|replace| replace.topic.as_str()).collect();
    assert_eq!(came, [replaces(&messages)[2].topic.as_str()]);
    let changed = publish(&mut publisher, &[entry(Topic::Config, "9")]);
    let mut moved = client.clone();
    let (_, rest) = connect(&mut moved, &changed, "x");
    assert_eq!(replaces(&rest).len(), 2);
    let Event::Committed(committed) = take(&mut moved, &rest) else { panic!() };
    assert_same(&moved, &changed);
    let mut added: Vec<_> = committed.added.iter().map(arcstr::ArcStr::as_str).collect();
    added.retain(|topic| ["config", "hosts/3", "pools"].contains(topic));
    added.sort_unstable();
    assert_eq!(added, ["config", "hosts/3", "pools"], "each of them is new to the agent");
}

#[test]
fn what_was_staged_of_another_store_or_under_another_key_is_dropped() {
    let mut publisher = Publisher::new(KEY);
    let snapshot = publish(&mut publisher, &[(Topic::Pools, "k".into(), Some("1"))]);
    let mut client = ClientSession::new();
    let (_, messages) = connect(&mut client, &snapshot, "x");
    take(&mut client, &messages[..1]);
    client.disconnected();
    let hello = client.hello(AgentHello { node: "n".into(), ..AgentHello::default() }, false);
    assert_eq!(hello.held.len(), 1);
    let other = ServerFacts { epoch: "another".into(), ..(*facts("z")).clone() };
    client.receive(other.hello()).unwrap();
    let mut session = ServerSession::new(&hello, Arc::new(other)).unwrap();
    let empty = publish(&mut Publisher::new(KEY), &[]);
    let messages = advance(&mut session, &empty);
    take(&mut client, &messages);
    assert_eq!(client.entry_count(), 0);
}

/// A large topic, of which another server has a little different.
fn large() -> (Snapshot, Snapshot) {
    let mut publisher = Publisher::new(KEY);
    let key = |n: usize| format!("10.0.{}.{}/32", n / 250, n % 250);
    let entries: Vec<Write> =
        (0..3000).map(|n| (Topic::Pools, key(n), Some("a value of some length"))).collect();
    let before = publish(&mut publisher, &entries);
    let changes = [
        (Topic::Pools, key(5), Some("another value")),
        (Topic::Pools, key(700), None),
        (Topic::Pools, "new".into(), Some("new")),
    ];
    let after = publish(&mut publisher, &changes);
    (before, after)
}

fn bytes(messages: &[ServerMessage]) -> usize {
    messages.iter().map(ServerMessage::encoded_len).sum()
}

#[test]
fn of_a_large_topic_another_server_sends_the_buckets_that_differ() {
    let (before, after) = large();
    let mut client = ClientSession::new();
    let (_, whole) = connect(&mut client, &before, "x");
    take(&mut client, &whole);
    // A file has no key of digests in it, and tells of the buckets all the same.
    let restored = ClientSession::restore("n", &client.save("n").unwrap()).unwrap();
    for mut client in [client, restored] {
        let (_, gap) = connect(&mut client, &after, "y");
        assert!(replaces(&gap).iter().all(|replace| replace.bucket.is_some()));
        assert!(bytes(&gap) * 10 < bytes(&whole), "{} of {} bytes", bytes(&gap), bytes(&whole));
        let Event::Committed(committed) = take(&mut client, &gap) else { panic!() };
        assert_eq!(committed.changes.len(), 3);
        assert_same(&client, &after);
    }
}

#[test]
fn a_bucket_that_is_changed_on_its_way_is_noticed_at_the_commit_and_the_topic_comes_whole() {
    let (before, after) = large();
    let mut client = ClientSession::new();
    let (_, whole) = connect(&mut client, &before, "x");
    take(&mut client, &whole);
    let (mut session, mut gap) = connect(&mut client, &after, "y");
    let Some(Message::Replace(replace)) = &mut gap[0].message else { panic!() };
    replace.entries.pop();
    let Event::Send(asked) = take(&mut client, &gap) else { panic!("it was not noticed") };
    let Some(agent_message::Message::Resync(resync)) = asked.message else { panic!() };
    session.resync(&resync.topic);
    let again = advance(&mut session, &after);
    assert!(replaces(&again).iter().all(|replace| replace.bucket.is_none()));
    assert!(matches!(take(&mut client, &again), Event::Committed(_)));
    assert_same(&client, &after);
}

#[test]
fn a_bucket_with_what_does_not_belong_into_it_ends_the_session() {
    let (before, after) = large();
    let mut client = ClientSession::new();
    let (_, whole) = connect(&mut client, &before, "x");
    take(&mut client, &whole);
    let (_, mut gap) = connect(&mut client, &after, "y");
    let Some(Message::Replace(replace)) = &mut gap[0].message else { panic!() };
    replace.bucket = replace.bucket.map(|bucket| (bucket + 1) % 64);
    let error = client.receive(gap.remove(0)).unwrap_err();
    support::assert_bad_input("agent: a bucket with another's entries", &error.to_string());
}
