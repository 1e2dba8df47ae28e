//! `cargo bench --bench ratios [-- FLAGS]`: builds the servers, and runs
//! `loadtest ratios` on them.

#![allow(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::{
    env,
    process::{Command, exit},
};

fn main() {
    let cargo = env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    // Not by package: the features would be others than the whole project's, and all be built again.
    let servers =
        ["build", "--release", "--workspace", "--bin", "typha", "--bin", "bulrush-baseline"];
    assert!(Command::new(cargo).args(servers).status().unwrap().success());
    // Cargo adds a flag of its own for benchmarks.
    let flags = env::args().skip(1).filter(|flag| flag != "--bench");
    let ratios = Command::new(env!("CARGO_BIN_EXE_loadtest")).arg("ratios").args(flags).status();
    exit(ratios.unwrap().code().unwrap_or(1));
}
