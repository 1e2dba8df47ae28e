//! Policy: from the view to chains and sets, and into the kernel, a change at a time.
//!
//! ```text
//! Dispatch(interface) -> Group(plist, profiles) -> Policy -> Set        Base
//!                                               -> Profile -> Set
//! ```
//! Each of these is a *unit*: it renders into chains or sets, it needs other units, and it exists
//! as long as another needs it. A change of the view makes units dirty; only those are rendered
//! anew, and only what differs then goes into the transaction.

mod chains;
mod names;
mod rules;
mod sets;
mod tables;
mod units;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use arcstr::ArcStr;
use model::view::{EncapMode, Topic};

use self::{
    chains::Tunnels,
    tables::{Before, Tables},
    units::{GroupKey, Unit},
};
use crate::{
    Failure,
    drivers::{Inventory, Nft, NftError},
    family::Family,
    nft::Transaction,
    settings::Config,
    view::{Changes, Member, NodeView},
};

/// The first pause before something refused is tried again; it doubles up to [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_secs(1);
/// The longest pause.
const RETRY_MAX: Duration = Duration::from_mins(1);

/// How often the kernel is asked who is at fault, before what is left closes together.
const TRIALS: usize = 128;

/// Which packets of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Direction {
    /// Those to it.
    Ingress,
    /// Those from it.
    Egress,
}

impl Direction {
    pub(crate) const ALL: [Self; 2] = [Self::Ingress, Self::Egress];
}

/// A unit that the kernel refuses: what stands for it drops.
#[derive(Clone, Debug)]
struct Quarantine {
    reason: String,
    pause: Duration,
    until: Instant,
}

/// The reconciler of the nftables tables.
pub(crate) struct PolicyReconciler {
    node: ArcStr,
    families: Vec<Family>,
    config: Config,
    tunnels: BTreeMap<Family, Tunnels>,
    tables: BTreeMap<Family, Tables>,
    /// The families that some IP set ever had a member of.
    used: BTreeSet<Family>,
    /// Which endpoints have this interface.
    claims: BTreeMap<ArcStr, BTreeSet<ArcStr>>,
    /// The interface under which each endpoint stands in `claims`.
    claimed: BTreeMap<ArcStr, ArcStr>,
    /// The endpoint that each interface is given to.
    winners: BTreeMap<ArcStr, ArcStr>,
    /// The units that exist, and what each needs.
    needs: BTreeMap<Unit, BTreeSet<Unit>>,
    /// Who needs each unit.
    users: BTreeMap<Unit, BTreeSet<Unit>>,
    /// The chains that each unit rendered into.
    owned: BTreeMap<(Family, Unit), BTreeSet<ArcStr>>,
    dirty: BTreeSet<Unit>,
    /// What may be to blame if the next transaction is refused.
    touched: BTreeSet<Unit>,
    /// What the search for a culprit replaces by its closed form for the moment.
    closed: BTreeSet<Unit>,
    quarantine: BTreeMap<Unit, Quarantine>,
    /// What is wrong with a unit's place in the view.
    problems: BTreeMap<Unit, String>,
    /// Why nothing of the last commit is in the kernel.
    stuck: Option<Quarantine>,
    /// Whether the kernel holds our table as far as we know.
    in_kernel: bool,
    /// Whether an earlier run's table is left alone for now.
    kept: bool,
    /// nftables' generation when the tables were last known to be as we left them.
    generation: Option<u32>,
}

impl PolicyReconciler {
    pub(crate) fn new(node: ArcStr, families: Vec<Family>) -> Self {
        Self {
            node,
            tables: families.iter().map(|family| (*family, Tables::default())).collect(),
            families,
            used: BTreeSet::new(),
            config: Config::default(),
            tunnels: BTreeMap::new(),
            claims: BTreeMap::new(),
            claimed: BTreeMap::new(),
            winners: BTreeMap::new(),
            needs: BTreeMap::new(),
            users: BTreeMap::new(),
            owned: BTreeMap::new(),
            dirty: BTreeSet::from([Unit::Base]),
            touched: BTreeSet::new(),
            closed: BTreeSet::new(),
            quarantine: BTreeMap::new(),
            problems: BTreeMap::new(),
            stuck: None,
            in_kernel: false,
            kept: false,
            generation: None,
        }
    }

