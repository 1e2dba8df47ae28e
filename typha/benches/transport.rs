//! What a server's transport costs, beside the plainest server that could do the same.
//!
//! ```text
//! cargo build --release -p bulrush-baseline
//! cargo bench -p bulrush-typha --bench transport -- --agents 1000
//! ```
//!
//! Both servers are processes of their own that read one store; agents live here and have the full
//! view. Figures of both come from the same run, since only their ratio says something on a machine
//! that others use too: CPU by the kernel's count, memory as the resident set.

#![allow(clippy::unwrap_used, reason = "a benchmark fails by panicking")]

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use clap::Parser;
use etcd_client::{Client, Txn, TxnOp};
use proto::v1::{
    AgentHello, AgentMessage, View, agent_message, server_message::Message,
    typha_client::TyphaClient,
};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{codec::CompressionEncoding, transport::Endpoint};

#[derive(Parser)]
struct Args {
    /// How many agents.
    #[arg(long, default_value_t = 1000)]
    agents: usize,
    /// Rounds per number of changes.
    #[arg(long, default_value_t = 20)]
    rounds: usize,
    /// How long agents are idle before memory is read, seconds.
    #[arg(long, default_value_t = 10)]
    idle: u64,
    /// Only these: changes, first, idle.
    #[arg(long, value_delimiter = ',', default_value = "changes,first,idle")]
    only: Vec<String>,
    /// Without the baseline.
    #[arg(long)]
    alone: bool,
    /// Passed by `cargo bench`.
    #[arg(long)]
    bench: bool,
}

/// A server process.
struct Server {
    name: &'static str,
    process: Child,
    address: String,
}

impl Server {
    fn typha(store: &str) -> Self {
        let port = free_port();
        let port_text = port.to_string();
        let mut command = Command::new(env!("CARGO_BIN_EXE_typha"));
        command.args(["--log", "warn", "--store", store, "--port", &port_text]);
        command.args(["--health-port", "0", "--metrics-port", "0", "--status-port", "0"]);
        Self::start("typha", command, port)
    }

    fn baseline(store: &str) -> Self {
        let program = baseline();
        assert!(
            program.exists(),
            "{}: cargo build --release -p bulrush-baseline",
            program.display()
        );
        let port = free_port();
        let mut command = Command::new(program);
        command.args(["--store", store, "--listen", &format!("127.0.0.1:{port}")]);
        Self::start("baseline", command, port)
    }

    fn start(name: &'static str, mut command: Command, port: u16) -> Self {
        let process = command.stdout(Stdio::null()).spawn().unwrap();
        Self { name, process, address: format!("127.0.0.1:{port}") }
    }

    /// What the kernel counts: seconds on a processor, all threads.
    fn cpu(&self) -> f64 {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.process.id())).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        let ticks: u64 = fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        ticks as f64 / 100.0
    }

    /// A line of `/proc/…/status`, bytes.
    fn memory(&self, what: &str) -> i64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(what)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<i64>().unwrap() * 1024
    }

    /// The peak is counted from now on.
    fn reset_peak(&self) {
        fs::write(format!("/proc/{}/clear_refs", self.process.id()), "5").unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Where cargo has put it: two folders above this program.
fn baseline() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    own.ancestors().nth(2).unwrap_or(Path::new("/")).join("bulrush-baseline")
}

