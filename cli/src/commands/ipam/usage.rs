//! How full pools and blocks are.

use std::net::IpAddr;

use ipnet::IpNet;

use super::blocks::{Addresses, Block};

/// Of a pool or a block. Counts of addresses are floats: an IPv6 pool may have 2^128.
#[derive(Debug, PartialEq)]
pub(super) struct Usage {
    pub(super) cidr: IpNet,
    pub(super) total: f64,
    pub(super) in_use: f64,
    /// An address that was given out before it was reserved is in use and reserved.
    pub(super) reserved: f64,
    pub(super) free: f64,
}

/// A pool with its blocks; without a pool: the IPv4 blocks that no pool has.
#[derive(Debug)]
pub(super) struct Group {
    pub(super) pool: Option<Usage>,
    pub(super) blocks: Vec<Usage>,
}

/// The usage of every pool, each block in the first pool that it has addresses of.
pub(super) fn of(addresses: &Addresses) -> Vec<Group> {
    let mut groups: Vec<(Option<IpNet>, Vec<&Block>)> =
        addresses.pools.iter().map(|pool| (Some(pool.cidr), Vec::new())).collect();
    groups.push((None, Vec::new()));
    for block in &addresses.blocks {
        let is_home = |pool: &Option<IpNet>| match pool {
            Some(pool) => pool.contains(&block.cidr) || block.cidr.contains(pool),
            None => matches!(block.cidr, IpNet::V4(_)),
        };
        if let Some((_, blocks)) = groups.iter_mut().find(|(pool, _)| is_home(pool)) {
            blocks.push(block);
        }
    }
    let groups = groups.into_iter().map(|(pool, blocks)| Group {
        pool: pool.map(|cidr| usage(addresses, cidr, &blocks)),
        blocks: blocks.iter().map(|block| usage(addresses, block.cidr, &[block])).collect(),
    });
    groups.collect()
}

fn usage(addresses: &Addresses, cidr: IpNet, blocks: &[&Block]) -> Usage {
    let held = || blocks.iter().flat_map(|block| block.held()).map(|(address, _)| address);
    let in_use = held().count() as f64;
    let both = held().filter(|address| addresses.is_reserved(*address)).count() as f64;
    let total = 2_f64.powi(i32::from(cidr.max_prefix_len() - cidr.prefix_len()));
    let reserved = covered(cidr, &addresses.reserved);
    Usage { cidr, total, in_use, reserved, free: total - in_use - reserved + both }
}

/// How many addresses of a network these others have together.
fn covered(cidr: IpNet, others: &[IpNet]) -> f64 {
    let ends = |net: &IpNet| (number(net.network()), number(net.broadcast()));
    let (first, last) = ends(&cidr);
    let is_v4 = matches!(cidr, IpNet::V4(_));
    let mut ranges: Vec<_> = others
        .iter()
        .filter(|other| matches!(other, IpNet::V4(_)) == is_v4)
        .map(ends)
        .filter(|(from, to)| *from <= last && *to >= first)
        .map(|(from, to)| (from.max(first), to.min(last)))
        .collect();
    ranges.sort_unstable();
    let mut sum = 0.0;
    let mut next = first;
    for (from, to) in ranges {
        let from = from.max(next);
        if from <= to {
            sum += (to - from) as f64 + 1.0;
            let Some(behind) = to.checked_add(1) else { break };
            next = behind;
        }
    }
    sum
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reservations_that_overlap_count_once_and_only_inside() {
        let nets = |texts: &[&str]| -> Vec<IpNet> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let covered = |cidr: &str, others: &[&str]| covered(cidr.parse().unwrap(), &nets(others));
        assert!((covered("10.0.0.0/24", &["10.0.0.0/30", "10.0.0.2/31", "10.0.1.0/24"]) - 4.0).abs() < 0.1);
        assert!((covered("10.0.0.0/24", &["10.0.0.0/8", "fd00::/8"]) - 256.0).abs() < 0.1);
        assert!(covered("10.0.0.0/24", &[]).abs() < 0.1);
        let all = covered("::/0", &["::/1", "8000::/1"]);
        assert!((all / 2_f64.powi(128) - 1.0).abs() < 0.001, "{all}");
    }
}
