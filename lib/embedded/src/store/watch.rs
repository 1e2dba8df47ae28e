//! Watchers and what each has to be told next.
//!
//! Nothing is queued for a watcher: it has the revision up to which it was served, and is served from the log when its
//! client takes more. So a slow client costs nothing but its place, until compaction passes it.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;

use etcd_client::proto::{PbEvent, PbWatchRequestUnion as Request, PbWatchResponse};

use super::log::Change;
use super::{KeyValue, Refusal, Span, Store, header};

/// No watcher in particular: refused watches and progress of a whole stream.
const NO_WATCH: i64 = -1;
/// A response carries no more revisions than this …
const BATCH_REVISIONS: usize = 1000;
/// … and is closed at the first end of a revision after so many bytes. Clients commonly take 4 MiB.
const BATCH_BYTES: usize = 1 << 20;
// `FilterType` and `EventType` of etcd's protobuf files.
const NO_PUT: i32 = 0;
const NO_DELETE: i32 = 1;
const PUT: i32 = 0;
const DELETE: i32 = 1;

/// One Watch call of a client.
pub(crate) type StreamId = u64;

/// All watchers of all streams.
#[derive(Debug, Default)]
pub(crate) struct Watches {
    streams: HashMap<StreamId, Stream>,
}

#[derive(Debug, Default)]
struct Stream {
    /// Answers to requests: created, canceled.
    answers: VecDeque<PbWatchResponse>,
    watchers: BTreeMap<i64, Watcher>,
    next_id: i64,
    /// The watcher that was served last; the others come first.
    served: i64,
    /// The client asked for the progress of the stream and has to wait for it.
    progress_wanted: bool,
}

#[derive(Debug)]
struct Watcher {
    span: Span,
    /// The first revision that it hasn't been served.
    next: i64,
    no_put: bool,
    no_delete: bool,
    prev_kv: bool,
    notify: Notify,
}

/// When a watcher is told how far it is, though nothing happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Notify {
    /// It didn't ask for it.
    Never,
    /// Not in the next round: it got events since the last one.
    Later,
    /// In the next round.
    Next,
    /// As soon as it isn't behind.
    Due,
}

impl Watches {
    /// A client opened a stream.
    pub(crate) fn open(&mut self, stream: StreamId) {
        self.streams.insert(stream, Stream { served: NO_WATCH, ..Stream::default() });
    }

    /// A client is gone.
    pub(crate) fn close(&mut self, stream: StreamId) {
        self.streams.remove(&stream);
    }

    /// Takes a request; what it leads to comes from [`Watches::next`].
    pub(crate) fn request(&mut self, stream: StreamId, request: Request, store: &Store) {
        let Some(stream) = self.streams.get_mut(&stream) else { return };
        match request {
            Request::CreateRequest(create) => {
                // An empty key stands for the smallest one.
                let key: &[u8] = if create.key.is_empty() { &[0] } else { &create.key };
                let watcher = Watcher {
                    span: Span::new(key, &create.range_end),
                    next: if create.start_revision == 0 {
                        store.visible() + 1
                    } else {
                        create.start_revision
                    },
                    no_put: create.filters.contains(&NO_PUT),
                    no_delete: create.filters.contains(&NO_DELETE),
                    prev_kv: create.prev_kv,
                    notify: if create.progress_notify { Notify::Next } else { Notify::Never },
                };
                let answer = match stream.add(create.watch_id, watcher) {
                    Ok(watch_id) => PbWatchResponse { watch_id, ..PbWatchResponse::default() },
                    Err(cancel_reason) => PbWatchResponse {
                        watch_id: NO_WATCH,
                        canceled: true,
                        cancel_reason,
                        ..PbWatchResponse::default()
                    },
                };
                stream.answers.push_back(PbWatchResponse {
                    created: true,
                    header: Some(header(store.visible())),
                    ..answer
                });
            }
            Request::CancelRequest(cancel) => {
                if stream.watchers.remove(&cancel.watch_id).is_some() {
                    stream.answers.push_back(PbWatchResponse {
                        header: Some(header(store.visible())),
                        watch_id: cancel.watch_id,
                        canceled: true,
                        ..PbWatchResponse::default()
                    });
                }
            }
            Request::ProgressRequest(_) => stream.progress_wanted = !stream.watchers.is_empty(),
        }
    }

    /// It is time to tell idle watchers that asked for it how far they are.
    pub(crate) fn notify(&mut self) {
        for watcher in self.streams.values_mut().flat_map(|stream| stream.watchers.values_mut()) {
            watcher.notify = match watcher.notify {
                Notify::Never => Notify::Never,
                Notify::Later => Notify::Next,
                Notify::Next | Notify::Due => Notify::Due,
            };
        }
    }

    /// The next response for a stream, if there is one now.
    pub(crate) fn next(&mut self, stream: StreamId, store: &Store) -> Option<PbWatchResponse> {
        let stream = self.streams.get_mut(&stream)?;
        stream
            .answers
            .pop_front()
            .or_else(|| stream.events(store))
            .or_else(|| stream.progress(store))
    }
}

