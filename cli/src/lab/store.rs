//! The lab's objects in its store: written when it starts, removed from a store that stays.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail};
use datastore::{Datastore, StoreConfig};
use model::{Key, Stored};
use serde_json::Value;

use super::objects::is_shared;

/// Connects, trying again for so long while there is a reason to `go_on`.
pub(crate) async fn connect(
    url: &str,
    patience: Duration,
    go_on: &dyn Fn() -> bool,
) -> anyhow::Result<Arc<dyn Datastore>> {
    let config = StoreConfig::from_url(url)?;
    let deadline = Instant::now() + patience;
    loop {
        match config.connect().await {
            Err(error) if error.is_temporary() && go_on() && Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            connected => return Ok(connected?),
        }
    }
}

/// Refuses a store in which any of the objects exists, but for those that every user of a store shares.
pub(crate) async fn check_absent(
    store: &dyn Datastore,
    objects: &[(Key, Value)],
) -> anyhow::Result<()> {
    for (key, _) in objects.iter().filter(|(key, _)| !is_shared(key)) {
        if store.get(key).await?.is_some() {
            bail!(
                "{} has {key} already: it belongs to a cluster or another lab; use an empty store",
                store.describe()
            );
        }
    }
    Ok(())
}

/// Writes all objects. Shared ones that exist stay as they are.
pub(crate) async fn write(store: &dyn Datastore, objects: &[(Key, Value)]) -> anyhow::Result<()> {
    for (key, value) in objects {
        match store.create(key, &Stored::Json(value.clone())).await {
            Err(datastore::Error::Conflict(_)) if is_shared(key) => {}
            written => {
                written.with_context(|| format!("writing {key}"))?;
            }
        }
    }
    Ok(())
}

/// Removes the objects that are there; of shared ones only those that [`write`] made.
pub(crate) async fn remove(store: &dyn Datastore, objects: &[(Key, Value)]) -> anyhow::Result<()> {
    // What refers to others goes first.
    for (key, value) in objects.iter().rev() {
        if is_shared(key) {
            let Some(item) = store.get(key).await? else { continue };
            let Stored::Json(stored) = &item.value else { continue };
            if stored["metadata"]["uid"] != value["metadata"]["uid"] {
                continue;
            }
        }
        store.delete(key, None).await.with_context(|| format!("removing {key}"))?;
    }
    Ok(())
}
