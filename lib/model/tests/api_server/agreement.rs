//! Objects that we accept are accepted by the API server, and what only we refuse is listed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, thread,
};

use bulrush_model::{
    Kind,
    validate::{Verdict, crd, schemas, validate},
};
use proptest::{collection::vec, prelude::*, strategy::ValueTree, test_runner::TestRunner};
use serde_json::{Value, json};
use support::ApiServer;

use crate::{
    client::{Answer, Client},
    cluster,
    dice::{Dice, object_of_some_kind},
    golden, path,
};

/// How many random objects are judged.
const RANDOM: usize = 400;

/// Rules that an API server doesn't apply, each with the reason.
const ONLY_HERE: &[(&str, &str)] = &[
    (
        "must be a selector such as app == 'web' && has(tier)",
        "a pattern reads the words of a selector; parentheses and the length of a label are beyond it",
    ),
    (
        "must be a network without host bits such as 10.0.0.0/8",
        "CEL can compare a network with its masked form, but not so often as nets may stand in a policy",
    ),
    (
        "must be an address, or a network without host bits such as 10.0.0.0/8",
        "the same, of networks in lists without a limit",
    ),
    (
        "must be an IPv6 address, or an IPv6 network without host bits such as fd00::/8",
        "the same, of networks in lists without a limit",
    ),
    (
        "ports need protocol TCP, UDP or SCTP; names of ports may do without",
        "numbers are told from texts, but to tell ranges from names costs too much",
    ),
    (
        "an advertisement names communities of this configuration, or has values",
        "three lists without a limit, each in the other",
    ),
    ("must be a regular expression", "CEL can compile it, but not in a list without a limit"),
    (
        "must be labels: keys such as app or example.com/app, values of at most 63 of A-Z a-z 0-9 - _ . with a letter or digit at both ends",
        "labels in a list without a limit",
    ),
    (
        "must be annotations: keys such as example.com/purpose, and at most 262144 bytes in all",
        "annotations in each rule of a policy",
    ),
    (
        r"must match ^([0-9]+(\.[0-9]+)?(ms|s|m|h))*$",
        "durations with parts below a millisecond: what counts is their sum",
    ),
    ("must be from 0 to 2147483647", "AS numbers as texts"),
    (
        "projectcalico.org/namespace is the namespace itself, not a label of a set",
        "CEL doesn't see labels",
    ),
    (
        "an affinity isn't written as deleted",
        "people don't, and address management does, to delete it safely",
    ),
    (
        "must be a DNS name: a-z, 0-9, - and ., with a letter or digit at both ends of each part",
        "an API server makes a name from generateName",
    ),
];

/// An object to judge.
struct Case {
    id: String,
    kind: Kind,
    object: Value,
    old: Option<Value>,
}

/// What came out.
#[derive(Default)]
struct Outcome {
    agreed: usize,
    /// By the reason why only we refuse them, the objects.
    only_here: BTreeMap<&'static str, Vec<String>>,
    wrong: Vec<String>,
}

impl Case {
    fn new(id: &str, kind: Kind, object: &Value, old: Option<&Value>) -> Self {
        let mut case = Self { id: id.to_owned(), kind, object: object.clone(), old: old.cloned() };
        for object in [Some(&mut case.object), case.old.as_mut()].into_iter().flatten() {
            object["apiVersion"] = "projectcalico.org/v3".into();
            if let Some(meta) = object["metadata"].as_object_mut().filter(|_| kind.is_namespaced())
            {
                let namespace = meta.get("namespace").and_then(Value::as_str).unwrap_or_default();
                // The path has one in any case.
                if !is_plain(namespace) {
                    meta.insert("namespace".to_owned(), "default".into());
                }
            }
        }
        case
    }

    fn namespace(&self) -> &str {
        self.object["metadata"]["namespace"].as_str().filter(|it| is_plain(it)).unwrap_or("default")
    }

