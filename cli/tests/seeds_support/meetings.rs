//! What random faults hardly ever come to: agents that one server has told something meet the other, which hasn't heard
//! of it. A walk leads there step by step; which server is which is drawn.

use std::time::Duration;

use rand::Rng as _;
use support::Way;
use tokio::time::{Instant, sleep};

use super::{ledger::locked, place::Side};
use crate::{SETTLE, Walk};

/// How much later a server hears of a write, and of the delete of what was written: between the two it has the write
/// alone.
const LAGS: [Duration; 2] = [Duration::from_secs(3), Duration::from_millis(4500)];
/// How long a way takes to read what was written before its lag changes.
const READ: Duration = Duration::from_millis(100);

/// What agents meet.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Meeting {
    /// A server learns of a delete from a list, which names nothing that is gone. The other hasn't heard of it.
    Delete,
    /// The same of something that the other never had: nothing differs, until it hears of the write alone.
    ShortLived,
    /// The way to a server breaks in the middle of a change. The other hasn't heard of it.
    Half,
}

impl Walk {
    /// Leads agents to it.
    pub(crate) async fn meet(&mut self, meeting: Meeting) {
        let behind = self.random.random_range(0..2);
        let ahead = 1 - behind;
        self.place.heal_all();
        self.agree().await;
        let name = ["one", "two"][behind];
        self.place.say(&format!("{meeting:?}: server {name} is the one that doesn't hear"));
        match meeting {
            Meeting::Delete => self.delete(behind, ahead).await,
            Meeting::ShortLived => self.short_lived(behind, ahead).await,
            Meeting::Half => self.half(behind, ahead).await,
        }
        self.place.heal_all();
        self.agree().await;
    }

    async fn delete(&mut self, behind: usize, ahead: usize) {
        self.place.sides[ahead].server.kill();
        self.place.sides[behind].reach_store(Way { is_stalled: true, ..Way::default() });
        let deleted = self.writer.delete(&mut self.random).await;
        self.learn_from_a_list(deleted, behind, ahead).await;
        // Each is told to wait.
        self.go_to(behind, ahead).await;
    }

    async fn short_lived(&mut self, behind: usize, ahead: usize) {
        let lag = |lag| Way { lag, ..Way::default() };
        self.place.sides[ahead].server.kill();
        self.place.sides[behind].reach_store(lag(LAGS[0]));
        let key = self.writer.short_lived().await;
        let written = self.writer.revision();
        sleep(READ).await;
        self.place.sides[behind].reach_store(lag(LAGS[1]));
        let deleted = self.writer.delete_this(key).await;
        self.learn_from_a_list(deleted, behind, ahead).await;
        // They are served, for nothing differs.
        self.go_to(behind, ahead).await;
        self.until("the server hears of the write", async |sides| {
            sides[behind].server.version().await.is_some_and(|at| at >= written)
        })
        .await;
        let answered = self.answered();
        self.place.sides[behind].part_from_agents();
        self.all_answered(answered).await;
    }

    async fn half(&mut self, behind: usize, ahead: usize) {
        // All are with the one that hears.
        self.place.sides[behind].reach_agents(Way { is_cut: true, ..Way::default() });
        self.agree().await;
        self.place.sides[behind].reach_store(Way { is_stalled: true, ..Way::default() });
        self.place.sides[ahead].reach_agents(Way { is_slow: true, ..Way::default() });
        self.writer.much(&mut self.random).await;
        let while_it_comes = self.random.random_range(300..1000);
        sleep(Duration::from_millis(while_it_comes)).await;
        self.go_to(behind, ahead).await;
    }

    /// Servers and agents come to what is written now.
    async fn agree(&mut self) {
        let moment = self.writer.some(&mut self.random, 1, true).await;
        let revision = self.writer.revision();
        let heard = async |sides: &[Side]| {
            for side in sides {
                if side.server.version().await != Some(revision) {
                    return false;
                }
            }
            true
        };
        self.until("the servers hear of what is written", heard).await;
        self.all_at(moment, SETTLE).await;
    }

    /// A server starts after a delete, and all agents come to it.
    async fn learn_from_a_list(&mut self, deleted: usize, behind: usize, ahead: usize) {
        self.place.sides[ahead].server.start();
        let is_ready = async |sides: &[Side]| sides[ahead].server.is_ready().await;
        self.until("the server has read its list", is_ready).await;
        self.place.sides[behind].reach_agents(Way { is_cut: true, ..Way::default() });
        self.all_at(deleted, SETTLE).await;
    }

    /// Agents come from one to the other, and each hears something there.
    async fn go_to(&mut self, to: usize, from: usize) {
        let answered = self.answered();
        self.place.sides[from].reach_agents(Way { is_cut: true, ..Way::default() });
        self.place.sides[to].reach_agents(Way::default());
        self.all_answered(answered).await;
    }

    /// How often a server has served an agent, or told it to wait.
    fn answered(&self) -> u64 {
        let board = locked(&self.board);
        board.commits + board.behind
    }

    /// So often, and once more for each agent.
    async fn all_answered(&mut self, before: u64) {
        let end = Instant::now() + SETTLE;
        while self.answered() < before + self.orders.len() as u64 {
            self.look();
            assert!(Instant::now() < end, "agents hear nothing for {SETTLE:?}");
            sleep(Duration::from_millis(20)).await;
        }
        self.look();
    }
}
