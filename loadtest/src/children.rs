//! A store and a typha as processes of their own, by running this very program again.
//!
//! A child says on its stdout where it listens, and ends when its stdin is closed: when the parent
//! ends, however it ends.

use std::{
    ffi::OsString,
    io::{self, Write as _},
    net::{Ipv4Addr, SocketAddr},
    os::unix::process::CommandExt as _,
    path::Path,
    process::Stdio,
};

use anyhow::{Context as _, bail};
use clap::ValueEnum;
use datastore::StoreConfig;
use nix::sys::{prctl, signal::Signal};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::{Child, ChildStdin, Command},
};

use crate::{memory, worker};

/// What a child does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// The embedded store.
    Store,
    /// The server.
    Typha,
    /// Some of the agents.
    Agents,
    /// Another program, in the place of this one.
    Program,
}

/// A running child.
pub(crate) struct Process {
    child: Child,
    /// Closing it ends the child.
    _stdin: ChildStdin,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// Its process.
    pub(crate) pid: u32,
}

impl Process {
    /// Runs `command`, which must say `ready ADDRESS` on its stdout.
    pub(crate) async fn start(mut command: Command, what: &str) -> anyhow::Result<Self> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("{what} can't be started"))?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let (Some(stdin), Some(stdout)) = (stdin, stdout) else {
            bail!("{what} has no stdin or stdout");
        };
        let pid = child.id().with_context(|| format!("{what} ended at once"))?;
        let mut line = String::new();
        BufReader::new(stdout).read_line(&mut line).await?;
        let Some(address) = line.trim().strip_prefix("ready ") else {
            let status = child.wait().await?;
            bail!("{what} did not start: {status}; its words are above");
        };
        let address = address.parse().with_context(|| format!("{what} says {line:?}"))?;
        Ok(Self { child, _stdin: stdin, address, pid })
    }

    /// Ends it.
    pub(crate) async fn stop(mut self) {
        // It may have ended by itself.
        let _ = self.child.kill().await;
    }
}

/// Where the `number`th replica listens: each has a loopback address of its own, and so its agents all their ports.
pub(crate) fn loopback(number: u32) -> SocketAddr {
    let first = u32::from(Ipv4Addr::LOCALHOST);
    SocketAddr::from((Ipv4Addr::from(first + number % 250), 0))
}

/// This program as a child. `prefix` are the arguments that lead to the load test's own.
pub(crate) fn command(prefix: &[&str], part: Part) -> anyhow::Result<Command> {
    let program = std::env::current_exe().context("this program's own file")?;
    let mut command = Command::new(program);
    let name = part.to_possible_value().map(|value| value.get_name().to_owned());
    command.args(prefix).arg("--part").args(name);
    if part != Part::Agents {
        memory::as_shipped(&mut command);
    }
    Ok(command)
}

/// `program` as a child that ends with this process, however it ends. Its arguments are added to the command.
pub(crate) fn guarded(prefix: &[&str], program: &Path) -> anyhow::Result<Command> {
    let mut command = command(prefix, Part::Program)?;
    command.arg("--").arg(program);
    Ok(command)
}

/// Goes on as another program, which is killed when the parent ends; returns only when that fails.
pub(crate) fn become_program(program: &[OsString]) -> io::Error {
    let Some((file, arguments)) = program.split_first() else {
        return io::Error::new(io::ErrorKind::InvalidInput, "a program must be given");
    };
    match prctl::set_pdeathsig(Signal::SIGKILL) {
        Ok(()) => std::process::Command::new(file).args(arguments).exec(),
        Err(error) => error.into(),
    }
}

/// What a child does until its stdin is closed. `listen`: where a server does, else anywhere.
pub(crate) async fn run(
    part: Part,
    store: Option<&str>,
    agents: usize,
    listen: Option<SocketAddr>,
) -> anyhow::Result<()> {
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    match part {
        Part::Store => {
            let store = embedded::Server::start(embedded::Config::default()).await?;
            say_ready(store.addr());
            closed().await;
            store.shutdown().await?;
        }
        Part::Typha => {
            let typha = typha::Typha::start(typha::Config {
                store: StoreConfig::from_url(store.unwrap_or_default())?,
                pod_cidrs: false,
                record: None,
                listen: listen.unwrap_or(any),
                tls: None,
                shared_name: None,
                plaintext: false,
                limits: typha::Limits::default(),
                max_connections: agents,
                min_connections: 400,
                alternatives: Vec::new(),
                health: any,
                metrics: any,
                status: any,
            })
            .await?;
            say_ready(typha.address());
            closed().await;
            // Agents are gone: there is nobody to say goodbye to.
            drop(typha);
        }
        Part::Agents => worker::run().await?,
        Part::Program => bail!("a program takes the place of this one before"),
    }
    Ok(())
}

/// Tells the parent where the child listens.
fn say_ready(address: SocketAddr) {
    // A parent that is gone has closed stdin too, which ends the child.
    let _ = writeln!(io::stdout(), "ready {address}");
}

/// Ends when stdin does.
async fn closed() {
    let _ = tokio::io::stdin().read_to_end(&mut Vec::new()).await;
}
