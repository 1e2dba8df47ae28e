//! `bulrush whatif`: which connections a change of policy opens or closes.

use std::{collections::BTreeSet, process::ExitCode};

use anyhow::bail;
use clap::{ArgGroup, ValueEnum};
use serde::{Serialize, Serializer};

use crate::offline::{
    compare::{Changed, Compared, compare},
    live::LiveArgs,
    objects::Objects,
    outside::OutsideArgs,
    port::{Port, Told, standing_for_all},
    world::{World, refused},
};

/// The exit code when something changes: a pipeline can stop on it.
const CHANGES: u8 = 2;

/// Show which pods and nodes would gain or lose a connection, of a live cluster or of manifests alone
///
/// Exits with 0 when nothing changes, with 2 when something does, with 1 when it can't be said: also where the new
/// objects would be refused. Pods are compared, host endpoints with their nodes' own packets, and with --outside
/// addresses outside. What is there and isn't written stays, unless --delete names it. Staged policies change nothing;
/// with --staged they are enforced.
#[derive(clap::Args)]
#[command(group = ArgGroup::new("cluster").args(["base", "server"]).required(true))]
pub(crate) struct Args {
    /// What is to be written: files, folders, or - for standard input
    #[arg(
        short = 'f',
        long = "filename",
        value_name = "FILE",
        required_unless_present_any = ["delete", "staged"]
    )]
    files: Vec<String>,

    /// What is to be deleted: files, folders, or - for standard input
    #[arg(long, value_name = "FILE")]
    delete: Vec<String>,

    /// Enforce staged policies, those that are there and new ones
    #[arg(long)]
    staged: bool,

    /// What is there: files or folders
    #[arg(long, value_name = "FILE")]
    base: Vec<String>,

    /// Also read the folders in folders
    #[arg(short = 'R', long)]
    recursive: bool,

    /// The namespace of objects that need one and name none
    #[arg(short = 'n', long, default_value = "default")]
    namespace: String,

    /// What is tried at each pod: a port, /icmp or /icmpv6 for a ping, [TYPE[.CODE]]/icmp for any ICMP, or /NUMBER for a
    /// protocol without ports; may be repeated. Without it: every port that a pod has, all
    /// that policies tell apart (ports, protocols, types of ICMP), and one of each that stands for the rest
    #[arg(long, value_name = "PORT[/PROTO]")]
    port: Vec<Port>,

    /// Compare over IPv6 alone. Without it: over each version of IP that a pod or a host endpoint has an address of
    #[arg(long)]
    ipv6: bool,

    #[command(flatten)]
    outside: OutsideArgs,

    #[command(flatten)]
    live: LiveArgs,

    /// The format
    #[arg(short = 'o', long, value_enum, default_value_t = Output::Table)]
    output: Output,
}

#[derive(Clone, Copy, ValueEnum)]
enum Output {
    /// A line for each pair that changes
    Table,
    /// One object
    Json,
}

/// The lines of a table; nobody reads a hundred thousand.
const SHOWN: usize = 1000;

/// What changes, in the form of `-o json`.
#[derive(Serialize)]
struct Difference<'c> {
    tried: &'c [Tried],
    /// How many pairs were compared, for all that was tried.
    pairs: usize,
    changes: Changes<'c>,
}

/// What was tried.
#[derive(Clone, Serialize)]
struct Tried {
    port: String,
    /// 4 or 6.
    ip_version: u8,
}

/// All pairs that change: there may be millions.
struct Changes<'c>(&'c [Tried], &'c Compared);

/// One pair; none: one of the ends isn't there, or has no address of this version.
#[derive(Serialize)]
struct Change<'c> {
    #[serde(flatten)]
    tried: &'c Tried,
    from: &'c str,
    to: &'c str,
    before: Option<bool>,
    after: Option<bool>,
}

impl<'c> Changes<'c> {
    fn iter(&self) -> impl Iterator<Item = Change<'c>> {
        let Self(tried, Compared { ends, changes, .. }) = *self;
        changes.iter().map(move |it| {
            let Changed { tried: place, from, to, connects: [before, after] } = *it;
            Change { tried: &tried[place], from: &ends[from], to: &ends[to], before, after }
        })
    }
}

