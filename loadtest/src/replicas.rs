//! Two servers that have read the store equally far must say the same of each node.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use client::{Connection, StreamError};
use proto::v1::{AgentHello, Digest, View as WireView, server_message::Message};
use tokio::time::timeout;

use crate::{
    churn::View,
    fleet::Fleet,
    judge::{Fault, Kind},
    world::node_name,
};

/// So many nodes are looked at.
const NODES: u32 = 10;
/// A server answers in this time.
const ANSWER: Duration = Duration::from_mins(1);

/// A server's digests of what a node gets, and at which version of the store.
type Said = (u64, BTreeMap<String, Digest>);

/// Compares what the servers say of some nodes; whatever differs at the same version is an error.
pub(crate) async fn compare(
    servers: &[SocketAddr],
    fleet: &Fleet,
    view: View,
    nodes: u32,
) -> anyhow::Result<()> {
    let some = match view {
        View::Node => NODES.min(nodes),
        View::Full => 1,
    };
    for node in (0..some).map(|n| node_name(n * (nodes / some))) {
        let mut first = None;
        for server in servers {
            let said = timeout(ANSWER, said(*server, &node, view)).await??;
            let Some(first) = &first else {
                first = Some(said);
                continue;
            };
            if let Some(topic) = differs(first, &said) {
                let text = format!("{server} and {} say different things of {topic}", servers[0]);
                fleet.found().fault(&node, &Fault { kind: Kind::Digest, text });
            }
        }
    }
    Ok(())
}

/// A topic of which two servers say different things at the same version.
fn differs<'a>((version, one): &'a Said, (same, other): &'a Said) -> Option<&'a str> {
    let topic = |topic: &&String| one.get(*topic) != other.get(*topic);
    let topics = || one.keys().chain(other.keys()).find(topic).map(String::as_str);
    (version == same).then(topics).flatten()
}

async fn said(server: SocketAddr, node: &str, view: View) -> Result<Said, StreamError> {
    let view = match view {
        View::Node => WireView::Node,
        View::Full => WireView::Full,
    };
    let hello = AgentHello {
        node: node.into(),
        view: view.into(),
        observer: true,
        version: env!("CARGO_PKG_VERSION").into(),
        ..AgentHello::default()
    };
    let mut connection = Connection::open(&server.to_string(), hello).await?;
    let mut digests = BTreeMap::new();
    loop {
        match connection.message().await?.message {
            Some(Message::Replace(replace)) if replace.last => {
                digests.insert(replace.topic, replace.digest_after.unwrap_or_default());
            }
            Some(Message::Delta(delta)) => {
                digests.insert(delta.topic, delta.digest_after.unwrap_or_default());
            }
            Some(Message::Commit(commit)) => {
                let version = commit.vector.iter().find(|one| one.stream == 0);
                return Ok((version.map_or(0, |one| one.version), digests));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(version: u64, topics: &[(&str, u64)]) -> Said {
        let digest = |count| Digest { sum: vec![1; 16], count };
        let topics = topics.iter().map(|(topic, count)| ((*topic).to_owned(), digest(*count)));
        (version, topics.collect())
    }

    #[test]
    fn servers_differ_at_the_same_version_only_and_in_topics_that_one_lacks_too() {
        let one = said(5, &[("a", 1), ("b", 2)]);
        assert_eq!(differs(&one, &one), None);
        assert_eq!(differs(&one, &said(5, &[("a", 1), ("b", 3)])), Some("b"));
        assert_eq!(differs(&one, &said(5, &[("b", 2)])), Some("a"));
        assert_eq!(differs(&said(5, &[("b", 2)]), &one), Some("a"));
        assert_eq!(differs(&one, &said(6, &[("a", 9)])), None);
    }
}