    /// Takes in what changed in the view.
    pub(crate) fn update(&mut self, view: &NodeView, config: &Config, changes: &Changes) {
        if self.config != *config {
            self.config = config.clone();
            self.dirty.extend(self.needs.keys().cloned());
            self.dirty.insert(Unit::Base);
        }
        if changes.pools {
            self.update_pools(view);
        }
        if !changes.hosts.is_empty() {
            self.update_nodes(view);
        }
        for key in &changes.endpoints {
            self.update_claim(view, key);
        }
        for id in &changes.plists {
            let groups = self.needs.keys().filter(|unit| match unit {
                Unit::Group(GroupKey { plist, .. }, _) => plist.as_ref() == Some(id),
                _ => false,
            });
            let groups: Vec<Unit> = groups.cloned().collect();
            self.dirty.extend(groups);
        }
        let policies = changes
            .policies
            .iter()
            .flat_map(|id| Direction::ALL.map(|direction| Unit::Policy(id.clone(), direction)));
        let profiles = changes.profiles.iter().flat_map(|name| {
            Direction::ALL.map(|direction| Unit::Profile(name.clone(), direction))
        });
        for unit in policies.chain(profiles) {
            if self.users.contains_key(&unit) {
                self.dirty.insert(unit);
            }
        }
        for (id, members) in &changes.members {
            for family in members.iter().map(Member::family) {
                if self.used.insert(family) {
                    self.dirty.extend(self.needs.keys().cloned());
                }
            }
            if self.users.contains_key(&Unit::Set(id.clone())) {
                self.update_members(view, id, members);
            }
        }
        // What changed deserves another try at once.
        for unit in self.dirty.clone() {
            self.release(&unit);
        }
    }

    /// Ends a unit's quarantine; what the pause was.
    fn release(&mut self, unit: &Unit) -> Option<Duration> {
        let quarantine = self.quarantine.remove(unit)?;
        self.dirty_with_users(unit);
        Some(quarantine.pause)
    }

    /// Marks a unit to be rendered; with a set also what asks it, since that closes with it.
    fn dirty_with_users(&mut self, unit: &Unit) {
        if let Unit::Set(_) = unit {
            self.dirty.extend(self.users.get(unit).into_iter().flatten().cloned());
        }
        self.dirty.insert(unit.clone());
    }

    fn update_claim(&mut self, view: &NodeView, key: &ArcStr) {
        let interface = view.endpoints.get(key).map(|endpoint| endpoint.interface.clone());
        if let Some(old) = self.claimed.remove(key) {
            if let Some(keys) = self.claims.get_mut(&old) {
                keys.remove(key);
                if keys.is_empty() {
                    self.claims.remove(&old);
                }
            }
            self.dirty.insert(Unit::Dispatch(old));
        }
        if let Some(interface) = interface {
            self.claims.entry(interface.clone()).or_default().insert(key.clone());
            self.claimed.insert(key.clone(), interface.clone());
            self.dirty.insert(Unit::Dispatch(interface));
        }
    }

    fn update_pools(&mut self, view: &NodeView) {
        for family in self.families.clone() {
            let pools = || view.pools.iter().filter(|(cidr, _)| Family::of_net(**cidr) == family);
            let tunnels = Tunnels {
                vxlan: pools().any(|(_, pool)| pool.vxlan != EncapMode::Never),
                ipip: pools().any(|(_, pool)| pool.ipip != EncapMode::Never),
            };
            if self.tunnels.get(&family) != Some(&tunnels) {
                self.tunnels.insert(family, tunnels);
                self.dirty.insert(Unit::Base);
            }
            let all: Vec<_> = pools().map(|(cidr, _)| *cidr).collect();
            let nat: Vec<_> =
                pools().filter(|(_, pool)| pool.nat_outgoing).map(|(cidr, _)| *cidr).collect();
            if let Some(tables) = self.tables.get_mut(&family) {
                tables.set_nets(chains::POOLS, rules::disjoint_nets(family, &all));
                tables.set_nets(chains::NAT_POOLS, rules::disjoint_nets(family, &nat));
            }
        }
        self.touched.insert(Unit::Base);
    }

    fn update_nodes(&mut self, view: &NodeView) {
        for family in self.families.clone() {
            let addresses = view.hosts.values().filter_map(|host| match family {
                Family::V4 => host.ipv4,
                Family::V6 => host.ipv6,
            });
            if let Some(tables) = self.tables.get_mut(&family) {
                tables.set_hosts(chains::NODES, addresses.map(|net| net.addr()));
            }
        }
        self.touched.insert(Unit::Base);
    }

