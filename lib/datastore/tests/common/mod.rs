//! What the suites of this crate share.
#![allow(dead_code, reason = "each suite uses its part")]
#![allow(unreachable_pub, reason = "each suite is a crate of its own")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "helpers of tests: a panic is a failed test with its place"
)]

pub mod certs;
pub mod history;
pub mod kubernetes;
pub mod meddler;
pub mod mirror;
pub mod server;
pub mod target;
