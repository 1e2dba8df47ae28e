//! The servers under test as processes, and the certificates of those with TLS.

use std::{
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, bail};
use client::Tls;
use identity::{Authority, Files, Identity, ServerCheck, Validity};
use tempfile::TempDir;
use tokio::process::{Child, Command};

use crate::{process, run};

/// A server has read the store in this time.
const READ: Duration = Duration::from_mins(3);

const BASELINE: &str = "bulrush-baseline";

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Baseline,
    Typha,
    /// Typha with TLS.
    TyphaTls,
}

/// Where the servers' programs are.
pub(super) struct Programs {
    typha: PathBuf,
    baseline: PathBuf,
}

impl Programs {
    /// Looks for them; for the baseline only when it is wanted.
    pub(super) fn find(
        typha: Option<&Path>,
        baseline: Option<&Path>,
        wanted: bool,
    ) -> anyhow::Result<Self> {
        let here = std::env::current_exe().context("this program's own file")?;
        let find = |given: Option<&Path>, name: &str| {
            let path = given.map_or_else(|| here.with_file_name(name), Path::to_path_buf);
            if path.is_file() || name == BASELINE && !wanted {
                return Ok(path);
            }
            bail!(
                "there is no {}: build it (cargo build --release -p bulrush-typha -p \
                 bulrush-baseline), or say where it is",
                path.display()
            )
        };
        let typha = find(typha, "typha")?;
        Ok(Self { typha, baseline: find(baseline, BASELINE)? })
    }
}

/// A running server.
pub(super) struct Server {
    child: Child,
    pub(super) pid: u32,
    pub(super) address: SocketAddr,
    /// What its agents connect with.
    pub(super) tls: Option<Tls>,
    _certificates: Option<TempDir>,
}

impl Server {
    /// Starts one, and returns when it has read the store up to `version`.
    pub(super) async fn start(
        programs: &Programs,
        kind: Kind,
        store: &str,
        version: u64,
    ) -> anyhow::Result<Self> {
        // Taken and given back: nobody else will have it a moment later.
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let mut certificates = None;
        let mut tls = None;
        let mut command = match kind {
            Kind::Baseline => {
                let mut command = Command::new(&programs.baseline);
                command.args(["--listen", &address.to_string()]);
                command
            }
            Kind::Typha | Kind::TyphaTls => {
                let mut command = Command::new(&programs.typha);
                let port = address.port().to_string();
                command.args(["--log", "error", "--port", &port, "--max-connections", "100000"]);
                command.args(["--health-port", "0", "--metrics-port", "0", "--status-port", "0"]);
                command
            }
        };
        if kind == Kind::TyphaTls {
            let folder = tempfile::tempdir()?;
            let (server, agent) = certify(folder.path())?;
            command.arg("--cert").arg(server.certificate).arg("--key").arg(server.key);
            command.arg("--ca").arg(server.ca);
            tls = Some(Tls { files: agent, check: ServerCheck::Typha, token: None });
            certificates = Some(folder);
        }
        command.args(["--store", store]).stdin(Stdio::null()).stdout(Stdio::null());
        let mut child = command.kill_on_drop(true).spawn()?;
        let pid = child.id().context("a server ended at once")?;
        let up = run::poll(Duration::from_mins(2), || {
            std::net::TcpStream::connect(address).is_ok() || !matches!(child.try_wait(), Ok(None))
        });
        if !up.await || !matches!(child.try_wait(), Ok(None)) {
            bail!("a server did not start; its words are above");
        }
        // A large store takes long on a machine that others use.
        run::caught_up(&address.to_string(), tls.as_ref(), version, READ).await?;
        Ok(Self { child, pid, address, tls, _certificates: certificates })
    }

    pub(super) fn cpu(&self) -> anyhow::Result<Duration> {
        Ok(process::cpu_time(self.pid)?)
    }

    pub(super) fn rss(&self) -> anyhow::Result<f64> {
        Ok(process::rss(self.pid)? as f64)
    }

    pub(super) async fn stop(mut self) {
        // It may have ended by itself.
        let _ = self.child.kill().await;
    }
}

/// Certificates of a server and of somebody who may see everything.
fn certify(folder: &Path) -> anyhow::Result<(Files, Files)> {
    let validity = Validity::days(SystemTime::now(), 1);
    let ca = Authority::create(validity)?;
    let authority = Authority::load(&ca.certificate, &ca.key)?;
    let write = |name: &str, text: &str| {
        let path = folder.join(name);
        fs::write(&path, text).map(|()| path)
    };
    let ca = write("ca.crt", &ca.certificate)?;
    let files = |name: &str, identity: &Identity, hosts: &[String]| -> anyhow::Result<Files> {
        let issued = authority.issue(identity, hosts, validity)?;
        Ok(Files {
            certificate: write(&format!("{name}.crt"), &issued.certificate)?,
            key: write(&format!("{name}.key"), &issued.key)?,
            ca: ca.clone(),
        })
    };
    let server = files("server", &Identity::Server, &["127.0.0.1".into()])?;
    Ok((server, files("full", &Identity::Full, &[])?))
}
