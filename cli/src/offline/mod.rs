//! Clusters from manifests, without a store: who reaches whom, and why.
//!
//! ```text
//! files ── objects ──> what an API server would hold ── world ──> engine ──> verdicts
//! ```

mod alike;
pub(crate) mod compare;
pub(crate) mod explain;
mod failsafe;
pub(crate) mod live;
pub(crate) mod objects;
pub(crate) mod outside;
mod peer;
pub(crate) mod port;
mod service;
pub(crate) mod world;
