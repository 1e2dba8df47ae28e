//! `bulrush`: the operator's command line.

/// Prints a line; `println` panics where the reader, such as `head`, has seen enough.
macro_rules! say {
    ($($text:tt)*) => {{
        // Nobody reads what can't be printed.
        let _ = std::io::Write::write_fmt(&mut std::io::stdout(), format_args!("{}\n", format_args!($($text)*)));
    }};
}

mod commands;
mod http;
mod json_lines;
mod lab;
mod offline;
mod replay;
mod resource;
mod sample;
mod stale;
mod store;

use std::{env, io, process::ExitCode};

use clap::Parser;

/// It gives back what a first list took, which glibc's doesn't: a typha of 10,000 pods needs half the memory.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Bulrush, a Kubernetes network control plane that speaks Calico's data.
#[derive(Parser)]
#[command(version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: commands::Command,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse_from(commands::in_order(env::args_os().collect())) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors; a wrong flag exits with 1, as calicoctl does.
            let code = if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
            // Nobody reads what can't be printed.
            let _ = error.print();
            return code;
        }
    };
    match cli.command.run() {
        Ok(code) => code,
        // The reader, such as `head`, has seen enough.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe)
}
