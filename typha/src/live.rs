//! A session under way: between the agent's messages, the newest publication, and the chunks that its
//! connection takes when it has room.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use proto::v1::{
    AgentMessage, GoAway, ServerMessage, agent_message, go_away::Reason, server_message::Message,
};
use sync::{Advance, Encoding, Frames, Outgoing, ServerFacts, ServerSession};
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;
use tracing::{info, warn};

use crate::{
    body::go_away,
    chunks::{CHUNK, Room},
    inbound::{Inbound, InboundError},
    service::Shared,
    sessions::{Mark, Marks, Session, Sessions},
};

/// Messages below this many bytes are copied into one chunk: a write costs more than a copy.
const SMALL: usize = 4 * 1024;
/// How many messages of its agent a session looks at before it lets others work.
const AT_ONCE: usize = 16;

/// What a session says next.
pub(crate) enum Said {
    Chunk(Bytes),
    /// The last words, and the status.
    End(VecDeque<Bytes>, Status),
}

/// Why a session is over.
enum End {
    /// The agent left.
    Left,
    /// The server ends it, and tells the agent why.
    Away(Reason, &'static str),
    /// The agent doesn't take what it is sent.
    Stalled,
    /// What came is no message, or too large a one.
    Broken(Status),
}

/// A session under way.
#[allow(clippy::struct_excessive_bools, reason = "each is true or not whatever the others are")]
pub(crate) struct Live {
    shared: Arc<Shared>,
    session: Arc<Session>,
    protocol: ServerSession,
    facts: Arc<ServerFacts>,
    inbound: Inbound,
    encoding: Encoding,
    queue: Frames,
    /// What is left of a message that didn't fit into a chunk.
    rest: Bytes,
    /// There may be something new, whatever publications say.
    look: bool,
    /// The first Commit was sent, and counted.
    begun: bool,
    /// When the newest change in what is being sent was seen, nanoseconds since 1970; none: nothing new is sent.
    observed_at: Option<u64>,
    /// When the last Commit was handed over.
    handed_over: Instant,
    /// It has a place in the first sync.
    admitted: bool,
    over: bool,
    /// The token that it came with is no longer believed; none: it came with none.
    expiry: Option<Pin<Box<Sleep>>>,
}

impl Live {
    /// A session's first words are the server's hello. What it came with is believed until `until`.
    pub(crate) fn begin(
        shared: Arc<Shared>,
        session: Arc<Session>,
        protocol: ServerSession,
        facts: Arc<ServerFacts>,
        inbound: Inbound,
        until: Option<Instant>,
        encoding: Encoding,
    ) -> Self {
        let expiry = until.map(|until| Box::pin(sleep_until(until)));
        let mut queue = Frames::default();
        let stale = shared.store.borrow().stale_milliseconds();
        queue.push(Outgoing::Own(Box::new(facts.stale_hello(stale))));
        Self {
            shared,
            session,
            protocol,
            facts,
            inbound,
            encoding,
            queue,
            rest: Bytes::new(),
            look: true,
            begun: false,
            observed_at: None,
            handed_over: Instant::now(),
            admitted: false,
            over: false,
            expiry,
        }
    }

    /// The next chunk, when there is one.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Said> {
        self.session.listen(cx.waker());
        let marks = self.session.take_marks();
        let end = match self.received(cx) {
            Err(end) => Some(end),
            Ok(()) => self.told(marks).or_else(|| self.expired(cx)),
        };
        if let Some(end) = end {
            return Poll::Ready(self.end(end));
        }
        loop {
            if let Some(chunk) = self.chunk() {
                self.shared.sessions.sends(&self.session);
                return Poll::Ready(Said::Chunk(chunk));
            }
            match self.advance() {
                Err(end) => return Poll::Ready(self.end(end)),
                Ok(true) => {}
                Ok(false) => break,
            }
        }
        if marks.has(Mark::Heartbeat) {
            self.heartbeat();
            if let Some(chunk) = self.chunk() {
                self.shared.sessions.sends(&self.session);
                return Poll::Ready(Said::Chunk(chunk));
            }
        }
        Sessions::rests(&self.session);
        Poll::Pending
    }