impl Serialize for Changes<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let base = self.live.or_read(&self.base, self.recursive, &self.namespace)?;
        let read = |files: &[String]| match files {
            [] => Ok(Objects::default()),
            files => Objects::read(files, self.recursive, &self.namespace),
        };
        let new = read(&self.files)?;
        let mut all = base.without(&read(&self.delete)?)?.overlaid(&new);
        let refused = refused(&new, &all);
        if !refused.is_empty() {
            bail!("these would be refused:\n  {}", refused.join("\n  "));
        }
        if self.staged {
            all = all.with_staged().unwrap_or(all);
        }
        let (before, after) = (World::new(&base), World::new(&all));
        for warning in after.warnings() {
            eprintln!("warning: {warning}");
        }
        let ports = self.ports([&base, &new], [&before, &after])?;
        let outside = self.outside.addresses(&[&before, &after], &ports)?;
        after.warn_of_untried(&ports);
        after.warn_of_hosts();
        let compared = compare([&before, &after], &ports, &outside);
        let tried = ports.iter().map(|(port, ipv6)| Tried {
            port: port.to_string(),
            ip_version: if *ipv6 { 6 } else { 4 },
        });
        let tried = tried.collect::<Vec<_>>();
        let changes = Changes(&tried, &compared);
        match self.output {
            Output::Table => super::answer(&table(&tried, &compared))?,
            Output::Json => super::answer_by(|out| {
                let difference = Difference { tried: &tried, pairs: compared.pairs, changes };
                serde_json::to_writer(&mut *out, &difference)?;
                out.write_all(b"\n")
            })?,
        }
        Ok(if compared.changes.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(CHANGES) })
    }

    /// What is tried, each over IPv6 or not.
    fn ports(&self, of: [&Objects; 2], worlds: [&World; 2]) -> anyhow::Result<Vec<(Port, bool)>> {
        for port in &self.port {
            port.over(self.ipv6)?;
        }
        let has = |ipv6: bool| worlds.iter().any(|world| world.has(ipv6));
        let is_due = |ipv6: bool| if self.ipv6 { ipv6 } else { has(ipv6) || !ipv6 && !has(true) };
        let named = of.into_iter().flat_map(Objects::ports).collect::<BTreeSet<_>>();
        let named = named.into_iter().map(|(number, protocol)| Port::numbered(number, protocol));
        let named = named.collect::<Vec<_>>();
        let over = |ipv6: bool| {
            if !self.port.is_empty() {
                let given = self.port.iter().copied();
                let of_it = |it: &Port| it.ipv6().map_or(is_due(ipv6), |own| own == ipv6);
                return given.filter(of_it).collect();
            }
            if !is_due(ipv6) {
                return Vec::new();
            }
            let mut told = Told::default();
            for world in worlds {
                world.tell(ipv6, &mut told);
            }
            standing_for_all(named.clone(), &told, ipv6)
        };
        let both = [false, true].into_iter();
        Ok(both.flat_map(|ipv6| over(ipv6).into_iter().map(move |it| (it, ipv6))).collect())
    }
}

fn table(tried: &[Tried], compared: &Compared) -> String {
    let word = |connects: Option<bool>| match connects {
        Some(true) => "yes",
        Some(false) => "no",
        None => "-",
    };
    let mut rows = vec![["PORT", "IP", "FROM", "TO", "BEFORE", "AFTER"].map(str::to_owned)];
    rows.extend(Changes(tried, compared).iter().take(SHOWN).map(|it| {
        let Tried { port, ip_version } = it.tried.clone();
        let [before, after] = [it.before, it.after].map(|it| word(it).to_owned());
        [port, ip_version.to_string(), it.from.to_owned(), it.to.to_owned(), before, after]
    }));
    let widths: Vec<usize> = (0..6)
        .map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or_default())
        .collect();
    let count = compared.changes.len();
    let mut text = String::new();
    for row in rows.iter().filter(|_| count > 0) {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    let rest = count.saturating_sub(SHOWN);
    let more = if rest > 0 { format!("and {rest} more, which -o json names\n") } else { String::new() };
    let over = tried.chunk_by(|a, b| a.ip_version == b.ip_version).map(|its| {
        let ports = its.iter().map(|it| it.port.as_str()).collect::<Vec<_>>().join(", ");
        format!("over IPv{}: {ports}", its[0].ip_version)
    });
    let over = over.collect::<Vec<_>>().join("; ");
    text + &more + &format!("{count} of {} pairs change, {over}\n", compared.pairs)
}

#[cfg(test)]
mod tests {
    use model::{Key, Kind};
    use proptest::{prelude::*, sample::select};
    use serde_json::{Value, json};

