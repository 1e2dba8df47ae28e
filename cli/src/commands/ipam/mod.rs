//! `bulrush ipam`: what the address management did, and how it works.

mod blocks;
mod configure;
mod grid;
mod release;
mod show;
mod split;
mod usage;

pub(super) use blocks::nth;

use std::{net::IpAddr, process::ExitCode};

use clap::Subcommand;

/// Look at the addresses that were given out, and configure how they are
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    Configure(configure::Args),
    Release(release::Args),
    Show(show::Args),
    Split(split::Args),
}

/// An address as it is given to a command; an IPv4 one that is written as IPv6 is the IPv4 one.
fn address(text: &str) -> Result<IpAddr, String> {
    let address: Result<IpAddr, _> = text.parse();
    address
        .map(|address| address.to_canonical())
        .map_err(|_| "no address; write for example 10.0.0.1 or fd00::1".to_owned())
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self.action {
            Action::Configure(args) => args.run(),
            Action::Release(args) => args.run(),
            Action::Show(args) => args.run(),
            Action::Split(args) => args.run(),
        }
    }
}
