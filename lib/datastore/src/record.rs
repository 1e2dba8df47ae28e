//! A feed as lines of JSON, and back: the form of a bug report and of a regression test.
//!
//! ```text
//! {"stream":"etcd","op":"put","key":"/calico/…/tiers/a","value":{…},"version":7,"t_ms":120}
//! {"stream":"etcd","op":"put","key":"/calico/…/tiers/b","raw":"no JSON","version":7,"t_ms":120}
//! {"stream":"etcd","op":"delete","key":"/calico/…/tiers/c","version":7,"t_ms":120}
//! {"stream":"etcd","op":"progress","version":7,"t_ms":120}
//! {"stream":"etcd","op":"synced","version":9,"newest":7,"epoch":"cdf8","t_ms":121}
//! ```
//!
//! Keys are spelled as in etcd, whatever the store. `raw` is text, or a list of bytes if it isn't UTF-8. What belongs
//! together ends with a `progress` line. What isn't state (lost, regained, reset) is left out: the changes that
//! follow a reset bring the same objects about.

use model::{Key, Stored, StreamIndex, Update};
use serde_json::{Map, Value, json};

use crate::etcdv3::keys;
use crate::follower::Feed;
use crate::store::{Position, StreamInfo};

/// Writes lines.
pub struct Recorder {
    streams: Vec<StreamInfo>,
}

impl Recorder {
    /// For a store with these streams.
    pub fn new(streams: &[StreamInfo]) -> Self {
        Self { streams: streams.to_vec() }
    }

    /// The lines of a feed, each with its newline; `t_ms` is the time since the recording began, in milliseconds.
    pub fn lines(&self, feed: &Feed, t_ms: u64) -> String {
        let mut lines = String::new();
        let mut line = |stream: StreamIndex, op: &str, version: u64, more: Value| {
            let info = self.streams.iter().find(|info| info.index == stream);
            let name = info.map_or("", |info| &info.name);
            let mut line = json!({ "stream": name, "op": op, "version": version, "t_ms": t_ms });
            if let (Value::Object(line), Value::Object(more)) = (&mut line, more) {
                line.extend(more);
            }
            lines.push_str(&line.to_string());
            lines.push('\n');
        };
        match feed {
            Feed::Changes { stream, version, updates, .. } => {
                for Update { key, value, version, .. } in updates {
                    let key = keys::path(key).unwrap_or_else(|_| key.to_string());
                    match value {
                        Some(Stored::Json(value)) => {
                            line(*stream, "put", *version, json!({ "key": key, "value": value }));
                        }
                        Some(Stored::Raw(bytes)) => {
                            let raw =
                                str::from_utf8(bytes).map_or(json!(bytes), |text| json!(text));
                            line(*stream, "put", *version, json!({ "key": key, "raw": raw }));
                        }
                        None => line(*stream, "delete", *version, json!({ "key": key })),
                    }
                }
                line(*stream, "progress", *version, Value::Null);
            }
            Feed::Progress { stream, version } => line(*stream, "progress", *version, Value::Null),
            Feed::Synced { stream, at, newest, .. } => {
                let more = json!({ "epoch": at.epoch.as_str(), "newest": newest });
                line(*stream, "synced", at.version, more);
            }
            Feed::Lost { .. } | Feed::Regained { .. } | Feed::Reset { .. } => {}
        }
        lines
    }
}

/// A line that can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of the recording: {what}")]
pub struct BadLine {
    /// Its number, from 1.
    pub line: usize,
    /// What is wrong, with field and value.
    pub what: String,
}

/// Reads lines. Streams are numbered as they appear.
#[derive(Default)]
pub struct Replay {
    line: usize,
    streams: Vec<StreamInfo>,
    /// Updates whose `progress` line hasn't come, per stream.
    open: Vec<Vec<Update>>,
}

impl Replay {
    /// At the start of a recording.
    pub fn new() -> Self {
        Self::default()
    }

