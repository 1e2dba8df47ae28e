//! Checks what a server sends to one agent, message by message and at each Commit.
//!
//! It sees what the agent's session gets, and shares no state with it: what the session believes is
//! checked against what came. The rules are the protocol's invariants (`docs/protocol.md`): versions
//! never go back, a frame belongs to the Commit after it, and at each Commit the agent's digests are
//! the server's.

use std::{
    collections::{BTreeMap, HashMap},
    hash::Hasher as _,
};

use proto::v1::{Commit, Delta, Digest, Replace, ServerMessage, server_message::Message};
use siphasher::sip128::{Hasher128 as _, SipHasher24};
use sync::ClientSession;

/// What kind of error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Time ran back, or a frame came at a time where it can't belong.
    Order,
    /// The agent's state is not the server's.
    Digest,
    /// A change never came.
    Lost,
}

/// An error, in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) kind: Kind,
    pub(crate) text: String,
}

fn fault(kind: Kind, text: String) -> Fault {
    Fault { kind, text }
}

/// What is known of one agent's stream.
#[derive(Debug, Default)]
pub(crate) struct Judge {
    /// The store, and the highest version of each of its streams that was ever announced.
    epoch: String,
    vector: BTreeMap<u32, u64>,
    digest_key: Vec<u8>,
    /// The publication of the session's last Commit.
    committed: u64,
    /// The publication up to which the newest Delta of a topic goes.
    newest: HashMap<String, u64>,
    /// The server's digest of each topic that came since the last visible Commit.
    expected: HashMap<String, Digest>,
    /// The highest publication that frames since the last Commit are of.
    staged: u64,
}

impl Judge {
    /// The stream ended: the next one is a new session.
    pub(crate) fn disconnected(&mut self) {
        self.committed = 0;
        self.newest.clear();
        self.expected.clear();
        self.staged = 0;
    }

    /// A message on its way to the session.
    pub(crate) fn message(&mut self, message: &ServerMessage) -> Option<Fault> {
        match message.message.as_ref()? {
            Message::Hello(hello) => {
                if hello.epoch != self.epoch {
                    self.epoch.clone_from(&hello.epoch);
                    self.vector.clear();
                }
                self.digest_key.clone_from(&hello.digest_key);
                None
            }
            Message::Delta(delta) => self.delta(delta),
            Message::Replace(replace) => self.replace(replace),
            Message::Commit(commit) => self.commit(commit),
            _ => None,
        }
    }

    fn delta(&mut self, delta: &Delta) -> Option<Fault> {
        let Delta { topic, from, to, .. } = delta;
        let newest = self.newest.get(topic).copied();
        let order = |what: String| {
            Some(fault(Kind::Order, format!("the Delta of {topic} up to publication {to} {what}")))
        };
        if *to <= self.committed {
            return order(format!("came after the Commit of {}", self.committed));
        }
        if let Some(newest) = newest
            && *to < newest
        {
            return order(format!("came after the one up to {newest}"));
        }
        self.newest.insert(topic.clone(), *to);
        self.staged = self.staged.max(*to);
        self.expected.insert(topic.clone(), delta.digest_after.clone().unwrap_or_default());
        let missing = newest.filter(|newest| from > newest)?;
        let text = format!("no Delta of {topic} leads from publication {missing} to {from}");
        Some(fault(Kind::Lost, text))
    }

    fn replace(&mut self, replace: &Replace) -> Option<Fault> {
        self.newest.remove(&replace.topic);
        if replace.last {
            let digest = replace.digest_after.clone().unwrap_or_default();
            self.expected.insert(replace.topic.clone(), digest);
        }
        None
    }

    fn commit(&mut self, commit: &Commit) -> Option<Fault> {
        let number = commit.publication;
        let mut found = None;
        for version in &commit.vector {
            let highest = self.vector.entry(version.stream).or_default();
            if version.version < *highest {
                found = Some(format!(
                    "the Commit of {number} goes back from version {highest} to {}",
                    version.version
                ));
            }
            *highest = version.version.max(*highest);
        }
        if number < self.committed {
            found = Some(format!("the Commit of {number} came after that of {}", self.committed));
        }
        if self.staged > number {
            found = Some(format!(
                "the Commit of {number} came after a Delta up to publication {}",
                self.staged
            ));
        }
        self.committed = number.max(self.committed);
        self.staged = 0;
        found.map(|text| fault(Kind::Order, text))
    }

    /// The session made a Commit visible: what it holds now must be what the server said.
    pub(crate) fn visible(&mut self, session: &ClientSession) -> Option<Fault> {
        let mut wrong = None;
        for (topic, expected) in self.expected.drain() {
            let held = session.digest(&topic);
            let same = held.is_some_and(|held| {
                held.sum.to_le_bytes() == *expected.sum && held.count == expected.count
            });
            // A topic can come and leave the view before the same Commit.
            if held.is_some() && !same {
                wrong = Some(topic);
            }
        }
        let text = |topic| format!("{topic} is not what the server says at this Commit");
        wrong.map(|topic| fault(Kind::Digest, text(topic)))
    }

    /// Computes the digest of everything that the session holds from its entries.
    pub(crate) fn recompute(&self, session: &ClientSession) -> Option<Fault> {
        let key: [u8; 16] = self.digest_key.as_slice().try_into().ok()?;
        let mut sums: BTreeMap<&str, (u128, u64)> = BTreeMap::new();
        for (topic, entry, value) in session.entries() {
            let mut hasher = SipHasher24::new_with_key(&key);
            for part in [topic.as_bytes(), entry.as_bytes(), value] {
                hasher.write(&(part.len() as u32).to_le_bytes());
                hasher.write(part);
            }
            let hash = u128::from_le_bytes(hasher.finish128().as_bytes());
            let (sum, count) = sums.entry(topic).or_default();
            *sum = sum.wrapping_add(hash);
            *count += 1;
        }
        let differs = session.digests().find(|(topic, digest)| {
            let sum = sums.get(topic.as_str()).copied().unwrap_or_default();
            sum != (digest.sum, digest.count)
        });
        differs.map(|(topic, _)| {
            fault(Kind::Digest, format!("the entries of {topic} have another digest than it says"))
        })
    }
}
