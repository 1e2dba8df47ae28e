//! A simulated agent that keeps the digests of what it got and nothing of the rest: so that it resumes as a real one
//! does, and very many of them have room in one process.

use std::{collections::BTreeMap, pin::pin, sync::Arc};

use client::{Connection, StreamError};
use model::StreamIndex;
use proto::v1::{
    Ack, AgentHello, AgentMessage, Commit, Digest, HeldTopic, ServerMessage,
    agent_message::Message, server_message::Message as ServerWord,
};
use sync::Vector;
use tokio::sync::watch;

use crate::{
    fleet::Common,
    follower::{End, Follower, Simulated, pause, stopped},
};

/// One agent.
pub(crate) struct Keeper {
    follower: Follower,
    state: State,
}

/// What it knows of what it got.
#[derive(Default)]
struct State {
    epoch: String,
    incarnation: String,
    publication: u64,
    vector: Vector,
    held: BTreeMap<String, Digest>,
    /// What came since the last Commit.
    staged: BTreeMap<String, Digest>,
    /// Before the session's first Commit.
    resuming: Option<Resumed>,
}

/// How a session begins that has something to resume.
#[derive(Debug, PartialEq)]
struct Resumed {
    /// Topics that were held.
    held: u64,
    /// Of these, the ones that came whole again.
    again: u64,
}

/// The vector's version went back to this from that.
#[derive(Debug, PartialEq)]
struct WentBack(u64, u64);

impl State {
    fn hello(&mut self, base: AgentHello) -> AgentHello {
        self.staged.clear();
        let resuming = Resumed { held: self.held.len() as u64, again: 0 };
        self.resuming = (resuming.held > 0).then_some(resuming);
        let held = |(topic, digest): (&String, &Digest)| HeldTopic {
            topic: topic.clone(),
            digest: Some(digest.clone()),
            ..HeldTopic::default()
        };
        AgentHello {
            epoch: self.epoch.clone(),
            vector: self.vector.whole(),
            incarnation: self.incarnation.clone(),
            publication: self.publication,
            held: self.held.iter().map(held).collect(),
            ..base
        }
    }

    fn replaced(&mut self, topic: String, last: bool, digest: Option<Digest>) {
        if last {
            if let Some(resuming) = &mut self.resuming
                && self.held.contains_key(&topic)
                && !self.staged.contains_key(&topic)
            {
                resuming.again += 1;
            }
            self.staged.insert(topic, digest.unwrap_or_default());
        }
    }

    fn committed(&mut self, commit: &Commit) -> Result<Option<Resumed>, WentBack> {
        self.held.append(&mut self.staged);
        for topic in &commit.drop {
            self.held.remove(topic);
        }
        self.publication = commit.publication;
        let (now, was) = (Vector::from(commit.vector.as_slice()), self.vector.get(StreamIndex(0)));
        self.vector.join(&now);
        let says = commit.vector.iter().find(|one| one.stream == 0).map(|one| one.version);
        if let Some(now) = says.filter(|now| *now < was) {
            return Err(WentBack(now, was));
        }
        Ok(self.resuming.take())
    }
}

impl Keeper {
    pub(crate) fn new(number: u32, common: Arc<Common>) -> Self {
        Self { follower: Follower::new(number, common, false), state: State::default() }
    }

    async fn serve(&mut self, stop: &mut watch::Receiver<bool>) -> Result<End, StreamError> {
        let common = self.follower.common.clone();
        let mut stopped = pin!(stopped(stop));
        let mut connection = {
            let _place = common.door.acquire().await;
            let hello = self.state.hello(self.follower.hello());
            let server = self.follower.server().to_string();
            tokio::select! {
                opened = Connection::open_with(&server, common.tls.as_ref(), hello) => opened?,
                () = &mut stopped => return Ok(End::Stop),
            }
        };
        loop {
            tokio::select! {
                message = connection.message() => {
                    if let Some(end) = self.received(message?, &mut connection) {
                        return Ok(end);
                    }
                }
                () = pause(self.follower.due()) => {
                    self.follower.settle();
                    self.ack(&mut connection);
                }
                () = &mut stopped => return Ok(End::Stop),
            }
        }
    }

