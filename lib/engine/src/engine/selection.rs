//! Stages two and three: policies find their classes, classes their lists of policies.

use std::sync::Arc;

use arcstr::ArcStr;
use model::{
    Key,
    kinds::{self, Invalid},
    selector::Selector,
    view::{Policy, PolicyId, ProfileRules},
};

use super::{Engine, worse};
use crate::{
    nodes::{Need, Node},
    planted::Planted,
    policies::{Place, Pol, Stage, deny},
    problem::{Effect, Problem},
    rules::{Scope, Translated, translate},
    scope,
    sets::Set,
    slab::Id,
};

impl Engine {
    /// A tier is now this, or gone.
    pub(super) fn set_tier(&mut self, name: &ArcStr, tier: Option<kinds::Tier>) {
        let id = self.policies.tier(name);
        if self.policies.set_tier(id, tier) {
            for policy in &self.policies.tiers[id].policies.clone() {
                self.touch_selected(*policy);
            }
        }
        self.dirty.tiers.insert(id);
    }

    /// The classes that a policy selects may have another list of policies.
    fn touch_selected(&mut self, policy: Id<Pol>) {
        if let Some(selector) = self.policies.slab[policy].selector {
            self.dirty.classes.extend(&self.index.selectors[selector].classes);
        }
    }

    /// A policy is now this. `namespace`: it acts in; `known`: its id, if it was there before. Returns
    /// what is wrong with it, `problem` included.
    pub(super) fn set_policy(
        &mut self,
        key: &Key,
        namespace: Option<&str>,
        known: Option<Id<Pol>>,
        policy: &kinds::Policy,
        problem: Option<Problem>,
    ) -> Option<Problem> {
        let Translated { ingress, egress, sets, faults } = translate(
            Scope { namespace, services: self.services, repeats: false },
            &policy.ingress,
            &policy.egress,
            &mut self.texts,
        );
        let mut problem = worse(problem, Effect::Rules, faults);
        let selector = match scope::policy_of(namespace, policy, &mut self.texts) {
            Ok(selector) => Some(selector),
            Err(fault) => {
                problem = worse(problem, Effect::SelectsNothing, vec![fault]);
                Planted::BadSelectorSelectsAll.is_here().then(Selector::all)
            }
        };
        let acts_at = Stage::of(policy);
        let tier = self.policies.tier(&policy.tier);
        let place = Place {
            tier,
            order: policy.order,
            ingress: policy.acts_on_ingress,
            egress: policy.acts_on_egress
                && (acts_at != Stage::PreDnat || Planted::PreDnatOnEgress.is_here()),
            stage: acts_at,
            staged: policy.staged.is_some(),
        };
        let name = self.policies.tiers[tier].name().clone();
        let view = Arc::new(Policy { tier: name, ingress, egress });
        let selector = selector.map(|it| self.index.acquire(&it, &mut self.strings));
        let sets = self.sets.acquire(sets);

        let pol = known.unwrap_or_else(|| {
            let kind = self.strings.get_str(key.kind.name());
            let namespace = self.strings.get(key.namespace.clone());
            let id = PolicyId::new(kind, namespace, key.name.clone());
            let pol = self.policies.slab.insert(Pol::new(id, place.clone()));
            self.policies.tiers[tier].policies.insert(pol);
            if let Some(known) = self.objects.get_mut(key) {
                known.policy = Some(pol);
            }
            pol
        });
        let state = &mut self.policies.slab[pol];
        let old_place = std::mem::replace(&mut state.place, place);
        let old_selector = state.selector;
        let moved = old_place != state.place || old_selector != selector;
        if moved {
            self.touch_selected(pol);
            self.policies.slab[pol].selector = selector;
            if let Some(old) = old_selector {
                self.index.selectors[old].policies.remove(&pol);
            }
            if let Some(new) = selector {
                self.index.selectors[new].policies.insert(pol);
            }
            if old_place.tier != tier {
                self.policies.tiers[old_place.tier].policies.remove(&pol);
                self.policies.tiers[tier].policies.insert(pol);
                self.dirty.tiers.insert(old_place.tier);
            }
            self.touch_selected(pol);
        }
        if let Some(old) = old_selector {
            self.index.release(old);
        }
        self.policies.slab[pol].view = view;
        let nodes = self.policies.slab[pol].nodes.iter().copied().collect::<Vec<_>>();
        let old = std::mem::replace(&mut self.policies.slab[pol].sets, sets);
        let new = Arc::clone(&self.policies.slab[pol].sets);
        self.change_sets(&nodes, &old, &new);
        self.dirty.policies.insert(pol);
        problem
    }

