//! What agents desire after any sequence of updates is what a naive recomputation says: through the
//! engine, the wire's encoding, the server's sessions and the clients', however far an agent lags.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a panic is a failed test")]

mod support;

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use model::{Key, StreamIndex, view::Topic};
use proptest::{collection::vec, prelude::*};
use proto::v1::AgentHello;
use support::{
    cluster::{Cluster, Topics},
    naive::{self, Objects},
    objects::{Obj, object},
};
use sync::{
    Advance, Change, ClientSession, DigestKey, Event, Publisher, ServerFacts, ServerSession,
    Vector, ViewChange,
};

const KEY: DigestKey = DigestKey([5; 16]);
const NODES: [&str; 3] = ["n1", "n2", "n3"];

fn facts() -> Arc<ServerFacts> {
    Arc::new(ServerFacts {
        incarnation: "i".into(),
        epoch: "e".into(),
        streams: vec!["etcd".into()],
        digest_key: KEY,
        heartbeat_seconds: 10,
        version: "0".into(),
    })
}

#[derive(Clone, Debug)]
enum Op {
    Put(Key, Box<Obj>),
    /// Deletes one of the objects that are there.
    Delete(prop::sample::Index),
    /// The server publishes what has gathered.
    Publish,
    /// An agent gets what the server has for it.
    Deliver(usize),
    /// An agent's stream breaks; it comes back and says what it holds.
    Reconnect(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        10 => object().prop_map(|(key, obj)| Op::Put(key, Box::new(obj))),
        3 => any::<prop::sample::Index>().prop_map(Op::Delete),
        3 => Just(Op::Publish),
        3 => (0..NODES.len()).prop_map(Op::Deliver),
        1 => (0..NODES.len()).prop_map(Op::Reconnect),
    ]
}

struct Agent {
    node: &'static str,
    client: ClientSession,
    server: ServerSession,
}

impl Agent {
    fn new(node: &'static str) -> Self {
        let mut client = ClientSession::new();
        let server = connect(node, &mut client);
        Self { node, client, server }
    }

    fn deliver(&mut self, publisher: &Publisher) {
        let Advance::Frames(frames) = self.server.advance(&publisher.snapshot()) else { panic!() };
        for frame in frames {
            let event = self.client.receive(frame.into_message()).unwrap();
            assert!(matches!(event, Event::Nothing | Event::Committed(_)), "{event:?}");
        }
    }

    /// What the agent acts on.
    fn desired(&self) -> Topics {
        let mut desired = Topics::new();
        for (topic, key, bytes) in self.client.entries() {
            let topic: Topic = topic.parse().unwrap();
            let entry = proto::decode(&topic, bytes, &[]).unwrap();
            desired.entry(topic).or_default().insert(key.clone(), entry);
        }
        desired
    }
}

fn connect(node: &str, client: &mut ClientSession) -> ServerSession {
    client.disconnected();
    let base = AgentHello { node: node.into(), ..AgentHello::default() };
    let hello = client.hello(base, false);
    client.receive(facts().hello()).unwrap();
    ServerSession::new(&hello, facts()).unwrap()
}

fn publish(cluster: &mut Cluster, publisher: &mut Publisher, version: u64) {
    let output = cluster.flush();
    let changes = output.changes.into_iter().map(|change| Change {
        topic: change.topic,
        key: change.key,
        value: change.entry.map(|entry| Bytes::from(proto::encode(&entry))),
    });
    let views = output.views.into_iter().map(|view| ViewChange {
        node: view.node,
        add: view.add,
        drop: view.drop,
    });
    let mut vector = Vector::default();
    vector.advance(StreamIndex(0), version);
    publisher.publish(changes, views, &vector, &vector, version);
}

/// The view of a node, from the objects alone.
fn expected(objects: &Objects, node: &str) -> Topics {
    let expected = naive::expected(objects);
    let needed = expected.views.get(node).cloned().unwrap_or_default();
    let own = [Topic::Node(node.into())];
    let view = Topic::common().chain(own).chain(needed);
    view.filter_map(|topic| Some((topic.clone(), expected.topics.get(&topic)?.clone()))).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, ..ProptestConfig::default() })]

    #[test]
    fn agents_desire_what_the_objects_say(ops in vec(op(), 1..60)) {
        let (mut cluster, mut publisher) = (Cluster::new(), Publisher::new(KEY));
        let mut objects = Objects::new();
        // Sessions begin when there is something to serve, as in a server.
        publish(&mut cluster, &mut publisher, 0);
        let mut agents = NODES.map(Agent::new);
        let mut published: BTreeMap<&str, Topics> = BTreeMap::new();
        for (version, op) in ops.iter().chain([&Op::Publish]).enumerate() {
            match op {
                Op::Put(key, obj) => {
                    cluster.update(key, Some(obj.stored(key)));
                    objects.insert(key.clone(), obj.as_ref().clone());
                }
                Op::Delete(index) => {
                    let keys = objects.keys().cloned().collect::<Vec<_>>();
                    if !keys.is_empty() {
                        let key = index.get(&keys);
                        cluster.delete(key);
                        objects.remove(key);
                    }
                }
                Op::Publish => {
                    publish(&mut cluster, &mut publisher, version as u64 + 1);
                    published = NODES.map(|node| (node, expected(&objects, node))).into();
                }
                Op::Deliver(agent) => {
                    let agent = &mut agents[*agent];
                    agent.deliver(&publisher);
                    let due = published.get(agent.node).cloned().unwrap_or_default();
                    prop_assert_eq!(agent.desired(), due, "{}", agent.node);
                }
                Op::Reconnect(agent) => {
                    let agent = &mut agents[*agent];
                    agent.server = connect(agent.node, &mut agent.client);
                }
            }
        }
        for agent in &mut agents {
            agent.deliver(&publisher);
            prop_assert_eq!(agent.desired(), expected(&objects, agent.node), "{}", agent.node);
        }
    }
}
