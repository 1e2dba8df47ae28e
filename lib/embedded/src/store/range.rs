//! Answering Range: filters, sorting, limits and counts at one revision.

use std::cmp::Ordering;
use std::sync::Arc;

use etcd_client::proto::{PbRangeRequest, PbRangeResponse};

use super::{KeyValue, Keys, Refusal, Span, count, header};

// `SortOrder` and `SortTarget` of etcd's rpc.proto.
const NONE: i32 = 0;
const DESCEND: i32 = 2;
const BY_KEY: i32 = 0;
const BY_VERSION: i32 = 1;
const BY_CREATE: i32 = 2;
const BY_MOD: i32 = 3;
const BY_VALUE: i32 = 4;

/// What can be read: everything up to `current`, but nothing from before `compacted`.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) keys: &'a Keys,
    pub(crate) current: i64,
    pub(crate) compacted: i64,
}

impl View<'_> {
    /// The revision to read at: the wanted one, or the current one for none.
    pub(crate) fn revision(self, wanted: i64) -> Result<i64, Refusal> {
        let revision = if wanted > 0 { wanted } else { self.current };
        match revision {
            _ if revision > self.current => Err(Refusal::FutureRevision),
            _ if revision < self.compacted => Err(Refusal::Compacted),
            _ => Ok(revision),
        }
    }
}

/// What is wrong with the request whatever the store holds.
pub(crate) fn check(request: &PbRangeRequest) -> Result<(), Refusal> {
    if request.key.is_empty() {
        return Err(Refusal::EmptyKey);
    }
    if !(NONE..=DESCEND).contains(&request.sort_order)
        || !(BY_KEY..=BY_VALUE).contains(&request.sort_target)
    {
        return Err(Refusal::InvalidSortOption);
    }
    Ok(())
}

/// Answers a checked request.
pub(crate) fn range(view: View<'_>, request: &PbRangeRequest) -> Result<PbRangeResponse, Refusal> {
    let revision = view.revision(request.revision)?;
    let span = Span::new(&request.key, &request.range_end);
    let mut response =
        PbRangeResponse { header: Some(header(view.current)), ..PbRangeResponse::default() };
    if request.count_only {
        response.count = count(view.keys.range(&span, revision).count());
        return Ok(response);
    }

    let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0);
    // etcd cuts before it sorts when only a target and no order is given, and so do we.
    let whole = request.sort_order != NONE || has_filters(request);
    let wanted =
        if whole { usize::MAX } else { limit.map_or(usize::MAX, |limit| limit.saturating_add(1)) };
    let mut found: Vec<&Arc<KeyValue>> = Vec::new();
    for kv in view.keys.range(&span, revision) {
        if found.len() < wanted {
            found.push(kv);
        }
        response.count += 1;
    }
    found.retain(|kv| passes(request, kv));
    sort(request, &mut found);
    if let Some(limit) = limit
        && found.len() > limit
    {
        found.truncate(limit);
        response.more = true;
    }
    response.kvs = found.into_iter().map(|kv| copy(kv, request.keys_only)).collect();
    Ok(response)
}

fn has_filters(request: &PbRangeRequest) -> bool {
    request.min_mod_revision != 0
        || request.max_mod_revision != 0
        || request.min_create_revision != 0
        || request.max_create_revision != 0
}

fn passes(request: &PbRangeRequest, kv: &KeyValue) -> bool {
    let within = |revision: i64, min: i64, max: i64| {
        (min == 0 || revision >= min) && (max == 0 || revision <= max)
    };
    within(kv.mod_revision, request.min_mod_revision, request.max_mod_revision)
        && within(kv.create_revision, request.min_create_revision, request.max_create_revision)
}

/// Ties keep the order of the keys.
fn sort(request: &PbRangeRequest, found: &mut [&Arc<KeyValue>]) {
    let by = |compare: fn(&KeyValue, &KeyValue) -> Ordering| {
        move |a: &&Arc<KeyValue>, b: &&Arc<KeyValue>| match request.sort_order {
            DESCEND => compare(b, a),
            _ => compare(a, b),
        }
    };
    match request.sort_target {
        BY_VERSION => found.sort_by(by(|a, b| a.version.cmp(&b.version))),
        BY_CREATE => found.sort_by(by(|a, b| a.create_revision.cmp(&b.create_revision))),
        BY_MOD => found.sort_by(by(|a, b| a.mod_revision.cmp(&b.mod_revision))),
        BY_VALUE => found.sort_by(by(|a, b| a.value.cmp(&b.value))),
        // They come sorted by key.
        _ if request.sort_order == DESCEND => found.reverse(),
        _ => {}
    }
}

fn copy(kv: &KeyValue, keys_only: bool) -> KeyValue {
    if keys_only {
        return KeyValue { key: kv.key.clone(), value: Vec::new(), ..*kv };
    }
    kv.clone()
}
