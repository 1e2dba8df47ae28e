//! `bulrush delete`: remove resources by name or by file.

pub(super) mod addresses;

use std::process::ExitCode;

use datastore::{Datastore, Error, Item, Selection};
use ipnet::IpNet;
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
    let mut expected = match version {
        "" => None,
        version => Some(version.parse().unwrap_or_default()),
    };
    if key.kind == Kind::IPPool {
        expected = forget_pool(store, key, expected).await?;
    }
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

/// Takes the pool's blocks from the nodes (Calico: `clientv3/ippool.go`). The pool is disabled first, so that no new
/// ones are claimed meanwhile. What is allocated stays: a block goes with its last address. Returns the version at
/// which the pool can be deleted, if one was asked for.
async fn forget_pool(
    store: &dyn Datastore,
    pool: &Key,
    expected: Option<u64>,
) -> Result<Option<u64>, Refusal> {
    let Some(item) = store.get(pool).await? else { return Err(Refusal::Missing) };
    let Stored::Json(mut value) = item.value else { return Ok(expected) };
    if expected.is_some_and(|expected| expected != item.version) {
        return Ok(expected);
    }
    let Some(net) = value["spec"]["cidr"].as_str().and_then(|text| text.parse::<IpNet>().ok())
    else {
        return Ok(expected);
    };
    let mut version = item.version;
    if value["spec"]["disabled"] != true {
        value["spec"]["disabled"] = true.into();
        version = store.update(pool, &Stored::Json(value), version).await?;
    }
    let (leaving, affinities) = (Leaving::pool(), addresses::all_affinities(store).await?);
    for stream in store.streams() {
        for block in store.list(stream.index, Selection::from(Kind::IPAMBlock)).await?.items {
            if is_within(&block, net) {
                leaving.leave_block(store, block, &affinities).await?;
            }
        }
    }
    Ok(expected.map(|_| version))
}

fn is_within(block: &Item, pool: IpNet) -> bool {
    let Stored::Json(value) = &block.value else { return false };
    let cidr = value["cidr"].as_str().and_then(|text| text.parse::<IpNet>().ok());
    cidr.is_some_and(|cidr| pool.contains(&cidr))
}

/// What is there only because the node is: its endpoints, addresses and blocks, and what is configured for it alone. It
/// goes before the node, and an address before the endpoint that says it, so that a deletion that was interrupted can
/// be repeated.
async fn forget_node(store: &dyn Datastore, node: &Key) -> Result<(), Refusal> {
    let Some(item) = store.get(node).await? else { return Err(Refusal::Missing) };
    let (mut blocks, mut endpoints, mut others) = (Vec::new(), Vec::new(), Vec::new());
    for stream in store.streams() {
        let kinds = Selection::of([
            Kind::WorkloadEndpoint,
            Kind::IPAMBlock,
            Kind::BGPPeer,
            Kind::HostEndpoint,
        ]);
        for item in store.list(stream.index, kinds).await?.items {
            let Stored::Json(value) = &item.value else { continue };
            match item.key.kind {
                Kind::IPAMBlock => blocks.push(item),
                _ if value["spec"]["node"] != *node.name => {}
                Kind::WorkloadEndpoint => endpoints.push(item),
                _ => others.push(item.key),
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
    for key in endpoints.chain(affinities).chain(others).chain(configuration) {
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