    /// The streams that have appeared.
    pub fn streams(&self) -> &[StreamInfo] {
        &self.streams
    }

    /// Takes in the next line. A feed comes with its time, in milliseconds since the recording began, when it is
    /// complete.
    pub fn line(&mut self, text: &str) -> Result<Option<(u64, Feed)>, BadLine> {
        self.line += 1;
        self.read(text).map_err(|what| BadLine { line: self.line, what })
    }

    fn read(&mut self, text: &str) -> Result<Option<(u64, Feed)>, String> {
        if text.trim().is_empty() {
            return Ok(None);
        }
        let line: Map<String, Value> =
            serde_json::from_str(text).map_err(|error| format!("not a JSON object: {error}"))?;
        let stream = self.stream(string(&line, "stream")?);
        let (version, t_ms) = (number(&line, "version")?, number(&line, "t_ms")?);
        let open = &mut self.open[usize::from(stream.0)];
        let feed = match string(&line, "op")? {
            op @ ("put" | "delete") => {
                let path = string(&line, "key")?;
                let key: Key = keys::key(path.as_bytes())
                    .ok_or_else(|| format!("key {path:?} isn't a path of a known kind"))?;
                let value = if op == "put" { Some(stored(&line)?) } else { None };
                open.push(Update { stream, key, value, version });
                return Ok(None);
            }
            "progress" if open.is_empty() => Feed::Progress { stream, version },
            // How many objects there are isn't recorded.
            "progress" => {
                let updates = std::mem::take(open);
                Feed::Changes { stream, version, updates, objects: 0, list: None }
            }
            "synced" if open.is_empty() => {
                let epoch = string(&line, "epoch")?.into();
                let at = Position { epoch, version, history: 0 };
                Feed::Synced { stream, at, newest: number(&line, "newest")?, objects: 0 }
            }
            "synced" => return Err("synced before the progress line of its changes".to_owned()),
            other => {
                return Err(format!("op {other:?} is none of put, delete, progress, synced"));
            }
        };
        Ok(Some((t_ms, feed)))
    }

    fn stream(&mut self, name: &str) -> StreamIndex {
        if let Some(info) = self.streams.iter().find(|info| info.name == name) {
            return info.index;
        }
        // A store has as many streams as resources: some dozens.
        let index = StreamIndex(self.streams.len() as u16);
        self.streams.push(StreamInfo { name: name.into(), index, slim: false });
        self.open.push(Vec::new());
        index
    }
}

fn stored(line: &Map<String, Value>) -> Result<Stored, String> {
    match (line.get("value"), line.get("raw")) {
        (Some(value), None) => Ok(Stored::Json(value.clone())),
        (None, Some(Value::String(text))) => Ok(Stored::Raw(text.clone().into_bytes())),
        (None, Some(raw)) => serde_json::from_value(raw.clone())
            .map(Stored::Raw)
            .map_err(|error| format!("raw is neither text nor a list of bytes: {error}")),
        _ => Err("put needs either value or raw".to_owned()),
    }
}

fn string<'a>(line: &'a Map<String, Value>, field: &str) -> Result<&'a str, String> {
    match line.get(field) {
        Some(Value::String(text)) => Ok(text),
        Some(other) => Err(format!("{field} is {other}, not text")),
        None => Err(format!("{field} is missing")),
    }
}

