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

use crate::{
    children::{self, Part},
    process, run,
};

/// A server has read the store in this time.
const READ: Duration = Duration::from_mins(3);

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
    /// None: this program can do it.
    typha: Option<PathBuf>,
    baseline: PathBuf,
    prefix: Vec<String>,
}

impl Programs {
    /// Looks for them; for the baseline only when it is wanted.
    pub(super) fn find(
        typha: Option<&Path>,
        baseline: Option<&Path>,
        wanted: bool,
        prefix: &[&str],
    ) -> anyhow::Result<Self> {
        let here = std::env::current_exe().context("this program's own file")?;
        let find = |given: Option<&Path>, name: &str| {
            given.map_or_else(|| here.with_file_name(name), Path::to_path_buf)
        };
        let missing = |path: &Path| {
            anyhow::anyhow!(
                "there is no {}: build it (cargo build --release -p bulrush-typha -p \
                 bulrush-baseline), or say where it is",
                path.display()
            )
        };
        let program = find(typha, "typha");
        if typha.is_some() && !program.is_file() {
            return Err(missing(&program));
        }
        let baseline = find(baseline, "bulrush-baseline");
        if wanted && !baseline.is_file() {
            return Err(missing(&baseline));
        }
        let prefix = prefix.iter().map(ToString::to_string).collect();
        Ok(Self { typha: program.is_file().then_some(program), baseline, prefix })
    }

    fn prefix(&self) -> Vec<&str> {
        self.prefix.iter().map(String::as_str).collect()
    }

    fn baseline(&self, address: SocketAddr) -> anyhow::Result<Command> {
        let mut command = children::guarded(&self.prefix(), &self.baseline)?;
        command.args(["--listen", &address.to_string()]);
        Ok(command)
    }

    fn typha(&self, address: SocketAddr) -> anyhow::Result<Command> {
        let Some(program) = &self.typha else {
            let mut command = children::command(&self.prefix(), Part::Typha)?;
            command.args(["--server", &address.to_string(), "--agents", "100000"]);
            return Ok(command);
        };
        let mut command = children::guarded(&self.prefix(), program)?;
        let [ip, port] = [address.ip().to_string(), address.port().to_string()];
        command.args(["--log", "error", "--listen", &ip, "--port", &port]);
        command.args(["--max-connections", "100000"]);
        command.args(["--health-port", "0", "--metrics-port", "0", "--status-port", "0"]);
        Ok(command)
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
    /// Starts the `number`th one, and returns when it has read the store up to `version`.
    pub(super) async fn start(
        programs: &Programs,
        kind: Kind,
        store: &str,
        version: u64,
        number: u32,
    ) -> anyhow::Result<Self> {
        // Taken and given back: nobody else will have it a moment later.
        let address = TcpListener::bind(children::loopback(number))?.local_addr()?;
        Self::start_at(programs, kind, store, version, address).await
    }

    /// Ends it at once, and starts another one at its address. It must be a typha without TLS.
    pub(super) async fn restart(
        &mut self,
        programs: &Programs,
        store: &str,
        version: u64,
    ) -> anyhow::Result<()> {
        self.child.kill().await?;
        *self = Self::start_at(programs, Kind::Typha, store, version, self.address).await?;
        Ok(())
    }

    async fn start_at(
        programs: &Programs,
        kind: Kind,
        store: &str,
        version: u64,
        address: SocketAddr,
    ) -> anyhow::Result<Self> {
        let mut certificates = None;
        let mut tls = None;
        let mut command = match kind {
            Kind::Baseline => programs.baseline(address)?,
            Kind::Typha | Kind::TyphaTls => programs.typha(address)?,
        };
        if kind == Kind::TyphaTls {
            if programs.typha.is_none() {
                bail!(
                    "TLS is measured with the program typha: build it, or say where it is (--typha)"
                );
            }
            let folder = tempfile::tempdir()?;
            let (server, agent) = certify(folder.path())?;
            command.arg("--cert").arg(server.certificate).arg("--key").arg(server.key);
            command.arg("--ca").arg(server.ca);
            tls = Some(Tls { files: agent, check: ServerCheck::Typha, token: None });
            certificates = Some(folder);
        }
        // It is closed when this process ends, which ends what is this program itself.
        command.args(["--store", store]).stdin(Stdio::piped()).stdout(Stdio::null());
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
