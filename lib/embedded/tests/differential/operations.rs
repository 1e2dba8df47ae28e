//! Random operations: few keys, so that they meet; few values, so that they tie; often wrong on purpose.

use etcd_client::proto::{
    PbCompactionRequest, PbCompare, PbDeleteRequest, PbLeaseGrantRequest, PbLeaseKeepAliveRequest,
    PbLeaseRevokeRequest, PbLeaseTimeToLiveRequest, PbPutRequest, PbRangeRequest, PbTargetUnion,
    PbTxnOpRequest, PbTxnRequest, PbTxnRequestOp,
};
use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

use crate::client::Answer;
use crate::watches::Watch;

/// No more than twelve: with more, etcd's sort doesn't keep the order of ties.
const KEYS: [&[u8]; 8] = [b"a", b"a/1", b"a/2", b"a/\xff", b"b", b"b/1", b"\0", b"\xff\xff"];
const ENDS: [&[u8]; 8] = [b"", b"", b"", b"\0", b"a0", b"b", b"b0", b"\xff"];
const VALUES: [&[u8]; 4] = [b"", b"1", b"2", b"three"];
const LEASES: [i64; 5] = [1, 2, 3, -7, i64::MAX];

#[derive(Clone, Debug)]
pub(crate) enum Operation {
    Range(PbRangeRequest),
    Put(PbPutRequest),
    Delete(PbDeleteRequest),
    Txn(PbTxnRequest),
    Compact(PbCompactionRequest),
    Grant(PbLeaseGrantRequest),
    Revoke(PbLeaseRevokeRequest),
    KeepAlive(PbLeaseKeepAliveRequest),
    TimeToLive(PbLeaseTimeToLiveRequest),
    Leases,
}

/// Makes operations, knowing roughly where the store is.
pub(crate) struct Generator {
    old: bool,
    pub(crate) revision: i64,
    compacted: i64,
}

fn pick<T: Copy>(random: &mut StdRng, from: &[T]) -> T {
    *from.choose(random).expect("something to choose from")
}

fn rarely(random: &mut StdRng) -> bool {
    random.random_ratio(1, 8)
}

impl Generator {
    /// For an etcd 3.4 if `old`: it is spared what it answers otherwise, or dies of.
    pub(crate) fn new(old: bool) -> Self {
        Self { old, revision: 0, compacted: 0 }
    }

    /// Takes note of what an operation did.
    pub(crate) fn learn(&mut self, operation: &Operation, answer: &Answer) {
        self.revision = answer.revision().unwrap_or(self.revision);
        if let (Operation::Compact(request), Answer::Compact(_)) = (operation, answer) {
            self.compacted = request.revision;
        }
    }

    pub(crate) fn operation(&self, random: &mut StdRng) -> Operation {
        match random.random_range(0..100) {
            0..30 => Operation::Put(put(random)),
            30..40 => Operation::Delete(delete(random)),
            40..60 => Operation::Range(self.range(random)),
            60..84 => Operation::Txn(self.txn(random)),
            84..86 => {
                let revision = self.some_revision(random);
                Operation::Compact(PbCompactionRequest { revision, physical: random.random() })
            }
            86..91 => {
                let ttl = pick(random, &[600, 700, 800, 0, -5, 9_000_000_000, 9_000_000_001]);
                // A short one would end in the middle of the run.
                let ttl = if ttl < 2 { 900 } else { ttl };
                Operation::Grant(PbLeaseGrantRequest { id: pick(random, &LEASES), ttl })
            }
            91..93 => Operation::Revoke(PbLeaseRevokeRequest { id: pick(random, &LEASES) }),
            93..95 => Operation::KeepAlive(PbLeaseKeepAliveRequest { id: pick(random, &LEASES) }),
            95..98 => Operation::TimeToLive(PbLeaseTimeToLiveRequest {
                id: pick(random, &LEASES),
                keys: random.random(),
            }),
            _ => Operation::Leases,
        }
    }

    /// A watch from a revision that the store still knows, or no more.
    pub(crate) fn watch(&self, random: &mut StdRng) -> Watch {
        // Before 3.5, a delete at the compacted revision itself is gone.
        let first = self.compacted + i64::from(self.old);
        let start_revision = match random.random_range(0..8) {
            0 => 0,
            1 => self.revision + 1,
            // Never 0, which means now.
            2 if self.compacted > 1 => random.random_range(1..self.compacted),
            _ => random.random_range(first.max(1)..=self.revision.max(first + 1)),
        };
        let mut filters = Vec::new();
        if rarely(random) {
            filters.push(random.random_range(0..3));
        }
        let id = if rarely(random) { 77 } else { 0 };
        let mut key = key(random);
        if rarely(random) {
            key.clear();
        }
        Watch { key, range_end: end(random), start_revision, filters, prev_kv: random.random(), id }
    }

    /// Around where something changes: the present, the compaction, the beginning.
    fn some_revision(&self, random: &mut StdRng) -> i64 {
        match random.random_range(0..10) {
            0 => self.revision + 1,
            1 => self.revision,
            2 => self.compacted - 1,
            3 => self.compacted,
            4 => -1,
            5 => 0,
            _ => random.random_range(self.compacted.min(self.revision)..=self.revision.max(1)),
        }
    }