    /// A policy is gone.
    pub(super) fn remove_policy(&mut self, pol: Id<Pol>) {
        self.touch_selected(pol);
        let state = &mut self.policies.slab[pol];
        let tier = state.place.tier;
        if let Some(selector) = state.selector.take() {
            self.index.selectors[selector].policies.remove(&pol);
            self.index.release(selector);
        }
        self.policies.tiers[tier].policies.remove(&pol);
        self.dirty.tiers.insert(tier);
        self.dirty.policies.insert(pol);
        self.dirty.dead_policies.push(pol);
    }

    /// Rules of something that these nodes need name other IP sets.
    fn change_sets(&mut self, nodes: &[Id<Node>], old: &[Id<Set>], new: &[Id<Set>]) {
        if old != new {
            for node in nodes {
                for set in new {
                    self.need(*node, Need::Set(*set), true);
                }
                for set in old.iter().filter(|_| !Planted::OldSetsNeeded.is_here()) {
                    self.need(*node, Need::Set(*set), false);
                }
            }
        }
        self.sets.release(old);
    }

    /// A profile is now this, or gone. Returns what its rules can't express.
    pub(super) fn set_profile(
        &mut self,
        name: &ArcStr,
        profile: Option<&kinds::Profile>,
    ) -> Vec<Invalid> {
        let (labels, rules, sets, faults) = match profile {
            None => (None, deny(), Vec::new(), Vec::new()),
            Some(profile) => {
                let Translated { ingress, egress, sets, faults } = translate(
                    Scope { namespace: None, services: self.services, repeats: false },
                    &profile.ingress,
                    &profile.egress,
                    &mut self.texts,
                );
                let labels = self.strings.labels(profile.labels_to_apply.clone());
                (Some(labels), ProfileRules { ingress, egress }, sets, faults)
            }
        };
        let view = self.policies.share(rules);
        let sets = self.sets.acquire(sets);
        let id = self.policies.profile(name);
        let state = &mut self.policies.profiles[id];
        state.view = view;
        let other_labels = state.labels != labels;
        state.labels = labels;
        let nodes = state.nodes.iter().copied().collect::<Vec<_>>();
        let old = std::mem::replace(&mut state.sets, Arc::clone(&sets));
        self.change_sets(&nodes, &old, &sets);
        if other_labels && !Planted::ProfileLabelsStale.is_here() {
            self.reclass(id);
        }
        self.dirty.profiles.insert(id);
        faults
    }

    /// Classes get the lists of the policies that select them now.
    pub(super) fn settle_classes(&mut self) {
        for id in self.dirty.classes.take() {
            let class = &self.index.classes[id];
            if !class.served {
                continue;
            }
            let due = self.policies.lists(class, &self.index, self.options.plist_id);
            let class = &mut self.index.classes[id];
            let held = std::mem::replace(&mut class.lists, due);
            if held == due {
                continue;
            }
            self.dirty.endpoints.extend(&class.items);
            for (lists, more) in [(due, true), (held, false)] {
                for plist in lists.into_iter().flatten() {
                    let classes = &mut self.policies.plists[plist].classes;
                    *classes = if more { *classes + 1 } else { *classes - 1 };
                    self.dirty.plists.insert(plist);
                }
            }
        }
    }
}
