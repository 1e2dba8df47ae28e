//! The program `typha`; `bulrush run typha` is the same.

use std::process::ExitCode;

use clap::Parser;

/// It gives back what a first list took, which glibc's doesn't: a typha of 10,000 pods needs half the memory.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Serves each agent its node's view of the store.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// How much is logged, unless `RUST_LOG` says otherwise.
    #[arg(long, default_value = "info", value_name = "LEVEL")]
    log: String,
    #[command(flatten)]
    flags: bulrush_typha::cli::Flags,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    runtime::program(&cli.log, |stop| bulrush_typha::cli::run(cli.flags, stop))
}
