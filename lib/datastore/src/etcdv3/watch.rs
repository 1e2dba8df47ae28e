//! A watch on one member: revisions whole and in order, progress, and the checks that it is still the same history.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{EventType, WatchOptions, WatchResponse, WatchStream};
use futures::stream::{self, BoxStream, StreamExt};
use model::Stored;
use tokio::time::{Instant, MissedTickBehavior, timeout};

use super::connection::Session;
use super::{Shared, epoch, keys, lock, revision, version};
use crate::error::{Error, Result};
use crate::selection::Selection;
use crate::store::{Change, Position, WatchEvent};

/// How often the store is asked how far it is complete.
const PROGRESS: Duration = Duration::from_secs(5);
/// How long the store may take for each answer until a watch is in place. They are several, one after the other: a limit
/// for all of them would never let a slow store be watched.
const OPEN: Duration = Duration::from_secs(10);

pub(super) fn watch(
    shared: Arc<Shared>,
    selection: Selection,
    from: Position,
) -> BoxStream<'static, Result<WatchEvent>> {
    let state = State::New { shared, selection, from };
    stream::unfold(state, |state| async {
        match state {
            State::New { shared, selection, from } => {
                Some(match Box::pin(Watch::open(shared, selection, from)).await {
                    Ok((first, Some(watch))) => (Ok(first), State::Open(Box::new(watch))),
                    Ok((last, None)) => (Ok(last), State::Ended),
                    Err(error) => (Err(error), State::Ended),
                })
            }
            State::Open(mut watch) => Some(match watch.next().await {
                Ok(event) if ends(&event) => (Ok(event), State::Ended),
                Ok(event) => (Ok(event), State::Open(watch)),
                Err(error) => (Err(error), State::Ended),
            }),
            State::Ended => None,
        }
    })
    .boxed()
}

enum State {
    New { shared: Arc<Shared>, selection: Selection, from: Position },
    Open(Box<Watch>),
    Ended,
}

fn ends(event: &WatchEvent) -> bool {
    match event {
        WatchEvent::Open | WatchEvent::Changes { .. } | WatchEvent::Progress(_) => false,
        WatchEvent::Compacted { .. }
        | WatchEvent::WentBack { .. }
        | WatchEvent::OtherStore { .. } => true,
    }
}

struct Watch {
    connected: Connected,
    session: Session,
    epoch: arcstr::ArcStr,
    stream: WatchStream,
    assembler: Assembler,
    ready: VecDeque<WatchEvent>,
    /// None: this server's progress notifications can't be trusted.
    progress: Option<tokio::time::Interval>,
}

impl Watch {
    /// Puts the watch in place. Without a watch the event is the last one.
    async fn open(
        shared: Arc<Shared>,
        selection: Selection,
        from: Position,
    ) -> Result<(WatchEvent, Option<Self>)> {
        let session = shared.connection.session().await?;
        let result = Box::pin(Self::try_open(&shared, &session, selection, from)).await;
        if result.is_err() {
            shared.connection.failed(&session);
        }
        result
    }

    async fn try_open(
        shared: &Arc<Shared>,
        session: &Session,
        selection: Selection,
        from: Position,
    ) -> Result<(WatchEvent, Option<Self>)> {
        let silent =
            |_| session.unavailable(format!("no watch: nothing came for {} s", OPEN.as_secs()));
        let progress = timeout(OPEN, super::progress::stays_behind_events(session)).await;
        let progress = progress.map_err(silent)?;
        let (start, end) = keys::hull(selection);
        let options = WatchOptions::new()
            .with_range(end)
            .with_start_revision(revision(from.version + 1))
            // A response that is too large for a message comes in pieces.
            .with_fragment();
        let error = |error| shared.connection.error(session, &error);
        let mut client = session
            .client
            .watch_client()
            .max_decoding_message_size(super::connection::LARGEST_MESSAGE);
        let stream = timeout(OPEN, client.watch(start, Some(options))).await.map_err(silent)?;
        let mut stream = stream.map_err(error)?;
        let created = timeout(OPEN, stream.message()).await.map_err(silent)?.map_err(error)?;
        let created = created.ok_or(Error::WatchEnded)?;
        if created.canceled() {
            return Ok((shared.canceled(session, &created)?, None));
        }
        // The member that serves the watch may lag behind the others; a majority can't. It is asked after the
        // watch is in place, so that a store replaced in between is noticed by one or the other.
        let now = shared.now().await?;
        if now.epoch != from.epoch {
            return Ok((WatchEvent::OtherStore { epoch: now.epoch }, None));
        }
        if !from.leads_to(&now) {
            return Ok((WatchEvent::WentBack { version: now.version }, None));
        }
        let progress = progress.then(|| {
            let mut interval = tokio::time::interval_at(Instant::now() + PROGRESS, PROGRESS);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            interval
        });
        let watch = Self {
            connected: Connected::new(Arc::clone(shared)),
            session: session.clone(),
            epoch: from.epoch,
            stream,
            assembler: Assembler::new(selection),
            ready: VecDeque::new(),
            progress,
        };
        Ok((WatchEvent::Open, Some(watch)))
    }

