//! Whatever the other side sends, in whatever order: nothing panics, nothing grows beyond what came, what
//! is held is what its digests say, and an error names what was wrong.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, sync::Arc};

use bulrush_sync::{
    Advance, Change, ClientSession, DigestKey, Event, Outgoing, Publisher, ServerFacts,
    ServerSession, TopicDigest, Vector, ViewChange,
};
use bytes::Bytes;
use model::{
    StreamIndex,
    view::{self, Topic},
};
use proptest::{prelude::*, sample::Index};
use prost::Message as _;
use proto::v1::{
    AgentHello, Commit, Delta, Digest, GoAway, Heartbeat, HeldTopic, KeyValue, Replace,
    ServerHello, ServerMessage, StreamList, StreamVersion, server_message::Message,
};

const KEY: DigestKey = DigestKey([5; 16]);

fn facts() -> Arc<ServerFacts> {
    Arc::new(ServerFacts {
        incarnation: "run".into(),
        epoch: "store".into(),
        streams: vec!["etcd".into()],
        digest_key: KEY,
        heartbeat_seconds: 10,
        version: "0".into(),
    })
}

fn topic(index: usize) -> Topic {
    match index {
        0 => Topic::Config,
        1 => Topic::Pools,
        2 => Topic::Node("n".into()),
        _ => Topic::Profile("p".into()),
    }
}

/// A write: topic, key, and the value's length; none: a delete.
type Write = (usize, u8, Option<usize>);

fn publish(publisher: &mut Publisher, version: u64, writes: &[Write]) {
    let changes = writes.iter().map(|(index, key, value)| Change {
        topic: topic(*index),
        key: arcstr::format!("{key}"),
        value: value.map(|length| Bytes::from(vec![version as u8; length])),
    });
    let add = if version.is_multiple_of(2) { vec![topic(3)] } else { Vec::new() };
    let drop = if version.is_multiple_of(2) { Vec::new() } else { vec![topic(3)] };
    let view = ViewChange { node: "n".into(), add, drop };
    let mut vector = Vector::default();
    vector.advance(StreamIndex(0), version);
    publisher.publish(changes, [view], &vector, &vector, 0);
}

/// What a server sends to an agent of node `n` that holds nothing.
fn stream(publications: &[Vec<Write>]) -> Vec<ServerMessage> {
    let hello = AgentHello { node: "n".into(), ..AgentHello::default() };
    let mut session = ServerSession::new(&hello, facts()).unwrap();
    let mut publisher = Publisher::new(KEY);
    let mut messages = vec![facts().hello()];
    for (writes, version) in publications.iter().zip(1..) {
        publish(&mut publisher, version, writes);
        match session.advance(&publisher.snapshot()) {
            Advance::Frames(frames) => {
                messages.extend(frames.into_iter().map(Outgoing::into_message));
            }
            other => panic!("{other:?}"),
        }
    }
    messages
}

/// What happens to a message on its way.
#[derive(Clone, Debug)]
enum Mischief {
    Lost(Index),
    /// Comes again at another place.
    Again(Index, Index),
    Swapped(Index, Index),
    /// One bit of its bytes is another.
    Flipped(Index, Index, u8),
    /// Its bytes end early.
    Torn(Index, Index),
    Inserted(Index, Box<Message>),
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => proptest::sample::select(vec!["config", "pools", "node/n", "profile/p", "", "0", "1"])
            .prop_map(str::to_owned),
        1 => any::<String>(),
    ]
}

fn digest() -> impl Strategy<Value = Option<Digest>> {
    let sum = prop_oneof![Just(vec![0; 16]), prop::collection::vec(any::<u8>(), 0..20)];
    proptest::option::of((sum, any::<u64>()).prop_map(|(sum, count)| Digest { sum, count }))
}

fn entries() -> impl Strategy<Value = Vec<KeyValue>> {
    let entry = (text(), prop::collection::vec(any::<u8>(), 0..9))
        .prop_map(|(key, value)| KeyValue { key, value: value.into() });
    prop::collection::vec(entry, 0..4)
}

fn versions() -> impl Strategy<Value = Vec<StreamVersion>> {
    let stream = prop_oneof![0..3_u32, any::<u32>()];
    let version = (stream, prop_oneof![0..9_u64, any::<u64>()])
        .prop_map(|(stream, version)| StreamVersion { stream, version });
    prop::collection::vec(version, 0..3)
}

