//! `bulrush replace`: write over what is there.

use std::process::ExitCode;

use crate::resource::{tally::WriteArgs, write};

/// Replace resources that exist
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    write: WriteArgs,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        self.write.each("replace", "replaced", write::replace)
    }
}
