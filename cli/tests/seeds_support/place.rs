//! Two servers of one store, with proxies before the store and before the servers, and what can happen to them.

use std::{path::Path, time::Duration};

use rand::{Rng as _, rngs::StdRng};
use tokio::time::Instant;

use support::{Proxy, Way};

use crate::moves_support::Server;

/// A server that ended by itself is started again after so long.
const AGAIN: Duration = Duration::from_millis(300);

/// How long a way that was slow is cut.
const CUT: Duration = Duration::from_millis(50);

/// What is done to a side until all is well again.
const UNTIL_TOLD: Duration = Duration::from_hours(1);

/// How a fault of a part ends.
type End = Option<Instant>;

/// One server, and the ways to and from it.
pub(crate) struct Side {
    pub(crate) server: Server,
    /// Between the store and it.
    store: Proxy,
    /// Between it and agents.
    door: Proxy,
    back: End,
    awake: End,
    store_well: End,
    door_well: End,
    /// The way to agents is slow, and then cut.
    is_slow: bool,
}

/// All of them.
pub(crate) struct Place {
    pub(crate) sides: Vec<Side>,
    begin: Instant,
    /// What was done, for people.
    pub(crate) log: Vec<String>,
}

impl Place {
    pub(crate) async fn new(store: &str, folder: &Path) -> Self {
        let mut sides = Vec::new();
        for name in ["one", "two"] {
            let store = Proxy::before(store).await;
            let mut server = Server::new(name, &store.url(), folder);
            server.start();
            let door = Proxy::before(&server.address()).await;
            let (back, awake, store_well, door_well, is_slow) = Default::default();
            sides.push(Side { server, store, door, back, awake, store_well, door_well, is_slow });
        }
        Self { sides, begin: Instant::now(), log: Vec::new() }
    }

    /// Where agents find the servers.
    pub(crate) fn doors(&self) -> Vec<String> {
        self.sides.iter().map(|side| side.door.address().to_string()).collect()
    }

    pub(crate) fn say(&mut self, what: &str) {
        self.log.push(format!("{:.2} s: {what}", self.begin.elapsed().as_secs_f64()));
    }

    /// Something happens to one of them, for a while.
    pub(crate) fn fault(&mut self, random: &mut StdRng) {
        let mut lasting = |from: u64, to: u64| Duration::from_millis(random.random_range(from..to));
        let (short, long, lag) = (lasting(0, 1500), lasting(200, 3000), lasting(500, 3000));
        let now = Instant::now();
        let which = random.random_range(0..self.sides.len());
        let name = ["one", "two"][which];
        let way = match random.random_range(0..3) {
            0 => Way { lag, ..Way::default() },
            1 => Way { is_stalled: true, ..Way::default() },
            _ => Way { is_cut: true, ..Way::default() },
        };
        let what = random.random_range(0..10);
        let side = &mut self.sides[which];
        let said = match what {
            0 | 1 if side.server.runs() => {
                side.server.kill();
                (side.back, side.awake) = (Some(now + short), None);
                format!("server {name} is killed, for {short:?}")
            }
            2 | 3 if side.server.runs() => {
                side.server.freeze(true);
                side.awake = Some(now + short);
                format!("server {name} stops for {short:?}")
            }
            4 | 5 => {
                let way = if what == 4 { way } else { Way { is_slow: true, ..Way::default() } };
                side.door.set(way);
                side.door_well = Some(now + short);
                side.is_slow = way.is_slow;
                format!("between server {name} and agents for {short:?}: {way:?}")
            }
            _ => {
                side.store.set(way);
                side.store_well = Some(now + long);
                let alone = what > 7;
                if alone {
                    // Agents come to the one that doesn't hear what happens.
                    let other = &mut self.sides[1 - which];
                    other.door.set(Way { is_cut: true, ..Way::default() });
                    other.door_well = Some(now + short);
                    other.is_slow = false;
                }
                let agents = if alone { "; agents reach no other for a while" } else { "" };
                format!("between server {name} and store for {long:?}: {way:?}{agents}")
            }
        };
        self.say(&said);
    }

    /// Ends what has lasted long enough.
    pub(crate) fn heal(&mut self) {
        let now = Instant::now();
        for side in &mut self.sides {
            if side.server.has_ended() {
                side.server.kill();
                side.back = Some(now + AGAIN);
            }
            side.heal(|end| end <= now);
        }
    }

    /// Ends all faults.
    pub(crate) fn heal_all(&mut self) {
        self.say("all is well again");
        for side in &mut self.sides {
            side.heal(|_| true);
        }
    }
}

impl Side {
    /// How the store is reached, until all is well again.
    pub(crate) fn reach_store(&mut self, way: Way) {
        self.store.set(way);
        self.store_well = Some(Instant::now() + UNTIL_TOLD);
    }

    /// How agents reach it, until all is well again.
    pub(crate) fn reach_agents(&mut self, way: Way) {
        self.door.set(way);
        self.door_well = Some(Instant::now() + UNTIL_TOLD);
        self.is_slow = false;
    }

    /// Ends the connections of its agents, who may come again.
    pub(crate) fn part_from_agents(&self) {
        self.door.cut();
    }

    fn heal(&mut self, is_over: impl Fn(Instant) -> bool) {
        let over = |end: &mut End| end.take_if(|end| is_over(*end)).is_some();
        if over(&mut self.back) {
            self.server.start();
        }
        if over(&mut self.awake) {
            self.server.freeze(false);
        }
        if over(&mut self.store_well) {
            self.store.set(Way::default());
        }
        if over(&mut self.door_well) {
            // It ends with a cut, in the middle of what was under way.
            let is_cut = std::mem::take(&mut self.is_slow);
            self.door.set(Way { is_cut, ..Way::default() });
            self.door_well = is_cut.then(|| Instant::now() + CUT);
        }
    }
}
