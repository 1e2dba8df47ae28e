//! The lines of an answer that never ends.

use bytes::{Bytes, BytesMut};
use http::Response;
use http_body_util::BodyExt;
use kube::client::Body;

/// The longest line: an event carries one object, and that has 1.5 MiB at most in etcd.
const LONGEST: usize = 32 << 20;

/// Cuts an answer into lines.
pub(super) struct Lines {
    body: Body,
    buffer: BytesMut,
    /// How far the buffer was searched.
    searched: usize,
    /// How often the network was read.
    pub(super) reads: u64,
}

/// What of the answer was last seen.
#[derive(Debug)]
pub(super) enum Line {
    /// A line, without its end.
    Whole(Bytes),
    /// The answer ended after a whole line.
    End,
    /// It can't go on, and why.
    Broken(String),
}

impl Lines {
    pub(super) fn new(answer: Response<Body>) -> Self {
        Self { body: answer.into_body(), buffer: BytesMut::new(), searched: 0, reads: 0 }
    }

    /// The next line. Nothing is lost when the future is dropped.
    pub(super) async fn next(&mut self) -> Line {
        loop {
            if let Some(at) = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n') {
                let mut line = self.buffer.split_to(self.searched + at + 1);
                line.truncate(line.len() - 1);
                self.searched = 0;
                // What isn't UTF-8 can't be in JSON; it must not cost the other objects of the stream.
                let line = match str::from_utf8(&line) {
                    Ok(_) => line.freeze(),
                    Err(_) => String::from_utf8_lossy(&line).into_owned().into(),
                };
                return Line::Whole(line);
            }
            self.searched = self.buffer.len();
            if self.searched > LONGEST {
                return Line::Broken(format!("a line of more than {LONGEST} bytes"));
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    self.reads += 1;
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(error)) => return Line::Broken(format!("its answer broke off: {error}")),
                None if self.buffer.is_empty() => return Line::End,
                None => return Line::Broken("its answer broke off in mid-line".to_owned()),
            }
        }
    }
}
