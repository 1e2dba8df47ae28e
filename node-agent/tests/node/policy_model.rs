//! Random views, changed step by step: what the table does is what the view means, and it is the
//! table that a fresh start would write.

use std::{collections::BTreeSet, net::IpAddr, time::Instant};

use bulrush_node_agent::{
    Family, NodeView, Outcome, Reconciler, Source, drivers::memory::MemoryKernel, nft::Hook,
};
use model::view::{
    Action, Endpoint, Entry, Icmp, Peer, Policy, PolicyId, PolicyList, PolicyTier, PortRange,
    ProfileRules, Protocol, Rule, Topic,
};
use proptest::{bool::weighted, collection::vec, option, prelude::*, sample::select};

use crate::{
    interpret::{End, Packet, State, walk},
    naive::World,
    world::{NODE, endpoint_key, policy_id},
};

const SETS: [&str; 5] = ["s:a", "s:b", "svcnoport:c", "n:p", "svc:q"];
const SERVICES: [&str; 2] = ["svcnoport:c", "svc:q"];
const MEMBERS: [&str; 12] = [
    "10.0.0.1/32",
    "10.0.0.2/32",
    "10.0.0.3/32",
    "10.0.0.0/30",
    "10.0.0.0/8",
    "10.0.0.2/31",
    "0.0.0.0/0",
    "fd00::1/128",
    "fd00::2/128",
    "fd00::/64",
    "fd00::/126",
    "::/0",
];
const PORT_MEMBERS: [&str; 5] =
    ["10.0.0.1,tcp:80", "10.0.0.2,udp:53", "10.0.0.2,tcp:80", "fd00::1,tcp:80", "fd00::2,sctp:7"];
const NETS: [&str; 6] =
    ["10.0.0.0/8", "10.0.0.0/30", "10.0.0.2/32", "fd00::/64", "0.0.0.0/0", "::/0"];

fn known_or_not(known: &'static [&'static str]) -> impl Strategy<Value = arcstr::ArcStr> {
    prop_oneof![20 => select(known), 1 => Just("strange:x")].prop_map(Into::into)
}

/// Most sides of rules are open, so that rules meet packets at all.
fn peer() -> impl Strategy<Value = Peer> {
    prop_oneof![2 => Just(Peer::default()), 1 => strict_peer()]
}

fn strict_peer() -> impl Strategy<Value = Peer> {
    let nets = || vec(select(&NETS[..]).prop_map(|net| net.parse().unwrap()), 0..3);
    let some_nets = prop_oneof![2 => Just(vec![]), 1 => nets()];
    let except = prop_oneof![4 => Just(vec![]), 1 => nets()];
    let sets = || prop_oneof![3 => Just(vec![]), 2 => vec(known_or_not(&SETS[..3]), 1..3)];
    let not_sets = || prop_oneof![5 => Just(vec![]), 1 => vec(known_or_not(&SETS[..3]), 1..2)];
    let named = || prop_oneof![5 => Just(vec![]), 1 => vec(known_or_not(&SETS[3..]), 1..3)];
    let services = prop_oneof![5 => Just(vec![]), 1 => vec(known_or_not(&SERVICES), 1..3)];
    let range = select(&[(80, 80), (50, 60), (0, 65535), (53, 80), (9, 1)][..])
        .prop_map(|(first, last)| PortRange { first, last });
    let ports = move || prop_oneof![4 => Just(vec![]), 1 => vec(range.clone(), 1..3)];
    (some_nets, except, sets(), not_sets(), ports(), named(), ports(), named(), services).prop_map(
        |(
            nets,
            except,
            sets,
            not_sets,
            ports,
            port_sets,
            not_ports,
            not_port_sets,
            service_sets,
        )| {
            Peer {
                nets,
                not_nets: except,
                sets,
                not_sets,
                ports,
                port_sets,
                not_ports,
                not_port_sets,
                service_sets,
            }
        },
    )
}

