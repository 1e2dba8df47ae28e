//! What must hold for whatever happens, one seed at a time.

use std::{
    cell::Cell,
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Once,
};

use bulrush_engine::{
    Mirror, Slice,
    verdict::{Judge, Packet},
};
use model::{
    Key,
    kinds::Direction,
    view::{Entry, Icmp, Protocol, Topic},
};
use proptest::{
    collection::vec,
    prelude::*,
    sample::Index,
    test_runner::{RngAlgorithm, TestError, TestRng, TestRunner},
};
use sync::{DigestKey, TopicDigest};

use super::{
    cluster::{Cluster, Topics},
    naive::{self, Beyond, Objects},
    objects::{Focus, Obj, SliceOf, focus, object_of, slice},
};

/// A property of the engine that random worlds try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Check {
    /// After any sequence of updates the engine says what a naive recomputation says; and when
    /// everything is gone nothing is left in it.
    Updates,
    /// Whatever came before, and in which order: the same objects give the same views and digests.
    Order,
    /// An engine for one node says what one for all says to that node, and nothing else; and when everything is gone
    /// nothing is left in it.
    OneNode,
    /// What becomes of a packet is what the objects say, looked at without lists and IP sets.
    Verdicts,
}

impl Check {
    /// Tries one seed. On failure: what failed, and the smallest input that was found for it in
    /// `shrinking` steps.
    pub(crate) fn holds(self, seed: u64, shrinking: u32) -> Result<(), String> {
        match self {
            Self::Updates => holds(seed, shrinking, updates(), |input| check_updates(&input)),
            Self::Order => holds(seed, shrinking, orders(), |input| check_order(&input)),
            Self::OneNode => holds(seed, shrinking, updates(), |input| check_one_node(&input)),
            Self::Verdicts => holds(seed, shrinking, verdicts(), |input| check_verdicts(&input)),
        }
    }

    /// Tries the seeds that `BULRUSH_SEEDS=START..END` names; without it the first `count`.
    pub(crate) fn try_seeds(self, count: u64) {
        let seeds = match std::env::var("BULRUSH_SEEDS") {
            Ok(text) => {
                read_range(&text).expect("BULRUSH_SEEDS is START..END, for example 100..200")
            }
            Err(_) => 0..count,
        };
        println!("{self:?}: seeds {seeds:?}");
        for seed in seeds {
            if let Err(failed) = self.holds(seed, 4096) {
                panic!("again: BULRUSH_SEEDS={seed}..{}\n{failed}", seed + 1);
            }
        }
    }
}

fn read_range(text: &str) -> Option<Range<u64>> {
    let (start, end) = text.split_once("..")?;
    let (start, end) = (start.parse().ok()?, end.parse().ok()?);
    (start < end).then_some(start..end)
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Panics of this thread say nothing: each try of a smaller input is one.
struct Quiet(());

impl Quiet {
    fn new() -> Self {
        static HOOK: Once = Once::new();
        HOOK.call_once(|| {
            let loud = std::panic::take_hook();
            std::panic::set_hook(Box::new(move |panic| {
                if !QUIET.get() {
                    loud(panic);
                }
            }));
        });
        QUIET.set(true);
        Self(())
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        QUIET.set(false);
    }
}

fn holds<S: Strategy>(
    seed: u64,
    shrinking: u32,
    strategy: S,
    test: impl Fn(S::Value),
) -> Result<(), String>
where
    S::Value: std::fmt::Debug,
{
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = ProptestConfig {
        failure_persistence: None,
        max_shrink_iters: shrinking,
        ..ProptestConfig::default()
    };
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(config, rng);
    let tree = strategy.new_tree(&mut runner).unwrap();
    let quiet = Quiet::new();
    let tried = runner.run_one(tree, |input| {
        test(input);
        Ok(())
    });
    drop(quiet);
    match tried {
        Ok(_) => Ok(()),
        Err(TestError::Fail(reason, input)) => Err(format!("{reason}\n{input:#?}")),
        Err(TestError::Abort(reason)) => Err(reason.to_string()),
    }
}

/// One thing that happens.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Put(Key, Box<Obj>),
    /// Deletes one of the objects that are there.
    Delete(Index),
    /// A slice of the service `s` is now this, or gone.
    Slice((&'static str, &'static str), Option<SliceOf>),
    Flush,
}

