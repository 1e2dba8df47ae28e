//! What a view becomes: on in-memory kernels, and with real packets in network namespaces.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is a failed test, with its place"
)]

mod elements;
mod interpret;
mod lab;
mod lifecycle;
mod naive;
mod network_faults;
mod network_model;
mod network_packets;
mod policy_faults;
mod policy_kernel;
mod policy_model;
mod policy_packets;
mod world;
