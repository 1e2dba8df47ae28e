//! Pending changes as operations, in order, and how they went.

use std::collections::{BTreeMap, BTreeSet};

use arcstr::ArcStr;
use model::view::{Host, Topic};

use super::{Mode, NetworkReconciler, decide};
use crate::{
    drivers::{NextHop, PROTOCOL, RouteKey, RouteValue, Rtnl, RtnlError, RtnlOp},
    family::Family,
    view::NodeView,
};

impl NetworkReconciler {
    /// Makes the pending changes.
    pub(super) fn write(&mut self, view: &NodeView, rtnl: &mut dyn Rtnl, mode: Mode) {
        let ops = self.pending_ops(mode);
        let results = rtnl.apply(&ops);
        let mut taken = Vec::new();
        for (op, result) in ops.iter().zip(results) {
            match (op, result) {
                (RtnlOp::AddRoute(key, route), Err(RtnlError::Exists)) => {
                    taken.push((*key, *route));
                }
                (op, result) => self.settle(view, op, result),
            }
        }
        if !taken.is_empty() {
            self.take_over(view, rtnl, &taken);
        }
    }

    /// What is missing, in order; then, if that is allowed, what is too much.
    fn pending_ops(&self, mode: Mode) -> Vec<RtnlOp> {
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
        ops
    }

    /// Takes in how one change went.
    fn settle(&mut self, view: &NodeView, op: &RtnlOp, result: Result<(), RtnlError>) {
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

    /// Routes are where ours belong: those that are ours or lead into a workload are replaced.
    fn take_over(
        &mut self,
        view: &NodeView,
        rtnl: &mut dyn Rtnl,
        taken: &[(RouteKey, RouteValue)],
    ) {
        let mut found = BTreeMap::new();
        for family in self.families.clone() {
            if taken.iter().any(|(key, _)| Family::of_net(key.destination) == family) {
                match rtnl.all_routes(family) {
                    Ok(routes) => found.extend(routes),
                    Err(error) => tracing::warn!(%error, %family, "routes can't be read"),
                }
            }
        }
        let workloads: BTreeSet<u32> = self
            .by_interface
            .keys()
            .filter_map(|interface| self.links.get(interface))
            .map(|link| link.index)
            .collect();
        let mut ops = Vec::new();
        for (key, route) in taken {
            let op = RtnlOp::ReplaceRoute(*key, *route);
            match found.get(key) {
                Some(other)
                    if other.protocol == PROTOCOL
                        || other.device().is_some_and(|index| workloads.contains(&index)) =>
                {
                    ops.push(op);
                }
                Some(other) => {
                    let reason = format!(
                        "a route of protocol {} has its place and is not ours: delete it, or \
                         exclude it where it is made",
                        other.protocol
                    );
                    self.settle(view, &op, Err(RtnlError::Other(reason)));
                }
                None => self.settle(view, &op, Err(RtnlError::Exists)),
            }
        }
        for (op, result) in ops.iter().zip(rtnl.apply(&ops)) {
            self.settle(view, op, result);
        }
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
                let has = |(_, host): &(&ArcStr, &Host)| {
                    decide::vtep_address(host, Family::of(*address)) == Some(*address)
                };
                node(view.hosts.iter().find(has).map_or(&self.node, |(name, _)| name))
            }
            RtnlOp::SetFdb(_, _, address) | RtnlOp::DeleteFdb(_, _, address) => {
                let has = |(_, host): &(&ArcStr, &Host)| {
                    decide::node_address(host, Family::of(*address))
                        .is_some_and(|net| net.addr() == *address)
                };
                node(view.hosts.iter().find(has).map_or(&self.node, |(name, _)| name))
            }
            _ => node(&self.node),
        }
    }
}
