//! An agent that restarts with what it saved gets the gap, and what is no good is not taken.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use bulrush_sync::{
    Advance, Change, ClientSession, Committed, DigestKey, Event, Outgoing, Publisher, SavedError,
    ServerFacts, ServerSession, Vector,
};
use bytes::Bytes;
use model::{StreamIndex, view::Topic};
use proto::v1::{AgentHello, ServerMessage, server_message::Message};

const KEY: DigestKey = DigestKey([7; 16]);

fn facts(epoch: &str, incarnation: &str) -> Arc<ServerFacts> {
    Arc::new(ServerFacts {
        incarnation: incarnation.into(),
        epoch: epoch.into(),
        streams: vec!["etcd".into()],
        digest_key: KEY,
        heartbeat_seconds: 10,
        version: "0".into(),
    })
}

fn publish(publisher: &mut Publisher, version: u64, entries: &[(Topic, &str, &'static str)]) {
    let changes = entries.iter().map(|(topic, key, value)| Change {
        topic: topic.clone(),
        key: (*key).into(),
        value: Some(Bytes::from_static(value.as_bytes())),
    });
    let mut vector = Vector::default();
    vector.advance(StreamIndex(0), version);
    publisher.publish(changes, [], &vector, &vector, version);
}

fn entries() -> Vec<(Topic, &'static str, &'static str)> {
    vec![
        (Topic::Config, "a", "1"),
        (Topic::Pools, "10.0.0.0/16", "pool"),
        (Topic::Node("n".into()), "wep/k8s/ns/pod/eth0/u", "endpoint"),
    ]
}

/// All that the server sends to a client that connects, as it is given to the client.
fn connect(
    client: &mut ClientSession,
    publisher: &Publisher,
    facts: &Arc<ServerFacts>,
) -> (Vec<ServerMessage>, Committed) {
    client.disconnected();
    let hello = client.hello(AgentHello { node: "n".into(), ..AgentHello::default() }, false);
    let mut session = ServerSession::new(&hello, facts.clone()).unwrap();
    client.receive(facts.hello()).unwrap();
    let Advance::Frames(frames) = session.advance(&publisher.snapshot()) else { panic!() };
    let frames: Vec<_> = frames.into_iter().map(Outgoing::into_message).collect();
    let mut last = Event::Nothing;
    for frame in &frames {
        last = client.receive(frame.clone()).unwrap();
    }
    let Event::Committed(committed) = last else { panic!("{last:?}") };
    (frames, *committed)
}

fn held(client: &ClientSession) -> Vec<(String, String, Bytes)> {
    client.entries().map(|(t, k, v)| (t.to_string(), k.to_string(), v.clone())).collect()
}

#[test]
fn an_agent_that_restarts_with_its_saved_view_gets_only_the_gap() {
    let mut publisher = Publisher::new(KEY);
    publish(&mut publisher, 1, &entries());
    let here = facts("e", "run 1");
    let mut client = ClientSession::new();
    assert_eq!(client.save("n"), None, "there is nothing to save yet");
    connect(&mut client, &publisher, &here);
    let saved = client.save("n").unwrap();

    let mut restarted = ClientSession::restore("n", &saved).unwrap();
    assert_eq!(held(&restarted), held(&client));
    assert_eq!(restarted.vector(), client.vector());
    let (frames, committed) = connect(&mut restarted, &publisher, &here);
    assert_eq!(frames.len(), 1, "just the Commit: {frames:?}");
    assert_eq!(committed.changes, []);

    publish(&mut publisher, 2, &[(Topic::Pools, "10.0.0.0/16", "another pool")]);
    let mut restarted = ClientSession::restore("n", &saved).unwrap();
    let (frames, committed) = connect(&mut restarted, &publisher, &here);
    assert!(matches!(&frames[0].message, Some(Message::Delta(d)) if d.puts.len() == 1));
    assert_eq!((frames.len(), committed.changes.len()), (2, 1));

    // The same from another server: the topic that differs, and no other.
    let mut restarted = ClientSession::restore("n", &saved).unwrap();
    let (frames, committed) = connect(&mut restarted, &publisher, &facts("e", "run 2"));
    assert!(matches!(&frames[0].message, Some(Message::Replace(r)) if r.topic == "pools"));
    assert_eq!((frames.len(), committed.changes.len()), (2, 1));
}

#[test]
fn a_saved_view_holds_no_secret_and_a_newer_state_is_never_taken_back() {
    let mut publisher = Publisher::new(KEY);
    publish(&mut publisher, 5, &entries());
    let mut client = ClientSession::new();
    connect(&mut client, &publisher, &facts("e", "run 1"));
    let saved = client.save("n").unwrap();
    assert!(!saved.windows(KEY.0.len()).any(|bytes| bytes == KEY.0), "the digest key is in it");

    let mut restarted = ClientSession::restore("n", &saved).unwrap();
    let hello = restarted.hello(AgentHello { node: "n".into(), ..AgentHello::default() }, false);
    let mut old = Publisher::new(KEY);
    publish(&mut old, 4, &entries());
    let mut session = ServerSession::new(&hello, facts("e", "old")).unwrap();
    let Advance::Behind(behind) = session.advance(&old.snapshot()) else { panic!() };
    assert_eq!((behind.have, behind.need), (4, 5));
}

#[test]
fn of_a_saved_view_of_another_store_nothing_stays() {
    let mut publisher = Publisher::new(KEY);
    publish(&mut publisher, 9, &entries());
    let mut client = ClientSession::new();
    connect(&mut client, &publisher, &facts("e", "run 1"));
    let mut restarted = ClientSession::restore("n", &client.save("n").unwrap()).unwrap();
    let mut other = Publisher::new(KEY);
    publish(&mut other, 1, &[(Topic::Config, "b", "2")]);
    connect(&mut restarted, &other, &facts("another", "run 1"));
    let expected = ("config".to_owned(), "b".to_owned(), Bytes::from_static(b"2"));
    assert_eq!(held(&restarted), [expected]);
}

#[test]
fn a_saved_view_that_is_torn_in_any_place_is_not_taken() {
    let mut publisher = Publisher::new(KEY);
    publish(&mut publisher, 1, &entries());
    let mut client = ClientSession::new();
    connect(&mut client, &publisher, &facts("e", "run 1"));
    let saved = client.save("n").unwrap();
    for length in 0..saved.len() {
        assert!(ClientSession::restore("n", &saved[..length]).is_err(), "{length} bytes");
    }
    for place in 0..saved.len() {
        let mut bytes = saved.to_vec();
        bytes[place] ^= 0x10;
        assert!(ClientSession::restore("n", &bytes).is_err(), "byte {place}");
    }
    let longer = [&saved[..], b"x"].concat();
    assert_eq!(ClientSession::restore("n", &longer).unwrap_err(), SavedError::Torn);
    let other = ClientSession::restore("m", &saved).unwrap_err();
    assert_eq!(other, SavedError::Node { saved: "n".into(), own: "m".into() });
}
