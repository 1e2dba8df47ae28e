//! Writes what the store says to a file, for `bulrush replay`.

use std::{
    fs::File,
    io::{self, Write as _},
    path::Path,
    time::Instant,
};

use datastore::{Feed, StreamInfo, record::Recorder};

/// A recording under way.
pub struct Recording {
    file: File,
    recorder: Recorder,
    begun: Instant,
}

impl Recording {
    /// Begins one, in place of what is in the file.
    ///
    /// # Errors
    /// When the file can't be made.
    pub fn begin(path: &Path, streams: &[StreamInfo]) -> io::Result<Self> {
        let recorder = Recorder::new(streams);
        Ok(Self { file: File::create(path)?, recorder, begun: Instant::now() })
    }

    /// Adds what a feed says.
    pub(crate) fn add(&mut self, feed: &Feed) -> io::Result<()> {
        let t_ms = self.begun.elapsed().as_millis() as u64;
        self.file.write_all(self.recorder.lines(feed, t_ms).as_bytes())
    }
}
