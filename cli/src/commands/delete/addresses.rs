//! Giving back addresses: those of a node that goes, with its blocks, or single ones.
//!
//! A block, the handles of its addresses and its affinity change in one transaction, so that no stop in between leaves
//! a handle without its address.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::SystemTime,
};

use datastore::{Compare, Datastore, Error, Expected, Item, Selection, Write};
use ipnet::IpNet;
use model::{Key, Kind, Stored};
use serde_json::{Map, Value, json};

use crate::{
    commands::ipam::nth,
    resource::{
        called, stored,
        write::{Refusal, is_kubernetes},
    },
};

/// How often a block is tried again when someone else wrote it in between.
const ATTEMPTS: usize = 20;
/// Addresses with this handle are Windows' own: they don't keep a block (Calico: `libcalico-go/lib/ipam`).
const OF_WINDOWS: &str = "windows-reserved-ipam-handle";

/// Whose that is which goes.
enum Whose<'a> {
    /// All that is this node's.
    Node(&'a str),
    /// The blocks that the nodes have of a pool; what is allocated of them stays.
    Pool,
    /// The addresses alone, whosever they are.
    Anyone,
}

/// What goes.
pub(in crate::commands) struct Leaving<'a> {
    whose: Whose<'a>,
    /// Those of the node's endpoints and tunnels, for allocations that don't say their node.
    addresses: BTreeSet<IpAddr>,
    /// When they go, if an address rests before it is given out again.
    resting_since: Option<String>,
}

impl<'a> Leaving<'a> {
    /// `texts` are the addresses, of the node's endpoints and tunnels if there is a node, some with a prefix length.
    pub(in crate::commands) async fn new(
        store: &dyn Datastore,
        node: Option<&'a str>,
        texts: impl Iterator<Item = &str>,
    ) -> Result<Self, Refusal> {
        let address = |text: &str| text.split('/').next().unwrap_or_default().parse().ok();
        let addresses = texts.filter_map(address).collect();
        let key = Key::global(Kind::IPAMConfiguration, "default");
        let rests = match store.get(&key).await?.map(|item| item.value) {
            Some(Stored::Json(configuration)) => {
                configuration["ipCooldownSeconds"].as_u64().is_some_and(|seconds| seconds > 0)
            }
            _ => false,
        };
        let resting_since = rests.then(|| stored::rfc3339(SystemTime::now()));
        let whose = node.map_or(Whose::Anyone, Whose::Node);
        Ok(Self { whose, addresses, resting_since })
    }

    /// The nodes' blocks of a pool, not its addresses.
    pub(in crate::commands) fn pool() -> Self {
        Self { whose: Whose::Pool, addresses: BTreeSet::new(), resting_since: None }
    }

    /// Whether the address of these attributes goes. One that says its node is that node's, wherever else the address
    /// is written.
    fn holds(&self, address: IpAddr, attributes: &Value) -> bool {
        match (&self.whose, attributes["secondary"]["node"].as_str()) {
            (Whose::Node(leaving), Some(node)) => node == *leaving,
            // It was released before, and rests.
            _ if !attributes["releasedAt"].is_null() => false,
            _ => self.addresses.contains(&address),
        }
    }

    /// Releases what goes of a block, and the block itself if it is the node's or the pool's; whether there was anything.
    pub(in crate::commands) async fn leave_block(
        &self,
        store: &dyn Datastore,
        block: Item,
        affinities: &[Key],
    ) -> Result<bool, Refusal> {
        // The block and its affinity change too.
        let most = store.capabilities().atomic_writes.saturating_sub(2).max(1);
        let key = block.key.clone();
        let mut block = Some(block);
        let (mut attempt, mut was_there) = (0, false);
        while let Some(item) = block {
            let Stored::Json(mut value) = item.value else { return Ok(was_there) };
            let released = self
                .release(&mut value, most)
                .map_err(|fault| Refusal::Rule(format!("{}: {fault}", called(&key))))?;
            let is_done = !released.is_changed;
            if !is_done {
                let compare =
                    Compare { key: key.clone(), expected: Expected::Version(item.version) };
                let (mut compares, mut writes) = (vec![compare], Vec::new());
                if !is_kubernetes(store) {
                    handles(store, &value, &released.handles, &mut compares, &mut writes).await?;
                }
                writes.push(if released.is_over {
                    Write::Delete(key.clone())
                } else {
                    Write::Put(key.clone(), Stored::Json(value.clone()))
                });
                if let Some(node) = &released.was_of {
                    let name = format!("{node}-{}", block_of_affinity(&value).unwrap_or_default());
                    let affinity = affinities.iter().find(|affinity| affinity.name == name);
                    writes.extend(affinity.cloned().map(Write::Delete));
                }
                match store.txn(&compares, &writes).await {
                    Ok(_) => {
                        (attempt, was_there) = (0, true);
                        if is_kubernetes(store) {
                            handles_after(store, &value, &released.handles).await?;
                        }
                    }
                    Err(Error::Conflict(_)) if attempt < ATTEMPTS => attempt += 1,
                    Err(error) => return Err(error.into()),
                }
            }
            block = if is_done { None } else { store.get(&key).await? };
        }
        Ok(was_there)
    }

