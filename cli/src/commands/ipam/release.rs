//! `bulrush ipam release`: giving back an address that nobody uses.

use std::{net::IpAddr, process::ExitCode};

use anyhow::{anyhow, bail};
use datastore::{Datastore, Item, Selection};
use ipnet::IpNet;
use model::{Kind, Stored};

use crate::{
    commands::{delete::addresses::Leaving, ipam::address},
    store::StoreArgs,
};

/// Give back an address that nobody uses any more
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The address
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    ip: Option<IpAddr>,

    #[command(flatten)]
    store: StoreArgs,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let Some(ip) = self.ip else {
            // calicoctl counts this as done.
            eprintln!("nothing is released; name an address with --ip");
            return Ok(ExitCode::SUCCESS);
        };
        runtime::block_on(async {
            let store = self.store.connect().await?;
            if !release(&*store, ip).await? {
                bail!("{ip} is not assigned");
            }
            say!("Successfully released IP address {ip}");
            Ok(ExitCode::SUCCESS)
        })
    }
}

async fn release(store: &dyn Datastore, ip: IpAddr) -> anyhow::Result<bool> {
    let text = ip.to_string();
    let leaving = Leaving::new(store, None, std::iter::once(text.as_str())).await;
    let leaving = leaving.map_err(|refusal| anyhow!("{refusal}"))?;
    for stream in store.streams() {
        for block in store.list(stream.index, Selection::from(Kind::IPAMBlock)).await?.items {
            if contains(&block, ip) {
                let released = leaving.leave_block(store, block, &[]).await;
                return released.map_err(|refusal| anyhow!("{ip}: {refusal}"));
            }
        }
    }
    Ok(false)
}

fn contains(block: &Item, ip: IpAddr) -> bool {
    let Stored::Json(value) = &block.value else { return false };
    let cidr = value["cidr"].as_str().and_then(|text| text.parse::<IpNet>().ok());
    cidr.is_some_and(|cidr| cidr.contains(&ip))
}