    /// Writes the object as a user would, without effect; none: what it replaces can't be there.
    fn ask(&self, client: &mut Client) -> Option<Answer> {
        let all = path(self.kind, self.namespace());
        let Some(old) = &self.old else {
            return Some(client.post(&format!("{all}?dryRun=All"), &self.object));
        };
        let (mut old, mut object) = (old.clone(), self.object.clone());
        if let Some(meta) = old["metadata"].as_object_mut() {
            meta.remove("resourceVersion");
        }
        let made = client.post(&all, &old);
        if !made.is_ok() {
            return None;
        }
        let one = format!("{all}/{}", old["metadata"]["name"].as_str().expect("a name"));
        for field in ["resourceVersion", "uid"] {
            object["metadata"][field] = made.body["metadata"][field].clone();
        }
        let answer = client.put(&format!("{one}?dryRun=All"), &object);
        assert!(client.delete(&one).is_ok());
        Some(answer)
    }

    fn judge(&self, client: &mut Client, outcome: &mut Outcome) {
        let ours = validate(&self.object, self.old.as_ref());
        let Some(theirs) = self.ask(client) else { return };
        let Self { id, object, .. } = self;
        match (verdict(&ours), theirs.is_ok()) {
            (Some(true), false) => {
                outcome.wrong.push(format!(
                    "{id}: fine here, but refused: {}\n  {object}",
                    theirs.message()
                ));
            }
            (Some(false), true) => {
                let why = ours.errors.iter().map(ToString::to_string).collect::<Vec<_>>();
                let is_of = |rule: &str| ours.errors.iter().any(|error| error.rule == rule);
                match ONLY_HERE.iter().find(|(rule, _)| is_of(rule)) {
                    Some((_, reason)) => {
                        outcome.only_here.entry(reason).or_default().push(id.clone());
                    }
                    None => outcome.wrong.push(format!("{id}: refused only here: {why:?}")),
                }
            }
            _ => outcome.agreed += 1,
        }
    }
}

fn is_plain(namespace: &str) -> bool {
    !namespace.is_empty()
        && namespace.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

/// Whether the object may be; none: only a write that repairs it may be, or only reading it.
fn verdict(ours: &Verdict) -> Option<bool> {
    let is_written = ours.defaulted.is_some();
    (ours.valid == is_written).then_some(is_written)
}

/// Judges all cases, on a few connections at once.
fn judge(server: &ApiServer, cases: &[Case]) -> Outcome {
    let mut client = Client::connect(server, "admin");
    let namespaces: BTreeSet<_> = cases.iter().map(Case::namespace).collect();
    for name in namespaces {
        let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        let answer = client.post("/api/v1/namespaces", &body);
        assert!(answer.is_ok() || answer.code == 409, "{answer:?}");
    }
    // Objects that replace others exist for a moment, so that they go one after the other.
    let (updates, creates): (Vec<_>, Vec<_>) = cases.iter().partition(|case| case.old.is_some());
    let mut outcomes = Vec::new();
    for (cases, workers) in [(creates, 4), (updates, 1)] {
        let parts = cases.chunks(cases.len().div_ceil(workers).max(1));
        outcomes.extend(thread::scope(|scope| {
            let work = |part: Vec<&Case>| {
                let mut client = Client::connect(server, "admin");
                let mut outcome = Outcome::default();
                for case in part {
                    case.judge(&mut client, &mut outcome);
                }
                outcome
            };
            let workers: Vec<_> =
                parts.map(|part| scope.spawn(move || work(part.to_vec()))).collect();
            let done = workers.into_iter().map(|worker| worker.join().expect("no panic"));
            done.collect::<Vec<_>>()
        }));
    }
    let mut all = Outcome::default();
    for outcome in outcomes {
        all.agreed += outcome.agreed;
        all.wrong.extend(outcome.wrong);
        for (reason, cases) in outcome.only_here {
            all.only_here.entry(reason).or_default().extend(cases);
        }
    }
    all
}

fn has_definition(kind: Kind) -> bool {
    schemas().any(|schema| schema.kind == kind && crd::definition(schema).is_some())
}

#[test]
fn golden_objects_are_judged_alike() {
    let Some(folder) = golden::folder() else { return };
    let Some(server) = cluster() else { return };
    let text = fs::read_to_string(folder.join("validation.jsonl")).expect("validation.jsonl");
    let mut cases = Vec::new();
    for line in text.lines() {
        let case: Value = serde_json::from_str(line).expect("a case");
        let kind: Kind = case["kind"].as_str().expect("a kind").parse().expect("a kind of ours");
        // An API server takes the kind from the path.
        if has_definition(kind) && case["object"]["kind"] == kind.name() {
            let id = case["id"].as_str().expect("an id");
            cases.push(Case::new(id, kind, &case["object"], case.get("old")));
        }
    }
    let outcome = judge(server, &cases);
    println!("{} of {} objects are judged alike", outcome.agreed, cases.len());
    for (reason, cases) in &outcome.only_here {
        println!("{} are refused only here: {reason}: {}", cases.len(), cases.join(" "));
    }
    for wrong in &outcome.wrong {
        println!("{wrong}");
    }
    assert!(outcome.wrong.is_empty(), "{} wrong", outcome.wrong.len());
    let idle = ONLY_HERE.iter().filter(|(_, reason)| !outcome.only_here.contains_key(reason));
    assert_eq!(idle.count(), 0, "something listed doesn't happen: {:?}", outcome.only_here);
}

/// The objects of `tests/fixtures/every-kind.jsonl`, as an API server has them.
fn fixture() -> Vec<Case> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fixtures/every-kind.jsonl");
    let text = fs::read_to_string(path).expect("a fixture");
    let mut cases = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let step: Value = serde_json::from_str(line).expect("a step");
        let key = step["key"].as_str().expect("a key");
        let mut object = step["value"].clone();
        let Some(fields) = object.as_object_mut() else { continue };
        let name = key.rsplit('/').next().unwrap_or_default().to_lowercase();
        let kind = if let Some(kind) = fields.get("kind") {
            kind.as_str().expect("a kind").parse().expect("a kind of ours")
        } else {
            // What address management keeps is flat in etcd.
            let kind = if key.contains("/handle/") {
                Kind::IPAMHandle
            } else if key.contains("/block/") && key.contains("/assignment/") {
                Kind::IPAMBlock
            } else {
                Kind::BlockAffinity
            };
            if kind == Kind::BlockAffinity {
                fields.insert("node".to_owned(), "a".into());
                fields.insert("cidr".to_owned(), name.replace('-', "/").into());
            }
            let name = name.replace([':', '.'], "-");
            object = json!({"kind": kind.name(), "metadata": {"name": name}, "spec": object});
            kind
        };
        if has_definition(kind) {
            cases.push(Case::new(&format!("line {}", index + 1), kind, &object, None));
        }
    }
    cases
}

