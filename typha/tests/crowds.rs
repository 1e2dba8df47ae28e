//! Many agents at once: who may sync first, who is sent on, and how they leave a server that stops.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod support;

use std::{collections::BTreeSet, time::Duration};

use proto::v1::go_away::Reason;
use support::{Agent, PATIENCE, Valve, World, full, node, until};
use sync::{ClientSession, Event};

/// A first sync that is stuck in the middle, and the valve that lets it go on.
async fn stuck(world: &World) -> (Valve, Agent) {
    let valve = Valve::start(world.typha.address()).await;
    let mut agent = Agent::resume(valve.address, full(), ClientSession::new()).await;
    valve.set(16);
    while agent.hello.is_none() {
        agent.next().await.unwrap();
    }
    valve.set(0);
    until("it is stuck", || world.metric("bulrush_typha_laggards") == 1).await;
    (valve, agent)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_comes_during_anothers_first_sync_waits_for_its_place() {
    let world = World::with_sets(300, 5000, |config| {
        config.limits.first_syncs = 1;
        config.limits.place = PATIENCE;
    })
    .await;
    let (valve, mut first) = stuck(&world).await;
    let mut second = world.agent(node("second")).await;
    until("the second waits", || world.metric("bulrush_typha_first_sync_waiting") == 1).await;
    valve.set(usize::MAX);
    first.committed().await;
    second.committed().await;
    assert_eq!(world.metric("bulrush_typha_first_sync_waiting"), 0);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stuck_first_sync_keeps_the_others_waiting_only_so_long() {
    let world = World::with_sets(300, 5000, |config| {
        config.limits.first_syncs = 1;
        config.limits.place = Duration::from_millis(300);
    })
    .await;
    let (valve, mut first) = stuck(&world).await;
    world.agent(node("second")).await.committed().await;
    valve.set(usize::MAX);
    first.committed().await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_over_its_share_sends_the_newest_agents_on_one_by_one() {
    let world = World::new(|config| {
        config.min_connections = 3;
        config.limits.shed = Duration::from_millis(100);
        config.alternatives = vec!["10.0.0.2:5473".into()];
    })
    .await;
    let mut agents = Vec::new();
    for number in 0..6 {
        let mut agent = world.agent(node(&format!("n{number}"))).await;
        agent.committed().await;
        agents.push(agent);
    }
    for newest in agents.split_off(3).iter_mut().rev() {
        let told = newest.goes_away().await;
        assert_eq!((told.why(), told.others), (Reason::Full, vec!["10.0.0.2:5473".to_owned()]));
    }
    until("three are left", || world.typha.status().agents.len() == 3).await;
    assert_eq!(world.metric("bulrush_typha_shed_total"), 3);
    let left: Vec<String> = world.typha.status().agents.into_iter().map(|a| a.node).collect();
    assert_eq!(left, ["n0", "n1", "n2"]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_of_a_server_that_stops_hear_at_once_when_each_is_to_go() {
    let world = World::new(|_| {}).await;
    let address = world.typha.address();
    let all = (0..100).map(|n| Agent::connect(address, node(&format!("n{n}"))));
    let mut agents = futures::future::join_all(all).await;
    for agent in &mut agents {
        agent.committed().await;
    }
    let stop = tokio::spawn(world.typha.stop());
    let mut times = BTreeSet::new();
    for agent in &mut agents {
        let told = agent.goes_away().await;
        assert_eq!(told.why(), Reason::Draining);
        times.insert(told.after_milliseconds);
        // It stays until it is hung up on, a little after its time.
        if told.after_milliseconds > 0 {
            assert!(matches!(agent.next().await.unwrap(), Event::GoAway(_)));
        }
    }
    // At 500 a second, a hundred take a fifth of one.
    assert!(times.len() > 50 && times.last() <= Some(&200), "{times:?}");
    stop.await.unwrap();
    world.store.shutdown().await.unwrap();
}
