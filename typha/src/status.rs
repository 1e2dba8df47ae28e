//! What a server knows of itself and its agents, for people and programs.

use serde::Serialize;

/// The answer of `/api/v1/status`.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// The worst problem in one line, or that all is well.
    pub verdict: String,
    /// The program's version.
    pub version: String,
    /// This run of the server.
    pub incarnation: String,
    /// The store's identity.
    pub epoch: String,
    /// The store in a few words.
    pub store: String,
    /// Whether the store was read whole, and is being followed.
    pub in_sync: bool,
    /// Why not, when not.
    pub not_in_sync: Option<String>,
    /// How long the store has been out of reach; 0: it is in reach.
    pub stale_milliseconds: u64,
    /// Why it is out of reach.
    pub store_error: Option<String>,
    /// The newest publication.
    pub publication: u64,
    /// Its versions, by stream.
    pub streams: Vec<StreamStatus>,
    /// What the engine and the topics hold.
    pub sizes: Sizes,
    /// Objects that are present and invalid.
    pub problems: Vec<Problem>,
    /// The newest publications, newest first.
    pub publications: Vec<PublicationStatus>,
    /// How far the newest publication has come on the nodes, as this server knows it.
    pub rollout: RolloutStatus,
    /// Why certificate, key or CAs as they are now can't be used; those read before stay in use.
    pub tls_problem: Option<String>,
    /// Connections that were turned away before a session began, newest first.
    pub turned_away: Vec<TurnedAwayStatus>,
    /// Every session.
    pub agents: Vec<AgentStatus>,
}

/// A connection that was turned away.
#[derive(Clone, Debug, Serialize)]
pub struct TurnedAwayStatus {
    /// Where it came from.
    pub address: String,
    /// Why.
    pub reason: String,
    /// When, milliseconds since 1970.
    pub at_ms: u64,
}

/// A stream of the store.
#[derive(Clone, Debug, Serialize)]
pub struct StreamStatus {
    /// Its name.
    pub name: String,
    /// Version of the newest event.
    pub version: u64,
    /// Version known to be complete.
    pub progress: u64,
}

/// Counts.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Sizes {
    /// Topics with entries.
    pub topics: usize,
    /// Entries in all topics.
    pub entries: usize,
}

/// An object that can't be used, or not whole.
#[derive(Clone, Debug, Serialize)]
pub struct Problem {
    /// Which.
    pub object: String,
    /// What is wrong, and what follows from it.
    pub text: String,
}

/// One publication.
#[derive(Clone, Debug, Serialize)]
pub struct PublicationStatus {
    /// Its number.
    pub publication: u64,
    /// How many entries it changed.
    pub changes: usize,
    /// When its newest change was seen, milliseconds since 1970.
    pub observed_at_ms: u64,
    /// How many agents were sent it or a later one.
    pub sent: usize,
    /// How many agents hold it or a later one in the kernel.
    pub acked: usize,
}

/// How far a roll-out has come. Each node of the store is in one of the four, by what its agent
/// acknowledged to this server; another server may know of those that are unknown here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RolloutStatus {
    /// Nodes whose kernel holds all of their view.
    pub enforced: usize,
    /// Nodes whose kernel holds their view less what `agents` names.
    pub failed: usize,
    /// Nodes that were sent more than they have acknowledged.
    pub pending: usize,
    /// Nodes of the store whose agent has no session here.
    pub unknown: Vec<String>,
}

/// One session.
#[derive(Clone, Debug, Serialize)]
pub struct AgentStatus {
    /// The node; empty for a full view.
    pub node: String,
    /// `node` or `full`.
    pub view: &'static str,
    /// Only looks on.
    pub observer: bool,
    /// The agent's version.
    pub version: String,
    /// Where it connects from.
    pub address: String,
    /// Seconds since it connected.
    pub connected_seconds: u64,
    /// The publication that it has been brought to.
    pub sent: u64,
    /// The publication up to which its kernel holds its view.
    pub acked: u64,
    /// Whether its kernel holds all that it was sent.
    pub current: bool,
    /// `enforced`, `failed` or `pending`: as in the roll-out. Empty for one that holds no node's view.
    pub state: &'static str,
    /// Endpoints that are up, and all of them.
    pub endpoints_up: usize,
    /// How many endpoints it has.
    pub endpoints: usize,
    /// What it could not bring into the kernel.
    pub failed: Vec<String>,
}