    /// Takes at most so many addresses out of the block, and once none is left of the node's, the block from the node.
    fn release(&self, block: &mut Value, most: usize) -> Result<Released, String> {
        let mut released = Released::default();
        let net: IpNet = block["cidr"]
            .as_str()
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| format!("cidr: {} is none; repair or remove the block", block["cidr"]))?;
        let no_list = |field: &str| format!("{field} is no list; repair or remove the block");
        let attributes = block["attributes"].as_array().cloned().unwrap_or_default();
        let allocations =
            block["allocations"].as_array_mut().ok_or_else(|| no_list("allocations"))?;
        let mut gone = Vec::new();
        let mut is_more = false;
        for (ordinal, allocation) in allocations.iter_mut().enumerate() {
            let Some(index) = allocation.as_u64() else { continue };
            let attributes = attributes
                .get(usize::try_from(index).unwrap_or(usize::MAX))
                .ok_or_else(|| format!("allocations[{ordinal}]: there are no attributes {index}"))?;
            if !nth(&net, ordinal as u128).is_some_and(|address| self.holds(address, attributes)) {
                continue;
            }
            if gone.len() == most {
                is_more = true;
                break;
            }
            *allocation = Value::Null;
            gone.push(ordinal);
            if let Some(handle) = attributes["handle_id"].as_str() {
                *released.handles.entry(handle.to_owned()).or_default() += 1;
            }
        }
        if !gone.is_empty() {
            released.is_changed = true;
            if let Some(since) = &self.resting_since {
                for ordinal in &gone {
                    allocations[*ordinal] = attributes.len().into();
                }
                let mut attributes = attributes;
                attributes.push(json!({"releasedAt": since}));
                block["attributes"] = attributes.into();
            } else {
                let free = block["unallocated"]
                    .as_array_mut()
                    .ok_or_else(|| no_list("unallocated"))?;
                free.extend(gone.iter().map(|ordinal| Value::from(*ordinal)));
            }
            if let Some(sequence) = block["sequenceNumberForAllocation"].as_object_mut() {
                sequence.retain(|ordinal, _| {
                    !ordinal.parse().is_ok_and(|ordinal: usize| gone.contains(&ordinal))
                });
            }
            drop_unused_attributes(block);
            bump(block);
        }
        let host = block["affinity"].as_str().and_then(|affinity| affinity.strip_prefix("host:"));
        let leaves = |host: &&str| match self.whose {
            Whose::Node(node) => node == *host,
            Whose::Pool => true,
            Whose::Anyone => false,
        };
        if let Some(host) = host.filter(leaves).filter(|_| !is_more) {
            released.is_changed = true;
            released.was_of = Some(host.to_owned());
            block["affinity"] = Value::Null;
            if let Some(block) = block.as_object_mut() {
                block.remove("affinity_claim_time");
            }
            bump(block);
        }
        if released.is_changed && block["affinity"].is_null() {
            released.is_over = is_empty(block);
            if released.is_over {
                let windows = allocated(block)
                    .filter(|index| block["attributes"][*index]["handle_id"] == OF_WINDOWS)
                    .count();
                if windows > 0 {
                    released.handles.insert(OF_WINDOWS.to_owned(), windows as u64);
                }
            }
        }
        Ok(released)
    }
}

