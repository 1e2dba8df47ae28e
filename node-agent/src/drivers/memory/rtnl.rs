//! Links, addresses, routes, neighbours and FDB in memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use arcstr::ArcStr;
use ipnet::IpNet;

use crate::{
    Family,
    drivers::{
        Link, LinkKind, LinkSpec, Mac, PROTOCOL, RouteKey, RouteValue, Rtnl, RtnlError, RtnlOp,
    },
};

/// What an operation is refused for; none: it is not.
pub type RtnlRefusal = Box<dyn Fn(&RtnlOp) -> Option<RtnlError> + Send>;

/// A network stack.
#[derive(Default)]
pub struct MemoryRtnl {
    /// Devices by index.
    pub links: BTreeMap<u32, Link>,
    /// Addresses by device.
    pub addresses: BTreeSet<(u32, IpNet)>,
    /// The main table, whoever wrote it.
    pub routes: BTreeMap<RouteKey, RouteValue>,
    /// Permanent neighbours.
    pub neighbours: BTreeMap<(u32, IpAddr), Mac>,
    /// VXLAN peers.
    pub fdb: BTreeMap<(u32, Mac), IpAddr>,
    /// Every operation that was asked for, in order.
    pub log: Vec<RtnlOp>,
    /// Refuses operations that a real kernel might.
    pub refuse: Option<RtnlRefusal>,
    next_index: u32,
}

impl MemoryRtnl {
    /// Adds a device as another program would; its index.
    pub fn plug(&mut self, name: &str, up: bool) -> u32 {
        self.next_index += 1;
        let link = Link {
            index: self.next_index,
            name: name.into(),
            kind: LinkKind::Other,
            mac: None,
            mtu: 1500,
            up,
        };
        self.links.insert(link.index, link);
        self.next_index
    }

    /// Removes a device, and with it all that is on it.
    pub fn unplug(&mut self, index: u32) {
        self.links.remove(&index);
        self.addresses.retain(|(device, _)| *device != index);
        self.routes.retain(|_, route| route.device() != Some(index));
        self.neighbours.retain(|(device, _), _| *device != index);
        self.fdb.retain(|(device, _), _| *device != index);
    }

    /// The device of this name.
    pub fn link(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }

    fn put_link(&mut self, index: u32, spec: &LinkSpec) {
        let link = Link {
            index,
            name: spec.name.clone(),
            kind: spec.kind.clone(),
            mac: spec.mac,
            mtu: spec.mtu,
            up: true,
        };
        self.links.insert(index, link);
    }

    fn name_taken(&self, name: &ArcStr) -> bool {
        self.links.values().any(|link| link.name == *name)
    }

    fn usable(&self, route: &RouteValue) -> Result<(), RtnlError> {
        let Some(index) = route.device() else { return Ok(()) };
        let link = self.links.get(&index).ok_or(RtnlError::Missing)?;
        if link.up { Ok(()) } else { Err(RtnlError::Other("Network is down".into())) }
    }

    fn present(&self, index: u32) -> Result<(), RtnlError> {
        self.links.contains_key(&index).then_some(()).ok_or(RtnlError::Missing)
    }

    fn one(&mut self, op: &RtnlOp) -> Result<(), RtnlError> {
        if let Some(error) = self.refuse.as_ref().and_then(|refuse| refuse(op)) {
            return Err(error);
        }
        match op {
            RtnlOp::AddLink(spec) => {
                if self.name_taken(&spec.name) {
                    return Err(RtnlError::Exists);
                }
                self.next_index += 1;
                self.put_link(self.next_index, spec);
            }
            RtnlOp::ChangeLink(index, spec) => {
                self.present(*index)?;
                self.put_link(*index, spec);
            }
            RtnlOp::DeleteLink(index) => {
                self.present(*index)?;
                self.unplug(*index);
            }
            RtnlOp::AddAddress(index, net) => {
                self.present(*index)?;
                self.addresses.insert((*index, *net));
            }
            RtnlOp::DeleteAddress(index, net) => {
                self.addresses.remove(&(*index, *net)).then_some(()).ok_or(RtnlError::Missing)?;
            }
            RtnlOp::AddRoute(key, route) => {
                self.usable(route)?;
                if self.routes.contains_key(key) {
                    return Err(RtnlError::Exists);
                }
                self.routes.insert(*key, *route);
            }
            RtnlOp::ReplaceRoute(key, route) => {
                self.usable(route)?;
                self.routes.insert(*key, *route);
            }
            RtnlOp::DeleteRoute(key, route) => {
                let found = self.routes.get(key).ok_or(RtnlError::Missing)?;
                if found.protocol != route.protocol || found.device() != route.device() {
                    return Err(RtnlError::Missing);
                }
                self.routes.remove(key);
            }
            RtnlOp::SetNeighbour(index, address, mac) => {
                self.present(*index)?;
                self.neighbours.insert((*index, *address), *mac);
            }
            RtnlOp::DeleteNeighbour(index, address) => {
                self.neighbours.remove(&(*index, *address)).ok_or(RtnlError::Missing)?;
            }
            RtnlOp::SetFdb(index, mac, address) => {
                self.present(*index)?;
                self.fdb.insert((*index, *mac), *address);
            }
            RtnlOp::DeleteFdb(index, mac, _) => {
                self.fdb.remove(&(*index, *mac)).ok_or(RtnlError::Missing)?;
            }
        }
        Ok(())
    }
}

impl Rtnl for MemoryRtnl {
    fn links(&mut self) -> Result<Vec<Link>, RtnlError> {
        Ok(self.links.values().cloned().collect())
    }

    fn addresses(&mut self) -> Result<Vec<(u32, IpNet)>, RtnlError> {
        Ok(self.addresses.iter().copied().collect())
    }

    fn routes(&mut self, family: Family) -> Result<Vec<(RouteKey, RouteValue)>, RtnlError> {
        let ours = self.routes.iter().filter(|(key, route)| {
            Family::of_net(key.destination) == family && route.protocol == PROTOCOL
        });
        Ok(ours.map(|(key, route)| (*key, *route)).collect())
    }

    fn all_routes(&mut self, family: Family) -> Result<Vec<(RouteKey, RouteValue)>, RtnlError> {
        let of_family = self.routes.iter().filter(|(k, _)| Family::of_net(k.destination) == family);
        Ok(of_family.map(|(key, route)| (*key, *route)).collect())
    }

    fn neighbours(&mut self, index: u32) -> Result<Vec<(IpAddr, Mac)>, RtnlError> {
        let on_it = self.neighbours.iter().filter(|((device, _), _)| *device == index);
        Ok(on_it.map(|((_, address), mac)| (*address, *mac)).collect())
    }

    fn fdb(&mut self, index: u32) -> Result<Vec<(Mac, IpAddr)>, RtnlError> {
        let on_it = self.fdb.iter().filter(|((device, _), _)| *device == index);
        Ok(on_it.map(|((_, mac), address)| (*mac, *address)).collect())
    }

    fn apply(&mut self, ops: &[RtnlOp]) -> Vec<Result<(), RtnlError>> {
        self.log.extend_from_slice(ops);
        ops.iter().map(|op| self.one(op)).collect()
    }
}