    fn received(&mut self, message: ServerMessage, connection: &mut Connection) -> Option<End> {
        match message.message? {
            ServerWord::Hello(hello) => {
                if hello.epoch != self.state.epoch {
                    self.state = State { epoch: hello.epoch, ..State::default() };
                }
                self.state.incarnation = hello.incarnation;
            }
            ServerWord::Delta(delta) => {
                self.state.staged.insert(delta.topic, delta.digest_after.unwrap_or_default());
            }
            ServerWord::Replace(replace) => {
                self.state.replaced(replace.topic, replace.last, replace.digest_after);
            }
            ServerWord::Commit(commit) => {
                match self.state.committed(&commit) {
                    Ok(None) => {}
                    Ok(Some(Resumed { held, again })) => {
                        self.follower.common.score.resumed(held, again);
                    }
                    Err(WentBack(now, was)) => self
                        .follower
                        .out_of_order(format!("a Commit of version {now} came after one of {was}")),
                }
                self.follower.committed(self.state.vector.get(StreamIndex(0)), &[]);
                self.ack(connection);
            }
            ServerWord::GoAway(_) => return Some(End::Again),
            ServerWord::Behind(_) | ServerWord::Heartbeat(_) => {}
        }
        None
    }

    fn ack(&mut self, connection: &mut Connection) {
        if self.follower.acks() {
            let ack = Ack { publication: self.state.publication, ..Ack::default() };
            connection.send(AgentMessage { message: Some(Message::Ack(ack)) });
        }
    }
}

impl Simulated for Keeper {
    async fn stream(&mut self, stop: &mut watch::Receiver<bool>) -> End {
        self.serve(stop).await.unwrap_or_else(|error| {
            tracing::info!(agent = self.follower.name, %error, "stream ended");
            End::Again
        })
    }

    fn disconnected(&mut self) {
        self.follower.disconnected();
    }

    fn finish(&mut self) {
        self.follower.finish();
    }

    fn follower(&self) -> &Follower {
        &self.follower
    }
}

#[cfg(test)]
mod tests {
    use proto::v1::StreamVersion;

    use super::*;

    fn came(state: &mut State, topic: &str) {
        state.replaced(topic.into(), true, Some(Digest { sum: vec![7; 16], count: 1 }));
    }

    fn commit(version: u64, drop: &[&str]) -> Commit {
        let vector = vec![StreamVersion { stream: 0, version }];
        let drop = drop.iter().map(ToString::to_string).collect();
        Commit { publication: version, vector, drop, ..Commit::default() }
    }

    fn held(hello: &AgentHello) -> Vec<&str> {
        hello.held.iter().map(|held| held.topic.as_str()).collect()
    }

    #[test]
    fn what_was_committed_is_told_at_the_next_hello_and_what_comes_again_is_counted() {
        let mut state = State::default();
        assert!(state.hello(AgentHello::default()).held.is_empty());
        came(&mut state, "a");
        state.replaced("b".into(), false, None);
        came(&mut state, "b");
        came(&mut state, "c");
        assert_eq!(state.committed(&commit(5, &["c"])), Ok(None));
        // It broke before the Commit.
        came(&mut state, "d");
        let hello = state.hello(AgentHello::default());
        assert_eq!((held(&hello), hello.publication), (vec!["a", "b"], 5));
        came(&mut state, "b");
        came(&mut state, "e");
        assert_eq!(state.committed(&commit(6, &[])), Ok(Some(Resumed { held: 2, again: 1 })));
        assert_eq!(held(&state.hello(AgentHello::default())), ["a", "b", "e"]);
    }

    #[test]
    fn a_version_that_goes_back_is_noticed_in_the_next_session_too() {
        let mut state = State::default();
        assert_eq!(state.committed(&commit(5, &[])), Ok(None));
        state.hello(AgentHello::default());
        assert_eq!(state.committed(&commit(4, &[])), Err(WentBack(4, 5)));
    }
}
