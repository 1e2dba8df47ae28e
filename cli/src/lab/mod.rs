//! The lab: nodes and pods as network namespaces of one machine.
//!
//! ```text
//!   host ─ <lab>-host ══ host ─┐ <lab>-net: the router
//!    │ store, typha      subnet1 (bridge) ─┬─ eth0 <lab>-node-1 ─ cali… ══ eth0 <lab>-pod-1-1
//!    │ /run/bulrush-lab/<lab>/             ├─ eth0 <lab>-node-2 ─ …
//!    │                   subnet2 (bridge) ─┴─ eth0 <lab>-node-3 ─ …
//! ```
//!
//! The host gets one link and one route; everything else lies in namespaces. What is to be made is written down
//! before it is made, so that `down` finds all of it after any crash.

mod interrupt;
mod network;
mod objects;
pub(crate) mod parts;
pub(crate) mod plan;
pub(crate) mod probe;
mod processes;
pub(crate) mod ready;
pub(crate) mod state;
pub(crate) mod status;
mod store;
pub(crate) mod up;