    fn range(&self, random: &mut StdRng) -> PbRangeRequest {
        let mut request = PbRangeRequest {
            key: key(random),
            range_end: end(random),
            limit: pick(random, &[0, 0, 0, 1, 2, 3, 100, -1]),
            revision: if random.random() { 0 } else { self.some_revision(random) },
            sort_order: pick(random, &[0, 0, 1, 2]),
            sort_target: pick(random, &[0, 0, 1, 2, 3, 4]),
            serializable: random.random(),
            keys_only: rarely(random),
            count_only: rarely(random),
            ..PbRangeRequest::default()
        };
        for bound in [
            &mut request.min_mod_revision,
            &mut request.max_mod_revision,
            &mut request.min_create_revision,
            &mut request.max_create_revision,
        ] {
            if rarely(random) {
                *bound = random.random_range(0..=self.revision.max(1));
            }
        }
        if random.random_ratio(1, 50) && !self.old {
            request.sort_order = 3;
        }
        if random.random_ratio(1, 50) && !self.old {
            request.sort_target = -1;
        }
        if random.random_ratio(1, 50) {
            request.key.clear();
        }
        request
    }

    fn txn(&self, random: &mut StdRng) -> PbTxnRequest {
        let mut txn = self.txn_of_depth(random, 2);
        if random.random_ratio(1, 40) {
            let op =
                PbTxnRequestOp { request: Some(PbTxnOpRequest::RequestRange(self.range(random))) };
            txn.success = vec![op; random.random_range(120..135)];
        }
        if puts(&txn) {
            end_deletes(&mut txn);
        }
        txn
    }

    fn txn_of_depth(&self, random: &mut StdRng, depth: usize) -> PbTxnRequest {
        let compare = (0..pick(random, &[0, 1, 1, 2])).map(|_| self.compare(random)).collect();
        // Half of the transactions only read: those take another way.
        let writes = random.random();
        let mut ops = || {
            let count = pick(random, &[0, 1, 2, 3]);
            (0..count).map(|_| self.op(random, depth, writes)).collect()
        };
        PbTxnRequest { compare, success: ops(), failure: ops() }
    }

    fn op(&self, random: &mut StdRng, depth: usize, writes: bool) -> PbTxnRequestOp {
        let request = match random.random_range(0..20) {
            _ if !writes => PbTxnOpRequest::RequestRange(self.range(random)),
            0..5 => PbTxnOpRequest::RequestRange(self.range(random)),
            5..8 => PbTxnOpRequest::RequestDeleteRange(delete(random)),
            8..13 if depth > 0 => PbTxnOpRequest::RequestTxn(self.txn_of_depth(random, depth - 1)),
            19 if rarely(random) => return PbTxnRequestOp { request: None },
            _ => PbTxnOpRequest::RequestPut(put(random)),
        };
        PbTxnRequestOp { request: Some(request) }
    }

    fn compare(&self, random: &mut StdRng) -> PbCompare {
        let number =
            pick(random, &[0, 1, 2, 3, self.revision, self.revision - 1, self.revision - 5]);
        let union = |target: i32| match target {
            0 => PbTargetUnion::Version(number),
            1 => PbTargetUnion::CreateRevision(number),
            2 => PbTargetUnion::ModRevision(number),
            4 => PbTargetUnion::Lease(number),
            _ => PbTargetUnion::Value(number.to_string().into_bytes()),
        };
        let target = random.random_range(0..5);
        let target_union = match random.random_range(0..16) {
            0 => None,
            // Of another target.
            1 => Some(union((target + 1) % 5)),
            _ => Some(union(target)),
        };
        PbCompare {
            result: if rarely(random) { 4 } else { random.random_range(0..4) },
            target: if random.random_ratio(1, 30) { 9 } else { target },
            key: key(random),
            range_end: end(random),
            target_union,
        }
    }
}

fn key(random: &mut StdRng) -> Vec<u8> {
    pick(random, &KEYS).to_vec()
}

/// Mostly one key; else all that follow, a range, or a range that is empty because it ends before it begins.
fn end(random: &mut StdRng) -> Vec<u8> {
    pick(random, &ENDS).to_vec()
}

fn put(random: &mut StdRng) -> PbPutRequest {
    PbPutRequest {
        key: if random.random_ratio(1, 50) { Vec::new() } else { key(random) },
        value: pick(random, &VALUES).to_vec(),
        lease: if random.random_ratio(1, 3) { pick(random, &LEASES) } else { 0 },
        prev_kv: random.random(),
        ignore_value: rarely(random),
        ignore_lease: rarely(random),
    }
}

/// Rarely of a range, so that there are keys to ask for.
fn delete(random: &mut StdRng) -> PbDeleteRequest {
    let range_end = if rarely(random) { end(random) } else { Vec::new() };
    PbDeleteRequest { key: key(random), range_end, prev_kv: random.random() }
}

fn puts(txn: &PbTxnRequest) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match &op.request {
        Some(PbTxnOpRequest::RequestPut(_)) => true,
        Some(PbTxnOpRequest::RequestTxn(txn)) => puts(txn),
        _ => false,
    })
}

/// Gives an end to deletes without end: beside a put of the same transaction we refuse what etcd takes (and can be
/// stopped by).
fn end_deletes(txn: &mut PbTxnRequest) {
    for op in txn.success.iter_mut().chain(&mut txn.failure) {
        match &mut op.request {
            Some(PbTxnOpRequest::RequestDeleteRange(delete)) if delete.range_end == [0] => {
                delete.range_end = b"\xff\xff\xff".to_vec();
            }
            Some(PbTxnOpRequest::RequestTxn(txn)) => end_deletes(txn),
            _ => {}
        }
    }
}
