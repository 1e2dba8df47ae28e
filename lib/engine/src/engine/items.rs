//! Stage one: endpoints and network sets find their class.

use std::sync::Arc;

use arcstr::ArcStr;
use model::{Key, view::Topic};

use super::Engine;
use crate::{
    endpoints::{Data, Item, Local, Read, ReadData},
    intern::LabelSet,
    nodes::Need,
    output::Out,
    planted::Planted,
    policies::{Lists, Prof},
    slab::Id,
};

impl Engine {
    /// An endpoint or a network set is now this, or gone. `known`: its id, if it was there before.
    pub(super) fn set_item(
        &mut self,
        key: &Key,
        mut known: Option<Id<Item>>,
        read: Option<Read>,
        out: &mut Out,
    ) {
        if let (Some(id), Some(read)) = (known, &read)
            && self.moves(id, read)
        {
            self.remove_item(id, out);
            known = None;
        }
        match (known, read) {
            (None, Some(read)) => {
                let data = match read.data {
                    ReadData::Nets(nets) => Data::Nets(nets),
                    ReadData::Endpoint { node, key, entry, ports } => Data::Endpoint(Local {
                        node: self.nodes.join(&node),
                        key,
                        entry,
                        published: false,
                        stale: true,
                        ports,
                        held: Lists::default(),
                    }),
                };
                let parents = Box::default();
                let item = Item { own: read.own, parents, class: None, position: 0, data };
                let id = self.items.insert(item);
                self.keep_item(key, Some(id));
                self.set_parents(id, &read.parents);
                self.dirty.items.insert(id);
            }
            (Some(id), Some(read)) if self.says_more(id, &read) => {
                self.detach(id);
                self.set_parents(id, &read.parents);
                self.items[id].own = read.own;
                self.set_data(id, read.data, out);
                self.dirty.items.insert(id);
            }
            (None, None) | (Some(_), Some(_)) => {}
            (Some(id), None) => {
                self.keep_item(key, None);
                self.remove_item(id, out);
            }
        }
    }

    fn keep_item(&mut self, key: &Key, item: Option<Id<Item>>) {
        if let Some(known) = self.objects.get_mut(key) {
            known.item = item;
        }
    }

    /// An endpoint or a network set is gone.
    pub(super) fn remove_item(&mut self, id: Id<Item>, out: &mut Out) {
        self.detach(id);
        self.set_parents(id, &[]);
        self.withdraw(id, out);
        self.dirty.items.remove(id);
        self.items.remove(id);
    }

    /// Whether an endpoint is on another node than before: a host endpoint's object says which.
    fn moves(&self, id: Id<Item>, read: &Read) -> bool {
        let ReadData::Endpoint { node, .. } = &read.data else { return false };
        match &self.items[id].data {
            Data::Endpoint(local) => self.nodes.slab[local.node].name != *node,
            Data::Nets(_) => false,
        }
    }

    /// Whether an object says anything else than before.
    fn says_more(&self, id: Id<Item>, read: &Read) -> bool {
        let item = &self.items[id];
        let parents = item.parents.iter().map(|prof| &self.policies.profiles[*prof].name);
        if item.own != read.own || !parents.eq(&read.parents) {
            return true;
        }
        match (&item.data, &read.data) {
            (Data::Nets(old), ReadData::Nets(new)) => old != new,
            (Data::Endpoint(old), ReadData::Endpoint { key, entry, ports, .. }) => {
                old.key != *key || old.ports != *ports || old.entry != *entry
            }
            _ => true,
        }
    }

    fn set_data(&mut self, id: Id<Item>, data: ReadData, out: &mut Out) {
        match (&mut self.items[id].data, data) {
            (Data::Nets(old), ReadData::Nets(new)) => *old = new,
            (Data::Endpoint(old), ReadData::Endpoint { key, entry, ports, .. }) => {
                if old.key != key && old.published {
                    let node = self.nodes.slab[old.node].name.clone();
                    out.delete(Topic::Node(node), old.key.clone());
                    old.published = false;
                }
                old.key = key;
                old.stale |= !old.published || old.entry != entry;
                old.entry = entry;
                old.ports = ports;
            }
            // One key is of one kind.
            (Data::Nets(_), ReadData::Endpoint { .. }) | (Data::Endpoint(_), ReadData::Nets(_)) => {
            }
        }
    }

    /// The profiles that an item inherits from; endpoints also need their rules.
    fn set_parents(&mut self, id: Id<Item>, names: &[ArcStr]) {
        let parents = names.iter().map(|name| self.policies.profile(name));
        let parents = parents.collect::<Box<[_]>>();
        for prof in &parents {
            self.policies.profiles[*prof].items.insert(id);
            self.need_profile(id, *prof, true);
        }
        let item = &mut self.items[id];
        if let Data::Endpoint(local) = &mut item.data {
            // Its entry names them.
            local.stale |= item.parents != parents;
        }
        let old = std::mem::replace(&mut item.parents, parents);
        for prof in &old {
            if !self.items[id].parents.contains(prof) {
                self.policies.profiles[*prof].items.remove(&id);
            }
            self.need_profile(id, *prof, false);
            self.dirty.profiles.insert(*prof);
        }
    }

    fn need_profile(&mut self, id: Id<Item>, prof: Id<Prof>, more: bool) {
        if let Data::Endpoint(local) = &self.items[id].data {
            self.need(local.node, Need::Profile(prof), more);
        }
    }

