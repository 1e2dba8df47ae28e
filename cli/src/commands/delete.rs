//! `bulrush delete`: remove resources by name or by file.

pub(super) mod addresses;

use std::process::ExitCode;

use datastore::{Datastore, Error, Selection};
use model::{Key, Kind, Stored};
use serde_json::Value;

use self::addresses::Leaving;
use crate::{
    resource::{
        builtin, called,
        source::SourceArgs,
        stored, tally,
        write::{Refusal, is_kubernetes},
    },
    store::StoreArgs,
};

/// Where a node says the addresses of its tunnels.
const TUNNELS: &[&str] = &[
    "/spec/bgp/ipv4IPIPTunnelAddr",
    "/spec/ipv4VXLANTunnelAddr",
    "/spec/ipv6VXLANTunnelAddr",
    "/spec/wireguard/interfaceIPv4Address",
    "/spec/wireguard/interfaceIPv6Address",
];

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

/// What is there only because the node is: its endpoints, addresses and blocks, and its configuration. It goes before
/// the node, and an address before the endpoint that says it, so that a deletion that was interrupted can be repeated.
async fn forget_node(store: &dyn Datastore, node: &Key) -> Result<(), Refusal> {
    let Some(item) = store.get(node).await? else { return Err(Refusal::Missing) };
    let (mut blocks, mut endpoints) = (Vec::new(), Vec::new());
    for stream in store.streams() {
        let kinds = Selection::of([Kind::WorkloadEndpoint, Kind::IPAMBlock]);
        for item in store.list(stream.index, kinds).await?.items {
            let Stored::Json(value) = &item.value else { continue };
            match item.key.kind {
                Kind::IPAMBlock => blocks.push(item),
                _ if value["spec"]["node"] == *node.name => endpoints.push(item),
                _ => {}
            }
        }
    }
    let nets = endpoints.iter().flat_map(|endpoint| match &endpoint.value {
        Stored::Json(value) => value["spec"]["ipNetworks"].as_array().map_or(&[][..], Vec::as_slice),
        Stored::Raw(_) => &[],
    });
    let tunnels = match &item.value {
        Stored::Json(value) => TUNNELS.iter().filter_map(|path| value.pointer(path)).collect(),
        Stored::Raw(_) => Vec::new(),
    };
    let texts = nets.chain(tunnels).filter_map(Value::as_str);
    let leaving = Leaving::new(store, Some(&node.name), texts).await?;
    let affinities = addresses::affinities(store, &node.name).await?;
    for block in blocks {
        leaving.leave_block(store, block, &affinities).await?;
    }
    let configuration = [Kind::FelixConfiguration, Kind::BGPConfiguration];
    let configuration = configuration.map(|kind| Key::global(kind, format!("node.{}", node.name)));
    let endpoints = endpoints.into_iter().map(|endpoint| endpoint.key);
    for key in endpoints.chain(affinities).chain(configuration) {
        store.delete(&key, None).await?;
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
