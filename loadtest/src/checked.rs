//! The agents' own session with a judge in front of it, and an injector in front of both.
//!
//! No IO: what came in, and what it means to the agent and to the test.

use proto::v1::{AgentHello, AgentMessage, ServerMessage};
use sync::{ClientError, ClientSession, Committed, Event};

use crate::{
    inject::Injector,
    judge::{Fault, Judge, Kind},
};

/// What a message led to.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// An error of the server, or of the injector.
    Fault(Fault),
    /// A Commit became visible.
    Committed(Box<Committed>),
    /// To be sent to the server.
    Send(AgentMessage),
    /// The stream is to be opened anew.
    Reconnect,
}

/// A session of which every message is checked.
#[derive(Default)]
pub(crate) struct CheckedSession {
    session: ClientSession,
    judge: Judge,
    injector: Option<Injector>,
}

impl CheckedSession {
    pub(crate) fn new(injector: Option<Injector>) -> Self {
        Self { injector, ..Self::default() }
    }

    /// See [`ClientSession::hello`].
    pub(crate) fn hello(&mut self, base: AgentHello) -> AgentHello {
        self.session.hello(base, false)
    }

    /// See [`ClientSession::ack`].
    pub(crate) fn ack(&self) -> AgentMessage {
        self.session.ack(Vec::new())
    }

    /// The stream ended.
    pub(crate) fn disconnected(&mut self) {
        self.session.disconnected();
        self.judge.disconnected();
        if let Some(injector) = &mut self.injector {
            injector.disconnected();
        }
    }

    /// A message came. With an error, which is also among the outcomes, the stream must end.
    pub(crate) fn receive(
        &mut self,
        message: ServerMessage,
        outcomes: &mut Vec<Outcome>,
    ) -> Result<(), ClientError> {
        let messages = match &mut self.injector {
            Some(injector) => injector.pass(message),
            None => vec![message],
        };
        for message in messages {
            let fault = self.judge.message(&message);
            let known = fault.is_some();
            outcomes.extend(fault.map(Outcome::Fault));
            match self.session.receive(message) {
                Ok(Event::Committed(committed)) => {
                    outcomes.extend(self.judge.visible(&self.session).map(Outcome::Fault));
                    outcomes.push(Outcome::Committed(committed));
                }
                Ok(Event::Send(message)) => {
                    let text = "a digest came out differently, and a resync was asked".to_owned();
                    outcomes.push(Outcome::Fault(Fault { kind: Kind::Digest, text }));
                    outcomes.push(Outcome::Send(message));
                }
                Ok(Event::GoAway(_)) => outcomes.push(Outcome::Reconnect),
                Ok(Event::Hello(_) | Event::Nothing | Event::Heartbeat(_) | Event::Behind(_)) => {}
                Err(error) => {
                    if !known {
                        let fault = Fault { kind: Kind::Order, text: error.to_string() };
                        outcomes.push(Outcome::Fault(fault));
                    }
                    return Err(error);
                }
            }
        }
        if self.injector.as_ref().is_some_and(Injector::wants_reconnect) {
            outcomes.push(Outcome::Reconnect);
        }
        Ok(())
    }

