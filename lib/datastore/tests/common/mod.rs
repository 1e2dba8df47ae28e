//! What the suites of this crate share.
#![allow(dead_code, reason = "each suite uses its part")]
#![allow(clippy::unwrap_used, reason = "helpers of tests: a panic is a failed test with its place")]

pub mod certs;
pub mod server;
