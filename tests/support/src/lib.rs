//! Real servers for tests, and the rule of when a test may be skipped.
//!
//! ```no_run
//! for (label, binary) in support::etcd_binaries() {
//!     let etcd = support::RealEtcd::start(&binary);
//!     println!("{label} serves at {}", etcd.endpoint());
//! }
//! ```
//!
//! A server that can't be started is a panic: in a test that is the failure that its author wants to see.
#![allow(clippy::expect_used, reason = "helpers of tests: a panic is a failed test with its place")]

mod bad_input;
mod definitions;
mod etcd;
mod find;
mod kubernetes;
mod port;
mod process;
mod proxy;
mod require;
mod token;

pub use bad_input::{assert_bad_input, rows};
pub use definitions::definition;
pub use etcd::{Backup, RealEtcd};
pub use find::{etcd_binaries, etcdctl_binaries, kubernetes};
pub use kubernetes::{ApiServer, RealKubernetes, USERS};
pub use port::free_port;
pub use proxy::{Proxy, Way};
pub use require::skipped;