    /// Takes an item out of its class and of the IP sets that the class is in.
    pub(super) fn detach(&mut self, id: Id<Item>) {
        if !Planted::LeftInSets.is_here() {
            self.count_members(id, false);
        }
        let item = &mut self.items[id];
        let Some(class) = item.class.take() else { return };
        let position = item.position;
        if item.is_host() && self.nodes.serves(item) {
            self.index.classes[class].hosts -= 1;
            self.dirty.classes.insert(class);
        }
        let items = &mut self.index.classes[class].items;
        items.swap_remove(position as usize);
        if let Some(moved) = items.get(position as usize) {
            self.items[*moved].position = position;
        }
        self.dirty.empty_classes.insert(class);
    }

    /// Puts all items without a class into theirs.
    pub(super) fn place_items(&mut self) {
        for id in self.dirty.items.take() {
            let labels = self.labels(&self.items[id]);
            let id_of_class = self.index.class(&labels);
            let item = &mut self.items[id];
            let class = &mut self.index.classes[id_of_class];
            item.class = Some(id_of_class);
            item.position = class.items.len() as u32;
            class.items.push(id);
            if self.nodes.serves(item) {
                self.dirty.endpoints.insert(id);
                let is_first = !std::mem::replace(&mut class.served, true)
                    && (class.items.len() == 1 || !Planted::LateForLabels.is_here());
                let is_host = item.is_host();
                class.hosts += usize::from(is_host);
                if is_first || is_host {
                    self.dirty.classes.insert(id_of_class);
                }
            }
            self.count_members(id, true);
        }
    }

    /// An item's labels with those that it inherits: its own win, then the first profile's.
    fn labels(&self, item: &Item) -> LabelSet {
        let inherited = item
            .parents
            .iter()
            .filter_map(|prof| self.policies.profiles[*prof].labels.as_deref())
            .filter(|labels| !labels.is_empty());
        let mut sources = vec![&*item.own];
        sources.extend(inherited.filter(|_| !Planted::InheritedForgotten.is_here()));
        if sources.len() == 1 {
            return Arc::clone(&item.own);
        }
        if Planted::InheritedWins.is_here() {
            sources.reverse();
        }
        if Planted::LastProfileWins.is_here() {
            sources[1..].reverse();
        }
        let mut all = Vec::with_capacity(sources.iter().map(|labels| labels.len()).sum());
        all.extend(sources.into_iter().flatten().cloned());
        // Of equal keys the first stays.
        all.sort_by(|(a, _), (b, _)| a.as_str().cmp(b));
        all.dedup_by(|(later, _), (first, _)| later == first);
        all.into()
    }

    /// Counts an item in (or out of) the IP sets of its class.
    fn count_members(&mut self, id: Id<Item>, more: bool) {
        let item = &self.items[id];
        let Some(class) = item.class else { return };
        for selector in &self.index.classes[class].selectors {
            for set in &self.index.selectors[*selector].sets {
                self.sets.slab[*set].count(item.gives(), more);
                self.dirty.members.insert(*set);
            }
        }
    }

    /// A profile's labels are others: its items look for their class anew.
    pub(super) fn reclass(&mut self, prof: Id<Prof>) {
        let items = self.policies.profiles[prof].items.clone();
        for id in &items {
            self.detach(*id);
        }
        self.dirty.items.extend(&items);
    }

    /// An endpoint is gone: so is its entry, and what its node needed for it.
    fn withdraw(&mut self, id: Id<Item>, out: &mut Out) {
        self.dirty.endpoints.remove(id);
        let Data::Endpoint(local) = &self.items[id].data else { return };
        let (node, held) = (local.node, local.held);
        if local.published {
            let name = self.nodes.slab[node].name.clone();
            out.delete(Topic::Node(name), local.key.clone());
        }
        for plist in held.into_iter().flatten() {
            self.need(node, Need::Plist(plist), false);
        }
        self.nodes.leave(node);
    }

    /// Stage four: endpoints hold the lists of their classes, and say so.
    pub(super) fn settle_endpoints(&mut self, out: &mut Out) {
        for id in self.dirty.endpoints.take() {
            let item = &self.items[id];
            let Data::Endpoint(local) = &item.data else { continue };
            if !self.nodes.serves(item) {
                continue;
            }
            let mut due =
                item.class.map(|class| self.index.classes[class].lists).unwrap_or_default();
            if !item.is_host() {
                due = [due[0], None, None, None];
            }
            let (node, held) = (local.node, local.held);
            if due != held {
                for plist in due.into_iter().flatten() {
                    self.need(node, Need::Plist(plist), true);
                }
                for plist in held.into_iter().flatten() {
                    self.need(node, Need::Plist(plist), false);
                }
            }
            let Item { parents, data: Data::Endpoint(local), .. } = &mut self.items[id] else {
                continue;
            };
            if Planted::PendingForgotten.is_here() && local.entry.is_pending() {
                continue;
            }
            if std::mem::take(&mut local.stale) || due != held {
                local.held = due;
                local.published = true;
                let ids = due.map(|plist| Some(self.policies.plists[plist?].id.clone()));
                let profiles = parents.iter().map(|id| self.policies.profiles[*id].name.clone());
                let entry = local.entry.with(profiles.collect(), ids);
                let name = self.nodes.slab[node].name.clone();
                out.put(Topic::Node(name), local.key.clone(), entry);
            }
        }
    }
}
