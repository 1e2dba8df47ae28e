//! A consistent list, read in pages at one revision.

use etcd_client::GetOptions;
use model::Stored;
use tokio::sync::mpsc::Sender;

use super::{Shared, epoch, keys, refusal, revision, version};
use crate::error::{Error, Result};
use crate::selection::Selection;
use crate::store::{Early, Item, Listing};

/// How often a list starts over when its revision is compacted while it is read.
const ATTEMPTS: u32 = 5;
/// Keys in the first page; later pages aim at [`PAGE_BYTES`].
const FIRST_PAGE: usize = 500;
const PAGE_BYTES: usize = 2 << 20;
const PAGE: std::ops::RangeInclusive<usize> = 20..=5000;

/// With `early` each page but the last is sent there, and is not in the result.
pub(super) async fn list(
    shared: &Shared,
    selection: Selection,
    early: Option<Sender<Early>>,
) -> Result<Listing> {
    for _ in 0..ATTEMPTS {
        match list_once(shared, selection, early.as_ref()).await {
            Err(error) if refusal::is_compacted(&error) => {
                tracing::debug!(%error, "the list starts over");
            }
            result => return result,
        }
    }
    Err(Error::Compacted { store: shared.connection.describe(), attempts: ATTEMPTS })
}

async fn list_once(
    shared: &Shared,
    selection: Selection,
    early: Option<&Sender<Early>>,
) -> Result<Listing> {
    let at = shared.now().await?;
    let send = async |part| {
        if let Some(early) = early {
            // Who no longer listens doesn't wait for the list either.
            let _ = early.send(part).await;
        }
    };
    send(Early::Anew).await;
    let mut items = Vec::new();
    let mut unknown_keys = 0;
    let mut page = FIRST_PAGE;
    for (mut start, end) in keys::ranges(selection) {
        loop {
            // In the order of keys, which is etcd's own. Asked for, it would read the whole range for each page.
            let options = GetOptions::new()
                .with_range(end.clone())
                .with_limit(i64::try_from(page).unwrap_or(i64::MAX))
                .with_revision(revision(at.version));
            let response = shared.connection.read(start.clone(), options).await?;
            let now = epoch(shared.header(response.header())?);
            if now != at.epoch {
                return Err(Error::Unavailable {
                    store: shared.connection.describe(),
                    reason: format!(
                        "two clusters answer, {} and {now}; give endpoints of one",
                        at.epoch
                    ),
                });
            }
            let kvs = response.kvs();
            let Some(last) = kvs.last() else { break };
            start = [last.key(), &[0]].concat();
            let bytes: usize = kvs.iter().map(|kv| kv.key().len() + kv.value().len()).sum();
            page = (PAGE_BYTES * kvs.len() / bytes.max(1)).clamp(*PAGE.start(), *PAGE.end());
            for kv in kvs {
                match keys::key(kv.key()) {
                    Some(key) if selection.contains(key.kind) => items.push(Item {
                        key,
                        value: Stored::from_bytes(kv.value()),
                        version: version(kv.mod_revision()),
                    }),
                    Some(_) => {}
                    None => {
                        unknown_keys += 1;
                        tracing::debug!(key = %kv.key().escape_ascii(), "unknown key skipped");
                    }
                }
            }
            if !response.more() {
                break;
            }
            if early.is_some() {
                send(Early::Items(std::mem::take(&mut items))).await;
            }
        }
    }
    shared.saw_list(unknown_keys);
    Ok(Listing { at, items, emptiness_is_certain: true })
}
