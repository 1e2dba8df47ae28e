//! What watchers are told: by replay of what happened, and while it happens.

use std::time::Duration;

use etcd_client::proto::{PbEvent, PbWatchRequest, PbWatchRequestUnion, PbWatchResponse};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::client::Client;

/// How long an answer may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// etcd drops a request for progress while a watcher is behind, so it is asked again.
const AGAIN: Duration = Duration::from_millis(50);

#[derive(Clone, Debug)]
pub(crate) struct Watch {
    pub(crate) key: Vec<u8>,
    pub(crate) range_end: Vec<u8>,
    pub(crate) start_revision: i64,
    pub(crate) filters: Vec<i32>,
    pub(crate) prev_kv: bool,
    pub(crate) id: i64,
}

impl Watch {
    fn request(&self) -> PbWatchRequest {
        let mut create = create();
        if let Some(PbWatchRequestUnion::CreateRequest(create)) = &mut create {
            create.key.clone_from(&self.key);
            create.range_end.clone_from(&self.range_end);
            create.start_revision = self.start_revision;
            create.filters.clone_from(&self.filters);
            create.prev_kv = self.prev_kv;
            create.watch_id = self.id;
        }
        PbWatchRequest { request_union: create }
    }
}

/// The types of these requests have no public name, so they come out of bytes: an empty message in field 1 or 3.
fn union_from(bytes: &[u8]) -> Option<PbWatchRequestUnion> {
    let request: PbWatchRequest = prost::Message::decode(bytes).expect("a request");
    request.request_union
}

fn create() -> Option<PbWatchRequestUnion> {
    union_from(&[0x0a, 0])
}

fn progress() -> PbWatchRequest {
    PbWatchRequest { request_union: union_from(&[0x1a, 0]) }
}

/// What a watch led to.
#[derive(Debug, PartialEq)]
pub(crate) struct Told {
    watch_id: i64,
    /// Why it was refused.
    refused: Option<String>,
    /// The compacted revision that ended it.
    compacted: Option<i64>,
    events: Vec<PbEvent>,
}

struct Stream {
    requests: mpsc::Sender<PbWatchRequest>,
    responses: Streaming<PbWatchResponse>,
    /// The last revision that progress was told for.
    progress: i64,
    last_event: i64,
}

impl Stream {
    async fn open(client: &Client, watch: &Watch) -> Self {
        let (requests, receiver) = mpsc::channel(4);
        requests.send(watch.request()).await.expect("room for a request");
        let responses = client.watch(ReceiverStream::new(receiver)).await;
        Self { requests, responses, progress: 0, last_event: 0 }
    }

    /// The next response, checked for what holds for every stream.
    async fn next(&mut self, within: Duration) -> Option<PbWatchResponse> {
        let response = timeout(within, self.responses.message()).await.ok()?;
        let response = response.expect("the stream goes on").expect("the stream doesn't end");
        let told = response.header.as_ref().expect("a header").revision;
        for event in &response.events {
            let revision = event.kv.as_ref().expect("an event has a key").mod_revision;
            assert!(
                revision > self.progress,
                "progress {} isn't ahead of event {event:?}",
                self.progress
            );
            assert!(revision <= told, "the header isn't behind the events: {response:?}");
        }
        let revisions =
            response.events.iter().filter_map(|event| Some(event.kv.as_ref()?.mod_revision));
        if let (Some(first), Some(last)) = (revisions.clone().min(), revisions.max()) {
            assert!(first > self.last_event, "revision {first} isn't split between responses");
            self.last_event = last;
        }
        Some(response)
    }
}

/// Watches until all is told that happened up to now. With `expected`, at least as much is waited for.
pub(crate) async fn replay(client: &Client, watch: &Watch, expected: Option<&Told>) -> Told {
    let mut stream = Stream::open(client, watch).await;
    let created = stream.next(PATIENCE).await.expect("an answer to the watch");
    assert!(created.created, "the first answer is to the watch: {created:?}");
    let mut told =
        Told { watch_id: created.watch_id, refused: None, compacted: None, events: Vec::new() };
    if created.canceled {
        told.refused = Some(created.cancel_reason);
        return told;
    }
    if created.header.is_some_and(|header| header.revision < watch.start_revision) {
        // A watch from the future: nothing to tell yet, nor progress.
        return told;
    }
    let wait_for = expected.map_or(0, |expected| expected.events.len());
    let ends = expected.is_some_and(|expected| expected.compacted.is_some());
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        if told.events.len() >= wait_for && !ends {
            stream.requests.send(progress()).await.expect("the stream takes requests");
        }
        let Some(response) = stream.next(AGAIN).await else {
            assert!(tokio::time::Instant::now() < deadline, "{watch:?}: only {told:?} in time");
            continue;
        };
        if response.canceled {
            assert_eq!(response.header.map(|header| header.revision), Some(0));
            told.compacted = Some(response.compact_revision);
            return told;
        }
        let is_progress = response.events.is_empty();
        told.events.extend(response.events);
        if is_progress && told.events.len() >= wait_for {
            return told;
        }
    }
}

/// A watch on everything, open during a whole run.
pub(crate) struct Live {
    stream: Stream,
    pub(crate) events: Vec<PbEvent>,
}

impl Live {
    pub(crate) async fn open(client: &Client) -> Self {
        let watch = Watch {
            key: vec![0],
            range_end: vec![0],
            start_revision: 0,
            filters: Vec::new(),
            prev_kv: true,
            id: 0,
        };
        let mut stream = Stream::open(client, &watch).await;
        let created = stream.next(PATIENCE).await.expect("an answer to the watch");
        assert!(created.created && !created.canceled, "{created:?}");
        Self { stream, events: Vec::new() }
    }

    /// Waits until everything up to `revision` was told.
    pub(crate) async fn reach(&mut self, revision: i64) {
        while self.stream.last_event < revision.max(2) && revision > 1 {
            let response = self.stream.next(PATIENCE).await.expect("the watch goes on");
            self.events.extend(response.events);
        }
    }
}
