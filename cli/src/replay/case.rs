//! What is replayed: a case with steps, or a record of a store's events.

use std::{collections::BTreeMap, fs, path::Path};

use anyhow::{Context as _, bail};
use datastore::{Feed, etcdv3::keys, record};
use engine::{Engine, Options};
use model::{Key, Kind, Stored, StreamIndex, Update};
use serde::Deserialize;
use serde_json::Value;

use super::{parameters::Parameters, state};

/// A cluster in steps.
#[derive(Deserialize)]
struct Case {
    /// Parameters of Felix, as from its environment.
    #[serde(default)]
    config: BTreeMap<String, String>,
    steps: Vec<Step>,
    /// The steps after which states are asked for, from 1; none: the last one.
    #[serde(default)]
    expected_after: Option<Vec<usize>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Step {
    put: Vec<Put>,
    delete: Vec<String>,
}

#[derive(Deserialize)]
struct Put {
    key: String,
    #[serde(default)]
    value: Option<Value>,
    #[serde(default)]
    raw: Option<String>,
}

/// The states of a node after each step that is asked for; of a record, its last state.
pub(crate) fn run(path: &Path, node: &str) -> anyhow::Result<Vec<Value>> {
    let read = || format!("{}: can't be read", path.display());
    let text = fs::read_to_string(path).with_context(read)?;
    let is_case =
        serde_json::from_str::<Value>(&text).is_ok_and(|value| value.get("steps").is_some());
    if is_case {
        let case: Case =
            serde_json::from_str(&text).with_context(|| format!("{}: no case", path.display()))?;
        return Ok(run_case(&case, node));
    }
    run_record(&text, node).with_context(|| path.display().to_string())
}

fn engine() -> Engine {
    // A store of this form holds no services: no rule that names one means any address.
    Engine::new(Options { plist_id: proto::plist_id }).keep_objects().with_services()
}

fn run_case(case: &Case, node: &str) -> Vec<Value> {
    let last = [case.steps.len()];
    let asked = case.expected_after.as_deref().unwrap_or(&last);
    let mut engine = engine();
    let mut states = Vec::new();
    for (index, step) in case.steps.iter().enumerate() {
        for put in &step.put {
            let value = match (&put.value, &put.raw) {
                (_, Some(raw)) => Stored::from_bytes(raw.as_bytes()),
                (value, None) => Stored::Json(value.clone().unwrap_or_default()),
            };
            apply(&mut engine, &put.key, Some(value));
        }
        for key in &step.delete {
            apply(&mut engine, key, None);
        }
        engine.flush();
        if asked.contains(&(index + 1)) {
            let parameters = Parameters::of(&engine, node, &case.config);
            states.push(state::of(&engine, node, &parameters));
        }
    }
    warn_of_stranger(&engine, node);
    states
}

/// The state of a node that isn't there is no error, and yet nobody asks for it.
fn warn_of_stranger(engine: &Engine, node: &str) {
    let key = Key::global(Kind::Node, node);
    if engine.object(&key).is_none() && engine.endpoints(node).is_empty() {
        eprintln!("warning: at the end there is no node {node:?}, and no endpoint on it");
    }
}

fn apply(engine: &mut Engine, path: &str, value: Option<Stored>) {
    // What nothing watches has no key.
    let Some(key) = keys::key(path.as_bytes()) else { return };
    engine.apply(&Update { stream: StreamIndex(0), key, value, version: 0 });
}

fn run_record(text: &str, node: &str) -> anyhow::Result<Vec<Value>> {
    let mut replay = record::Replay::new();
    let mut engine = engine();
    let mut feeds = 0;
    // Who wrote it may have been killed in the middle of a line, or be writing it now.
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    let (lines, rest) = text.split_at(whole);
    let is_torn = whole > 0 && serde_json::from_str::<Value>(rest).is_err();
    for line in lines.lines().chain((!is_torn).then_some(rest)) {
        let Some((_, feed)) = replay.line(line)? else { continue };
        feeds += 1;
        if let Feed::Changes { updates, .. } = feed {
            for update in &updates {
                engine.apply(update);
            }
        }
    }
    if feeds == 0 {
        bail!("neither a case (one JSON object with steps) nor a record (a line for each event)");
    }
    if is_torn && !rest.trim().is_empty() {
        eprintln!("warning: the last line of the recording is cut off, and left out: {rest:.60}");
    }
    engine.flush();
    warn_of_stranger(&engine, node);
    let parameters = Parameters::of(&engine, node, &BTreeMap::new());
    Ok(vec![state::of(&engine, node, &parameters)])
}
