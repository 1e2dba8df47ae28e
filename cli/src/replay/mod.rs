//! A node's whole state, as Calico's calculation would describe it, from the engine.
//!
//! ```text
//! case or record ── case ──> engine ── state ──> one JSON object: endpoints, network, rules, …
//! ```

mod case;
pub(crate) mod difference;
mod endpoints;
mod network;
mod parameters;
mod rules;
mod state;

pub(crate) use case::run;
