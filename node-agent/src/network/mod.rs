//! Routes, tunnel devices, neighbours and sysctls: from the view into the kernel.
//!
//! ```text
//! view, links ---> devices ---> own addresses, parent, tunnels ---> route per destination ---> ops
//!                          \--> VTEPs: neighbour (VTEP -> MAC), FDB (MAC -> node)           /
//! ```
//! Ops go in one order: devices; addresses and VTEPs; routes; then removals, the other way round.

mod decide;
mod devices;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use arcstr::ArcStr;
use ipnet::IpNet;
use model::view::Topic;

use self::decide::Own;
use crate::{
    Failure,
    drivers::{
        Link, Mac, NextHop, PROTOCOL, RouteKey, RouteValue, Rtnl, RtnlError, RtnlOp, Sysctl,
    },
    family::Family,
    settings::Config,
    table::Table,
    view::{Changes, NodeView},
};

/// What a commit may do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mode {
    /// Remove what is ours and not asked for.
    pub(crate) sweep: bool,
    /// Add routes to workloads; not before policy guards their interfaces.
    pub(crate) connect: bool,
}

/// The reconciler of links, addresses, routes, neighbours, FDB and sysctls.
pub(crate) struct NetworkReconciler {
    node: ArcStr,
    families: Vec<Family>,
    config: Config,
    /// The devices, as last seen.
    links: BTreeMap<ArcStr, Link>,
    /// Every device's addresses, as last seen.
    seen_addresses: Vec<(u32, IpNet)>,
    /// Whether something may have changed behind our back: what was seen is read anew.
    links_stale: bool,
    tables_stale: bool,
    own: BTreeMap<Family, Own>,
    addresses: Table<(u32, IpAddr), IpNet>,
    neighbours: Table<(u32, IpAddr), Mac>,
    fdb: Table<(u32, Mac), IpAddr>,
    routes: Table<RouteKey, RouteValue>,
    /// Interface and addresses of each endpoint.
    endpoints: BTreeMap<ArcStr, (ArcStr, Vec<IpNet>)>,
    /// The endpoints that have an address.
    by_address: BTreeMap<IpNet, BTreeSet<ArcStr>>,
    /// The endpoints on an interface.
    by_interface: BTreeMap<ArcStr, BTreeSet<ArcStr>>,
    /// The destinations on each node.
    by_node: BTreeMap<ArcStr, BTreeSet<IpNet>>,
    /// The node of each destination in `by_node`.
    node_of: BTreeMap<IpNet, ArcStr>,
    /// Destinations to decide anew.
    dirty: BTreeSet<IpNet>,
    /// Whether all destinations and VTEPs are.
    all_dirty: bool,
    /// The interfaces whose sysctls are set, by the index they had.
    tuned: BTreeMap<ArcStr, u32>,
    forwarding: BTreeSet<Family>,
    /// What can't be had, by its place in the view: by decision, and by the kernel's refusal.
    undecided: BTreeMap<(Topic, ArcStr), String>,
    vtep_problems: BTreeMap<(Topic, ArcStr), String>,
    refused: BTreeMap<(Topic, ArcStr), String>,
    waiting: BTreeSet<ArcStr>,
}

impl NetworkReconciler {
    pub(crate) fn new(node: ArcStr, families: Vec<Family>) -> Self {
        Self {
            node,
            families,
            config: Config::default(),
            links: BTreeMap::new(),
            seen_addresses: Vec::new(),
            links_stale: true,
            tables_stale: true,
            own: BTreeMap::new(),
            addresses: Table::default(),
            neighbours: Table::default(),
            fdb: Table::default(),
            routes: Table::default(),
            endpoints: BTreeMap::new(),
            by_address: BTreeMap::new(),
            by_interface: BTreeMap::new(),
            by_node: BTreeMap::new(),
            node_of: BTreeMap::new(),
            dirty: BTreeSet::new(),
            all_dirty: true,
            tuned: BTreeMap::new(),
            forwarding: BTreeSet::new(),
            undecided: BTreeMap::new(),
            vtep_problems: BTreeMap::new(),
            refused: BTreeMap::new(),
            waiting: BTreeSet::new(),
        }
    }

