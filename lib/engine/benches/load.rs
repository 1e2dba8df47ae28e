//! `cargo bench --bench load`: how long it takes to load a large cluster, what one change
//! costs, how much memory stays; beside a naive calculation of the same kind in the same run.
//!
//! `cargo bench --bench load -- 2000 load` (or `busy`) takes so many namespaces, and does that part
//! alone: for a profiler; `one` loads an engine for one node.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a bench that can't go on says where")]
#![allow(clippy::print_stdout, reason = "what was measured is printed")]

use std::{
    collections::BTreeMap,
    hint::black_box,
    sync::atomic::{AtomicUsize, Ordering::Relaxed},
    time::{Duration, Instant},
};

use arcstr::ArcStr;
use bulrush_engine::{Engine, Options};
use model::{Key, Kind, Stored, StreamIndex, Update, selector::Selector, view::PolicyList};
use serde_json::{Value, json};

// As what ships.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Over how many nodes pods are spread.
static NODES: AtomicUsize = AtomicUsize::new(1_000);
const PODS: usize = 4;
const POLICIES: usize = 3;
/// As many namespaces are told at once, as a store tells its list in pages.
const PAGE: usize = 100;

fn main() {
    // `cargo test` runs benches too, small.
    let is_bench = std::env::args().any(|argument| argument == "--bench");
    let of_argument = |place| std::env::args().filter(|it| !it.starts_with("--")).nth(place);
    let all = if is_bench { 25_000 } else { 50 };
    let namespaces = of_argument(1).and_then(|it| it.parse().ok()).unwrap_or(all);
    match of_argument(2).as_deref() {
        Some("load") => drop(load(engine(), namespaces)),
        Some("one") => drop(load(engine().for_node("node-1".into()), namespaces)),
        Some("busy") => println!("{:?}", busy(&mut load(engine(), 10), namespaces)),
        _ => everything(namespaces, is_bench),
    }
}

fn engine() -> Engine {
    Engine::new(Options { plist_id })
}

/// The engine, told all of it.
fn load(mut engine: Engine, namespaces: usize) -> Engine {
    let (pods, policies) = (namespaces * PODS, namespaces * POLICIES);
    println!("{pods} endpoints, {policies} policies, {namespaces} namespaces, {NODES:?} nodes");

    let before = resident();
    let mut applying = Duration::ZERO;
    for page in (0..namespaces).step_by(PAGE) {
        let updates = (page..namespaces.min(page + PAGE)).flat_map(objects).collect::<Vec<_>>();
        let start = processor();
        for update in &updates {
            engine.apply(update);
        }
        applying += since(start);
    }
    let start = processor();
    let output = engine.flush();
    let flushing = since(start);
    let peak = resident();
    println!(
        "load: {:.2} s (reading {:.2} s, calculating {:.2} s), {} changes",
        (applying + flushing).as_secs_f64(),
        applying.as_secs_f64(),
        flushing.as_secs_f64(),
        output.changes.len(),
    );
    drop(output);
    println!(
        "memory: {} MB with all that is said, {} MB after",
        peak - before,
        resident() - before
    );
    println!("{:?}", engine.sizes());
    engine
}

/// How long it takes to make JSON values of the bytes of the same objects, and nothing of these: what
/// whoever reads a store pays before the engine has anything.
fn parsing(namespaces: usize) -> Duration {
    let mut parsing = Duration::ZERO;
    for page in (0..namespaces).step_by(PAGE) {
        let updates = (page..namespaces.min(page + PAGE)).flat_map(objects);
        let stored = updates.filter_map(|update| match update.value {
            Some(Stored::Json(value)) => Some(value.to_string()),
            _ => None,
        });
        let stored = stored.collect::<Vec<_>>();
        let start = processor();
        for text in &stored {
            drop(black_box(serde_json::from_str::<Value>(text).unwrap()));
        }
        parsing += since(start);
    }
    parsing
}

