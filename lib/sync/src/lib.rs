//! The protocol between typha and its agents, as state machines without IO or clock.
//!
//! ```text
//! engine output, encoded                           ServerMessage          changes at a Commit
//!        |                                              |                         ^
//!        v                                              v                         |
//!  Publisher --Snapshot--> ServerSession (one per agent) ... ClientSession (in the agent)
//!  (one writer)  shared,     cursor, subscribed topics         staged -> held
//!                immutable
//! ```
//!
//! State travels, not events. The server sends whole topics that changed, then a Commit; the client
//! stages them, and at the Commit turns the difference to what it held into changes, all or none.

mod client;
mod digest;
mod publisher;
mod server;
mod vector;

pub use client::{ClientError, ClientSession, Committed, EntryChange, Event};
pub use digest::{DIGEST_KEY_LEN, DigestKey, TopicDigest, view_digest};
pub use publisher::{Change, Publisher, Snapshot, TopicState, ViewChange};
pub use server::{Refusal, ServerFacts, ServerSession};
pub use vector::Vector;