    /// Takes in what changed in the view.
    pub(crate) fn update(&mut self, view: &NodeView, config: &Config, changes: &Changes) {
        if self.config != *config {
            self.config = config.clone();
            self.all_dirty = true;
        }
        self.all_dirty |= changes.pools;
        for name in &changes.hosts {
            self.dirty.extend(self.by_node.get(name).into_iter().flatten());
        }
        if !changes.hosts.is_empty() {
            self.update_vteps(view);
        }
        for cidr in &changes.routes {
            if let Some(old) = self.node_of.remove(cidr)
                && let Some(cidrs) = self.by_node.get_mut(&old)
            {
                cidrs.remove(cidr);
            }
            if let Some(route) = view.routes.get(cidr) {
                self.by_node.entry(route.node.clone()).or_default().insert(*cidr);
                self.node_of.insert(*cidr, route.node.clone());
            }
            self.dirty.insert(*cidr);
        }
        for key in &changes.endpoints {
            self.update_endpoint(view, key);
        }
    }

    fn update_endpoint(&mut self, view: &NodeView, key: &ArcStr) {
        if let Some((interface, addresses)) = self.endpoints.remove(key) {
            remove_from(&mut self.by_interface, &interface, key);
            // Another pod may get the same interface name: its sysctls start anew.
            self.tuned.remove(&interface);
            for address in addresses {
                remove_from(&mut self.by_address, &address, key);
                self.dirty.insert(address);
            }
        }
        if let Some(endpoint) = view.endpoints.get(key) {
            let interface = endpoint.interface.clone();
            self.by_interface.entry(interface.clone()).or_default().insert(key.clone());
            for address in &endpoint.addresses {
                self.by_address.entry(*address).or_default().insert(key.clone());
                self.dirty.insert(*address);
            }
            self.endpoints.insert(key.clone(), (interface, endpoint.addresses.clone()));
        }
    }

    /// Brings the kernel to what the view asks for.
    pub(crate) fn commit(
        &mut self,
        view: &NodeView,
        rtnl: &mut dyn Rtnl,
        sysctl: &mut dyn Sysctl,
        mode: Mode,
    ) {
        self.refused.clear();
        if let Err(error) = self.look(rtnl) {
            self.refuse(
                (Topic::Node(self.node.clone()), ArcStr::new()),
                format!("the kernel's links and routes can't be read: {error}"),
            );
            return;
        }
        self.devices(view, rtnl, mode.sweep);
        self.tune(view, sysctl);
        self.decide_all(view);
        self.write(view, rtnl, mode);
    }

    /// Reads from the kernel what may have changed.
    fn look(&mut self, rtnl: &mut dyn Rtnl) -> Result<(), RtnlError> {
        if self.links_stale {
            self.read_links(rtnl)?;
        }
        if self.tables_stale {
            let mut routes = BTreeMap::new();
            for family in &self.families {
                routes.extend(rtnl.routes(*family)?);
            }
            let (mut neighbours, mut fdb) = (BTreeMap::new(), BTreeMap::new());
            let ours = self.families.iter().filter_map(|f| self.links.get(f.vxlan_device()));
            for index in ours.map(|link| link.index) {
                let found = rtnl.neighbours(index)?;
                neighbours.extend(found.into_iter().map(|(address, mac)| ((index, address), mac)));
                let found = rtnl.fdb(index)?;
                fdb.extend(found.into_iter().map(|(mac, address)| ((index, mac), address)));
            }
            self.routes.observe_all(routes);
            self.neighbours.observe_all(neighbours);
            self.fdb.observe_all(fdb);
            self.tables_stale = false;
        }
        Ok(())
    }

