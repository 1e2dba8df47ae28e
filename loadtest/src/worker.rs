//! Agents in a process of their own: for more files than one process may open, and to stop them all at once.
//!
//! ```text
//! parent: Fleet --Order, one line each--> stdin  child: Fleet --> Score
//!         Score <--- Tally, one line each --- stdout <-- what came since the last line --+
//! ```

use std::{
    io::{self, Write as _},
    net::SocketAddr,
    ops::Range,
    process::Stdio,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, bail};
use nix::{
    sys::{
        prctl,
        signal::{self, Signal},
    },
    unistd::Pid,
};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines, Stdin},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};

use crate::{
    churn::{Effect, View},
    delivery::Written,
    fleet::{Fleet, Rest, Setup},
    process,
    score::{Score, Tally},
    world::World,
};

/// A child says so often what its agents have found.
const TALLY: Duration = Duration::from_millis(50);
/// A child that is told to stop has stopped after so long.
const STOP: Duration = Duration::from_mins(2);

/// What a child is to do. The parent's end of its stdin is the last order.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Order {
    /// The first one.
    Start(Start),
    /// Writes of one version.
    Written(u64, Vec<(SystemTime, Vec<Effect>)>),
    /// Nothing more will be written.
    Closed,
    /// Agents end their streams, and come back.
    Again(u64),
    /// All agents end.
    Stop,
}

/// Which agents.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Start {
    pub(crate) agents: u32,
    pub(crate) mine: Range<u32>,
    pub(crate) check_every: u32,
    pub(crate) rest: Rest,
    pub(crate) at_once: usize,
    pub(crate) servers: Vec<SocketAddr>,
    pub(crate) view: View,
    pub(crate) acks: bool,
    pub(crate) world: World,
    pub(crate) version: u64,
    pub(crate) deadline: Duration,
}

impl Order {
    /// Writes of one version, as another process reads them.
    pub(crate) fn written<'a>(version: u64, writes: impl IntoIterator<Item = &'a Written>) -> Self {
        let (instant, system) = (Instant::now(), SystemTime::now());
        let when = |due: Instant| match due.checked_duration_since(instant) {
            Some(later) => system + later,
            None => system - instant.duration_since(due),
        };
        let writes = writes.into_iter().map(|write| (when(write.due), write.effects.clone()));
        Self::Written(version, writes.collect())
    }

    fn line(&self) -> anyhow::Result<Vec<u8>> {
        let mut line = serde_json::to_vec(self)?;
        line.push(b'\n');
        Ok(line)
    }
}

/// The parent's side of one child.
pub(crate) struct Worker {
    child: Child,
    pub(crate) pid: u32,
    orders: mpsc::UnboundedSender<Arc<Order>>,
    feeder: JoinHandle<()>,
    reader: JoinHandle<anyhow::Result<()>>,
}

impl Worker {
    /// Runs `command`, which must be this program as a child, and adds what its agents find to `score`.
    pub(crate) fn start(
        mut command: Command,
        start: Start,
        score: impl Fn(&Tally) + Send + 'static,
    ) -> anyhow::Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().context("a process of agents can't be started")?;
        let pid = child.id().context("a process of agents ended at once")?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (Some(stdin), Some(stdout)) = (stdin, stdout) else {
            bail!("a process of agents has no stdin or stdout");
        };
        let (orders, queue) = mpsc::unbounded_channel();
        // The other end is held here.
        let _ = orders.send(Arc::new(Order::Start(start)));
        let feeder = tokio::spawn(feed(stdin, queue));
        let reader = tokio::spawn(read(stdout, score));
        Ok(Self { child, pid, orders, feeder, reader })
    }

    /// Where orders go.
    pub(crate) fn orders(&self) -> mpsc::UnboundedSender<Arc<Order>> {
        self.orders.clone()
    }

    /// Stops the process where it is, as a machine that hangs; or lets it go on.
    pub(crate) fn freeze(&self, frozen: bool) -> anyhow::Result<()> {
        let signal = if frozen { Signal::SIGSTOP } else { Signal::SIGCONT };
        signal::kill(Pid::from_raw(self.pid.cast_signed()), signal)?;
        Ok(())
    }

    /// Ends its agents, and waits for the last of what they have found.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        let _ = self.orders.send(Arc::new(Order::Stop));
        let read = timeout(STOP, &mut self.reader).await;
        // It may have ended by itself.
        let _ = self.child.kill().await;
        self.feeder.abort();
        read.context("a process of agents does not stop")??
    }
}

