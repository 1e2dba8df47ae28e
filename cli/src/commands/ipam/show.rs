//! `bulrush ipam show`: how full the pools are, and who holds an address.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    net::IpAddr,
    process::ExitCode,
};

use datastore::Datastore;
use model::{Key, Kind};
use serde_json::Value;

use super::{
    address,
    blocks::{self, Addresses, Attributes},
    grid::{self, count, share},
    usage::{self, Usage},
};
use crate::{resource::stored, store::StoreArgs};

/// Show how full the pools are, or who holds an address
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Who holds this address
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    ip: Option<IpAddr>,

    /// Also show the blocks of each pool
    #[arg(long)]
    show_blocks: bool,

    /// Show the addresses that nodes hold from blocks of others
    #[arg(long)]
    show_borrowed: bool,

    /// Show the configuration of the address management
    #[arg(long)]
    show_configuration: bool,

    #[command(flatten)]
    store: StoreArgs,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        runtime::block_on(async {
            let store = self.store.connect().await?;
            let mut out = io::BufWriter::new(io::stdout().lock());
            if self.show_configuration && self.ip.is_none() && !self.show_blocks && !self.show_borrowed {
                configuration(&mut out, &*store).await?;
                out.flush()?;
                return Ok(ExitCode::SUCCESS);
            }
            let addresses = blocks::read(&*store).await?;
            if let Some(ip) = self.ip {
                holder(&mut out, &addresses, ip)?;
            } else if self.show_blocks || !self.show_borrowed {
                utilization(&mut out, &addresses, self.show_blocks)?;
            } else {
                borrowed(&mut out, &addresses)?;
            }
            out.flush()?;
            for fault in &addresses.faults {
                eprintln!("{fault}");
            }
            Ok(if addresses.faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        })
    }
}

fn utilization(
    out: &mut impl Write,
    addresses: &Addresses,
    with_blocks: bool,
) -> io::Result<()> {
    let headings = ["GROUPING", "CIDR", "IPS TOTAL", "IPS IN USE", "IPS RESERVED", "IPS FREE"];
    let row = |grouping: &str, usage: &Usage| {
        let share = |part| share(part, usage.total);
        vec![
            grouping.to_owned(),
            usage.cidr.to_string(),
            count(usage.total),
            share(usage.in_use),
            share(usage.reserved),
            share(usage.free),
        ]
    };
    let mut rows = Vec::new();
    for group in usage::of(addresses) {
        rows.extend(group.pool.iter().map(|pool| row("IP Pool", pool)));
        if with_blocks {
            rows.extend(group.blocks.iter().map(|block| row("Block", block)));
        }
    }
    grid::print(out, &headings, &rows, 2)
}

fn holder(out: &mut impl Write, addresses: &Addresses, ip: IpAddr) -> io::Result<()> {
    let held = addresses.blocks.iter().flat_map(|block| {
        block.held().filter(|(address, _)| *address == ip).map(move |(_, holder)| (block, holder))
    });
    let Some((block, attributes)) = held.into_iter().next() else {
        return writeln!(out, "{ip} is not assigned");
    };
    let has_pool = addresses.pools.iter().any(|it| !it.is_disabled && it.cidr.contains(&ip));
    if !has_pool {
        // Calico's tools call such an address unassigned; who looks for a leak must know better.
        eprintln!(
            "note: {ip} is in no enabled pool, and yet block {} has it in use by {}",
            block.cidr,
            attributes.and_then(|it| it.handle.as_deref()).unwrap_or("nobody that is known")
        );
        return writeln!(out, "{ip} is not assigned");
    }
    let none = Attributes::default();
    let attributes = attributes.unwrap_or(&none);
    writeln!(out, "IP {ip} is in use")?;
    writeln!(out, "Handle ID: {}", attributes.handle.as_deref().unwrap_or("<none>"))?;
    let mut list = |title: &str, owner: Option<&BTreeMap<String, String>>| -> io::Result<bool> {
        let Some(owner) = owner.filter(|owner| !owner.is_empty()) else { return Ok(false) };
        writeln!(out, "{title}:")?;
        for (name, value) in owner {
            writeln!(out, "  {name}: {value}")?;
        }
        Ok(true)
    };
    let has_owner = list("Active Owner Attributes", attributes.owner.as_ref())?;
    list("Alternate Owner Attributes", attributes.alternate.as_ref())?;
    if !has_owner {
        writeln!(out, "No Active Owner attributes defined")?;
    }
    Ok(())
}

fn borrowed(out: &mut impl Write, addresses: &Addresses) -> io::Result<()> {
    let headings = ["IP", "BORROWING-NODE", "BLOCK", "BLOCK OWNER", "TYPE", "ALLOCATED-TO"];
    let mut rows = Vec::new();
    let mut unknown = 0_usize;
    let none = Attributes::default();
    for block in &addresses.blocks {
        for (ip, holder) in block.held() {
            let holder = holder.unwrap_or(&none);
            let Some(borrower) = holder.of_owner("node") else {
                unknown += 1;
                continue;
            };
            if borrower == block.owner() {
                continue;
            }
            let namespace = holder.of_owner("namespace").unwrap_or_default();
            let (kind, whose) = match (holder.of_owner("vmi-name"), holder.of_owner("pod")) {
                (Some(machine), _) => ("vmi", format!("{namespace}/{machine}")),
                (None, Some(pod)) => ("pod", format!("{namespace}/{pod}")),
                (None, None) => (holder.of_owner("type").unwrap_or_default(), String::new()),
            };
            rows.push(vec![
                ip.to_string(),
                borrower.to_owned(),
                block.cidr.to_string(),
                block.owner().to_owned(),
                kind.to_owned(),
                whose,
            ]);
        }
    }
    grid::print(out, &headings, &rows, headings.len())?;
    if unknown > 0 {
        writeln!(
            out,
            "\nNote: found {unknown} IP allocations without an explicit node association. Unable \
             to determine if they are borrowed."
        )?;
    }
    Ok(())
}

async fn configuration(out: &mut impl Write, store: &dyn Datastore) -> anyhow::Result<()> {
    let key = Key::global(Kind::IPAMConfiguration, "default");
    let spec = match store.get(&key).await? {
        Some(item) => {
            let shown = stored::present(&key, item.value, item.version);
            shown.map_err(|fault| anyhow::anyhow!("{key}: {fault}"))?["spec"].clone()
        }
        // What holds where nothing is configured.
        None => serde_json::json!({"autoAllocateBlocks": true}),
    };
    let flag = |name: &str| spec[name].as_bool().unwrap_or_default().to_string();
    let number = |name: &str| spec[name].as_u64().unwrap_or_default().to_string();
    let persistence = match &spec["kubeVirtVMAddressPersistence"] {
        Value::String(text) if !text.is_empty() => text.clone(),
        _ => "Enabled".to_owned(),
    };
    let rows = [
        ("StrictAffinity", flag("strictAffinity")),
        ("AutoAllocateBlocks", flag("autoAllocateBlocks")),
        ("MaxBlocksPerHost", number("maxBlocksPerHost")),
        ("KubeVirtVMAddressPersistence", persistence),
        ("IPCooldownSeconds", number("ipCooldownSeconds")),
    ];
    let rows = rows.map(|(name, value)| vec![name.to_owned(), value]);
    grid::print(out, &["PROPERTY", "VALUE"], &rows, 2)?;
    Ok(())
}