fn rule() -> impl Strategy<Value = Rule> {
    let action = select(&[Action::Allow, Action::Deny, Action::Pass, Action::Log][..]);
    let version = prop_oneof![6 => Just(None), 1 => Just(Some(4)), 1 => Just(Some(6))];
    let protocol = || {
        let number = select(&[6, 17, 1, 58, 132, 4, 47][..]).prop_map(Protocol);
        prop_oneof![4 => Just(None), 1 => number.prop_map(Some)]
    };
    let icmp = || {
        let icmp = (select(&[8_u8, 0, 128][..]), option::of(0..2_u8))
            .prop_map(|(kind, code)| Icmp { kind, code });
        prop_oneof![8 => Just(None), 1 => icmp.prop_map(Some)]
    };
    (action, version, protocol(), protocol(), icmp(), icmp(), peer(), peer()).prop_map(
        |(action, ip_version, protocol, not_protocol, icmp, not_icmp, source, destination)| Rule {
            action,
            ip_version,
            protocol,
            not_protocol,
            icmp,
            not_icmp,
            source,
            destination,
        },
    )
}

/// One change of a world.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    Endpoint(&'static str, Option<Endpoint>),
    Plist(&'static str, Option<Vec<PolicyTier>>),
    Policy(PolicyId, Option<Policy>),
    Profile(&'static str, Option<ProfileRules>),
    Member(&'static str, &'static str, bool),
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    (
        select(&["cali1", "cali2"][..]),
        any::<bool>(),
        vec(select(&["q1", "q2"][..]).prop_map(Into::into), 0..3),
        option::weighted(0.8, select(&["l1", "l2"][..]).prop_map(Into::into)),
    )
        .prop_map(|(interface, addressed, profiles, plist)| Endpoint {
            interface: interface.into(),
            addresses: if addressed { vec!["10.0.0.1/32".parse().unwrap()] } else { vec![] },
            profiles,
            plist,
            ..Endpoint::default()
        })
}

fn tiers() -> impl Strategy<Value = Vec<PolicyTier>> {
    let ids = || vec(select(&["p1", "p2", "p3"][..]).prop_map(policy_id), 0..3);
    let tier = (any::<bool>(), ids(), ids()).prop_map(|(default_pass, ingress, egress)| {
        PolicyTier { name: "t".into(), default_pass, ingress, egress }
    });
    vec(tier, 0..3)
}

fn rules() -> impl Strategy<Value = (Vec<Rule>, Vec<Rule>)> {
    (vec(rule(), 0..4), vec(rule(), 0..4))
}

/// A change of one key: mostly a new value, seldom that it goes.
fn value<T: Clone + std::fmt::Debug + 'static>(
    keys: &'static [&'static str],
    value: impl Strategy<Value = T> + 'static,
    change: fn(&'static str, Option<T>) -> Change,
) -> BoxedStrategy<Change> {
    (select(keys), option::weighted(0.9, value)).prop_map(move |(key, v)| change(key, v)).boxed()
}

fn endpoints(keys: &'static [&'static str]) -> BoxedStrategy<Change> {
    value(keys, endpoint(), Change::Endpoint)
}

fn plists(keys: &'static [&'static str]) -> BoxedStrategy<Change> {
    value(keys, tiers(), Change::Plist)
}

fn policies(keys: &'static [&'static str]) -> BoxedStrategy<Change> {
    value(keys, rules(), |name, rules| {
        let policy = |(ingress, egress)| Policy { tier: "t".into(), ingress, egress };
        Change::Policy(policy_id(name), rules.map(policy))
    })
}

fn profiles(keys: &'static [&'static str]) -> BoxedStrategy<Change> {
    value(keys, rules(), |name, rules| {
        Change::Profile(name, rules.map(|(ingress, egress)| ProfileRules { ingress, egress }))
    })
}

fn members() -> BoxedStrategy<Change> {
    prop_oneof![
        4 => (select(&SETS[..3]), select(&MEMBERS[..]), weighted(0.6)),
        1 => (select(&SETS[3..]), select(&PORT_MEMBERS[..]), weighted(0.6)),
    ]
    .prop_map(|(set, member, there)| Change::Member(set, member, there))
    .boxed()
}

/// A world in which most keys have a value.
pub(crate) fn start() -> impl Strategy<Value = Vec<Change>> {
    let mut all = vec![
        endpoints(&["e1"]),
        endpoints(&["e2"]),
        plists(&["l1"]),
        plists(&["l2"]),
        policies(&["p1"]),
        policies(&["p2"]),
        policies(&["p3"]),
        profiles(&["q1"]),
        profiles(&["q2"]),
    ];
    all.extend((0..20).map(|_| members()));
    all
}

pub(crate) fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        2 => endpoints(&["e1", "e2", "e3"]),
        2 => plists(&["l1", "l2"]),
        3 => policies(&["p1", "p2", "p3"]),
        1 => profiles(&["q1", "q2"]),
        5 => members(),
    ]
}

