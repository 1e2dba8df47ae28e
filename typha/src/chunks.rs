//! Room in which small messages are put together, used again by whoever comes next.
//!
//! The allocator gives back to the system at once what is freed, and takes it anew: for each chunk of a first sync
//! that cost more than to fill it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// The largest chunk: that of a frame of HTTP/2.
pub(crate) const CHUNK: usize = 16 * 1024;
/// How much room is kept, in chunks.
const KEPT: usize = 16;
/// A smaller chunk is copied out: it may wait for its agent for long, and the room shouldn't. So much the allocator
/// keeps itself.
const COPIED: usize = 4 * 1024;

/// The room of all sessions.
#[derive(Clone, Default)]
pub(crate) struct Chunks(Arc<Mutex<Vec<Vec<u8>>>>);

impl Chunks {
    fn kept(&self) -> MutexGuard<'_, Vec<Vec<u8>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for one chunk.
    pub(crate) fn room(&self) -> Room {
        let bytes = self.kept().pop().unwrap_or_else(|| Vec::with_capacity(CHUNK));
        Room { bytes, chunks: self.clone() }
    }
}

/// A chunk that is being put together, or sent.
pub(crate) struct Room {
    bytes: Vec<u8>,
    chunks: Chunks,
}

impl Room {
    /// Whether so many bytes more are no longer a chunk.
    pub(crate) fn is_short_of(&self, bytes: usize) -> bool {
        self.bytes.len() + bytes > CHUNK
    }

    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The chunk; its room is free again when it was sent.
    pub(crate) fn into_chunk(self) -> Bytes {
        if self.bytes.len() <= COPIED {
            Bytes::copy_from_slice(&self.bytes)
        } else {
            Bytes::from_owner(self)
        }
    }
}

impl AsRef<[u8]> for Room {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        let mut kept = self.chunks.kept();
        if kept.len() < KEPT {
            kept.push(bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_used_again_once_its_chunk_was_sent_and_not_before() {
        let chunks = Chunks::default();
        let filled = |byte| {
            let mut room = chunks.room();
            room.add(&[byte; CHUNK]);
            room.into_chunk()
        };
        let first = filled(1);
        let rest = first.slice(CHUNK - 1..);
        let second = filled(2);
        assert_ne!(first.as_ptr(), second.as_ptr());
        let place = first.as_ptr();
        drop(first);
        assert_ne!(filled(3).as_ptr(), place, "a piece of it waits to be sent");
        assert_eq!(rest, [1][..]);
        drop(rest);
        let again = filled(4);
        assert_eq!(again.as_ptr(), place);
        assert_eq!(again, [4; CHUNK][..], "and nothing of before is in it");
    }

    #[test]
    fn little_is_kept_and_a_small_chunk_holds_no_room() {
        let chunks = Chunks::default();
        let mut room = chunks.room();
        room.add(b"small");
        let small = room.into_chunk();
        assert_eq!((&small[..], chunks.kept().len()), (&b"small"[..], 1));
        let rooms: Vec<Room> = (0..100).map(|_| chunks.room()).collect();
        drop(rooms);
        assert_eq!(chunks.kept().len(), KEPT);
    }
}