    async fn next(&mut self) -> Result<WatchEvent> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Ok(event);
            }
            let message = tokio::select! {
                message = self.stream.message() => message,
                () = tick(&mut self.progress) => {
                    if let Err(error) = self.stream.request_progress().await {
                        return Err(self.failed(&error));
                    }
                    continue;
                }
            };
            let message = match message {
                Ok(Some(message)) => message,
                Ok(None) => return Err(Error::WatchEnded),
                Err(error) => return Err(self.failed(&error)),
            };
            let shared = &self.connected.0;
            let now = epoch(shared.header(message.header())?);
            if now != self.epoch {
                return Ok(WatchEvent::OtherStore { epoch: now });
            }
            if message.canceled() {
                return shared.canceled(&self.session, &message);
            }
            self.ready.extend(self.assembler.push(&message));
            let unknown = std::mem::take(&mut self.assembler.unknown);
            if let Some(last) = self.ready.back() {
                shared.saw_watch(matches!(last, WatchEvent::Changes { .. }), unknown);
            }
        }
    }

    fn failed(&self, error: &etcd_client::Error) -> Error {
        let connection = &self.connected.0.connection;
        connection.failed(&self.session);
        connection.error(&self.session, error)
    }
}

async fn tick(interval: &mut Option<tokio::time::Interval>) {
    match interval {
        Some(interval) => drop(interval.tick().await),
        None => std::future::pending().await,
    }
}

impl Shared {
    /// What it means that etcd ended a watch. After an error the next try is on a new connection, and so with a new
    /// token.
    fn canceled(&self, session: &Session, message: &WatchResponse) -> Result<WatchEvent> {
        if message.compact_revision() > 0 {
            return Ok(WatchEvent::Compacted { oldest: version(message.compact_revision()) });
        }
        self.connection.failed(session);
        Err(self.connection.ended(session, message.cancel_reason()))
    }
}

/// Counts as connected for as long as it lives.
struct Connected(Arc<Shared>);

impl Connected {
    fn new(shared: Arc<Shared>) -> Self {
        let mut health = lock(&shared.health);
        health.watches += 1;
        health.stream.connected_since.get_or_insert_with(std::time::Instant::now);
        drop(health);
        Self(shared)
    }
}

impl Drop for Connected {
    fn drop(&mut self) {
        let mut health = lock(&self.0.health);
        health.watches -= 1;
        if health.watches == 0 {
            health.stream.connected_since = None;
        }
    }
}

/// Puts revisions together: etcd may cut a large response anywhere.
struct Assembler {
    selection: Selection,
    /// The revision that isn't complete yet.
    open: u64,
    changes: Vec<Change>,
    unknown: u64,
}

impl Assembler {
    fn new(selection: Selection) -> Self {
        Self { selection, open: 0, changes: Vec::new(), unknown: 0 }
    }

    fn push(&mut self, message: &WatchResponse) -> Vec<WatchEvent> {
        let mut events = Vec::new();
        for event in message.events() {
            let Some(kv) = event.kv() else { continue };
            let at = version(kv.mod_revision());
            if at != self.open {
                events.extend(self.close());
                self.open = at;
            }
            match keys::key(kv.key()) {
                Some(key) if self.selection.contains(key.kind) => {
                    let value = (event.event_type() == EventType::Put)
                        .then(|| Stored::from_bytes(kv.value()));
                    self.changes.push(Change { key, value });
                }
                Some(_) => {}
                None => self.unknown += 1,
            }
        }
        if !message.0.fragment {
            events.extend(self.close());
        }
        if message.events().is_empty() && !message.created() && self.open == 0 {
            events.extend(message.header().map(|h| WatchEvent::Progress(version(h.revision()))));
        }
        // Of several notices in a row the last says it all.
        let mut kept: Vec<WatchEvent> = Vec::with_capacity(events.len());
        for event in events {
            if let (Some(WatchEvent::Progress(last)), WatchEvent::Progress(next)) =
                (kept.last_mut(), &event)
            {
                *last = *next;
            } else {
                kept.push(event);
            }
        }
        kept
    }

    fn close(&mut self) -> Option<WatchEvent> {
        let version = std::mem::take(&mut self.open);
        if version == 0 {
            return None;
        }
        let changes = std::mem::take(&mut self.changes);
        Some(if changes.is_empty() {
            // Nothing of the selection, and everything before it was delivered.
            WatchEvent::Progress(version)
        } else {
            WatchEvent::Changes { version, changes }
        })
    }
}