pub(crate) fn apply(world: &mut World, view: &mut NodeView, change: Change) {
    match change {
        Change::Endpoint(key, value) => {
            let key = endpoint_key(key);
            let topic = Topic::Node(NODE.into());
            view.set(&topic, &key, value.clone().map(Entry::Endpoint));
            match value {
                Some(value) => world.endpoints.insert(key, value),
                None => world.endpoints.remove(&key),
            };
        }
        Change::Plist(id, value) => {
            let list = value.clone().map(|tiers| PolicyList { tiers });
            view.set(&Topic::Plist(id.into()), "", list.map(Entry::Plist));
            match value {
                Some(value) => world.plists.insert(id.into(), value),
                None => world.plists.remove(id),
            };
        }
        Change::Policy(id, value) => {
            view.set(
                &Topic::Policy(id.clone()),
                "",
                value.clone().map(|it| Entry::Policy(it.into())),
            );
            match value {
                Some(value) => world.policies.insert(id, value),
                None => world.policies.remove(&id),
            };
        }
        Change::Profile(name, value) => {
            view.set(
                &Topic::Profile(name.into()),
                "",
                value.clone().map(|it| Entry::Profile(it.into())),
            );
            match value {
                Some(value) => world.profiles.insert(name.into(), value),
                None => world.profiles.remove(name),
            };
        }
        Change::Member(set, member, there) => {
            view.set(&Topic::IpSet(set.into()), member, there.then_some(Entry::Member));
            let members = world.sets.entry(set.into()).or_default();
            if there {
                members.insert(member.into())
            } else {
                members.remove(member)
            };
        }
    }
}

/// Packets that tell rules apart.
fn packets() -> impl Iterator<Item = Packet> {
    let families: [[&str; 4]; 2] = [
        ["10.0.0.1", "10.0.0.2", "10.0.0.5", "192.0.2.1"],
        ["fd00::1", "fd00::2", "fd00::5", "2001:db8::1"],
    ];
    let words: [(u8, (u16, u16)); 11] = [
        (6, (40000, 80)),
        (6, (80, 55)),
        (6, (1, 81)),
        (17, (40000, 53)),
        (17, (53, 4789)),
        (132, (1, 7)),
        (1, (8, 0)),
        (1, (8, 1)),
        (58, (128, 0)),
        (4, (0, 0)),
        (47, (80, 80)),
    ];
    families.into_iter().flat_map(move |addresses| {
        addresses.into_iter().flat_map(move |from| {
            addresses.into_iter().flat_map(move |to| {
                words.into_iter().map(move |(protocol, words)| {
                    let (from, to): (IpAddr, IpAddr) = (from.parse().unwrap(), to.parse().unwrap());
                    let mark = 0x00f0_c00f;
                    let new = State::New;
                    Packet {
                        from,
                        to,
                        iif: String::new(),
                        oif: String::new(),
                        protocol,
                        words,
                        mark,
                        state: new,
                    }
                })
            })
        })
    })
}

const WAYS: [(&str, &str); 5] = [
    ("cali1", "cali2"),
    ("eth0", "cali1"),
    ("cali2", "eth0"),
    ("cali9", "eth0"),
    ("eth0", "cali9"),
];

fn judge(agent: &mut Reconciler<MemoryKernel>, packet: &Packet) -> bool {
    let mut packet = packet.clone();
    let family = Family::of(packet.from);
    let table = &agent.kernel().nft.tables[&family];
    let end = match walk(table, Hook::Prerouting, &mut packet) {
        End::Accepted => walk(table, Hook::Forward, &mut packet),
        end => end,
    };
    // Foreign mark bits are nobody's business.
    assert_eq!(packet.mark & 0x00f0_c00f & !0x3_0000, 0x00f0_c00f);
    end == End::Accepted
}