fn op(focus: Focus, services: bool) -> impl Strategy<Value = Op> {
    prop_oneof![
        20 => object_of(focus).prop_map(|(key, obj)| Op::Put(key, Box::new(obj))),
        6 => any::<Index>().prop_map(Op::Delete),
        if services { 3 } else { 0 } => slice().prop_map(|(name, held)| Op::Slice(name, held)),
        6 => Just(Op::Flush),
    ]
}

/// What an engine is told to know: the backends of services, the ranges of nodes' pods.
fn knowing() -> impl Strategy<Value = (bool, bool)> {
    (any::<bool>(), any::<bool>())
}

fn updates() -> impl Strategy<Value = ((bool, bool), Vec<Op>)> {
    (knowing(), focus())
        .prop_flat_map(|(knowing, focus)| (Just(knowing), vec(op(focus, knowing.0), 1..60)))
}

/// An engine, and what it was told.
struct Tried {
    cluster: Cluster,
    objects: Objects,
    beyond: Beyond,
}

impl Tried {
    fn new((services, pod_cidrs): (bool, bool)) -> Self {
        Self {
            cluster: Cluster::knowing(services, pod_cidrs),
            objects: Objects::new(),
            beyond: Beyond { services: services.then(BTreeMap::new), pod_cidrs },
        }
    }

    fn put(&mut self, key: &Key, obj: &Obj) {
        self.cluster.update(key, Some(obj.stored(key)));
        self.objects.insert(key.clone(), obj.clone());
    }

    fn delete(&mut self, key: &Key) {
        self.cluster.delete(key);
        self.objects.remove(key);
    }

    fn set_slice(&mut self, (namespace, name): (&str, &str), held: Option<&SliceOf>) {
        let Some(services) = &mut self.beyond.services else { return };
        let read = held.map(|held| Slice {
            addresses: held.addresses.iter().map(|text| text.parse().unwrap()).collect(),
            ports: held.ports.iter().map(|(of, port)| (Protocol(*of), *port)).collect(),
        });
        let service = (namespace.into(), "s".into());
        self.cluster.engine.set_slice(&service, name.into(), read.as_ref());
        let slices = services.entry((namespace.to_owned(), "s".to_owned())).or_default();
        match held {
            Some(held) => slices.insert(name.to_owned(), held.clone()),
            None => slices.remove(name),
        };
    }

    fn run(&mut self, op: &Op) {
        match op {
            Op::Put(key, obj) => self.put(key, obj),
            Op::Delete(index) => {
                let keys = self.objects.keys().cloned().collect::<Vec<_>>();
                if !keys.is_empty() {
                    self.delete(index.get(&keys));
                }
            }
            Op::Slice(name, held) => self.set_slice(*name, held.as_ref()),
            Op::Flush => self.check(),
        }
    }

    /// What the engine says is what follows from the objects.
    fn check(&mut self) {
        self.cluster.flush();
        let (cluster, expected) =
            (&self.cluster, naive::expected_with(&self.objects, &self.beyond));
        let topics = cluster.topics.keys().chain(expected.topics.keys()).collect::<BTreeSet<_>>();
        for topic in topics {
            let (ours, naive) = (cluster.topics.get(topic), expected.topics.get(topic));
            assert_eq!(ours, naive, "{topic}: the engine, and the naive recomputation");
        }
        let mut views = cluster.views.clone();
        views.retain(|_, view| !view.is_empty());
        assert_eq!(views, expected.views, "views");
        let problems = cluster.engine.problems();
        let problems = problems.map(|(key, _)| key.clone()).collect::<BTreeSet<_>>();
        assert_eq!(problems, expected.problems, "problems");
        assert_eq!(cluster.engine.datastore_ready(), expected.ready);
        for (_, problem) in cluster.engine.problems() {
            assert!(!problem.faults.is_empty());
        }
    }
}

