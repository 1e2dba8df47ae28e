//! A consistent list, read in pages at one revision.

use etcd_client::{GetOptions, SortOrder, SortTarget};
use model::Stored;

use super::{Shared, connection, header, keys, lock, position, revision, version};
use crate::error::{Error, Result};
use crate::selection::Selection;
use crate::store::{Item, Listing, Position};

/// How often a list starts over when its revision is compacted while it is read.
const ATTEMPTS: u32 = 5;
/// Keys in the first page; later pages aim at [`PAGE_BYTES`].
const FIRST_PAGE: usize = 500;
const PAGE_BYTES: usize = 2 << 20;
const PAGE: std::ops::RangeInclusive<usize> = 20..=5000;

pub(super) async fn list(shared: &Shared, selection: Selection) -> Result<Listing> {
    for _ in 0..ATTEMPTS {
        match list_once(shared, selection).await {
            Err(error) if connection::is_compacted(&error) => {
                tracing::debug!(%error, "the list starts over");
            }
            result => {
                if result.is_ok() {
                    shared.saw_progress();
                }
                return result;
            }
        }
    }
    Err(Error::Compacted { endpoint: shared.connection.endpoints(), attempts: ATTEMPTS })
}

async fn list_once(shared: &Shared, selection: Selection) -> Result<Listing> {
    let mut at: Option<Position> = None;
    let mut items = Vec::new();
    let mut unknown = 0;
    let mut page = FIRST_PAGE;
    for (mut start, end) in keys::ranges(selection) {
        loop {
            let mut options = GetOptions::new()
                .with_range(end.clone())
                .with_limit(i64::try_from(page).unwrap_or(i64::MAX))
                .with_sort(SortTarget::Key, SortOrder::Ascend);
            if let Some(at) = &at {
                options = options.with_revision(revision(at.version));
            }
            let response = shared.connection.read(start.clone(), options).await?;
            let now = position(header(response.header())?);
            let at = at.get_or_insert_with(|| now.clone());
            if now.epoch != at.epoch {
                return Err(Error::Unavailable {
                    endpoint: shared.connection.endpoints(),
                    reason: format!(
                        "two clusters answer, {} and {}; give endpoints of one",
                        at.epoch, now.epoch
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
                    None => unknown += 1,
                }
            }
            if !response.more() {
                break;
            }
        }
    }
    lock(&shared.unknown).listed = unknown;
    // A selection without kinds has no ranges.
    let at = match at {
        Some(at) => at,
        None => shared.now().await?,
    };
    Ok(Listing { at, items })
}