    fn read_links(&mut self, rtnl: &mut dyn Rtnl) -> Result<(), RtnlError> {
        let links: BTreeMap<ArcStr, Link> =
            rtnl.links()?.into_iter().map(|link| (link.name.clone(), link)).collect();
        self.seen_addresses = rtnl.addresses()?;
        let old = std::mem::replace(&mut self.links, links);
        let changed: Vec<ArcStr> = old
            .iter()
            .filter(|(name, link)| self.links.get(*name) != Some(link))
            .map(|(name, _)| name.clone())
            .chain(self.links.keys().filter(|name| !old.contains_key(*name)).cloned())
            .collect();
        for name in changed {
            for key in self.by_interface.get(&name).into_iter().flatten() {
                if let Some((_, addresses)) = self.endpoints.get(key) {
                    self.dirty.extend(addresses);
                }
            }
        }
        self.observe_addresses();
        self.links_stale = false;
        Ok(())
    }

    /// Everything on a device went with it, or with its going down, without further word.
    fn lost_device(&mut self, index: u32) {
        self.routes.lost(|_, route| route.device() == Some(index));
        self.neighbours.lost(|(device, _), _| *device == index);
        self.fdb.lost(|(device, _), _| *device == index);
        self.addresses.lost(|(device, _), _| *device == index);
    }

    /// Sets what packets need to pass an interface, and the node.
    fn tune(&mut self, view: &NodeView, sysctl: &mut dyn Sysctl) {
        let own = view.hosts.get(&self.node);
        let dual = own.is_some_and(|host| host.ipv6.is_some())
            || self.by_address.keys().any(|net| Family::of_net(*net) == Family::V6);
        for family in self.families.clone() {
            let path = match family {
                Family::V4 => "net/ipv4/ip_forward",
                Family::V6 if dual => "net/ipv6/conf/all/forwarding",
                Family::V6 => continue,
            };
            if self.forwarding.contains(&family) {
                continue;
            }
            match ensure(sysctl, path, "1") {
                Ok(()) => {
                    self.forwarding.insert(family);
                }
                Err(reason) => {
                    self.refuse((Topic::Node(self.node.clone()), ArcStr::new()), reason);
                }
            }
        }
        for (interface, keys) in self.by_interface.clone() {
            let Some(index) = self.links.get(&interface).map(|link| link.index) else {
                self.tuned.remove(&interface);
                continue;
            };
            if self.tuned.get(&interface) == Some(&index) {
                continue;
            }
            let addresses = keys.iter().filter_map(|key| self.endpoints.get(key));
            let v6 = addresses
                .flat_map(|(_, addresses)| addresses)
                .any(|net| Family::of_net(*net) == Family::V6);
            match tune_interface(sysctl, &interface, v6) {
                Ok(()) => {
                    self.tuned.insert(interface, index);
                }
                Err(reason) => {
                    for key in keys {
                        self.refuse((Topic::Node(self.node.clone()), key), reason.clone());
                    }
                }
            }
        }
    }

    /// Decides what is dirty.
    fn decide_all(&mut self, view: &NodeView) {
        if std::mem::take(&mut self.all_dirty) {
            self.dirty.extend(view.routes.keys());
            self.dirty.extend(self.by_address.keys());
            self.dirty.extend(self.routes.desired().keys().map(|key| key.destination));
            self.update_vteps(view);
        }
        for cidr in std::mem::take(&mut self.dirty) {
            let place = (Topic::route(cidr), ArcStr::from(cidr.to_string()));
            let route = match self.decide(view, cidr) {
                Ok(route) => {
                    self.undecided.remove(&place);
                    route
                }
                Err(reason) => {
                    self.undecided.insert(place, reason);
                    None
                }
            };
            self.routes.set(RouteKey::ours(cidr), route);
        }
        self.waiting = self
            .endpoints
            .iter()
            .filter(|(_, (interface, addresses))| {
                !addresses.is_empty() && self.ready_link(interface).is_none()
            })
            .map(|(key, _)| key.clone())
            .collect();
    }

