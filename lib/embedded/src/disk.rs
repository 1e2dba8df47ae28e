//! The data folder: current values, leases, the revision and who we are, in one redb file.
//!
//! A commit is one synced transaction. History isn't kept: after a restart the past is compacted.
//!
//! ```text
//! <data folder>/lock        held while a store runs, with its process id
//! <data folder>/store.redb  keys:   key -> etcd's KeyValue without the key
//!                           leases: id -> granted seconds
//!                           facts:  format, cluster, member, revision, commits
//! ```

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use prost::Message;
use redb::{Database, DatabaseError, ReadableDatabase, ReadableTable, TableDefinition};

use crate::Error;
use crate::owner::Identity;
use crate::store::{KeyValue, Saved, Unsaved};

const KEYS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("keys");
const LEASES: TableDefinition<'_, i64, i64> = TableDefinition::new("leases");
const FACTS: TableDefinition<'_, &str, u64> = TableDefinition::new("facts");
// The facts.
const FORMAT: &str = "format";
const CLUSTER: &str = "cluster";
const MEMBER: &str = "member";
const REVISION: &str = "revision";
/// Counts commits, so that after a failure we know whether the last one came through.
const COMMITS: &str = "commits";

/// The format of the file that this version reads and writes.
const THIS_FORMAT: u64 = 1;
/// All values are in memory anyway; the file's own cache can be small.
const CACHE_BYTES: usize = 16 << 20;

/// What one commit makes durable.
#[derive(Debug, Default)]
pub(crate) struct Commit {
    pub(crate) revision: i64,
    pub(crate) unsaved: Unsaved,
    /// After a failed commit: all that is published, to replace what the file has if it has something else.
    pub(crate) whole: Option<Saved>,
}

/// Why a commit failed. Nothing of it counts.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("the disk is full, a quota is used up, or a limit of the file size is reached: {0}")]
    Full(redb::Error),
    #[error("{0}")]
    Broken(redb::Error),
}

impl<E: Into<redb::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error = error.into();
        match &error {
            redb::Error::Io(io) if is_full(io.kind()) => Self::Full(error),
            _ => Self::Broken(error),
        }
    }
}

fn is_full(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge)
}

/// How the file is opened; tests put a disk there that loses writes.
pub(crate) trait Medium: Send {
    fn open(&self) -> Result<Database, DatabaseError>;
    /// The size of the file in bytes.
    fn size(&self) -> u64;
}

/// The durable side of a store.
pub(crate) struct Disk {
    medium: Box<dyn Medium>,
    /// None after a failure: it has to be opened anew.
    database: Option<Database>,
    /// The number of the last commit that came through.
    commits: u64,
}

impl Disk {
    /// Opens the data folder, or makes it, and returns what it holds.
    pub(crate) fn open(folder: &Path, new: Identity) -> Result<(Self, Identity, Saved), Error> {
        let lock = lock(folder)?;
        let file = Self::file(folder);
        Self::open_medium(Box::new(Folder { file: file.clone(), _lock: lock }), new)
            .map_err(|failure| describe(failure, file))
    }

    /// The file in a data folder.
    pub(crate) fn file(folder: &Path) -> PathBuf {
        folder.join("store.redb")
    }

    fn open_medium(
        medium: Box<dyn Medium>,
        new: Identity,
    ) -> Result<(Self, Identity, Saved), Failure> {
        let database = medium.open()?;
        let mut disk = Self { medium, database: Some(database), commits: 0 };
        let found = disk.load()?;
        if let Some((identity, saved)) = found {
            return Ok((disk, identity, saved));
        }
        let database = disk.database.as_ref().ok_or(redb::Error::DatabaseClosed)?;
        let transaction = database.begin_write()?;
        {
            transaction.open_table(KEYS)?;
            transaction.open_table(LEASES)?;
            let mut facts = transaction.open_table(FACTS)?;
            facts.insert(FORMAT, THIS_FORMAT)?;
            facts.insert(CLUSTER, new.cluster_id)?;
            facts.insert(MEMBER, new.member_id)?;
            facts.insert(REVISION, 1)?;
            facts.insert(COMMITS, 0)?;
        }
        transaction.commit()?;
        Ok((disk, new, Saved { revision: 1, ..Saved::default() }))
    }

    /// Reads everything; none when the file is new.
    fn load(&mut self) -> Result<Option<(Identity, Saved)>, Failure> {
        let database = self.database.as_ref().ok_or(redb::Error::DatabaseClosed)?;
        let transaction = database.begin_read()?;
        let facts = match transaction.open_table(FACTS) {
            Err(redb::TableError::TableDoesNotExist(_)) => return Ok(None),
            facts => facts?,
        };
        let fact = |name: &str| -> Result<u64, Failure> {
            let value = facts.get(name)?.map(|value| value.value());
            value.ok_or_else(|| corrupted(format!("it doesn't say its {name}")))
        };
        let format = fact(FORMAT)?;
        if format != THIS_FORMAT {
            return Err(corrupted(format!(
                "it has format {format}, and this version reads format {THIS_FORMAT}"
            )));
        }
        self.commits = fact(COMMITS)?;
        let mut saved = Saved { revision: fact(REVISION)?.cast_signed(), ..Saved::default() };
        for entry in transaction.open_table(KEYS)?.iter()? {
            let (key, value) = entry?;
            let mut kv = KeyValue::decode(value.value()).map_err(|error| {
                corrupted(format!("the value of key {:?}: {error}", Text(key.value())))
            })?;
            kv.key = key.value().to_vec();
            if kv.mod_revision > saved.revision {
                return Err(corrupted(format!(
                    "key {:?} is newer than the file's revision",
                    Text(&kv.key)
                )));
            }
            saved.keys.push(Arc::new(kv));
        }
        for entry in transaction.open_table(LEASES)?.iter()? {
            let (id, ttl) = entry?;
            saved.leases.push((id.value(), ttl.value()));
        }
        let identity = Identity { cluster_id: fact(CLUSTER)?, member_id: fact(MEMBER)? };
        Ok(Some((identity, saved)))
    }

