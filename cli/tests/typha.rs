//! A server and its agents' client, over real connections.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use client::{Connection, StreamError};
use common::{PATIENCE, client, every_kind, start_typha, until, write};
use proto::v1::{AgentHello, GoAway, go_away::Reason};
use serde_json::json;
use sync::{ClientSession, Committed, Event};
use typha::Typha;

const READY: &str = "/calico/resources/v3/projectcalico.org/clusterinformations/default";

fn set_key(name: &str) -> String {
    format!("/calico/resources/v3/projectcalico.org/globalnetworksets/{name}")
}

fn set(net: &str) -> String {
    json!({"metadata": {"name": "x"}, "spec": {"nets": [net]}}).to_string()
}

/// An agent: a connection and what it holds.
struct Agent {
    connection: Connection,
    session: ClientSession,
}

impl Agent {
    async fn connect(typha: &Typha, node: &str) -> Result<Self, StreamError> {
        let hello = AgentHello { node: node.into(), ..AgentHello::default() };
        let connection = Connection::open(&typha.address().to_string(), hello).await?;
        Ok(Self { connection, session: ClientSession::new() })
    }

    async fn next(&mut self) -> Result<Event, StreamError> {
        tokio::time::timeout(PATIENCE, self.connection.next(&mut self.session)).await.unwrap()
    }

    async fn committed(&mut self) -> Committed {
        loop {
            match self.next().await.unwrap() {
                Event::Committed(committed) => return *committed,
                Event::Hello(_) | Event::Nothing | Event::Heartbeat(_) => {}
                other => panic!("{other:?}"),
            }
        }
    }

    async fn goes_away(&mut self) -> GoAway {
        loop {
            if let Event::GoAway(go_away) = self.next().await.unwrap() {
                return go_away;
            }
        }
    }
}

async fn embedded_store() -> (embedded::Server, String) {
    let store = embedded::Server::start(embedded::Config::default()).await.unwrap();
    let url = format!("http://{}", store.addr());
    (store, url)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_gets_its_view_and_each_change_of_it_and_is_seen_to_hold_it() {
    let (store, url) = embedded_store().await;
    let mut client = client(&url).await;
    write(&mut client, &every_kind()[0]).await;
    let typha = start_typha(&url, 10).await;
    until("typha reads the store", || typha.status().in_sync).await;

    let mut agent = Agent::connect(&typha, "a").await.unwrap();
    let first = agent.committed().await;
    assert!(first.first);
    let own = |key: &str| first.changes.iter().any(|c| c.topic == "node/a" && c.key.contains(key));
    assert!(own("web-1") && own("db-1") && !own("web-2"));
    assert!(first.changes.iter().all(|change| change.topic != "node/b"));
    agent.connection.send(agent.session.ack(Vec::new()));
    until("the ack is seen", || typha.status().agents.iter().all(|agent| agent.current)).await;

    // A change of what it needs arrives; one of another node's endpoint doesn't.
    let round = &every_kind()[1];
    write(&mut client, round).await;
    let mut topics = std::collections::BTreeSet::new();
    while !topics.iter().any(|topic: &String| topic.starts_with("pools")) {
        topics.extend(agent.committed().await.changes.into_iter().map(|c| c.topic.to_string()));
    }
    assert!(topics.contains("node/a"), "{topics:?}");
    assert!(!topics.contains("node/b"), "{topics:?}");
    typha.stop().await;
    store.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_agent_of_a_node_wins_and_the_older_is_told() {
    let (store, url) = embedded_store().await;
    let typha = start_typha(&url, 10).await;
    until("typha reads the store", || typha.status().in_sync).await;
    let mut old = Agent::connect(&typha, "a").await.unwrap();
    old.committed().await;
    let mut other = Agent::connect(&typha, "b").await.unwrap();
    other.committed().await;
    let mut new = Agent::connect(&typha, "a").await.unwrap();
    new.committed().await;
    assert_eq!(old.goes_away().await.why, i32::from(Reason::Replaced));
    until("the old session ends", || typha.status().agents.len() == 2).await;
    typha.stop().await;
    assert_eq!(new.goes_away().await.why, i32::from(Reason::Draining));
    assert_eq!(other.goes_away().await.why, i32::from(Reason::Draining));
    store.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_over_the_limit_is_told_so() {
    let (store, url) = embedded_store().await;
    let typha = start_typha(&url, 1).await;
    until("typha reads the store", || typha.status().in_sync).await;
    let mut first = Agent::connect(&typha, "a").await.unwrap();
    first.committed().await;
    let mut second = Agent::connect(&typha, "b").await.unwrap();
    let told = second.goes_away().await;
    assert_eq!(told.why, i32::from(Reason::Full));
    support::assert_bad_input("typha: more agents than its limit", &told.message);
    // The same agent again, whose old connection may be half open, takes its own place.
    let mut again = Agent::connect(&typha, "a").await.unwrap();
    again.committed().await;
    assert_eq!(first.goes_away().await.why, i32::from(Reason::Replaced));
    typha.stop().await;
    store.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_datastore_is_not_ready_nothing_is_published() {
    let (store, url) = embedded_store().await;
    let mut client = client(&url).await;
    let ready = |ready: bool| json!({"spec": {"datastoreReady": ready}}).to_string();
    client.put(READY, ready(false), None).await.unwrap();
    let typha = start_typha(&url, 10).await;
    until("typha reads the store", || {
        typha.status().not_in_sync.is_some_and(|why| why.contains("datastoreReady"))
    })
    .await;
    let mut early = Agent::connect(&typha, "a").await.unwrap();
    let told = early.goes_away().await;
    assert_eq!(told.why, i32::from(Reason::NotSynced));
    support::assert_bad_input("typha: the datastore is not ready", &told.message);

    client.put(READY, ready(true), None).await.unwrap();
    until("typha publishes", || typha.status().in_sync).await;
    let mut agent = Agent::connect(&typha, "a").await.unwrap();
    agent.committed().await;

    client.put(READY, ready(false), None).await.unwrap();
    client.put(set_key("x"), set("192.0.2.1/32"), None).await.unwrap();
    client.put(READY, ready(true), None).await.unwrap();
    // One publication: what happened while it was frozen was never shown in part.
    let publication = typha.status().publication;
    until("it goes on", || typha.status().publication > publication).await;
    typha.stop().await;
    store.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_goes_away_is_served_on_and_an_empty_one_in_its_place_deletes_nothing() {
    let (store, url) = embedded_store().await;
    let address = store.addr();
    let mut client = client(&url).await;
    client.put(set_key("x"), set("192.0.2.1/32"), None).await.unwrap();
    let typha = start_typha(&url, 10).await;
    until("typha reads the store", || typha.status().in_sync).await;
    let entries = typha.status().sizes.entries;
    assert!(entries > 0);

    store.shutdown().await.unwrap();
    until("the age shows", || typha.status().stale_milliseconds > 0).await;
    let mut late = Agent::connect(&typha, "late").await.unwrap();
    assert!(late.committed().await.first, "a server that was in sync serves new agents");

    let config = embedded::Config { listen: address, ..embedded::Config::default() };
    let store = embedded::Server::start(config).await.unwrap();
    until("typha says what it found", || {
        typha.status().store_error.is_some_and(|error| error.contains("without a single object"))
    })
    .await;
    let problem = typha.status().store_error.unwrap();
    support::assert_bad_input("typha: an empty store at the same address", &problem);
    assert_eq!(typha.status().sizes.entries, entries, "nothing was deleted");
    typha.stop().await;
    store.shutdown().await.unwrap();
}
