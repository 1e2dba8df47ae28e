//! The lab's parts: a store, typha and an agent for each node, as processes that outlive the command that starts them.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, bail};
use serde::{Deserialize, Serialize};

use super::{
    plan::{Node, Plan},
    processes,
};

/// The name of the store's part.
pub(crate) const STORE: &str = "store";
/// The name of typha's part.
pub(crate) const TYPHA: &str = "typha";

/// What of the caller's environment a part gets. Anything else may be meant for another etcd or typha.
const KEPT: [&str; 4] = ["PATH", "HOME", "RUST_LOG", "RUST_BACKTRACE"];
/// How much of a log an error message shows.
const LOG_LINES: usize = 8;

/// A process of the lab.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Part {
    /// `store`, `typha` or `agent-<node>`.
    pub(crate) name: String,
    /// The namespace that it runs in; none: the host's.
    netns: Option<String>,
    program: PathBuf,
    args: Vec<String>,
}

/// The name of a node's agent.
pub(crate) fn agent_name(node: &str) -> String {
    format!("agent-{node}")
}

impl Part {
    fn bulrush(name: &str, netns: Option<String>, args: &[&str]) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("finding this program's own file")?;
        let args = ["run"].iter().chain(args).map(|arg| (*arg).to_owned()).collect();
        Ok(Self { name: name.to_owned(), netns, program, args })
    }

    /// The embedded store, with its data in the lab's folder so that it survives a restart.
    pub(crate) fn embedded_store(folder: &Path, at: SocketAddr) -> anyhow::Result<Self> {
        let listen = at.to_string();
        let data = folder.join("store-data").display().to_string();
        Self::bulrush(STORE, None, &["store", "--listen", &listen, "--data-dir", &data])
    }

    /// A real etcd of one member.
    pub(crate) fn etcd(folder: &Path, at: SocketAddr, peer_port: u16) -> anyhow::Result<Self> {
        let client = format!("http://{at}");
        let peer = format!("http://127.0.0.1:{peer_port}");
        let data = folder.join("store-data").display().to_string();
        let cluster = format!("lab={peer}");
        let args = [
            ["--name", "lab"],
            ["--data-dir", &data],
            ["--listen-client-urls", &client],
            ["--advertise-client-urls", &client],
            ["--listen-peer-urls", &peer],
            ["--initial-advertise-peer-urls", &peer],
            ["--initial-cluster", &cluster],
            ["--log-outputs", "stderr"],
        ];
        let args = args.concat().into_iter().map(str::to_owned).collect();
        Ok(Self { name: STORE.to_owned(), netns: None, program: find_etcd()?, args })
    }

    /// typha on the host, at the address that nodes reach.
    pub(crate) fn typha(plan: &Plan, store: &str, ports: TyphaPorts) -> anyhow::Result<Self> {
        let listen = plan.host.addr().to_string();
        let [agents, health, metrics, status] =
            [ports.agents, ports.health, ports.metrics, ports.status].map(|port| port.to_string());
        let args = [
            ["typha", "--plaintext"],
            ["--store", store],
            ["--listen", &listen],
            ["--port", &agents],
            ["--health-port", &health],
            ["--metrics-port", &metrics],
            ["--status-port", &status],
        ];
        Self::bulrush(TYPHA, None, &args.concat())
    }

    /// The agent of a node, in the node's namespace, with its saved view in the lab's folder. Its view
    /// comes `from`: `--typha` or `--store`, and an address.
    pub(crate) fn agent(folder: &Path, node: &Node, from: [&str; 2]) -> anyhow::Result<Self> {
        let name = agent_name(&node.name);
        let state = folder.join(format!("{name}-state")).display().to_string();
        let args = ["node-agent", "--node", &node.name, "--state-dir", &state, from[0], from[1]];
        Self::bulrush(&name, Some(node.netns.clone()), &args)
    }

    /// Starts it, in a session of its own.
    pub(crate) fn start(&self, folder: &Path) -> anyhow::Result<()> {
        if self.runs(folder) {
            bail!("{} runs already", self.name);
        }
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log(folder))
            .with_context(|| format!("opening {}", self.log(folder).display()))?;
        // Both of the programs in front end by turning into the next one: the pid stays.
        let mut command = Command::new("setsid");
        if let Some(netns) = &self.netns {
            command.args(["ip", "netns", "exec", netns]);
        }
        command
            .arg(&self.program)
            .args(&self.args)
            .env_clear()
            .envs(KEPT.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?))))
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("a second handle of the log")?)
            .stderr(log)
            .spawn()
            .map(drop)
            .context("running `setsid`: install util-linux")
    }

    /// Kills it as a crash would.
    pub(crate) fn kill(&self, folder: &Path) -> anyhow::Result<()> {
        let own = || processes::of_parts(folder).remove(&self.name).unwrap_or_default();
        processes::kill_all(own).with_context(|| format!("killing {}", self.name))
    }

    /// Whether it runs.
    pub(crate) fn runs(&self, folder: &Path) -> bool {
        processes::of_parts(folder).contains_key(&self.name)
    }

    /// Where its output goes.
    pub(crate) fn log(&self, folder: &Path) -> PathBuf {
        processes::log(folder, &self.name)
    }

    /// The end of its output, for an error message.
    pub(crate) fn last_words(&self, folder: &Path) -> String {
        let bytes = fs::read(self.log(folder)).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        let lines: Vec<&str> = text.lines().collect();
        let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
        format!("the end of {}:\n  {}", self.log(folder).display(), last.join("\n  "))
    }
}

/// Where typha listens: `status` on loopback, the others on the host's address in the lab.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TyphaPorts {
    pub(crate) agents: u16,
    pub(crate) health: u16,
    pub(crate) metrics: u16,
    pub(crate) status: u16,
}

/// An etcd where tests find it too: `KUBEBUILDER_ASSETS`, the cache of test servers (the newest), `PATH`.
fn find_etcd() -> anyhow::Result<PathBuf> {
    let mut folders: Vec<PathBuf> =
        std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from).into_iter().collect();
    let cache = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")));
    if let Some(servers) = cache.and_then(|cache| cache.join("bulrush/servers").read_dir().ok()) {
        let mut cached: Vec<PathBuf> = servers.flatten().map(|entry| entry.path()).collect();
        cached.sort();
        folders.extend(cached.into_iter().rev());
    }
    folders.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
    let found = folders.into_iter().map(|folder| folder.join("etcd")).find(|path| path.is_file());
    let found = found.context(
        "no etcd found: install etcd-server, or use the embedded store (without --store)",
    )?;
    found.canonicalize().with_context(|| format!("finding {}", found.display()))
}