#[test]
fn every_kind_of_the_fixture_is_judged_alike() {
    let Some(server) = cluster() else { return };
    let cases = fixture();
    let fine = cases.iter().filter(|case| verdict(&validate(&case.object, None)) == Some(true));
    assert!(fine.count() > 15);
    let outcome = judge(server, &cases);
    assert_eq!(outcome.wrong, Vec::<String>::new());
    assert_eq!(outcome.agreed, cases.len(), "{:?}", outcome.only_here);
}

/// Whether a list in the value has an item that is null.
fn has_null_item(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().any(|item| item.is_null() || has_null_item(item)),
        Value::Object(fields) => fields.values().any(has_null_item),
        _ => false,
    }
}

#[test]
fn random_objects_that_are_fine_here_are_fine_there() {
    let Some(server) = cluster() else { return };
    let mut runner = TestRunner::new(ProptestConfig::default());
    let mut cases = Vec::new();
    while cases.len() < RANDOM {
        let bytes = vec(any::<u8>(), 0..300).new_tree(&mut runner).expect("bytes").current();
        let mut object = object_of_some_kind(&mut Dice::new(&bytes));
        let kind: Kind = object["kind"].as_str().expect("a kind").parse().expect("a kind of ours");
        if !has_definition(kind) {
            continue;
        }
        // The rest of the metadata is the API server's own.
        let name = object["metadata"]["name"].as_str().unwrap_or("default").to_owned();
        object["metadata"] = json!({"name": name, "namespace": "a"});
        // It takes no null in a list.
        if !has_null_item(&object) && verdict(&validate(&object, None)) == Some(true) {
            cases.push(Case::new("random", kind, &object, None));
        }
    }
    let outcome = judge(server, &cases);
    assert_eq!(outcome.wrong, Vec::<String>::new());
}
