//! From resources to what each node needs: pure, synchronous and deterministic.
//!
//! ```text
//! Update -> apply: read, checked, waiting
//!        -> flush:
//!           objects -> tables          (config, pools, hosts, routes are done here)
//!           labels  -> classes         index.rs: equal labels are matched once
//!           policies -> selectors      index.rs: equal selectors are matched once
//!           classes -> plists          policies.rs: ordered lists, shared by content
//!           plists  -> nodes           nodes.rs: what each node needs, counted
//!           nodes   -> policies, IP sets in use -> members     sets.rs
//!        -> Output: changes per topic and per view
//! ```
//!
//! Everything between two flushes is one step: what changes and changes back leaves no trace, and
//! the order of updates in between doesn't matter. A flush costs what is affected, not what exists.

mod bgp;
mod endpoints;
mod engine;
mod few;
mod hosts;
mod index;
pub mod inspect;
mod intern;
mod json;
mod marks;
mod mirror;
mod netmap;
mod nodes;
mod output;
#[cfg(all(feature = "planted", debug_assertions))]
pub mod planted;
#[cfg(not(all(feature = "planted", debug_assertions)))]
mod planted;
mod policies;
mod problem;
mod routes;
mod rules;
pub mod scope;
mod sets;
mod slab;
mod staged;
pub mod verdict;
mod waiting;

/// By a hash that is fast, and seeded anew in each process: keys come from objects of many authors.
type HashMap<K, V> = std::collections::HashMap<K, V, foldhash::fast::RandomState>;
type HashSet<T> = std::collections::HashSet<T, foldhash::fast::RandomState>;

pub use engine::{Engine, Options, Sizes};
pub use mirror::Mirror;
pub use output::{Change, Output, ViewChange};
pub use problem::{Effect, Problem};
pub use sets::Slice;
