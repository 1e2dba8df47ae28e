//! Core objects as API servers send them in protobuf, which costs both sides a third of what JSON does.
//!
//! Numbers of fields are beside their names in the tables of [`super::slim`]; what is read has the form of the JSON.

use std::borrow::Cow;

use k8s_openapi::jiff::Timestamp;
use serde_json::{Map, Value};

use super::slim::Fields;

/// What a message in the form of Kubernetes begins with.
const MAGIC: &[u8] = b"k8s\0";

/// What is sent isn't protobuf, or isn't what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} of protobuf")]
pub(super) struct Malformed(&'static str);

/// One field of a message.
enum Part<'a> {
    Number(u64),
    Bytes(&'a [u8]),
    /// Of a fixed size; nothing that is read has one.
    Other,
}

/// The fields of a message, in the order in which they come.
struct Parts<'a>(&'a [u8]);

impl<'a> Parts<'a> {
    fn next(&mut self) -> Result<Option<(u64, Part<'a>)>, Malformed> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let head = self.number()?;
        let part = match head & 7 {
            0 => Part::Number(self.number()?),
            1 => self.take(8).map(|_| Part::Other)?,
            2 => {
                let length = self.number()?;
                Part::Bytes(self.take(usize::try_from(length).unwrap_or(usize::MAX))?)
            }
            5 => self.take(4).map(|_| Part::Other)?,
            _ => return Err(Malformed("an unknown type")),
        };
        Ok(Some((head >> 3, part)))
    }

    fn number(&mut self) -> Result<u64, Malformed> {
        let mut number = 0;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.0.split_first().ok_or(Malformed("a cut number"))?;
            self.0 = rest;
            number |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(Malformed("an endless number"))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed("a cut field"))?;
        self.0 = rest;
        Ok(taken)
    }
}

/// The first bytes field of this number; nothing: it isn't there.
fn bytes_at(message: &[u8], number: u64) -> Result<&[u8], Malformed> {
    let mut parts = Parts(message);
    while let Some((at, part)) = parts.next()? {
        if let (true, Part::Bytes(bytes)) = (at == number, part) {
            return Ok(bytes);
        }
    }
    Ok(&[])
}

/// The message inside of Kubernetes' envelope; none: there is no envelope.
pub(super) fn unwrapped(bytes: &[u8]) -> Option<Result<&[u8], Malformed>> {
    bytes.strip_prefix(MAGIC).map(|unknown| bytes_at(unknown, 2))
}

/// The type of an event of a watch, and its object.
pub(super) fn event(frame: &[u8]) -> Result<(Cow<'_, str>, &[u8]), Malformed> {
    let object = bytes_at(bytes_at(frame, 2)?, 1)?;
    let object = unwrapped(object).ok_or(Malformed("an event without an object"))??;
    Ok((text(bytes_at(frame, 1)?), object))
}

impl Fields {
    /// Reads an object.
    pub(super) fn read_protobuf(&'static self, message: &[u8]) -> Result<Value, Malformed> {
        value(self, Part::Bytes(message)).map(Option::unwrap_or_default)
    }
}

/// None: what JSON would leave out.
fn value(fields: &'static Fields, part: Part<'_>) -> Result<Option<Value>, Malformed> {
    Ok(match (fields, part) {
        (Fields::Only(fields), Part::Bytes(message)) => {
            Some(Value::Object(object(fields, message)?))
        }
        (Fields::Number, Part::Number(number)) => Some(number.cast_signed().into()),
        (Fields::Flag, Part::Number(number)) => Some((number != 0).into()),
        (Fields::Time, Part::Bytes(message)) => time(message)?.map(Value::String),
        (Fields::NumberOrText, Part::Bytes(message)) => {
            static PARTS: Fields = Fields::Only(&[
                ("type", 1, Fields::Number),
                ("number", 2, Fields::Number),
                ("text", 3, Fields::Text),
            ]);
            let mut parts = PARTS.read_protobuf(message)?;
            let is_text = parts["type"] == 1;
            Some(match (is_text, parts[if is_text { "text" } else { "number" }].take()) {
                (true, Value::Null) => "".into(),
                (false, Value::Null) => 0.into(),
                (_, value) => value,
            })
        }
        (Fields::Text, Part::Bytes([])) | (Fields::All | Fields::Each(_) | Fields::Keys(_), _) => {
            None
        }
        (Fields::Text, Part::Bytes(bytes)) => Some(text(bytes).into_owned().into()),
        _ => return Err(Malformed("a field of another type")),
    })
}

