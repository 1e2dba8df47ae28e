//! What sessions do at their limits: too many agents, slow ones, servers that can't serve yet, bursts.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use client::{Connection, Link, News, Options, StreamError};
use common::{PATIENCE, client, every_kind, start_typha, until, write};
use etcd_client::{Client, Txn, TxnOp};
use futures::future::join_all;
use proto::v1::{AgentHello, Failure, View, go_away::Reason};
use serde_json::json;
use sync::{ClientSession, Event};
use tokio::{sync::mpsc, task::JoinSet, time::timeout};
use typha::RolloutStatus;

const READY: &str = "/calico/resources/v3/projectcalico.org/clusterinformations/default";

fn set_key(name: &str) -> String {
    format!("/calico/resources/v3/projectcalico.org/globalnetworksets/{name}")
}

fn set(name: &str, nets: &[String]) -> String {
    json!({"metadata": {"name": name}, "spec": {"nets": nets}}).to_string()
}

fn one_net(name: &str, net: &str) -> String {
    set(name, &[net.to_owned()])
}

async fn store() -> (embedded::Server, String) {
    let store = embedded::Server::start(embedded::Config::default()).await.unwrap();
    let url = format!("http://{}", store.addr());
    (store, url)
}

fn everything() -> AgentHello {
    AgentHello { view: View::Full.into(), ..AgentHello::default() }
}

fn link(server: SocketAddr, hello: AgentHello) -> Link {
    let options = Options { servers: vec![server.to_string()], tls: None, hello };
    Link::new(options, ClientSession::new())
}

async fn next(link: &mut Link) -> News {
    timeout(PATIENCE, link.next()).await.expect("news")
}

async fn commit(link: &mut Link) -> sync::Committed {
    loop {
        if let News::Committed(committed) = next(link).await {
            return *committed;
        }
    }
}

/// The objects that a link of the full view holds, by topic and key.
fn held(session: &ClientSession) -> BTreeSet<(String, String, Vec<u8>)> {
    let entries = session.entries();
    entries
        .map(|(topic, key, value)| (topic.to_string(), key.to_string(), value.to_vec()))
        .collect()
}

