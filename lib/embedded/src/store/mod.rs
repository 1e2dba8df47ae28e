//! The store as one synchronous value: requests in, responses out; no disk, no clock, no network.
//!
//! Writes apply at once, but what they did is *visible* to reads and watchers only from [`Store::publish`] on, when it
//! is durable. If it can't be made durable, [`Store::roll_back`] undoes it, and nobody has seen it:
//!
//! ```text
//! put, txn, … ──> revision ──> take_unsaved ──> disk ──> publish ──> visible ──> reads, watchers
//!                    └──────────── roll_back <── failed ──┘
//! ```
//!
//! Requests and responses are those of etcd's `rpc.proto`; what they mean was read from etcd 3.6's source
//! (`server/etcdserver/txn`, `server/storage/mvcc`, `server/lease`).

mod intervals;
mod keys;
mod lease;
mod log;
mod range;
mod refusal;
mod span;
mod txn;
mod watch;
mod writing;

use std::collections::BTreeMap;
use std::hash::Hasher;
use std::sync::Arc;
use std::time::Instant;

use etcd_client::proto::{
    PbCompactionRequest, PbCompactionResponse, PbDeleteRequest, PbDeleteResponse, PbHashKvRequest,
    PbHashKvResponse, PbLeaseGrantRequest, PbLeaseGrantResponse, PbLeaseKeepAliveRequest,
    PbLeaseKeepAliveResponse, PbLeaseLeasesResponse, PbLeaseRevokeRequest, PbLeaseRevokeResponse,
    PbLeaseStatus, PbLeaseTimeToLiveRequest, PbLeaseTimeToLiveResponse, PbPutRequest,
    PbPutResponse, PbRangeRequest, PbRangeResponse, PbResponseHeader, PbTxnRequest, PbTxnResponse,
};

pub(crate) use etcd_client::proto::PbKeyValue as KeyValue;
use fnv::FnvHasher;
use keys::Keys;
use lease::Leases;
pub use lease::{MAX_LEASE_SECONDS, MIN_LEASE_SECONDS};
use log::Log;
use prost::Message;
use range::View;
pub use refusal::Refusal;
use span::Span;
pub(crate) use watch::{StreamId, Watches};
use writing::{Writing, check_delete, check_put};

/// The most compares, or operations of one branch, that a transaction may have with those it is nested in.
pub const MAX_TXN_OPS: usize = 128;
/// The largest request that etcd takes, in bytes.
pub const MAX_REQUEST_BYTES: usize = 1_572_864;

/// The state, with its history since the last compaction.
#[derive(Debug)]
pub(crate) struct Store {
    keys: Keys,
    log: Log,
    leases: Leases,
    /// The last revision applied.
    revision: i64,
    /// The last revision published: what reads and watchers see. Never above `revision`.
    visible: i64,
    /// Reads below are refused. -1: nothing was compacted.
    compacted: i64,
    /// The log has all changes from this revision on.
    floor: i64,
    unsaved: Unsaved,
}

/// What changed since it was last taken, to be made durable.
#[derive(Debug, Default)]
pub(crate) struct Unsaved {
    /// None: deleted.
    pub(crate) keys: BTreeMap<Vec<u8>, Option<Arc<KeyValue>>>,
    /// The granted time to live in seconds; none: revoked.
    pub(crate) leases: BTreeMap<i64, Option<i64>>,
}

/// How far the state goes that [`Store::publish`] makes visible.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark {
    pub(crate) revision: i64,
    lease_changes: usize,
}

/// The state as it survives a restart: without history.
#[derive(Debug, Default)]
pub(crate) struct Saved {
    pub(crate) revision: i64,
    pub(crate) keys: Vec<Arc<KeyValue>>,
    /// Id and granted time to live in seconds.
    pub(crate) leases: Vec<(i64, i64)>,
}

impl Store {
    /// An empty store. Like etcd's, its first revision is 1.
    pub(crate) fn new() -> Self {
        Self {
            keys: Keys::default(),
            log: Log::default(),
            leases: Leases::default(),
            revision: 1,
            visible: 1,
            compacted: -1,
            floor: -1,
            unsaved: Unsaved::default(),
        }
    }

    /// The store after a restart: everything before is compacted, and leases begin anew.
    pub(crate) fn restore(saved: Saved, now: Instant) -> Self {
        let mut store = Self::new();
        store.revision = saved.revision;
        store.visible = saved.revision;
        // At the first revision nothing has happened yet.
        if saved.revision > 1 {
            store.compacted = saved.revision;
            // What happened at the last revision itself isn't known any more.
            store.floor = saved.revision + 1;
        }
        for (id, ttl) in saved.leases {
            store.leases.restore(id, ttl, now);
        }
        for kv in saved.keys {
            store.leases.attach(&kv.key, 0, kv.lease);
            store.keys.push(kv.key.clone(), kv.mod_revision, Some(kv));
        }
        store
    }

