//! What agents in step get: the same bytes, put together once.
//!
//! Most agents have the same cursor, and are sent the same frames and the same Commit. The first of
//! them joins these into a chunk, and the others share it.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::{Bytes, BytesMut};
use proto::v1::ServerMessage;
use sync::{Encoding, Frame, Frames, Outgoing};

use crate::traffic::Traffic;

/// How many chunks are kept, of the newest rounds: as many as there are groups of agents in step.
const KEPT: usize = 8;
/// The largest chunk. It goes out in frames of HTTP/2, which share it.
const CHUNK: usize = 256 * 1024;

/// The chunks of the newest rounds.
#[derive(Default)]
pub(crate) struct Rounds(Mutex<Vec<Round>>);

struct Round {
    encoding: Encoding,
    frames: Vec<Arc<Frame>>,
    commit: ServerMessage,
    chunk: Bytes,
}

impl Round {
    fn is(&self, messages: &[Outgoing], commit: &ServerMessage, encoding: Encoding) -> bool {
        let same = |(message, frame): (&Outgoing, &Arc<Frame>)| matches!(message, Outgoing::Shared(other) if Arc::ptr_eq(other, frame));
        self.encoding == encoding
            && self.frames.len() == messages.len()
            && messages.iter().zip(&self.frames).all(same)
            && self.commit == *commit
    }
}

impl Rounds {
    /// The messages of a round as one chunk; none where they aren't shared frames and a Commit, or
    /// are too long for one.
    pub(crate) fn chunk(
        &self,
        messages: &Frames,
        encoding: Encoding,
        traffic: &Traffic,
    ) -> Option<Bytes> {
        let messages = messages.left();
        let (Outgoing::Own(commit), shared) = messages.split_last()? else { return None };
        if shared.is_empty() || !shared.iter().all(|one| matches!(one, Outgoing::Shared(_))) {
            return None;
        }
        // The lock is held while the chunk is made: the others of the group would make the same.
        let mut rounds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(round) = rounds.iter().rev().find(|round| round.is(shared, commit, encoding)) {
            traffic.sent(messages.len(), round.chunk.len());
            return Some(round.chunk.clone());
        }
        let mut length = 0;
        for message in messages {
            length += message.bytes(encoding).len();
            if length > CHUNK {
                return None;
            }
        }
        let mut chunk = BytesMut::with_capacity(length);
        for message in messages {
            chunk.extend_from_slice(&traffic.bytes(message, encoding));
        }
        let chunk = chunk.freeze();
        let frames = shared.iter().filter_map(|message| match message {
            Outgoing::Shared(frame) => Some(frame.clone()),
            _ => None,
        });
        if rounds.len() == KEPT {
            rounds.remove(0);
        }
        let (frames, commit) = (frames.collect(), (**commit).clone());
        rounds.push(Round { encoding, frames, commit, chunk: chunk.clone() });
        Some(chunk)
    }
}
