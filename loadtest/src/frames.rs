//! HTTP/2 and gRPC as an agent sees them that only drains its stream. No IO: bytes in, words out.
//!
//! Of what comes only the hello, Commits and words of parting are looked at; everything else is counted off the
//! windows and dropped where it lies. The windows are those of the agents' own client, so that the
//! server waits for this agent as it would wait for a real one.

use proto::v1::{
    AgentMessage, Commit, ServerHello, ServerMessage, server_message::Message as ServerWord,
};

/// What a stream may send ahead, as agents set it (`lib/client`), and a connection, as hyper does.
const STREAM_WINDOW: u32 = 1024 * 1024;
const CONNECTION_WINDOW: u32 = 5 * 1024 * 1024;
/// The window of a connection before anything was said (RFC 9113, 6.9.2).
const FIRST_WINDOW: u32 = 65_535;
/// A frame begins with its length, type, flags and stream (RFC 9113, 4.1).
const HEAD: usize = 9;
/// A message begins with a byte of flags and its length in four.
const PREFIX: usize = 5;
/// The one stream.
const STREAM: u32 = 1;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const PADDED: u8 = 8;

/// The first byte of the messages that are read: the field of `ServerMessage`, and its wire type.
const READ: [u8; 3] = [1 << 3 | 2, 5 << 3 | 2, 7 << 3 | 2];

/// What an agent that drains wants to know.
#[derive(Debug, PartialEq)]
pub(crate) enum Word {
    Hello(ServerHello),
    Commit(Commit),
    /// It is told to go.
    GoAway,
    /// The stream is over.
    End(&'static str),
}

/// One connection with one stream.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    /// The frame that is being read: its head, as far as it has come, and what is left of it.
    head: Vec<u8>,
    left: usize,
    /// What has come of a frame that is answered.
    control: Vec<u8>,
    messages: Messages,
    /// Bytes that came and that the server doesn't know of as taken.
    stream_taken: u32,
    connection_taken: u32,
    /// To be sent.
    out: Vec<u8>,
}

impl Frames {
    /// A connection to `authority`, with everything to be sent until `hello`.
    pub(crate) fn open(authority: &str, tls: bool, hello: &AgentMessage) -> Self {
        let mut frames = Self::default();
        frames.out.extend_from_slice(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        // ENABLE_PUSH 0, INITIAL_WINDOW_SIZE.
        let mut settings = vec![0, 2, 0, 0, 0, 0, 0, 4];
        settings.extend(STREAM_WINDOW.to_be_bytes());
        frames.frame(SETTINGS, 0, 0, &settings);
        frames.window(0, CONNECTION_WINDOW - FIRST_WINDOW);
        frames.frame(HEADERS, END_HEADERS, STREAM, &headers(authority, tls));
        frames.send(hello);
        frames
    }

    /// A message to the server.
    pub(crate) fn send(&mut self, message: &AgentMessage) {
        use prost::Message as _;
        let mut data = vec![0];
        data.extend((message.encoded_len() as u32).to_be_bytes());
        data.extend(message.encode_to_vec());
        // A hello can be longer than a frame may be.
        for piece in data.chunks(16 * 1024) {
            self.frame(DATA, 0, STREAM, piece);
        }
    }

    /// What is to be sent; whoever sends it takes it out.
    pub(crate) fn out(&mut self) -> &mut Vec<u8> {
        &mut self.out
    }

    /// Bytes came.
    pub(crate) fn receive(&mut self, mut bytes: &[u8], words: &mut Vec<Word>) {
        while !bytes.is_empty() {
            if self.head.len() < HEAD {
                let take = bytes.len().min(HEAD - self.head.len());
                self.head.extend_from_slice(&bytes[..take]);
                bytes = &bytes[take..];
                if self.head.len() < HEAD {
                    return;
                }
                self.left =
                    u32::from_be_bytes([0, self.head[0], self.head[1], self.head[2]]) as usize;
            }
            let (now, rest) = bytes.split_at(bytes.len().min(self.left));
            self.left -= now.len();
            bytes = rest;
            let (kind, flags) = (self.head[3], self.head[4]);
            match kind {
                DATA if flags & PADDED != 0 => words.push(Word::End("padding is not understood")),
                DATA => self.messages.receive(now, words),
                SETTINGS | PING => self.control.extend_from_slice(now),
                _ => {}
            }
            if self.left == 0 {
                self.frame_ended(kind, flags, words);
                self.head.clear();
            }
        }
    }

    fn frame_ended(&mut self, kind: u8, flags: u8, words: &mut Vec<Word>) {
        let length = u32::from_be_bytes([0, self.head[0], self.head[1], self.head[2]]);
        let control = std::mem::take(&mut self.control);
        match kind {
            DATA => {
                self.stream_taken += length;
                self.connection_taken += length;
                if self.stream_taken >= STREAM_WINDOW / 2 {
                    let taken = std::mem::take(&mut self.stream_taken);
                    self.window(STREAM, taken);
                }
                if self.connection_taken >= CONNECTION_WINDOW / 2 {
                    let taken = std::mem::take(&mut self.connection_taken);
                    self.window(0, taken);
                }
            }
            SETTINGS if flags & ACK == 0 => self.frame(SETTINGS, ACK, 0, &[]),
            PING if flags & ACK == 0 => self.frame(PING, ACK, 0, &control),
            RST_STREAM => words.push(Word::End("the server reset the stream")),
            _ => {}
        }
        if matches!(kind, DATA | HEADERS) && flags & END_STREAM != 0 {
            words.push(Word::End("the server ended the stream"));
        }
    }

    fn window(&mut self, stream: u32, by: u32) {
        self.frame(WINDOW_UPDATE, 0, stream, &by.to_be_bytes());
    }

    fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        self.out.extend_from_slice(&(payload.len() as u32).to_be_bytes()[1..]);
        self.out.extend([kind, flags]);
        self.out.extend(stream.to_be_bytes());
        self.out.extend_from_slice(payload);
    }
}

