//! `bulrush rollout`: on how many nodes a change is enforced.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    process::ExitCode,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use clap::{Subcommand, ValueEnum};
use model::{Key, Kind, Stored};
use serde_json::Value;
use typha::{NodeRollout, NodeState, ObjectRollout, Presence, RolloutSummary};

use crate::{
    http,
    resource::{called, kinds},
    stale,
    store::StoreArgs,
};

/// How often typha is asked while one waits.
const PAUSE: Duration = Duration::from_millis(200);
/// So many nodes are named of each kind that isn't enforced.
const NAMED: usize = 10;

/// See on how many nodes a change is enforced
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    Status(Status),
}

/// Say how far the last change of an object has come: what agents acknowledge is in their kernel
///
/// Exits with 0 when it is enforced on every node, else with 1. Of a policy that was deleted it says from how many nodes
/// it is gone. Where the store is known too, a typha that has not read the newest change yet is told apart from one that
/// has brought it to all nodes.
#[derive(clap::Args)]
struct Status {
    /// Which object; of kinds with namespaces also KIND/NAMESPACE/NAME
    #[arg(value_name = "KIND/NAME")]
    object: String,

    /// The namespace of the object
    #[arg(short = 'n', long, default_value = "default")]
    namespace: String,

    /// The status addresses of all typhas, separated by commas; as pages, with http://, too
    #[arg(long, value_name = "HOST:PORT", value_delimiter = ',', default_value = "127.0.0.1:9095")]
    server: Vec<String>,

    /// Wait until it is enforced on every node, or failed on one
    #[arg(long)]
    wait: bool,

    /// The longest wait
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = runtime::duration)]
    timeout: Duration,

    /// The format
    #[arg(short = 'o', long, value_enum, default_value_t = Output::Text)]
    output: Output,

    #[command(flatten)]
    store: StoreArgs,
}

/// What typhas say.
#[derive(Default)]
struct Heard {
    answers: Vec<ObjectRollout>,
    /// What went wrong with those that don't answer.
    silent: Vec<String>,
    /// How long each of those that answer has been without its store.
    stale: Vec<(String, u64)>,
}

/// What the store has of the object.
#[derive(Clone, Debug, PartialEq)]
enum Wanted {
    /// The store isn't asked, or typha reads a part of the object only.
    Unknown,
    /// It has an object with this spec.
    Spec(Value),
    /// It has no such object.
    Gone,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    /// For people
    Text,
    /// One object
    Json,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let Action::Status(status) = self.action;
        status.run()
    }
}

impl Status {
    fn run(self) -> anyhow::Result<ExitCode> {
        let key = self.key()?;
        let wanted = runtime::block_on(self.wanted(&key))?;
        let end = Instant::now() + self.timeout;
        let (rollout, heard) = loop {
            let is_last = !self.wait || Instant::now() >= end;
            match self.ask(&key) {
                Ok(heard) if nobody_knows(&heard.answers) => {
                    // What isn't there yet may come, if the store has it.
                    if is_last || wanted == Wanted::Gone {
                        heard.warn();
                        bail!(unheard_of(&key));
                    }
                }
                Ok(heard) => {
                    let rollout = merged(&heard.answers, &wanted);
                    if is_last || is_over(&rollout) {
                        break (rollout, heard);
                    }
                }
                Err(error) if is_last => return Err(error),
                Err(_) => {}
            }
            thread::sleep(PAUSE);
        };
        if key.kind.name().starts_with("Staged") {
            eprintln!("warning: a staged policy is enforced nowhere: agents have the change, and do nothing by it");
        }
        heard.warn();
        let text = match self.output {
            Output::Text => text(&rollout, &key),
            Output::Json => format!("{}\n", serde_json::to_string(&rollout)?),
        };
        super::answer(&text)?;
        Ok(if is_enforced(&rollout) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn key(&self) -> anyhow::Result<Key> {
        let example = "write for example networkpolicy/web -n shop, or np/shop/web";
        let Some((kind, name)) = self.object.split_once('/') else {
            bail!("{:?} must be a kind and a name; {example}", self.object);
        };
        let kind = kinds::parse(kind).map_err(anyhow::Error::msg)?;
        let (given, name) = match name.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, name),
        };
        let namespace = given.unwrap_or(&self.namespace);
        if let Some(given) = given.filter(|_| !kind.is_namespaced()) {
            bail!("{kind} has no namespaces; leave out {given:?}: {kind}/{name}");
        }
        if name.is_empty() || name.contains('/') {
            bail!("{:?} must be a kind and a name; {example}", self.object);
        }
        Ok(if kind.is_namespaced() {
            Key::namespaced(kind, namespace, name)
        } else {
            Key::global(kind, name)
        })
    }

