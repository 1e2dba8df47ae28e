//! A disk for tests: it keeps what was synced, and of the rest only what chance lets through.

use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::Rng;
use rand::rngs::StdRng;
use redb::{Database, DatabaseError, StorageBackend};

use super::Medium;

/// Disks write sectors whole, or not at all.
const SECTOR: usize = 512;

#[derive(Debug)]
enum Effect {
    Write(usize, Vec<u8>),
    Resize(usize),
}

impl Effect {
    fn apply(&self, image: &mut Vec<u8>) {
        match self {
            Self::Write(offset, data) => {
                let end = offset + data.len();
                image.resize(image.len().max(end), 0);
                image[*offset..end].copy_from_slice(data);
            }
            Self::Resize(length) => image.resize(*length, 0),
        }
    }
}

#[derive(Debug, Default)]
struct State {
    /// What a program that runs on sees.
    seen: Vec<u8>,
    synced: Vec<u8>,
    /// Since the last sync.
    pending: Vec<Effect>,
    /// Each opening of the file is a new one; the old ones reach nothing any more.
    opening: u32,
    /// After so many more effects and syncs, everything fails.
    fails_after: Option<u32>,
    /// The next sync does its work and then fails.
    sync_lies: bool,
    /// The file can't grow beyond.
    limit: Option<usize>,
}

/// The disk; a clone is the same one.
#[derive(Clone, Debug, Default)]
pub(super) struct Lossy(Arc<Mutex<State>>);

#[derive(Debug)]
struct Backend {
    disk: Lossy,
    opening: u32,
}

impl Lossy {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn fail_after(&self, effects: u32) {
        self.state().fails_after = Some(effects);
    }

    pub(super) fn lie_about_next_sync(&self) {
        self.state().sync_lies = true;
    }

    pub(super) fn limit(&self, bytes: Option<usize>) {
        self.state().limit = bytes;
    }

    pub(super) fn length(&self) -> usize {
        self.state().seen.len()
    }

    /// The power goes, and comes back: of what wasn't synced, any part is there, some of it torn.
    pub(super) fn power_loss(&self, random: &mut StdRng) {
        let mut state = self.state();
        let mut image = std::mem::take(&mut state.synced);
        for mut effect in std::mem::take(&mut state.pending) {
            if random.random_ratio(1, 3) {
                continue;
            }
            if let Effect::Write(_, data) = &mut effect
                && random.random_ratio(1, 3)
            {
                data.truncate(random.random_range(0..=data.len() / SECTOR) * SECTOR);
            }
            effect.apply(&mut image);
        }
        *state = State {
            seen: image.clone(),
            synced: image,
            opening: state.opening + 1,
            ..State::default()
        };
    }
}

impl Medium for Lossy {
    fn open(&self) -> Result<Database, DatabaseError> {
        let opening = {
            let mut state = self.state();
            state.opening += 1;
            state.opening
        };
        let backend = Backend { disk: self.clone(), opening };
        Database::builder().set_check_integrity_on_open(true).create_with_backend(backend)
    }

    fn size(&self) -> u64 {
        self.state().seen.len() as u64
    }
}

impl Backend {
    /// The state, unless the disk fails or the file was opened anew since.
    fn state(&self, counts: bool) -> io::Result<MutexGuard<'_, State>> {
        let mut state = self.disk.state();
        if state.opening != self.opening {
            return Err(io::Error::other("a file of the past"));
        }
        if counts && let Some(left) = &mut state.fails_after {
            *left = left.checked_sub(1).ok_or_else(|| io::Error::other("no power"))?;
        }
        Ok(state)
    }

    fn take(&self, effect: Effect) -> io::Result<()> {
        let mut state = self.state(true)?;
        let end = match &effect {
            Effect::Write(offset, data) => offset + data.len(),
            Effect::Resize(length) => *length,
        };
        if state.limit.is_some_and(|limit| end > limit) && end > state.seen.len() {
            return Err(ErrorKind::StorageFull.into());
        }
        effect.apply(&mut state.seen);
        state.pending.push(effect);
        Ok(())
    }
}

impl StorageBackend for Backend {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state(false)?.seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let state = self.state(false)?;
        let data = state.seen.get(offset..offset + out.len()).ok_or(ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(data);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.take(Effect::Resize(usize::try_from(length).map_err(io::Error::other)?))
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.state(true)?;
        state.synced = state.seen.clone();
        state.pending.clear();
        if std::mem::take(&mut state.sync_lies) {
            return Err(io::Error::other("synced, but who knows"));
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.take(Effect::Write(usize::try_from(offset).map_err(io::Error::other)?, data.to_vec()))
    }
}
