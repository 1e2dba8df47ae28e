//! When the lab is ready: typha has read the store, and every agent has all of it in its kernel. Without
//! typha the agents say it themselves.

use std::{
    io,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::bail;
use serde::Deserialize;

use super::{
    interrupt::Interrupt,
    network,
    parts::{Part, TYPHA, agent_name},
    plan::Node,
    processes,
    state::Lab,
};
use crate::http;

/// How long a lab may take, and what each node adds.
const PATIENCE: Duration = Duration::from_secs(30);
const PATIENCE_PER_NODE: Duration = Duration::from_millis(500);
/// Where an agent says in its namespace whether it is ready.
const AGENT_HEALTH: u16 = 9099;
/// How often it is looked at.
const PAUSE: Duration = Duration::from_millis(50);

/// What we need of typha's status.
#[derive(Debug, Deserialize)]
pub(crate) struct Status {
    in_sync: bool,
    not_in_sync: Option<String>,
    stale_milliseconds: u64,
    publication: u64,
    agents: Vec<Agent>,
}

#[derive(Debug, Deserialize)]
struct Agent {
    node: String,
    observer: bool,
    sent: u64,
    current: bool,
    endpoints_up: usize,
    endpoints: usize,
    failed: Vec<String>,
}

/// Asks typha.
pub(crate) fn status(port: u16) -> io::Result<Status> {
    let (_, body) = get(port, "/api/v1/status")?;
    serde_json::from_str(&body).map_err(io::Error::from)
}

/// A page of this machine, or of the namespace that the thread is in: its code, and what it says.
fn get(port: u16, path: &str) -> io::Result<(u16, String)> {
    http::get(&format!("127.0.0.1:{port}"), path)
}

/// What is missing until the lab is ready, for people; none: nothing.
pub(crate) fn missing(lab: &Lab) -> Option<String> {
    if lab.part(TYPHA).is_none() {
        return lab.plan.nodes.iter().find_map(missing_without_typha);
    }
    match status(lab.typha.status) {
        Ok(status) => status.missing(&lab.plan.nodes),
        Err(error) => Some(format!("typha doesn't answer: {error}")),
    }
}

/// What is missing until this node's agent is ready, by its own word.
pub(crate) fn missing_without_typha(node: &Node) -> Option<String> {
    let name = &node.name;
    match network::inside(&node.netns, || get(AGENT_HEALTH, "/readiness")) {
        Ok((200, _)) => None,
        Ok((_, why)) => Some(format!("{name}'s agent isn't ready: {}", why.trim())),
        Err(error) => Some(format!("{name}'s agent doesn't answer: {error}")),
    }
}

impl Status {
    /// What is missing until the lab is ready, for people; none: nothing.
    pub(crate) fn missing(&self, nodes: &[Node]) -> Option<String> {
        if !self.in_sync {
            let why = self.not_in_sync.as_deref().unwrap_or("it doesn't say why");
            return Some(format!("typha isn't in sync: {why}"));
        }
        if self.stale_milliseconds > 0 {
            return Some("typha has no connection to the store".to_owned());
        }
        let waiting: Vec<String> = nodes.iter().filter_map(|node| self.missing_of(node)).collect();
        let first = waiting.first()?;
        Some(format!(
            "{} of {} agents are ready; {first}",
            nodes.len() - waiting.len(),
            nodes.len()
        ))
    }

    /// What is missing until this node's agent is ready.
    pub(crate) fn missing_of(&self, node: &Node) -> Option<String> {
        let name = &node.name;
        let mut sessions =
            self.agents.iter().filter(|agent| !agent.observer && agent.node == *name);
        let Some(agent) = sessions.next() else {
            return Some(format!("{name}'s agent isn't connected"));
        };
        if let Some(failure) = agent.failed.first() {
            return Some(format!("{name}'s agent failed: {failure}"));
        }
        if !agent.current || agent.sent < self.publication {
            return Some(format!(
                "{name}'s agent hasn't acknowledged publication {}",
                self.publication
            ));
        }
        if agent.endpoints != node.pods.len() || agent.endpoints_up != node.pods.len() {
            let (up, pods) = (agent.endpoints_up, node.pods.len());
            return Some(format!("{name}'s agent reports {up} of {pods} endpoints up"));
        }
        None
    }
}

/// Waits until all is ready, with progress on stderr.
pub(crate) fn wait(lab: &Lab, folder: &Path, interrupt: &Interrupt) -> anyhow::Result<()> {
    let nodes = lab.plan.nodes.len() as u32;
    let deadline = Instant::now() + PATIENCE + PATIENCE_PER_NODE * nodes;
    let mut shown = String::new();
    loop {
        interrupt.check()?;
        let Some(missing) = missing(lab) else { return Ok(()) };
        if missing != shown {
            eprintln!("waiting: {missing}");
            shown.clone_from(&missing);
        }
        let running = processes::of_parts(folder);
        let ended = lab.parts.iter().find(|part| !running.contains_key(&part.name));
        if let Some(part) = ended {
            bail!("{} ended by itself; {}", part.name, part.last_words(folder));
        }
        if Instant::now() > deadline {
            let words = culprit(lab, &missing).map(|part| part.last_words(folder));
            bail!("the lab doesn't get ready: {missing}; {}", words.unwrap_or_default());
        }
        std::thread::sleep(PAUSE);
    }
}

/// The part whose log may tell why: the agent that is named, or typha.
fn culprit<'a>(lab: &'a Lab, missing: &str) -> Option<&'a Part> {
    let named = lab.plan.nodes.iter().find(|node| missing.contains(&format!("{}'s", node.name)));
    let name = named.map_or_else(|| TYPHA.to_owned(), |node| agent_name(&node.name));
    lab.part(&name)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::lab::plan::{Encap, Plan, Shape};

    fn missing(change: impl Fn(&mut serde_json::Value)) -> Option<String> {
        let shape = Shape { nodes: 2, pods: 2, encap: Encap::Vxlan, ipv6: false };
        let plan = Plan::new("lab", 0, shape, "seed");
        let agent = |node: &str| {
            json!({
                "node": node, "observer": false, "sent": 7, "acked": 7, "current": true,
                "endpoints_up": 2, "endpoints": 2, "failed": [],
            })
        };
        let mut status = json!({
            "in_sync": true, "not_in_sync": null, "stale_milliseconds": 0, "publication": 7,
            "agents": [agent("node-1"), agent("node-2")],
        });
        change(&mut status);
        let status: Status = serde_json::from_value(status).expect("a status");
        status.missing(&plan.nodes)
    }

    #[test]
    fn a_lab_is_ready_when_every_agent_has_acknowledged_everything() {
        assert_eq!(missing(|_| ()), None);
        for (change, expected) in [
            (
                json!({"acked": 6, "current": false}),
                "node-2's agent hasn't acknowledged publication 7",
            ),
            (json!({"sent": 6}), "node-2's agent hasn't acknowledged publication 7"),
            (json!({"endpoints_up": 1}), "node-2's agent reports 1 of 2 endpoints up"),
            (
                json!({"endpoints": 0, "endpoints_up": 0}),
                "node-2's agent reports 0 of 2 endpoints up",
            ),
            (json!({"failed": ["plist a: no"]}), "node-2's agent failed: plist a: no"),
            (json!({"observer": true}), "node-2's agent isn't connected"),
        ] {
            let said = missing(|status| {
                for (field, value) in change.as_object().expect("fields") {
                    status["agents"][1][field] = value.clone();
                }
            });
            assert_eq!(said, Some(format!("1 of 2 agents are ready; {expected}")));
        }
        let said = missing(|status| status["stale_milliseconds"] = 3.into());
        assert_eq!(said.as_deref(), Some("typha has no connection to the store"));
    }
}
