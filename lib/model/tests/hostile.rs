//! Whatever text or JSON comes: nothing panics, what comes out is bounded by what went in, and time grows
//! with the length.

#![allow(clippy::expect_used, reason = "in a test a panic is a failure with its place")]

mod golden;

use std::{collections::BTreeMap, fs, hint::black_box, time::Duration};

use bulrush_model::{
    Key, Kind, Stored, kinds::decode, selector::Selector, translate::translate, validate::validate,
};
use nix::time::{ClockId, clock_gettime};
use proptest::{collection::vec, prelude::*, sample::Index};
use serde_json::{Value, json};

const SELECTORS: [&str; 16] = [
    "",
    "all()",
    "global()",
    "a == 'b'",
    "a != \"b\"",
    "has(a) && !has(b)",
    "a in {'b', 'c'} || d not in {}",
    "!(a == 'x' && (b contains 'y' || c starts with 'z'))",
    "a ends with ''",
    "projectcalico.org/namespace == \"default\"",
    "((((((((a == 'b'))))))))",
    "!!!!!!!!a == 'b'",
    "a == 'it''s'",
    "a == 'b' && (",
    "lab not\tin{\t'a'\t\t  'b'\t}",
    "in in {'in'}",
];

/// What is put in, at any place of a text.
const PIECES: [&str; 18] = [
    "(", ")", "{", "}", "!", "&&", "||", "'", "\"", ",", "==", " in ", " not ", "has(", "all()",
    "\u{0}", "é", "a",
];

/// A change of a text: characters from a place go, a piece comes, so many times.
type Edit = (Index, u8, Index, u8);

fn edited(text: &str, edits: &[Edit]) -> String {
    let mut chars: Vec<char> = text.chars().collect();
    for (place, gone, piece, times) in edits {
        let from = place.index(chars.len() + 1);
        let to = (from + usize::from(gone % 4)).min(chars.len());
        let piece = piece.get(&PIECES).repeat(usize::from(*times));
        chars.splice(from..to, piece.chars());
    }
    chars.into_iter().collect()
}

/// All that is done with a selector.
fn use_selector(text: &str, labels: &BTreeMap<String, String>) -> Option<String> {
    let selector = Selector::parse(text).ok()?;
    black_box((selector.restrictions(), selector.unique_id(), selector.matches(labels)));
    Some(selector.to_string())
}

fn labels() -> BTreeMap<String, String> {
    ["a", "b", "in"].map(|label| (label.to_owned(), "b".to_owned())).into()
}

