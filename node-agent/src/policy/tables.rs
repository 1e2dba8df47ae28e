//! What one family's table holds and should hold, and the steps between.

use std::{collections::BTreeMap, net::IpAddr};

use arcstr::ArcStr;
use ipnet::IpNet;

use crate::{
    drivers::Inventory,
    family::Family,
    nft::{Chain, Element, ElementAndVerdict, SetKind, Step, Verdict},
    table::Table,
};

/// Elements per command: `nft` holds a whole command in memory several times over.
const CHUNK: usize = 4096;

/// What the kernel's table is before a plan.
#[derive(Clone, Copy)]
pub(crate) enum Before<'i> {
    /// As it was last written.
    Known,
    /// It doesn't count: it is replaced.
    Nothing,
    /// An earlier run's. Were it replaced, a packet on its way would be led by the old rules into maps whose elements
    /// are gone, and dropped: it is emptied and filled.
    Left(&'i Inventory),
}

/// One family's table.
#[derive(Default)]
pub(crate) struct Tables {
    sets: Table<ArcStr, SetKind>,
    /// By set; kept until the kernel has dropped the set.
    elements: BTreeMap<ArcStr, Table<Element, Option<Verdict>>>,
    chains: Table<ArcStr, Chain>,
}

impl Tables {
    pub(crate) fn set_chain(&mut self, name: ArcStr, chain: Option<Chain>) {
        self.chains.set(name, chain);
    }

    pub(crate) fn declare(&mut self, name: &ArcStr, kind: Option<SetKind>) {
        self.sets.set(name.clone(), kind);
    }

    pub(crate) fn is_declared(&self, name: &ArcStr) -> bool {
        self.sets.get(name).is_some()
    }

    /// The elements of a set as they should be.
    pub(crate) fn elements(&mut self, name: &ArcStr) -> &mut Table<Element, Option<Verdict>> {
        self.elements.entry(name.clone()).or_default()
    }

    pub(crate) fn set_nets(&mut self, name: &'static str, nets: Vec<IpNet>) {
        let elements = nets.into_iter().map(|net| (Element::Net(net), None)).collect();
        self.elements(&name.into()).set_all(elements);
    }

    pub(crate) fn set_hosts(&mut self, name: &'static str, hosts: impl Iterator<Item = IpAddr>) {
        let elements = hosts.map(|host| (Element::Host(host), None)).collect();
        self.elements(&name.into()).set_all(elements);
    }

    /// Adds the steps that are missing. What is referred to comes before what refers to it, and
    /// goes after it.
    pub(crate) fn plan(&self, family: Family, before: Before<'_>, steps: &mut Vec<(Family, Step)>) {
        let mut step = |step| steps.push((family, step));
        match before {
            Before::Known => {}
            Before::Nothing => step(Step::NewTable),
            Before::Left(left) => {
                let (maps, sets) =
                    left.sets.keys().cloned().partition(|name| left.maps.contains(name));
                step(Step::EmptyTable { sets, maps });
            }
        }
        for pending in self.sets.pending() {
            if let (None, Some(kind)) = (pending.actual, pending.desired) {
                step(Step::AddSet(pending.key.clone(), *kind));
            }
        }
        for pending in self.chains.pending() {
            if let (None, Some(chain)) = (pending.actual, pending.desired) {
                step(Step::AddChain(pending.key.clone(), chain.base));
            }
        }
        for (name, elements) in &self.elements {
            if self.is_declared(name) {
                plan_elements(name, elements, &mut step);
            }
        }
        // All chains are emptied first, so that none holds another by a rule that is to go.
        for pending in self.chains.pending() {
            if pending.actual.is_some() {
                step(Step::FlushChain(pending.key.clone()));
            }
        }
        for pending in self.chains.pending() {
            for rule in pending.desired.into_iter().flat_map(|chain| &chain.rules) {
                step(Step::AddRule(pending.key.clone(), rule.clone()));
            }
        }
        for pending in self.chains.pending() {
            if pending.desired.is_none() {
                step(Step::DeleteChain(pending.key.clone()));
            }
        }
        for pending in self.sets.pending() {
            if pending.desired.is_none() {
                step(Step::DeleteSet(pending.key.clone()));
            }
        }
        if let Before::Left(left) = before {
            for name in left.chains.keys().filter(|name| self.chains.get(name).is_none()) {
                step(Step::DeleteChain(name.clone()));
            }
            for name in left.sets.keys().filter(|name| self.sets.get(name).is_none()) {
                step(Step::DeleteSet(name.clone()));
            }
        }
    }

    /// Whether a table that an earlier run left can be filled again: it has the chains that the kernel calls, and the
    /// maps that lead from them.
    pub(crate) fn can_fill(&self, left: &Inventory) -> bool {
        let called = self.chains.desired().iter().filter(|(_, chain)| chain.base.is_some());
        let maps = self.sets.desired().iter().filter(|(_, kind)| **kind == SetKind::Dispatch);
        called.map(|(name, _)| name).all(|name| left.chains.contains_key(name))
            && maps.map(|(name, _)| name).all(|name| left.sets.contains_key(name))
    }

    /// All planned steps are in the kernel.
    pub(crate) fn written(&mut self) {
        self.sets.all_written();
        self.chains.all_written();
        self.elements.retain(|name, _| self.sets.get(name).is_some());
        self.elements.values_mut().for_each(Table::all_written);
    }

    /// The kernel holds nothing that we know of.
    pub(crate) fn forget(&mut self) {
        self.sets.observe_all(BTreeMap::new());
        self.chains.observe_all(BTreeMap::new());
        self.elements.values_mut().for_each(|elements| elements.observe_all(BTreeMap::new()));
    }

    /// Whether the kernel's table has the chains, rules and elements that it should have.
    pub(crate) fn fits(&self, inventory: &Inventory) -> bool {
        let chains = self.chains.desired().iter().map(|(name, chain)| (name, chain.rules.len()));
        let sets = self.sets.desired().keys().map(|name| {
            (name, self.elements.get(name).map_or(0, |elements| elements.desired().len()))
        });
        chains.eq(inventory.chains.iter().map(|(name, rules)| (name, *rules)))
            && sets.eq(inventory.sets.iter().map(|(name, elements)| (name, *elements)))
    }
}

fn plan_elements(
    name: &ArcStr,
    elements: &Table<Element, Option<Verdict>>,
    step: &mut impl FnMut(Step),
) {
    let mut chunked = |all: Vec<ElementAndVerdict>, make: fn(ArcStr, Vec<_>) -> Step| {
        for chunk in all.chunks(CHUNK) {
            step(make(name.clone(), chunk.to_vec()));
        }
    };
    let gone = elements
        .pending()
        .filter_map(|pending| pending.actual.map(|verdict| (pending.key.clone(), verdict.clone())));
    chunked(gone.collect(), Step::DeleteElements);
    let new = elements.pending().filter_map(|pending| {
        pending.desired.map(|verdict| (pending.key.clone(), verdict.clone()))
    });
    chunked(new.collect(), Step::AddElements);
}