    /// Brings the kernel to what the view asks for. What is refused is reported by
    /// [`PolicyReconciler::failures`], and all else goes in.
    ///
    /// With `keep` a table that an earlier run left is not touched: only a view that is known to be
    /// current may replace it.
    pub(crate) fn commit(&mut self, view: &NodeView, nft: &mut dyn Nft, keep: bool, now: Instant) {
        let pausing = self.stuck.as_ref().is_some_and(|stuck| now < stuck.until);
        if pausing && self.dirty.is_empty() {
            return;
        }
        let due = self.quarantine.iter().filter(|(_, quarantine)| quarantine.until <= now);
        let due: Vec<Unit> = due.map(|(unit, _)| unit.clone()).collect();
        let pauses: BTreeMap<Unit, Duration> =
            due.into_iter().filter_map(|unit| Some((unit.clone(), self.release(&unit)?))).collect();
        self.settle(view);
        self.kept = keep && !self.in_kernel && self.left_over(nft);
        if self.kept {
            return;
        }
        let mut fills = true;
        loop {
            let left = if fills { self.left_over_to_fill(nft) } else { BTreeMap::new() };
            let transaction = self.plan(&left);
            if transaction.steps.is_empty() {
                self.stuck = None;
                return;
            }
            match nft.commit(&transaction) {
                Ok(()) => {
                    self.written();
                    self.generation = nft.generation().ok();
                    return;
                }
                Err(error @ NftError::Unavailable(_)) => {
                    self.stick(error.to_string(), now);
                    return;
                }
                // It isn't what it seemed to be: it is replaced.
                Err(NftError::Refused(_)) if !left.is_empty() => fills = false,
                Err(NftError::Refused(reason)) => {
                    let culprits = self.culprits(view, nft);
                    if !culprits.is_empty() {
                        for (unit, reason) in culprits {
                            let pause =
                                pauses.get(&unit).map_or(RETRY_MIN, |p| (*p * 2).min(RETRY_MAX));
                            self.isolate(&unit, reason, pause, now);
                        }
                        self.settle(view);
                    } else if self.in_kernel {
                        // No part of it is at fault: the kernel isn't as we left it.
                        self.forget();
                    } else {
                        self.stick(format!("nftables refuses the whole table: {reason}"), now);
                        return;
                    }
                }
            }
        }
    }

    /// Whether workloads' interfaces are guarded: by our table, or by one that is left alone.
    pub(crate) fn in_force(&self) -> bool {
        self.in_kernel || self.kept
    }

    /// Whether the kernel has a table of ours that we didn't write. Not knowing counts as yes.
    fn left_over(&self, nft: &mut dyn Nft) -> bool {
        self.families.iter().any(|family| !matches!(nft.inventory(*family), Ok(None)))
    }

    /// The tables that an earlier run left, or somebody has changed, and that can be filled again.
    fn left_over_to_fill(&self, nft: &mut dyn Nft) -> BTreeMap<Family, Inventory> {
        if self.in_kernel {
            return BTreeMap::new();
        }
        let of_family = |(family, tables): (&Family, &Tables)| {
            let left = nft.inventory(*family).ok()??;
            tables.can_fill(&left).then_some((*family, left))
        };
        self.tables.iter().filter_map(of_family).collect()
    }

    /// Who of the touched units makes the transaction fail: halves are tried without effect, all
    /// other touched units being closed. None: not even all of them closed would pass, or all of
    /// them together do.
    fn culprits(&mut self, view: &NodeView, nft: &mut dyn Nft) -> Vec<(Unit, String)> {
        let suspects: Vec<Unit> =
            self.touched.iter().filter(|unit| **unit != Unit::Base).cloned().collect();
        let mut found = Vec::new();
        if self.try_out(view, nft, &suspects, &[]).is_ok() {
            let mut groups = vec![suspects.as_slice()];
            let mut trials = 0;
            while let Some(group) = groups.pop() {
                let Err(reason) = self.try_out(view, nft, &suspects, group) else { continue };
                trials += 1;
                if group.len() == 1 || trials > TRIALS {
                    found.extend(group.iter().map(|unit| (unit.clone(), reason.clone())));
                } else {
                    let (left, right) = group.split_at(group.len() / 2);
                    groups.extend([left, right]);
                }
            }
        }
        self.close(view, BTreeSet::new());
        found
    }

    /// Whether the kernel would take the transaction with all suspects closed but these.
    fn try_out(
        &mut self,
        view: &NodeView,
        nft: &mut dyn Nft,
        suspects: &[Unit],
        open: &[Unit],
    ) -> Result<(), String> {
        let open: BTreeSet<&Unit> = open.iter().collect();
        self.close(view, suspects.iter().filter(|unit| !open.contains(unit)).cloned().collect());
        nft.check(&self.plan(&BTreeMap::new())).map_err(|error| error.to_string())
    }

    /// Renders exactly these units closed.
    fn close(&mut self, view: &NodeView, closed: BTreeSet<Unit>) {
        let changed: Vec<Unit> = self.closed.symmetric_difference(&closed).cloned().collect();
        self.closed = closed;
        self.dirty.extend(changed);
        self.settle(view);
    }

