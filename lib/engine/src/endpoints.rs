//! What has labels and addresses: workload endpoints, host endpoints and network sets.

use std::sync::Arc;

use arcstr::ArcStr;
use ipnet::IpNet;
use model::{
    Key, Kind,
    kinds::{self, EndpointPort, Metadata, NetworkSet, WorkloadEndpoint},
    view::{Endpoint, Entry, HostEndpoint},
};

use crate::{
    index::{Class, LabelSet},
    intern::Interner,
    nodes::Node,
    planted::Planted,
    policies::{Lists, Prof},
    sets::Gives,
    slab::Id,
};

/// An endpoint or a network set.
pub(crate) struct Item {
    /// Its own labels, without inherited ones.
    pub(crate) own: LabelSet,
    /// Whose labels it inherits, first one first.
    pub(crate) parents: Vec<Id<Prof>>,
    /// Its class, while it is in one, and its place among the class's items.
    pub(crate) class: Option<Id<Class>>,
    pub(crate) position: usize,
    pub(crate) data: Data,
}

/// What makes an item an endpoint or a set.
pub(crate) enum Data {
    Endpoint(Box<Local>),
    Nets(Arc<[IpNet]>),
}

/// A workload endpoint or a host endpoint: what its node alone must know.
pub(crate) struct Local {
    pub(crate) node: Id<Node>,
    /// Its key in `node/<name>`.
    pub(crate) key: ArcStr,
    pub(crate) entry: LocalEntry,
    /// There is an entry under the key.
    pub(crate) published: bool,
    /// It isn't this one.
    pub(crate) stale: bool,
    pub(crate) ports: Vec<EndpointPort>,
    /// The lists that it makes its node need.
    pub(crate) held: Lists,
}

/// The entry of an endpoint, but for the ids of its lists.
#[derive(Clone, PartialEq)]
pub(crate) enum LocalEntry {
    Workload(Endpoint),
    Host(HostEndpoint),
}

impl LocalEntry {
    /// No address is known yet.
    pub(crate) fn is_pending(&self) -> bool {
        matches!(self, Self::Workload(entry) if entry.addresses.is_empty())
    }

    /// The entry as it is published, with these ids.
    pub(crate) fn with(&self, ids: [Option<ArcStr>; 4]) -> Entry {
        let [plist, forward, untracked, pre_dnat] = ids;
        match self {
            Self::Workload(entry) => Entry::Endpoint(Endpoint { plist, ..entry.clone() }),
            Self::Host(entry) => Entry::HostEndpoint(HostEndpoint {
                plist,
                forward,
                untracked,
                pre_dnat,
                ..entry.clone()
            }),
        }
    }
}

impl Item {
    /// What it gives to the IP sets that it is in.
    pub(crate) fn gives(&self) -> Gives<'_> {
        match &self.data {
            Data::Nets(nets) => Gives::Nets(nets),
            Data::Endpoint(local) => match &local.entry {
                LocalEntry::Workload(entry) => Gives::Endpoint(&entry.addresses, &local.ports),
                LocalEntry::Host(entry) => Gives::Host(&entry.addresses, &local.ports),
            },
        }
    }

    pub(crate) fn is_endpoint(&self) -> bool {
        matches!(self.data, Data::Endpoint(_))
    }

    pub(crate) fn is_host(&self) -> bool {
        match &self.data {
            Data::Endpoint(local) => matches!(local.entry, LocalEntry::Host(_)),
            Data::Nets(_) => false,
        }
    }
}

/// An item as its object says it, before it gets ids.
pub(crate) struct Read {
    pub(crate) own: LabelSet,
    /// Names of the profiles that it inherits labels from.
    pub(crate) parents: Vec<ArcStr>,
    pub(crate) data: ReadData,
}

/// See [`Data`].
pub(crate) enum ReadData {
    Endpoint { node: ArcStr, key: ArcStr, entry: LocalEntry, ports: Vec<EndpointPort> },
    Nets(Vec<IpNet>),
}

/// A workload endpoint as its object says it.
pub(crate) fn workload(
    key: &Key,
    metadata: &Metadata,
    read: WorkloadEndpoint,
    strings: &mut Interner,
) -> Read {
    let own = strings.labels(read.own_labels(metadata));
    let WorkloadEndpoint { id, interface, mac, addresses, profiles, ports, .. } = read;
    let parents = profiles.into_iter().map(|name| strings.get(name)).collect::<Vec<_>>();
    let key = arcstr::format!(
        "wep/{}/{}/{}/{}/{}",
        id.orchestrator,
        key.namespace,
        id.workload,
        id.endpoint,
        if Planted::UidForgotten.is_here() { "" } else { &metadata.uid }
    );
    let entry = Endpoint { interface, mac, addresses, profiles: parents.clone(), plist: None };
    let entry = LocalEntry::Workload(entry);
    Read {
        own,
        parents,
        data: ReadData::Endpoint { node: strings.get(id.node), key, entry, ports },
    }
}

/// A host endpoint as its object says it.
pub(crate) fn host(
    key: &Key,
    metadata: Metadata,
    read: kinds::HostEndpoint,
    strings: &mut Interner,
) -> Read {
    let own = strings.labels(metadata.labels);
    let kinds::HostEndpoint { node, interface, addresses, profiles, ports } = read;
    let parents = profiles.into_iter().map(|name| strings.get(name)).collect::<Vec<_>>();
    let key = arcstr::format!("hep/{}", key.name);
    let profiles = parents.clone();
    let entry = HostEndpoint { interface, addresses, profiles, ..HostEndpoint::default() };
    let (node, entry) = (strings.get(node), LocalEntry::Host(entry));
    Read { own, parents, data: ReadData::Endpoint { node, key, entry, ports } }
}

/// A network set as its object says it. One in a namespace inherits the namespace's labels.
pub(crate) fn network_set(
    key: &Key,
    metadata: &Metadata,
    read: NetworkSet,
    strings: &mut Interner,
) -> Read {
    let own = strings.labels(NetworkSet::own_labels(metadata, &key.namespace));
    let parents = match key.kind {
        Kind::NetworkSet => vec![strings.get(arcstr::format!("kns.{}", key.namespace))],
        _ => Vec::new(),
    };
    Read { own, parents, data: ReadData::Nets(read.nets) }
}