impl Stream {
    /// Takes a watcher in, under its wanted id or, for 0, a free one; or says why not.
    fn add(&mut self, wanted: i64, watcher: Watcher) -> Result<i64, String> {
        if watcher.next < 0 {
            return Err(Refusal::Compacted.to_string());
        }
        if watcher.span.is_empty() {
            return Err("mvcc: watcher range is empty".to_owned());
        }
        let mut id = wanted;
        if id == 0 {
            while self.watchers.contains_key(&self.next_id) {
                self.next_id += 1;
            }
            id = self.next_id;
            self.next_id += 1;
        } else if self.watchers.contains_key(&id) {
            return Err("mvcc: duplicate watch ID provided on the WatchStream".to_owned());
        }
        self.watchers.insert(id, watcher);
        Ok(id)
    }

    /// Serves the first watcher that is behind, beginning after the one served last.
    fn events(&mut self, store: &Store) -> Option<PbWatchResponse> {
        let behind = |watcher: &Watcher| watcher.next <= store.visible;
        while let Some(id) = self
            .watchers
            .range((Bound::Excluded(self.served), Bound::Unbounded))
            .chain(self.watchers.range(..=self.served))
            .find(|(_, watcher)| behind(watcher))
            .map(|(id, _)| *id)
        {
            let watcher = self.watchers.get_mut(&id)?;
            if watcher.next < store.floor {
                self.watchers.remove(&id);
                // No revision in the header, as in etcd.
                return Some(PbWatchResponse {
                    header: Some(header(0)),
                    watch_id: id,
                    canceled: true,
                    compact_revision: store.floor,
                    ..PbWatchResponse::default()
                });
            }
            if let Some(response) = watcher.batch(id, store) {
                self.served = id;
                return Some(response);
            }
        }
        None
    }

    /// Progress is what all watchers have been served, so it is told when none is behind.
    fn progress(&mut self, store: &Store) -> Option<PbWatchResponse> {
        let told = |watch_id| PbWatchResponse {
            header: Some(header(store.visible)),
            watch_id,
            ..PbWatchResponse::default()
        };
        for (id, watcher) in &mut self.watchers {
            if watcher.notify == Notify::Due && watcher.next == store.visible + 1 {
                watcher.notify = Notify::Next;
                return Some(told(*id));
            }
        }
        if self.progress_wanted
            && self.watchers.values().all(|watcher| watcher.next == store.visible + 1)
        {
            self.progress_wanted = false;
            return Some(told(NO_WATCH));
        }
        None
    }
}

impl Watcher {
    /// Moves on through the log and returns what it found; none when nothing up to the visible revision was for it.
    fn batch(&mut self, watch_id: i64, store: &Store) -> Option<PbWatchResponse> {
        let mut events = Vec::new();
        let mut revisions = 0;
        let mut bytes = 0;
        for entry in store.log.from(self.next) {
            if entry.revision > store.visible
                || revisions == BATCH_REVISIONS
                || bytes >= BATCH_BYTES
            {
                break;
            }
            let before = events.len();
            for change in &entry.changes {
                if self.wants(change) {
                    let event = self.event(change, entry.revision, store);
                    bytes += change.bytes() + event.prev_kv.as_ref().map_or(0, |kv| kv.value.len());
                    events.push(event);
                }
            }
            revisions += usize::from(events.len() > before);
            self.next = entry.revision + 1;
        }
        if events.is_empty() {
            // All was looked at, and a revision without an entry has nothing to look at.
            self.next = store.visible + 1;
            return None;
        }
        if self.notify != Notify::Never {
            self.notify = Notify::Later;
        }
        Some(PbWatchResponse {
            header: Some(header(self.next - 1)),
            watch_id,
            events,
            ..PbWatchResponse::default()
        })
    }

    fn wants(&self, change: &Change) -> bool {
        let filtered = match change {
            Change::Put(_) => self.no_put,
            Change::Delete(_) => self.no_delete,
        };
        !filtered && self.span.contains(change.key())
    }

    fn event(&self, change: &Change, revision: i64, store: &Store) -> PbEvent {
        // Before a compaction there is nothing to find.
        let before = || {
            let before = self.prev_kv.then(|| store.keys.at(change.key(), revision - 1)).flatten();
            before.map(|kv| KeyValue::clone(kv))
        };
        match change {
            Change::Put(kv) => {
                let prev_kv = if kv.create_revision == kv.mod_revision { None } else { before() };
                PbEvent { r#type: PUT, kv: Some(KeyValue::clone(kv)), prev_kv }
            }
            Change::Delete(key) => {
                let kv =
                    KeyValue { key: key.clone(), mod_revision: revision, ..KeyValue::default() };
                PbEvent { r#type: DELETE, kv: Some(kv), prev_kv: before() }
            }
        }
    }
}
