//! How a run went over time: what was seen since the last look, look by look.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::{process, score::Score, sockets};

/// A run has so many looks at most, and they are never closer than this.
const LOOKS: u32 = 120;
const CLOSEST: Duration = Duration::from_millis(250);

/// What was seen at a look.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Point {
    /// Since the first change was due.
    pub(crate) seconds: f64,
    /// Of the changes that arrived since the last look; none arrived: none.
    pub(crate) latency_p50_ms: Option<f64>,
    pub(crate) latency_p99_ms: Option<f64>,
    /// Processors that the servers and the tester kept busy since the last look.
    pub(crate) server_cores: Option<f64>,
    pub(crate) tester_cores: f64,
    /// Resident memory of all servers.
    pub(crate) server_rss_bytes: Option<u64>,
    /// Memory that the kernel holds for all TCP sockets of the machine.
    pub(crate) socket_bytes: u64,
    /// Bytes from the servers since the last look.
    pub(crate) bytes_per_second: f64,
}

/// Looks again and again.
pub(crate) struct Series {
    addresses: Vec<SocketAddr>,
    servers: Vec<u32>,
    testers: Vec<u32>,
    began: Instant,
    last: Instant,
    server_cpu: Option<Duration>,
    tester_cpu: Duration,
    received: HashMap<SocketAddr, u64>,
    /// Bytes since the start. What came over a connection between the last look and its end is missing.
    pub(crate) bytes: u64,
    latencies: Histogram<u64>,
    points: Vec<Point>,
}

impl Series {
    /// Begins; `servers` are the processes at `addresses`, none when they aren't known.
    pub(crate) fn start(
        addresses: &[SocketAddr],
        servers: &[u32],
        testers: &[u32],
        found: &Score,
    ) -> io::Result<Self> {
        found.take_latencies();
        Ok(Self {
            addresses: addresses.to_vec(),
            servers: servers.to_vec(),
            testers: testers.to_vec(),
            began: Instant::now(),
            last: Instant::now(),
            server_cpu: process::cpu_of(servers)?,
            tester_cpu: process::cpu_of(testers)?.unwrap_or_default(),
            received: received(addresses),
            bytes: 0,
            latencies: found.take_latencies(),
            points: Vec::new(),
        })
    }

    /// How often to look in a run of this length.
    pub(crate) fn interval(length: Duration) -> Duration {
        (length / LOOKS).max(CLOSEST)
    }

    /// Looks once.
    pub(crate) fn look(&mut self, found: &Score) -> io::Result<()> {
        let now = Instant::now();
        let seconds = now.duration_since(self.last).as_secs_f64().max(1e-3);
        let cores = |now: Duration, was| now.saturating_sub(was).as_secs_f64() / seconds;
        let server_cpu = process::cpu_of(&self.servers)?;
        let tester_cpu = process::cpu_of(&self.testers)?.unwrap_or_default();
        let received = received(&self.addresses);
        let more = |(local, bytes): (&SocketAddr, &u64)| {
            // A port that is taken again counts anew.
            bytes.checked_sub(self.received.get(local).copied().unwrap_or(0)).unwrap_or(*bytes)
        };
        let bytes: u64 = received.iter().map(more).sum();
        let latencies = found.take_latencies();
        let at = |quantile| latencies.value_at_quantile(quantile) as f64 / 1000.0;
        let some = !latencies.is_empty();
        self.points.push(Point {
            seconds: now.duration_since(self.began).as_secs_f64(),
            latency_p50_ms: some.then(|| at(0.5)),
            latency_p99_ms: some.then(|| at(0.99)),
            server_cores: server_cpu.zip(self.server_cpu).map(|(now, was)| cores(now, was)),
            tester_cores: cores(tester_cpu, self.tester_cpu),
            server_rss_bytes: process::rss_of(&self.servers),
            socket_bytes: process::socket_memory()?,
            bytes_per_second: bytes as f64 / seconds,
        });
        // All have the same bounds.
        let _ = self.latencies.add(&latencies);
        self.bytes += bytes;
        (self.last, self.received) = (now, received);
        (self.server_cpu, self.tester_cpu) = (server_cpu, tester_cpu);
        Ok(())
    }

    /// The looks, and all latencies.
    pub(crate) fn end(mut self, found: &Score) -> (Vec<Point>, Histogram<u64>) {
        let _ = self.latencies.add(found.take_latencies());
        (self.points, self.latencies)
    }
}

/// Bytes received so far on each connection to any of the servers. A machine that doesn't tell has none.
fn received(servers: &[SocketAddr]) -> HashMap<SocketAddr, u64> {
    let of = |server: &SocketAddr| sockets::received_from(*server).unwrap_or_default();
    // A local address may have a connection to each of them.
    let mut all = HashMap::new();
    for (local, bytes) in servers.iter().flat_map(of) {
        *all.entry(local).or_default() += bytes;
    }
    all
}
