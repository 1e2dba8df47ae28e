//! The program `loadtest`; `bulrush loadtest` is the same.

use std::process::ExitCode;

use clap::Parser;

/// That of the program `typha`, which this one runs as a child: else another one would be measured.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Simulated agents against a typha, and a report.
#[derive(Parser)]
#[command(name = "loadtest", version)]
struct Cli {
    #[command(flatten)]
    args: bulrush_loadtest::Args,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let code = if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
            // Nobody reads what can't be printed.
            let _ = error.print();
            return code;
        }
    };
    match cli.args.run(&[]) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
