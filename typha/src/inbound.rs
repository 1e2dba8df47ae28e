//! What an agent says: messages of gRPC out of the body of its request.
//!
//! The first, the hello, may not be large: whoever sends it is unknown yet. Nothing is kept between
//! messages.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes, BytesMut};
use hyper::body::{Body as _, Incoming};
use prost::Message as _;
use proto::v1::AgentMessage;
use tonic::Status;

/// A message begins with a byte of flags and its length in four.
const PREFIX: usize = 5;

/// Why there is no further message.
#[derive(Debug)]
pub(crate) enum InboundError {
    /// The connection broke.
    Gone(hyper::Error),
    /// What came is no message, or too large a one.
    Broken(Status),
}

/// The messages of one stream.
pub(crate) struct Inbound {
    body: Incoming,
    messages: Messages,
}

impl Inbound {
    /// Sizes in bytes: of the hello, and of every later message.
    pub(crate) fn new(body: Incoming, hello: usize, message: usize) -> Self {
        Self { body, messages: Messages::new(hello, message) }
    }

    /// The next message; none: the agent has no more to say.
    pub(crate) fn poll_message(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<AgentMessage>, InboundError>> {
        loop {
            if let Some(message) = self.messages.next().map_err(InboundError::Broken)? {
                return Poll::Ready(Ok(Some(message)));
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None if self.messages.buffer.is_empty() => return Poll::Ready(Ok(None)),
                None => {
                    let status = Status::internal("the stream ends within a message");
                    return Poll::Ready(Err(InboundError::Broken(status)));
                }
                Some(Err(error)) => return Poll::Ready(Err(InboundError::Gone(error))),
                // Trailers say nothing here.
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.messages.push(&data);
                    }
                }
            }
        }
    }

    /// Waits for the next message.
    pub(crate) async fn message(&mut self) -> Result<Option<AgentMessage>, InboundError> {
        std::future::poll_fn(|cx| self.poll_message(cx)).await
    }
}

/// Bytes that are not a whole message yet.
struct Messages {
    buffer: BytesMut,
    what: &'static str,
    limit: usize,
    later: usize,
}

impl Messages {
    fn new(hello: usize, message: usize) -> Self {
        Self { buffer: BytesMut::new(), what: "the hello", limit: hello, later: message }
    }

    fn push(&mut self, data: &Bytes) {
        self.buffer.extend_from_slice(data);
    }

    fn next(&mut self) -> Result<Option<AgentMessage>, Status> {
        let Some(mut prefix) = self.buffer.get(..PREFIX) else { return Ok(None) };
        if prefix.get_u8() != 0 {
            return Err(Status::unimplemented(
                "this server takes messages as they are, not packed",
            ));
        }
        let length = prefix.get_u32() as usize;
        if length > self.limit {
            let Self { what, limit, .. } = self;
            return Err(Status::out_of_range(format!(
                "{what} has {length} bytes, and may have {limit}"
            )));
        }
        if self.buffer.len() < PREFIX + length {
            return Ok(None);
        }
        self.buffer.advance(PREFIX);
        let message = AgentMessage::decode(self.buffer.split_to(length).freeze());
        let message = message.map_err(|error| {
            Status::internal(format!("{} is no message of this protocol: {error}", self.what))
        })?;
        (self.what, self.limit) = ("a message", self.later);
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        Ok(Some(message))
    }
}

#[cfg(test)]
mod tests {
    use proto::v1::{Ack, Resync, agent_message::Message};

    use super::*;

    fn framed(message: &AgentMessage) -> Vec<u8> {
        let mut bytes = vec![0];
        bytes.extend_from_slice(&(message.encoded_len() as u32).to_be_bytes());
        message.encode(&mut bytes).unwrap();
        bytes
    }

    fn ack(publication: u64) -> AgentMessage {
        let ack = Ack { publication, ..Ack::default() };
        AgentMessage { message: Some(Message::Ack(ack)) }
    }

    #[test]
    fn messages_are_found_however_they_are_cut() {
        let bytes = [framed(&ack(1)), framed(&ack(300)), framed(&AgentMessage::default())].concat();
        for cut in 0..=bytes.len() {
            let mut messages = Messages::new(100, 100);
            let mut found = Vec::new();
            for part in [&bytes[..cut], &bytes[cut..]] {
                messages.push(&Bytes::copy_from_slice(part));
                while let Some(message) = messages.next().unwrap() {
                    found.push(message);
                }
            }
            assert_eq!(found, [ack(1), ack(300), AgentMessage::default()], "cut at {cut}");
            assert_eq!(messages.buffer.capacity(), 0, "nothing is kept");
        }
    }

    #[test]
    fn the_first_message_has_a_limit_of_its_own_and_it_is_refused_before_it_is_read() {
        let resync = |length| {
            let topic = "x".repeat(length);
            framed(&AgentMessage { message: Some(Message::Resync(Resync { topic })) })
        };
        let mut messages = Messages::new(50, 1000);
        messages.push(&resync(40).into());
        assert!(messages.next().unwrap().is_some());
        messages.push(&resync(900).into());
        assert!(messages.next().unwrap().is_some(), "a later one may be larger");
        messages.push(&resync(2000)[..PREFIX].to_vec().into());
        let refused = messages.next().unwrap_err();
        assert!(refused.message().starts_with("a message has 20"), "{refused:?}");

        let mut messages = Messages::new(50, 1000);
        messages.push(&resync(60)[..PREFIX].to_vec().into());
        assert!(messages.next().unwrap_err().message().starts_with("the hello has 6"));
    }

    #[test]
    fn garbage_and_what_is_packed_are_refused_by_name() {
        let text = |bytes: &[u8]| {
            let mut messages = Messages::new(50, 50);
            messages.push(&Bytes::copy_from_slice(bytes));
            messages.next().unwrap_err().message().to_owned()
        };
        assert!(text(&[1, 0, 0, 0, 1, 7]).contains("not packed"));
        assert!(text(&[0, 0, 0, 0, 2, 0xff, 0xff]).starts_with("the hello is no message"));
    }
}