/// What a list of a stream may tell.
fn lists(number: u64) -> Vec<StreamList> {
    let list = |stream| StreamList { stream, version: number, objects: number % 3 };
    [0, 1, u32::MAX].into_iter().take(number as usize % 4).map(list).collect()
}

fn message() -> impl Strategy<Value = Message> {
    let texts = || prop::collection::vec(text(), 0..3);
    // That of a key of `entries`, most often.
    let of_key = (0..4_u8).prop_map(|key| Some(view::bucket(&key.to_string()).into()));
    let bucket = prop_oneof![3 => Just(None), 2 => of_key, 1 => any::<u32>().prop_map(Some)];
    let part = prop_oneof![4 => 0..3_u32, 1 => any::<u32>()];
    prop_oneof![
        (text(), bucket, part, any::<bool>(), entries(), digest()).prop_map(
            |(topic, bucket, part, last, entries, digest_after)| Message::Replace(Replace {
                topic,
                bucket,
                part,
                last,
                entries,
                digest_after
            })
        ),
        (text(), entries(), texts(), digest(), any::<(u64, u64)>()).prop_map(
            |(topic, puts, deletes, digest_after, (from, to))| Message::Delta(Delta {
                topic,
                from,
                to,
                puts,
                deletes,
                digest_after
            })
        ),
        (any::<u64>(), versions(), versions(), texts(), texts(), any::<bool>()).prop_map(
            |(publication, vector, progress, add, drop, in_sync)| Message::Commit(Commit {
                publication,
                vector,
                progress,
                add,
                drop,
                in_sync,
                observed_at: publication,
                lists: lists(publication),
            })
        ),
        (text(), prop::collection::vec(any::<u8>(), 0..20)).prop_map(|(epoch, digest_key)| {
            Message::Hello(ServerHello { epoch, digest_key, ..ServerHello::default() })
        }),
        any::<i32>().prop_map(|why| Message::GoAway(GoAway { why, ..GoAway::default() })),
        versions().prop_map(|progress| {
            Message::Heartbeat(Heartbeat { progress, ..Heartbeat::default() })
        }),
    ]
}

fn mischief() -> impl Strategy<Value = Mischief> {
    let at = any::<Index>;
    prop_oneof![
        at().prop_map(Mischief::Lost),
        (at(), at()).prop_map(|(from, to)| Mischief::Again(from, to)),
        (at(), at()).prop_map(|(one, two)| Mischief::Swapped(one, two)),
        (at(), at(), 0..8_u8).prop_map(|(which, byte, bit)| Mischief::Flipped(which, byte, bit)),
        (at(), at()).prop_map(|(which, byte)| Mischief::Torn(which, byte)),
        (at(), message()).prop_map(|(to, new)| Mischief::Inserted(to, Box::new(new))),
    ]
}

/// Messages as bytes, after what was done to them.
fn apply(messages: &mut Vec<Vec<u8>>, mischief: Mischief) {
    if messages.is_empty() {
        return;
    }
    let count = messages.len();
    match mischief {
        Mischief::Lost(at) => drop(messages.remove(at.index(count))),
        Mischief::Again(from, to) => {
            let copy = messages[from.index(count)].clone();
            messages.insert(to.index(count + 1), copy);
        }
        Mischief::Swapped(one, two) => messages.swap(one.index(count), two.index(count)),
        Mischief::Flipped(which, byte, bit) => {
            let bytes = &mut messages[which.index(count)];
            if !bytes.is_empty() {
                let byte = byte.index(bytes.len());
                bytes[byte] ^= 1 << bit;
            }
        }
        Mischief::Torn(which, byte) => {
            let bytes = &mut messages[which.index(count)];
            bytes.truncate(byte.index(bytes.len() + 1));
        }
        Mischief::Inserted(to, message) => {
            let message = ServerMessage { message: Some(*message) };
            messages.insert(to.index(count + 1), message.encode_to_vec());
        }
    }
}

type Contents = BTreeMap<(String, String), Bytes>;

fn contents(client: &ClientSession) -> Contents {
    let entries = client.entries();
    entries.map(|(t, k, v)| ((t.to_string(), k.to_string()), v.clone())).collect()
}