async fn feed(mut stdin: ChildStdin, mut orders: mpsc::UnboundedReceiver<Arc<Order>>) {
    while let Some(order) = orders.recv().await {
        let Ok(line) = order.line() else { return };
        // A child that is gone is noticed by whoever reads from it.
        if stdin.write_all(&line).await.is_err() {
            return;
        }
    }
}

async fn read(stdout: ChildStdout, score: impl Fn(&Tally)) -> anyhow::Result<()> {
    let mut lines = BufReader::new(stdout).lines();
    while let Some(line) = lines.next_line().await? {
        let tally: Tally = serde_json::from_str(&line)
            .with_context(|| format!("of a process of agents: {line}"))?;
        score(&tally);
        if tally.last {
            return Ok(());
        }
    }
    bail!("a process of agents ended early; its words are above")
}

/// The child: runs agents as it is told on stdin, until that is closed.
pub(crate) async fn run() -> anyhow::Result<()> {
    // A child that is stopped doesn't notice that its stdin is closed.
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    let mut lines = BufReader::new(tokio::io::stdin()).lines();
    let Some(Order::Start(start)) = order(&mut lines).await? else {
        bail!("the first order must be to start");
    };
    let most = process::files_of(start.mine.len() as u32);
    if let Err(limit) = process::raise_open_files(most) {
        bail!("{} agents need {most} open files, and the limit is {limit}", start.mine.len());
    }
    let mut fleet = Fleet::start(Setup {
        agents: start.agents,
        mine: start.mine,
        check_every: start.check_every,
        rest: start.rest,
        at_once: start.at_once,
        servers: start.servers,
        tls: None,
        view: start.view,
        acks: start.acks,
        world: start.world,
        version: start.version,
        deadline: start.deadline,
        inject: None,
    })?;
    let mut tick = tokio::time::interval(TALLY);
    loop {
        tokio::select! {
            order = order(&mut lines) => match order? {
                Some(Order::Written(version, writes)) => written(fleet.found(), version, writes),
                Some(Order::Closed) => fleet.found().closed(),
                Some(Order::Again(which)) => fleet.again(which),
                Some(Order::Stop) => {
                    fleet.stop().await?;
                    return say(&fleet.found().tally(true));
                }
                // The parent is gone.
                None | Some(Order::Start(_)) => return Ok(()),
            },
            _ = tick.tick() => {
                let tally = fleet.found().tally(false);
                if tally != Tally::default() {
                    say(&tally)?;
                }
            }
        }
    }
}

fn written(score: &Score, version: u64, writes: Vec<(SystemTime, Vec<Effect>)>) {
    let (instant, system) = (Instant::now(), SystemTime::now());
    let when = |due: SystemTime| match system.duration_since(due) {
        Ok(before) => instant.checked_sub(before).unwrap_or(instant),
        Err(after) => instant + after.duration(),
    };
    let writes =
        writes.into_iter().map(|(due, effects)| Written { version, due: when(due), effects });
    score.written(version, writes.collect());
}

/// The next order. Dropping the future loses nothing.
async fn order(lines: &mut Lines<BufReader<Stdin>>) -> anyhow::Result<Option<Order>> {
    let Some(line) = lines.next_line().await? else { return Ok(None) };
    Ok(Some(serde_json::from_str(&line)?))
}

fn say(tally: &Tally) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(tally)?;
    line.push(b'\n');
    let mut stdout = io::stdout().lock();
    stdout.write_all(&line)?;
    stdout.flush()?;
    Ok(())
}
