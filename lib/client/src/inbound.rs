//! What a server says: the messages of gRPC in the body of its answer.
//!
//! tonic's own reader makes a context of zstd for every message, which takes longer than to unpack most
//! of them.

use std::{
    cell::RefCell,
    io::{self, Read as _},
};

use bytes::{Buf as _, Bytes, BytesMut};
use http_body_util::BodyExt as _;
use prost::Message as _;
use proto::v1::ServerMessage;
use tonic::{Status, body::Body};
use zstd::{stream::read::Decoder, zstd_safe::DCtx};

/// A message begins with a byte of flags and its length in four.
const PREFIX: usize = 5;
/// The longest message, as it travels and unpacked.
const LONGEST: usize = 4 * 1024 * 1024;

thread_local! {
    static CONTEXT: RefCell<Option<DCtx<'static>>> = RefCell::new(DCtx::try_create());
}

/// The messages of one stream.
pub(crate) struct Inbound {
    body: Body,
    /// What is no whole message yet.
    buffer: BytesMut,
}

impl Inbound {
    pub(crate) fn new(body: Body) -> Self {
        Self { body, buffer: BytesMut::new() }
    }

    /// The next message; none: the server has closed the stream. Dropping the future loses nothing.
    pub(crate) async fn message(&mut self) -> Result<Option<ServerMessage>, Status> {
        loop {
            if let Some(message) = next(&mut self.buffer)? {
                return Ok(Some(message));
            }
            let Some(frame) = self.body.frame().await.transpose()? else {
                return Err(Status::unknown("it closed the stream without a status"));
            };
            match frame.into_data() {
                Ok(data) => self.buffer.extend_from_slice(&data),
                Err(frame) => {
                    let status = frame.trailers_ref().and_then(Status::from_header_map);
                    return match status {
                        Some(status) if status.code() != tonic::Code::Ok => Err(status),
                        _ => Ok(None),
                    };
                }
            }
        }
    }
}

/// Takes the first message, if it is there.
fn next(buffer: &mut BytesMut) -> Result<Option<ServerMessage>, Status> {
    let Some(mut prefix) = buffer.get(..PREFIX) else { return Ok(None) };
    let flags = prefix.get_u8();
    let length = prefix.get_u32() as usize;
    if length > LONGEST {
        let text = format!("a message has {length} bytes, and may have {LONGEST}");
        return Err(Status::out_of_range(text));
    }
    if buffer.len() < PREFIX + length {
        buffer.reserve(PREFIX + length - buffer.len());
        return Ok(None);
    }
    buffer.advance(PREFIX);
    let body = buffer.split_to(length);
    let body = match flags {
        0 => body.freeze(),
        1 => unpacked(&body)?,
        _ => return Err(Status::internal(format!("a message begins with {flags}"))),
    };
    let message = ServerMessage::decode(body);
    message.map(Some).map_err(|error| {
        Status::internal(format!("what came is no message of this protocol: {error}"))
    })
}

fn unpacked(body: &[u8]) -> Result<Bytes, Status> {
    let mut all = Vec::new();
    let read = CONTEXT.with_borrow_mut(|context| {
        let context = context.as_mut().ok_or(io::ErrorKind::OutOfMemory)?;
        let decoder = Decoder::with_context(body, context);
        // One byte more shows that it is too much.
        decoder.take(LONGEST as u64 + 1).read_to_end(&mut all)
    });
    match read {
        Ok(length) if length <= LONGEST => Ok(all.into()),
        Ok(_) => {
            let text = format!("a message unpacks to more than {LONGEST} bytes");
            Err(Status::out_of_range(text))
        }
        Err(error) => Err(Status::internal(format!("a message can't be unpacked: {error}"))),
    }
}

#[cfg(test)]
mod tests {
    use proto::v1::{GoAway, server_message::Message};

    use super::*;

    fn message(length: usize) -> ServerMessage {
        let go_away = GoAway { message: "x".repeat(length), ..GoAway::default() };
        ServerMessage { message: Some(Message::GoAway(go_away)) }
    }

    fn framed(flags: u8, body: &[u8]) -> Vec<u8> {
        [&[flags][..], &(body.len() as u32).to_be_bytes(), body].concat()
    }

    fn packed(message: &ServerMessage) -> Vec<u8> {
        framed(1, &zstd::bulk::compress(&message.encode_to_vec(), 3).unwrap())
    }

    #[test]
    fn messages_come_out_whole_and_in_order_however_their_bytes_are_cut() {
        let sent = [message(0), message(2000), message(70_000), message(3)];
        let bytes: Vec<u8> = sent
            .iter()
            .enumerate()
            .flat_map(|(n, one)| match n % 2 {
                0 => framed(0, &one.encode_to_vec()),
                _ => packed(one),
            })
            .collect();
        for size in [1, 7, 1000, bytes.len()] {
            let (mut buffer, mut came) = (BytesMut::new(), Vec::new());
            for piece in bytes.chunks(size) {
                buffer.extend_from_slice(piece);
                while let Some(message) = next(&mut buffer).unwrap() {
                    came.push(message);
                }
            }
            assert_eq!(came, sent);
            assert!(buffer.is_empty());
        }
    }

    #[test]
    fn what_cannot_be_unpacked_is_refused_and_spoils_nothing_after_it() {
        let text = |bytes: &[u8]| next(&mut bytes.into()).unwrap_err().message().to_owned();
        let whole = packed(&message(5000));
        let half = framed(1, &whole[PREFIX..whole.len() / 2]);
        assert!(text(&half).starts_with("a message can't be unpacked"), "{}", text(&half));
        assert!(text(&framed(1, b"garbage")).starts_with("a message can't be unpacked"));
        assert_eq!(next(&mut whole.as_slice().into()).unwrap(), Some(message(5000)));
        assert_eq!(
            text(&packed(&message(5 << 20))),
            "a message unpacks to more than 4194304 bytes"
        );
        let long = [&[0][..], &5_000_000_u32.to_be_bytes()].concat();
        assert_eq!(text(&long), "a message has 5000000 bytes, and may have 4194304");
        assert_eq!(text(&framed(2, b"")), "a message begins with 2");
        assert!(text(&framed(0, &[0xff, 0xff])).starts_with("what came is no message"));
    }
}