/// Objects as people write them, and as Kubernetes has them.
fn objects() -> Vec<Value> {
    let peer =
        json!({"selector": "a == 'b'", "notNets": ["10.0.0.0/8"], "ports": [80, "1:2", "http"]});
    let rule = json!({"action": "Allow", "protocol": "TCP", "icmp": {"type": 8}, "source": peer,
        "destination": {"services": {"name": "s", "namespace": "n"}}, "http": {"methods": ["GET"]}});
    let policy = json!({"tier": "default", "order": 1.5, "selector": "all()", "types": ["Ingress"],
        "ingress": [rule], "egress": [{"action": "Deny"}]});
    let meta = json!({"name": "default.x", "namespace": "shop", "labels": {"a": "b"}});
    let calico = |kind: &str, spec: Value| json!({"apiVersion": "projectcalico.org/v3", "kind": kind, "metadata": meta, "spec": spec});
    let kubernetes = |version: &str, kind: &str, spec: Value| json!({"apiVersion": version, "kind": kind, "metadata": meta, "spec": spec});
    let selector = json!({"matchLabels": {"a": "b"},
        "matchExpressions": [{"key": "a", "operator": "In", "values": ["b", "c"]}]});
    let ports = json!([{"protocol": "TCP", "port": 80, "endPort": 90}, {"port": "http"}]);
    vec![
        calico("NetworkPolicy", policy.clone()),
        calico("GlobalNetworkPolicy", policy.clone()),
        calico("StagedNetworkPolicy", policy),
        calico("Tier", json!({"order": 10, "defaultAction": "Pass"})),
        calico("IPPool", json!({"cidr": "10.0.0.0/16", "blockSize": 26, "vxlanMode": "Always"})),
        calico("NetworkSet", json!({"nets": ["10.0.0.0/8", "fd00::/8"]})),
        calico("GlobalNetworkSet", json!({"nets": ["10.0.0.1"]})),
        calico(
            "HostEndpoint",
            json!({"node": "n", "interfaceName": "*", "expectedIPs": ["10.0.0.1"],
            "ports": [{"name": "p", "port": 1, "protocol": "UDP"}]}),
        ),
        calico(
            "WorkloadEndpoint",
            json!({"orchestrator": "k8s", "node": "n", "pod": "p",
            "endpoint": "eth0", "ipNetworks": ["10.0.0.1/32"], "profiles": ["kns.a"]}),
        ),
        calico("Profile", json!({"ingress": [{"action": "Allow"}], "labelsToApply": {"a": "b"}})),
        calico(
            "Node",
            json!({"bgp": {"ipv4Address": "10.0.0.1/24", "asNumber": "64512"},
            "addresses": [{"address": "10.0.0.1", "type": "InternalIP"}]}),
        ),
        calico(
            "IPAMBlock",
            json!({"cidr": "10.0.0.0/26", "affinity": "host:n", "strictAffinity": true,
            "allocations": [0, null], "unallocated": [1], "attributes": [{"handle_id": "h"}]}),
        ),
        calico("FelixConfiguration", json!({"bpfEnabled": false, "routeRefreshInterval": "90s"})),
        calico("BGPPeer", json!({"peerIP": "10.0.0.1", "asNumber": 1})),
        kubernetes(
            "networking.k8s.io/v1",
            "NetworkPolicy",
            json!({"podSelector": selector,
            "policyTypes": ["Egress"], "ingress": [{"from": [{"podSelector": selector,
            "namespaceSelector": {}}, {"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}],
            "ports": ports}]}),
        ),
        kubernetes(
            "policy.networking.k8s.io/v1alpha2",
            "ClusterNetworkPolicy",
            json!({
            "tier": "Admin", "priority": 1, "subject": {"namespaces": selector},
            "ingress": [{"name": "x", "action": "Accept", "from": [{"namespaces": selector}]}]}),
        ),
        kubernetes(
            "v1",
            "Pod",
            json!({"nodeName": "n", "serviceAccountName": "s",
            "containers": [{"ports": [{"name": "http", "containerPort": 80}]}]}),
        ),
        kubernetes("v1", "Namespace", json!({})),
        kubernetes("v1", "ServiceAccount", Value::Null),
    ]
}

fn odd() -> Vec<Value> {
    let deep = (0..100).fold(Value::Null, |inner, _| json!([{ "a": inner }]));
    vec![
        Value::Null,
        json!(true),
        json!(-1),
        json!(1e308),
        json!(u64::MAX),
        json!(""),
        json!("\u{0}é"),
        json!("x".repeat(5000)),
        json!("10.0.0.0/33"),
        json!("all() &&"),
        json!([]),
        json!({}),
        json!([null, {"": []}]),
        json!({"a": 1, "": null}),
        deep,
    ]
}

/// Every place in a value, as the path to it.
fn places(value: &Value) -> Vec<String> {
    fn walk(value: &Value, path: &str, places: &mut Vec<String>) {
        places.push(path.to_owned());
        let escaped = |key: &str| key.replace('~', "~0").replace('/', "~1");
        match value {
            Value::Object(fields) => {
                for (key, value) in fields {
                    walk(value, &format!("{path}/{}", escaped(key)), places);
                }
            }
            Value::Array(items) => {
                for (index, value) in items.iter().enumerate() {
                    walk(value, &format!("{path}/{index}"), places);
                }
            }
            _ => {}
        }
    }
    let mut places_ = Vec::new();
    walk(value, "", &mut places_);
    places_
}

/// All that is done with an object of a store or a manifest. Returns how long what came out is.
fn use_object(object: &Value) -> usize {
    let verdict = validate(object, None);
    let errors = verdict.errors.iter().map(|error| error.to_string().len()).sum::<usize>();
    if let Some(defaulted) = &verdict.defaulted {
        black_box(validate(object, Some(defaulted)));
    }
    let translation = translate(object);
    let faults = translation.faults.iter().map(|fault| fault.to_string().len()).sum::<usize>();
    let translated: usize = translation.objects.iter().map(|object| object.to_string().len()).sum();
    for kind in Kind::all() {
        let key = if kind.is_namespaced() {
            Key::namespaced(kind, "shop", "default.x")
        } else {
            Key::global(kind, "default.x")
        };
        black_box(decode(&key, &Stored::Json(object.clone())).is_ok());
    }
    errors + faults + translated
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_selector_is_read_or_refused_whatever_it_is(
        start in proptest::sample::select(&SELECTORS[..]),
        edits in vec(any::<Edit>(), 0..8),
        garbage in proptest::option::weighted(0.1, any::<String>()),
    ) {
        let text = garbage.unwrap_or_else(|| edited(start, &edits));
        match Selector::parse(&text) {
            // The canonical text has quotes, blanks and parentheses that the other may lack.
            Ok(selector) => {
                let canonical = use_selector(&text, &labels()).expect("it was read");
                prop_assert!(canonical.len() <= 8 * text.len() + 16, "{canonical}");
                prop_assert_eq!(Selector::parse(&canonical).map(|it| it.to_string()), Ok(canonical));
                drop(selector);
            }
            Err(error) => prop_assert!(error.to_string().len() <= 4 * text.len() + 1000),
        }
    }

    #[test]
    fn an_object_is_judged_whatever_is_in_it(
        start in any::<Index>(),
        changes in vec((any::<Index>(), any::<Index>(), any::<bool>()), 0..6),
    ) {
        let mut object = start.get(&objects()).clone();
        for (place, with, repeated) in &changes {
            let with = with.get(&odd()).clone();
            let path = place.get(&places(&object)).clone();
            let Some(at) = object.pointer_mut(&path) else { continue };
            *at = if *repeated { json!([at.clone(), at.clone(), with]) } else { with };
        }
        let length = object.to_string().len();
        let out = use_object(&object);
        prop_assert!(out <= 64 * length + 20_000, "{out} bytes of {length}");
    }

    #[test]
    fn bytes_of_a_store_are_an_object_or_an_invalid_one(
        start in any::<Index>(),
        flips in vec((any::<Index>(), any::<u8>()), 0..6),
        end in proptest::option::weighted(0.2, any::<Index>()),
    ) {
        let mut bytes = start.get(&objects()).to_string().into_bytes();
        for (at, byte) in flips {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(end) = end {
            bytes.truncate(end.index(bytes.len()));
        }
        let stored = Stored::from_bytes(&bytes);
        for kind in Kind::all() {
            let read = decode(&Key::global(kind, "x"), &stored);
            if matches!(stored, Stored::Raw(_)) {
                let error = read.expect_err("it is no JSON").to_string();
                prop_assert!(error.contains("not JSON") && error.len() < 500, "{error}");
            }
        }
        if let Stored::Json(object) = &stored {
            use_object(object);
        }
    }
}

/// The processor time of this thread.
fn processor() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("a clock of this thread").into()
}

/// The median of some measurements.
fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// How much longer the second takes, by medians of this thread's processor time in turns: what else runs on the machine
/// takes none of it, but caches, and so the least of some tries counts.
fn ratio(one: &dyn Fn(), two: &dyn Fn()) -> f64 {
    let timed = |run: &dyn Fn()| {
        let began = processor();
        run();
        processor().saturating_sub(began)
    };
    let attempt = || {
        let (mut ones, mut twos) = (Vec::new(), Vec::new());
        for _ in 0..7 {
            ones.push(timed(one));
            twos.push(timed(two));
        }
        median(twos).as_secs_f64() / median(ones).as_secs_f64().max(1e-5)
    };
    let mut least = f64::INFINITY;
    for _ in 0..5 {
        least = least.min(attempt());
        if least < LARGEST_RATIO {
            break;
        }
    }
    least
}

/// Twice the text may take so many times as long.
const LARGEST_RATIO: f64 = 2.5;

/// A text of about `length` bytes that goes on as `parts` begin.
fn scaled(parts: &[String], separator: &str, length: usize) -> String {
    let mut text = String::new();
    for part in parts.iter().cycle() {
        if text.len() + part.len() + separator.len() > length && !text.is_empty() {
            return text;
        }
        if !text.is_empty() {
            text.push_str(separator);
        }
        text.push_str(part);
        if part.is_empty() && separator.is_empty() {
            return text;
        }
    }
    text
}

fn assert_linear(class: &str, parts: &[String], separator: &str) {
    let [short, long] = [32, 64].map(|kilobytes| scaled(parts, separator, kilobytes * 1024));
    let labels = labels();
    let run = |text: &str| drop(black_box(use_selector(text, &labels)));
    let ratio = ratio(&|| run(&short), &|| run(&long));
    assert!(ratio < LARGEST_RATIO, "{class} joined by {separator:?}: {ratio}");
}

#[test]
fn the_time_that_a_selector_takes_grows_with_its_length_in_each_class() {
    let Some(folder) = golden::folder() else { return };
    let text = fs::read_to_string(folder.join("selectors.jsonl")).expect("selectors.jsonl");
    let mut classes: BTreeMap<String, [Vec<String>; 2]> = BTreeMap::new();
    for line in text.lines() {
        let case: Value = serde_json::from_str(line).expect("a case");
        let selector = case["selector"].as_str().expect("a selector").to_owned();
        let is_read = usize::from(case["ok"] == true);
        let class = case["class"].as_str().expect("a class").to_owned();
        classes.entry(class).or_default()[is_read].push(selector);
    }
    assert!(classes.len() > 10, "{}", classes.len());
    for (class, [refused, read]) in classes {
        for selectors in [refused, read] {
            if selectors.is_empty() {
                continue;
            }
            let grouped: Vec<_> = selectors.iter().map(|text| format!("({text})")).collect();
            assert_linear(&class, &grouped, " && ");
            assert_linear(&class, &grouped, " || ");
            assert_linear(&class, &selectors, " ");
        }
    }
}

#[test]
fn the_time_that_a_selector_takes_grows_with_its_length_in_each_direction() {
    let one = |part: &str| vec![part.to_owned()];
    for (part, separator) in [
        ("(", ""),
        ("!", ""),
        ("!(", ""),
        ("a", ""),
        ("'", ""),
        (" ", ""),
        ("has(", ""),
        ("a == 'b' && (", ""),
        ("a == 'b' || !(b == 'c' && ", ""),
    ] {
        assert_linear("open", &one(part), separator);
    }
    let wrapped = |open: &str, inner: &str, close: &str| {
        let of = |kilobytes: usize| {
            let times = kilobytes * 1024 / (open.len() + close.len()).max(1);
            format!("{}{inner}{}", open.repeat(times), close.repeat(times))
        };
        let (short, long, labels) = (of(32), of(64), labels());
        let run = |text: &str| drop(black_box(use_selector(text, &labels)));
        let ratio = ratio(&|| run(&short), &|| run(&long));
        assert!(ratio < LARGEST_RATIO, "{open}{inner}{close}: {ratio}");
    };
    wrapped("(", "a == 'b'", ")");
    wrapped("!(", "a == 'b'", ")");
    wrapped("(a == 'b' || ", "has(c)", ")");
    let set = |kilobytes: usize| {
        let values: Vec<_> = (0..kilobytes * 128).map(|n| format!("'{n:05}'")).collect();
        format!("a in {{{}}}", values.join(","))
    };
    let (short, long, labels) = (set(32), set(64), labels());
    let run = |text: &str| assert!(use_selector(text, &labels).is_some());
    let ratio = ratio(&|| run(&short), &|| run(&long));
    assert!(ratio < LARGEST_RATIO, "a long set: {ratio}");
}
