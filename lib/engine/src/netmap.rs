//! A map from CIDRs that answers which CIDRs enclose one, and which lie in it.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::planted::Planted;

/// Keys are CIDRs without host bits.
pub(crate) struct NetMap<T> {
    map: Nets<T>,
    /// How many keys there are of each prefix length: IPv4, IPv6. Enclosing CIDRs are looked for
    /// only where there are some, and a map of single addresses has none.
    lengths: [Vec<(u8, u32)>; 2],
}

/// Most IP sets have one member.
enum Nets<T> {
    /// Sorted.
    Few(Vec<(IpNet, T)>),
    Many(BTreeMap<IpNet, T>),
}

/// From here on a tree is cheaper.
const FEW: usize = 16;

/// Both forms of a map, of which one is empty.
type Parts<'m, T> = (&'m [(IpNet, T)], Option<&'m BTreeMap<IpNet, T>>);

impl<T> Default for NetMap<T> {
    fn default() -> Self {
        Self { map: Nets::Few(Vec::new()), lengths: [Vec::new(), Vec::new()] }
    }
}

impl<T> NetMap<T> {
    pub(crate) fn get(&self, net: &IpNet) -> Option<&T> {
        match &self.map {
            Nets::Few(few) => few.iter().find(|(known, _)| known == net).map(|(_, value)| value),
            Nets::Many(map) => map.get(net),
        }
    }

    pub(crate) fn get_mut(&mut self, net: &IpNet) -> Option<&mut T> {
        match &mut self.map {
            Nets::Few(few) => {
                few.iter_mut().find(|(known, _)| known == net).map(|(_, value)| value)
            }
            Nets::Many(map) => map.get_mut(net),
        }
    }

    pub(crate) fn get_or_default(&mut self, net: IpNet) -> &mut T
    where
        T: Default,
    {
        if self.get(&net).is_none() {
            let lengths = &mut self.lengths[family(net)];
            match lengths.binary_search_by_key(&net.prefix_len(), |(length, _)| *length) {
                Ok(place) => lengths[place].1 += 1,
                Err(place) => {
                    lengths.reserve_exact(1);
                    lengths.insert(place, (net.prefix_len(), 1));
                }
            }
            if let Nets::Few(few) = &mut self.map
                && few.len() == FEW
            {
                self.map = Nets::Many(std::mem::take(few).into_iter().collect());
            }
        }
        match &mut self.map {
            Nets::Few(few) => {
                let place = match few.binary_search_by_key(&net, |(known, _)| *known) {
                    Ok(place) => place,
                    Err(place) => {
                        // Room for one more: there is mostly none.
                        few.reserve_exact(1);
                        few.insert(place, (net, T::default()));
                        place
                    }
                };
                &mut few[place].1
            }
            Nets::Many(map) => map.entry(net).or_default(),
        }
    }

    pub(crate) fn remove(&mut self, net: &IpNet) -> Option<T> {
        let value = match &mut self.map {
            Nets::Few(few) => {
                let place = few.iter().position(|(known, _)| known == net)?;
                few.remove(place).1
            }
            Nets::Many(map) => map.remove(net)?,
        };
        let lengths = &mut self.lengths[family(*net)];
        if let Ok(place) = lengths.binary_search_by_key(&net.prefix_len(), |(length, _)| *length) {
            lengths[place].1 -= 1;
            if lengths[place].1 == 0 {
                lengths.remove(place);
            }
        }
        Some(value)
    }

    pub(crate) fn len(&self) -> usize {
        match &self.map {
            Nets::Few(few) => few.len(),
            Nets::Many(map) => map.len(),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&IpNet, &T)> {
        let (few, many) = self.parts();
        few.iter().map(|(net, value)| (net, value)).chain(many.into_iter().flatten())
    }

    fn parts(&self) -> Parts<'_, T> {
        match &self.map {
            Nets::Few(few) => (few, None),
            Nets::Many(map) => (&[], Some(map)),
        }
    }

    /// The keys that contain `net`, itself included, the smallest first.
    pub(crate) fn enclosing(&self, net: IpNet) -> impl Iterator<Item = (IpNet, &T)> {
        let lengths = self.lengths[family(net)].iter().rev();
        let lengths = lengths.skip_while(move |(length, _)| *length > net.prefix_len());
        lengths.filter_map(move |(length, _)| {
            let outer = truncated(net, *length)?;
            Some((outer, self.get(&outer)?))
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
        let (few, many) = self.parts();
        let few = few.iter().filter(move |(inner, _)| (net..=last).contains(inner));
        let many = many.into_iter().flat_map(move |map| map.range(net..=last));
        few.map(|(inner, value)| (*inner, value)).chain(many.map(|(inner, value)| (*inner, value)))
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
