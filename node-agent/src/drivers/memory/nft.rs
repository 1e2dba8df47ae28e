//! Nftables in memory.

use std::collections::{BTreeMap, BTreeSet};

use arcstr::ArcStr;

use crate::{
    Family,
    drivers::{Inventory, Nft, NftError},
    nft::{Action, Addresses, Chain, Element, Match, Rule, SetKind, Step, Transaction, Verdict},
};

/// How deep the kernel lets chains jump.
const JUMPS: usize = 16;

/// One family's table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryTable {
    /// Chains by name.
    pub chains: BTreeMap<ArcStr, Chain>,
    /// Sets and maps by name, with their elements.
    pub sets: BTreeMap<ArcStr, (SetKind, BTreeMap<Element, Option<Verdict>>)>,
}

/// What a step is refused for; none: it is not.
pub type NftRefusal = Box<dyn Fn(Family, &Step) -> Option<String> + Send>;

/// The tables `calico`.
#[derive(Default)]
pub struct MemoryNft {
    /// By family; a missing one was never made.
    pub tables: BTreeMap<Family, MemoryTable>,
    /// Refuses steps that a real kernel might.
    pub refuse: Option<NftRefusal>,
    /// Why nft can't be run at all.
    pub unavailable: Option<String>,
    /// The transactions that were committed.
    pub commits: Vec<Transaction>,
    /// How many transactions were checked or committed.
    pub tried: usize,
    generation: u32,
}

impl MemoryNft {
    /// Another program's change: the generation moves on.
    pub fn tamper(&mut self, change: impl FnOnce(&mut BTreeMap<Family, MemoryTable>)) {
        change(&mut self.tables);
        self.generation += 1;
    }

    fn attempt(
        &mut self,
        transaction: &Transaction,
    ) -> Result<BTreeMap<Family, MemoryTable>, NftError> {
        self.tried += 1;
        if let Some(reason) = &self.unavailable {
            return Err(NftError::Unavailable(reason.clone()));
        }
        let mut tables = self.tables.clone();
        for (family, step) in &transaction.steps {
            let refused = self.refuse.as_ref().and_then(|refuse| refuse(*family, step));
            refused
                .map_or(Ok(()), Err)
                .and_then(|()| apply(&mut tables, *family, step))
                .map_err(|reason| NftError::Refused(format!("{reason}: {family} {step:?}")))?;
        }
        for table in tables.values() {
            depths(table).map_err(NftError::Refused)?;
        }
        Ok(tables)
    }
}

impl Nft for MemoryNft {
    fn commit(&mut self, transaction: &Transaction) -> Result<(), NftError> {
        self.tables = self.attempt(transaction)?;
        self.commits.push(transaction.clone());
        self.generation += 1;
        Ok(())
    }

    fn check(&mut self, transaction: &Transaction) -> Result<(), NftError> {
        self.attempt(transaction).map(drop)
    }

    fn generation(&mut self) -> Result<u32, NftError> {
        Ok(self.generation)
    }

    fn inventory(&mut self, family: Family) -> Result<Option<Inventory>, NftError> {
        Ok(self.tables.get(&family).map(|table| Inventory {
            chains: table.chains.iter().map(|(n, chain)| (n.clone(), chain.rules.len())).collect(),
            sets: table.sets.iter().map(|(n, (_, elements))| (n.clone(), elements.len())).collect(),
            maps: {
                let maps = table.sets.iter().filter(|(_, (kind, _))| *kind == SetKind::Dispatch);
                maps.map(|(name, _)| name.clone()).collect()
            },
        }))
    }

    fn is_own(&self, port: u32) -> bool {
        port == 1
    }
}

