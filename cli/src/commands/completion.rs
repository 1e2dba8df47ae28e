//! `bulrush completion`: what a shell needs to complete commands, flags and kinds.

use std::{io, process::ExitCode};

use clap::CommandFactory as _;
use clap_complete::Shell;

/// Print the completions of a shell; for bash: source <(bulrush completion bash)
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut crate::Cli::command(), "bulrush", &mut script);
        io::Write::write_all(&mut io::stdout().lock(), &script)?;
        Ok(ExitCode::SUCCESS)
    }
}
