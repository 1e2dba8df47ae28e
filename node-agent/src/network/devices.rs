//! Tunnel devices, their addresses, and the VTEPs behind them.

use std::{collections::BTreeMap, net::IpAddr};

use arcstr::ArcStr;
use ipnet::IpNet;
use model::view::{EncapMode, Host, Topic};

use super::{
    NetworkReconciler,
    decide::{Own, node_address, vtep_address},
};
use crate::{
    drivers::{Link, LinkKind, LinkSpec, Mac, Rtnl, RtnlError, RtnlOp, Vxlan},
    family::Family,
    view::NodeView,
};

/// The IPIP device.
const IPIP: &str = "tunl0";

/// A tunnel device that should be there, or why it can't be; none: it isn't needed.
type Wanted = Option<Result<(LinkSpec, IpNet), String>>;

impl NetworkReconciler {
    /// Makes the tunnel devices as they should be, and works out what this node sends with.
    pub(super) fn devices(&mut self, view: &NodeView, rtnl: &mut dyn Rtnl, sweep: bool) {
        let mut addresses = BTreeMap::new();
        for family in self.families.clone() {
            let own_host = view.hosts.get(&self.node);
            let address = own_host.and_then(|host| node_address(host, family));
            let parent = address.and_then(|net| {
                let on = self.seen_addresses.iter().find(|(_, seen)| seen.addr() == net.addr());
                on.map(|(index, _)| *index)
            });
            let parent = parent.and_then(|index| self.links.values().find(|l| l.index == index));
            let parent = parent.cloned();
            let mut own =
                Own { address, parent: parent.as_ref().map(|l| l.index), ..Own::default() };
            let wanted = self.wanted_vxlan(view, family, parent.as_ref());
            own.vxlan = self.device(rtnl, family.vxlan_device(), wanted, &mut addresses, sweep);
            if family == Family::V4 {
                let wanted = self.wanted_ipip(view, parent.as_ref());
                own.ipip = self.device(rtnl, IPIP, wanted, &mut addresses, sweep);
            }
            if self.own.get(&family) != Some(&own) {
                self.own.insert(family, own);
                self.all_dirty = true;
            }
        }
        self.addresses.set_all(addresses);
    }

    /// Takes in which addresses the tunnel devices have.
    pub(super) fn observe_addresses(&mut self) {
        let names = self.families.iter().map(|family| family.vxlan_device()).chain([IPIP]);
        let ours: Vec<u32> =
            names.filter_map(|name| self.links.get(name)).map(|link| link.index).collect();
        let seen = self.seen_addresses.iter().filter(|(index, net)| {
            ours.contains(index)
                && !matches!(net.addr(), IpAddr::V6(a) if a.is_unicast_link_local())
        });
        self.addresses.observe_all(seen.map(|(index, net)| ((*index, net.addr()), *net)).collect());
    }

    fn wanted_vxlan(&self, view: &NodeView, family: Family, parent: Option<&Link>) -> Wanted {
        let mut pools = view.pools.iter().filter(|(cidr, _)| Family::of_net(**cidr) == family);
        if pools.all(|(_, pool)| pool.vxlan == EncapMode::Never) {
            return None;
        }
        let overhead = match family {
            Family::V4 => 50,
            Family::V6 => 70,
        };
        let explicit = match family {
            Family::V4 => self.config.vxlan_mtu,
            Family::V6 => self.config.vxlan_mtu_v6,
        };
        Some((|| {
            let (host, parent) = self.tunnel_end(view, family, parent)?;
            let missing =
                |what: &str| format!("this node has no IPv{} VXLAN {what} yet", family.version());
            let tunnel = vtep_address(host, family).ok_or_else(|| missing("tunnel address"))?;
            let mac = vtep_mac(host, family).map_err(|error| format!("VXLAN MAC: {error}"))?;
            let spec = LinkSpec {
                name: family.vxlan_device().into(),
                kind: LinkKind::Vxlan(Vxlan {
                    vni: self.config.vxlan_vni,
                    port: self.config.vxlan_port,
                    local: node_address(host, family).map(|net| net.addr()),
                    parent: parent.index,
                    learning: false,
                }),
                mac: Some(mac),
                mtu: mtu(explicit, parent, overhead),
            };
            Ok((spec, IpNet::from(tunnel)))
        })())
    }

    fn wanted_ipip(&self, view: &NodeView, parent: Option<&Link>) -> Wanted {
        let mut pools = view.pools.iter().filter(|(cidr, _)| Family::of_net(**cidr) == Family::V4);
        if pools.all(|(_, pool)| pool.ipip == EncapMode::Never) {
            return None;
        }
        Some((|| {
            let (host, parent) = self.tunnel_end(view, Family::V4, parent)?;
            let tunnel = host.ipip_address.ok_or("this node has no IPIP tunnel address yet")?;
            let spec = LinkSpec {
                name: IPIP.into(),
                kind: LinkKind::Ipip,
                mac: None,
                mtu: mtu(self.config.ipip_mtu, parent, 20),
            };
            Ok((spec, IpNet::from(tunnel)))
        })())
    }

