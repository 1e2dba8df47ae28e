//! What the store holds about addresses, read for showing it.

use std::{collections::BTreeMap, net::IpAddr};

use datastore::{Datastore, Selection};
use ipnet::IpNet;
use model::{Key, Kind, Stored};
use serde::Deserialize;
use serde_json::Value;

/// An address block, as it is stored (Calico: `libcalico-go/lib/backend/model/block.go`).
#[derive(Debug, Deserialize)]
pub(super) struct Block {
    pub(super) cidr: IpNet,
    /// `host:<node>` or `virtual:<owner>`; none: nobody's.
    affinity: Option<String>,
    /// For each address the index of its attributes; none: it is free.
    #[serde(default)]
    allocations: Vec<Option<usize>>,
    #[serde(default)]
    attributes: Vec<Attributes>,
}

/// What is known of the holder of an address.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Attributes {
    #[serde(rename = "handle_id")]
    pub(super) handle: Option<String>,
    /// Of who holds it now.
    #[serde(default, rename = "secondary")]
    pub(super) owner: Option<BTreeMap<String, String>>,
    /// Of who may hold it next.
    #[serde(default, rename = "alternateOwnerAttrs")]
    pub(super) alternate: Option<BTreeMap<String, String>>,
}

impl Attributes {
    pub(super) fn of_owner(&self, name: &str) -> Option<&str> {
        self.owner.as_ref()?.get(name).map(String::as_str)
    }
}

impl Block {
    /// Whose it is, without what kind of owner that is; empty: nobody's.
    pub(super) fn owner(&self) -> &str {
        let affinity = self.affinity.as_deref().unwrap_or_default();
        affinity.split_once(':').map_or(affinity, |(_, owner)| owner)
    }

    /// Every address that is held, with what is known of its holder.
    pub(super) fn held(&self) -> impl Iterator<Item = (IpAddr, Option<&Attributes>)> {
        let held = self.allocations.iter().enumerate();
        held.filter_map(|(ordinal, index)| {
            let address = nth(&self.cidr, ordinal as u128)?;
            Some((address, self.attributes.get((*index)?)))
        })
    }
}

/// The address at this place of a network; none: the network is smaller.
pub(in crate::commands) fn nth(net: &IpNet, ordinal: u128) -> Option<IpAddr> {
    let address = match net.network() {
        IpAddr::V4(first) => {
            IpAddr::V4(u32::from(first).checked_add(u32::try_from(ordinal).ok()?)?.into())
        }
        IpAddr::V6(first) => IpAddr::V6(u128::from(first).checked_add(ordinal)?.into()),
    };
    net.contains(&address).then_some(address)
}

/// A pool, as far as it is shown.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) cidr: IpNet,
    pub(super) is_disabled: bool,
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Addresses {
    /// In the order of their names.
    pub(super) pools: Vec<Pool>,
    /// In the order of their keys in etcd: IPv4 first, then as text.
    pub(super) blocks: Vec<Block>,
    pub(super) reserved: Vec<IpNet>,
    /// What can't be read, for people.
    pub(super) faults: Vec<String>,
}

/// Reads all pools, blocks and reservations.
pub(super) async fn read(store: &dyn Datastore) -> anyhow::Result<Addresses> {
    let wanted = Selection::of([Kind::IPAMBlock, Kind::IPPool, Kind::IPReservation]);
    let mut items = Vec::new();
    for stream in store.streams() {
        items.extend(store.list(stream.index, wanted).await?.items);
    }
    items.sort_by(|a, b| a.key.cmp(&b.key));
    let mut addresses = Addresses::default();
    for item in items {
        if let Err(fault) = addresses.add(&item.key, item.value) {
            addresses.faults.push(format!("{}: {fault}; it is left out", item.key));
        }
    }
    addresses.blocks.sort_by_cached_key(|block| {
        (matches!(block.cidr, IpNet::V6(_)), block.cidr.to_string().replace('/', "-"))
    });
    Ok(addresses)
}

impl Addresses {
    fn add(&mut self, key: &Key, value: Stored) -> Result<(), String> {
        let Stored::Json(value) = value else { return Err("its value is no JSON".to_owned()) };
        let net = |value: &Value| {
            let text = value.as_str().unwrap_or_default();
            text.parse::<IpNet>().map(|net| net.trunc()).map_err(|_| format!("{value} is no CIDR"))
        };
        match key.kind {
            Kind::IPPool => {
                let is_disabled = value["spec"]["disabled"].as_bool().unwrap_or_default();
                self.pools.push(Pool { cidr: net(&value["spec"]["cidr"])?, is_disabled });
            }
            Kind::IPReservation => {
                let nets = value["spec"]["reservedCIDRs"].as_array().into_iter().flatten();
                self.reserved.extend(nets.map(net).collect::<Result<Vec<_>, _>>()?);
            }
            _ => {
                let block: Block =
                    serde_json::from_value(value).map_err(|error| format!("no block: {error}"))?;
                self.blocks.push(block);
            }
        }
        Ok(())
    }

    pub(super) fn is_reserved(&self, address: IpAddr) -> bool {
        self.reserved.iter().any(|net| net.contains(&address))
    }
}