/// The request's headers: indexed where the static table has them, else literal (RFC 7541, 6).
fn headers(authority: &str, tls: bool) -> Vec<u8> {
    // `:method POST`, `:scheme http` or `https`.
    let mut block = vec![0x83, if tls { 0x87 } else { 0x86 }];
    let mut text = |name: &[u8], value: &str| {
        block.extend_from_slice(name);
        // Below 127 a length is one byte.
        block.push(value.len().min(126) as u8);
        block.extend_from_slice(&value.as_bytes()[..value.len().min(126)]);
    };
    // `:path` and `:authority` by the index of their names.
    text(&[0x04], "/bulrush.v1.Typha/Sync");
    text(&[0x01], authority);
    text(b"\x00\x0ccontent-type", "application/grpc");
    text(b"\x00\x14grpc-accept-encoding", "zstd,identity");
    // `te: trailers`, its value in the Huffman code, as other clients send all of theirs: the server unpacks it
    // into a buffer of its own.
    block.extend_from_slice(b"\x00\x02te\x86\x4d\x83\x35\x05\xb1\x1f");
    block
}

/// The messages in a stream's bytes.
#[derive(Debug, Default)]
struct Messages {
    prefix: Vec<u8>,
    left: usize,
    /// What has come of a message that is read.
    kept: Vec<u8>,
    /// The message is one that is read; none: its first byte has not come.
    reads: Option<bool>,
}

