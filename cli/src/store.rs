//! Which store the commands work on.

use std::sync::Arc;

use anyhow::anyhow;
use datastore::{Datastore, Error, StoreConfig};

/// The choice of a store.
#[derive(clap::Args)]
pub(crate) struct StoreArgs {
    #[arg(
        long,
        value_name = "URL",
        help = "The store, such as http://127.0.0.1:2379 [default: what DATASTORE_TYPE and ETCD_ENDPOINTS say]"
    )]
    store: Option<String>,
}

impl StoreArgs {
    /// Connects. The error names what was tried and the way out.
    pub(crate) async fn connect(&self) -> anyhow::Result<Arc<dyn Datastore>> {
        let config = match &self.store {
            Some(url) => StoreConfig::from_url(url)?,
            None => StoreConfig::from_env().map_err(|error| match error {
                Error::Config(text) => anyhow!("{text}, or pass --store URL"),
                other => other.into(),
            })?,
        };
        Ok(config.connect().await?)
    }
}