async fn fresh(server: SocketAddr) -> BTreeSet<(String, String, Vec<u8>)> {
    let mut link = link(server, everything());
    commit(&mut link).await;
    held(link.session())
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_hundred_agents_at_a_limit_of_sixty_as_many_are_served_and_the_rest_are_told() {
    let (store, url) = store().await;
    let typha = start_typha(&url, 60).await;
    until("typha reads the store", || typha.status().in_sync).await;
    let (told, mut heard) = mpsc::unbounded_channel();
    let mut agents = JoinSet::new();
    for number in 0..100 {
        let node = format!("node-{number}");
        let mut link = link(typha.address(), AgentHello { node, ..AgentHello::default() });
        let told = told.clone();
        agents.spawn(async move {
            loop {
                let served = match link.next().await {
                    News::Committed(_) => true,
                    News::Lost(StreamError::Away { why: Reason::Full, .. }) => false,
                    News::Lost(error) => panic!("{error}"),
                    _ => continue,
                };
                let _ = told.send((number, served));
            }
        });
    }
    let (mut served, mut refused) = (BTreeSet::new(), BTreeSet::new());
    while served.len() < 60 || refused.len() < 40 {
        let (number, is_served) = timeout(PATIENCE, heard.recv()).await.unwrap().unwrap();
        if is_served {
            served.insert(number)
        } else {
            refused.insert(number)
        };
        assert!(served.len() <= 60);
    }
    assert_eq!(typha.status().agents.len(), 60);

    typha.stop().await;
    agents.shutdown().await;
    store.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_was_refused_gets_the_place_of_one_that_leaves() {
    let (store, url) = store().await;
    let typha = start_typha(&url, 1).await;
    until("typha reads the store", || typha.status().in_sync).await;
    let node = |node: &str| AgentHello { node: node.into(), ..AgentHello::default() };
    let mut first = link(typha.address(), node("a"));
    commit(&mut first).await;
    let mut second = link(typha.address(), node("b"));
    let refused = next(&mut second).await;
    assert!(matches!(refused, News::Lost(StreamError::Away { why: Reason::Full, .. })));
    drop(first);
    commit(&mut second).await;
    typha.stop().await;
    store.shutdown().await.unwrap();
}

/// Objects of 2 MB in all.
async fn fill(store: &mut Client, round: usize) {
    for number in 0..100 {
        let name = format!("set-{number}");
        let nets: Vec<String> =
            (0..1000).map(|n| format!("10.{round}.{}.{}/32", n / 250, n % 250)).collect();
        store.put(set_key(&name), set(&name, &nets), None).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_during_its_snapshot_and_after_it_delays_nobody_and_gets_the_last_state() {
    let (store, url) = store().await;
    let mut client = client(&url).await;
    fill(&mut client, 1).await;
    let typha = start_typha(&url, 10).await;
    until("typha reads the store", || typha.status().in_sync).await;

    let address = typha.address().to_string();
    // One reads nothing of its snapshot, the other nothing after it.
    let during = (Connection::open(&address, everything()).await.unwrap(), ClientSession::new());
    let mut after = (Connection::open(&address, everything()).await.unwrap(), ClientSession::new());
    while !matches!(after.0.next(&mut after.1).await.unwrap(), Event::Committed(_)) {}
    let mut quick = link(typha.address(), everything());
    commit(&mut quick).await;
    for round in 2..6 {
        fill(&mut client, round).await;
        let begin = Instant::now();
        client
            .put(set_key("last"), one_net("last", &format!("192.0.2.{round}/32")), None)
            .await
            .unwrap();
        while !commit(&mut quick).await.changes.iter().any(|change| change.key == "last") {}
        assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
    }
    let expected = fresh(typha.address()).await;
    assert_eq!(held(quick.session()), expected);
    // Meanwhile a server may have given them up; they come back, and get what they lack.
    for (mut connection, mut session) in [during, after] {
        let begin = Instant::now();
        while held(&session) != expected {
            assert!(begin.elapsed() < PATIENCE);
            if timeout(PATIENCE, connection.next(&mut session)).await.unwrap().is_err() {
                session.disconnected();
                let hello = session.hello(everything(), false);
                connection = Connection::open(&address, hello).await.unwrap();
            }
        }
    }
    typha.stop().await;
    store.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_in_sync_yet_leaves_an_agent_what_it_holds() {
    let (store, url) = store().await;
    let mut client = client(&url).await;
    write(&mut client, &every_kind()[0]).await;
    let typha = start_typha(&url, 10).await;
    until("typha reads the store", || typha.status().in_sync).await;
    let node = AgentHello { node: "a".into(), ..AgentHello::default() };
    let ready = |ready: bool| json!({"spec": {"datastoreReady": ready}}).to_string();

    client.put(READY, ready(false), None).await.unwrap();
    let frozen = start_typha(&url, 10).await;
    until("it says why it can't serve", || {
        frozen.status().not_in_sync.is_some_and(|why| why.contains("datastoreReady"))
    })
    .await;
    let options =
        Options { servers: vec![typha.address().to_string()], tls: None, hello: node.clone() };
    let mut link = Link::new(options, ClientSession::new());
    commit(&mut link).await;
    let before = held(link.session());
    assert!(before.len() > 10);

    // It has to go to the one that isn't in sync, with what it holds.
    let saved = link.session().save("a").unwrap();
    let options = Options { servers: vec![frozen.address().to_string()], tls: None, hello: node };
    let mut link = Link::new(options, ClientSession::restore("a", &saved).unwrap());
    for _ in 0..2 {
        let refused = next(&mut link).await;
        assert!(matches!(refused, News::Lost(StreamError::Away { why: Reason::NotSynced, .. })));
        assert_eq!(held(link.session()), before);
    }
    client.put(READY, ready(true), None).await.unwrap();
    let first = commit(&mut link).await;
    let deleted = first.changes.iter().filter(|change| change.value.is_none()).count();
    assert_eq!(deleted, 0, "{:?}", first.changes);
    for typha in [typha, frozen] {
        typha.stop().await;
    }
    store.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_31_a_burst_of_a_hundred_changes_reaches_agents_in_a_few_commits_and_exactly() {
    let (store, url) = store().await;
    let client = client(&url).await;
    let typha = start_typha(&url, 10).await;
    until("typha reads the store", || typha.status().in_sync).await;
    let mut link = link(typha.address(), everything());
    commit(&mut link).await;

    // In one transaction they are one version of the store, which is never seen in part.
    let puts: Vec<TxnOp> = (0..100)
        .map(|n| TxnOp::put(set_key(&format!("one-{n}")), one_net("x", "192.0.2.1/32"), None))
        .collect();
    client.clone().txn(Txn::new().and_then(puts)).await.unwrap();
    assert_eq!(commit(&mut link).await.changes.len(), 100);

    // One after the other, as fast as the store takes them, many come together.
    let puts = (0..100).map(|n| {
        let mut client = client.clone();
        async move {
            let name = format!("each-{n}");
            client.put(set_key(&name), one_net(&name, "192.0.2.2/32"), None).await.unwrap();
        }
    });
    join_all(puts).await;
    let (mut commits, mut seen) = (0, BTreeSet::new());
    while seen.len() < 100 {
        let committed = commit(&mut link).await;
        commits += 1;
        let keys = committed.changes.iter().map(|change| change.key.to_string());
        seen.extend(keys.filter(|key| key.starts_with("each-")));
    }
    assert!(commits <= 50, "{commits} commits");
    assert_eq!(held(link.session()), fresh(typha.address()).await);
    typha.stop().await;
    store.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_roll_out_says_of_each_node_whether_its_kernel_holds_what_it_needs() {
    let (store, url) = store().await;
    let mut client = client(&url).await;
    write(&mut client, &every_kind()[0]).await;
    let typha = start_typha(&url, 10).await;
    until("typha reads the store", || typha.status().in_sync).await;
    let rollout = || {
        let RolloutStatus { enforced, failed, pending, unknown } = typha.status().rollout;
        ([enforced, failed, pending], unknown)
    };
    assert_eq!(rollout(), ([0, 0, 0], vec!["a".to_owned(), "b".to_owned()]));

    let node = |node: &str| AgentHello { node: node.into(), ..AgentHello::default() };
    let mut a = link(typha.address(), node("a"));
    commit(&mut a).await;
    assert_eq!(rollout(), ([0, 0, 1], vec!["b".to_owned()]));
    let reason = "no such module".to_owned();
    let failure = Failure { topic: "pools".into(), key: "10.0.0.0/8".into(), reason };
    a.acknowledge(a.session().publication(), vec![failure], None);
    let failed = ([0, 1, 0], vec!["b".to_owned()]);
    until("the failure is seen", || rollout() == failed).await;
    let mut b = link(typha.address(), node("b"));
    commit(&mut b).await;
    b.acknowledge(b.session().publication(), Vec::new(), None);
    until("the other is seen", || rollout() == ([1, 1, 0], Vec::new())).await;
    assert_eq!(typha.status().agents[0].state, "failed");
    typha.stop().await;
    store.shutdown().await.unwrap();
}
