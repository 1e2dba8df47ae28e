//! `bulrush delete`: remove resources by name or by file.

use std::process::ExitCode;

use datastore::{Datastore, Error, Selection};
use model::{Key, Kind, Stored};

use crate::{
    resource::{
        builtin, called,
        source::SourceArgs,
        stored, tally,
        write::{Refusal, is_kubernetes},
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
                match delete(&*store, &written.key()?, &written.version).await {
                    Err(Refusal::Missing) if self.skip_not_exists => Ok(()),
                    result => result,
                }
            })
            .await
        })
    }
}

async fn delete(store: &dyn Datastore, key: &Key, version: &str) -> Result<(), Refusal> {
    if let Some(refusal) = builtin::delete_refusal(key) {
        return Err(Refusal::Rule(refusal));
    }
    match key.kind {
        Kind::Tier => tier_is_empty(store, key).await?,
        Kind::Node if is_kubernetes(store) => {
            let text = format!("nodes are Kubernetes' own: kubectl delete node {}", key.name);
            return Err(Refusal::Rule(text));
        }
        Kind::Node => forget_node(store, key).await?,
        _ => {}
    }
    let expected = match version {
        "" => None,
        version => Some(version.parse().unwrap_or_default()),
    };
    match store.delete(key, expected).await {
        Ok(true) => Ok(()),
        Ok(false) => Err(Refusal::Missing),
        Err(Error::Conflict(conflict)) => {
            Err(match conflict.current.into_iter().find_map(|(_, item)| item) {
                Some(item) => Refusal::Outdated { given: version.to_owned(), now: item.version },
                None => Refusal::Missing,
            })
        }
        Err(error) => Err(error.into()),
    }
}

/// What is there only because the node is: its endpoints, and its configuration. It goes before the
/// node, so that a deletion that was interrupted can be repeated.
async fn forget_node(store: &dyn Datastore, node: &Key) -> Result<(), Refusal> {
    if store.get(node).await?.is_none() {
        return Err(Refusal::Missing);
    }
    let of_nodes = Selection::of([Kind::WorkloadEndpoint, Kind::IPAMBlock]);
    let affinity = format!("host:{}", node.name);
    let mut has_addresses = false;
    for stream in store.streams() {
        for item in store.list(stream.index, of_nodes).await?.items {
            let Stored::Json(value) = &item.value else { continue };
            match item.key.kind {
                Kind::WorkloadEndpoint if value["spec"]["node"] == node.name.as_str() => {
                    store.delete(&item.key, None).await?;
                }
                Kind::IPAMBlock if value["affinity"] == affinity.as_str() => has_addresses = true,
                _ => {}
            }
        }
    }
    for kind in [Kind::FelixConfiguration, Kind::BGPConfiguration] {
        store.delete(&Key::global(kind, format!("node.{}", node.name)), None).await?;
    }
    if has_addresses {
        eprintln!(
            "note: {} still has address blocks; they stay until the address management collects \
             them",
            called(node)
        );
    }
    Ok(())
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