/// Agents that take what they are sent, and count.
struct Agents {
    /// Per agent, how many commits came.
    commits: Vec<watch::Receiver<u64>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Agents {
    fn connect(server: &Server, count: usize) -> Self {
        let mut agents = Self { commits: Vec::new(), tasks: Vec::new() };
        for _ in 0..count {
            let (sender, commits) = watch::channel(0);
            agents.commits.push(commits);
            agents.tasks.push(tokio::spawn(agent(server.address.clone(), sender)));
        }
        agents
    }

    /// Waits until each has got so many commits more than `before`.
    async fn all_at(&mut self, commits: u64) {
        for agent in &mut self.commits {
            agent.wait_for(|now| *now >= commits).await.unwrap();
        }
    }
}

impl Drop for Agents {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

async fn agent(address: String, commits: watch::Sender<u64>) {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let channel = loop {
        match endpoint.clone().tcp_nodelay(true).initial_stream_window_size(1 << 20).connect().await
        {
            Ok(channel) => break channel,
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    let (outbound, messages) = mpsc::channel(1);
    let hello = AgentHello { view: View::Full.into(), ..AgentHello::default() };
    let hello = AgentMessage { message: Some(agent_message::Message::Hello(hello)) };
    outbound.send(hello).await.unwrap();
    let mut client = TyphaClient::new(channel).accept_compressed(CompressionEncoding::Zstd);
    let mut inbound = client.sync(ReceiverStream::new(messages)).await.unwrap().into_inner();
    while let Some(message) = inbound.message().await.unwrap() {
        if let Some(Message::Commit(_)) = message.message {
            commits.send_modify(|commits| *commits += 1);
        }
    }
}

/// A network set of about `bytes` bytes.
fn value(seed: usize, bytes: usize) -> String {
    let nets: Vec<String> = (0..bytes / 22)
        .map(|n| format!("{}.{}.{}.{}/32", 1 + n % 200, seed % 251, seed / 251 % 251, n / 200))
        .collect();
    serde_json::json!({"metadata": {"name": "x"}, "spec": {"nets": nets}}).to_string()
}

fn key(n: usize) -> String {
    format!("/calico/resources/v3/projectcalico.org/globalnetworksets/set-{n:05}")
}

async fn write(client: &mut Client, keys: std::ops::Range<usize>, seed: usize, bytes: usize) {
    let puts = keys.map(|n| TxnOp::put(key(n), value(seed + n, bytes), None));
    client.txn(Txn::new().and_then(puts.collect::<Vec<_>>())).await.unwrap();
}

/// CPU of a server per agent for one commit with so many changed entries.
async fn changes(args: &Args, store: &mut Client, server: &Server, counts: &[usize]) -> Vec<f64> {
    let mut agents = Agents::connect(server, args.agents);
    agents.all_at(1).await;
    let mut commits = 1;
    let mut costs = Vec::new();
    for &count in counts {
        let before = server.cpu();
        for round in 0..args.rounds {
            write(store, 0..count, round * 7919 + count, 500).await;
            commits += 1;
            agents.all_at(commits).await;
        }
        let spent = server.cpu() - before;
        let cost = spent * 1e6 / (args.rounds * args.agents) as f64;
        println!("{:>9}: {count:>3} changes: {cost:6.1} µs per agent", server.name);
        costs.push(cost);
    }
    costs
}

/// Growth of a server's memory when all agents get everything at once.
async fn first(args: &Args, server: &Server) -> i64 {
    // One has come before: what every server needs for its first agent doesn't count.
    drop_when_done(Agents::connect(server, 1)).await;
    server.reset_peak();
    let before = (server.memory("VmRSS"), server.cpu());
    let begin = Instant::now();
    let mut agents = Agents::connect(server, args.agents);
    agents.all_at(1).await;
    let growth = server.memory("VmHWM") - before.0;
    println!(
        "{:>9}: first sync of {} agents: {:.1} MB more, {:.2} ms of CPU per agent, {:.1} s",
        server.name,
        args.agents,
        growth as f64 / 1e6,
        (server.cpu() - before.1) * 1e3 / args.agents as f64,
        begin.elapsed().as_secs_f64(),
    );
    growth
}

async fn drop_when_done(mut agents: Agents) {
    agents.all_at(1).await;
}

/// Memory of a server per idle agent.
async fn idle(args: &Args, server: &Server) {
    drop_when_done(Agents::connect(server, 1)).await;
    let before = server.memory("VmRSS");
    let mut agents = Agents::connect(server, args.agents);
    agents.all_at(1).await;
    tokio::time::sleep(Duration::from_secs(args.idle)).await;
    let each = (server.memory("VmRSS") - before) as f64 / args.agents as f64 / 1024.0;
    println!("{:>9}: {each:.1} KiB per idle agent", server.name);
}

#[tokio::main]
async fn main() {
    let args = Args::parse();
    let store = embedded::Server::start(embedded::Config::default()).await.unwrap();
    let url = format!("http://{}", store.addr());
    let mut client = Client::connect([&url], None).await.unwrap();
    let servers = || {
        let baseline = (!args.alone).then(|| Server::baseline(&url));
        [baseline, Some(Server::typha(&url))].into_iter().flatten()
    };
    let does = |what: &str| args.only.iter().any(|only| only == what);
    write(&mut client, 0..100, 0, 500).await;
    if does("changes") {
        let counts = [1, 10, 100];
        let mut all = Vec::new();
        for server in servers() {
            all.push(changes(&args, &mut client, &server, &counts).await);
        }
        if let [baseline, typha] = all.as_slice() {
            for ((count, typha), baseline) in counts.iter().zip(typha).zip(baseline) {
                println!("    ratio: {count:>3} changes: {:.2}", typha / baseline);
            }
        }
    }
    if does("idle") {
        for server in servers() {
            idle(&args, &server).await;
        }
    }
    if does("first") {
        for start in (0..1000).step_by(100) {
            write(&mut client, start..start + 100, start, 2000).await;
        }
        for server in servers() {
            first(&args, &server).await;
        }
    }
    store.shutdown().await.unwrap();
}
