//! `bulrush delete`: remove resources by name or by file.

use std::process::ExitCode;

use datastore::{Datastore, Selection};
use model::{Key, Kind, Stored};

use crate::{
    resource::{
        builtin, called,
        source::SourceArgs,
        stored, tally,
        write::Refusal,
    },
    store::StoreArgs,
};

/// Delete resources
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    source: SourceArgs,

    /// Count one that doesn't exist as deleted
    #[arg(short = 's', long)]
    skip_not_exists: bool,

    #[command(flatten)]
    store: StoreArgs,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let Some(manifests) = self.source.read_named()? else { return Ok(ExitCode::SUCCESS) };
        runtime::block_on(async {
            let store = self.store.connect().await?;
            let namespace = self.source.namespace.as_deref();
            tally::each(manifests, namespace, "delete", "deleted", async |written| {
                match delete(&*store, &written.key()?).await {
                    Err(Refusal::Missing) if self.skip_not_exists => Ok(()),
                    result => result,
                }
            })
            .await
        })
    }
}

async fn delete(store: &dyn Datastore, key: &Key) -> Result<(), Refusal> {
    if let Some(refusal) = builtin::delete_refusal(key) {
        return Err(Refusal::Rule(refusal));
    }
    if key.kind == Kind::Tier {
        tier_is_empty(store, key).await?;
    }
    if store.delete(key, None).await? { Ok(()) } else { Err(Refusal::Missing) }
}

/// The policies of a tier that goes would no longer be enforced.
async fn tier_is_empty(store: &dyn Datastore, tier: &Key) -> Result<(), Refusal> {
    let policies = Selection::of(Kind::all().filter(|kind| stored::is_policy(*kind)));
    for stream in store.streams() {
        for item in store.list(stream.index, policies).await?.items {
            let Stored::Json(value) = &item.value else { continue };
            if value["spec"]["tier"] == tier.name.as_str() {
                let text = format!("it still has {}; delete its policies first", called(&item.key));
                return Err(Refusal::Rule(text));
            }
        }
    }
    Ok(())
}