fn commit(agent: &mut Reconciler<MemoryKernel>) -> Outcome {
    agent.commit(Source::Server, Instant::now())
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: ProptestConfig::default().cases / 4,
        ..ProptestConfig::default()
    })]

    #[test]
    fn the_table_does_what_the_view_means(
        start in start(),
        commits in vec(vec(change(), 1..6), 0..4),
    ) {
        let mut world = World::default();
        let mut agent = Reconciler::new(NODE, true, MemoryKernel::default());
        let mut whole = NodeView::default();
        for changes in [start].into_iter().chain(commits) {
            for change in changes {
                apply(&mut World::default(), &mut whole, change.clone());
                apply(&mut world, agent.view(), change);
            }
            commit(&mut agent);
            let mut fresh = Reconciler::new(NODE, true, MemoryKernel::default());
            *fresh.view() = whole.clone();
            commit(&mut fresh);
            prop_assert_eq!(&agent.kernel().nft.tables, &fresh.kernel().nft.tables);
            for (iif, oif) in WAYS {
                for packet in packets() {
                    let packet = Packet { iif: iif.into(), oif: oif.into(), ..packet };
                    let expected = world.lets_through(&packet);
                    prop_assert_eq!(judge(&mut agent, &packet), expected, "{:?}", packet);
                }
            }
            let states = [State::Established, State::Invalid];
            for (state, (iif, oif)) in states.into_iter().flat_map(|s| WAYS.map(|w| (s, w))) {
                let packet = packets().next().unwrap();
                let packet = Packet { iif: iif.into(), oif: oif.into(), state, ..packet };
                prop_assert_eq!(judge(&mut agent, &packet), world.lets_through(&packet), "{:?}", packet);
            }
        }
    }
}

proptest! {
    /// Networks that cover each other come and go, one commit each.
    #[test]
    fn a_set_holds_what_its_members_cover(
        steps in vec((select(&MEMBERS[..]), weighted(0.6)), 1..30),
    ) {
        let (mut world, mut agent) = one_set_asked();
        for (member, there) in steps {
            apply(&mut world, agent.view(), Change::Member("s:a", member, there));
            prop_assert_eq!(commit(&mut agent).failed, []);
            for packet in packets().filter(|packet| packet.protocol == 6) {
                let packet = Packet { iif: "eth0".into(), oif: "cali1".into(), ..packet };
                prop_assert_eq!(judge(&mut agent, &packet), world.lets_through(&packet));
            }
        }
    }
}

/// One endpoint that lets in the members of one set.
fn one_set_asked() -> (World, Reconciler<MemoryKernel>) {
    let mut agent = Reconciler::new(NODE, true, MemoryKernel::default());
    let mut world = World::default();
    let rule = Rule {
        action: Action::Allow,
        source: Peer { sets: vec!["s:a".into()], ..Peer::default() },
        ..Rule::default()
    };
    let endpoint =
        Endpoint { interface: "cali1".into(), plist: Some("l1".into()), ..Endpoint::default() };
    let tier = PolicyTier { ingress: vec![policy_id("p1")], ..PolicyTier::default() };
    let policy = Policy { ingress: vec![rule], ..Policy::default() };
    for change in [
        Change::Endpoint("e1", Some(endpoint)),
        Change::Plist("l1", Some(vec![tier])),
        Change::Policy(policy_id("p1"), Some(policy)),
    ] {
        apply(&mut world, agent.view(), change);
    }
    (world, agent)
}

#[test]
fn a_changed_member_is_one_element() {
    let (mut world, mut agent) = one_set_asked();
    for member in ["10.0.0.1/32", "10.0.0.0/8"] {
        apply(&mut world, agent.view(), Change::Member("s:a", member, true));
    }
    assert_eq!(commit(&mut agent).failed, []);
    let before = agent.kernel().nft.commits.len();
    for member in ["10.0.0.2/32", "10.1.0.0/16", "11.0.0.0/8"] {
        apply(&mut world, agent.view(), Change::Member("s:a", member, true));
        commit(&mut agent);
    }
    let steps: Vec<usize> =
        agent.kernel().nft.commits[before..].iter().map(|commit| commit.steps.len()).collect();
    assert_eq!(steps, [1, 1], "10.1.0.0/16 lies in 10.0.0.0/8: nothing to do");

    // What was covered comes back when its cover goes, and nothing else goes with it.
    apply(&mut world, agent.view(), Change::Member("s:a", "10.0.0.0/8", false));
    commit(&mut agent);
    let table = &agent.kernel().nft.tables[&Family::V4];
    let nets: BTreeSet<String> = table
        .sets
        .iter()
        .filter(|(name, _)| name.starts_with("nets-"))
        .flat_map(|(_, (_, elements))| elements.keys())
        .map(|element| format!("{element:?}"))
        .collect();
    assert_eq!(nets.into_iter().collect::<Vec<_>>(), ["Net(10.1.0.0/16)", "Net(11.0.0.0/8)"]);
}
