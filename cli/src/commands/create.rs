//! `bulrush create`: write what isn't there yet.

use std::process::ExitCode;

use crate::{
    resource::{
        source::SourceArgs,
        tally,
        write::{self, Refusal},
    },
    store::StoreArgs,
};

/// Create resources that don't exist yet
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    source: SourceArgs,

    /// Leave those that exist as they are, and count them as created
    #[arg(long)]
    skip_exists: bool,

    #[command(flatten)]
    store: StoreArgs,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let Some(manifests) = self.source.read_named()? else { return Ok(ExitCode::SUCCESS) };
        runtime::block_on(async {
            let store = self.store.connect().await?;
            write::initialise(&*store).await?;
            let namespace = self.source.namespace.as_deref();
            tally::each(manifests, namespace, "create", "created", async |written| {
                match write::create(&*store, written).await {
                    Err(Refusal::Exists) if self.skip_exists => Ok(()),
                    result => result,
                }
            })
            .await
        })
    }
}