    /// Looks at what the agent has said.
    fn received(&mut self, cx: &mut Context<'_>) -> Result<(), End> {
        for _ in 0..AT_ONCE {
            match self.inbound.poll_message(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Ok(None)) => return Err(End::Left),
                Poll::Ready(Ok(Some(message))) => self.message(message),
                Poll::Ready(Err(InboundError::Gone(error))) => {
                    info!(node = %self.session.node, %error, "stream broke");
                    return Err(End::Left);
                }
                Poll::Ready(Err(InboundError::Broken(status))) => return Err(End::Broken(status)),
            }
        }
        cx.waker().wake_by_ref();
        Ok(())
    }

    fn message(&mut self, message: AgentMessage) {
        match message.message {
            Some(agent_message::Message::Ack(ack)) => {
                if self.session.waits_for(ack.publication) {
                    self.shared.traffic.sent_to_acked.observe(self.handed_over.elapsed());
                }
                self.session.acked(ack.publication, ack.failed);
            }
            Some(agent_message::Message::Resync(resync)) => {
                self.protocol.resync(&resync.topic);
                self.look = true;
            }
            Some(agent_message::Message::Status(status)) => self.session.report(|reported| {
                reported.endpoints = status.endpoints;
                reported.dataplane = status.dataplane;
            }),
            // A second hello, or a message of a newer agent: nothing that this server must act on.
            Some(agent_message::Message::Hello(_)) | None => {}
        }
    }

    /// What it was told to do, unless that is to look or to say something.
    fn told(&mut self, marks: Marks) -> Option<End> {
        self.look |= marks.has(Mark::Look);
        if marks.has(Mark::Leave) {
            let after_milliseconds = self.session.leave_after().as_millis() as u64;
            let word = self.shared.go_away(Reason::Draining, "the server stops");
            self.say(Message::GoAway(GoAway { after_milliseconds, ..word }));
        }
        if marks.has(Mark::Stalled) {
            Some(End::Stalled)
        } else if marks.has(Mark::Replaced) {
            Some(End::Away(Reason::Replaced, "another agent of this node has connected"))
        } else if marks.has(Mark::Drain) {
            Some(End::Away(Reason::Draining, "the server stops"))
        } else if marks.has(Mark::Shed) {
            Some(End::Away(Reason::Full, "this server has more than its share of the agents"))
        } else if marks.has(Mark::Behind) && self.protocol.is_waiting() {
            let text = match self.shared.store.borrow().stale_milliseconds() {
                0 => "this server has not caught up with what the agent has seen",
                _ => "this server has lost its store, and can't catch up",
            };
            Some(End::Away(Reason::Behind, text))
        } else {
            None
        }
    }

    fn expired(&mut self, cx: &mut Context<'_>) -> Option<End> {
        let expired = self.expiry.as_mut()?.as_mut().poll(cx).is_ready();
        let text = "its token is about to expire: it may come again with the renewed one";
        expired.then_some(End::Away(Reason::Draining, text))
    }

    /// Takes in the newest publication. Whether there is something to send.
    fn advance(&mut self) -> Result<bool, End> {
        let due = self.shared.sessions.take_due(&self.session);
        if due.is_none() && !std::mem::take(&mut self.look) {
            return Ok(false);
        }
        self.look = false;
        if !self.begun {
            self.admitted = self.shared.sessions.admit(&self.session);
            if !self.admitted {
                return Ok(false);
            }
        }
        let published = self.shared.published.borrow().clone();
        let Some(published) = published.filter(|now| Arc::ptr_eq(&now.facts, &self.facts)) else {
            return Err(End::Away(
                Reason::Draining,
                "this server has begun anew with another store",
            ));
        };
        if let Some(first) = due {
            self.protocol.unaffected_until(first - 1);
        }
        match self.protocol.advance(&published.snapshot) {
            Advance::Frames(frames) => {
                self.shared.sessions.waits(&self.session, false);
                // All that was queued before is under way: else this isn't asked for.
                let Shared { rounds, traffic, .. } = &*self.shared;
                if self.begun && !frames.is_empty() {
                    self.observed_at = Some(published.snapshot.observed_at);
                }
                match rounds.chunk(&frames, self.encoding, traffic) {
                    Some(chunk) => self.rest = chunk,
                    // Nothing is queued, for else nothing new is asked for.
                    None => self.queue = frames,
                }
                if let Some(resume) = self.protocol.resumed().filter(|_| !self.begun) {
                    self.begun = true;
                    self.shared.traffic.resumed(resume);
                }
                if self.queue.is_empty() {
                    self.brought();
                }
            }
            Advance::Behind(mut behind) => {
                // It waits for the store, and nobody should wait for it.
                if std::mem::take(&mut self.admitted) {
                    self.shared.sessions.synced(&self.session);
                }
                behind.stale_milliseconds = self.shared.store.borrow().stale_milliseconds();
                let stale = behind.stale_milliseconds > 0;
                if self.shared.sessions.waits(&self.session, true) {
                    let node = &self.session.node;
                    info!(%node, ?behind, "the agent has seen more than this server");
                    self.say(Message::Behind(behind));
                }
                if stale {
                    // Nothing is to be waited for; it hears why first.
                    Sessions::waits_in_vain(&self.session);
                }
            }
            Advance::Rewound => {
                return Err(End::Away(Reason::Draining, "the store went back in time"));
            }
        }
        Ok(!self.queue.is_empty() || !self.rest.is_empty())
    }

    /// All that brings the agent to where the session is was handed over.
    fn brought(&mut self) {
        let (cursor, committed) = (self.protocol.cursor(), self.protocol.committed());
        if self.session.brought_to(cursor, committed) {
            self.handed_over = Instant::now();
        }
        if let Some(observed_at) = self.observed_at.take() {
            let seen = SystemTime::UNIX_EPOCH + Duration::from_nanos(observed_at);
            let took = SystemTime::now().duration_since(seen).unwrap_or_default();
            self.shared.traffic.observed_to_sent.observe(took);
        }
        if std::mem::take(&mut self.admitted) {
            self.shared.sessions.synced(&self.session);
        }
    }

    fn heartbeat(&mut self) {
        let stale = self.shared.store.borrow().stale_milliseconds();
        if let Some(published) = self.shared.published.borrow().clone() {
            let heartbeat = self.protocol.heartbeat(&published.snapshot, stale);
            self.queue.push(Outgoing::Own(Box::new(heartbeat)));
        }
    }

    fn say(&mut self, message: Message) {
        let message = ServerMessage { message: Some(message) };
        self.queue.push(Outgoing::Own(Box::new(message)));
    }

    /// The next chunk of what is queued: small messages together, a large one in pieces.
    fn chunk(&mut self) -> Option<Bytes> {
        if !self.rest.is_empty() {
            return Some(self.piece());
        }
        let mut small: Option<Room> = None;
        while let Some(message) = self.queue.next() {
            let bytes = self.shared.traffic.bytes(&message, self.encoding);
            let full = small.as_ref().is_some_and(|room| room.is_short_of(bytes.len()));
            if self.queue.is_empty() && self.begun {
                self.brought();
            }
            let alone = small.is_none() && self.queue.is_empty();
            if bytes.len() >= SMALL || full || alone {
                self.rest = bytes;
                break;
            }
            small.get_or_insert_with(|| self.shared.chunks.room()).add(&bytes);
        }
        let small = small.map(Room::into_chunk);
        small.or_else(|| (!self.rest.is_empty()).then(|| self.piece()))
    }

    fn piece(&mut self) -> Bytes {
        self.rest.split_to(self.rest.len().min(CHUNK))
    }

    fn end(&mut self, end: End) -> Said {
        self.over = true;
        let (node, sessions) = (&self.session.node, &self.shared.sessions);
        sessions.close(&self.session, !matches!(end, End::Left));
        match end {
            End::Left => {
                info!(%node, "session closed by the agent");
                Said::End(VecDeque::new(), Status::ok(""))
            }
            End::Away(why, text) => {
                info!(%node, reason = why.as_str_name(), "session ended");
                let word = go_away(self.shared.go_away(why, text));
                Said::End(self.last_words(word), Status::unavailable(text))
            }
            End::Stalled => {
                let text = "the agent has not taken what it was sent";
                warn!(%node, text);
                let rest = std::mem::take(&mut self.rest);
                let words = (!rest.is_empty()).then_some(rest).into_iter().collect();
                Said::End(words, Status::resource_exhausted(text))
            }
            End::Broken(status) => {
                warn!(%node, reason = status.message(), "stream broke");
                Said::End(self.last_words(Bytes::new()), status)
            }
        }
    }

    /// A message that was begun is finished; those after it have no effect without their Commit.
    fn last_words(&mut self, word: Bytes) -> VecDeque<Bytes> {
        let rest = std::mem::take(&mut self.rest);
        [rest, word].into_iter().filter(|bytes| !bytes.is_empty()).collect()
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        if !self.over {
            // Its connection has gone.
            info!(node = %self.session.node, "session closed by the agent");
            self.shared.sessions.close(&self.session, false);
        }
    }
}
