//! Who each node speaks BGP with by explicit peers, and the filters that those name. Peers of the
//! mesh are no business of this: agents derive them from the hosts.

use std::collections::{BTreeMap, BTreeSet};

use arcstr::ArcStr;
use model::{
    kinds::{Invalid, Labels},
    selector::Selector,
    view::{ConfigEntry, Entry, Topic},
};
use serde_json::Value;

use crate::{output::Out, planted::Planted};

/// The state behind the keys `bgppeer/…` and `bgpfilter/…` of the topics `node/…`.
#[derive(Default)]
pub(crate) struct Bgp {
    peers: BTreeMap<ArcStr, Peer>,
    /// Specs.
    filters: BTreeMap<ArcStr, String>,
    nodes: BTreeMap<ArcStr, Labels>,
    /// Specs by key, by node.
    published: BTreeMap<ArcStr, BTreeMap<ArcStr, String>>,
    dirty: BTreeSet<ArcStr>,
    all_dirty: bool,
}

struct Peer {
    spec: String,
    who: Who,
    filters: Vec<ArcStr>,
}

/// The nodes that peer.
enum Who {
    Node(ArcStr),
    Selected(Selector),
    All,
    /// What says it can't be read.
    Nobody,
}

impl Bgp {
    /// A peer is now this, or gone. Returns why no node has it.
    pub(crate) fn set_peer(&mut self, name: &ArcStr, spec: Option<String>) -> Option<Invalid> {
        self.all_dirty = true;
        let Some(spec) = spec else {
            self.peers.remove(name);
            return None;
        };
        // It was written by us a moment ago.
        let value = serde_json::from_str(&spec).unwrap_or(Value::Null);
        let (who, fault) = match who(&value) {
            Ok(who) => (who, None),
            Err(fault) => (Who::Nobody, Some(fault)),
        };
        let filters = value["filters"].as_array().into_iter().flatten();
        let filters = filters.filter_map(Value::as_str).map(ArcStr::from).collect();
        self.peers.insert(name.clone(), Peer { spec, who, filters });
        fault
    }

    /// A filter is now this, or gone.
    pub(crate) fn set_filter(&mut self, name: &ArcStr, spec: Option<String>) {
        self.all_dirty = true;
        match spec {
            Some(spec) => self.filters.insert(name.clone(), spec),
            None => self.filters.remove(name),
        };
    }

    /// A node's labels are now these, or it is gone.
    pub(crate) fn set_node(&mut self, name: &ArcStr, labels: Option<Labels>) {
        if self.nodes.get(name) == labels.as_ref() {
            return;
        }
        match labels {
            Some(labels) => self.nodes.insert(name.clone(), labels),
            None => self.nodes.remove(name),
        };
        self.dirty.insert(name.clone());
    }

    pub(crate) fn flush(&mut self, out: &mut Out) {
        let mut dirty = std::mem::take(&mut self.dirty);
        if std::mem::take(&mut self.all_dirty) {
            dirty.extend(self.nodes.keys().chain(self.published.keys()).cloned());
            dirty.extend(self.peers.values().filter_map(|peer| match &peer.who {
                Who::Node(node) => Some(node.clone()),
                Who::Selected(_) | Who::All | Who::Nobody => None,
            }));
        }
        for node in dirty {
            let due = self.due(&node);
            let held = self.published.remove(&node).unwrap_or_default();
            for key in held.keys().filter(|key| !due.contains_key(*key)) {
                out.delete(Topic::Node(node.clone()), key.clone());
            }
            for (key, spec) in due.iter().filter(|(key, spec)| held.get(*key) != Some(spec)) {
                let entry = Entry::Config(ConfigEntry { spec_json: spec.clone() });
                out.put(Topic::Node(node.clone()), key.clone(), entry);
            }
            if !due.is_empty() {
                self.published.insert(node, due);
            }
        }
    }

    fn due(&self, node: &ArcStr) -> BTreeMap<ArcStr, String> {
        let labels = self.nodes.get(node);
        let mut due = BTreeMap::new();
        for (name, peer) in &self.peers {
            let peers = match &peer.who {
                Who::Node(wanted) => wanted == node,
                Who::Selected(selector) => {
                    labels.is_some_and(|labels| selector.matches(labels.as_slice()))
                }
                Who::All => labels.is_some(),
                Who::Nobody => Planted::BadPeerForAll.is_here(),
            };
            if !peers {
                continue;
            }
            due.insert(arcstr::format!("bgppeer/{name}"), peer.spec.clone());
            for filter in &peer.filters {
                if let Some(spec) = self.filters.get(filter) {
                    due.insert(arcstr::format!("bgpfilter/{filter}"), spec.clone());
                }
            }
        }
        due
    }
}

/// The nodes that a peer's spec names; none named: all.
fn who(spec: &Value) -> Result<Who, Invalid> {
    let text = |name: &str| match &spec[name] {
        Value::Null => Ok(""),
        Value::String(text) => Ok(text.as_str()),
        other => Err(Invalid {
            field: format!("spec.{name}"),
            value: other.to_string(),
            reason: "must be text: no node has this peer".to_owned(),
        }),
    };
    match (text("node")?, text("nodeSelector")?) {
        ("", "") => Ok(Who::All),
        ("", selector) => match Selector::parse(selector) {
            Ok(selector) => Ok(Who::Selected(selector)),
            Err(error) => Err(Invalid {
                field: "spec.nodeSelector".to_owned(),
                value: format!("{selector:?}"),
                reason: format!("{error}: no node has this peer"),
            }),
        },
        (node, _) => Ok(Who::Node(node.into())),
    }
}
