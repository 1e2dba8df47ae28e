//! What has labels and addresses: workload endpoints, host endpoints and network sets.

use std::{fmt::Write, ops::Deref, sync::Arc};

use arcstr::ArcStr;
use ipnet::IpNet;
use model::{
    Key,
    kinds::{self, EndpointPort, Metadata, NetworkSet, WorkloadEndpoint},
    view::{Endpoint, Entry, HostEndpoint},
};

use crate::{
    index::Class,
    intern::{Interner, LabelSet},
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
    pub(crate) parents: Box<[Id<Prof>]>,
    /// Its class, while it is in one, and its place among the class's items.
    pub(crate) class: Option<Id<Class>>,
    pub(crate) position: u32,
    pub(crate) data: Data,
}

/// What makes an item an endpoint or a set.
pub(crate) enum Data {
    Endpoint(Local),
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
    pub(crate) ports: Box<[EndpointPort]>,
    /// The lists that it makes its node need.
    pub(crate) held: Lists,
}

/// The entry of an endpoint, but for the names of its profiles and the ids of its lists.
#[derive(Clone, PartialEq)]
pub(crate) enum LocalEntry {
    Workload { interface: ArcStr, mac: Mac, addresses: Addresses },
    Host(Box<HostEndpoint>),
}

/// A MAC, in the bytes that its text stands for; none: unknown.
#[derive(Clone, Copy, PartialEq)]
pub(crate) struct Mac(Option<[u8; 6]>);

impl Mac {
    /// From a text as the model reads it: in lower case with colons, or empty.
    fn new(text: &str) -> Self {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        let mut next = || u8::from_str_radix(parts.next()?, 16).ok();
        Self(bytes.iter_mut().try_for_each(|byte| next().map(|it| *byte = it)).map(|()| bytes))
    }

    fn text(self) -> ArcStr {
        let Some(bytes) = self.0 else { return ArcStr::new() };
        let mut text = String::with_capacity(17);
        for (place, byte) in bytes.into_iter().enumerate() {
            let colon = if place > 0 { ":" } else { "" };
            // Writing to a string can't fail.
            let _ = write!(text, "{colon}{byte:02x}");
        }
        text.into()
    }
}

/// Most endpoints have one address.
#[derive(Clone)]
pub(crate) enum Addresses {
    One(IpNet),
    Other(Box<[IpNet]>),
}

impl From<Vec<IpNet>> for Addresses {
    fn from(all: Vec<IpNet>) -> Self {
        match *all {
            [one] => Self::One(one),
            _ => Self::Other(all.into()),
        }
    }
}

impl Deref for Addresses {
    type Target = [IpNet];

    fn deref(&self) -> &[IpNet] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Other(all) => all,
        }
    }
}

impl PartialEq for Addresses {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl LocalEntry {
    /// No address is known yet.
    pub(crate) fn is_pending(&self) -> bool {
        matches!(self, Self::Workload { addresses, .. } if addresses.is_empty())
    }

    /// The entry as it is published, with these profiles and ids.
    pub(crate) fn with(&self, profiles: Vec<ArcStr>, ids: [Option<ArcStr>; 4]) -> Entry {
        let [plist, forward, untracked, pre_dnat] = ids;
        match self {
            Self::Workload { interface, mac, addresses } => Entry::Endpoint(Endpoint {
                interface: interface.clone(),
                mac: mac.text(),
                addresses: addresses.to_vec(),
                profiles,
                plist,
            }),
            Self::Host(entry) => Entry::HostEndpoint(Box::new(HostEndpoint {
                profiles,
                plist,
                forward,
                untracked,
                pre_dnat,
                ..HostEndpoint::clone(entry)
            })),
        }
    }
}

impl Item {
    /// What it gives to the IP sets that it is in.
    pub(crate) fn gives(&self) -> Gives<'_> {
        match &self.data {
            Data::Nets(nets) => Gives::Nets(nets),
            Data::Endpoint(local) => match &local.entry {
                LocalEntry::Workload { addresses, .. } => Gives::Endpoint(addresses, &local.ports),
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
    Endpoint { node: ArcStr, key: ArcStr, entry: LocalEntry, ports: Box<[EndpointPort]> },
    Nets(Arc<[IpNet]>),
}

/// A workload endpoint as its object says it.
pub(crate) fn workload(
    key: &Key,
    metadata: Metadata,
    read: WorkloadEndpoint,
    strings: &mut Interner,
) -> Read {
    let uid = if Planted::UidForgotten.is_here() { ArcStr::new() } else { metadata.uid.clone() };
    let own = strings.labels(read.own_labels(metadata));
    let WorkloadEndpoint { id, interface, mac, addresses, profiles, ports, .. } = read;
    let parents = profiles.into_iter().map(|name| strings.get(name)).collect();
    let ports = named(ports, strings);
    let key = ["wep", &id.orchestrator, &key.namespace, &id.workload, &id.endpoint, &uid].join("/");
    let key = ArcStr::from(key);
    let (mac, addresses) = (Mac::new(&mac), addresses.into());
    let entry = LocalEntry::Workload { interface, mac, addresses };
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
    let parents = profiles.into_iter().map(|name| strings.get(name)).collect();
    let ports = named(ports, strings);
    let key = arcstr::format!("hep/{}", key.name);
    let entry = HostEndpoint { interface, addresses, ..HostEndpoint::default() };
    let (node, entry) = (strings.get(node), LocalEntry::Host(Box::new(entry)));
    Read { own, parents, data: ReadData::Endpoint { node, key, entry, ports } }
}

/// A network set as its object says it. One in a namespace inherits the namespace's labels.
pub(crate) fn network_set(
    key: &Key,
    metadata: &Metadata,
    read: NetworkSet,
    strings: &mut Interner,
) -> Read {
    let namespace = metadata.namespace(key);
    let own = strings.labels(NetworkSet::own_labels(metadata, namespace.unwrap_or_default()));
    let parents = namespace.map(|namespace| strings.get(arcstr::format!("kns.{namespace}")));
    let parents = parents.into_iter().collect();
    Read { own, parents, data: ReadData::Nets(read.nets.into()) }
}

fn named(ports: Vec<EndpointPort>, strings: &mut Interner) -> Box<[EndpointPort]> {
    let named = |port: EndpointPort| EndpointPort { name: strings.get(port.name), ..port };
    ports.into_iter().map(named).collect::<Vec<_>>().into()
}