/// What became of a block.
#[derive(Debug, Default, PartialEq)]
struct Released {
    is_changed: bool,
    /// Nobody holds anything of it any more: it goes.
    is_over: bool,
    /// The node that has it no more.
    was_of: Option<String>,
    /// How many addresses each handle has less.
    handles: BTreeMap<String, u64>,
}

/// Each version of a block has a number (Calico: `libcalico-go/lib/backend/model/block.go`).
fn bump(block: &mut Value) {
    let next = block["sequenceNumber"].as_u64().unwrap_or_default() + 1;
    block["sequenceNumber"] = next.into();
}

fn allocated(block: &Value) -> impl Iterator<Item = usize> {
    let allocations = block["allocations"].as_array().into_iter().flatten();
    allocations.filter_map(|index| usize::try_from(index.as_u64()?).ok())
}

fn is_empty(block: &Value) -> bool {
    allocated(block).all(|index| block["attributes"][index]["handle_id"] == OF_WINDOWS)
}

/// Numbers the attributes anew without those of nobody.
fn drop_unused_attributes(block: &mut Value) {
    let used: BTreeSet<usize> = allocated(block).collect();
    let Some(attributes) = block["attributes"].as_array_mut() else { return };
    let mut index = 0;
    attributes.retain(|_| {
        index += 1;
        used.contains(&(index - 1))
    });
    let numbers: BTreeMap<u64, usize> =
        used.into_iter().enumerate().map(|(new, old)| (old as u64, new)).collect();
    for allocation in block["allocations"].as_array_mut().into_iter().flatten() {
        if let Some(new) = allocation.as_u64().and_then(|old| numbers.get(&old)) {
            *allocation = (*new).into();
        }
    }
}

/// The writes that take these addresses of the block from their handles.
async fn handles(
    store: &dyn Datastore,
    block: &Value,
    fewer: &BTreeMap<String, u64>,
    compares: &mut Vec<Compare>,
    writes: &mut Vec<Write>,
) -> Result<(), Refusal> {
    let cidr = block["cidr"].as_str().unwrap_or_default();
    for (id, fewer) in fewer {
        // Old data may have more behind it.
        let name = id.split('\r').next().unwrap_or_default();
        let key = Key::global(Kind::IPAMHandle, name);
        let Some(item) = store.get(&key).await? else { continue };
        let Stored::Json(mut handle) = item.value else { continue };
        let Some(blocks) = handle.get_mut("block").and_then(Value::as_object_mut) else { continue };
        take(blocks, cidr, *fewer);
        compares.push(Compare { key: key.clone(), expected: Expected::Version(item.version) });
        writes.push(if blocks.is_empty() {
            Write::Delete(key)
        } else {
            Write::Put(key, Stored::Json(handle))
        });
    }
    Ok(())
}

