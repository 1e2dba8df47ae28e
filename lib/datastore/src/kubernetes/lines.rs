//! The parts of an answer that never ends: lines of JSON, or frames of protobuf with their length in front.

use bytes::{Buf, Bytes, BytesMut};
use http::{Response, header};
use http_body_util::BodyExt;
use kube::client::Body;

use super::connection::PROTOBUF;

/// The longest line or frame: an event carries one object, and that has 1.5 MiB at most in etcd.
const LONGEST: usize = 32 << 20;

/// How a stream is written, which its answer's head says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    Json,
    Protobuf,
}

/// Cuts an answer into lines.
pub(super) struct Lines {
    pub(super) form: Form,
    body: Body,
    buffer: BytesMut,
    /// How far the buffer was searched for the end of a line; of a frame, its length.
    searched: usize,
    /// How often the network was read.
    pub(super) reads: u64,
}

/// What of the answer was last seen.
#[derive(Debug)]
pub(super) enum Line {
    /// A line, without its end, or a frame, without its length.
    Whole(Bytes),
    /// The answer ended after a whole one.
    End,
    /// It can't go on, and why.
    Broken(String),
}

impl Lines {
    pub(super) fn new(answer: Response<Body>) -> Self {
        let content = answer.headers().get(header::CONTENT_TYPE);
        let is_protobuf = content.is_some_and(|it| it.as_bytes().starts_with(PROTOBUF.as_bytes()));
        let form = if is_protobuf { Form::Protobuf } else { Form::Json };
        Self { form, body: answer.into_body(), buffer: BytesMut::new(), searched: 0, reads: 0 }
    }

    /// The next line. Nothing is lost when the future is dropped.
    pub(super) async fn next(&mut self) -> Line {
        loop {
            match self.form {
                Form::Json => {
                    let unseen = &self.buffer[self.searched..];
                    if let Some(at) = unseen.iter().position(|byte| *byte == b'\n') {
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
                }
                Form::Protobuf => {
                    if let Some((head, rest)) = self.buffer.split_first_chunk() {
                        self.searched = u32::from_be_bytes(*head) as usize;
                        if rest.len() >= self.searched {
                            self.buffer.advance(head.len());
                            return Line::Whole(self.buffer.split_to(self.searched).freeze());
                        }
                    }
                }
            }
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