fn object(
    fields: &'static [(&'static str, u64, Fields)],
    message: &[u8],
) -> Result<Map<String, Value>, Malformed> {
    let mut object = Map::new();
    let mut parts = Parts(message);
    while let Some((number, part)) = parts.next()? {
        let Some((name, _, fields)) = fields.iter().find(|(_, at, _)| *at == number) else {
            continue;
        };
        match (fields, part) {
            (Fields::Each(item), part) => {
                // In a list nothing is left out.
                let empty = || if matches!(item, Fields::Text) { "".into() } else { Value::Null };
                let item = value(item, part)?.unwrap_or_else(empty);
                match object.entry(*name).or_insert_with(|| Value::Array(Vec::new())) {
                    Value::Array(items) => items.push(item),
                    _ => return Err(Malformed("a field of another type")),
                }
            }
            (Fields::Keys(is_wanted), Part::Bytes(entry)) => {
                let key = text(bytes_at(entry, 1)?);
                if is_wanted(&key) {
                    let value = text(bytes_at(entry, 2)?).into_owned();
                    let entries = object.entry(*name).or_insert_with(|| Map::new().into());
                    entries[key.as_ref()] = value.into();
                }
            }
            (fields, part) => {
                if let Some(value) = value(fields, part)? {
                    object.insert((*name).to_owned(), value);
                }
            }
        }
    }
    Ok(object)
}