    async fn wanted(&self, key: &Key) -> anyhow::Result<Wanted> {
        let is_read_whole =
            !matches!(key.kind, Kind::Node | Kind::Profile | Kind::WorkloadEndpoint);
        let Some(store) = self.store.connect_if_given().await? else { return Ok(Wanted::Unknown) };
        Ok(match store.get(key).await?.map(|item| item.value) {
            Some(Stored::Json(mut object)) if is_read_whole => Wanted::Spec(object["spec"].take()),
            Some(_) => Wanted::Unknown,
            None => Wanted::Gone,
        })
    }

    /// Asks every typha. One that can't be asked knows of no node: what went wrong with it is behind what the others
    /// say.
    fn ask(&self, key: &Key) -> anyhow::Result<Heard> {
        let path = format!(
            "/api/v1/rollout?kind={}&namespace={}&name={}&deleted=true",
            key.kind, key.namespace, key.name
        );
        let mut heard = Heard::default();
        for server in &self.server {
            let server = server.trim_start_matches("http://").trim_end_matches('/');
            match http::get(server, &path) {
                Ok((200, body)) => {
                    let answer: ObjectRollout = serde_json::from_str(&body)
                        .with_context(|| format!("typha at {server}: its answer can't be read"))?;
                    heard.stale.push((server.to_owned(), answer.stale_milliseconds));
                    heard.answers.push(answer);
                }
                Ok((code, body)) => {
                    heard.silent.push(format!("typha at {server}: {} ({code})", body.trim()));
                }
                Err(error) => {
                    heard.silent.push(format!(
                        "typha at {server}: {error}; give the address of its status page with --server"
                    ));
                }
            }
        }
        match (heard.answers.is_empty(), heard.silent.last()) {
            (true, Some(error)) => bail!(error.clone()),
            _ => Ok(heard),
        }
    }
}

impl Heard {
    fn warn(&self) {
        for error in &self.silent {
            eprintln!("warning: {error}; what only it knows is missing here");
        }
        for (server, stale_milliseconds) in &self.stale {
            stale::warn(server, *stale_milliseconds);
        }
    }
}

/// Whether each typha says that the store has no such object, and none has seen it go.
fn nobody_knows(answers: &[ObjectRollout]) -> bool {
    answers.iter().all(|answer| answer.presence == Presence::Absent)
}

fn unheard_of(key: &Key) -> String {
    let what = called(key);
    if typha::is_policy(key) {
        format!(
            "{what} is not in the store, and no typha remembers that it was deleted: it never was there under this \
             name, or {} other policies have changed since it was deleted, or typha has started since",
            typha::REMEMBERED
        )
    } else {
        format!("{what} is not in the store; deletions are remembered only of policies that agents enforce")
    }
}

/// What several typhas know together. Those that have read an older object, or another than is `wanted`, know of no node
/// that has the newest.
fn merged(answers: &[ObjectRollout], wanted: &Wanted) -> RolloutSummary {
    // Whether one remembers the deletion is no matter of the object.
    let content = |answer: &ObjectRollout| {
        (answer.presence == Presence::There).then(|| answer.content.clone())
    };
    // By the store, or else by the one that has read most of it.
    let current = match wanted {
        Wanted::Gone => None,
        _ => answers.iter().max_by_key(|answer| answer.version).and_then(content),
    };
    let is_wanted = match wanted {
        Wanted::Unknown | Wanted::Gone => true,
        Wanted::Spec(wanted) => {
            let read = current.as_deref().and_then(|json| serde_json::from_str::<Value>(json).ok());
            read.is_some_and(|read| read["spec"] == *wanted)
        }
    };
    let is_deleted = current.is_none() && is_wanted;
    let mut nodes: BTreeMap<String, NodeRollout> = BTreeMap::new();
    for answer in answers {
        let is_current = is_wanted && content(answer) == current;
        for (name, node) in &answer.nodes {
            let mut node = node.clone();
            if !is_current {
                node = NodeRollout { state: node.state.min(NodeState::Pending), milliseconds: None, ..node };
            }
            match nodes.get_mut(name) {
                Some(known) if known.state >= node.state => known.uses |= node.uses,
                Some(known) => *known = NodeRollout { uses: known.uses | node.uses, ..node },
                None => drop(nodes.insert(name.clone(), node)),
            }
        }
    }
    RolloutSummary::of(&nodes, is_deleted)
}