    /// The revision that reads and watchers see.
    pub(crate) fn visible(&self) -> i64 {
        self.visible
    }

    /// Roughly the memory that keys, values and history take, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.log.bytes()
    }

    fn view(&self) -> View<'_> {
        View { keys: &self.keys, current: self.visible, compacted: self.compacted }
    }

    // Reads.

    pub(crate) fn range(&self, request: &PbRangeRequest) -> Result<PbRangeResponse, Refusal> {
        range::check(request)?;
        range::range(self.view(), request)
    }

    /// Answers a transaction for which [`is_read_only`] holds.
    pub(crate) fn read_txn(&self, request: &PbTxnRequest) -> Result<PbTxnResponse, Refusal> {
        txn::check(request)?;
        txn::read(self.view(), &self.leases, request)
    }

    pub(crate) fn lease_time_to_live(
        &self,
        request: &PbLeaseTimeToLiveRequest,
        now: Instant,
    ) -> PbLeaseTimeToLiveResponse {
        let header = Some(header(self.visible));
        let Some(lease) = self.leases.get(request.id) else {
            return PbLeaseTimeToLiveResponse {
                header,
                id: request.id,
                ttl: -1,
                ..Default::default()
            };
        };
        PbLeaseTimeToLiveResponse {
            header,
            id: request.id,
            ttl: lease.expiry.saturating_duration_since(now).as_secs().cast_signed(),
            granted_ttl: lease.ttl,
            keys: if request.keys { lease.keys.iter().cloned().collect() } else { Vec::new() },
        }
    }

    pub(crate) fn lease_leases(&self) -> PbLeaseLeasesResponse {
        let leases = self.leases.ids().map(|id| PbLeaseStatus { id }).collect();
        PbLeaseLeasesResponse { header: Some(header(self.visible)), leases }
    }

    /// A hash of the keys at a revision, the same before and after a restart. It isn't etcd's, which is made of its
    /// file's pages.
    pub(crate) fn hash(&self, request: PbHashKvRequest) -> Result<PbHashKvResponse, Refusal> {
        let view = self.view();
        let revision = view.revision(request.revision)?;
        let mut hash = FnvHasher::default();
        for kv in self.keys.range(&Span::all(), revision) {
            hash.write(&kv.encode_length_delimited_to_vec());
        }
        // etcd's has 32 bits.
        let hash = hash.finish() as u32;
        let header = Some(header(self.visible));
        Ok(PbHashKvResponse {
            header,
            hash,
            compact_revision: self.compacted,
            hash_revision: revision,
        })
    }

    // Writes: visible when published.

    pub(crate) fn put(&mut self, request: &PbPutRequest) -> Result<PbPutResponse, Refusal> {
        check_put(request)?;
        if request.lease != 0 && self.leases.get(request.lease).is_none() {
            return Err(Refusal::LeaseNotFound);
        }
        if (request.ignore_value || request.ignore_lease)
            && self.keys.at(&request.key, self.revision).is_none()
        {
            return Err(Refusal::KeyNotFound);
        }
        let mut writing = Writing::new(self);
        let response = writing.put(request);
        writing.finish();
        Ok(response)
    }

    pub(crate) fn delete_range(
        &mut self,
        request: &PbDeleteRequest,
    ) -> Result<PbDeleteResponse, Refusal> {
        check_delete(request)?;
        let mut writing = Writing::new(self);
        let response = writing.delete_range(request);
        writing.finish();
        Ok(response)
    }

    pub(crate) fn txn(&mut self, request: &PbTxnRequest) -> Result<PbTxnResponse, Refusal> {
        txn::check(request)?;
        let view = View { current: self.revision, ..self.view() };
        let plan = txn::Plan::new(view, &self.leases, request)?;
        let mut writing = Writing::new(self);
        let response = txn::write(&mut writing, &plan);
        writing.finish();
        let mut response = response?;
        response.header = Some(header(self.revision));
        Ok(response)
    }

    pub(crate) fn lease_grant(
        &mut self,
        request: &PbLeaseGrantRequest,
        now: Instant,
    ) -> Result<PbLeaseGrantResponse, Refusal> {
        let ttl = self.leases.grant(request.id, request.ttl, now)?;
        self.unsaved.leases.insert(request.id, Some(ttl));
        Ok(PbLeaseGrantResponse {
            header: Some(header(self.revision)),
            id: request.id,
            ttl,
            error: String::new(),
        })
    }

    pub(crate) fn lease_revoke(
        &mut self,
        request: PbLeaseRevokeRequest,
    ) -> Result<PbLeaseRevokeResponse, Refusal> {
        let keys = self.leases.revoke(request.id)?;
        self.unsaved.leases.insert(request.id, None);
        let mut writing = Writing::new(self);
        for key in keys {
            writing.delete(key);
        }
        writing.finish();
        Ok(PbLeaseRevokeResponse { header: Some(header(self.revision)) })
    }

    /// Ends the leases that are over, with their keys, each at a revision of its own.
    pub(crate) fn expire(&mut self, now: Instant) {
        while let Some(id) = self.leases.over(now) {
            // It was found a line above.
            let _ = self.lease_revoke(PbLeaseRevokeRequest { id });
        }
    }

    /// When the next lease is over.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        self.leases.next_expiry()
    }

    // What is in memory only.

    pub(crate) fn lease_keep_alive(
        &mut self,
        request: PbLeaseKeepAliveRequest,
        now: Instant,
    ) -> PbLeaseKeepAliveResponse {
        let ttl = self.leases.renew(request.id, now).unwrap_or_default();
        PbLeaseKeepAliveResponse { header: Some(header(self.visible)), id: request.id, ttl }
    }

    pub(crate) fn compact(
        &mut self,
        request: PbCompactionRequest,
    ) -> Result<PbCompactionResponse, Refusal> {
        if request.revision <= self.compacted {
            return Err(Refusal::Compacted);
        }
        if request.revision > self.visible {
            return Err(Refusal::FutureRevision);
        }
        self.compact_to(request.revision);
        Ok(PbCompactionResponse { header: Some(header(self.visible)) })
    }

    /// Compacts as far as needed for the history to take no more than `bytes` of memory; to the half of it, so that
    /// this is rarely needed.
    pub(crate) fn bound_history(&mut self, bytes: usize) {
        if self.log.bytes() <= bytes {
            return;
        }
        if let Some(revision) = self.log.fitting(bytes / 2) {
            let revision = revision.min(self.visible);
            if revision > self.compacted {
                self.compact_to(revision);
            }
        }
    }

    fn compact_to(&mut self, revision: i64) {
        self.compacted = revision;
        self.floor = self.floor.max(revision);
        while let Some(entry) = self.log.pop_before(revision) {
            for change in &entry.changes {
                self.keys.compact(change.key(), revision);
            }
        }
        // The entry of the revision itself stays, for those who watch from there.
        let first: Vec<Vec<u8>> = self
            .log
            .from(revision)
            .take_while(|entry| entry.revision == revision)
            .flat_map(|entry| entry.changes.iter().map(|change| change.key().to_vec()))
            .collect();
        for key in first {
            self.keys.compact(&key, revision);
        }
    }

    // Durability.

    /// Whether something was applied that isn't published.
    pub(crate) fn is_unsettled(&self) -> bool {
        self.visible < self.revision || self.leases.unsettled() > 0
    }

    /// Takes what has to be made durable, and how far it goes.
    pub(crate) fn take_unsaved(&mut self) -> (Unsaved, Mark) {
        let mark = Mark { revision: self.revision, lease_changes: self.leases.unsettled() };
        (std::mem::take(&mut self.unsaved), mark)
    }

    /// What was applied up to `mark` is durable: reads and watchers may see it.
    pub(crate) fn publish(&mut self, mark: Mark) {
        self.visible = mark.revision;
        self.leases.settle(mark.lease_changes);
    }

    /// Undoes all that isn't published.
    pub(crate) fn roll_back(&mut self) {
        self.unsaved = Unsaved::default();
        self.leases.roll_back();
        while let Some(entry) = self.log.pop_after(self.visible) {
            for change in &entry.changes {
                self.keys.roll_back(change.key(), self.visible);
            }
            for change in &entry.changes {
                let lease = self.keys.at(change.key(), self.visible).map_or(0, |kv| kv.lease);
                self.leases.reattach(change.key(), lease);
            }
        }
        self.revision = self.visible;
    }

    /// What is published, as it should be on disk.
    pub(crate) fn saved(&self) -> Saved {
        let all = Span::all();
        Saved {
            revision: self.visible,
            keys: self.keys.range(&all, self.visible).cloned().collect(),
            leases: self
                .leases
                .ids()
                .filter_map(|id| Some((id, self.leases.get(id)?.ttl)))
                .collect(),
        }
    }
}

/// Whether [`Store::read_txn`] can answer the transaction.
pub(crate) fn is_read_only(request: &PbTxnRequest) -> bool {
    txn::is_read_only(request)
}

/// A number of things as protobuf has it.
pub(crate) fn count(things: usize) -> i64 {
    i64::try_from(things).unwrap_or(i64::MAX)
}

/// A header with the revision; who answers is filled in where the response is sent.
pub(crate) fn header(revision: i64) -> PbResponseHeader {
    PbResponseHeader { revision, ..PbResponseHeader::default() }
}

#[cfg(test)]
mod tests;
