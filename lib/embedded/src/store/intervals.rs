//! Whether one transaction would write a key twice.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use etcd_client::proto::{PbTxnOpRequest as Op, PbTxnRequestOp as RequestOp};

use super::Refusal;

/// Refuses operations that put a key twice, or put a key that a delete beside it covers. The branches of a nested
/// transaction exclude each other.
///
/// As in etcd, a delete in a later nested transaction may cover a put of an earlier one. Unlike etcd, a delete without
/// end counts as such here; etcd takes it for an empty one, and a put after it with `ignore_value` then stops the
/// server.
pub(crate) fn check(ops: &[RequestOp]) -> Result<(), Refusal> {
    writes(ops).map(|_| ())
}

fn writes(ops: &[RequestOp]) -> Result<(BTreeSet<&[u8]>, Deletes), Refusal> {
    let mut puts: BTreeSet<&[u8]> = BTreeSet::new();
    let mut deletes = Deletes::default();
    for op in ops {
        if let Some(Op::RequestDeleteRange(delete)) = &op.request {
            deletes.add(&delete.key, &delete.range_end);
        }
    }
    for op in ops {
        let Some(Op::RequestTxn(txn)) = &op.request else { continue };
        let (then_puts, then_deletes) = writes(&txn.success)?;
        let (else_puts, else_deletes) = writes(&txn.failure)?;
        let both: BTreeSet<&[u8]> = then_puts.union(&else_puts).copied().collect();
        for key in both {
            if deletes.cover(key) || !puts.insert(key) {
                return Err(Refusal::DuplicateKey);
            }
        }
        deletes.merge(then_deletes);
        deletes.merge(else_deletes);
    }
    for op in ops {
        let Some(Op::RequestPut(put)) = &op.request else { continue };
        if deletes.cover(&put.key) || !puts.insert(&put.key) {
            return Err(Refusal::DuplicateKey);
        }
    }
    Ok((puts, deletes))
}

/// The deleted ranges: start to end (none: no end), none overlapping another.
#[derive(Default)]
struct Deletes(BTreeMap<Vec<u8>, Option<Vec<u8>>>);

impl Deletes {
    fn add(&mut self, key: &[u8], range_end: &[u8]) {
        let end = match range_end {
            // The key that follows `key` directly.
            [] => Some([key, &[0]].concat()),
            [0] => None,
            end => Some(end.to_vec()),
        };
        self.insert(key.to_vec(), end);
    }

    fn insert(&mut self, mut start: Vec<u8>, mut end: Option<Vec<u8>>) {
        if end.as_ref().is_some_and(|end| *end <= start) {
            return;
        }
        if let Some((before, reach)) = self.0.range(..=start.clone()).next_back()
            && reach.as_ref().is_none_or(|reach| *reach >= start)
        {
            start.clone_from(before);
        }
        // What begins within the new range becomes a part of it.
        while let Some((next, reach)) = self
            .0
            .range((Bound::Included(start.clone()), upper(end.as_ref())))
            .next()
            .map(|(k, v)| (k.clone(), v.clone()))
        {
            self.0.remove(&next);
            end = match (end, reach) {
                (Some(end), Some(reach)) => Some(end.max(reach)),
                _ => None,
            };
        }
        self.0.insert(start, end);
    }

    fn merge(&mut self, other: Self) {
        for (start, end) in other.0 {
            self.insert(start, end);
        }
    }

    fn cover(&self, key: &[u8]) -> bool {
        let before = self.0.range::<[u8], _>((Bound::Unbounded, Bound::Included(key))).next_back();
        before.is_some_and(|(_, end)| end.as_ref().is_none_or(|end| key < end.as_slice()))
    }
}

fn upper(end: Option<&Vec<u8>>) -> Bound<Vec<u8>> {
    end.map_or(Bound::Unbounded, |end| Bound::Included(end.clone()))
}
