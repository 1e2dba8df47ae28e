//! One trait over etcd and Kubernetes: list, watch, compare-and-swap.
//!
//! ```text
//!   StoreConfig::from_env() ──connect()──> Arc<dyn Datastore>
//!                                              │ list, watch: per stream, in order
//!                                              v
//!   follow(store, selection): list, then watch, and a new list where a watch can't go on
//!                                              │
//!                                              v
//!                      Feed: Changes, Synced, Progress, Lost, Regained, Reset
//! ```
//!
//! Everything outside this crate sees [`model::Key`] and [`model::Stored`], never paths or objects of a store.

pub mod config;
pub mod error;
pub mod etcdv3;
mod follow;
pub mod follower;
pub mod kubernetes;
pub mod record;
pub mod selection;
pub mod store;

pub use config::StoreConfig;
pub use error::{Conflict, Error, Result};
pub use follow::follow;
pub use follower::{Feed, Follower, Step};
pub use selection::Selection;
pub use store::{
    Capabilities, Change, Compare, Datastore, Early, Expected, Item, Listing, Position,
    StreamHealth, StreamInfo, WatchEvent, Write,
};
