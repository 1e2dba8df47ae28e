//! The body of an agent's stream: what its session says, as bytes of HTTP/2.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures::future::BoxFuture;
use hyper::{
    HeaderMap,
    body::{Body, Frame, SizeHint},
};
use proto::v1::{GoAway, ServerMessage, server_message::Message};
use sync::{Encoding, Outgoing};
use tonic::Status;

use crate::{
    door::{Arrival, Welcome},
    live::{Live, Said},
};

/// What came of a hello.
pub(crate) enum Opened {
    /// A session.
    Session(Box<Live>, Welcome),
    /// Nothing: the last word, and the status.
    Refused(Bytes, Status),
}

enum State {
    Opening(BoxFuture<'static, Opened>),
    Live(Box<Live>),
    /// What is left to say, and the status.
    Ending(VecDeque<Bytes>, Status),
    Over,
}

/// The body of one stream.
pub(crate) struct SessionBody {
    state: State,
    arrival: Arrival,
    /// Held until the last word is said.
    welcome: Option<Welcome>,
}

impl SessionBody {
    pub(crate) fn new(
        opening: impl Future<Output = Opened> + Send + 'static,
        arrival: Arrival,
    ) -> Self {
        Self { state: State::Opening(Box::pin(opening)), arrival, welcome: None }
    }
}

impl Drop for SessionBody {
    fn drop(&mut self) {
        // Whoever asked may have gone before it was decided.
        if let State::Opening(_) = self.state {
            self.arrival.refused();
        }
    }
}

impl Body for SessionBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        loop {
            match &mut this.state {
                State::Opening(opening) => match ready!(opening.as_mut().poll(cx)) {
                    Opened::Session(live, welcome) => {
                        this.welcome = Some(welcome);
                        this.state = State::Live(live);
                    }
                    Opened::Refused(word, status) => {
                        let word = (!word.is_empty()).then_some(word);
                        this.state = State::Ending(word.into_iter().collect(), status);
                    }
                },
                State::Live(live) => match ready!(live.poll(cx)) {
                    Said::Chunk(chunk) => return Poll::Ready(Some(Ok(Frame::data(chunk)))),
                    Said::End(words, status) => this.state = State::Ending(words, status),
                },
                State::Ending(words, status) => {
                    if let Some(word) = words.pop_front() {
                        return Poll::Ready(Some(Ok(Frame::data(word))));
                    }
                    let mut trailers = HeaderMap::new();
                    let written = status.add_header(&mut trailers);
                    this.state = State::Over;
                    return Poll::Ready(Some(written.map(|()| Frame::trailers(trailers))));
                }
                State::Over => return Poll::Ready(None),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.state, State::Over)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// The word of parting as it travels.
pub(crate) fn go_away(message: GoAway) -> Bytes {
    let message = ServerMessage { message: Some(Message::GoAway(message)) };
    Outgoing::Own(Box::new(message)).bytes(Encoding::Identity)
}
