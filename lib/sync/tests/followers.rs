//! Followers at different speeds over many updates: all of them end with the same, and the slow one is sent less.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, sync::Arc};

use bulrush_sync::{
    Advance, Change, ClientSession, DigestKey, Event, Outgoing, Publisher, ServerFacts,
    ServerSession, Snapshot, Vector,
};
use bytes::Bytes;
use model::{
    StreamIndex,
    view::{SHARDS, Topic},
};
use proto::v1::{AgentHello, ServerMessage, server_message::Message};

const KEY: DigestKey = DigestKey([5; 16]);
const UPDATES: u64 = 100_000;
const KEYS: u64 = 500;

/// Numbers that look random, the same each time.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        // The generator of Knuth's MMIX.
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

struct Follower {
    client: ClientSession,
    server: ServerSession,
    /// It looks at every so manieth publication.
    every: u64,
    puts: u64,
    version: u64,
}

impl Follower {
    fn new(facts: &Arc<ServerFacts>, every: u64) -> Self {
        let mut client = ClientSession::new();
        let hello = client.hello(AgentHello { node: "n".into(), ..AgentHello::default() }, false);
        client.receive(facts.hello()).unwrap();
        let server = ServerSession::new(&hello, facts.clone()).unwrap();
        Self { client, server, every, puts: 0, version: 0 }
    }

    fn follow(&mut self, snapshot: &Snapshot) {
        let Advance::Frames(frames) = self.server.advance(snapshot) else { panic!() };
        for frame in frames.into_iter().map(Outgoing::into_message) {
            self.puts += puts(&frame);
            match self.client.receive(frame).unwrap() {
                Event::Nothing => {}
                Event::Committed(committed) => {
                    let version = committed.vector.get(StreamIndex(0));
                    assert!(version >= self.version);
                    self.version = version;
                }
                other => panic!("{other:?}"),
            }
        }
    }
}

fn puts(frame: &ServerMessage) -> u64 {
    match &frame.message {
        Some(Message::Delta(delta)) => delta.puts.len() as u64,
        Some(Message::Replace(replace)) => replace.entries.len() as u64,
        _ => 0,
    }
}

#[test]
fn fast_and_slow_followers_converge_over_a_hundred_thousand_updates() {
    let facts = Arc::new(ServerFacts {
        incarnation: "run".into(),
        epoch: "e".into(),
        streams: vec!["etcd".into()],
        digest_key: KEY,
        heartbeat_seconds: 10,
        version: "0".into(),
    });
    let mut publisher = Publisher::with_history(KEY, 1024 * 1024);
    let mut followers = [1, 7, 400, 9000].map(|every| Follower::new(&facts, every));
    let mut random = Random(1);
    let mut expected: BTreeMap<(String, String), Bytes> = BTreeMap::new();
    let mut version = 0;
    while version < UPDATES {
        let mut changes = Vec::new();
        for _ in 0..=random.below(9) {
            version += 1;
            let number = random.below(KEYS);
            let topic = match number % 4 {
                0 => Topic::Config,
                1 => Topic::Pools,
                2 => Topic::Hosts((number % u64::from(SHARDS)) as u8),
                _ => Topic::Node("n".into()),
            };
            let key = format!("key-{number}");
            let value = (random.below(5) > 0).then(|| Bytes::from(format!("value {version}")));
            let place = (topic.to_string(), key.clone());
            match value.clone() {
                Some(value) => expected.insert(place, value),
                None => expected.remove(&place),
            };
            changes.push(Change { topic, key: key.into(), value });
        }
        let mut vector = Vector::default();
        vector.advance(StreamIndex(0), version);
        publisher.publish(changes, [], &vector, &vector, version);
        let snapshot = publisher.snapshot();
        for follower in &mut followers {
            if snapshot.publication.is_multiple_of(follower.every) {
                follower.follow(&snapshot);
            }
        }
    }
    let snapshot = publisher.snapshot();
    for follower in &mut followers {
        follower.follow(&snapshot);
        let held = follower.client.entries();
        let held: BTreeMap<_, _> =
            held.map(|(t, k, v)| ((t.to_string(), k.to_string()), v.clone())).collect();
        assert_eq!(held, expected, "every {}", follower.every);
        assert_eq!(follower.client.resyncs(), 0);
        assert_eq!(follower.version, version);
    }
    let sent = followers.map(|follower| follower.puts);
    assert!(sent[3] * 10 < sent[0], "the slowest gets the newest of each only: {sent:?}");
}
