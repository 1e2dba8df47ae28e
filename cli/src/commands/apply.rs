//! `bulrush apply`: create what isn't there, replace what is.

use std::process::ExitCode;

use crate::{
    resource::{source::SourceArgs, tally, write},
    store::StoreArgs,
};

/// Create resources, or replace those that exist
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    source: SourceArgs,

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
            tally::each(manifests, namespace, "apply", "applied", async |written| {
                write::apply(&*store, written).await
            })
            .await
        })
    }
}
