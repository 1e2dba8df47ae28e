//! Routes, tunnel devices, neighbours and sysctls: from the view into the kernel.
//!
//! ```text
//! view, links ---> devices ---> own addresses, parent, tunnels ---> route per destination ---> ops
//!                          \--> VTEPs: neighbour (VTEP -> MAC), FDB (MAC -> node)           /
//! ```
//! Ops go in one order: devices; addresses and VTEPs; routes; then removals, the other way round.

mod decide;
mod devices;
mod tune;
mod write;

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
    drivers::{Link, Mac, NextHop, RouteKey, RouteValue, Rtnl, RtnlError, Sysctl},
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

    /// Much of what is on a device goes with it, or with its going down, without further word.
    fn lost_device(&mut self, index: u32) {
        if self.own.values().any(|own| own.uses(index)) {
            // What is on these is too much to write again unseen.
            self.tables_stale = true;
            return;
        }
        self.routes.lost(|_, route| route.device() == Some(index));
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

    /// A device got or lost an address.
    pub(crate) fn on_address(&mut self, index: u32, there: bool) {
        self.links_stale = true;
        if !there {
            // With its last address a device loses its routes and neighbours.
            self.lost_device(index);
        }
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
