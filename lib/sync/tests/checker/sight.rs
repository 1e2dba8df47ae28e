//! What can be said of one agent's messages and contents alone.

use std::collections::BTreeMap;

use bulrush_sync::{ClientSession, Committed};
use bytes::Bytes;
use model::view::{Entry, Topic, bucket};
use proto::v1::{ServerMessage, server_message::Message};

use crate::{
    invariants::{
        Invariant::{I1, I2, I5, I6, I7, I9},
        Violation, violated,
    },
    replica::Replica,
    store::{self, Contents, NODES},
};

type Result<T> = std::result::Result<T, Violation>;

/// What became visible is what a naive reader of the messages would hold; and the changes that the
/// client names lead there too.
pub(crate) fn follows(
    since: Vec<ServerMessage>,
    committed: &Committed,
    before: &Contents,
    held: &Contents,
) -> Result<()> {
    let mut naive = before.clone();
    let mut parts: BTreeMap<String, Contents> = BTreeMap::new();
    for message in since {
        match message.message {
            Some(Message::Replace(replace)) => {
                let part = parts.entry(replace.topic.clone()).or_default();
                for entry in replace.entries {
                    part.insert((replace.topic.clone(), entry.key), entry.value);
                }
                if replace.last {
                    let kept =
                        |key: &str| replace.bucket.is_some_and(|b| b != u32::from(bucket(key)));
                    naive.retain(|(topic, key), _| *topic != replace.topic || kept(key));
                    naive.extend(parts.remove(&replace.topic).unwrap_or_default());
                }
            }
            Some(Message::Delta(delta)) => {
                for entry in delta.puts {
                    naive.insert((delta.topic.clone(), entry.key), entry.value);
                }
                for key in delta.deletes {
                    naive.remove(&(delta.topic.clone(), key));
                }
            }
            Some(Message::Commit(commit)) => {
                naive.retain(|(topic, _), _| !commit.drop.contains(topic));
            }
            _ => {}
        }
    }
    if let Some(((topic, key), _)) = naive.iter().find(|(key, _)| !held.contains_key(*key)) {
        return violated(I7, format!("{topic} {key:?} went, and nothing said so"));
    }
    if naive != *held {
        let (held, naive) = (show(held), show(&naive));
        return violated(I6, format!("the messages say {naive}, and the agent holds {held}"));
    }
    let mut changed = before.clone();
    for change in &committed.changes {
        let key = (change.topic.to_string(), change.key.to_string());
        match &change.value {
            Some(value) => drop(changed.insert(key, value.clone())),
            None => drop(changed.remove(&key)),
        }
    }
    if changed != *held {
        return violated(I1, format!("the changes lead to {}", show(&changed)));
    }
    Ok(())
}

/// What stays of messages without their Commit when a connection breaks: topics that came whole.
pub(crate) fn came_whole(since: Vec<ServerMessage>) -> Vec<ServerMessage> {
    let mut kept: BTreeMap<String, Vec<ServerMessage>> = BTreeMap::new();
    for message in since {
        let topic = topic(&message).to_owned();
        match &message.message {
            Some(Message::Replace(replace)) if replace.bucket.is_none() => {
                kept.insert(topic, vec![message]);
            }
            Some(Message::Replace(_)) => drop(kept.remove(&topic)),
            Some(Message::Delta(_)) => {
                if let Some(messages) = kept.get_mut(&topic) {
                    messages.push(message);
                }
            }
            Some(Message::Commit(commit)) => kept.retain(|topic, _| !commit.drop.contains(topic)),
            _ => {}
        }
    }
    kept.into_values().flatten().collect()
}

/// Whether a message is of a topic that ever has entries here, or of none.
pub(crate) fn says_something(message: &ServerMessage) -> bool {
    matches!(topic(message).split('/').next(), Some("" | "pools" | "node" | "profile"))
}

