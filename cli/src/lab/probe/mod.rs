//! Who reaches whom: real exchanges between all pairs of pods, as a matrix.

mod exchange;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write as _},
    str::FromStr,
};

use anyhow::bail;
use serde::Serialize;

use super::plan::{Plan, Pod};

/// What is tried: a port of the target, spelled `PORT[/PROTO]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Port {
    pub(crate) number: u16,
    pub(crate) protocol: Protocol,
}

/// The protocols that can be probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Protocol {
    Tcp,
    Udp,
}

/// How pairs are tried.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Trial {
    pub(crate) port: Port,
    /// Use the pods' IPv6 addresses.
    pub(crate) ipv6: bool,
    /// A number that no earlier probe of this lab had.
    pub(crate) number: u64,
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let protocol = match self.protocol {
            Protocol::Tcp => "tcp",
            Protocol::Udp => "udp",
        };
        write!(f, "{}/{protocol}", self.number)
    }
}

impl FromStr for Port {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
        let protocol = match protocol.to_ascii_lowercase().as_str() {
            "tcp" => Protocol::Tcp,
            "udp" => Protocol::Udp,
            _ => {
                return Err(format!(
                    "can't probe protocol {protocol:?}: say tcp or udp, as in 53/udp"
                ));
            }
        };
        match number.parse() {
            Ok(number) if number > 0 => Ok(Self { number, protocol }),
            _ => Err(format!("{number:?} is not a port from 1 to 65535, as in 80 or 53/udp")),
        }
    }
}

/// What a probe found, in the form of `-o json`.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Reach {
    /// Every pod that took part, `namespace/name`.
    pub(crate) pods: Vec<String>,
    /// For each pair that was tried, from and to, whether it connected.
    pub(crate) reach: BTreeMap<String, BTreeMap<String, bool>>,
}

/// Tries a port from all pods of `from` to all of `to`; an empty list is all pods. Nobody tries to reach itself.
pub(crate) fn run(
    plan: &Plan,
    trial: Trial,
    from: &[String],
    to: &[String],
) -> anyhow::Result<Reach> {
    if trial.ipv6 && !plan.ipv6 {
        bail!("this lab has no IPv6: start it with --ipv6");
    }
    let (from, to) = (selected(plan, from)?, selected(plan, to)?);
    let taking_part: BTreeSet<String> = from.iter().chain(&to).map(|pod| pod.path()).collect();
    let pairs: Vec<(&Pod, &Pod)> = from
        .iter()
        .flat_map(|from| to.iter().map(|to| (*from, *to)))
        .filter(|(from, to)| from.netns != to.netns)
        .collect();
    let connected = exchange::run(&pairs, trial)?;
    let mut reach: BTreeMap<String, BTreeMap<String, bool>> = BTreeMap::new();
    for ((from, to), connected) in pairs.iter().zip(connected) {
        reach.entry(from.path()).or_default().insert(to.path(), connected);
    }
    let pods = plan.pods().map(Pod::path).filter(|pod| taking_part.contains(pod)).collect();
    Ok(Reach { pods, reach })
}

fn selected<'a>(plan: &'a Plan, names: &[String]) -> anyhow::Result<Vec<&'a Pod>> {
    if names.is_empty() {
        return Ok(plan.pods().collect());
    }
    let pods: Vec<&Pod> = plan
        .pods()
        .filter(|pod| names.contains(&pod.name) || names.contains(&pod.path()))
        .collect();
    let unknown = names
        .iter()
        .find(|name| !pods.iter().any(|pod| pod.name == **name || pod.path() == **name));
    if let Some(unknown) = unknown {
        let all: Vec<String> = plan.pods().map(Pod::path).collect();
        bail!("no pod is called {unknown:?}; there are {}", all.join(", "));
    }
    Ok(pods)
}

impl Reach {
    /// A matrix for people: a line for each pod that tried, a column for each that was tried.
    pub(crate) fn table(&self) -> String {
        let rows: Vec<&String> =
            self.pods.iter().filter(|pod| self.reach.contains_key(*pod)).collect();
        let tried = |to: &String| self.reach.values().any(|targets| targets.contains_key(to));
        let columns: Vec<&String> = self.pods.iter().filter(|pod| tried(pod)).collect();
        let first = rows.iter().map(|name| name.len()).max().unwrap_or_default().max("FROM".len());
        let mut text = format!("{:first$}", "FROM");
        for to in &columns {
            let _ = write!(text, "  {to}");
        }
        text.push('\n');
        for from in rows {
            let _ = write!(text, "{from:first$}");
            for to in &columns {
                let cell = match self.reach[from].get(*to) {
                    Some(true) => "yes",
                    Some(false) => "no",
                    None => "-",
                };
                let _ = write!(text, "  {cell:width$}", width = to.len());
            }
            text.truncate(text.trim_end().len());
            text.push('\n');
        }
        let pairs: Vec<bool> =
            self.reach.values().flat_map(|targets| targets.values().copied()).collect();
        let connected = pairs.iter().filter(|connected| **connected).count();
        let _ = writeln!(text, "{connected} of {} pairs connect", pairs.len());
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_spelled_with_or_without_its_protocol() {
        assert_eq!("80".parse(), Ok(Port { number: 80, protocol: Protocol::Tcp }));
        assert_eq!("53/UDP".parse(), Ok(Port { number: 53, protocol: Protocol::Udp }));
        for wrong in ["", "0", "65536", "80/sctp", "http", "-1", "80/"] {
            assert!(wrong.parse::<Port>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_table_shows_each_pair_once() {
        let reach = Reach {
            pods: ["red/a", "red/b", "blue/c"].map(str::to_owned).into(),
            reach: [
                ("red/a", "red/b", true),
                ("red/a", "blue/c", false),
                ("blue/c", "red/b", true),
            ]
            .into_iter()
            .fold(BTreeMap::new(), |mut reach, (from, to, connected)| {
                reach
                    .entry(from.to_owned())
                    .or_insert_with(BTreeMap::new)
                    .insert(to.to_owned(), connected);
                reach
            }),
        };
        let expected = "\
FROM    red/b  blue/c
red/a   yes    no
blue/c  yes    -
2 of 3 pairs connect
";
        assert_eq!(reach.table(), expected);
    }
}
