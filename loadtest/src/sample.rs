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
    server: Option<u32>,
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
    /// `testers`: processes of the tester besides this one.
    pub(crate) fn start(server: Option<u32>, mut testers: Vec<u32>) -> io::Result<Self> {
        testers.push(std::process::id());
        let (highest, kernel) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let watcher = tokio::spawn({
            let (highest, kernel) = (highest.clone(), kernel.clone());
            async move {
                loop {
                    // A server that is gone is noticed elsewhere.
                    let rss = server.and_then(|pid| process::rss(pid).ok()).unwrap_or_default();
                    highest.fetch_max(rss, Ordering::Relaxed);
                    let sockets = process::socket_memory().unwrap_or_default();
                    kernel.fetch_max(sockets, Ordering::Relaxed);
                    tokio::time::sleep(INTERVAL).await;
                }
            }
        });
        Ok(Self {
            server,
            began: Instant::now(),
            server_cpu: server.map(process::cpu_time).transpose()?,
            tester_cpu: cpu_of(&testers)?,
            testers,
            machine: machine()?,
            highest,
            kernel,
            watcher,
        })
    }

    pub(crate) fn stop(self) -> io::Result<Usage> {
        self.watcher.abort();
        let server_cpu = match (self.server, self.server_cpu) {
            (Some(pid), Some(before)) => Some(process::cpu_time(pid)?.saturating_sub(before)),
            _ => None,
        };
        let (busy, all) = machine()?;
        let busy = busy.saturating_sub(self.machine.0);
        let all = all.saturating_sub(self.machine.1).max(1);
        Ok(Usage {
            server_cpu,
            server_rss: self.server.map(|_| self.highest.load(Ordering::Relaxed)),
            kernel: self.kernel.load(Ordering::Relaxed),
            tester_cpu: cpu_of(&self.testers)?.saturating_sub(self.tester_cpu),
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

fn cpu_of(processes: &[u32]) -> io::Result<Duration> {
    processes.iter().map(|pid| process::cpu_time(*pid)).sum()
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