    fn ready_link(&self, interface: &str) -> Option<u32> {
        self.links.get(interface).filter(|link| link.up).map(|link| link.index)
    }

    fn decide(&self, view: &NodeView, cidr: IpNet) -> Result<Option<RouteValue>, String> {
        let family = Family::of_net(cidr);
        if !self.families.contains(&family) {
            return Ok(None);
        }
        if let Some(keys) = self.by_address.get(&cidr) {
            // Local endpoints come first: a packet to them must never leave the node.
            let links = keys.iter().filter_map(|key| self.endpoints.get(key));
            let mut ready = links.filter_map(|(interface, _)| self.ready_link(interface));
            return Ok(ready.next().map(|index| RouteValue::ours(NextHop::Link { index })));
        }
        let Some(route) = view.routes.get(&cidr) else { return Ok(None) };
        if route.node == self.node {
            return Ok(decide::own_route(cidr, route));
        }
        let own = self.own.get(&family).cloned().unwrap_or_default();
        let pool = route.pool.as_ref().and_then(|cidr| view.pools.get(cidr));
        if let (Some(cidr), None) = (route.pool, pool) {
            return Err(format!("its pool {cidr} is not in the view"));
        }
        decide::remote_route(family, &own, route, pool, view.hosts.get(&route.node)).map(Some)
    }

    /// Makes the pending changes.
    fn write(&mut self, view: &NodeView, rtnl: &mut dyn Rtnl, mode: Mode) {
        let mut ops = Vec::new();
        for pending in self.addresses.pending() {
            if let Some(net) = pending.desired {
                ops.push(RtnlOp::AddAddress(pending.key.0, *net));
            }
        }
        for pending in self.neighbours.pending() {
            if let Some(mac) = pending.desired {
                ops.push(RtnlOp::SetNeighbour(pending.key.0, pending.key.1, *mac));
            }
        }
        for pending in self.fdb.pending() {
            if let Some(address) = pending.desired {
                ops.push(RtnlOp::SetFdb(pending.key.0, pending.key.1, *address));
            }
        }
        for pending in self.routes.pending() {
            match (pending.actual, pending.desired) {
                (None, Some(RouteValue { next: NextHop::Link { .. }, .. })) if !mode.connect => {}
                (None, Some(route)) => ops.push(RtnlOp::AddRoute(*pending.key, *route)),
                (Some(_), Some(route)) => ops.push(RtnlOp::ReplaceRoute(*pending.key, *route)),
                _ => {}
            }
        }
        if mode.sweep {
            for pending in self.routes.pending() {
                if let (Some(route), None) = (pending.actual, pending.desired) {
                    ops.push(RtnlOp::DeleteRoute(*pending.key, *route));
                }
            }
            for pending in self.neighbours.pending().filter(|pending| pending.desired.is_none()) {
                ops.push(RtnlOp::DeleteNeighbour(pending.key.0, pending.key.1));
            }
            for pending in self.fdb.pending() {
                if let (Some(address), None) = (pending.actual, pending.desired) {
                    ops.push(RtnlOp::DeleteFdb(pending.key.0, pending.key.1, *address));
                }
            }
            for pending in self.addresses.pending() {
                if let (Some(net), None) = (pending.actual, pending.desired) {
                    ops.push(RtnlOp::DeleteAddress(pending.key.0, *net));
                }
            }
        }
        let results = rtnl.apply(&ops);
        for (op, result) in ops.into_iter().zip(results) {
            self.settle(view, rtnl, &op, result);
        }
    }