fn everything(namespaces: usize, is_bench: bool) {
    let parsing = parsing(namespaces);
    let mut engine = load(engine(), namespaces);
    println!("the same objects parsed as JSON, and nothing more: {:.2} s", parsing.as_secs_f64());
    let labels = one_change(&mut engine, namespaces, true);
    let address = one_change(&mut engine, namespaces, false);
    println!("one pod's label changes: {labels:?}; its address changes: {address:?}");

    let (busy, spread) = (busy(&mut engine, 201), spread(is_bench));
    println!("one pod's label changes that 100 policies ask for: {busy:?}");
    println!("5,000 nodes with 30 endpoints, 1,000 changes a second: {spread:.1} % of a core");

    NODES.store(1_000, Relaxed);
    let sample = namespaces.min(500);
    let naive = naive(sample);
    let mut engine = self::engine();
    let updates = (0..sample).flat_map(objects).collect::<Vec<_>>();
    let start = processor();
    for update in &updates {
        engine.apply(update);
    }
    drop(engine.flush());
    let ours = since(start);
    println!(
        "{} endpoints and {} policies: {ours:?}, naive matching alone {naive:?}: {:.0} times",
        sample * PODS,
        sample * POLICIES,
        naive.as_secs_f64() / ours.as_secs_f64(),
    );
}

/// Cheap, and different for different lists: what a hash of the wire's bytes costs isn't ours.
fn plist_id(list: &PolicyList) -> ArcStr {
    let mut id = String::new();
    for tier in &list.tiers {
        for policy in tier.ingress.iter().chain(&tier.egress) {
            id.push_str(&policy.namespace);
            id.push('/');
            id.push_str(&policy.name);
            id.push(' ');
        }
    }
    id.into()
}

fn update(kind: Kind, namespace: &str, name: &str, labels: &Value, spec: &Value) -> Update {
    let key = Key { kind, namespace: namespace.into(), name: name.into() };
    let value = json!({
        "apiVersion": "projectcalico.org/v3",
        "kind": kind.name(),
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": "6ba7b810-9dad-41d1-80b4-00c04fd430c8",
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "labels": labels,
        },
        "spec": spec,
    });
    Update { stream: StreamIndex(0), key, value: Some(Stored::Json(value)), version: 1 }
}

fn pod(namespace: usize, pod: usize, version: &str, last: usize) -> Update {
    let (ns, node) = (format!("ns-{namespace}"), (namespace * PODS + pod) % NODES.load(Relaxed));
    let labels = json!({
        "app": format!("app-{pod}"),
        "version": version,
        "projectcalico.org/namespace": ns,
        "projectcalico.org/orchestrator": "k8s",
    });
    let number = namespace * PODS + pod;
    let address = format!("10.{}.{}.{}/32", number >> 16, number >> 8 & 255, (number + last) & 255);
    let spec = json!({
        "orchestrator": "k8s", "workload": "", "node": format!("node-{node}"),
        "pod": format!("pod-{pod}"), "endpoint": "eth0",
        "interfaceName": format!("cali{number:011x}"),
        "ipNetworks": [address],
        "profiles": [format!("kns.{ns}"), format!("ksa.{ns}.default")],
        "serviceAccountName": "default",
    });
    let name = format!("node--{node}-k8s-pod--{pod}-eth0");
    update(Kind::WorkloadEndpoint, &ns, &name, &labels, &spec)
}

/// A namespace with its pods and policies, as Kubernetes' are translated.
fn objects(namespace: usize) -> Vec<Update> {
    let ns = format!("ns-{namespace}");
    let allow = json!([{"action": "Allow"}]);
    let labels = json!({"pcns.projectcalico.org/name": ns, "pcns.kubernetes.io/metadata.name": ns});
    let profile = json!({"ingress": allow, "egress": allow, "labelsToApply": labels});
    let mut all = vec![update(Kind::Profile, "", &format!("kns.{ns}"), &json!({}), &profile)];
    all.extend((0..PODS).map(|it| pod(namespace, it, "1", 0)));
    for policy in 0..POLICIES {
        let selector =
            |app: usize| format!("projectcalico.org/orchestrator == 'k8s' && app == 'app-{app}'");
        let spec = json!({
            "tier": "default",
            "order": 1000,
            "selector": selector(policy),
            "types": ["Ingress"],
            "ingress": [{
                "action": "Allow", "protocol": "TCP",
                "source": {"selector": selector(policy + 1)},
                "destination": {"ports": [80, 443]},
            }],
        });
        let name = format!("policy-{policy}");
        all.push(update(Kind::NetworkPolicy, &ns, &name, &json!({}), &spec));
    }
    all
}

