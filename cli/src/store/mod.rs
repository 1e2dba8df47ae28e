//! Which store the commands work on: what the flags say, else the environment, else calicoctl's file.

mod file;

use std::{env, path::PathBuf, sync::Arc};

use anyhow::{anyhow, bail};
use datastore::{Datastore, Error, StoreConfig};
use model::{Key, Kind, Stored};

/// The version of Calico whose data is read and written.
pub(crate) const CALICO_VERSION: &str = "v3.34.0";
/// Where calicoctl's configuration is when nobody says otherwise.
const DEFAULT_FILE: &str = "/etc/calico/calicoctl.cfg";

/// The choice of a store.
#[derive(clap::Args)]
pub(crate) struct StoreArgs {
    /// The store, such as <http://127.0.0.1:2379> [default: what environment and file say]
    #[arg(long, value_name = "URL", help_heading = "Store")]
    store: Option<String>,

    /// The file that says where the store is
    #[arg(
        short = 'c',
        long,
        value_name = "FILE",
        default_value = DEFAULT_FILE,
        help_heading = "Store"
    )]
    config: PathBuf,

    /// The context of the kubeconfig
    #[arg(long, value_name = "NAME", help_heading = "Store")]
    context: Option<String>,

    /// Go on when the cluster has another version than this program's data
    #[arg(long, help_heading = "Store")]
    allow_version_mismatch: bool,

    /// How much is logged on stderr
    #[arg(
        short = 'l',
        long,
        value_name = "LEVEL",
        value_parser = ["panic", "fatal", "error", "warn", "warning", "info", "debug", "trace"],
        hide_possible_values = true,
        help_heading = "Store"
    )]
    log_level: Option<String>,
}

impl StoreArgs {
    /// Connects, to a cluster of the version that this program's data has. The error names what was
    /// tried and the way out.
    pub(crate) async fn connect(&self) -> anyhow::Result<Arc<dyn Datastore>> {
        let store = self.connect_any().await?;
        if !self.allow_version_mismatch {
            same_version(&*store).await?;
        }
        Ok(store)
    }

    /// Connects, whatever version the cluster has.
    pub(crate) async fn connect_any(&self) -> anyhow::Result<Arc<dyn Datastore>> {
        if let Some(level) = &self.log_level {
            runtime::log(match level.as_str() {
                "panic" | "fatal" => "error",
                "warning" => "warn",
                level => level,
            });
        }
        Ok(self.choice()?.connect().await?)
    }

    /// Connects if flags, environment or file say where.
    pub(crate) async fn connect_if_given(&self) -> anyhow::Result<Option<Arc<dyn Datastore>>> {
        let names = ["DATASTORE_TYPE", "ETCD_ENDPOINTS", "KUBECONFIG"];
        let is_given =
            self.store.is_some() || self.config.is_file() || names.into_iter().any(is_set);
        Ok(if is_given { Some(self.choice()?.connect().await?) } else { None })
    }

    fn choice(&self) -> anyhow::Result<StoreConfig> {
        if let Some(url) = &self.store {
            return Ok(StoreConfig::from_url(url)?);
        }
        let is_default = self.config.as_os_str() == DEFAULT_FILE;
        if !is_default && !self.config.is_file() {
            bail!("{}: there is no such file; give another --config", self.config.display());
        }
        let settings = file::read(&self.config)?;
        // An address in the environment is an etcd's, whatever type the file has in mind.
        let is_chosen = ["DATASTORE_TYPE", "ETCD_ENDPOINTS"].into_iter().any(is_set);
        let lookup = |name: &str| match (name, &self.context) {
            ("CALICO_K8S_CURRENT_CONTEXT", Some(context)) => Some(context.clone()),
            ("DATASTORE_TYPE", _) if is_chosen => environment(name),
            _ => environment(name).or_else(|| settings.get(name).cloned()),
        };
        StoreConfig::from_vars(lookup).map_err(|error| match error {
            Error::Config(text) if settings.is_empty() => {
                anyhow!("{text}, or pass --store URL or --config FILE")
            }
            Error::Config(text) => {
                anyhow!("{text} ({} was read), or pass --store URL", self.config.display())
            }
            other => other.into(),
        })
    }
}

/// A variable that is there and not empty.
fn environment(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.trim().is_empty())
}

/// Whether it is set, with or without Calico's prefix.
fn is_set(name: &str) -> bool {
    environment(name).or_else(|| environment(&format!("CALICO_{name}"))).is_some()
}

/// Data of another version may mean something else: what this program doesn't know it would drop.
async fn same_version(store: &dyn Datastore) -> anyhow::Result<()> {
    let key = Key::global(Kind::ClusterInformation, "default");
    let Some(item) = store.get(&key).await? else { return Ok(()) };
    let Stored::Json(object) = item.value else { return Ok(()) };
    let cluster = object["spec"]["calicoVersion"].as_str().unwrap_or_default();
    // What follows the first dash says how it was built.
    let number = |version: &str| {
        version.trim_start_matches('v').split('-').next().unwrap_or_default().to_owned()
    };
    if !cluster.is_empty() && number(cluster) != number(CALICO_VERSION) {
        bail!(
            "version mismatch: the cluster has Calico's data of {cluster}, this program that of \
             {CALICO_VERSION}; take the program of the cluster's version, or pass \
             --allow-version-mismatch"
        );
    }
    Ok(())
}
