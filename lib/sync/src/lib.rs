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
//! State travels, not events. The server sends what changed in the topics of a view, then a Commit;
//! the client stages it, and at the Commit turns it into changes of what it held, all or none. A
//! client that comes back says what it holds, and gets the gap.

mod buckets;
mod client;
mod digest;
mod frames;
#[cfg(feature = "planted")]
pub mod planted;
#[cfg(not(feature = "planted"))]
mod planted;
mod publisher;
mod server;
mod snapshot;
mod topic;
mod vector;
mod versions;
mod wire;

pub use buckets::BUCKETS_FROM;
pub use client::{ClientError, ClientSession, Committed, EntryChange, Event, SavedError};
pub use digest::{DIGEST_KEY_LEN, DigestKey, TopicDigest, view_digest};
pub use frames::Frames;
pub use publisher::{Change, Publisher, ViewChange};
pub use server::{Advance, Refusal, Resume, ServerFacts, ServerSession, Subscription};
pub use snapshot::{Affected, Snapshot};
pub use topic::{Frame, Outgoing, TopicState, Whole};
pub use vector::Vector;
pub use versions::{List, Lists, Versions};
pub use wire::Encoding;
