//! Random walks over real processes: two servers of one etcd, and agents that check every Commit.
//!
//! ```text
//!  writer --> etcd <-- proxy <-- typha one <-- proxy <--+-- agents of six nodes, two of the full view
//!    |          ^                                       |
//!    |          +----- proxy <-- typha two <-- proxy <--+
//!    +--> ledger: what the store held, moment by moment <-- asked by each agent at each Commit
//! ```
//!
//! Faults are random, and after each part of a walk agents are led to what random faults hardly ever come to.
//!
//! `BULRUSH_SEEDS=17..18` replays one walk. Its steps are drawn from the seed; how they meet in time is up to the
//! machine.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod common;
mod moves_support;
mod seeds_support;

use std::{
    io::Write as _,
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use moves_support::Server;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use seeds_support::{
    agent::{Agent, Board, Entries, Order, PATIENCE, fresh},
    ledger::locked,
    meetings::Meeting,
    place::{Place, Side},
    writes::{NODES, Writer},
};
use support::RealEtcd;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

/// Agents of full views.
const FULL: [&str; 2] = ["full-1", "full-2"];
/// How long one of a walk's three parts takes: to the backup, to the restore, to the end.
const PART: Duration = Duration::from_secs(3);
/// How long nothing is written now and then.
const QUIET: Duration = Duration::from_millis(800);
/// How long after the last fault all may take to agree.
const SETTLE: Duration = Duration::from_mins(1);
/// In one of so many walks nothing is written after the restore until agents have lost their patience.
const PATIENT: u64 = 8;
/// Walks at a time.
const AT_ONCE: usize = 4;

fn seeds() -> Range<u64> {
    let Ok(text) = std::env::var("BULRUSH_SEEDS") else { return 1..2 };
    let (from, to) = text.split_once("..").expect("BULRUSH_SEEDS=from..to");
    from.parse().unwrap()..to.parse().unwrap()
}

struct Walk {
    random: StdRng,
    etcd: RealEtcd,
    place: Place,
    writer: Writer,
    board: Arc<Mutex<Board>>,
    agents: JoinSet<(String, Entries)>,
    orders: Vec<watch::Sender<Order>>,
}

impl Walk {
    async fn begin(seed: u64, binary: &Path, folder: &Path) -> Self {
        let etcd = RealEtcd::start(binary);
        let place = Place::new(etcd.endpoint(), folder).await;
        for side in &place.sides {
            // Their key is in the store when the ledger begins.
            until("the servers serve", async || side.server.is_ready().await).await;
        }
        let mut writer = Writer::new(common::client(etcd.endpoint()).await).await;
        writer.begin().await;
        let board = Arc::new(Mutex::new(Board::default()));
        let (mut agents, mut orders) = (JoinSet::new(), Vec::new());
        let nodes = NODES.iter().map(|name| (*name, false));
        for (name, is_full) in nodes.chain(FULL.map(|name| (name, true))) {
            let ledger = writer.ledger.clone();
            let agent = Agent::new(name, is_full, place.doors(), ledger, board.clone());
            let (order, order_reader) = watch::channel(Order::default());
            orders.push(order);
            agents.spawn(async move { (name.to_owned(), agent.run(order_reader).await) });
        }
        let random = StdRng::seed_from_u64(seed);
        Self { random, etcd, place, writer, board, agents, orders }
    }

    /// Fails with the agent that found something.
    fn look(&mut self) {
        if let Some(ended) = self.agents.try_join_next() {
            let error = ended.expect_err("agents run until they are told to stop");
            std::panic::resume_unwind(error.into_panic());
        }
    }

    /// Writes and faults.
    async fn part(&mut self) {
        let end = Instant::now() + PART;
        let (mut next, mut quiet) = (Instant::now(), Instant::now());
        while Instant::now() < end {
            self.look();
            self.place.heal();
            if quiet <= Instant::now() {
                let count = if self.random.random_range(0..20) == 0 { 40 } else { 1 };
                let clock = self.random.random_bool(0.6);
                self.writer.some(&mut self.random, count, clock).await;
                if self.random.random_range(0..80) == 0 {
                    self.place.say("a delete is the last for a while");
                    self.writer.delete(&mut self.random).await;
                    quiet = Instant::now() + QUIET;
                }
            }
            if next <= Instant::now() {
                next = Instant::now() + Duration::from_millis(self.random.random_range(50..500));
                match self.random.random_range(0..12) {
                    0 | 1 => {
                        let agent = self.random.random_range(0..self.orders.len());
                        self.place.say(&format!("agent {agent} restarts"));
                        self.orders[agent].send_modify(|order| order.lives += 1);
                    }
                    2 => {
                        self.place.say("the store is killed, and started again");
                        self.etcd.kill();
                        self.etcd.run();
                    }
                    _ => self.place.fault(&mut self.random),
                }
            }
            sleep(Duration::from_millis(self.random.random_range(2..40))).await;
        }
    }

    /// Every agent is at this moment.
    async fn all_at(&mut self, moment: usize, within: Duration) {
        let end = Instant::now() + within;
        loop {
            self.look();
            self.place.heal();
            let at = locked(&self.board).at.clone();
            if at.len() == self.orders.len() && at.values().all(|at| *at == moment) {
                return;
            }
            assert!(Instant::now() < end, "agents wait for moment {moment} for ever: {at:?}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The servers come to it.
    async fn until(&mut self, what: &str, condition: impl AsyncFn(&[Side]) -> bool) {
        let end = Instant::now() + SETTLE;
        while !condition(&self.place.sides).await {
            self.look();
            self.place.heal();
            assert!(Instant::now() < end, "{what}: not within {SETTLE:?}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn steps(&mut self, is_patient: bool) {
        // One before the backup, one after it, one after the restore.
        let mut meetings = [Meeting::Delete, Meeting::ShortLived, Meeting::Half];
        meetings.shuffle(&mut self.random);
        let [first, second, third] = meetings;
        self.part().await;
        self.meet(first).await;
        self.writer.some(&mut self.random, 1, true).await;
        let (remembered, backup) = (self.writer.remember(), self.etcd.backup());
        self.writer.some(&mut self.random, 1, true).await;
        self.place.say("a backup was made");
        self.part().await;
        self.meet(second).await;

        let lost = self.writer.revision();
        self.place
            .say(&format!("the store goes back from revision {lost} to {}", remembered.revision));
        self.etcd.restore(&backup);
        self.writer.went_back(&remembered);
        self.place.heal_all();
        if is_patient {
            self.all_at(remembered.moment, PATIENCE + SETTLE).await;
        }
        // Of two histories of the same raft term a server can't tell which it followed, unless it sees that revisions
        // went back.
        let back = async |sides: &[Side]| {
            for side in sides {
                let at = side.server.version().await;
                if at.is_none_or(|at| at == 0 || at > remembered.revision) {
                    return false;
                }
            }
            true
        };
        self.until("the servers see it", back).await;
        self.writer.some(&mut self.random, 1, true).await;
        while self.writer.revision() <= lost {
            self.writer.some(&mut self.random, 1, false).await;
        }
        self.part().await;
        self.meet(third).await;

        self.place.heal_all();
        let end = self.writer.some(&mut self.random, 1, true).await;
        self.all_at(end, SETTLE).await;
        let acknowledged = async |sides: &[Side]| {
            let mut current = 0;
            for side in sides {
                let Some(status) = side.server.status().await else { return false };
                let agents = status["agents"].as_array().unwrap().clone();
                current += agents.iter().filter(|agent| agent["state"] == "enforced").count();
            }
            current == NODES.len()
        };
        self.until("every node has acknowledged what it has", acknowledged).await;

        for order in &self.orders {
            order.send_modify(|order| order.stop = true);
        }
        let folder = tempfile::tempdir().unwrap();
        let mut server = Server::new("fresh", self.etcd.endpoint(), folder.path());
        server.start();
        until("a fresh server serves", async || server.is_ready().await).await;
        while let Some(agent) = self.agents.join_next().await {
            let (name, held) =
                agent.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
            let fresh = fresh(&name, name.starts_with("full"), server.address());
            let fresh = timeout(SETTLE, fresh).await.expect("a fresh server serves a fresh agent");
            assert!(held == fresh, "agent {name} holds something else than a fresh one");
        }
    }
}

impl Drop for Walk {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- what led to it:\n{}", self.place.log.join("\n"));
        }
    }
}

async fn walk(seed: u64, binary: &Path) -> String {
    let begin = Instant::now();
    let folder = tempfile::tempdir().unwrap();
    let mut walk = Walk::begin(seed, binary, folder.path()).await;
    walk.steps(seed.is_multiple_of(PATIENT)).await;
    let board = locked(&walk.board);
    format!(
        "{:.0} s, {} steps, {} writes, {} sessions, {} restarts of agents, {} commits checked, {} times to a \
         server that was behind, {} times back with the store",
        begin.elapsed().as_secs_f64(),
        walk.place.log.len(),
        locked(&walk.writer.ledger).newest(),
        board.sessions,
        board.restarts,
        board.commits,
        board.behind,
        board.rollbacks,
    )
}

async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let held = async {
        while !condition().await {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(SETTLE, held).await.unwrap_or_else(|_| panic!("{what}: not within {SETTLE:?}"));
}

#[test]
fn agents_hold_what_the_store_held_whatever_happens_to_servers_network_and_store() {
    let binaries = support::etcd_binaries();
    if binaries.is_empty() {
        return support::skipped("etcd", "no etcd was found: run .ci/servers");
    }
    let rest = Mutex::new(seeds());
    // A thread of its own, which lives as long as the walk's processes.
    let walks = || {
        while let Some(seed) = { rest.lock().unwrap().next() } {
            let (label, binary) = &binaries[(seed / 3) as usize % binaries.len()];
            let runtime = tokio::runtime::Runtime::new().unwrap();
            let walk = AssertUnwindSafe(|| runtime.block_on(walk(seed, binary)));
            let result = catch_unwind(walk);
            let failed = || format!("failed; BULRUSH_SEEDS={seed}..{} replays it", seed + 1);
            let said = result.as_ref().map_or_else(|_| failed(), Clone::clone);
            // Past the test's capture: the figures are the point.
            let _ = writeln!(std::io::stderr(), "seed {seed} on {label}: {said}");
            result.unwrap_or_else(|panic| resume_unwind(panic));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(walks);
        }
    });
}
