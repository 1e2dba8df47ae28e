//! The agent on each node: its view in the Linux kernel.
//!
//! ```text
//!             entries                 Reconciler (one owner, no IO of its own)          traits
//! client ---> NodeView --commit--> +-- PolicyReconciler --- chains, sets ------------> Nft
//!                                  |     Dispatch -> Group -> Policy, Profile -> Set
//!                                  +-- NetworkReconciler -- devices, routes, VTEPs --> Rtnl
//!                                                        \- per interface -----------> Sysctl
//!                                        ^                          |
//! monitor ------ kernel_event -----------+       Outcome: failed, waiting, next ------> ack
//! clock -------- commit at `next` -------+
//! ```
//!
//! * The owner puts one commit's entries into [`Reconciler::view`] and calls [`Reconciler::commit`].
//!   It calls it again when a kernel event came in, and when [`Outcome::next`] is due.
//! * A commit makes before it breaks: policy (one transaction), devices, VTEPs, routes; then
//!   removals, the other way round. What fails is named and tried again; the rest goes on.
//! * Before the first [`Source::Server`] commit nothing is removed; that one sweeps what is ours and
//!   stale: routes of protocol 80, the tunnel devices, the nftables tables `calico`.
//! * A commit is synchronous and waits for the kernel: give the reconciler a thread of its own. Its
//!   drivers act in the network namespace of the thread that opened them, and must be used there.
//!
//! ```no_run
//! use std::time::Instant;
//! use bulrush_node_agent::{Reconciler, Source, drivers::LinuxKernel};
//! use model::view::{Entry, Topic};
//!
//! # fn entries() -> Vec<(Topic, String, Option<Entry>)> { Vec::new() }
//! let mut agent = Reconciler::new("node-a", true, LinuxKernel::open()?);
//! for (topic, key, entry) in entries() {
//!     agent.view().set(&topic, &key, entry);
//! }
//! let outcome = agent.commit(Source::Server, Instant::now());
//! for failure in outcome.failed {
//!     println!("{} {}: {}", failure.topic, failure.key, failure.reason);
//! }
//! # Ok::<(), std::io::Error>(())
//! ```

mod agent;
mod direct;
mod family;
mod find;
mod http;
mod kernel;
mod network;
mod policy;
mod reconciler;
mod saved;
mod settings;
mod table;
mod upstream;
mod view;

pub mod cli;
pub mod drivers;
pub mod nft;

pub use agent::{Config, Origin, StartError, run};
pub use family::Family;
pub use reconciler::{Failure, KernelEvent, Outcome, Reconciler, Source};
pub use view::{Member, NodeView, Sizes};
