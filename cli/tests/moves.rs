//! Agents that move between two servers of one store while these are killed: nothing is lost, and time never runs back.
//!
//! One server lags: what the store says reaches it late. `BULRUSH_MOVES_SECONDS` says how long it goes on, without it a
//! minute.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;
mod moves_support;

use std::{
    collections::BTreeMap,
    io::Write as _,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use client::{Link, News, Options, StreamError};
use common::{client as store_client, every_kind, write};
use etcd_client::Client;
use model::{
    StreamIndex,
    view::{Entry, Topic},
};
use moves_support::Server;
use proto::v1::{AgentHello, go_away::Reason};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde_json::{Value, json};
use support::RealEtcd;
use support::{Proxy, Way};
use sync::{ClientSession, EntryChange, TopicDigest};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, sleep_until, timeout},
};

/// Agents: of nodes that have endpoints, and of others.
const NODES: [&str; 12] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"];
/// At least so many kills for a minute.
const KILLS_PER_MINUTE: u64 = 20;
/// How long after the last write and kill all may take to agree.
const SETTLE: Duration = Duration::from_mins(1);
/// Writes to the store.
const WRITE_PAUSE: Duration = Duration::from_millis(20);

type Digests = BTreeMap<String, TopicDigest>;

/// How an agent fared.
#[derive(Debug, Default)]
struct Fared {
    sessions: u64,
    commits: u64,
    /// Times that a server had not seen what the agent has, and of these the times that it sent the agent on.
    behind: u64,
    sent_on: u64,
    longest_unserved: Duration,
    digests: Digests,
}

/// The number that [`ticking`] wrote, where this is it. A vector is the server's word; this is what it vouches for.
fn tick(change: &EntryChange) -> Option<u64> {
    if change.topic != "config" || change.key != "FelixConfiguration/default" {
        return None;
    }
    let entry = proto::decode(&Topic::Config, change.value.as_ref()?, &[]).expect("an entry");
    let Entry::Config(config) = entry else { panic!("{entry:?}") };
    let spec: Value = serde_json::from_str(&config.spec_json).expect("JSON");
    spec["logPrefix"].as_str()?.strip_prefix("tick-")?.parse().ok()
}

/// An object in every view that says how late it is.
fn ticking(tick: u64) -> (String, Value) {
    let key = "/calico/resources/v3/projectcalico.org/felixconfigurations/default".to_owned();
    let spec = json!({"logPrefix": format!("tick-{tick}")});
    (key, json!({"metadata": {"name": "default"}, "spec": spec}))
}

fn digests(session: &ClientSession) -> Digests {
    session.digests().map(|(topic, digest)| (topic.to_string(), digest)).collect()
}

/// Runs an agent until it has seen a version that is told late, and checks each thing that it sees.
async fn agent(node: &'static str, servers: Vec<String>, mut goal: watch::Receiver<u64>) -> Fared {
    let hello = AgentHello { node: node.into(), ..AgentHello::default() };
    let mut link = Link::new(Options { servers, tls: None, hello }, ClientSession::new());
    let mut fared = Fared::default();
    let (mut seen, mut ticked, mut served) = (0, 0, Instant::now());
    loop {
        let reached = {
            let goal = *goal.borrow_and_update();
            goal > 0 && seen >= goal
        };
        if reached {
            break;
        }
        let news = tokio::select! {
            news = link.next() => news,
            _ = goal.changed() => continue,
        };
        match news {
            News::Committed(committed) => {
                let now = committed.vector.get(StreamIndex(0));
                assert!(now >= seen, "agent {node}: version {now} after {seen}");
                seen = now;
                for told in committed.changes.iter().filter_map(tick) {
                    assert!(told >= ticked, "agent {node}: tick {told} after {ticked}");
                    ticked = told;
                }
                fared.commits += 1;
                link.acknowledge(link.session().publication(), Vec::new(), None);
            }
            News::Lost(StreamError::Away { why, .. }) => {
                fared.sent_on += u64::from(why == Reason::Behind);
            }
            News::Lost(error @ StreamError::Protocol { .. }) => panic!("agent {node}: {error}"),
            News::Lost(_) => {}
            News::Behind { .. } => {
                fared.behind += 1;
                continue;
            }
            News::Opened { .. } | News::Heartbeat(_) => continue,
        }
        fared.longest_unserved = fared.longest_unserved.max(served.elapsed());
        served = Instant::now();
    }
    assert_eq!(link.session().resyncs(), 0, "agent {node}: a digest disagreed");
    fared.sessions = link.opened();
    fared.digests = digests(link.session());
    fared
}