impl Messages {
    fn receive(&mut self, mut bytes: &[u8], words: &mut Vec<Word>) {
        loop {
            if self.prefix.len() < PREFIX {
                let take = bytes.len().min(PREFIX - self.prefix.len());
                self.prefix.extend_from_slice(&bytes[..take]);
                bytes = &bytes[take..];
                let Ok(prefix) = <[u8; PREFIX]>::try_from(self.prefix.as_slice()) else { return };
                let [flags, length @ ..] = prefix;
                self.left = u32::from_be_bytes(length) as usize;
                // A message of one session alone isn't compressed, so no Commit is.
                self.reads = (flags != 0).then_some(false);
            }
            let (now, rest) = bytes.split_at(bytes.len().min(self.left));
            if let Some(first) = now.first() {
                let reads = *self.reads.get_or_insert(READ.contains(first));
                if reads {
                    self.kept.extend_from_slice(now);
                }
            }
            self.left -= now.len();
            bytes = rest;
            if self.left > 0 {
                return;
            }
            self.prefix.clear();
            if self.reads.take() == Some(true) {
                use prost::Message as _;
                let message = ServerMessage::decode(self.kept.as_slice());
                self.kept.clear();
                words.push(match message.map(|message| message.message) {
                    Ok(Some(ServerWord::Commit(commit))) => Word::Commit(commit),
                    Ok(Some(ServerWord::Hello(hello))) => Word::Hello(hello),
                    Ok(Some(ServerWord::GoAway(_))) => Word::GoAway,
                    _ => Word::End("a message that is none of the protocol"),
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;
    use proto::v1::{Ack, Delta, agent_message::Message};

    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut frames = Frames::default();
        frames.frame(kind, flags, if kind == DATA { STREAM } else { 0 }, payload);
        frames.out
    }

    fn message(flags: u8, word: ServerWord) -> Vec<u8> {
        let bytes = ServerMessage { message: Some(word) }.encode_to_vec();
        let length = (bytes.len() as u32).to_be_bytes();
        [&[flags][..], &length, &bytes].concat()
    }

    fn commit(publication: u64) -> ServerWord {
        ServerWord::Commit(Commit { publication, in_sync: true, ..Commit::default() })
    }

    fn delta(length: usize) -> ServerWord {
        ServerWord::Delta(Delta { topic: "*".repeat(length), ..Delta::default() })
    }

    #[test]
    fn commits_are_found_between_all_else_however_the_bytes_are_cut() {
        let messages = [
            message(0, delta(300)),
            message(1, commit(1)),
            message(0, commit(2)),
            message(0, delta(0)),
            message(0, commit(300)),
        ]
        .concat();
        let (one, two) = messages.split_at(320);
        let bytes = [
            frame(SETTINGS, 0, &[0; 6]),
            frame(HEADERS, END_HEADERS, &[0x88]),
            frame(DATA, 0, one),
            frame(PING, 0, b"12345678"),
            frame(DATA, 0, two),
            frame(HEADERS, END_HEADERS | END_STREAM, &[0x88]),
        ]
        .concat();
        for cut in 0..bytes.len() {
            let (mut frames, mut words) = (Frames::default(), Vec::new());
            frames.receive(&bytes[..cut], &mut words);
            frames.receive(&bytes[cut..], &mut words);
            let expected = |publication| {
                Word::Commit(Commit { publication, in_sync: true, ..Commit::default() })
            };
            // The one that is marked as compressed is not one's own, so no Commit.
            let end = Word::End("the server ended the stream");
            assert_eq!(words, [expected(2), expected(300), end], "cut at {cut}");
            let answers = [frame(SETTINGS, ACK, &[]), frame(PING, ACK, b"12345678")].concat();
            assert_eq!(frames.out, answers);
        }
    }

    #[test]
    fn the_server_hears_that_bytes_were_taken_before_it_must_wait() {
        let mut frames = Frames::default();
        let data = frame(DATA, 0, &message(0, delta(16_000)));
        let (mut sent, mut window) = (0, STREAM_WINDOW as usize);
        while sent < 10 * CONNECTION_WINDOW as usize {
            frames.receive(&data, &mut Vec::new());
            sent += data.len();
            let left = window.checked_sub(data.len() - HEAD);
            window = left.expect("the server may send more");
            let out = std::mem::take(frames.out());
            for update in out.chunks(HEAD + 4) {
                assert_eq!(update[3], WINDOW_UPDATE);
                if update[8] == 1 {
                    window += u32::from_be_bytes(update[9..].try_into().unwrap()) as usize;
                }
            }
        }
    }

    #[test]
    fn what_is_sent_is_framed_as_grpc_in_http2() {
        let ack =
            AgentMessage { message: Some(Message::Ack(Ack { publication: 5, ..Ack::default() })) };
        let mut frames = Frames::default();
        frames.send(&ack);
        let bytes = ack.encode_to_vec();
        let payload = [&[0, 0, 0, 0, bytes.len() as u8][..], &bytes].concat();
        assert_eq!(frames.out, frame(DATA, 0, &payload));
    }
}
