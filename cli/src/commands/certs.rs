//! `bulrush certs`: a CA, and certificates with identities, for clusters without another source.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    process::ExitCode,
    time::SystemTime,
};

use anyhow::{Context as _, bail};
use clap::{Subcommand, ValueEnum};
use identity::{Authority, Identity, Issued, Validity};

/// Files of these names are the CA's.
const CA: &str = "ca";

/// Make certificates with which typha and agents know each other.
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a CA: DIR/ca.crt, and its key DIR/ca.key, which stays where it is.
    Init(Init),
    /// Make a certificate and its key, signed by the CA in DIR.
    Issue(Issue),
}

#[derive(clap::Args)]
struct Init {
    /// Folder of the CA; made when it isn't there.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// How long the CA is valid.
    #[arg(long, default_value_t = 3650, value_parser = clap::value_parser!(u32).range(1..36500))]
    days: u32,
}

#[derive(clap::Args)]
#[group(skip)]
struct Issue {
    /// For the agent of this node: DIR/NODE.crt and DIR/NODE.key, with `bulrush://node/NODE`.
    #[arg(long, value_name = "NODE", group = "whom")]
    node: Option<String>,
    /// For who may read everything, such as `bulrush watch`: DIR/full.crt and DIR/full.key, with
    /// `bulrush://role/full`.
    #[arg(long, group = "whom")]
    role: Option<Role>,
    /// For typha, reached by these names and addresses: DIR/typha.crt and DIR/typha.key, with
    /// `bulrush://server/typha`.
    #[arg(long, num_args = 1.., value_name = "HOST", group = "whom")]
    server: Vec<String>,
    /// Folder of the CA, as `certs init` made it.
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
    /// Folder to write to, with a copy of ca.crt; without it the CA's.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// How long the certificate is valid.
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..36500))]
    days: u32,
}

#[derive(Clone, Copy, ValueEnum)]
enum Role {
    Full,
}

impl Args {
    pub(crate) fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Init(init) => init.run()?,
            Command::Issue(issue) => issue.run()?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Init {
    fn run(self) -> anyhow::Result<()> {
        folder(&self.dir)?;
        let (certificate, key) = paths(&self.dir, CA);
        for path in [&certificate, &key] {
            if path.exists() {
                bail!(
                    "{} exists: a new CA would cut off all who have certificates of this one; give \
                     another --dir",
                    path.display()
                );
            }
        }
        let made = Authority::create(Validity::days(SystemTime::now(), self.days))?;
        write_pair(&certificate, &key, &made)?;
        writeln!(io::stdout(), "wrote {} and {}", certificate.display(), key.display())?;
        Ok(())
    }
}

impl Issue {
    fn run(self) -> anyhow::Result<()> {
        let (identity, name) = self.whom()?;
        let (ca_certificate, ca_key) = paths(&self.dir, CA);
        let ca = read(&ca_certificate)?;
        let authority = Authority::load(&ca, &read(&ca_key)?)
            .with_context(|| format!("{} and {}", ca_certificate.display(), ca_key.display()))?;
        let out = self.out.as_ref().unwrap_or(&self.dir);
        folder(out)?;
        let (certificate, key) = paths(out, &name);
        may_replace(&certificate, &identity)?;
        let validity = Validity::days(SystemTime::now(), self.days);
        let issued = authority.issue(&identity, &self.server, validity)?;
        write_pair(&certificate, &key, &issued)?;
        let copy = out.join("ca.crt");
        if self.out.is_some() {
            write(&copy, &ca, 0o644)?;
        }
        let (certificate, key) = (certificate.display(), key.display());
        writeln!(io::stdout(), "wrote {certificate} and {key} for {identity}")?;
        Ok(())
    }

    /// For whom, and how the files are called.
    fn whom(&self) -> anyhow::Result<(Identity, String)> {
        if let Some(node) = &self.node {
            if node == CA {
                bail!("a node named {CA:?} would have the CA's files: write to another folder by hand");
            }
            return Ok((Identity::node(node)?, node.clone()));
        }
        if let Some(Role::Full) = self.role {
            return Ok((Identity::Full, "full".into()));
        }
        if self.server.is_empty() {
            bail!("for whom? Give --node NODE, --role full or --server HOST");
        }
        Ok((Identity::Server, "typha".into()))
    }
}

/// A certificate is replaced by a newer one of the same identity only.
fn may_replace(path: &Path, identity: &Identity) -> anyhow::Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let held = identity::Certificate::read_pem(read(path)?.as_bytes());
    if held.as_ref().is_ok_and(|held| held.is(identity)) {
        return Ok(());
    }
    let held = held.map_or_else(|error| error.to_string(), |held| format!("it is of {held}"));
    bail!("{} exists and isn't of {identity}: {held}; give another --out", path.display())
}

fn paths(folder: &Path, name: &str) -> (PathBuf, PathBuf) {
    (folder.join(format!("{name}.crt")), folder.join(format!("{name}.key")))
}

fn folder(path: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(path).with_context(|| format!("the folder {}", path.display()))
}

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| {
        format!("{} can't be read; `bulrush certs init` makes a CA", path.display())
    })
}

/// The key first: who reads in between finds a pair that doesn't match, and tries again.
fn write_pair(certificate: &Path, key: &Path, pair: &Issued) -> anyhow::Result<()> {
    write(key, &pair.key, 0o600)?;
    write(certificate, &pair.certificate, 0o644)
}

/// Whole or not at all: a new file, renamed.
fn write(path: &Path, text: &str, mode: u32) -> anyhow::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let temporary = PathBuf::from(name);
    let written = || -> io::Result<()> {
        let _ = fs::remove_file(&temporary);
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    written().with_context(|| format!("{} can't be written", path.display()))
}