/// What a server gives to an agent that holds nothing.
async fn fresh(node: &str, server: &Server) -> Digests {
    let hello = AgentHello { node: node.into(), observer: true, ..AgentHello::default() };
    let options = Options { servers: vec![server.address()], tls: None, hello };
    let mut link = Link::new(options, ClientSession::new());
    let first = async { while !matches!(link.next().await, News::Committed(_)) {} };
    timeout(SETTLE, first).await.expect("a server that serves");
    digests(link.session())
}

/// Changes what the views hold, and which topics are in them, until it is told to stop.
async fn churn(mut store: Client, seed: u64, stop: Arc<AtomicBool>) {
    let mut random = StdRng::seed_from_u64(seed);
    let key =
        |kind: &str, name: &str| format!("/calico/resources/v3/projectcalico.org/{kind}/{name}");
    for tick in 1.. {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        let (clock, time) = ticking(tick);
        store.put(clock, time.to_string(), None).await.expect("a put");
        let number = random.random_range(0..8);
        let (key, value) = match random.random_range(0..4) {
            0 => {
                let name = format!("set-{number}");
                let nets: Vec<String> = (0..random.random_range(0..20))
                    .map(|_| format!("192.0.{number}.{}/32", random.random_range(0..40)))
                    .collect();
                let metadata = json!({"name": name, "labels": {"set": name}});
                (
                    key("globalnetworksets", &name),
                    json!({"metadata": metadata, "spec": {"nets": nets}}),
                )
            }
            1 => {
                let name = format!("policy-{number}");
                let from =
                    json!({"selector": format!("set == 'set-{}'", random.random_range(0..8))});
                let rule = json!({"action": "Allow", "source": from});
                let spec = json!({"tier": "default", "order": number, "selector": "all()", "ingress": [rule]});
                let name = format!("default.{name}");
                (
                    key("globalnetworkpolicies", &name),
                    json!({"metadata": {"name": name}, "spec": spec}),
                )
            }
            2 => {
                let name = format!("pool-{number}");
                let spec = json!({"cidr": format!("10.{}.0.0/16", 100 + number), "natOutgoing": random.random::<bool>()});
                (key("ippools", &name), json!({"metadata": {"name": name}, "spec": spec}))
            }
            _ => {
                let name = NODES[random.random_range(2..NODES.len())];
                let address = format!("192.0.2.{}/24", random.random_range(10..200));
                let spec = json!({"bgp": {"ipv4Address": address}});
                (key("nodes", name), json!({"metadata": {"name": name}, "spec": spec}))
            }
        };
        if random.random_range(0..5) == 0 {
            store.delete(key, None).await.expect("a delete");
        } else {
            store.put(key, value.to_string(), None).await.expect("a put");
        }
        sleep(WRITE_PAUSE).await;
    }
}

/// Kills servers at random and starts them again; how many kills.
async fn kills(
    servers: &mut [Server; 2],
    lag: (&Proxy, Duration),
    seed: u64,
    until: Instant,
) -> u64 {
    let mut random = StdRng::seed_from_u64(seed);
    let mut kills = 0;
    // When each comes back, and whether what the late one is told lags yet: it starts without a lag.
    let mut back = [None, None];
    let mut next = Instant::now() + Duration::from_secs(2);
    // What the late one knew first: the lag begins when it hears more, for to open a watch takes some answers.
    let mut heard = None;
    while Instant::now() < until {
        sleep_until(next.min(Instant::now() + Duration::from_millis(50))).await;
        for (server, back) in servers.iter_mut().zip(&mut back) {
            assert!(!server.has_ended(), "a server ended by itself");
            if back.is_some_and(|at| at <= Instant::now()) {
                server.start();
                *back = None;
            }
        }
        if let Some(version) = servers[1].version().await.filter(|version| *version > 0)
            && version > *heard.get_or_insert(version)
        {
            lag.0.set(Way { lag: lag.1, ..Way::default() });
        }
        if Instant::now() < next {
            continue;
        }
        // The late one lives longer, so that its lag shows.
        let victim = usize::from(random.random_range(0..10) < 3);
        if servers[victim].runs() {
            servers[victim].kill();
            kills += 1;
            back[victim] =
                Some(Instant::now() + Duration::from_millis(random.random_range(0..1500)));
            if victim == 1 {
                heard = None;
                lag.0.set(Way::default());
            }
        }
        next = Instant::now() + Duration::from_millis(random.random_range(300..3000));
    }
    for server in servers.iter_mut().filter(|server| !server.runs()) {
        server.start();
    }
    kills
}

