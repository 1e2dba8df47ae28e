//! The lab as a table for people: where its parts are, and whether they run.

use std::{collections::BTreeSet, fmt::Write as _, path::Path};

use super::{
    parts::{STORE, TYPHA, agent_name},
    plan::Node,
    processes, ready,
    state::Lab,
};

/// The text of `bulrush lab status`.
pub(crate) fn text(lab: &Lab, folder: &Path) -> String {
    let mut text = String::new();
    let mut line = |columns: [&str; 4]| {
        let [what, name, address, state] = columns;
        let row = format!("{what:6} {name:16} {address:40} {state}");
        let _ = writeln!(text, "{}", row.trim_end());
    };
    line(["KIND", "NAME", "ADDRESS", "STATE"]);
    let running = processes::of_parts(folder);
    let state = |name: &str| match (lab.part(name), running.get(name).and_then(BTreeSet::first)) {
        (None, _) => String::new(),
        (_, None) => "not running".to_owned(),
        (_, Some(pid)) => format!("running, pid {pid}"),
    };
    if !lab.parts.is_empty() {
        line(["part", STORE, &lab.store, &state(STORE)]);
    }
    let has_typha = lab.part(TYPHA).is_some();
    if has_typha {
        line(["part", TYPHA, &lab.typha_address(), &state(TYPHA)]);
    }
    let status = if has_typha { ready::status(lab.typha.status).ok() } else { None };
    let missing = |node: &Node| match &status {
        Some(status) => status.missing_of(node),
        None if has_typha || lab.parts.is_empty() => None,
        None => ready::missing_without_typha(node),
    };
    for node in &lab.plan.nodes {
        let addresses: Vec<String> = node.addresses.iter().map(ToString::to_string).collect();
        let mut state = state(&agent_name(&node.name));
        if let Some(missing) = missing(node) {
            let _ = write!(state, "; {missing}");
        }
        line(["node", &node.name, &addresses.join(" "), &state]);
    }
    for node in &lab.plan.nodes {
        for pod in &node.pods {
            let addresses: Vec<String> = pod.addresses.iter().map(ToString::to_string).collect();
            let about = format!("{}, role {}, {}", node.name, pod.role, pod.interface);
            line(["pod", &pod.path(), &addresses.join(" "), &about]);
        }
    }
    text
}
