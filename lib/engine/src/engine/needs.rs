//! Stage five: what nodes need is there, what none needs is not.

use std::{collections::BTreeMap, sync::Arc};

use arcstr::ArcStr;
use model::view::{Entry, Topic};

use super::{Engine, topic};
use crate::{
    nodes::{Need, Node},
    output::Out,
    policies::policies_in,
    rules::SetSpec,
    slab::Id,
};

impl Engine {
    /// One thing more (or less) on a node needs this, and with it what this needs.
    pub(super) fn need(&mut self, node: Id<Node>, need: Need, more: bool) {
        if !self.nodes.count(node, need, more) {
            return;
        }
        match need {
            Need::Plist(id) => {
                let plist = &mut self.policies.plists[id];
                plist.nodes = if more { plist.nodes + 1 } else { plist.nodes - 1 };
                let code = Arc::clone(&plist.code);
                self.dirty.plists.insert(id);
                for policy in policies_in(&code) {
                    self.need(node, Need::Policy(policy), more);
                }
            }
            Need::Policy(id) => {
                let policy = &mut self.policies.slab[id];
                if more {
                    policy.nodes.insert(node)
                } else {
                    policy.nodes.remove(&node)
                };
                let sets = Arc::clone(&policy.sets);
                self.dirty.policies.insert(id);
                for set in sets.iter() {
                    self.need(node, Need::Set(*set), more);
                }
            }
            Need::Profile(id) => {
                let profile = &mut self.policies.profiles[id];
                if more {
                    profile.nodes.insert(node)
                } else {
                    profile.nodes.remove(&node)
                };
                let sets = Arc::clone(&profile.sets);
                self.dirty.profiles.insert(id);
                for set in sets.iter() {
                    self.need(node, Need::Set(*set), more);
                }
            }
            Need::Set(id) => {
                let set = &mut self.sets.slab[id];
                set.nodes = if more { set.nodes + 1 } else { set.nodes - 1 };
                self.dirty.sets.insert(id);
            }
        }
    }

    /// Entries of lists, policies, profiles and IP sets follow whether a node needs them.
    pub(super) fn settle_needs(&mut self, out: &mut Out) {
        let key = ArcStr::new;
        for id in self.dirty.plists.iter() {
            let plist = &mut self.policies.plists[id];
            let (fresh, needed) = (plist.fresh.take(), plist.nodes > 0);
            if needed != std::mem::replace(&mut plist.published, needed) {
                let plist = &self.policies.plists[id];
                let content = || fresh.unwrap_or_else(|| self.policies.content(&plist.code));
                let entry = needed.then(|| Entry::Plist(content()));
                out.set(Topic::Plist(plist.id.clone()), key(), entry);
            }
        }
        for id in self.dirty.policies.take() {
            let policy = &mut self.policies.slab[id];
            let due = (!policy.nodes.is_empty()).then(|| Arc::clone(&policy.view));
            if due != policy.published {
                let entry = due.clone().map(Entry::Policy);
                out.set(Topic::Policy(policy.id.clone()), key(), entry);
                policy.published = due;
            }
        }
        for id in self.dirty.profiles.iter() {
            let profile = &mut self.policies.profiles[id];
            let due = (!profile.nodes.is_empty()).then(|| Arc::clone(&profile.view));
            if due != profile.published {
                let entry = due.clone().map(Entry::Profile);
                out.set(Topic::Profile(profile.name.clone()), key(), entry);
                profile.published = due;
            }
        }
        self.settle_sets();
        for id in self.dirty.members.take() {
            self.sets.slab[id].flush(out);
        }
        let Self { nodes, policies, sets, .. } = self;
        nodes.flush(|node, changes| {
            out.view(node, changes.iter().map(|(need, now)| (topic(policies, sets, *need), *now)));
        });
    }

    /// A set that a node needs has members; one that none needs costs nothing but its name.
    fn settle_sets(&mut self) {
        for id in self.dirty.sets.take() {
            let set = &mut self.sets.slab[id];
            let needed = set.nodes > 0;
            if needed == set.filled {
                continue;
            }
            set.filled = needed;
            match &set.spec {
                _ if !needed => {
                    set.clear();
                    if let Some(selector) = set.selector.take() {
                        self.index.selectors[selector].sets.remove(&id);
                        self.index.release(selector);
                    }
                }
                SetSpec::Selector { selector, .. } => {
                    let selector = self.index.acquire(selector, &mut self.strings);
                    set.selector = Some(selector);
                    let selector = &mut self.index.selectors[selector];
                    selector.sets.insert(id);
                    for class in &selector.classes {
                        for item in &self.index.classes[*class].items {
                            set.count(self.items[*item].gives(), true);
                        }
                    }
                }
                SetSpec::Service(service) => {
                    let service = (service.namespace.clone(), service.name.clone());
                    for slice in self.slices.get(&service).into_iter().flat_map(BTreeMap::values) {
                        set.count_slice(slice, true);
                    }
                }
            }
            self.dirty.members.insert(id);
        }
    }

    /// Forgets what nothing refers to any more.
    pub(super) fn forget(&mut self) {
        for id in self.dirty.empty_classes.take() {
            let class = &self.index.classes[id];
            if !class.items.is_empty() {
                continue;
            }
            for plist in class.lists.into_iter().flatten() {
                self.policies.plists[plist].classes -= 1;
                self.dirty.plists.insert(plist);
            }
            self.index.remove_class(id);
        }
        for id in self.dirty.plists.take() {
            if self.policies.plists[id].classes == 0 {
                self.policies.forget_plist(id);
            }
        }
        for id in std::mem::take(&mut self.dirty.dead_policies) {
            let policy = self.policies.slab.remove(id);
            self.sets.release(&policy.sets);
        }
        for id in self.dirty.tiers.take() {
            self.policies.forget_tier(id);
        }
        for id in self.dirty.profiles.take() {
            let profile = &self.policies.profiles[id];
            if profile.labels.is_none() && profile.items.is_empty() {
                let profile = self.policies.profiles.remove(id);
                self.policies.profile_by_name.remove(&profile.name);
            }
        }
        self.sets.sweep();
        self.strings.sweep();
    }
}