fn digests_agree(client: &ClientSession, key: &DigestKey) -> bool {
    let mut digests: BTreeMap<String, TopicDigest> = BTreeMap::new();
    for (topic, entry_key, value) in client.entries() {
        digests.entry(topic.to_string()).or_default().add(key, topic, entry_key, value);
    }
    client
        .digests()
        .all(|(topic, digest)| digests.get(topic.as_str()).copied().unwrap_or_default() == digest)
}

fn writes() -> impl Strategy<Value = Vec<Vec<Write>>> {
    // 40,000 bytes: more than one of them is more than a part.
    let length = prop_oneof![4 => 0..20_usize, 1 => Just(40_000_usize)];
    let write = (0..4_usize, 0..3_u8, proptest::option::weighted(0.8, length));
    prop::collection::vec(prop::collection::vec(write, 0..6), 1..6)
}

/// Enough to meet each mischief at each kind of message many times.
const CASES: u32 = 1500;

proptest! {
    #![proptest_config(ProptestConfig { cases: CASES, ..ProptestConfig::default() })]

    /// A server that may send anything.
    #[test]
    fn a_client_holds_what_its_digests_say_whatever_it_is_sent(
        publications in writes(),
        mischiefs in prop::collection::vec(mischief(), 0..6),
        hello_is_whole in proptest::bool::weighted(0.8),
    ) {
        let hello = facts().hello();
        let skip = usize::from(hello_is_whole);
        let messages = stream(&publications);
        let mut messages: Vec<_> =
            messages.iter().skip(skip).map(ServerMessage::encode_to_vec).collect();
        for mischief in mischiefs {
            apply(&mut messages, mischief);
        }
        let mut client = ClientSession::new();
        let mut key = KEY;
        let mut received = 0;
        if hello_is_whole {
            client.receive(hello).unwrap();
        }
        let mut mirror = Contents::new();
        for bytes in messages {
            received += bytes.len();
            // Bytes that are no message end the stream below the session.
            let Ok(message) = ServerMessage::decode(bytes.as_slice()) else { break };
            if let Some(Message::Hello(hello)) = &message.message
                && let Ok(new) = hello.digest_key.as_slice().try_into()
            {
                key = DigestKey(new);
            }
            let event = match client.receive(message) {
                Ok(event) => event,
                Err(error) => {
                    prop_assert!(error.to_string().len() > 20, "{error}");
                    break;
                }
            };
            if let Event::Committed(committed) = event {
                for change in committed.changes {
                    let at = (change.topic.to_string(), change.key.to_string());
                    match change.value {
                        Some(value) => drop(mirror.insert(at, value)),
                        None => prop_assert!(mirror.remove(&at).is_some(), "{at:?} wasn't there"),
                    }
                }
            }
            prop_assert_eq!(&contents(&client), &mirror);
            prop_assert!(digests_agree(&client, &key));
            let held: usize = mirror.iter().map(|((_, k), v)| k.len() + v.len()).sum();
            prop_assert!(held <= received, "{held} bytes of {received}");
        }
        // The next session mends it all, whatever it was.
        client.disconnected();
        prop_assert_eq!(&contents(&client), &mirror);
        if client.epoch() == "store" {
            prop_assert!(heals(client, &publications)?);
        }
    }

    /// An agent that may say anything.
    #[test]
    fn a_server_serves_or_refuses_whatever_an_agent_says(
        publications in writes(),
        node in text(),
        view in prop_oneof![3 => 0..2_i32, 1 => any::<i32>()],
        kinds in prop::collection::vec(prop_oneof![Just("Tier".to_owned()), any::<String>()], 0..3),
        epoch in prop_oneof![Just("store".to_owned()), any::<String>()],
        incarnation in prop_oneof![Just("run".to_owned()), any::<String>()],
        publication in prop_oneof![0..7_u64, any::<u64>()],
        vector in versions(),
        held in prop::collection::vec((text(), digest()), 0..6),
        accept_rollback in any::<bool>(),
        asks in prop::collection::vec((0..6_usize, text(), any::<u64>()), 0..6),
        flip in proptest::option::of((any::<Index>(), 0..8_u8)),
    ) {
        let held = held.into_iter().map(|(topic, digest)| HeldTopic { topic, digest, ..HeldTopic::default() }).collect();
        let hello = AgentHello {
            node, view, kinds, epoch, incarnation, publication, vector, held, accept_rollback,
            ..AgentHello::default()
        };
        let mut bytes = hello.encode_to_vec();
        if let Some((at, bit)) = flip && !bytes.is_empty() {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        let Ok(hello) = AgentHello::decode(bytes.as_slice()) else { return Ok(()) };
        let mut session = match ServerSession::new(&hello, facts()) {
            Ok(session) => session,
            Err(refusal) => {
                prop_assert!(refusal.to_string().len() > 20, "{refusal}");
                return Ok(());
            }
        };
        let mut publisher = Publisher::new(KEY);
        publish(&mut publisher, 0, &[]);
        for (version, writes) in (1..).zip(&publications) {
            publish(&mut publisher, version, writes);
            for (_, topic, until) in asks.iter().filter(|(at, ..)| *at as u64 == version) {
                session.resync(topic);
                if until % 3 == 0 {
                    session.unaffected_until(*until % 7);
                }
            }
            let snapshot = publisher.snapshot();
            match session.advance(&snapshot) {
                Advance::Frames(frames) => {
                    let sent: usize =
                        frames.into_iter().map(|frame| frame.into_message().encoded_len()).sum();
                    let topics = snapshot.topics();
                    let there: usize = topics
                        .flat_map(|(_, state)| state.entries.iter())
                        .map(|(key, value)| key.len() + value.len() + 32)
                        .sum();
                    // Besides entries: some 130 topics that are named, and what the agent named.
                    let bound = 2 * there + 300 * 130 + 2 * bytes.len();
                    prop_assert!(sent <= bound, "{sent} bytes are sent of {there}");
                }
                Advance::Behind(behind) => prop_assert!(behind.need > behind.have),
                Advance::Rewound => prop_assert!(false, "the store didn't go back"),
            }
        }
    }

    /// Bytes that are no message are refused, not misread.
    #[test]
    fn garbage_is_no_message(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut client = ClientSession::new();
        client.receive(facts().hello()).unwrap();
        if let Ok(message) = ServerMessage::decode(bytes.as_slice()) {
            let _ = client.receive(message);
        }
        if let Ok(hello) = AgentHello::decode(bytes.as_slice()) {
            let _ = ServerSession::new(&hello, facts());
        }
        prop_assert!(ClientSession::restore("n", &bytes).is_err());
    }
}

/// Whether the client, as it is, comes to hold what the server has.
fn heals(mut client: ClientSession, publications: &[Vec<Write>]) -> Result<bool, TestCaseError> {
    let mut publisher = Publisher::new(KEY);
    for (version, writes) in (1..).zip(publications) {
        publish(&mut publisher, version, writes);
    }
    let base = AgentHello { node: "n".into(), ..AgentHello::default() };
    // What it was told may be of a time that never was.
    let hello = client.hello(base, true);
    let other = ServerFacts { incarnation: "another run".into(), ..(*facts()).clone() };
    let mut session = ServerSession::new(&hello, Arc::new(other)).unwrap();
    client.receive(facts().hello()).unwrap();
    let snapshot = publisher.snapshot();
    let Advance::Frames(frames) = session.advance(&snapshot) else { return Ok(false) };
    for frame in frames {
        client.receive(frame.into_message()).map_err(|e| TestCaseError::fail(e.to_string()))?;
    }
    let view = snapshot.node_view(&"n".into());
    let topics = snapshot.topics().filter(|(topic, _)| view.contains(topic));
    let expected: Contents = topics
        .flat_map(|(topic, state)| {
            let entry = move |(k, v): (&arcstr::ArcStr, &Bytes)| {
                ((topic.to_string(), k.to_string()), v.clone())
            };
            state.entries.iter().map(entry)
        })
        .collect();
    Ok(contents(&client) == expected)
}

#[test]
fn a_commit_before_the_last_part_of_a_topic_is_refused() {
    let large: Vec<Write> = (0..3).map(|key| (1, key, Some(40_000))).collect();
    let mut messages = stream(&[large]);
    let last = messages.iter().position(|message| {
        matches!(&message.message, Some(Message::Replace(r)) if r.topic == "pools" && r.last)
    });
    messages.remove(last.unwrap());
    let mut client = ClientSession::new();
    let errors = messages.into_iter().filter_map(|message| client.receive(message).err());
    let errors: Vec<String> = errors.map(|error| error.to_string()).collect();
    support::assert_bad_input("agent: a topic of which the last part never came", &errors[0]);
    assert_eq!(client.entry_count(), 0, "nothing of it is visible");
}
