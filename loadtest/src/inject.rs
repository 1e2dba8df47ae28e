//! Corrupts what an agent gets, below its checks: a tester that doesn't notice is no tester.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use clap::ValueEnum;
use proto::v1::{Delta, ServerMessage, server_message::Message};
use serde::{Deserialize, Serialize};

/// One Delta of so many is corrupted, counted over all agents.
const EVERY: u64 = 10;
/// One agent of so many is served an old state.
const STALE_AGENTS: u32 = 10;

/// What is done to the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Inject {
    /// A Delta vanishes.
    Drop,
    /// A Delta arrives after its Commit.
    Reorder,
    /// A topic's older Delta is applied again after a newer one.
    Dup,
    /// After a reconnect an older version is served, with digests that fit it.
    Stale,
}

/// How much was corrupted, in all agents.
#[derive(Debug, Default)]
pub(crate) struct Injected {
    deltas: AtomicU64,
    /// Faults that were made.
    pub(crate) faults: AtomicU64,
}

/// Between one agent's connection and its session.
pub(crate) struct Injector {
    kind: Inject,
    injected: Arc<Injected>,
    /// A Commit has passed.
    synced: bool,
    /// To go after the next Commit.
    late: Option<ServerMessage>,
    /// The newest Delta of each topic.
    last: HashMap<String, Delta>,
    stale: Stale,
}

/// Where an agent is on its way back in time.
enum Stale {
    /// Not one of those.
    Never,
    /// The first session's frames and Commit are noted.
    Recording(Vec<ServerMessage>),
    /// They are complete; the next Commit makes them old.
    Recorded(Vec<ServerMessage>),
    /// The agent reconnects now.
    Leaving(Vec<ServerMessage>),
    /// It gets them in place of what the server sends.
    Replaying(Vec<ServerMessage>),
}

impl Injector {
    pub(crate) fn new(kind: Inject, agent: u32, injected: Arc<Injected>) -> Self {
        let stale = match kind {
            Inject::Stale if agent.is_multiple_of(STALE_AGENTS) => Stale::Recording(Vec::new()),
            _ => Stale::Never,
        };
        Self { kind, injected, synced: false, late: None, last: HashMap::new(), stale }
    }

    /// The agent must reconnect for what comes.
    pub(crate) fn wants_reconnect(&self) -> bool {
        matches!(self.stale, Stale::Leaving(_))
    }

    /// The stream ended; the next one is a new session.
    pub(crate) fn disconnected(&mut self) {
        self.late = None;
        self.last.clear();
        self.synced = false;
        self.stale = match std::mem::replace(&mut self.stale, Stale::Never) {
            Stale::Leaving(frames) => Stale::Replaying(frames),
            Stale::Recording(_) => Stale::Recording(Vec::new()),
            // Once is enough.
            Stale::Replaying(_) => Stale::Never,
            stays => stays,
        };
    }

    /// What the session gets in place of `message`.
    pub(crate) fn pass(&mut self, message: ServerMessage) -> Vec<ServerMessage> {
        match &message.message {
            Some(Message::Delta(delta)) if self.synced => self.delta(delta.clone(), message),
            Some(Message::Delta(_) | Message::Replace(_)) => self.frame(message),
            Some(Message::Commit(_)) => self.commit(message),
            _ => vec![message],
        }
    }

    /// Whether this is one of those to corrupt.
    fn chosen(&self) -> bool {
        let chosen = self.injected.deltas.fetch_add(1, Ordering::Relaxed) % EVERY == EVERY / 2;
        if chosen {
            self.count();
        }
        chosen
    }

    fn count(&self) {
        self.injected.faults.fetch_add(1, Ordering::Relaxed);
    }

    fn delta(&mut self, delta: Delta, message: ServerMessage) -> Vec<ServerMessage> {
        match self.kind {
            Inject::Drop if self.chosen() => Vec::new(),
            Inject::Reorder if self.late.is_none() && self.chosen() => {
                self.late = Some(message);
                Vec::new()
            }
            Inject::Dup => {
                let older = self.last.insert(delta.topic.clone(), delta);
                match older {
                    Some(older) if self.chosen() => {
                        vec![message, ServerMessage { message: Some(Message::Delta(older)) }]
                    }
                    _ => vec![message],
                }
            }
            _ => self.frame(message),
        }
    }

    /// Frames of the first sync.
    fn frame(&mut self, message: ServerMessage) -> Vec<ServerMessage> {
        match &mut self.stale {
            Stale::Recording(frames) => frames.push(message.clone()),
            Stale::Replaying(_) => return Vec::new(),
            _ => {}
        }
        vec![message]
    }

    fn commit(&mut self, message: ServerMessage) -> Vec<ServerMessage> {
        self.synced = true;
        self.stale = match std::mem::replace(&mut self.stale, Stale::Never) {
            Stale::Recording(mut frames) => {
                frames.push(message.clone());
                Stale::Recorded(frames)
            }
            Stale::Recorded(frames) => Stale::Leaving(frames),
            Stale::Replaying(frames) => {
                self.count();
                return frames;
            }
            stays => stays,
        };
        let mut messages = vec![message];
        messages.extend(self.late.take());
        messages
    }
}