    /// Takes in how one change went.
    fn settle(
        &mut self,
        view: &NodeView,
        rtnl: &mut dyn Rtnl,
        op: &RtnlOp,
        mut result: Result<(), RtnlError>,
    ) {
        if let (RtnlOp::AddRoute(key, route), Err(RtnlError::Exists)) = (op, &result) {
            result = self.take_over(rtnl, *key, *route);
        }
        let removal = matches!(
            op,
            RtnlOp::DeleteRoute(..)
                | RtnlOp::DeleteNeighbour(..)
                | RtnlOp::DeleteFdb(..)
                | RtnlOp::DeleteAddress(..)
        );
        match result {
            Ok(()) => {}
            Err(RtnlError::Missing) if removal => {}
            Err(error) => {
                // A device that is gone says so by its own event; until then this is tried again.
                self.links_stale = true;
                let place = self.place(view, op);
                self.refuse(place, format!("{op}: {error}"));
                return;
            }
        }
        match op {
            RtnlOp::AddRoute(key, _)
            | RtnlOp::ReplaceRoute(key, _)
            | RtnlOp::DeleteRoute(key, _) => {
                self.routes.written(key);
            }
            RtnlOp::SetNeighbour(index, address, _) | RtnlOp::DeleteNeighbour(index, address) => {
                self.neighbours.written(&(*index, *address));
            }
            RtnlOp::SetFdb(index, mac, _) | RtnlOp::DeleteFdb(index, mac, _) => {
                self.fdb.written(&(*index, *mac));
            }
            RtnlOp::AddAddress(index, net) | RtnlOp::DeleteAddress(index, net) => {
                self.addresses.written(&(*index, net.addr()));
            }
            RtnlOp::AddLink(_) | RtnlOp::ChangeLink(..) | RtnlOp::DeleteLink(_) => {}
        }
    }

    /// A route is where ours belongs: it is replaced if it is ours, or leads into a workload.
    fn take_over(
        &self,
        rtnl: &mut dyn Rtnl,
        key: RouteKey,
        route: RouteValue,
    ) -> Result<(), RtnlError> {
        let Some(found) = rtnl.route(key)? else { return Err(RtnlError::Exists) };
        let to_workload = || {
            self.by_interface
                .keys()
                .filter_map(|interface| self.links.get(interface))
                .any(|link| Some(link.index) == found.device())
        };
        if found.protocol != PROTOCOL && !to_workload() {
            return Err(RtnlError::Other(format!(
                "a route of protocol {} has its place and is not ours: delete it, or exclude it \
                 where it is made",
                found.protocol
            )));
        }
        rtnl.apply(&[RtnlOp::ReplaceRoute(key, route)]).pop().unwrap_or(Err(RtnlError::Exists))
    }

    /// The place in the view that a change came from.
    fn place(&self, view: &NodeView, op: &RtnlOp) -> (Topic, ArcStr) {
        let node = |name: &ArcStr| (Topic::host(name), name.clone());
        match op {
            RtnlOp::AddRoute(key, _)
            | RtnlOp::ReplaceRoute(key, _)
            | RtnlOp::DeleteRoute(key, _) => {
                let cidr = key.destination;
                match self.by_address.get(&cidr).and_then(BTreeSet::first) {
                    Some(endpoint) => (Topic::Node(self.node.clone()), endpoint.clone()),
                    None => (Topic::route(cidr), cidr.to_string().into()),
                }
            }
            RtnlOp::SetNeighbour(_, address, _) | RtnlOp::DeleteNeighbour(_, address) => {
                let has = |(_, host): &(&ArcStr, &model::view::Host)| {
                    decide::vtep_address(host, Family::of(*address)) == Some(*address)
                };
                node(view.hosts.iter().find(has).map_or(&self.node, |(name, _)| name))
            }
            RtnlOp::SetFdb(_, _, address) | RtnlOp::DeleteFdb(_, _, address) => {
                let has = |(_, host): &(&ArcStr, &model::view::Host)| {
                    decide::node_address(host, Family::of(*address))
                        .is_some_and(|net| net.addr() == *address)
                };
                node(view.hosts.iter().find(has).map_or(&self.node, |(name, _)| name))
            }
            _ => node(&self.node),
        }
    }

    fn refuse(&mut self, place: (Topic, ArcStr), reason: String) {
        self.refused.entry(place).or_insert(reason);
    }