/// The topic that a message is of; empty for one that is of none.
pub(crate) fn topic(message: &ServerMessage) -> &str {
    match &message.message {
        Some(Message::Replace(replace)) => &replace.topic,
        Some(Message::Delta(delta)) => &delta.topic,
        _ => "",
    }
}

pub(crate) fn contents(client: &ClientSession) -> Contents {
    let entries = client.entries();
    entries
        .map(|(topic, key, value)| ((topic.to_string(), key.to_string()), value.clone()))
        .collect()
}

pub(crate) fn unchanged(before: &Contents, client: &ClientSession, why: &str) -> Result<()> {
    let held = contents(client);
    if held == *before {
        return Ok(());
    }
    violated(I6, format!("{why} made {} of {}", show(&held), show(before)))
}

/// What a server hands out at once: each topic whole at most once, or frames no longer than it.
pub(crate) fn bounded(messages: &[ServerMessage], replica: &Replica) -> Result<()> {
    let mut replaced = BTreeMap::new();
    let mut frames: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    let size = |key: &str, value: &Bytes| key.len() + value.len();
    for message in messages {
        match &message.message {
            Some(Message::Replace(replace)) if replace.last => {
                *replaced.entry((replace.topic.as_str(), replace.bucket)).or_insert(0) += 1;
            }
            Some(Message::Delta(delta)) => {
                let puts: usize = delta.puts.iter().map(|put| size(&put.key, &put.value)).sum();
                let deletes: usize = delta.deletes.iter().map(String::len).sum();
                frames.entry(&delta.topic).or_default().push(puts + deletes);
            }
            _ => {}
        }
    }
    if let Some(((topic, _), times)) = replaced.iter().find(|(_, times)| **times > 1) {
        return violated(I9, format!("topic {topic} is sent whole {times} times at once"));
    }
    let snapshot = replica.snapshot();
    for (topic, sizes) in frames {
        let state = topic.parse::<Topic>().ok().and_then(|topic| snapshot.topic(&topic).cloned());
        let whole = state.map_or(0, |state| state.entries.iter().map(|(k, v)| size(k, v)).sum());
        let bytes: usize = sizes.iter().sum();
        if replaced.keys().any(|(replaced, _)| *replaced == topic)
            || (sizes.len() > 1 && bytes > whole)
        {
            return violated(I9, format!("{bytes} bytes of frames for {whole} of topic {topic}"));
        }
    }
    Ok(())
}

pub(crate) fn references_resolve(
    node: usize,
    client: &ClientSession,
    held: &Contents,
) -> Result<()> {
    let own = Topic::Node(NODES[node].into());
    for ((topic, key), value) in held.iter().filter(|((topic, _), _)| *topic == own.to_string()) {
        let Ok(Entry::Endpoint(endpoint)) = proto::decode(&own, value, &[]) else { continue };
        for profile in endpoint.profiles {
            let name = Topic::Profile(profile).to_string();
            let there = client.digests().any(|(topic, _)| *topic == name)
                && held.contains_key(&(name.clone(), String::new()));
            if !there {
                return violated(I2, format!("{topic} {key:?} needs {name}, which is not there"));
            }
        }
    }
    Ok(())
}

pub(crate) fn digests_are_the_definitions(client: &ClientSession, held: &Contents) -> Result<()> {
    for (topic, digest) in client.digests() {
        let entries = held.iter().filter(|((of, _), _)| *of == topic.as_str());
        let entries = entries.map(|((_, key), value)| (key.as_str(), value.as_ref()));
        if (digest.sum, digest.count) != store::digest(topic, entries) {
            return violated(I5, format!("the digest of {topic} is not that of the definition"));
        }
    }
    Ok(())
}

pub(crate) fn show(contents: &Contents) -> String {
    let entry = |((topic, key), value): (&(String, String), &Bytes)| {
        let bytes: Vec<_> = value.iter().rev().take(3).collect();
        format!("{topic} {key}={bytes:02x?}")
    };
    format!("{{{}}}", contents.iter().map(entry).collect::<Vec<_>>().join(", "))
}
