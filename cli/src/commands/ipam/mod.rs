//! `bulrush ipam`: what the address management did.

mod blocks;
mod grid;
mod show;
mod usage;

pub(super) use blocks::nth;

use std::process::ExitCode;

use clap::Subcommand;

/// Look at the addresses that were given out
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    Show(show::Args),
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self.action {
            Action::Show(args) => args.run(),
        }
    }
}
