//! What server, tester and machine used over a time.

use std::{
    fs, io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::task::JoinHandle;

use crate::{process, report::Limit};

/// Memory is looked at so often.
const INTERVAL: Duration = Duration::from_millis(50);
/// A machine that is busier than this has nothing left.
const BUSY: f64 = 0.9;

/// Measures from its start on.
pub(crate) struct Sampler {
    servers: Vec<u32>,
    testers: Vec<u32>,
    began: Instant,
    server_cpu: Option<Duration>,
    tester_cpu: Duration,
    machine: (u64, u64),
    highest: Arc<AtomicU64>,
    kernel: Arc<AtomicU64>,
    watcher: JoinHandle<()>,
}

/// What was used.
#[derive(Debug)]
pub(crate) struct Usage {
    pub(crate) server_cpu: Option<Duration>,
    pub(crate) server_rss: Option<u64>,
    /// Memory of all sockets of the machine at its highest.
    pub(crate) kernel: u64,
    pub(crate) tester_cpu: Duration,
    /// Of all processors, the part that anything used.
    pub(crate) machine_busy: f64,
    /// Processor time of everything on the machine.
    busy: Duration,
    pub(crate) wall: Duration,
}

impl Sampler {
    /// Of these processes, the tester's with this one.
    pub(crate) fn start(servers: &[u32], testers: &[u32]) -> io::Result<Self> {
        let servers = servers.to_vec();
        let (highest, kernel) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let watcher = tokio::spawn({
            let (highest, kernel) = (highest.clone(), kernel.clone());
            let servers = servers.clone();
            async move {
                loop {
                    // A server that is gone is noticed elsewhere.
                    let rss = process::rss_of(&servers).unwrap_or_default();
                    highest.fetch_max(rss, Ordering::Relaxed);
                    let sockets = process::socket_memory().unwrap_or_default();
                    kernel.fetch_max(sockets, Ordering::Relaxed);
                    tokio::time::sleep(INTERVAL).await;
                }
            }
        });
        Ok(Self {
            began: Instant::now(),
            server_cpu: process::cpu_of(&servers)?,
            servers,
            tester_cpu: process::cpu_of(testers)?.unwrap_or_default(),
            testers: testers.to_vec(),
            machine: machine()?,
            highest,
            kernel,
            watcher,
        })
    }

    pub(crate) fn stop(self) -> io::Result<Usage> {
        self.watcher.abort();
        let cpu = process::cpu_of(&self.servers)?.zip(self.server_cpu);
        let tester_cpu = process::cpu_of(&self.testers)?.unwrap_or_default();
        let (busy, all) = machine()?;
        let busy = busy.saturating_sub(self.machine.0);
        let all = all.saturating_sub(self.machine.1).max(1);
        Ok(Usage {
            server_cpu: cpu.map(|(now, before)| now.saturating_sub(before)),
            server_rss: cpu.map(|_| self.highest.load(Ordering::Relaxed)),
            kernel: self.kernel.load(Ordering::Relaxed),
            tester_cpu: tester_cpu.saturating_sub(self.tester_cpu),
            machine_busy: busy as f64 / all as f64,
            busy: process::ticks(busy)?,
            wall: self.began.elapsed(),
        })
    }
}

impl Usage {
    /// Who was the limit; `late`: events were sent too late.
    pub(crate) fn limit(&self, late: bool) -> Limit {
        let (server, tester) = (self.server_cpu.unwrap_or_default(), self.tester_cpu);
        let others = self.busy.saturating_sub(server + tester);
        let used = [(others, Limit::Others), (server, Limit::Server), (tester, Limit::Tester)];
        let most = used.into_iter().max_by_key(|(cpu, _)| *cpu);
        if self.machine_busy > BUSY {
            most.map_or(Limit::Nothing, |(_, limit)| limit)
        } else if late {
            Limit::Tester
        } else {
            Limit::Nothing
        }
    }
}

/// Ticks of all processors so far: busy ones, and all.
fn machine() -> io::Result<(u64, u64)> {
    let stat = fs::read_to_string("/proc/stat")?;
    let first = stat.lines().next().unwrap_or_default();
    // user nice system idle iowait irq softirq steal; guests are in user already.
    let ticks: Vec<u64> =
        first.split_whitespace().skip(1).take(8).filter_map(|text| text.parse().ok()).collect();
    let all = ticks.iter().sum();
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    Ok((all - idle, all))
}