    /// What of the view is not in the kernel, and why.
    pub(crate) fn failures(&self) -> Vec<Failure> {
        self.undecided
            .iter()
            .chain(&self.vtep_problems)
            .chain(&self.refused)
            .map(|((topic, key), reason)| Failure {
                topic: topic.clone(),
                key: key.clone(),
                reason: reason.clone(),
            })
            .collect()
    }

    /// Whether the kernel refused something that is worth another try.
    pub(crate) fn wants_retry(&self) -> bool {
        !self.refused.is_empty()
    }

    /// The endpoints whose interface is not there, or not up.
    pub(crate) fn waiting(&self) -> &BTreeSet<ArcStr> {
        &self.waiting
    }

    /// Has the next commit read everything anew.
    pub(crate) fn look_again(&mut self) {
        self.links_stale = true;
        self.tables_stale = true;
        self.tuned.clear();
        self.forwarding.clear();
    }

    /// A device came, went or changed.
    pub(crate) fn on_link(&mut self, index: u32, up: bool) {
        self.links_stale = true;
        if !up {
            self.lost_device(index);
        }
    }

    /// A device's addresses changed.
    pub(crate) fn on_address(&mut self) {
        self.links_stale = true;
    }

    /// A route came or went; whether that is to be repaired.
    pub(crate) fn on_route(&mut self, key: RouteKey, route: Option<RouteValue>) -> bool {
        self.routes.observe(key, route)
    }

    /// A permanent neighbour entry came or went; whether that is to be repaired.
    pub(crate) fn on_neighbour(&mut self, index: u32, address: IpAddr, mac: Option<Mac>) -> bool {
        self.is_vxlan(index) && self.neighbours.observe((index, address), mac)
    }

    /// A VXLAN peer came or went; whether that is to be repaired.
    pub(crate) fn on_fdb(&mut self, index: u32, mac: Mac, address: Option<IpAddr>) -> bool {
        self.is_vxlan(index) && self.fdb.observe((index, mac), address)
    }

    fn is_vxlan(&self, index: u32) -> bool {
        self.own.values().any(|own| own.vxlan == Some(index))
    }
}

fn remove_from<K: Ord, V: Ord>(index: &mut BTreeMap<K, BTreeSet<V>>, key: &K, value: &V) {
    if let Some(values) = index.get_mut(key) {
        values.remove(value);
        if values.is_empty() {
            index.remove(key);
        }
    }
}

/// Sets a value unless it is set.
fn ensure(sysctl: &mut dyn Sysctl, path: &str, value: &str) -> Result<(), String> {
    if sysctl.get(path).is_ok_and(|current| current == value) {
        return Ok(());
    }
    sysctl
        .set(path, value)
        .map_err(|error| format!("sysctl {path} can't be set to {value}: {error}"))
}

/// What a workload's interface needs: the pod's gateway is answered for, and its packets go on.
fn tune_interface(sysctl: &mut dyn Sysctl, interface: &str, v6: bool) -> Result<(), String> {
    // The path below has `/` between its parts, so that dots in a name are no trouble.
    let mut set = |path: String, value| ensure(sysctl, &path, value);
    set(format!("net/ipv4/conf/{interface}/forwarding"), "1")?;
    set(format!("net/ipv4/conf/{interface}/route_localnet"), "1")?;
    set(format!("net/ipv4/conf/{interface}/proxy_arp"), "1")?;
    // Answer at once: a pod's first packet waits for it.
    set(format!("net/ipv4/neigh/{interface}/proxy_delay"), "0")?;
    if v6 {
        set(format!("net/ipv6/conf/{interface}/disable_ipv6"), "0")?;
        set(format!("net/ipv6/conf/{interface}/accept_ra"), "0")?;
        set(format!("net/ipv6/conf/{interface}/forwarding"), "1")?;
        set(format!("net/ipv6/conf/{interface}/proxy_ndp"), "1")?;
        set(format!("net/ipv6/neigh/{interface}/proxy_delay"), "0")?;
    }
    Ok(())
}