fn check_updates((knowing, ops): &((bool, bool), Vec<Op>)) {
    let mut tried = Tried::new(*knowing);
    for op in ops {
        tried.run(op);
    }
    tried.check();

    // When everything is gone nothing is left, in the engine neither.
    for key in tried.objects.clone().keys() {
        tried.delete(key);
    }
    for namespace in ["ns1", "ns2"] {
        for slice in ["x", "y"] {
            tried.set_slice((namespace, slice), None);
        }
    }
    tried.check();
    let mut sizes = tried.cluster.engine.sizes();
    sizes.evaluations = 0;
    assert_eq!(sizes, Cluster::new().engine.sizes());
}

fn check_one_node((knowing, ops): &((bool, bool), Vec<Op>)) {
    const NODE: &str = "n1";
    let mut all = Tried::new(*knowing);
    let mut one = Tried::new(*knowing);
    one.cluster = one.cluster.for_node(NODE);
    for op in ops.iter().chain([&Op::Flush]) {
        if matches!(op, Op::Flush) {
            all.cluster.flush();
            one.cluster.flush();
            let view = all.cluster.views.get(NODE).cloned().unwrap_or_default();
            let mut topics = all.cluster.topics.clone();
            topics.retain(|topic, _| match topic {
                Topic::Config | Topic::Pools | Topic::Hosts(_) | Topic::Routes(_) => true,
                Topic::Node(node) => node == NODE,
                topic => view.contains(topic),
            });
            assert_eq!(one.cluster.topics, topics);
            assert!(one.cluster.views.keys().all(|node| node == NODE));
            assert_eq!(one.cluster.views.get(NODE).cloned().unwrap_or_default(), view);
        } else {
            all.run(op);
            one.run(op);
        }
    }
    for key in one.objects.clone().keys() {
        one.delete(key);
    }
    one.cluster.flush();
    assert_eq!(one.cluster.topics, Topics::new());
    let mut sizes = one.cluster.engine.sizes();
    sizes.evaluations = 0;
    assert_eq!(sizes, Cluster::new().engine.sizes());
}

/// The objects that are there at the end, others that come first, how the order differs, and after
/// which updates there is a flush.
type Orders = (Vec<(Key, Obj)>, Vec<(Key, Obj)>, Index, Vec<bool>);

fn orders() -> impl Strategy<Value = Orders> {
    focus().prop_flat_map(|focus| {
        let objects = |count| vec(object_of(focus), count);
        (objects(1..40), objects(0..20), any::<Index>(), vec(any::<bool>(), 60))
    })
}

fn check_order((objects, others, order, flushes): &Orders) {
    let last = objects.iter().cloned().collect::<BTreeMap<_, _>>();
    let mut straight = Cluster::new();
    for (key, obj) in &last {
        straight.update(key, Some(obj.stored(key)));
    }
    straight.flush();

    // Others first, that are replaced or deleted; then the same objects in another order.
    let mut crooked = Cluster::new();
    for (key, obj) in others {
        crooked.update(key, Some(obj.stored(key)));
    }
    let mut steps = last.iter().map(|(key, obj)| (key, Some(obj))).collect::<Vec<_>>();
    let gone = others.iter().map(|(key, _)| key).filter(|key| !last.contains_key(*key));
    steps.extend(gone.map(|key| (key, None)));
    let middle = order.index(steps.len());
    steps.rotate_left(middle);
    steps[middle / 2..].reverse();
    for ((key, obj), flush) in steps.into_iter().zip(flushes.iter().cycle()) {
        crooked.update(key, obj.map(|obj| obj.stored(key)));
        if *flush {
            crooked.flush();
        }
    }
    crooked.flush();
    assert_eq!(&straight.topics, &crooked.topics);
    crooked.views.retain(|_, view| !view.is_empty());
    assert_eq!(&straight.views, &crooked.views);
    assert_eq!(digests(&straight.topics), digests(&crooked.topics));
}

