//! `bulrush version`: which program this is, and which Calico the cluster has.

use std::{process::ExitCode, time::Duration};

use datastore::Datastore;
use model::{Key, Kind, Stored};

use crate::store::{CALICO_VERSION, StoreArgs};

/// Show the versions of this program and of the cluster
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Look again and again, with so much time between, such as 10s or 1m; 0 is once
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    poll: Option<Duration>,

    /// Show this program's version only
    #[arg(long)]
    client: bool,

    #[command(flatten)]
    store: StoreArgs,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        say!("Client Version:    v{}", env!("CARGO_PKG_VERSION"));
        say!("Calico Data:       {CALICO_VERSION}");
        if self.client {
            return Ok(ExitCode::SUCCESS);
        }
        runtime::block_on(async {
            let store = self.store.connect_any().await?;
            let mut last = None;
            loop {
                let found = of_cluster(&*store).await;
                if let Ok(lines) = &found
                    && last.as_ref() != Some(lines)
                {
                    say!("{lines}");
                }
                let Some(poll) = self.poll.filter(|poll| !poll.is_zero()) else {
                    return found.map(|_| ExitCode::SUCCESS);
                };
                match found {
                    Ok(lines) => last = Some(lines),
                    Err(error) => {
                        last = None;
                        eprintln!("{error:#}");
                    }
                }
                tokio::time::sleep(poll).await;
            }
        })
    }
}

async fn of_cluster(store: &dyn Datastore) -> anyhow::Result<String> {
    let key = Key::global(Kind::ClusterInformation, "default");
    let Some(item) = store.get(&key).await? else {
        anyhow::bail!(
            "the cluster's version isn't known: there is no ClusterInformation default in {}; the \
             first write makes it",
            store.describe()
        );
    };
    let Stored::Json(object) = item.value else {
        anyhow::bail!("the cluster's version isn't known: ClusterInformation default is no JSON");
    };
    let text = |field: &str| match object["spec"][field].as_str() {
        Some(text) if !text.is_empty() => text.to_owned(),
        _ => "unknown".to_owned(),
    };
    let (version, kind) = (text("calicoVersion"), text("clusterType"));
    Ok(format!("Cluster Version:   {version}\nCluster Type:      {kind}"))
}

/// A duration as Go writes it: `1h30m`, `10s`, `100ms`.
fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is no duration; write for example 10s, 1m30s or 2h");
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut rest = text;
    let mut all = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|char: char| !char.is_ascii_digit() && char != '.').ok_or_else(wrong)?;
        let number: f64 = rest[..digits].parse().map_err(|_| wrong())?;
        let units = [("ms", 0.001), ("h", 3600.0), ("m", 60.0), ("s", 1.0)];
        let (unit, seconds) = units
            .into_iter()
            .find(|(unit, _)| rest[digits..].starts_with(unit))
            .ok_or_else(wrong)?;
        all = Duration::try_from_secs_f64(number * seconds)
            .ok()
            .and_then(|more| all.checked_add(more))
            .ok_or_else(wrong)?;
        rest = &rest[digits + unit.len()..];
    }
    if text.is_empty() { Err(wrong()) } else { Ok(all) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, seconds) in [("10s", 10.0), ("1m30s", 90.0), ("1.5h", 5400.0), ("100ms", 0.1), ("0", 0.0)] {
            assert_eq!(duration(text), Ok(Duration::from_secs_f64(seconds)), "{text}");
        }
        for text in ["", "x", "10", "s", "1x", "-1s", "1e400s", "999999999999999999999h"] {
            assert!(duration(text).unwrap_err().contains("10s"), "{text}");
        }
    }
}