/// Whether all nodes have it.
fn is_enforced(rollout: &RolloutSummary) -> bool {
    rollout.failed.is_empty() && rollout.pending.is_empty() && rollout.unknown.is_empty()
}

/// Whether waiting changes nothing any more.
fn is_over(rollout: &RolloutSummary) -> bool {
    !rollout.failed.is_empty() || is_enforced(rollout)
}

fn text(rollout: &RolloutSummary, key: &Key) -> String {
    let of = rollout.enforced + rollout.failed.len() + rollout.pending.len() + rollout.unknown.len();
    // Writing to a String doesn't fail.
    let (what, enforced) = (called(key), rollout.enforced);
    let (is_at, use_it, change) = if rollout.deleted {
        ("deleted; gone from", "used it", "deletion")
    } else {
        ("enforced on", "use it", "change")
    };
    let mut text = format!("{what}: {is_at} {enforced} of {of} nodes");
    if rollout.uses < of {
        let _ = write!(text, ", {} of which {use_it}", rollout.uses);
    }
    if let (Some(p50), Some(p99)) = (rollout.p50_ms, rollout.p99_ms) {
        let _ = write!(text, "; p50 {p50} ms, p99 {p99} ms since the {change}");
    }
    text.push('\n');
    for (node, reason) in rollout.failed.iter().take(NAMED) {
        let _ = writeln!(text, "failed on {node}: {reason}");
    }
    for (what, nodes) in [("pending", &rollout.pending), ("unknown", &rollout.unknown)] {
        if nodes.is_empty() {
            continue;
        }
        let more = nodes.len().saturating_sub(NAMED);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let named: Vec<&str> = nodes.iter().take(NAMED).map(String::as_str).collect();
        let _ = writeln!(text, "{what}: {}{more}", named.join(", "));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(state: NodeState, milliseconds: Option<u64>) -> NodeRollout {
        let reason = (state == NodeState::Failed).then(|| "no such set".to_owned());
        NodeRollout { uses: milliseconds.is_some(), state, reason, milliseconds }
    }

    fn answer(version: u64, content: &str, nodes: &[(&str, NodeRollout)]) -> ObjectRollout {
        let nodes = nodes.iter().map(|(name, node)| ((*name).to_owned(), node.clone())).collect();
        ObjectRollout {
            presence: Presence::There,
            publication: 1,
            observed_at_ms: None,
            version,
            stale_milliseconds: 0,
            content: content.to_owned(),
            nodes,
        }
    }

    fn gone(presence: Presence, version: u64, nodes: &[(&str, NodeRollout)]) -> ObjectRollout {
        ObjectRollout { presence, ..answer(version, "", nodes) }
    }

    #[test]
    fn several_typhas_know_together_what_each_knows_of_its_agents() {
        use NodeState::{Enforced, Failed, Pending, Unknown};
        let one = answer(
            7,
            "new",
            &[
                ("a", node(Enforced, Some(10))),
                ("b", node(Unknown, None)),
                ("c", node(Pending, None)),
                ("d", node(Unknown, None)),
            ],
        );
        let other = answer(
            6,
            "new",
            &[
                ("a", node(Unknown, None)),
                ("b", node(Failed, Some(30))),
                ("c", node(Unknown, None)),
                ("d", node(Unknown, None)),
            ],
        );
        let rollout = merged(&[one, other.clone()], &Wanted::Unknown);
        assert_eq!(
            (rollout.enforced, rollout.failed.len(), rollout.uses),
            (1, 1, 2),
            "{rollout:?}"
        );
        assert_eq!((rollout.pending, rollout.unknown), (vec!["c".into()], vec!["d".into()]));
        assert_eq!((rollout.p50_ms, rollout.p99_ms), (Some(10), Some(30)));

        // What a typha says of an older object is no word on the new one.
        let newer = answer(9, "newer", &[("a", node(Unknown, None))]);
        let older = answer(8, "new", &[("a", node(Enforced, Some(1)))]);
        let rollout = merged(&[newer, older, other.clone()], &Wanted::Unknown);
        assert_eq!(rollout.enforced, 0, "{rollout:?}");
        assert!(!is_over(&rollout));

        // And none of them may have read what the store has.
        let read = answer(9, r#"{"spec": {"order": 1}}"#, &[("a", node(Enforced, Some(1)))]);
        let spec = |order: u32| Wanted::Spec(serde_json::json!({"order": order}));
        assert!(is_enforced(&merged(std::slice::from_ref(&read), &spec(1))));
        assert_eq!(merged(&[read], &spec(2)).pending, ["a"]);
    }

    #[test]
    fn an_object_is_gone_from_a_node_when_a_typha_that_has_seen_it_go_says_so() {
        use NodeState::{Enforced, Unknown};
        let key = Key::namespaced(Kind::NetworkPolicy, "shop", "web");
        let said = |answers: &[&ObjectRollout], wanted: &Wanted| {
            let answers: Vec<ObjectRollout> = answers.iter().map(|it| (*it).clone()).collect();
            text(&merged(&answers, wanted), &key)
        };
        let saw = gone(
            Presence::Deleted,
            7,
            &[("a", node(Enforced, Some(10))), ("b", node(Unknown, None))],
        );
        let behind = answer(6, "{}", &[("a", node(Unknown, None)), ("b", node(Enforced, Some(1)))]);
        let pending = "NetworkPolicy(shop/web): deleted; gone from 1 of 2 nodes; \
                       p50 10 ms, p99 10 ms since the deletion\npending: b\n";
        assert_eq!(said(&[&saw, &behind], &Wanted::Unknown), pending);
        assert_eq!(said(&[&behind, &saw], &Wanted::Gone), pending);

        // One that has started since doesn't know when it went, but does know who is without it. What it has read it
        // counts by the objects that are left.
        let started = gone(Presence::Absent, 5, &[("b", node(Enforced, None))]);
        let all = merged(&[saw.clone(), started.clone()], &Wanted::Unknown);
        assert!(all.deleted && is_enforced(&all), "{all:?}");
        assert!(nobody_knows(std::slice::from_ref(&started)) && !nobody_knows(&[saw, started.clone()]));

        // The store's word counts, whatever typhas have read.
        let has = answer(6, "{}", &[("a", node(Enforced, Some(1)))]);
        assert_eq!(
            said(&[&has], &Wanted::Gone),
            "NetworkPolicy(shop/web): deleted; gone from 0 of 1 nodes\npending: a\n"
        );
        let mixed = merged(&[has.clone(), started], &Wanted::Gone);
        assert_eq!((mixed.enforced, &*mixed.pending), (1, &["a".to_owned()][..]));
        // One that is made again is there, and a typha that hasn't seen that is behind.
        let gone = gone(Presence::Deleted, 9, &[("a", node(Enforced, Some(1)))]);
        let made = Wanted::Spec(serde_json::json!({}));
        assert_eq!(
            said(&[&gone], &made),
            "NetworkPolicy(shop/web): enforced on 0 of 1 nodes\npending: a\n"
        );
    }

    #[test]
    fn answers_of_a_typha_that_knows_no_deletions_are_read() {
        let older = r#"{"publication":4,"observed_at_ms":null,"version":9,"content":"{}",
            "nodes":{"a":{"uses":true,"state":"enforced"}}}"#;
        let answer: ObjectRollout = serde_json::from_str(older).unwrap();
        let rollout = merged(&[answer], &Wanted::Unknown);
        assert!(is_enforced(&rollout) && !rollout.deleted);
    }

    #[test]
    fn nodes_that_are_not_there_yet_are_named_but_not_all_of_many() {
        let nodes: Vec<(String, NodeRollout)> = (0..12)
            .map(|index| (format!("n{index:02}"), node(NodeState::Pending, None)))
            .chain([("x".to_owned(), node(NodeState::Failed, Some(5)))])
            .collect();
        let answer = ObjectRollout { nodes: nodes.into_iter().collect(), ..answer(1, "", &[]) };
        let key = Key::namespaced(model::Kind::NetworkPolicy, "shop", "web");
        assert_eq!(
            text(&merged(&[answer], &Wanted::Unknown), &key),
            "NetworkPolicy(shop/web): enforced on 0 of 13 nodes, 1 of which use it; p50 5 ms, p99 5 ms since the change\n\
             failed on x: no such set\n\
             pending: n00, n01, n02, n03, n04, n05, n06, n07, n08, n09 and 2 more\n"
        );
    }
}
