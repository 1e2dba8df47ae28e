//! Ends of connections that no rule tells apart: what one of them may, all of them may.

use std::{
    collections::{BTreeMap, HashMap},
    net::IpAddr,
};

use arcstr::ArcStr;
use engine::{Mirror, verdict::address_port};
use ipnet::IpNet;
use model::view::{Entry, Peer, Rule, Topic};

/// What policies are asked at an end.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Policies {
    /// None: it is outside.
    None,
    /// Those of a pod: its list, and its profiles.
    Pod(Option<ArcStr>, Vec<ArcStr>),
    /// Those of an interface of a node: the node, whose failsafe ports are open, the lists, and the profiles.
    Host(ArcStr, [Option<ArcStr>; 3], Vec<ArcStr>),
}

/// All that decides what an end may, but for whether the other end is on the same node.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Looks {
    pub(crate) policies: Policies,
    /// Sorted: numbers of what its address is in.
    pub(crate) traits: Vec<u32>,
}

/// What rules can tell of an address: the IP sets and the networks that it is in. Each has a number.
#[derive(Default)]
pub(crate) struct Traits {
    /// By the length of their prefix, so that an address is looked for once for each length.
    nets: BTreeMap<u8, HashMap<IpNet, Vec<u32>>>,
    /// Of sets of addresses with ports.
    addresses: HashMap<IpAddr, Vec<u32>>,
}

impl Traits {
    /// What all rules that are mirrored tell apart, and these networks.
    pub(crate) fn of(mirror: &Mirror, nets: impl Iterator<Item = IpNet>) -> Self {
        let mut traits = Self::default();
        let mut last = 0;
        let mut fresh = || {
            last += 1;
            last
        };
        let mut written = nets.collect::<Vec<_>>();
        for topic in mirror.topics() {
            let number = fresh();
            let mut ports = HashMap::new();
            for (key, entry) in mirror.entries(topic) {
                match (topic, entry) {
                    (Topic::IpSet(_), _) => {
                        if let Some((address, protocol, port)) = address_port(key) {
                            let number = ports.entry((protocol, port)).or_insert_with(&mut fresh);
                            traits.addresses.entry(address).or_default().push(*number);
                        } else if let Ok(net) = key.parse() {
                            traits.add(net, number);
                        }
                    }
                    (_, Entry::Policy(it)) => written.extend(nets_of(&it.ingress, &it.egress)),
                    (_, Entry::Profile(it)) => written.extend(nets_of(&it.ingress, &it.egress)),
                    _ => {}
                }
            }
        }
        written.sort_unstable();
        written.dedup();
        for net in written {
            traits.add(net, fresh());
        }
        traits
    }

    fn add(&mut self, net: IpNet, number: u32) {
        let of_length = self.nets.entry(net.prefix_len()).or_default();
        of_length.entry(net.trunc()).or_default().push(number);
    }

    /// What an address is in.
    pub(crate) fn at(&self, address: IpAddr) -> Vec<u32> {
        let nets = self.nets.iter().filter_map(|(length, nets)| {
            let net = IpNet::new(address, *length).ok()?;
            nets.get(&net.trunc())
        });
        let mut all =
            nets.chain(self.addresses.get(&address)).flatten().copied().collect::<Vec<_>>();
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// The networks that rules name.
fn nets_of<'r>(ingress: &'r [Rule], egress: &'r [Rule]) -> impl Iterator<Item = IpNet> + 'r {
    let of = |peer: &'r Peer| peer.nets.iter().chain(&peer.not_nets).copied();
    ingress.iter().chain(egress).flat_map(move |rule| of(&rule.source).chain(of(&rule.destination)))
}