fn number(line: &Map<String, Value>, field: &str) -> Result<u64, String> {
    match line.get(field) {
        Some(value) => {
            value.as_u64().ok_or_else(|| format!("{field} is {value}, not a number from 0 on"))
        }
        None => Err(format!("{field} is missing")),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use model::Kind;

    use super::*;
    use crate::error::Error;

    const STREAM: StreamIndex = StreamIndex(0);

    fn streams() -> Vec<StreamInfo> {
        vec![StreamInfo { name: "etcd".into(), index: STREAM, slim: false }]
    }

    fn update(name: &str, value: Option<Stored>, version: u64) -> Update {
        Update { stream: STREAM, key: Key::global(Kind::Tier, name), value, version }
    }

    fn feeds() -> Vec<Feed> {
        let at = Position { epoch: "cdf8".into(), version: 9, history: 0 };
        vec![
            Feed::Changes {
                stream: STREAM,
                version: 7,
                updates: vec![
                    update("a", Some(Stored::Json(json!({"spec": {"order": 1}}))), 5),
                    update("b", Some(Stored::Raw(b"{\"cut\":\n".to_vec())), 7),
                    update("c", Some(Stored::Raw(vec![255, 0])), 7),
                    update("d", None, 7),
                ],
                objects: 0,
                list: None,
            },
            Feed::Synced { stream: STREAM, at, newest: 7, objects: 0 },
            Feed::Lost { stream: STREAM, error: Error::WatchEnded, since: Instant::now() },
            Feed::Changes {
                stream: STREAM,
                version: 10,
                updates: vec![update("a", None, 10)],
                objects: 0,
                list: None,
            },
            Feed::Progress { stream: STREAM, version: 12 },
        ]
    }

    #[test]
    fn what_is_recorded_comes_back() {
        let recorder = Recorder::new(&streams());
        let text: String = feeds().iter().map(|feed| recorder.lines(feed, 42)).collect();
        let mut replay = Replay::new();
        let back: Vec<String> = text
            .lines()
            .filter_map(|line| replay.line(line).expect("a good line"))
            .map(|(t_ms, feed)| format!("{t_ms} {feed:?}"))
            .collect();
        let state = feeds().into_iter().filter(|feed| !matches!(feed, Feed::Lost { .. }));
        let expected: Vec<String> = state.map(|feed| format!("42 {feed:?}")).collect();
        assert_eq!(back, expected);
        assert_eq!(replay.streams(), streams());
    }

    #[test]
    fn lines_are_as_documented() {
        let text = Recorder::new(&streams()).lines(&feeds()[0], 120);
        let first: Value =
            serde_json::from_str(text.lines().next().expect("a line")).expect("JSON");
        assert_eq!(
            first,
            json!({
                "stream": "etcd", "op": "put", "version": 5, "t_ms": 120,
                "key": "/calico/resources/v3/projectcalico.org/tiers/a",
                "value": {"spec": {"order": 1}},
            })
        );
        assert_eq!(text.lines().count(), 5, "four updates and the end of what belongs together");
    }

    #[test]
    fn a_bad_line_is_named() {
        let tier = "/calico/resources/v3/projectcalico.org/tiers/a";
        for (text, expected) in [
            ("[]", "not a JSON object: invalid type: sequence, expected a map at line 1 column 0"),
            (r#"{"op":"put"}"#, "stream is missing"),
            (r#"{"stream":1}"#, "stream is 1, not text"),
            (r#"{"stream":"etcd","version":-1}"#, "version is -1, not a number from 0 on"),
            (
                r#"{"stream":"etcd","version":1,"t_ms":0,"op":"move"}"#,
                "op \"move\" is none of put, delete, progress, synced",
            ),
            (
                r#"{"stream":"etcd","version":1,"t_ms":0,"op":"delete","key":"/x"}"#,
                "key \"/x\" isn't a path of a known kind",
            ),
            (
                &format!(r#"{{"stream":"etcd","version":1,"t_ms":0,"op":"put","key":"{tier}"}}"#),
                "put needs either value or raw",
            ),
        ] {
            let mut replay = Replay::new();
            assert!(matches!(replay.line(""), Ok(None)));
            let error = replay.line(text).expect_err(text).to_string();
            assert_eq!(error, format!("line 2 of the recording: {expected}"));
            if expected.starts_with("op") {
                support::assert_bad_input("recording: a line that can't be read", &error);
            }
        }
    }
}
