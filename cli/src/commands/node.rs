//! `bulrush node`: the node that this is run on.

use std::{
    env,
    net::{Ipv4Addr, SocketAddr},
    process::ExitCode,
};

use anyhow::bail;
use clap::Subcommand;

use crate::http;

/// Where an agent says whether it is well, if nobody configured another port.
const HEALTH_PORT: u16 = 9099;

/// Look at the node that this runs on
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Whether this node's agent is well
    Status,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        let Action::Status = self.action;
        status()
    }
}

fn status() -> anyhow::Result<ExitCode> {
    if !nix::unistd::geteuid().is_root() {
        bail!("node status must run on a node, as root: sudo bulrush node status");
    }
    let port = match env::var("FELIX_HEALTHPORT") {
        Ok(text) => match text.parse() {
            Ok(port) => port,
            Err(_) => bail!("FELIX_HEALTHPORT={text:?} is no port; set it as the agent has it"),
        },
        Err(_) => HEALTH_PORT,
    };
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let (is_ready, text) = match readiness(address) {
        Ok(answer) => answer,
        Err(error) => bail!(
            "no agent answers at {address} ({error}): node status must run on a node, as root; if \
             this is one, start its agent, or set FELIX_HEALTHPORT as the agent has it"
        ),
    };
    say!("Agent:  {}", if is_ready { "ready" } else { "not ready" });
    if !is_ready {
        say!("        {}", text.trim());
    }
    say!("BGP:    none; this agent brings routes by VXLAN, IPIP or directly");
    Ok(if is_ready { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Whether the agent is ready, and its words.
fn readiness(address: SocketAddr) -> std::io::Result<(bool, String)> {
    let (code, body) = http::get(&address.to_string(), "/readiness")?;
    Ok(((200..300).contains(&code), body))
}
