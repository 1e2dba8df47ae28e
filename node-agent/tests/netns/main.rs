//! Real packets in real network namespaces decide.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is a failed test, with its place"
)]

mod lab;
mod network;
mod policy;
