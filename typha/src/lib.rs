//! The fan-out server: it reads the store once, and sends each agent its node's view.
//!
//! ```text
//!  store --Feed--> writer --Snapshot (watch channel)--> session task per agent --gRPC--> agent
//!                  one task: engine, publisher            frames out, acks in
//!                                                         |
//!  http: health, metrics, status, page  <----------- Sessions (who is connected, what they acked)
//! ```
//!
//! The logic is in `engine` and `sync`; what is here moves bytes and keeps time.

mod access;
mod admission;
mod balance;
mod body;
mod chunks;
pub mod cli;
mod door;
mod health;
mod http;
mod inbound;
mod listener;
mod live;
mod rollout;
mod rounds;
mod server;
mod service;
mod sessions;
mod status;
mod streams;
mod tls;
mod traffic;
mod writer;

pub use door::Limits;
pub use rollout::{
    NodeRollout, NodeState, ObjectRollout, PolicyRollout, Presence, REMEMBERED, RolloutSummary,
    is_policy,
};
pub use server::{Config, StartError, Typha};
pub use status::{AgentStatus, RolloutStatus, Status};
