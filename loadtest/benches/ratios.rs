//! `cargo bench --bench ratios [-- FLAGS]`: builds the servers, and runs
//! `loadtest ratios` on them.

#![allow(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::{
    env,
    process::{Command, exit},
};

/// How the variables begin that cargo sets for the program of one package.
const OWN: [&str; 4] = ["CARGO_MANIFEST_", "CARGO_PKG_", "CARGO_CRATE_", "CARGO_BIN_"];

fn main() {
    let cargo = env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    // Not by package: the features would be others than the whole project's, and all be built again.
    let servers =
        ["build", "--release", "--workspace", "--bin", "typha", "--bin", "bulrush-baseline"];
    let mut build = Command::new(cargo);
    // What cargo says of this package, ring's build would take for its own, and all be built again each time.
    for (name, _) in env::vars_os() {
        if name.to_str().is_some_and(|name| OWN.iter().any(|own| name.starts_with(own))) {
            build.env_remove(name);
        }
    }
    assert!(build.args(servers).status().unwrap().success());
    // Cargo adds a flag of its own for benchmarks.
    let flags = env::args().skip(1).filter(|flag| flag != "--bench");
    let ratios = Command::new(env!("CARGO_BIN_EXE_loadtest")).arg("ratios").args(flags).status();
    exit(ratios.unwrap().code().unwrap_or(1));
}
