//! The lab as a table for people: where its parts are, and whether they run.

use std::{collections::BTreeSet, fmt::Write as _, path::Path};

use super::{
    parts::{STORE, TYPHA, agent_name},
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
    let status = ready::status(lab.typha.status).ok();
    let running = processes::of_parts(folder);
    let state = |name: &str| match (lab.part(name), running.get(name).and_then(BTreeSet::first)) {
        (None, _) => String::new(),
        (_, None) => "not running".to_owned(),
        (_, Some(pid)) => format!("running, pid {pid}"),
    };
    if !lab.parts.is_empty() {
        line(["part", STORE, &lab.store, &state(STORE)]);
        line(["part", TYPHA, &lab.typha_address(), &state(TYPHA)]);
    }
    for node in &lab.plan.nodes {
        let addresses: Vec<String> = node.addresses.iter().map(ToString::to_string).collect();
        let mut state = state(&agent_name(&node.name));
        let missing = status.as_ref().and_then(|status| status.missing_of(node));
        if let (Some(missing), false) = (missing, lab.parts.is_empty()) {
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