async fn moves(etcd: &RealEtcd, late: Duration, time: Duration, seed: u64) {
    let folder = tempfile::tempdir().unwrap();
    let lag = Proxy::before(etcd.endpoint()).await;
    let mut servers = [("prompt", etcd.endpoint()), ("late", &lag.url())]
        .map(|(name, store)| Server::new(name, store, folder.path()));
    servers.iter_mut().for_each(Server::start);
    let addresses: Vec<String> = servers.iter().map(Server::address).collect();
    let (goal, goal_reader) = watch::channel(0);
    let agents: Vec<JoinHandle<Fared>> = NODES
        .iter()
        .map(|node| tokio::spawn(agent(node, addresses.clone(), goal_reader.clone())))
        .collect();
    let mut store = store_client(etcd.endpoint()).await;
    write(&mut store, &every_kind()[0]).await;
    let stop = Arc::new(AtomicBool::new(false));
    let writer = tokio::spawn(churn(store.clone(), seed, stop.clone()));

    let end = Instant::now() + time;
    let kills = kills(&mut servers, (&lag, late), seed + 1, end).await;
    stop.store(true, Ordering::SeqCst);
    writer.await.unwrap();
    // A change that is in every view.
    let (key, last) = ticking(u64::MAX);
    let put = store.put(key, last.to_string(), None).await.unwrap();
    let last = put.header().unwrap().revision().cast_unsigned();
    goal.send_replace(last);

    let mut fared = Vec::new();
    for (node, agent) in NODES.iter().zip(agents) {
        let agent = timeout(SETTLE, agent).await;
        let agent = agent.unwrap_or_else(|_| panic!("agent {node} never saw the last change"));
        fared.push(agent.expect("no agent went back"));
    }
    for server in &servers {
        let reached = async {
            while server.version().await.is_none_or(|version| version < last) {
                sleep(Duration::from_millis(50)).await;
            }
        };
        timeout(SETTLE, reached).await.expect("the server catches up");
        for (node, fared) in NODES.iter().zip(&fared) {
            assert_eq!(fresh(node, server).await, fared.digests, "agent {node} against a new one");
        }
    }
    let sum = |of: fn(&Fared) -> u64| fared.iter().map(of).sum::<u64>();
    let (sessions, commits) = (sum(|f| f.sessions), sum(|f| f.commits));
    let (behind, sent_on) = (sum(|f| f.behind), sum(|f| f.sent_on));
    let longest = fared.iter().map(|fared| fared.longest_unserved).max().unwrap_or_default();
    let reconnects = sessions - NODES.len() as u64;
    // Past the test's capture: the figures are the point.
    let _ = writeln!(
        std::io::stderr(),
        "moves: one of two servers {} s late, {} s: {kills} kills; {} agents, {reconnects} reconnects, {behind} times \
         to a server that was behind, {sent_on} times sent on by it, {commits} commits, unserved for at most {:.1} s",
        late.as_secs(),
        time.as_secs(),
        NODES.len(),
        longest.as_secs_f64(),
    );
    let wanted = time.as_secs() * KILLS_PER_MINUTE / 60;
    assert!(kills >= wanted, "{kills} kills of at least {wanted}");
    assert!(reconnects >= kills, "{reconnects} reconnects");
    assert!(behind > 0, "nobody came to a server that was behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_that_move_between_servers_that_are_killed_never_go_back_and_agree_in_the_end() {
    let Some((_, binary)) = support::etcd_binaries().into_iter().next() else {
        return support::skipped("etcd", "no etcd was found: run .ci/servers");
    };
    let seconds = std::env::var("BULRUSH_MOVES_SECONDS").ok().map(|text| text.parse().unwrap());
    let half = Duration::from_secs(seconds.unwrap_or(60)) / 2;
    for (late, seed) in [(8, 1), (2, 1000)] {
        let etcd = RealEtcd::start(&binary);
        moves(&etcd, Duration::from_secs(late), half, seed).await;
    }
}
