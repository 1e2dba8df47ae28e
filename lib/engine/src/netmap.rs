//! A map from CIDRs that answers which CIDRs enclose one, and which lie in it.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::planted::Planted;

/// Keys are CIDRs without host bits.
pub(crate) struct NetMap<T> {
    map: BTreeMap<IpNet, T>,
    /// How many keys there are of each prefix length: IPv4, IPv6. Enclosing CIDRs are looked for
    /// only where there are some, and a map of single addresses has none.
    lengths: [BTreeMap<u8, usize>; 2],
}

impl<T> Default for NetMap<T> {
    fn default() -> Self {
        Self { map: BTreeMap::new(), lengths: [BTreeMap::new(), BTreeMap::new()] }
    }
}

impl<T> NetMap<T> {
    pub(crate) fn get(&self, net: &IpNet) -> Option<&T> {
        self.map.get(net)
    }

    pub(crate) fn get_mut(&mut self, net: &IpNet) -> Option<&mut T> {
        self.map.get_mut(net)
    }

    pub(crate) fn get_or_default(&mut self, net: IpNet) -> &mut T
    where
        T: Default,
    {
        let lengths = &mut self.lengths[family(net)];
        self.map.entry(net).or_insert_with(|| {
            *lengths.entry(net.prefix_len()).or_default() += 1;
            T::default()
        })
    }

    pub(crate) fn remove(&mut self, net: &IpNet) -> Option<T> {
        let value = self.map.remove(net)?;
        let lengths = &mut self.lengths[family(*net)];
        if let Some(count) = lengths.get_mut(&net.prefix_len()) {
            *count -= 1;
            if *count == 0 {
                lengths.remove(&net.prefix_len());
            }
        }
        Some(value)
    }

    pub(crate) fn len(&self) -> usize {
        self.map.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&IpNet, &T)> {
        self.map.iter()
    }

    /// The keys that contain `net`, itself included, the smallest first.
    pub(crate) fn enclosing(&self, net: IpNet) -> impl Iterator<Item = (IpNet, &T)> {
        self.lengths[family(net)].range(..=net.prefix_len()).rev().filter_map(move |(length, _)| {
            let outer = truncated(net, *length)?;
            Some((outer, self.map.get(&outer)?))
        })
    }

    /// The keys that lie in `net`, itself included, in order.
    pub(crate) fn within(&self, net: IpNet) -> impl Iterator<Item = (IpNet, &T)> {
        let last = match net {
            IpNet::V4(net) => Ipv4Net::new(net.broadcast(), 32).map(IpNet::V4),
            IpNet::V6(net) => Ipv6Net::new(net.broadcast(), 128).map(IpNet::V6),
        };
        // A full prefix length always fits; if it didn't, `net` alone would be looked at.
        let last = last.unwrap_or(net);
        self.map.range(net..=last).map(|(inner, value)| (*inner, value))
    }
}

fn family(net: IpNet) -> usize {
    usize::from(net.addr().is_ipv6())
}

fn truncated(net: IpNet, length: u8) -> Option<IpNet> {
    match net {
        IpNet::V4(net) => Ipv4Net::new(net.addr(), length).ok().map(|net| IpNet::V4(net.trunc())),
        IpNet::V6(net) => Ipv6Net::new(net.addr(), length).ok().map(|net| IpNet::V6(net.trunc())),
    }
}

/// A set can't hold everything in one member: it becomes two halves, as in Calico.
pub(crate) fn halves(net: IpNet) -> [Option<IpNet>; 2] {
    if net.prefix_len() > 0 || Planted::NetNotHalved.is_here() {
        return [Some(net), None];
    }
    match net {
        IpNet::V4(_) => [Ipv4Addr::UNSPECIFIED, Ipv4Addr::new(128, 0, 0, 0)]
            .map(|half| Ipv4Net::new(half, 1).ok().map(IpNet::V4)),
        IpNet::V6(_) => [Ipv6Addr::UNSPECIFIED, Ipv6Addr::from(1u128 << 127)]
            .map(|half| Ipv6Net::new(half, 1).ok().map(IpNet::V6)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn it_finds_what_encloses_and_what_lies_in_a_cidr() {
        let mut map = NetMap::<()>::default();
        let nets = ["0.0.0.0/1", "10.0.0.0/8", "10.0.0.0/16", "10.0.0.0/32", "10.1.0.0/16", "::/0"];
        for text in nets {
            map.get_or_default(net(text));
        }
        let list = |nets: &mut dyn Iterator<Item = (IpNet, &())>| {
            nets.map(|(net, ())| net.to_string()).collect::<Vec<_>>()
        };
        assert_eq!(
            list(&mut map.enclosing(net("10.0.0.0/16"))),
            ["10.0.0.0/16", "10.0.0.0/8", "0.0.0.0/1"]
        );
        assert_eq!(
            list(&mut map.within(net("10.0.0.0/16"))),
            ["10.0.0.0/16", "10.0.0.0/32"],
            "10.0.0.0/8 begins at the same address and is no part of it"
        );
        assert_eq!(list(&mut map.within(net("0.0.0.0/0"))).len(), 5);
        assert_eq!(list(&mut map.enclosing(net("fd00::1/128"))), ["::/0"]);
        map.remove(&net("10.0.0.0/8"));
        assert_eq!(list(&mut map.enclosing(net("10.2.0.0/16"))), ["0.0.0.0/1"]);
    }
}
