//! Writes what the store says to a file, for `bulrush replay`.

use std::{
    fs::{self, File},
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
    /// Begins one. What is in the file goes to `FILE.old`: who starts again after a crash would lose what led to it.
    ///
    /// # Errors
    /// When the file can't be made, or what is in it can't be put aside.
    pub fn begin(path: &Path, streams: &[StreamInfo]) -> io::Result<Self> {
        if fs::metadata(path).is_ok_and(|it| it.is_file() && it.len() > 0) {
            let mut aside = path.as_os_str().to_owned();
            aside.push(".old");
            fs::rename(path, aside)?;
        }
        let recorder = Recorder::new(streams);
        Ok(Self { file: File::create(path)?, recorder, begun: Instant::now() })
    }

    /// Adds what a feed says.
    pub(crate) fn add(&mut self, feed: &Feed) -> io::Result<()> {
        let t_ms = self.begun.elapsed().as_millis() as u64;
        self.file.write_all(self.recorder.lines(feed, t_ms).as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_earlier_recording_is_put_aside_and_not_lost() -> io::Result<()> {
        let folder = std::env::temp_dir().join(format!("recording-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let (path, aside) = (folder.join("record"), folder.join("record.old"));
        for (there, kept) in [
            ("", None),
            ("before the crash", Some("before the crash")),
            ("", Some("before the crash")),
        ] {
            fs::write(&path, there)?;
            Recording::begin(&path, &[])?;
            assert_eq!(fs::read_to_string(&path)?, "");
            assert_eq!(fs::read_to_string(&aside).ok().as_deref(), kept);
        }
        fs::remove_dir_all(&folder)
    }
}
