//! The program `node-agent`; `bulrush run node-agent` is the same.

use std::process::ExitCode;

use clap::Parser;

/// Brings its node's view into the Linux kernel.
#[derive(Parser)]
#[command(version)]
struct Cli {
    /// How much is logged, unless `RUST_LOG` says otherwise.
    #[arg(long, default_value = "info", value_name = "LEVEL")]
    log: String,
    #[command(flatten)]
    flags: bulrush_node_agent::cli::Flags,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    runtime::program(&cli.log, |stop| bulrush_node_agent::cli::run(cli.flags, stop))
}
