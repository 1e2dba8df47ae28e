//! Objects that we accept are accepted by the API server, and what only we refuse is listed.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, thread,
};

use bulrush_model::{
    Kind,
    validate::{Verdict, crd, schemas, validate},
};
use serde_json::{Value, json};
use support::ApiServer;

use crate::{
    client::{Answer, Client},
    cluster, golden, path,
};

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
    /// By the rule that only we apply: the objects and what we said of them.
    ours_only: BTreeMap<String, Vec<String>>,
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
                for error in &ours.errors {
                    let listed = outcome.ours_only.entry(error.rule.clone()).or_default();
                    listed.push(format!("{id} {error}"));
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
        for (rule, cases) in outcome.ours_only {
            all.ours_only.entry(rule).or_default().extend(cases);
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
    println!("{} of {} objects agree", outcome.agreed, cases.len());
    for (rule, cases) in &outcome.ours_only {
        println!("{} are refused only here: {rule}", cases.len());
        for case in cases {
            println!("    {case}");
        }
    }
    for wrong in &outcome.wrong {
        println!("{wrong}");
    }
    assert!(outcome.wrong.is_empty(), "{} wrong", outcome.wrong.len());
}
