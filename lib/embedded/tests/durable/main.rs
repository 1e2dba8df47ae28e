//! What a store with a data folder keeps: over restarts, kills and full disks; and what it says when it can't start.
#![allow(clippy::expect_used, reason = "a panic is a failed test with its place")]

mod child;
mod crash;
mod full;
mod restart;