fn apply(
    tables: &mut BTreeMap<Family, MemoryTable>,
    family: Family,
    step: &Step,
) -> Result<(), String> {
    if *step == Step::NewTable {
        tables.insert(family, MemoryTable::default());
        return Ok(());
    }
    let table = tables.get_mut(&family).ok_or("no such table")?;
    match step {
        Step::NewTable => {}
        Step::EmptyTable { sets, maps } => {
            table.chains.values_mut().for_each(|chain| chain.rules.clear());
            for (name, is_map) in
                sets.iter().map(|name| (name, false)).chain(maps.iter().map(|name| (name, true)))
            {
                let (kind, elements) = table.sets.get_mut(name).ok_or("no such set")?;
                require((*kind == SetKind::Dispatch) == is_map, "no such set")?;
                elements.clear();
            }
        }
        Step::AddSet(name, kind) => {
            let new = (*kind, BTreeMap::new());
            let held = table.sets.entry(name.clone()).or_insert_with(|| new.clone());
            require(*held == new, "the set exists")?;
        }
        Step::DeleteSet(name) => {
            require(!used_sets(table).contains(name), "the set is in use")?;
            require(table.sets.remove(name).is_some(), "no such set")?;
        }
        Step::AddElements(name, elements) => {
            for (element, verdict) in elements {
                let target = verdict.as_ref().and_then(target);
                let known = target.is_none_or(|chain| table.chains.contains_key(chain));
                require(known, "an element's chain is missing")?;
                let (kind, present) = table.sets.get_mut(name).ok_or("no such set")?;
                require(fits(family, *kind, element, verdict.as_ref()), "not of the set's type")?;
                if let Element::Net(net) = element {
                    let apart = |other: &Element| !matches!(other, Element::Net(o) if o.contains(net) || net.contains(o));
                    require(present.keys().all(apart), "conflicting intervals")?;
                }
                let new = present.insert(element.clone(), verdict.clone()).is_none();
                require(new, "the element exists")?;
            }
        }
        Step::DeleteElements(name, elements) => {
            let (_, present) = table.sets.get_mut(name).ok_or("no such set")?;
            for (element, _) in elements {
                require(present.remove(element).is_some(), "no such element")?;
            }
        }
        Step::AddChain(name, base) => {
            let new = Chain { base: *base, rules: Vec::new() };
            let held = table.chains.entry(name.clone()).or_insert_with(|| new.clone());
            require(*held == new, "the chain exists")?;
        }
        Step::FlushChain(name) => {
            table.chains.get_mut(name).ok_or("no such chain")?.rules.clear();
        }
        Step::DeleteChain(name) => {
            require(!used_chains(table).contains(name), "the chain is in use")?;
            let chain = table.chains.remove(name).ok_or("no such chain")?;
            require(chain.rules.is_empty(), "the chain has rules")?;
        }
        Step::AddRule(name, rule) => {
            for set in rule_sets(rule) {
                require(table.sets.contains_key(&set), "a rule's set is missing")?;
            }
            for chain in rule_targets(rule) {
                require(table.chains.contains_key(&chain), "a rule's chain is missing")?;
            }
            for condition in &rule.matches {
                plausible(family, condition)?;
            }
            let chain = table.chains.get_mut(name).ok_or("no such chain")?;
            chain.rules.push(rule.clone());
        }
    }
    Ok(())
}

fn require(holds: bool, reason: &str) -> Result<(), String> {
    if holds { Ok(()) } else { Err(reason.to_owned()) }
}

fn fits(family: Family, kind: SetKind, element: &Element, verdict: Option<&Verdict>) -> bool {
    let of_family = match element {
        Element::Host(address) | Element::AddressPort(address, ..) => {
            Family::of(*address) == family
        }
        Element::Net(net) => Family::of_net(*net) == family && *net == net.trunc(),
        Element::Interface(_) => true,
    };
    let of_kind = matches!(
        (kind, element, verdict),
        (SetKind::Hosts, Element::Host(_), None)
            | (SetKind::Nets, Element::Net(_), None)
            | (SetKind::AddressPorts, Element::AddressPort(..), None)
            | (SetKind::Dispatch, Element::Interface(_), Some(_))
    );
    of_family && of_kind
}