    fn isolate(&mut self, unit: &Unit, reason: String, pause: Duration, now: Instant) {
        self.quarantine.insert(unit.clone(), Quarantine { reason, pause, until: now + pause });
        self.dirty_with_users(unit);
    }

    fn stick(&mut self, reason: String, now: Instant) {
        let pause = self.stuck.as_ref().map_or(RETRY_MIN, |old| (old.pause * 2).min(RETRY_MAX));
        self.stuck = Some(Quarantine { reason, pause, until: now + pause });
    }

    /// The steps from what the kernel holds to what it should hold; `left`: tables that are filled, not replaced.
    fn plan(&self, left: &BTreeMap<Family, Inventory>) -> Transaction {
        let mut transaction = Transaction::default();
        for (family, tables) in &self.tables {
            let before = match left.get(family) {
                _ if self.in_kernel => Before::Known,
                Some(left) => Before::Left(left),
                None => Before::Nothing,
            };
            tables.plan(*family, before, &mut transaction.steps);
        }
        transaction
    }

    fn written(&mut self) {
        self.in_kernel = true;
        self.stuck = None;
        self.touched.clear();
        self.tables.values_mut().for_each(Tables::written);
    }

    /// Whatever the kernel holds, the next commit replaces the table whole.
    pub(crate) fn forget(&mut self) {
        self.in_kernel = false;
        self.touched.extend(self.needs.keys().cloned());
        self.tables.values_mut().for_each(Tables::forget);
    }

    /// Looks whether the kernel still holds the tables, and if not has the next commit repair them.
    pub(crate) fn check(&mut self, nft: &mut dyn Nft) {
        if !self.in_kernel {
            return;
        }
        let generation = nft.generation().ok();
        if generation.is_some() && generation == self.generation {
            return;
        }
        let intact = self.tables.iter().all(|(family, tables)| match nft.inventory(*family) {
            Ok(inventory) => inventory.is_some_and(|inventory| tables.fits(&inventory)),
            // Not knowing is no reason to rewrite.
            Err(error) => {
                tracing::warn!(%error, %family, "the table can't be read: it isn't checked");
                true
            }
        });
        if intact {
            self.generation = generation;
        } else {
            tracing::warn!("the nftables table isn't as we left it: it is written anew");
            self.forget();
        }
    }

    /// What of the view is not in the kernel, and why.
    pub(crate) fn failures(&self) -> Vec<Failure> {
        let quarantined = self.quarantine.iter().map(|(unit, q)| (unit, q.reason.clone()));
        let problems = self.problems.iter().map(|(unit, reason)| (unit, reason.clone()));
        let mut out: Vec<Failure> = quarantined
            .chain(problems)
            .flat_map(|(unit, reason)| self.blame(unit, &reason))
            .collect();
        for (interface, keys) in &self.claims {
            let winner = self.winners.get(interface);
            for key in keys.iter().filter(|key| Some(*key) != winner) {
                out.push(Failure {
                    topic: Topic::Node(self.node.clone()),
                    key: key.clone(),
                    reason: format!(
                        "interface {interface} also belongs to {}, which has it",
                        winner.map_or("another endpoint", ArcStr::as_str)
                    ),
                });
            }
        }
        if let Some(stuck) = &self.stuck {
            let suspects = self.touched.iter().flat_map(|unit| self.blame(unit, &stuck.reason));
            out.extend(suspects);
        }
        out
    }

    /// The place in the view that a unit came from.
    fn blame(&self, unit: &Unit, reason: &str) -> Vec<Failure> {
        let one = |topic: Topic, key: ArcStr| Failure { topic, key, reason: reason.to_owned() };
        let endpoints = |interface: &ArcStr| {
            let keys = self.claims.get(interface).into_iter().flatten();
            keys.map(|key| one(Topic::Node(self.node.clone()), key.clone())).collect::<Vec<_>>()
        };
        match unit {
            Unit::Base => vec![one(Topic::Config, ArcStr::new())],
            Unit::Set(id) => vec![one(Topic::IpSet(id.clone()), ArcStr::new())],
            Unit::Policy(id, _) => vec![one(Topic::Policy(id.clone()), ArcStr::new())],
            Unit::Profile(name, _) => vec![one(Topic::Profile(name.clone()), ArcStr::new())],
            Unit::Group(..) => {
                let users = self.users.get(unit).into_iter().flatten();
                users.flat_map(|user| self.blame(user, reason)).collect()
            }
            Unit::Dispatch(interface) => endpoints(interface),
        }
    }

    /// When something refused is due for another try.
    pub(crate) fn retry_at(&self) -> Option<Instant> {
        self.quarantine.values().chain(&self.stuck).map(|quarantine| quarantine.until).min()
    }
}
