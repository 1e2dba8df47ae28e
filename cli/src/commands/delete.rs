//! `bulrush delete`: remove resources by name or by file.

use std::process::ExitCode;

use anyhow::bail;
use datastore::{Datastore, Selection};
use model::{Key, Kind, Stored};

use crate::{
    resource::{builtin, called, defaults, kinds, manifest, stored, tally::Tally},
    store::StoreArgs,
};

/// Delete resources
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The kind, in any case: ippool, ippools, pool, networkpolicy, np, ...
    #[arg(required_unless_present = "files", conflicts_with = "files")]
    kind: Option<String>,

    /// Their names
    #[arg(required_unless_present = "files")]
    names: Vec<String>,

    /// Delete the resources that these files, folders, or - for standard input name
    #[arg(short = 'f', long = "filename", value_name = "FILE")]
    files: Vec<String>,

    /// Also read the folders in folders
    #[arg(short = 'R', long)]
    recursive: bool,

    /// Count one that doesn't exist as deleted
    #[arg(short = 's', long)]
    skip_not_exists: bool,

    /// The namespace of namespaced kinds
    #[arg(short = 'n', long, default_value = "default")]
    namespace: String,

    #[command(flatten)]
    store: StoreArgs,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let keys = self.keys()?;
        if keys.is_empty() {
            bail!("no resources in {}", self.files.join(", "));
        }
        runtime::block_on(async {
            let store = self.store.connect().await?;
            let mut tally = Tally::default();
            for key in keys {
                match delete(&*store, &key, self.skip_not_exists).await {
                    Ok(()) => tally.done(key.kind),
                    Err(failure) => {
                        tally.failed(key.kind, format!("{}: {failure:#}", called(&key)));
                    }
                }
            }
            tally.report("delete", "deleted")
        })
    }

    fn keys(&self) -> anyhow::Result<Vec<Key>> {
        let Some(kind) = &self.kind else {
            let manifests = manifest::read(&self.files, self.recursive, &self.namespace)?;
            let keys = manifests.into_iter().map(|mut manifest| {
                defaults::complete_name(&mut manifest.written)
                    .map_err(|fault| anyhow::anyhow!("{}: {fault}", manifest.origin))?;
                Ok(manifest.written.key())
            });
            return keys.collect();
        };
        let kind = kinds::parse(kind).map_err(anyhow::Error::msg)?;
        if self.names.iter().any(String::is_empty) {
            bail!("a name must not be empty");
        }
        let keys = self.names.iter().map(|name| {
            if kind.is_namespaced() {
                Key::namespaced(kind, self.namespace.as_str(), name)
            } else {
                Key::global(kind, name)
            }
        });
        Ok(keys.collect())
    }
}

async fn delete(store: &dyn Datastore, key: &Key, skip_missing: bool) -> anyhow::Result<()> {
    if let Some(refusal) = builtin::delete_refusal(key) {
        bail!(refusal);
    }
    if key.kind == Kind::Tier {
        tier_is_empty(store, key).await?;
    }
    if !store.delete(key, None).await? && !skip_missing {
        bail!("resource does not exist");
    }
    Ok(())
}

/// The policies of a tier that goes would no longer be enforced.
async fn tier_is_empty(store: &dyn Datastore, tier: &Key) -> anyhow::Result<()> {
    let policies = Selection::of(Kind::all().filter(|kind| stored::is_policy(*kind)));
    for stream in store.streams() {
        for item in store.list(stream.index, policies).await?.items {
            let Stored::Json(value) = &item.value else { continue };
            if value["spec"]["tier"] == tier.name.as_str() {
                bail!("it still has {}; delete its policies first", called(&item.key));
            }
        }
    }
    Ok(())
}
