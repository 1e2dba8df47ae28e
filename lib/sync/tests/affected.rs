//! Only agents that a publication has something for are woken, and they miss nothing by it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, sync::Arc};

use bulrush_sync::{
    Advance, Change, ClientSession, DigestKey, Publisher, ServerFacts, ServerSession, Snapshot,
    Vector, ViewChange,
};
use bytes::Bytes;
use model::{Kind, view::Topic};
use proptest::prelude::*;
use proto::v1::{AgentHello, View};

const KEY: DigestKey = DigestKey([5; 16]);

fn topic(index: u8) -> Topic {
    match index {
        0 => Topic::Pools,
        1 => Topic::Node("a".into()),
        2 => Topic::Node("b".into()),
        3 => Topic::IpSet("s:1".into()),
        4 => Topic::Profile("p".into()),
        5 => Topic::Res(Kind::Tier, 3),
        _ => Topic::Res(Kind::IPPool, 0),
    }
}

/// A session that is given snapshots, and the client at its other end.
struct Pair {
    server: ServerSession,
    client: ClientSession,
}

impl Pair {
    fn new(hello: &AgentHello, facts: &Arc<ServerFacts>) -> Self {
        let mut client = ClientSession::new();
        client.receive(facts.hello()).unwrap();
        Self { server: ServerSession::new(hello, facts.clone()).unwrap(), client }
    }

    /// How many messages came.
    fn advance(&mut self, snapshot: &Snapshot) -> usize {
        let Advance::Frames(frames) = self.server.advance(snapshot) else { panic!("no frames") };
        let count = frames.clone().count();
        for frame in frames {
            self.client.receive(frame.into_message()).unwrap();
        }
        assert_eq!(self.client.resyncs(), 0);
        count
    }

    fn held(&self) -> BTreeMap<(String, String), Bytes> {
        let entries = self.client.entries();
        entries.map(|(t, key, value)| ((t.to_string(), key.to_string()), value.clone())).collect()
    }
}

#[derive(Clone, Debug)]
struct Batch {
    changes: Vec<(u8, u8, Option<u8>)>,
    views: Vec<(bool, u8, bool)>,
}

fn batch() -> impl Strategy<Value = Batch> {
    let change = (0..7_u8, 0..3_u8, proptest::option::weighted(0.6, 0..4_u8));
    let view = (any::<bool>(), 3..5_u8, any::<bool>());
    let changes = proptest::collection::vec(change, 0..3);
    (changes, proptest::collection::vec(view, 0..2))
        .prop_map(|(changes, views)| Batch { changes, views })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn who_is_not_affected_gets_nothing_and_who_sleeps_meanwhile_misses_nothing(
        batches in proptest::collection::vec(batch(), 1..40),
    ) {
        let facts = Arc::new(ServerFacts {
            incarnation: "i".into(),
            epoch: "e".into(),
            streams: vec!["etcd".into()],
            digest_key: KEY,
            heartbeat_seconds: 10,
            version: "0".into(),
        });
        let node = |node: &str| AgentHello { node: node.into(), ..AgentHello::default() };
        let full = AgentHello {
            view: View::Full.into(), kinds: vec!["Tier".into()], ..AgentHello::default()
        };
        let hellos = [node("a"), node("b"), node("c"), full];
        let none = Vector::default();
        let mut publisher = Publisher::new(KEY);
        publisher.publish([], [], &none, &none, 0);
        let pairs = |hellos: &[AgentHello]| -> Vec<Pair> {
            hellos.iter().map(|hello| Pair::new(hello, &facts)).collect()
        };
        let (mut eager, mut woken) = (pairs(&hellos), pairs(&hellos));
        for pair in eager.iter_mut().chain(&mut woken) {
            pair.advance(&publisher.snapshot());
        }
        for batch in batches {
            let before = publisher.snapshot().publication;
            let changes = batch.changes.into_iter().map(|(index, key, value)| Change {
                topic: topic(index),
                key: arcstr::format!("{key}"),
                value: value.map(|value| vec![value; 40].into()),
            });
            let views = batch.views.into_iter().map(|(first, index, add)| {
                let (add, drop) = if add { (vec![topic(index)], vec![]) } else { (vec![], vec![topic(index)]) };
                ViewChange { node: if first { "a" } else { "b" }.into(), add, drop }
            });
            let publication = publisher.publish(changes, views, &none, &none, 0).publication;
            let snapshot = publisher.snapshot();
            for (eager, woken) in eager.iter_mut().zip(&mut woken) {
                let came = eager.advance(&snapshot);
                if publication == before {
                    prop_assert_eq!(came, 0);
                    continue;
                }
                if woken.server.subscription().is_affected(publisher.affected()) {
                    woken.server.unaffected_until(publication - 1);
                    woken.advance(&snapshot);
                } else {
                    prop_assert_eq!(came, 0, "it was not affected");
                }
                prop_assert_eq!(woken.held(), eager.held());
            }
        }
    }
}
