//! `bulrush apply`: create what isn't there, replace what is.

use std::process::ExitCode;

use crate::resource::{tally::WriteArgs, write};

/// Create resources, or replace those that exist
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    write: WriteArgs,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        self.write.each("apply", "applied", write::apply)
    }
}
