//! `bulrush ipam split`: several smaller pools in the place of one.

use std::{
    io::{self, Write as _},
    process::ExitCode,
    time::SystemTime,
};

use anyhow::{anyhow, bail};
use datastore::{Compare, Datastore, Expected, Item, Selection, Write};
use ipnet::IpNet;
use model::{Key, Kind, Stored};
use serde_json::{Value, json};

use crate::{
    commands::datastore::is_ready,
    resource::{called, map_at, shape, stored, write::Refusal},
    store::StoreArgs,
};

/// How much of a pool's name is in those of its parts.
const LONGEST_NAME: usize = 245;

/// Put smaller pools of one size in the place of a pool
///
/// The store must be locked (`bulrush datastore migrate lock`), so that nobody takes addresses meanwhile.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How many pools: 2, 4, 8, …
    number: u32,

    /// The range of the pool to split
    #[arg(long)]
    cidr: Option<String>,

    /// The name of the pool to split
    #[arg(long)]
    name: Option<String>,

    #[command(flatten)]
    store: StoreArgs,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        if self.name.is_none() && self.cidr.is_none() {
            bail!("which pool? add --name or --cidr");
        }
        runtime::block_on(async {
            let store = self.store.connect().await?;
            if is_ready(&*store).await? {
                bail!("the store isn't locked; lock it first: bulrush datastore migrate lock");
            }
            let pool = self.pool(&*store).await?;
            let parts = parts(&pool, self.number)?;
            replace(&*store, &pool, &parts).await?;
            let mut out = io::stdout().lock();
            let (name, number) = (&pool.key.name, self.number);
            // The line's end is missing in calicoctl's too.
            write!(out, "IP Pool {name} was successfully split into {number} smaller pools.")?;
            for part in &parts {
                writeln!(out, "Created {} with CIDR {}.", part.key.name, part.cidr)?;
            }
            write!(out, "Please refer to the documentation for final steps.")?;
            out.flush()?;
            Ok(ExitCode::SUCCESS)
        })
    }

    async fn pool(&self, store: &dyn Datastore) -> anyhow::Result<Item> {
        if let Some(name) = &self.name {
            let key = Key::global(Kind::IPPool, name.as_str());
            return store.get(&key).await?.ok_or_else(|| anyhow!("there is no {}", called(&key)));
        }
        let cidr = self.cidr.as_deref().unwrap_or_default();
        for stream in store.streams() {
            for item in store.list(stream.index, Selection::from(Kind::IPPool)).await?.items {
                if matches!(&item.value, Stored::Json(pool) if pool["spec"]["cidr"] == cidr) {
                    return Ok(item);
                }
            }
        }
        bail!("no pool has the range {cidr:?}")
    }
}

/// A pool that takes a part of the old one's place.
struct Part {
    key: Key,
    cidr: IpNet,
    value: Stored,
}

fn parts(pool: &Item, number: u32) -> anyhow::Result<Vec<Part>> {
    let shown = stored::present(&pool.key, pool.value.clone(), pool.version)
        .map_err(|fault| anyhow!("{}: {fault}", called(&pool.key)))?;
    let cidr: IpNet = shown["spec"]["cidr"].as_str().unwrap_or_default().parse()?;
    if number < 2 || !number.is_power_of_two() {
        bail!("{number} parts of {cidr} can't have one size; take 2, 4, 8 or another power of 2");
    }
    let length = u32::from(cidr.prefix_len()) + number.trailing_zeros();
    let nets = u8::try_from(length).ok().and_then(|length| cidr.subnets(length).ok());
    let nets = nets.ok_or_else(|| anyhow!("{cidr} has no {number} parts; take fewer"))?;
    let name: String = pool.key.name.chars().take(LONGEST_NAME).collect();
    let part = |(index, cidr): (usize, IpNet)| {
        let mut object = json!({
            "apiVersion": "projectcalico.org/v3",
            "kind": "IPPool",
            "metadata": {
                "name": format!("split-{name}-{index}"),
                "labels": shown["metadata"]["labels"],
                "annotations": shown["metadata"]["annotations"],
            },
            "spec": shown["spec"],
        });
        if let Some(object) = object.as_object_mut() {
            let spec = map_at(object, "spec");
            spec.insert("cidr".to_owned(), cidr.to_string().into());
            spec.remove("disabled");
        }
        let written = shape::read(&object, false)
            .map_err(|faulty| anyhow!("{cidr}: {}", Refusal::Faults(faulty.faults)))?;
        let verdict = written.judge_as_new();
        let Some(Value::Object(object)) = verdict.defaulted else {
            bail!("{cidr} would be no pool: {}", Refusal::from(&verdict));
        };
        let key = written.key().map_err(|fault| anyhow!("{fault}"))?;
        Ok(Part { key, cidr, value: stored::new(Kind::IPPool, object, SystemTime::now()) })
    };
    nets.enumerate().map(part).collect()
}

/// Nothing changes if a part's name is taken, and on etcd nothing at all if anything fails.
async fn replace(store: &dyn Datastore, pool: &Item, parts: &[Part]) -> anyhow::Result<()> {
    for part in parts {
        if store.get(&part.key).await?.is_some() {
            bail!("{} exists; remove or rename it first", called(&part.key));
        }
    }
    let old = Compare { key: pool.key.clone(), expected: Expected::Version(pool.version) };
    let absent =
        |part: &Part| Compare { key: part.key.clone(), expected: Expected::Absent };
    let put = |part: &Part| Write::Put(part.key.clone(), part.value.clone());
    let gone = Write::Delete(pool.key.clone());
    if parts.len() < store.capabilities().atomic_writes {
        let compares: Vec<_> = std::iter::once(old).chain(parts.iter().map(absent)).collect();
        let writes: Vec<_> = std::iter::once(gone).chain(parts.iter().map(put)).collect();
        store.txn(&compares, &writes).await?;
        return Ok(());
    }
    for part in parts {
        store.txn(&[absent(part)], &[put(part)]).await?;
    }
    store.txn(&[old], &[gone]).await?;
    Ok(())
}