    use super::*;

    /// A rule on protocols, as stores may have it, valid or not.
    fn rule() -> impl Strategy<Value = Value> {
        let some = |share: f64, values: &[Value]| {
            prop::option::weighted(share, select(values.to_vec()))
        };
        let names = ["TCP", "UDP", "TCP", "UDP", "SCTP", "UDPLite", "ICMP", "ICMPv6"];
        let protocols = names.map(Value::from).into_iter().chain([6, 17, 47, 58].map(Value::from));
        let protocols = protocols.collect::<Vec<_>>();
        let icmp = [(8, None), (8, Some(0)), (8, Some(2)), (128, None), (128, Some(0)), (253, None)];
        let icmp = icmp.map(|(kind, code)| json!({"type": kind, "code": code}));
        let ports = [json!([2]), json!(["3:5"]), json!(["1:65535"]), json!(["web"]), json!([4, 7])];
        let fields = (
            select(&["Allow", "Deny", "Pass", "Log"][..]),
            some(0.8, &protocols),
            some(0.1, &protocols),
            (some(0.2, &icmp), some(0.2, &icmp)),
            (some(0.3, &ports), some(0.1, &ports)),
            some(0.1, &[json!(4), json!(6)]),
        );
        fields.prop_map(|(action, protocol, not_protocol, icmp, ports, version)| {
            json!({
                "action": action, "protocol": protocol, "notProtocol": not_protocol,
                "icmp": icmp.0, "notICMP": icmp.1, "ipVersion": version,
                "destination": {"ports": ports.0, "notPorts": ports.1},
            })
        })
    }

    /// Two pods, of which one has a named port, and a policy of these rules.
    fn world(rules: &[Value]) -> World {
        let mut objects = Objects::default();
        for (name, number, port) in [("a", 1, "none"), ("b", 2, "web")] {
            let value = json!({"spec": {
                "orchestrator": "cni", "node": "n", "workload": name, "endpoint": "eth0",
                "interfaceName": name, "profiles": ["projectcalico-default-allow"],
                "ipNetworks": [format!("10.0.0.{number}/32"), format!("fd00::{number}/128")],
                "ports": [{"name": port, "protocol": "TCP", "port": 6}],
            }});
            let key = format!("n-cni-{name}-eth0");
            objects.add_stored(Key::namespaced(Kind::WorkloadEndpoint, "shop", key), value);
        }
        let spec = json!({"tier": "default", "types": ["Ingress"], "ingress": rules});
        objects.add_stored(Key::global(Kind::GlobalNetworkPolicy, "p"), json!({"spec": spec}));
        World::new(&objects)
    }

    /// Of each protocol, port and type of ICMP, those that rules here may tell apart.
    fn everything(ipv6: bool) -> Vec<Port> {
        let of = |ports: &'static [&str], protocols: &'static [&str]| {
            let all = protocols.iter().flat_map(|of| ports.iter().map(move |at| format!("{at}/{of}")));
            all.collect::<Vec<_>>()
        };
        let ports = &["1", "2", "3", "4", "5", "6", "7", "8", "65535"];
        let types = &["0", "8", "8.1", "8.2", "128", "128.1", "13", "13.1", "253", "253.2", "255.255"];
        let mut all = of(ports, &["tcp", "udp", "sctp", "udplite"]);
        all.extend(of(types, if ipv6 { &["icmpv6"] } else { &["icmp"] }));
        all.extend(of(&[""], &["2", "47", "50", "253", "255"]));
        all.iter().map(|text| text.parse().unwrap()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]

        #[test]
        fn whatever_a_change_of_rules_opens_or_closes_is_seen_by_something_that_is_tried(
            old in prop::collection::vec(rule(), 0..4),
            new in prop::collection::vec(rule(), 0..4),
            ipv6: bool,
        ) {
            let worlds = [world(&old), world(&new)];
            let mut told = Told::default();
            for world in &worlds {
                world.tell(ipv6, &mut told);
            }
            let reach = |port: Port| [0, 1].map(|at| worlds[at].reach(port, ipv6, &worlds[at].ends(&[])));
            let tried = standing_for_all(Vec::new(), &told, ipv6);
            let seen = tried.iter().map(|port| reach(*port)).collect::<Vec<_>>();
            for port in everything(ipv6) {
                prop_assert!(seen.contains(&reach(port)), "{port} is like none of {tried:?}");
            }
        }
    }
}
