//! Messages as they travel: framed for gRPC, encoded and compressed once for all who get them.
//!
//! A frame is a byte of flags, the message's length in four bytes, and the message
//! (gRPC over HTTP/2, "Length-Prefixed-Message").

use std::{cell::RefCell, fmt, io, sync::OnceLock};

use bytes::Bytes;
use prost::Message as _;
use proto::v1::ServerMessage;
use zstd::bulk::Compressor;

/// Length of a frame's flags and length.
const PREFIX: usize = 5;
/// A shorter message isn't compressed: it would win less than it costs.
const COMPRESS_FROM: usize = 512;
/// Of zstd: its default, at which a part of a topic takes less than a millisecond.
const LEVEL: i32 = 3;

thread_local! {
    /// Made once: that takes longer than most frames do.
    static COMPRESSOR: RefCell<io::Result<Compressor<'static>>> = RefCell::new(Compressor::new(LEVEL));
}

/// How an agent takes messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// As they are.
    Identity,
    /// Compressed by zstd where that makes them shorter.
    Zstd,
}

/// The frames of one message that several agents get, each made when it is first asked for.
#[derive(Default)]
pub(crate) struct Wire {
    identity: OnceLock<Bytes>,
    zstd: OnceLock<Bytes>,
}

/// What has been encoded makes no difference to what is said.
impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Wire")
    }
}

impl Wire {
    fn slot(&self, encoding: Encoding) -> &OnceLock<Bytes> {
        match encoding {
            Encoding::Identity => &self.identity,
            Encoding::Zstd => &self.zstd,
        }
    }

    /// Whether the frame has been made.
    pub(crate) fn is_made(&self, encoding: Encoding) -> bool {
        self.slot(encoding).get().is_some()
    }

    /// The frame; `message` is asked at most once per encoding.
    pub(crate) fn get(&self, encoding: Encoding, message: impl FnOnce() -> ServerMessage) -> Bytes {
        let make = || match encoding {
            Encoding::Identity => frame(&message()),
            Encoding::Zstd => match self.identity.get() {
                Some(identity) => compressed(identity.clone()),
                None => compressed(frame(&message())),
            },
        };
        self.slot(encoding).get_or_init(make).clone()
    }
}

/// The frame of a message that is not compressed.
pub(crate) fn frame(message: &ServerMessage) -> Bytes {
    let mut bytes = Vec::with_capacity(PREFIX + message.encoded_len());
    bytes.resize(PREFIX, 0);
    message.encode_raw(&mut bytes);
    finish(bytes, 0)
}

/// Writes flags and length in front.
fn finish(mut bytes: Vec<u8>, flags: u8) -> Bytes {
    let length = (bytes.len() - PREFIX) as u32;
    bytes[0] = flags;
    bytes[1..PREFIX].copy_from_slice(&length.to_be_bytes());
    bytes.into()
}

/// The frame compressed, or as it is where that isn't longer.
fn compressed(frame: Bytes) -> Bytes {
    let body = &frame[PREFIX..];
    if body.len() < COMPRESS_FROM {
        return frame;
    }
    // No room for a result that is as long: that is an error, and the frame stays as it is.
    let mut shorter = vec![0; body.len() - 1];
    let length = COMPRESSOR.with_borrow_mut(|compressor| match compressor {
        Ok(compressor) => compressor.compress_to_buffer(body, &mut shorter).ok(),
        Err(_) => None,
    });
    match length {
        Some(length) => {
            let mut bytes = Vec::with_capacity(PREFIX + length);
            bytes.resize(PREFIX, 0);
            bytes.extend_from_slice(&shorter[..length]);
            finish(bytes, 1)
        }
        None => frame,
    }
}

#[cfg(test)]
mod tests {
    use proto::v1::{GoAway, server_message::Message};

    use super::*;

    fn message(text: &str) -> ServerMessage {
        let message = Message::GoAway(GoAway { message: text.into(), ..GoAway::default() });
        ServerMessage { message: Some(message) }
    }

    fn read(frame: &[u8]) -> (u8, ServerMessage) {
        let length = u32::from_be_bytes(frame[1..PREFIX].try_into().unwrap());
        let body = &frame[PREFIX..];
        assert_eq!(body.len(), length as usize);
        let body = match frame[0] {
            0 => body.to_vec(),
            _ => zstd::bulk::decompress(body, 1 << 20).unwrap(),
        };
        (frame[0], ServerMessage::decode(body.as_slice()).unwrap())
    }

    #[test]
    fn a_long_message_is_compressed_and_a_short_one_is_not() {
        for (text, flags) in [("x".repeat(1000), 1), ("x".repeat(100), 0)] {
            let message = message(&text);
            let frame = Wire::default().get(Encoding::Zstd, || message.clone());
            assert_eq!(read(&frame), (flags, message.clone()));
            let frame = Wire::default().get(Encoding::Identity, || message.clone());
            assert_eq!(read(&frame), (0, message));
        }
    }

    #[test]
    fn what_compression_makes_longer_stays_as_it_is() {
        // Looks random to zstd: a linear congruential generator's high bits, as letters of a large set.
        let mut state = 1_u64;
        let text: String = (0..600)
            .filter_map(|_| {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                char::from_u32(0x10000 + (state >> 44) as u32)
            })
            .collect();
        let message = message(&text);
        let frame = Wire::default().get(Encoding::Zstd, || message.clone());
        let (_, back) = read(&frame);
        assert_eq!(back, message);
        assert!(frame.len() <= super::frame(&message).len());
    }

    #[test]
    fn a_message_is_encoded_once_per_encoding() {
        let wire = Wire::default();
        assert!(!wire.is_made(Encoding::Zstd));
        let first = wire.get(Encoding::Zstd, || message("once"));
        assert!(wire.is_made(Encoding::Zstd));
        let again = wire.get(Encoding::Zstd, || panic!("asked twice"));
        assert_eq!(first.as_ptr(), again.as_ptr(), "the same bytes, not a copy");
    }
}