/// The digest of each topic, as servers and agents compare them.
fn digests(topics: &Topics) -> BTreeMap<String, TopicDigest> {
    const KEY: DigestKey = DigestKey([7; 16]);
    let of_topic = |(topic, entries): (&Topic, &BTreeMap<_, _>)| {
        let (name, mut digest) = (topic.to_string(), TopicDigest::default());
        for (key, entry) in entries {
            let key: &arcstr::ArcStr = key;
            digest.add(&KEY, &name, key, &proto::encode(entry));
        }
        (name, digest)
    };
    topics.iter().map(of_topic).collect()
}

type Verdicts = ((bool, bool), Vec<Op>, Vec<(Index, Index, u8, u16)>);

fn verdicts() -> impl Strategy<Value = Verdicts> {
    let protocol = prop::sample::select(&[6u8, 6, 17, 1, 47, 136][..]);
    let port = prop::sample::select(&[80u16, 53, 443, 8500, 9][..]);
    let packet = (any::<Index>(), any::<Index>(), protocol, port);
    (knowing(), vec(packet, 1..20)).prop_flat_map(|(knowing, packets)| {
        (Just(knowing), vec(op(Focus::Policies, knowing.0), 10..60), Just(packets))
    })
}

fn check_verdicts((knowing, ops, packets): &Verdicts) {
    let mut tried = Tried::new(*knowing);
    let mut mirror = Mirror::default();
    for op in ops {
        match op {
            Op::Flush => {
                mirror.follow(tried.cluster.flush());
            }
            op => tried.run(op),
        }
    }
    mirror.follow(tried.cluster.flush());
    let judge = Judge::new(&mirror);
    let world = naive::verdict::World::new(&tried.objects, &tried.beyond);
    let endpoints = world.endpoints().collect::<Vec<_>>();
    let mut addresses = endpoints.iter().flat_map(|it| it.2).map(ipnet::IpNet::addr);
    let outside = ["10.7.0.1", "10.9.9.9", "192.0.2.1", "fd00::7"].map(|it| it.parse().unwrap());
    let addresses = addresses.by_ref().chain(outside).collect::<Vec<_>>();
    for (node, key, _) in &endpoints {
        let entry = mirror.entry(&Topic::Node((*node).into()), key);
        for (from, to, protocol, port) in packets {
            let (from, to) = (*from.get(&addresses), *to.get(&addresses));
            if from.is_ipv4() != to.is_ipv4() {
                continue;
            }
            // ICMP is of the version of the addresses.
            let is_icmp = *protocol == 1;
            let protocol = if is_icmp && from.is_ipv6() { 58 } else { *protocol };
            let icmp = is_icmp.then_some((if *port > 80 { 8 } else { 0 }, u8::from(*port > 443)));
            let (from_port, to_port) = (49_152, *port);
            let packet = naive::verdict::Packet { from, to, protocol, from_port, to_port, icmp };
            let ours = Packet {
                source: from,
                destination: to,
                protocol: Protocol(protocol),
                source_port: from_port,
                destination_port: to_port,
                icmp: icmp.map(|(kind, code)| Icmp { kind, code: Some(code) }),
            };
            for (inwards, direction) in [(true, Direction::Ingress), (false, Direction::Egress)] {
                let judged = match entry {
                    Some(Entry::Endpoint(it)) => judge.allows(it, direction, &ours, &mut |_| {}),
                    Some(Entry::HostEndpoint(it)) => {
                        judge.allows_host(it, direction, &ours, &mut |_| {})
                    }
                    _ => panic!("{node} has no {key}"),
                };
                let naive = world.allows(node, key, inwards, &packet);
                assert_eq!(judged, naive, "{key} on {node}, {direction:?}, {packet:?}");
            }
        }
    }
}
