//! What was written, by a client of the store's own kind and known from its answers; and whether a watch told it right.

use std::collections::BTreeMap;

use datastore::WatchEvent;
use etcd_client::{Client, Txn, TxnOp};
use model::{Key, Stored};

use super::kubernetes::Api;

/// What a version changed, of the objects that a watch is about.
pub type Changes = BTreeMap<Key, Option<Stored>>;

/// A key, its path in etcd, and the bytes to write (none: delete).
pub type Write = (Option<Key>, String, Option<Vec<u8>>);

/// Writes, and remembers what each version did. Nobody else may write.
pub struct Writer {
    client: Raw,
    pub versions: BTreeMap<u64, Changes>,
    pub objects: BTreeMap<Key, (u64, Stored)>,
}

/// A client that shares nothing with the store that is tested.
pub enum Raw {
    Etcd(Box<Client>),
    Kubernetes(Api),
}

impl From<Client> for Raw {
    fn from(client: Client) -> Self {
        Self::Etcd(Box::new(client))
    }
}

impl Writer {
    pub fn new(client: impl Into<Raw>) -> Self {
        Self { client: client.into(), versions: BTreeMap::new(), objects: BTreeMap::new() }
    }

    /// Carries out the writes and returns the last version: etcd makes them one, Kubernetes one each. Keys that a watch
    /// isn't about have no [`Key`]; Kubernetes leaves these out, and what is no JSON.
    pub async fn write(&mut self, writes: Vec<Write>) -> u64 {
        match &mut self.client {
            Raw::Etcd(client) => {
                let operations: Vec<TxnOp> = writes
                    .iter()
                    .map(|(_, path, value)| match value {
                        Some(value) => TxnOp::put(path.as_str(), value.clone(), None),
                        None => TxnOp::delete(path.as_str(), None),
                    })
                    .collect();
                let response = client.txn(Txn::new().and_then(operations)).await.unwrap();
                let version = u64::try_from(response.header().unwrap().revision()).unwrap();
                let written = writes.into_iter().filter_map(|(key, _, value)| {
                    Some((key?, value.map(|bytes| Stored::from_bytes(&bytes))))
                });
                self.note(version, written.collect());
                version
            }
            Raw::Kubernetes(api) => {
                let api = api.clone();
                let mut last = 0;
                for (key, _, value) in writes {
                    let value = value.map(|bytes| Stored::from_bytes(&bytes));
                    let (Some(key), None | Some(Stored::Json(_))) = (key, &value) else { continue };
                    let json = match &value {
                        Some(Stored::Json(json)) => Some(json),
                        _ => None,
                    };
                    if let Some((version, value)) = api.write(&key.name, json).await {
                        self.note(version, vec![(key, value.map(Stored::Json))]);
                        last = version;
                    }
                }
                last
            }
        }
    }

    fn note(&mut self, version: u64, written: Vec<(Key, Option<Stored>)>) {
        let mut changes = Changes::new();
        for (key, value) in written {
            match &value {
                Some(value) => drop(self.objects.insert(key.clone(), (version, value.clone()))),
                None if self.objects.remove(&key).is_none() => continue,
                None => {}
            }
            changes.insert(key, value);
        }
        if !changes.is_empty() {
            self.versions.insert(version, changes);
        }
    }

    pub async fn compact(&mut self, version: u64) {
        let Raw::Etcd(client) = &mut self.client else { panic!("only etcd is compacted by hand") };
        client.compact(i64::try_from(version).unwrap(), None).await.unwrap();
    }
}

/// Whether `events` of a watch from `from` are what was written: in order, each version whole, nothing lost up to the
/// last version told, nothing twice, and no progress ahead of its events.
pub fn check(
    events: &[WatchEvent],
    written: &BTreeMap<u64, Changes>,
    from: u64,
) -> Result<(), String> {
    let mut complete = from;
    for event in events {
        match event {
            WatchEvent::Changes { version, changes } => {
                if *version <= complete {
                    return Err(format!("version {version} after {complete} was complete"));
                }
                if let Some((lost, _)) = written.range(complete + 1..*version).next() {
                    return Err(format!("version {lost} is lost before {version}"));
                }
                let told: Changes =
                    changes.iter().map(|c| (c.key.clone(), c.value.clone())).collect();
                if told.len() != changes.len() {
                    return Err(format!("version {version} has a key twice"));
                }
                if written.get(version) != Some(&told) {
                    return Err(format!("version {version} isn't as written: {told:?}"));
                }
                complete = *version;
            }
            WatchEvent::Progress(version) => {
                if let Some((ahead, _)) =
                    written.iter().find(|(at, _)| **at > complete && *at <= version)
                {
                    return Err(format!("progress {version} is ahead of version {ahead}"));
                }
                complete = complete.max(*version);
            }
            WatchEvent::Open => {}
            other => return Err(format!("unexpected {other:?}")),
        }
    }
    Ok(())
}
