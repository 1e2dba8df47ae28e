//! `bulrush create`: write what isn't there yet.

use std::process::ExitCode;

use crate::resource::{
    tally::WriteArgs,
    write::{self, Refusal},
};

/// Create resources that don't exist yet
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    write: WriteArgs,

    /// Leave those that exist as they are, and count them as created
    #[arg(long)]
    skip_exists: bool,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        self.write.each("create", "created", async |store, written| {
            match write::create(store, written).await {
                Err(Refusal::Exists) if self.skip_exists => Ok(()),
                result => result,
            }
        })
    }
}
