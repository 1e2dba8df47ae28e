//! What was written, by an etcd client and known from its answers; and whether a watch told it right.

use std::collections::BTreeMap;

use datastore::WatchEvent;
use etcd_client::{Client, Txn, TxnOp};
use model::{Key, Stored};

/// What a version changed, of the objects that a watch is about.
pub type Changes = BTreeMap<Key, Option<Stored>>;

/// A key, its path in etcd, and the bytes to write (none: delete).
pub type Write = (Option<Key>, String, Option<Vec<u8>>);

/// Writes, and remembers what each version did. Nobody else may write.
pub struct Writer {
    client: Client,
    pub versions: BTreeMap<u64, Changes>,
    pub objects: BTreeMap<Key, (u64, Stored)>,
}

impl Writer {
    pub fn new(client: Client) -> Self {
        Self { client, versions: BTreeMap::new(), objects: BTreeMap::new() }
    }

    /// Carries out the writes as one version, which is returned. Keys that a watch isn't about have no [`Key`].
    pub async fn write(&mut self, writes: Vec<Write>) -> u64 {
        let operations: Vec<TxnOp> = writes
            .iter()
            .map(|(_, path, value)| match value {
                Some(value) => TxnOp::put(path.as_str(), value.clone(), None),
                None => TxnOp::delete(path.as_str(), None),
            })
            .collect();
        let response = self.client.txn(Txn::new().and_then(operations)).await.unwrap();
        let version = u64::try_from(response.header().unwrap().revision()).unwrap();
        let mut changes = Changes::new();
        for (key, _, value) in writes {
            let Some(key) = key else { continue };
            let value = value.map(|bytes| Stored::from_bytes(&bytes));
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
        version
    }

    pub async fn compact(&mut self, version: u64) {
        let version = i64::try_from(version).unwrap();
        self.client.compact(version, None).await.unwrap();
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
