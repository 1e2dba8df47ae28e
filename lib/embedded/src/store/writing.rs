//! Making the changes of one revision.

use std::sync::Arc;

use etcd_client::proto::{PbDeleteRequest, PbDeleteResponse, PbPutRequest, PbPutResponse};

use super::log::{Change, Entry};
use super::range::View;
use super::{KeyValue, Refusal, Span, Store, count, header};

/// The changes of one revision while they are made. Each sees those before it.
pub(super) struct Writing<'a> {
    store: &'a mut Store,
    changes: Vec<Change>,
}

impl<'a> Writing<'a> {
    pub(super) fn new(store: &'a mut Store) -> Self {
        Self { store, changes: Vec::new() }
    }

    /// The revision that reads see here: the new one as soon as something changed.
    fn current(&self) -> i64 {
        self.store.revision + i64::from(!self.changes.is_empty())
    }

    pub(super) fn view(&self) -> View<'_> {
        View { keys: &self.store.keys, current: self.current(), compacted: self.store.compacted }
    }

    /// Puts a key whose request was found to be possible: its lease exists, and it does itself if it must.
    pub(super) fn put(&mut self, request: &PbPutRequest) -> PbPutResponse {
        let revision = self.store.revision + 1;
        let before = self.store.keys.at(&request.key, revision).cloned();
        let (create_revision, version, lease) = before
            .as_ref()
            .map_or((revision, 0, 0), |kv| (kv.create_revision, kv.version, kv.lease));
        let value = match &before {
            Some(kv) if request.ignore_value => kv.value.clone(),
            _ => request.value.clone(),
        };
        let kv = Arc::new(KeyValue {
            key: request.key.clone(),
            value,
            create_revision,
            mod_revision: revision,
            version: version + 1,
            lease: if request.ignore_lease { lease } else { request.lease },
        });
        self.store.leases.attach(&kv.key, lease, kv.lease);
        self.record(Change::Put(kv));
        PbPutResponse {
            header: Some(header(revision)),
            prev_kv: before.filter(|_| request.prev_kv).map(|kv| KeyValue::clone(&kv)),
        }
    }

    pub(super) fn delete_range(&mut self, request: &PbDeleteRequest) -> PbDeleteResponse {
        let span = Span::new(&request.key, &request.range_end);
        let found: Vec<Arc<KeyValue>> =
            self.store.keys.range(&span, self.current()).cloned().collect();
        let mut response =
            PbDeleteResponse { deleted: count(found.len()), ..PbDeleteResponse::default() };
        for kv in found {
            self.delete(kv.key.clone());
            if request.prev_kv {
                response.prev_kvs.push(KeyValue::clone(&kv));
            }
        }
        response.header = Some(header(self.current()));
        response
    }

    pub(super) fn delete(&mut self, key: Vec<u8>) {
        let lease = self.store.keys.at(&key, self.current()).map_or(0, |kv| kv.lease);
        self.store.leases.attach(&key, lease, 0);
        self.record(Change::Delete(key));
    }

    fn record(&mut self, change: Change) {
        let value = match &change {
            Change::Put(kv) => Some(Arc::clone(kv)),
            Change::Delete(_) => None,
        };
        let key = change.key().to_vec();
        self.store.keys.push(key.clone(), self.store.revision + 1, value.clone());
        self.store.unsaved.keys.insert(key, value);
        self.changes.push(change);
    }

    /// Makes the new revision, if anything changed.
    pub(super) fn finish(self) {
        if !self.changes.is_empty() {
            self.store.revision += 1;
            self.store.log.push(Entry { revision: self.store.revision, changes: self.changes });
        }
    }
}

pub(super) fn check_put(request: &PbPutRequest) -> Result<(), Refusal> {
    if request.key.is_empty() {
        return Err(Refusal::EmptyKey);
    }
    if request.ignore_value && !request.value.is_empty() {
        return Err(Refusal::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(Refusal::LeaseProvided);
    }
    Ok(())
}

pub(super) fn check_delete(request: &PbDeleteRequest) -> Result<(), Refusal> {
    if request.key.is_empty() { Err(Refusal::EmptyKey) } else { Ok(()) }
}