/// What isn't UTF-8 can't be in JSON either; it must not cost the object.
fn text(bytes: &[u8]) -> Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// As in JSON: whole seconds; none: never.
fn time(message: &[u8]) -> Result<Option<String>, Malformed> {
    let mut parts = Parts(message);
    while let Some((number, part)) = parts.next()? {
        if let (1, Part::Number(seconds)) = (number, part) {
            let time = Timestamp::from_second(seconds.cast_signed());
            return time.map(|time| Some(time.to_string())).map_err(|_| Malformed("a time"));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::kubernetes::slim::{NETWORK_POLICY, POD, STATUS};

    /// A field that holds bytes, a text or a message.
    fn field(number: u8, bytes: impl AsRef<[u8]>) -> Vec<u8> {
        let bytes = bytes.as_ref();
        assert!(number < 16 && bytes.len() < 128, "one byte each");
        [&[number << 3 | 2, bytes.len() as u8], bytes].concat()
    }

    fn number(field: u8, value: u8) -> Vec<u8> {
        vec![field << 3, value]
    }

    fn pod() -> Vec<u8> {
        let entry = |key: &str, value: &str| [field(1, key), field(2, value)].concat();
        let metadata = [
            field(1, "web-0"),
            field(2, ""),
            field(3, "shop"),
            // 2026-01-02T03:04:05Z, and half a second.
            field(8, [0x08, 0xa5, 0xeb, 0xdc, 0xca, 0x06, 0x10, 0x05]),
            field(11, entry("app", "web")),
            field(11, entry("empty", "")),
            field(12, entry("note", "not read")),
            field(12, entry("cni.projectcalico.org/podIP", "10.0.0.1")),
        ];
        let port = [field(1, "http"), number(2, 0), vec![0x18, 0x90, 0x3f], field(4, "TCP")];
        let spec = [
            // Of a fixed size, and unknown.
            vec![0x0d, 1, 2, 3, 4, 0x09, 1, 2, 3, 4, 5, 6, 7, 8],
            field(2, [field(2, "image"), field(6, port.concat())].concat()),
            field(10, "node-1"),
            number(11, 0),
        ];
        let status = [field(1, "Running"), vec![0x62, 0x0a], field(1, "10.0.0.1")];
        [field(1, metadata.concat()), field(2, spec.concat()), field(3, status.concat())].concat()
    }

    #[test]
    fn a_pod_reads_as_from_json() {
        let expected = json!({
            "metadata": {
                "name": "web-0", "namespace": "shop", "creationTimestamp": "2026-01-02T03:04:05Z",
                "labels": { "app": "web", "empty": "" },
                "annotations": { "cni.projectcalico.org/podIP": "10.0.0.1" },
            },
            "spec": {
                "nodeName": "node-1", "hostNetwork": false,
                "containers": [{ "ports": [{
                    "name": "http", "hostPort": 0, "containerPort": 8080, "protocol": "TCP",
                }] }],
            },
            "status": { "phase": "Running", "podIPs": [{ "ip": "10.0.0.1" }] },
        });
        assert_eq!(POD.read_protobuf(&pod()), Ok(expected));
    }

    #[test]
    fn empty_messages_of_a_policy_are_there_and_ports_are_numbers_or_names() {
        let named = [number(1, 1), number(2, 0), field(3, "http")].concat();
        let numbered = [number(1, 0), number(2, 80), field(3, "")].concat();
        let ports = [field(1, field(2, named)), field(1, field(2, numbered))].concat();
        let peer = field(2, field(2, ""));
        let spec =
            [field(1, ""), field(2, ""), field(2, [ports, peer].concat()), field(4, "Ingress")];
        let read = NETWORK_POLICY.read_protobuf(&field(2, spec.concat())).unwrap();
        let expected = json!({
            "podSelector": {},
            "ingress": [
                {},
                { "ports": [{ "port": "http" }, { "port": 80 }], "from": [{ "namespaceSelector": {} }] },
            ],
            "policyTypes": ["Ingress"],
        });
        assert_eq!(read["spec"], expected);
    }

    #[test]
    fn an_event_and_a_refusal_are_unwrapped() {
        let status =
            [field(2, "Failure"), field(3, "too old"), field(4, "Expired"), vec![0x30, 0x9a, 3]];
        let unknown = [field(1, field(1, "v1")), field(2, status.concat())].concat();
        let wrapped = [MAGIC, &unknown].concat();
        let event = [field(1, "ERROR"), field(2, field(1, &wrapped))].concat();
        let (kind, object) = super::event(&event).unwrap();
        assert_eq!(kind, "ERROR");
        for message in [object, unwrapped(&wrapped).unwrap().unwrap()] {
            let read = STATUS.read_protobuf(message).unwrap();
            assert_eq!(read, json!({ "message": "too old", "reason": "Expired", "code": 410 }));
        }
        assert!(unwrapped(b"{}").is_none(), "that is JSON");
    }

    #[test]
    fn text_that_is_no_utf_8_costs_nothing_else() {
        let metadata = [field(1, [b'w', 0xff]), field(3, "shop")].concat();
        let read = POD.read_protobuf(&field(1, metadata)).unwrap();
        assert_eq!(read["metadata"], json!({ "name": "w\u{fffd}", "namespace": "shop" }));
    }

    proptest! {
        #[test]
        fn what_is_no_protobuf_is_an_error_and_no_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..200), at in 0..400_usize, byte in any::<u8>(),
        ) {
            let _ = POD.read_protobuf(&bytes);
            let _ = event(&bytes);
            let mut spoilt = pod();
            let at = at % spoilt.len();
            spoilt[at] = byte;
            let _ = POD.read_protobuf(&spoilt);
            let _ = POD.read_protobuf(&spoilt[..at]);
        }
    }
}