    /// Makes a commit durable, or fails and leaves the file as it was.
    pub(crate) fn commit(&mut self, commit: &Commit) -> Result<(), Failure> {
        let result = self.try_commit(commit);
        match result {
            Ok(()) => self.commits += 1,
            // Whether it came through, or how far, is seen when the file is opened again.
            Err(_) => self.database = None,
        }
        result
    }

    fn try_commit(&mut self, commit: &Commit) -> Result<(), Failure> {
        let reopened = self.database.is_none();
        let database = match &mut self.database {
            Some(database) => database,
            closed => closed.insert(self.medium.open()?),
        };
        let transaction = database.begin_write()?;
        {
            let mut facts = transaction.open_table(FACTS)?;
            if reopened && facts.get(COMMITS)?.map(|value| value.value()) != Some(self.commits) {
                // A commit came through though we were told otherwise, and was undone: the file follows.
                let whole = commit.whole.as_ref().ok_or(redb::Error::PreviousIo)?;
                replace(&transaction, whole)?;
            }
            let mut keys = transaction.open_table(KEYS)?;
            for (key, value) in &commit.unsaved.keys {
                match value {
                    Some(kv) => drop(keys.insert(key.as_slice(), encode(kv).as_slice())?),
                    None => drop(keys.remove(key.as_slice())?),
                }
            }
            let mut leases = transaction.open_table(LEASES)?;
            for (id, ttl) in &commit.unsaved.leases {
                match ttl {
                    Some(ttl) => drop(leases.insert(id, ttl)?),
                    None => drop(leases.remove(id)?),
                }
            }
            facts.insert(REVISION, commit.revision.cast_unsigned())?;
            facts.insert(COMMITS, self.commits + 1)?;
        }
        transaction.commit()?;
        Ok(())
    }

    /// The size of the file in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.medium.size()
    }
}

fn replace(transaction: &redb::WriteTransaction, whole: &Saved) -> Result<(), Failure> {
    transaction.delete_table(KEYS)?;
    transaction.delete_table(LEASES)?;
    let mut keys = transaction.open_table(KEYS)?;
    for kv in &whole.keys {
        keys.insert(kv.key.as_slice(), encode(kv).as_slice())?;
    }
    let mut leases = transaction.open_table(LEASES)?;
    for (id, ttl) in &whole.leases {
        leases.insert(id, ttl)?;
    }
    Ok(())
}

fn encode(kv: &KeyValue) -> Vec<u8> {
    KeyValue { key: Vec::new(), value: kv.value.clone(), ..*kv }.encode_to_vec()
}

fn corrupted(reason: String) -> Failure {
    Failure::Broken(redb::Error::Corrupted(reason))
}

/// A key as a person reads it.
struct Text<'a>(&'a [u8]);

impl std::fmt::Debug for Text<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

struct Folder {
    file: PathBuf,
    /// Released when dropped.
    _lock: File,
}

impl Medium for Folder {
    fn open(&self) -> Result<Database, DatabaseError> {
        let mut builder = Database::builder();
        // Everything is read anyway; so damage is found now, and not when it is too late.
        builder.set_cache_size(CACHE_BYTES).set_check_integrity_on_open(true).create(&self.file)
    }

    fn size(&self) -> u64 {
        self.file.metadata().map_or(0, |metadata| metadata.len())
    }
}

fn lock(folder: &Path) -> Result<File, Error> {
    let unusable = |error| Error::DataFolder { folder: folder.to_owned(), error };
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(unusable)?;
    let path = folder.join("lock");
    let mut options = OpenOptions::new();
    let mut file =
        options.read(true).write(true).create(true).truncate(false).open(path).map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let _ = file.read_to_string(&mut holder);
            return Err(Error::DataFolderInUse {
                folder: folder.to_owned(),
                process: holder.trim().to_owned(),
            });
        }
        Err(TryLockError::Error(error)) => return Err(unusable(error)),
    }
    // For the message above alone: a full disk is no reason not to start.
    let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(file)
}

fn describe(failure: Failure, file: PathBuf) -> Error {
    match failure {
        Failure::Full(error) => Error::DiskFull { file, error: io::Error::other(error) },
        Failure::Broken(redb::Error::Corrupted(reason)) => Error::Corrupt { file, reason },
        // A foreign file isn't recognised at all.
        Failure::Broken(redb::Error::Io(error)) if error.kind() == ErrorKind::InvalidData => {
            Error::Corrupt { file, reason: error.to_string() }
        }
        Failure::Broken(redb::Error::Io(error)) => Error::DataFile { file, error },
        Failure::Broken(error) => Error::Corrupt { file, reason: error.to_string() },
    }
}

#[cfg(test)]
mod lossy;
#[cfg(test)]
mod tests;