/// The same where one write is all that a transaction takes: after the block, handle by handle. What a stop in between
/// leaves is a handle that counts too many.
async fn handles_after(
    store: &dyn Datastore,
    block: &Value,
    fewer: &BTreeMap<String, u64>,
) -> Result<(), Refusal> {
    for (id, fewer) in fewer {
        let one = BTreeMap::from([(id.clone(), *fewer)]);
        let mut attempt = 0;
        loop {
            let (mut compares, mut writes) = (Vec::new(), Vec::new());
            handles(store, block, &one, &mut compares, &mut writes).await?;
            if writes.is_empty() {
                break;
            }
            match store.txn(&compares, &writes).await {
                Ok(_) => break,
                Err(Error::Conflict(_)) if attempt < ATTEMPTS => attempt += 1,
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

fn take(blocks: &mut Map<String, Value>, cidr: &str, fewer: u64) {
    let left = blocks.get(cidr).and_then(Value::as_u64).unwrap_or_default().saturating_sub(fewer);
    if left == 0 {
        blocks.remove(cidr);
    } else {
        blocks.insert(cidr.to_owned(), left.into());
    }
}

/// The blocks' affinities to a node. A node's name may be another's with more behind it.
pub(super) async fn affinities(store: &dyn Datastore, node: &str) -> Result<Vec<Key>, Refusal> {
    let mut found = all_affinities(store).await?;
    found.retain(|affinity| {
        let block = affinity.name.strip_prefix(node).and_then(|rest| rest.strip_prefix('-'));
        block.is_some_and(is_block_name)
    });
    Ok(found)
}

/// Every block's affinity.
pub(super) async fn all_affinities(store: &dyn Datastore) -> Result<Vec<Key>, Refusal> {
    let mut found = Vec::new();
    for stream in store.streams() {
        let listing = store.list(stream.index, Selection::from(Kind::BlockAffinity)).await?;
        found.extend(listing.items.into_iter().map(|item| item.key));
    }
    Ok(found)
}

/// What the name of a block's affinity has behind the node's: of IPv6 all groups, unlike the block's own name.
fn block_of_affinity(block: &Value) -> Option<String> {
    let net: IpNet = block["cidr"].as_str()?.parse().ok()?;
    let address = match net.addr() {
        IpAddr::V4(address) => address.to_string().replace('.', "-"),
        IpAddr::V6(address) => address.segments().map(|group| format!("{group:04x}")).join("-"),
    };
    Some(format!("{address}-{}", net.prefix_len()))
}

/// Whether this names a block and nothing else: `10-0-0-0-26`, or eight groups of four digits and a length.
fn is_block_name(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let is_number = |part: &&str| !part.is_empty() && part.bytes().all(|it| it.is_ascii_digit());
    match parts.len() {
        5 => parts.iter().all(|part| is_number(part) && part.len() <= 3),
        9 => {
            let is_group = |part: &&str| {
                part.len() == 4 && part.bytes().all(|digit| digit.is_ascii_hexdigit())
            };
            parts[..8].iter().all(is_group) && is_number(&parts[8])
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaving(addresses: &[&str]) -> Leaving<'static> {
        Leaving {
            whose: Whose::Node("n1"),
            addresses: addresses.iter().map(|it| it.parse().unwrap()).collect(),
            resting_since: None,
        }
    }

    fn block() -> Value {
        json!({
            "affinity": "host:n1", "affinity_claim_time": "2024-01-01T00:00:00Z",
            "allocations": [null, 0, 3, null, 4, 1, 2, null],
            "attributes": [
                {"handle_id": "pod", "secondary": {"namespace": "ns1", "node": "n1", "pod": "web-0"}},
                {"handle_id": "tunnel", "secondary": {"node": "n1", "type": "ipipTunnelAddress"}},
                {"handle_id": "vm"},
                {"handle_id": "unrelated"},
                {"handle_id": "borrowed", "secondary": {"node": "n2"}},
            ],
            "cidr": "10.0.0.0/29", "deleted": false, "sequenceNumber": 4, "mine": "stays",
            "sequenceNumberForAllocation": {"1": 0, "2": 3, "4": 3, "5": 1, "6": 2},
            "unallocated": [0, 3, 7],
        })
    }

    #[test]
    fn a_node_gives_back_its_addresses_and_its_block_and_leaves_those_of_others() {
        let mut block = block();
        // The last is written on the node too, but says that it is another's.
        let released = leaving(&["10.0.0.6", "10.0.0.4"]).release(&mut block, 100).unwrap();
        assert_eq!(
            block,
            json!({
                "affinity": null, "allocations": [null, null, 0, null, 1, null, null, null],
                "attributes": [
                    {"handle_id": "unrelated"},
                    {"handle_id": "borrowed", "secondary": {"node": "n2"}},
                ],
                "cidr": "10.0.0.0/29", "deleted": false, "sequenceNumber": 6, "mine": "stays",
                "sequenceNumberForAllocation": {"2": 3, "4": 3},
                "unallocated": [0, 3, 7, 1, 5, 6],
            })
        );
        let handles = ["pod", "tunnel", "vm"].map(|id| (id.to_owned(), 1));
        assert_eq!(
            released,
            Released {
                is_changed: true,
                is_over: false,
                was_of: Some("n1".to_owned()),
                handles: handles.into()
            }
        );
        let again = leaving(&[]).release(&mut block, 100).unwrap();
        assert_eq!(again, Released::default());
    }

    #[test]
    fn a_single_address_goes_whosever_it_is_and_the_block_stays_the_nodes() {
        let mut block = block();
        let one = Leaving { whose: Whose::Anyone, ..leaving(&["10.0.0.4"]) };
        let released = one.release(&mut block, 100).unwrap();
        assert_eq!(released.handles, [("borrowed".to_owned(), 1)].into());
        assert!(released.was_of.is_none() && !released.is_over);
        assert_eq!(block["allocations"], json!([null, 0, 3, null, null, 1, 2, null]));
        assert_eq!(block["unallocated"], json!([0, 3, 7, 4]));
        assert_eq!(block["affinity"], "host:n1");
        assert_eq!(one.release(&mut block, 100).unwrap(), Released::default());
    }

    #[test]
    fn a_pool_takes_the_blocks_from_the_nodes_and_leaves_the_addresses() {
        let mut block = block();
        let before = block["allocations"].clone();
        let released = Leaving::pool().release(&mut block, 100).unwrap();
        assert_eq!(released.was_of.as_deref(), Some("n1"));
        assert!(!released.is_over && released.handles.is_empty());
        assert_eq!((&block["affinity"], &block["allocations"]), (&json!(null), &before));
        assert_eq!(Leaving::pool().release(&mut block, 100).unwrap(), Released::default());

        // A service's block is no node's.
        block["affinity"] = json!("virtual:load-balancer");
        assert_eq!(Leaving::pool().release(&mut block, 100).unwrap(), Released::default());
    }

    #[test]
    fn a_block_that_is_left_empty_and_nobodys_is_over() {
        let mut block = block();
        block["allocations"] = json!([0, null, null, null, null, null, null, 1]);
        block["attributes"][1] = json!({"handle_id": OF_WINDOWS});
        let released = leaving(&[]).release(&mut block, 100).unwrap();
        assert!(released.is_over);
        let handles = [("pod", 1), (OF_WINDOWS, 1)].map(|(id, count)| (id.to_owned(), count));
        assert_eq!(released.handles, handles.into());

        // Another node's block is kept for that node.
        let mut block = super::tests::block();
        block["allocations"] = json!([0, null, null, null, null, null, null, null]);
        block["affinity"] = json!("host:n2");
        let released = leaving(&[]).release(&mut block, 100).unwrap();
        assert!(released.is_changed && !released.is_over && released.was_of.is_none());
        assert_eq!(block["affinity"], "host:n2");
    }

    #[test]
    fn a_block_is_released_in_as_many_steps_as_a_transaction_needs() {
        let mut block = block();
        let leaving = leaving(&["10.0.0.6"]);
        let steps = [
            (1, "host:n1"),
            (2, "host:n1"),
            (3, "null"),
        ];
        for (released, affinity) in steps {
            leaving.release(&mut block, 1).unwrap();
            let held = allocated(&block).count();
            assert_eq!(held, 5 - released);
            assert_eq!(block["affinity"].as_str().unwrap_or("null"), affinity);
        }
    }

    #[test]
    fn an_address_that_rests_stays_allocated_with_the_time() {
        let mut block = block();
        let leaving = Leaving { resting_since: Some("then".to_owned()), ..leaving(&["10.0.0.1"]) };
        let released = leaving.release(&mut block, 100).unwrap();
        assert_eq!(block["allocations"], json!([null, 3, 1, null, 2, 3, 0, null]));
        assert_eq!(block["attributes"][3], json!({"releasedAt": "then"}));
        assert_eq!(block["unallocated"], json!([0, 3, 7]));
        assert!(!released.is_over);
        assert_eq!(leaving.release(&mut block, 100).unwrap(), Released::default());
    }

    #[test]
    fn a_damaged_block_is_left_as_it_is() {
        let mut block = block();
        block["allocations"][0] = json!(9);
        let error = leaving(&[]).release(&mut block, 100).unwrap_err();
        assert!(error.contains("allocations[0]: there are no attributes 9"), "{error}");
    }

    #[test]
    fn the_affinities_of_a_node_are_not_those_of_one_with_a_longer_name() {
        for (name, is_block) in [
            ("10-0-0-0-26", true),
            ("fd00-0010-0000-0000-0000-0000-0000-0040-122", true),
            ("10-10-0-0-0-26", false),
            ("a-10-0-0-0-26", false),
            ("", false),
        ] {
            assert_eq!(is_block_name(name), is_block, "{name}");
        }
    }
}