/// The median of what it costs when one pod changes.
fn one_change(engine: &mut Engine, namespaces: usize, label: bool) -> Duration {
    let mut times = Vec::new();
    for round in 0..201 {
        let version = if label && round % 2 == 0 { "2" } else { "1" };
        let last = usize::from(!label && round % 2 == 0);
        let update = pod(round * 7 % namespaces, round % PODS, version, last);
        let start = Instant::now();
        engine.apply(&update);
        drop(engine.flush());
        times.push(start.elapsed());
    }
    times.sort_unstable();
    times[times.len() / 2]
}

/// The median of what it costs when a pod stops being what 50 policies select and becomes what 50
/// others do.
fn busy(engine: &mut Engine, rounds: usize) -> Duration {
    // None of those that are there.
    let namespaces = 30_000;
    let ns = format!("ns-{namespaces}");
    for policy in 0..100 {
        let spec = json!({
            "selector": format!("version == '{}'", policy % 2 + 1),
            "types": ["Ingress"],
            "ingress": [{"action": "Allow", "protocol": "TCP", "destination": {"ports": [policy]}}],
        });
        let name = format!("policy-{policy}");
        engine.apply(&update(Kind::NetworkPolicy, &ns, &name, &json!({}), &spec));
    }
    engine.apply(&pod(namespaces, 0, "2", 0));
    drop(engine.flush());
    let mut times = Vec::new();
    for round in 0..rounds {
        let update = pod(namespaces, 0, if round % 2 == 0 { "1" } else { "2" }, 0);
        let start = Instant::now();
        engine.apply(&update);
        drop(engine.flush());
        times.push(start.elapsed());
    }
    times.sort_unstable();
    times[times.len() / 2]
}

/// How much of a processor it takes to follow 1,000 changes a second of 150,000 endpoints on 5,000
/// nodes, in percent: 10 seconds of them, published 10 times a second.
fn spread(is_bench: bool) -> f64 {
    NODES.store(5_000, Relaxed);
    let namespaces = if is_bench { 5_000 * 30 / PODS } else { 50 };
    let mut engine = self::engine();
    for namespace in 0..namespaces {
        for update in objects(namespace) {
            engine.apply(&update);
        }
    }
    drop(engine.flush());
    let mut spent = Duration::ZERO;
    for tick in 0..100 {
        let updates = (0..100).map(|change| {
            let number = tick * 100 + change;
            let version = if tick % 2 == 0 { "2" } else { "1" };
            pod(number * 7 % namespaces, number % PODS, version, number % 3)
        });
        let updates = updates.collect::<Vec<_>>();
        let start = processor();
        for update in &updates {
            engine.apply(update);
        }
        drop(engine.flush());
        spent += since(start);
    }
    spent.as_secs_f64() * 10.0
}

/// Every policy's selector and its rule's against every endpoint: what an engine without an index
/// would do, and nothing else of its work.
fn naive(namespaces: usize) -> Duration {
    let (mut selectors, mut endpoints) = (Vec::new(), Vec::new());
    for object in (0..namespaces).flat_map(objects) {
        let Some(Stored::Json(value)) = &object.value else { continue };
        let ns = &object.key.namespace;
        match object.key.kind {
            Kind::NetworkPolicy => {
                let spec = &value["spec"];
                for text in [&spec["selector"], &spec["ingress"][0]["source"]["selector"]] {
                    let text = text.as_str().unwrap();
                    let text = format!("({text}) && projectcalico.org/namespace == '{ns}'");
                    selectors.push(Selector::parse(&text).unwrap());
                }
            }
            Kind::WorkloadEndpoint => {
                let labels = value["metadata"]["labels"].as_object().unwrap().iter();
                let labels = labels.map(|(k, v)| (k.clone(), v.as_str().unwrap().to_owned()));
                endpoints.push(labels.collect::<BTreeMap<String, String>>());
            }
            _ => {}
        }
    }
    let start = processor();
    let matching = selectors
        .iter()
        .map(|selector| endpoints.iter().filter(|labels| selector.matches(*labels)).count());
    let matching = matching.sum::<usize>();
    assert_eq!(matching, 2 * namespaces * POLICIES);
    since(start)
}

/// The processor's time that this process has had: what others do meanwhile doesn't count.
fn processor() -> Duration {
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let nanoseconds = text.split(' ').next().and_then(|text| text.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or(0))
}

fn since(start: Duration) -> Duration {
    processor().saturating_sub(start)
}

/// Memory of this process that is in use, in MB.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<usize>().ok());
    kilobytes.unwrap_or(0) / 1024
}