    /// At the end: everything that is held, computed anew.
    pub(crate) fn recompute(&self) -> Option<Fault> {
        self.judge.recompute(&self.session)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use model::{
        Kind as Object,
        view::{RES_SHARDS, Topic},
    };
    use proto::v1::{View, server_message::Message};
    use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
    use sync::{Advance, Change, DigestKey, Publisher, ServerFacts, ServerSession, Vector};

    use super::*;
    use crate::inject::{Inject, Injected};

    /// A publisher, and the server's side of one agent's session.
    struct Server {
        publisher: Publisher,
        version: u64,
        session: ServerSession,
        random: StdRng,
    }

    fn facts() -> Arc<ServerFacts> {
        Arc::new(ServerFacts {
            incarnation: "i".into(),
            epoch: "e".into(),
            streams: vec!["etcd".into()],
            digest_key: DigestKey([3; 16]),
            heartbeat_seconds: 10,
            version: String::new(),
        })
    }

    impl Server {
        fn new(seed: u64, agent: &mut CheckedSession) -> Self {
            let mut server = Self {
                publisher: Publisher::new(DigestKey([3; 16])),
                version: 0,
                session: session(agent),
                random: StdRng::seed_from_u64(seed),
            };
            // So much that every topic's Deltas are shorter than the topic.
            let all = (0..RES_SHARDS).flat_map(|shard| (0..20).map(move |key| (shard, key)));
            server.publish(&all.collect::<Vec<_>>());
            server
        }

        /// Writes these entries, each with a value that it never had.
        fn publish(&mut self, entries: &[(u8, u32)]) {
            self.version += 1;
            let value = Bytes::from(format!("{:0100}", self.version));
            let changes = entries.iter().map(|(shard, key)| Change {
                topic: Topic::Res(Object::Tier, *shard),
                key: format!("key-{key}").into(),
                value: Some(value.clone()),
            });
            let mut vector = Vector::default();
            vector.advance(model::StreamIndex(0), self.version);
            self.publisher.publish(changes.collect::<Vec<_>>(), [], &vector, &vector, 0);
        }

        /// A few random entries in a few topics.
        fn publish_some(&mut self) {
            let count = self.random.random_range(1..6);
            let entry =
                |random: &mut StdRng| (random.random_range(0..4), random.random_range(0..3));
            let entries: Vec<_> = (0..count).map(|_| entry(&mut self.random)).collect();
            self.publish(&entries);
        }

        /// What goes to the agent now.
        fn messages(&mut self) -> Vec<ServerMessage> {
            match self.session.advance(&self.publisher.snapshot()) {
                Advance::Frames(frames) => {
                    frames.into_iter().map(sync::Outgoing::into_message).collect()
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn session(agent: &mut CheckedSession) -> ServerSession {
        let base = AgentHello { view: View::Full.into(), ..AgentHello::default() };
        ServerSession::new(&agent.hello(base), facts()).unwrap()
    }

    /// What the agent makes of messages; the faults among it.
    fn faults(agent: &mut CheckedSession, messages: Vec<ServerMessage>) -> Vec<Kind> {
        let mut outcomes = Vec::new();
        for message in messages {
            // The error is among the outcomes.
            let _ = agent.receive(message, &mut outcomes);
        }
        let kind = |outcome: &Outcome| match outcome {
            Outcome::Fault(fault) => Some(fault.kind),
            _ => None,
        };
        outcomes.iter().filter_map(kind).collect()
    }

    /// An agent with its first Commit.
    fn start(seed: u64, injector: Option<Injector>) -> (Server, CheckedSession) {
        let mut agent = CheckedSession::new(injector);
        let mut server = Server::new(seed, &mut agent);
        assert_eq!(faults(&mut agent, vec![facts().hello()]), []);
        assert_eq!(faults(&mut agent, server.messages()), []);
        (server, agent)
    }

    fn topic_of(message: &ServerMessage) -> Option<&str> {
        match message.message.as_ref()? {
            Message::Delta(delta) => Some(&delta.topic),
            _ => None,
        }
    }

    /// The same frames in another order, some of them twice, and nothing of it matters: the frames
    /// of one topic keep their order, what is repeated is the newest of its topic, and the Commit
    /// is last.
    fn harmless(random: &mut StdRng, mut messages: Vec<ServerMessage>) -> Vec<ServerMessage> {
        let commit = messages.pop();
        let mut topics: Vec<Vec<ServerMessage>> = Vec::new();
        for message in messages {
            match topics.iter_mut().find(|topic| topic_of(&topic[0]) == topic_of(&message)) {
                Some(topic) => topic.push(message),
                None => topics.push(vec![message]),
            }
        }
        let mut mixed = Vec::new();
        while !topics.is_empty() {
            topics.shuffle(random);
            let next = topics[0].remove(0);
            topics.retain(|topic| !topic.is_empty());
            mixed.push(next.clone());
            let newest = mixed.iter().rfind(|m| topic_of(m) == topic_of(&next)).cloned();
            mixed.extend(newest.filter(|_| random.random_bool(0.5)));
        }
        mixed.extend(commit);
        mixed
    }

    #[test]
    fn repeats_and_other_orders_before_the_commit_are_no_errors() {
        for seed in 0..30 {
            let (mut server, mut agent) = start(seed, None);
            let mut random = StdRng::seed_from_u64(seed);
            for _ in 0..20 {
                for _ in 0..random.random_range(1..4) {
                    server.publish_some();
                }
                let messages = harmless(&mut random, server.messages());
                assert_eq!(faults(&mut agent, messages), [], "seed {seed}");
            }
            assert_eq!(agent.recompute(), None);
        }
    }

    /// Each kind of corruption, on a stream of which every Delta can be hit.
    fn injected(kind: Inject) -> Vec<Kind> {
        let injector = Injector::new(kind, 0, Arc::new(Injected::default()));
        let (mut server, mut agent) = start(1, Some(injector));
        let mut found = Vec::new();
        for _ in 0..50 {
            server.publish_some();
            let mut outcomes = Vec::new();
            let messages = server.messages();
            let ended = messages.into_iter().any(|m| agent.receive(m, &mut outcomes).is_err());
            let mut reconnect = ended;
            for outcome in outcomes {
                match outcome {
                    Outcome::Fault(fault) => found.push(fault.kind),
                    Outcome::Send(message) => {
                        let Some(proto::v1::agent_message::Message::Resync(resync)) =
                            message.message
                        else {
                            panic!("only a resync is asked for")
                        };
                        server.session.resync(&resync.topic);
                    }
                    Outcome::Reconnect => reconnect = true,
                    Outcome::Committed(_) => {}
                }
            }
            if reconnect {
                agent.disconnected();
                server.session = session(&mut agent);
                found.extend(faults(&mut agent, vec![facts().hello()]));
            }
        }
        found
    }

    #[test]
    fn every_corruption_is_noticed_as_what_it_is() {
        assert!(injected(Inject::Drop).contains(&Kind::Lost));
        assert!(injected(Inject::Drop).contains(&Kind::Digest));
        assert!(injected(Inject::Reorder).contains(&Kind::Order));
        assert!(injected(Inject::Dup).contains(&Kind::Order));
        assert_eq!(injected(Inject::Stale), [Kind::Order]);
    }

    #[test]
    fn an_older_delta_whose_digest_fits_is_an_error_though_the_session_takes_it() {
        let (mut server, mut agent) = start(1, None);
        server.publish(&[(0, 1)]);
        let first = server.messages();
        assert_eq!(faults(&mut agent, first.clone()), []);
        server.publish(&[(0, 1)]);
        let mut second = server.messages();
        // The same entry as before: with its older value the topic is what it was before.
        second.insert(1, first[0].clone());
        assert_eq!(faults(&mut agent, second), [Kind::Order, Kind::Digest]);
    }

    #[test]
    fn a_commit_that_overtakes_its_own_frames_is_an_error() {
        let (mut server, mut agent) = start(1, None);
        server.publish(&[(0, 1)]);
        let first = server.messages();
        server.publish(&[(1, 1)]);
        let second = server.messages();
        let mixed = vec![first[0].clone(), second[0].clone(), first[1].clone(), second[1].clone()];
        assert_eq!(faults(&mut agent, mixed), [Kind::Order]);
    }
}