    fn tunnel_end<'a>(
        &self,
        view: &'a NodeView,
        family: Family,
        parent: Option<&'a Link>,
    ) -> Result<(&'a Host, &'a Link), String> {
        let host = view.hosts.get(&self.node).ok_or("this node itself is not in the view yet")?;
        let net = node_address(host, family)
            .ok_or_else(|| format!("this node has no IPv{} address yet", family.version()))?;
        let parent = parent.ok_or_else(|| {
            let seen: Vec<String> = self
                .seen_addresses
                .iter()
                .filter(|(_, seen)| Family::of_net(*seen) == family)
                .map(|(_, seen)| seen.addr().to_string())
                .collect();
            format!("no device has this node's address {} (found {})", net.addr(), seen.join(", "))
        })?;
        Ok((host, parent))
    }

    /// Makes one device as it should be; its index, if it is there.
    fn device(
        &mut self,
        rtnl: &mut dyn Rtnl,
        name: &'static str,
        wanted: Wanted,
        addresses: &mut BTreeMap<(u32, IpAddr), IpNet>,
        sweep: bool,
    ) -> Option<u32> {
        let place = (Topic::host(&self.node), self.node.clone());
        let found = self.links.get(name).cloned();
        let (spec, address) = match wanted {
            None => {
                if let Some(link) = found.filter(|link| sweep && link.kind != LinkKind::Ipip) {
                    let result = rtnl.apply(&[RtnlOp::DeleteLink(link.index)]).pop();
                    if let Some(Err(error)) = result
                        && error != RtnlError::Missing
                    {
                        self.refuse(place, format!("device {name} can't be removed: {error}"));
                    }
                    self.refresh(rtnl);
                }
                return None;
            }
            Some(Err(reason)) => {
                self.refuse(place, format!("device {name}: {reason}"));
                // What is there may still carry traffic by what was known before.
                let index = found?.index;
                let kept = self.addresses.desired().iter().filter(|((on, _), _)| *on == index);
                addresses.extend(kept.map(|(key, net)| (*key, *net)));
                return Some(index);
            }
            Some(Ok(wanted)) => wanted,
        };
        match self.make(rtnl, &spec) {
            Ok(()) => {}
            Err(RtnlError::Unsupported) => {
                let (what, module) = match spec.kind {
                    LinkKind::Ipip => ("IPIP", "ipip"),
                    _ => ("VXLAN", "vxlan"),
                };
                let reason = format!("{what} needs kernel module {module}: modprobe {module}");
                self.refuse(place, reason);
            }
            Err(error) => self.refuse(place, format!("device {name}: {error}")),
        }
        let link = self.links.get(name)?;
        addresses.insert((link.index, address.addr()), address);
        Some(link.index)
    }

    /// Makes a device, or changes it in place; what can't be changed is made anew.
    fn make(&mut self, rtnl: &mut dyn Rtnl, spec: &LinkSpec) -> Result<(), RtnlError> {
        let mut last = Ok(());
        for anew in [false, true] {
            let add = RtnlOp::AddLink(spec.clone());
            let ops = match self.links.get(&spec.name) {
                None => vec![add],
                Some(link) if fits(link, spec) => return Ok(()),
                // tunl0 comes with its module, and can't be removed without it.
                Some(link) if anew && spec.kind != LinkKind::Ipip => {
                    vec![RtnlOp::DeleteLink(link.index), add]
                }
                Some(link) => vec![RtnlOp::ChangeLink(link.index, spec.clone())],
            };
            last = rtnl.apply(&ops).pop().unwrap_or(Ok(()));
            self.refresh(rtnl);
        }
        match self.links.get(&spec.name) {
            Some(link) if fits(link, spec) => Ok(()),
            _ => {
                last.and(Err(RtnlError::Other("the kernel made another than was asked for".into())))
            }
        }
    }

    fn refresh(&mut self, rtnl: &mut dyn Rtnl) {
        // The next commit looks again if this look fails.
        self.links_stale = true;
        if let Err(error) = self.read_links(rtnl) {
            let place = (Topic::host(&self.node), self.node.clone());
            self.refuse(place, format!("the kernel's links can't be read: {error}"));
        }
    }

    /// Works out the neighbour and FDB entries of all other nodes.
    pub(super) fn update_vteps(&mut self, view: &NodeView) {
        let (mut neighbours, mut fdb) = (BTreeMap::new(), BTreeMap::new());
        let mut owners: BTreeMap<(Family, Mac), &ArcStr> = BTreeMap::new();
        self.vtep_problems.clear();
        for family in &self.families {
            let Some(index) = self.own.get(family).and_then(|own| own.vxlan) else { continue };
            for (name, host) in view.hosts.iter().filter(|(name, _)| **name != self.node) {
                let (Some(node), Some(vtep)) =
                    (node_address(host, *family), vtep_address(host, *family))
                else {
                    continue;
                };
                let problem = match vtep_mac(host, *family) {
                    Err(error) => error.to_string(),
                    Ok(mac) => {
                        if let Some(other) = owners.get(&(*family, mac)) {
                            format!("its VXLAN MAC {mac} is also that of node {other}")
                        } else {
                            owners.insert((*family, mac), name);
                            neighbours.insert((index, vtep), mac);
                            fdb.insert((index, mac), node.addr());
                            continue;
                        }
                    }
                };
                self.vtep_problems.insert((Topic::host(name), name.clone()), problem);
            }
        }
        self.neighbours.set_all(neighbours);
        self.fdb.set_all(fdb);
    }
}

fn vtep_mac(host: &Host, family: Family) -> Result<Mac, crate::drivers::BadMac> {
    match family {
        Family::V4 => host.vxlan_mac.parse(),
        Family::V6 => host.vxlan_mac_v6.parse(),
    }
}

fn mtu(explicit: u32, parent: &Link, overhead: u32) -> u32 {
    if explicit > 0 { explicit } else { parent.mtu.saturating_sub(overhead) }
}

/// Whether a device is as it should be.
fn fits(link: &Link, spec: &LinkSpec) -> bool {
    link.kind == spec.kind
        && link.mtu == spec.mtu
        && link.up
        && (spec.mac.is_none() || link.mac == spec.mac)
}
