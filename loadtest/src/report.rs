//! The report of a run, and the comparison of two.

use std::{fmt::Write as _, fs, path::Path};

use anyhow::Context as _;
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::{
    churn::{Profile, View},
    inject::Inject,
    score::Errors,
    series::Point,
    world::Topology,
};

/// What a run was, and what it found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Simulated agents, each on its own connection.
    pub(crate) agents: u32,
    /// Of these, the ones that checked everything that they got; the others counted Commits.
    pub(crate) checked: u32,
    /// What they asked for.
    pub(crate) view: View,
    /// What changed.
    pub(crate) profile: Profile,
    /// Events per second that the schedule had.
    pub(crate) rate: f64,
    /// How long the schedule was.
    pub(crate) seconds: f64,
    /// Servers, between which agents moved.
    #[serde(default = "one")]
    pub(crate) servers: u32,
    /// Who may talk to whom.
    #[serde(default = "clients")]
    pub(crate) topology: Topology,
    /// Where the events' random choices start.
    pub(crate) seed: u64,
    /// How the streams were corrupted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) inject: Option<Inject>,
    /// How often.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) injected: Option<u64>,
    /// Nodes and pods of the cluster at the start.
    pub(crate) cluster: Cluster,
    /// Events that were written.
    pub(crate) events: u64,
    /// Commits that became visible, of all agents, without those of the first sync.
    pub(crate) commits: u64,
    /// How often an agent needed an event and a Commit covered it.
    pub(crate) deliveries: u64,
    /// Sessions that ended early.
    pub(crate) reconnects: u64,
    /// What was wrong.
    pub(crate) errors: Errors,
    /// The first errors in words.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(crate) examples: Vec<String>,
    /// From an event's place in the schedule to the Commit at an agent that needs it.
    pub(crate) latency_ms: Latency,
    /// From the first connection until every agent had its view.
    pub(crate) first_sync_seconds: f64,
    /// The server during the events.
    pub(crate) server: Server,
    /// This program during the events.
    pub(crate) tester: Tester,
    /// What kept the figures from being better.
    pub(crate) limited_by: Limit,
    /// How it went over time.
    #[serde(default)]
    pub(crate) series: Vec<Point>,
}

fn one() -> u32 {
    1
}

fn clients() -> Topology {
    Topology::Clients
}

/// How large the cluster is.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Cluster {
    /// Nodes.
    pub(crate) nodes: u32,
    /// Pods.
    pub(crate) pods: u32,
}

/// Percentiles, milliseconds; all 0 when nothing was delivered.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
#[allow(missing_docs, reason = "each field is the percentile of its name")]
pub(crate) struct Latency {
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) p99_9: f64,
    pub(crate) p99_99: f64,
    pub(crate) max: f64,
}

impl From<&Histogram<u64>> for Latency {
    fn from(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        Self {
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            p99_99: at(0.9999),
            max: histogram.max() as f64 / 1000.0,
        }
    }
}

/// What the servers used, together; none: its process isn't known.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Server {
    /// Processor time.
    pub(crate) cpu_seconds: Option<f64>,
    /// Resident memory at its highest.
    pub(crate) rss_bytes: Option<u64>,
    /// Bytes that came from it over all connections, as the kernel counts them.
    pub(crate) bytes_sent: Option<u64>,
}

/// What this program used, and how late it was.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Tester {
    /// Processor time.
    pub(crate) cpu_seconds: f64,
    /// Resident memory at the end.
    pub(crate) rss_bytes: u64,
    /// How late events were sent: 99 of 100 were less.
    pub(crate) lag_ms_p99: f64,
    /// Of all processors, the part that something used.
    pub(crate) machine_busy: f64,
}

/// What kept the figures from being better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Limit {
    /// There was time left.
    Nothing,
    /// Programs that are no part of the test used most of a machine that had no time left.
    Others,
    /// The server used most of the machine.
    Server,
    /// The tester used most of the machine, or wrote too late: the figures say more of it than of
    /// the server.
    Tester,
}