/// What nft refuses in a condition on its own.
fn plausible(family: Family, condition: &Match) -> Result<(), String> {
    match condition {
        Match::Address { addresses: Addresses::Nets(nets), .. } => {
            require(!nets.is_empty(), "an empty list of networks")?;
            for (n, net) in nets.iter().enumerate() {
                require(Family::of_net(*net) == family, "a network of the other family")?;
                let apart = nets[..n].iter().all(|o| !o.contains(net) && !net.contains(o));
                require(apart, "conflicting intervals")?;
            }
        }
        Match::Port { ranges, .. } => {
            require(!ranges.is_empty(), "an empty list of ports")?;
            let mut sorted = ranges.clone();
            sorted.sort_unstable();
            require(sorted.iter().all(|range| range.first <= range.last), "a range turned round")?;
            let apart = sorted.windows(2).all(|pair| pair[0].last < pair[1].first);
            require(apart, "conflicting intervals")?;
        }
        Match::Protocol { numbers, .. } => require(!numbers.is_empty(), "an empty list")?,
        _ => {}
    }
    Ok(())
}

fn target(verdict: &Verdict) -> Option<&ArcStr> {
    match verdict {
        Verdict::Jump(chain) | Verdict::Goto(chain) => Some(chain),
        _ => None,
    }
}

fn rule_sets(rule: &Rule) -> impl Iterator<Item = ArcStr> {
    let matched = rule.matches.iter().filter_map(|condition| match condition {
        Match::Address { addresses: Addresses::Set(set), .. } | Match::AddressPort { set, .. } => {
            Some(set.clone())
        }
        _ => None,
    });
    let looked_up = rule.actions.iter().filter_map(|action| match action {
        Action::Dispatch { map, .. } => Some(map.clone()),
        _ => None,
    });
    matched.chain(looked_up)
}

fn rule_targets(rule: &Rule) -> impl Iterator<Item = ArcStr> {
    rule.actions.iter().filter_map(|action| match action {
        Action::Verdict(verdict) => target(verdict).cloned(),
        _ => None,
    })
}

fn used_sets(table: &MemoryTable) -> BTreeSet<ArcStr> {
    table.chains.values().flat_map(|chain| &chain.rules).flat_map(rule_sets).collect()
}

fn used_chains(table: &MemoryTable) -> BTreeSet<ArcStr> {
    let by_rules = table.chains.values().flat_map(|chain| &chain.rules).flat_map(rule_targets);
    let verdicts = table.sets.values().flat_map(|(_, elements)| elements.values().flatten());
    by_rules.chain(verdicts.filter_map(target).cloned()).collect()
}

/// Refuses loops and jumps deeper than the kernel's stack.
fn depths(table: &MemoryTable) -> Result<(), String> {
    fn walk(
        table: &MemoryTable,
        name: &ArcStr,
        depth: usize,
        known: &mut BTreeMap<ArcStr, usize>,
    ) -> Result<(), String> {
        require(depth <= JUMPS, "chains jump too deep")?;
        if known.get(name).is_some_and(|seen| depth <= *seen) {
            return Ok(());
        }
        known.insert(name.clone(), depth);
        let Some(chain) = table.chains.get(name) else { return Ok(()) };
        for rule in &chain.rules {
            let mapped = rule.actions.iter().flat_map(|action| match action {
                Action::Dispatch { map, .. } => table.sets.get(map).into_iter(),
                _ => None.into_iter(),
            });
            let mapped = mapped.flat_map(|(_, elements)| elements.values().flatten());
            let mapped = mapped.filter_map(target).cloned();
            for next in rule_targets(rule).chain(mapped) {
                walk(table, &next, depth + 1, known)?;
            }
        }
        Ok(())
    }
    let mut known = BTreeMap::new();
    for (name, _) in table.chains.iter().filter(|(_, chain)| chain.base.is_some()) {
        walk(table, name, 1, &mut known)?;
    }
    Ok(())
}
