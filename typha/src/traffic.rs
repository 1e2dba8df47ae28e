//! What went out, and what that cost: counters of all sessions.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use bytes::Bytes;
use runtime::metrics::Histogram;
use sync::{Encoding, Outgoing, Resume};

/// Counters of a server.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    messages: AtomicU64,
    bytes: AtomicU64,
    encoded: AtomicU64,
    encode_nanoseconds: AtomicU64,
    parts_built: AtomicU64,
    parts_shared: AtomicU64,
    resumes: [AtomicU64; Resume::ALL.len()],
    /// From when a change was seen until an agent's connection had its Commit.
    pub(crate) observed_to_sent: Histogram,
    /// From then until the agent's kernel held it.
    pub(crate) sent_to_acked: Histogram,
}

impl Traffic {
    /// The bytes of a message, counted.
    pub(crate) fn bytes(&self, message: &Outgoing, encoding: Encoding) -> Bytes {
        let part = matches!(message, Outgoing::Part(..));
        let bytes = if message.is_encoded(encoding) {
            if part {
                self.parts_shared.fetch_add(1, Ordering::Relaxed);
            }
            message.bytes(encoding)
        } else {
            if part {
                self.parts_built.fetch_add(1, Ordering::Relaxed);
            }
            let begin = Instant::now();
            let bytes = message.bytes(encoding);
            let took = begin.elapsed().as_nanos() as u64;
            self.encode_nanoseconds.fetch_add(took, Ordering::Relaxed);
            self.encoded.fetch_add(1, Ordering::Relaxed);
            bytes
        };
        self.messages.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        bytes
    }

    /// Messages went out that were put together for another session.
    pub(crate) fn sent(&self, messages: usize, bytes: usize) {
        self.messages.fetch_add(messages as u64, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// A session has begun by this.
    pub(crate) fn resumed(&self, resume: Resume) {
        if let Some(counter) = self.resumes.get(resume as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The figures now.
    pub(crate) fn figures(&self) -> Figures {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Figures {
            messages: read(&self.messages),
            bytes: read(&self.bytes),
            encoded: read(&self.encoded),
            encoding: Duration::from_nanos(read(&self.encode_nanoseconds)),
            parts_built: read(&self.parts_built),
            parts_shared: read(&self.parts_shared),
            resumes: Resume::ALL
                .map(|resume| (resume, self.resumes.get(resume as usize).map_or(0, read))),
        }
    }
}

/// Counters at one time.
#[derive(Clone, Debug)]
pub(crate) struct Figures {
    /// Messages to agents.
    pub(crate) messages: u64,
    /// Their bytes, as they travelled.
    pub(crate) bytes: u64,
    /// How often a message was encoded.
    pub(crate) encoded: u64,
    /// How long that took, compression included.
    pub(crate) encoding: Duration,
    /// Parts of whole topics that were encoded.
    pub(crate) parts_built: u64,
    /// Parts of whole topics that another session had encoded.
    pub(crate) parts_shared: u64,
    /// How sessions began.
    pub(crate) resumes: [(Resume, u64); Resume::ALL.len()],
}