impl Report {
    /// For people.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, value: String| {
            // Writing to a string can't fail.
            let _ = writeln!(text, "{name:<16}{value}");
        };
        let name = |value: serde_json::Value| value.as_str().unwrap_or_default().to_owned();
        let view = name(serde_json::json!(self.view));
        let profile = name(serde_json::json!(self.profile));
        let (agents, checked) = (self.agents, self.checked);
        let some = if checked == agents {
            String::new()
        } else {
            format!(", of which {checked} check what they get")
        };
        line("agents", format!("{agents} with the {view} view{some}"));
        let Cluster { nodes, pods } = self.cluster;
        let talk = match self.topology {
            Topology::Clients => String::new(),
            topology => format!(", policies {}", name(serde_json::json!(topology))),
        };
        line("cluster", format!("{nodes} nodes, {pods} pods{talk}"));
        if self.servers > 1 {
            let (servers, moves) = (self.servers, self.reconnects);
            line("servers", format!("{servers}, {moves} times an agent went to another one"));
        }
        let (rate, seconds, seed) = (self.rate, self.seconds, self.seed);
        line("profile", format!("{profile}, {rate}/s for {seconds} s, seed {seed}"));
        line("first sync", format!("{:.1} s", self.first_sync_seconds));
        line("events", format!("{}, needed {} times", self.events, self.deliveries));
        line("commits", self.commits.to_string());
        let Errors { order, digest, lost } = self.errors;
        line("errors", format!("order {order}, digest {digest}, lost {lost}"));
        if let (Some(inject), Some(count)) = (self.inject, self.injected) {
            line("injected", format!("{} {count} times", name(serde_json::json!(inject))));
        }
        for example in &self.examples {
            line("", example.clone());
        }
        let l = &self.latency_ms;
        line(
            "latency ms",
            format!(
                "p50 {:.1}, p90 {:.1}, p99 {:.1}, p99.9 {:.1}, p99.99 {:.1}, max {:.1}",
                l.p50, l.p90, l.p99, l.p99_9, l.p99_99, l.max
            ),
        );
        let or_unknown = |text: Option<String>| text.unwrap_or_else(|| "unknown".into());
        let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
        line(
            "server",
            format!(
                "cpu {}, memory {}, sent {}",
                or_unknown(self.server.cpu_seconds.map(|s| format!("{s:.2} s"))),
                or_unknown(self.server.rss_bytes.map(mib)),
                or_unknown(self.server.bytes_sent.map(mib)),
            ),
        );
        let tester = &self.tester;
        line(
            "tester",
            format!(
                "cpu {:.2} s, memory {}, lag p99 {:.1} ms, machine {:.0}% busy",
                tester.cpu_seconds,
                mib(tester.rss_bytes),
                tester.lag_ms_p99,
                tester.machine_busy * 100.0
            ),
        );
        let limit = match self.limited_by {
            Limit::Nothing => "nothing",
            Limit::Others => "other programs, which used most of the machine",
            Limit::Server => "the server, which used most of the machine",
            Limit::Tester => "the tester: these figures say more of it than of the server",
        };
        line("limited by", limit.into());
        text
    }

    /// Reads a report that `-o json` has written.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
        serde_json::from_str(&text)
            .with_context(|| format!("{} is no report of a load test", path.display()))
    }
}

/// One line of a comparison.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Line {
    /// Which figure.
    pub(crate) figure: &'static str,
    /// In the first report.
    pub(crate) a: f64,
    /// In the second.
    pub(crate) b: f64,
    /// Second by first; none: the first is 0.
    pub(crate) ratio: Option<f64>,
}

/// One figure of a report; none: it isn't known.
type Figure = fn(&Report) -> Option<f64>;

/// The figures of two runs beside each other.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Comparison {
    /// In which settings the runs differ: then their figures say little.
    pub(crate) differences: Vec<String>,
    /// The figures.
    pub(crate) ratios: Vec<Line>,
}

impl Comparison {
    /// Compares `b` to `a`.
    pub(crate) fn of(a: &Report, b: &Report) -> Self {
        let mut differences = Vec::new();
        let mut same = |name: &str, a: serde_json::Value, b: serde_json::Value| {
            if a != b {
                differences.push(format!("{name}: {a} and {b}"));
            }
        };
        same("agents", a.agents.into(), b.agents.into());
        same("checked", a.checked.into(), b.checked.into());
        same("view", serde_json::json!(a.view), serde_json::json!(b.view));
        same("profile", serde_json::json!(a.profile), serde_json::json!(b.profile));
        same("rate", a.rate.into(), b.rate.into());
        same("seconds", a.seconds.into(), b.seconds.into());
        same("servers", a.servers.into(), b.servers.into());
        same("topology", serde_json::json!(a.topology), serde_json::json!(b.topology));
        same("seed", a.seed.into(), b.seed.into());
        same("cluster", serde_json::json!(a.cluster), serde_json::json!(b.cluster));
        let figures: [(&'static str, Figure); 13] = [
            ("latency p50 ms", |r| Some(r.latency_ms.p50)),
            ("latency p90 ms", |r| Some(r.latency_ms.p90)),
            ("latency p99 ms", |r| Some(r.latency_ms.p99)),
            ("latency p99.9 ms", |r| Some(r.latency_ms.p99_9)),
            ("latency p99.99 ms", |r| Some(r.latency_ms.p99_99)),
            ("latency max ms", |r| Some(r.latency_ms.max)),
            ("first sync s", |r| Some(r.first_sync_seconds)),
            ("commits", |r| Some(r.commits as f64)),
            ("errors", |r| Some(r.errors.total() as f64)),
            ("server cpu s", |r| r.server.cpu_seconds),
            ("server memory bytes", |r| r.server.rss_bytes.map(|bytes| bytes as f64)),
            ("server sent bytes", |r| r.server.bytes_sent.map(|bytes| bytes as f64)),
            ("tester cpu s", |r| Some(r.tester.cpu_seconds)),
        ];
        let ratios = figures.into_iter().filter_map(|(figure, of)| {
            let (a, b) = (of(a)?, of(b)?);
            Some(Line { figure, a, b, ratio: (a != 0.0).then(|| b / a) })
        });
        Self { differences, ratios: ratios.collect() }
    }

    /// For people.
    pub(crate) fn table(&self) -> String {
        let mut text = String::new();
        for difference in &self.differences {
            // Writing to a string can't fail.
            let _ = writeln!(text, "the runs differ in {difference}");
        }
        let _ = writeln!(text, "{:<22}{:>16}{:>16}{:>9}", "", "A", "B", "B/A");
        for Line { figure, a, b, ratio } in &self.ratios {
            let ratio = ratio.map_or_else(|| "-".into(), |ratio| format!("{ratio:.2}"));
            let _ = writeln!(text, "{figure:<22}{:>16}{:>16}{ratio:>9}", number(*a), number(*b));
        }
        text
    }
}

/// Whole numbers as such, others with two digits.
fn number(value: f64) -> String {
    if value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}
