//! IP sets with all their members, also where no node needs them.

use std::collections::BTreeMap;

use arcstr::ArcStr;
use model::{
    selector::Selector,
    view::{IpSetKind, Protocol},
};

use crate::{Engine, index::Sorted, rules::SetSpec, sets::Set};

/// An IP set that rules name.
#[derive(Clone, Debug, PartialEq)]
pub struct InspectedSet {
    /// What its members look like.
    pub kind: IpSetKind,
    /// What defines it.
    pub content: SetContent,
    /// Its members as nodes get them, sorted.
    pub members: Vec<String>,
    /// Members that are hidden from nodes because another one covers them, sorted.
    pub covered: Vec<String>,
}

/// What defines an IP set.
#[derive(Clone, Debug, PartialEq)]
pub enum SetContent {
    /// Whose addresses, in canonical form.
    Selector(String),
    /// Whose ports of a name; protocol none: of any.
    NamedPort(String, Option<Protocol>, ArcStr),
    /// The backends of a service: namespace and name.
    Service(ArcStr, ArcStr),
}

impl Engine {
    /// An IP set that a rule of any policy or profile names.
    pub fn ip_set(&self, id: &str) -> Option<InspectedSet> {
        let set = self.sets.by_id(id)?;
        let set = &self.sets.slab[set];
        let content = match &set.spec {
            SetSpec::Service(service) => {
                SetContent::Service(service.namespace.clone(), service.name.clone())
            }
            SetSpec::Selector { selector, port: None } => {
                SetContent::Selector(selector.to_string())
            }
            SetSpec::Selector { selector, port: Some(port) } => {
                SetContent::NamedPort(selector.to_string(), port.protocol, port.name.clone())
            }
        };
        let (members, covered) = match &set.spec {
            // Only what a node needs has members.
            SetSpec::Selector { selector, .. } if !set.filled => {
                let mut all = Set::new(set.id.clone(), set.spec.clone());
                self.count_all(selector, &mut all);
                all.members()
            }
            SetSpec::Service(service) if !set.filled => {
                let mut all = Set::new(set.id.clone(), set.spec.clone());
                let service = (service.namespace.clone(), service.name.clone());
                for slice in self.slices.get(&service).into_iter().flat_map(BTreeMap::values) {
                    all.count_slice(slice, true);
                }
                all.members()
            }
            _ => set.members(),
        };
        Some(InspectedSet { kind: IpSetKind::of(id)?, content, members, covered })
    }

    fn count_all(&self, selector: &Selector, set: &mut Set) {
        for class in self.index.classes.iter() {
            if selector.matches(&Sorted(&class.labels)) {
                for item in &class.items {
                    set.count(self.items[*item].gives(), true);
                }
            }
        }
    }

    /// The addresses of the workload endpoints that a selector matches, in no order.
    pub fn addresses(&self, selector: &Selector) -> Vec<ipnet::IpNet> {
        let mut addresses = Vec::new();
        for class in self.index.classes.iter() {
            if selector.matches(&Sorted(&class.labels)) {
                for item in &class.items {
                    if let crate::sets::Gives::Endpoint(nets, _) = self.items[*item].gives() {
                        addresses.extend_from_slice(nets);
                    }
                }
            }
        }
        addresses
    }
}
