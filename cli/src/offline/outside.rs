//! Addresses outside of the cluster, as ends of connections beside the pods.

use std::{collections::BTreeSet, net::IpAddr};

use anyhow::bail;

use super::{port::Port, world::World};

/// Which of them.
#[derive(clap::Args)]
pub(crate) struct OutsideArgs {
    /// An address outside of the cluster, tried with each pod both ways; may be repeated
    #[arg(long, value_name = "ADDRESS", value_parser = read)]
    outside: Vec<IpAddr>,
}

impl OutsideArgs {
    /// The addresses, each once. `tried`: what is tried, and whether it is over IPv6.
    ///
    /// # Errors
    /// One of them is inside, or of a version of IP over which nothing is tried.
    pub(crate) fn addresses(
        &self,
        worlds: &[&World],
        tried: &[(Port, bool)],
    ) -> anyhow::Result<Vec<IpAddr>> {
        for address in &self.outside {
            if let Some(name) = worlds.iter().find_map(|world| world.owner(*address)) {
                bail!(
                    "--outside {address} is an address of {name}, not of something outside: leave it out"
                );
            }
            if let Some(it) = worlds.iter().find_map(|world| world.instead_of_service(*address)) {
                bail!("--outside {address}: {it}");
            }
            if !tried.iter().any(|(_, ipv6)| *ipv6 == address.is_ipv6()) {
                let version = if address.is_ipv6() { "IPv6" } else { "IPv4" };
                bail!(
                    "--outside {address}: nothing is tried over {version}: leave it out, or see --ipv6 and --port"
                );
            }
        }
        Ok(self.outside.iter().copied().collect::<BTreeSet<_>>().into_iter().collect())
    }
}

fn read(text: &str) -> Result<IpAddr, String> {
    let way = "write an address such as 192.0.2.1, and for a network one of its addresses";
    text.parse().map_err(|_| format!("it is no address; {way}"))
}
