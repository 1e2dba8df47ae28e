//! What was acknowledged is there: after power loss with lost and torn writes, failed syncs, full disks.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::lossy::Lossy;
use super::*;

const IDENTITY: Identity = Identity { cluster_id: 7, member_id: 11 };

/// What the file should hold.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    revision: i64,
    keys: BTreeMap<Vec<u8>, KeyValue>,
    leases: BTreeMap<i64, i64>,
}

impl Model {
    fn of(saved: Saved) -> Self {
        let keys = saved.keys.into_iter().map(|kv| (kv.key.clone(), KeyValue::clone(&kv)));
        Self {
            revision: saved.revision,
            keys: keys.collect(),
            leases: saved.leases.into_iter().collect(),
        }
    }

    fn saved(&self) -> Saved {
        Saved {
            revision: self.revision,
            keys: self.keys.values().cloned().map(Arc::new).collect(),
            leases: self.leases.iter().map(|(id, ttl)| (*id, *ttl)).collect(),
        }
    }

    /// A random commit to some of so many keys, and what is there after it.
    fn change(&self, random: &mut StdRng, keys: u32) -> (Commit, Self) {
        let mut after = self.clone();
        let mut unsaved = Unsaved::default();
        after.revision += 1;
        for _ in 0..random.random_range(1..20) {
            let key = format!("/key/{}", random.random_range(0..keys)).into_bytes();
            if random.random_ratio(1, 4) {
                after.keys.remove(&key);
                unsaved.keys.insert(key, None);
                continue;
            }
            let kv = KeyValue {
                key: key.clone(),
                value: vec![random.random(); random.random_range(0..2000)],
                create_revision: 1,
                mod_revision: after.revision,
                version: random.random_range(1..9),
                lease: random.random_range(-1..3),
            };
            after.keys.insert(key.clone(), kv.clone());
            unsaved.keys.insert(key, Some(Arc::new(kv)));
        }
        let id = random.random_range(-3..3);
        if random.random() {
            after.leases.insert(id, 30);
            unsaved.leases.insert(id, Some(30));
        } else {
            after.leases.remove(&id);
            unsaved.leases.insert(id, None);
        }
        (Commit { revision: after.revision, unsaved, whole: None }, after)
    }
}

fn open(disk: &Lossy) -> (Disk, Model) {
    let (opened, identity, saved) = Disk::open_medium(Box::new(disk.clone()), IDENTITY).unwrap();
    assert_eq!(identity, IDENTITY);
    (opened, Model::of(saved))
}

#[test]
fn power_loss_at_any_moment_loses_no_acknowledged_commit_and_halves_none() {
    for seed in 0..60 {
        let mut random = StdRng::seed_from_u64(seed);
        let lossy = Lossy::default();
        let (mut disk, mut model) = open(&lossy);
        for loss in 0..4 {
            lossy.fail_after(random.random_range(0..120));
            let attempted = loop {
                let (commit, after) = model.change(&mut random, 200);
                match disk.commit(&commit) {
                    Ok(()) => model = after,
                    Err(_) => break after,
                }
            };
            drop(disk);
            lossy.power_loss(&mut random);
            let (reopened, found) = open(&lossy);
            // What was under way may have come through as well, but then all of it.
            assert!(
                found == model || found == attempted,
                "seed {seed}, loss {loss}: {} of {}",
                found.revision,
                model.revision
            );
            (disk, model) = (reopened, found);
        }
    }
}

#[test]
fn a_commit_that_came_through_though_it_failed_is_undone_by_the_next() {
    let mut random = StdRng::seed_from_u64(1);
    let lossy = Lossy::default();
    let (mut disk, mut model) = open(&lossy);
    for _ in 0..5 {
        let (commit, after) = model.change(&mut random, 200);
        disk.commit(&commit).unwrap();
        model = after;
    }
    let (commit, _) = model.change(&mut random, 200);
    lossy.lie_about_next_sync();
    assert!(matches!(disk.commit(&commit), Err(Failure::Broken(_))));

    let (commit, after) = model.change(&mut random, 200);
    disk.commit(&Commit { whole: Some(model.saved()), ..commit }).unwrap();
    drop(disk);
    assert_eq!(open(&lossy).1, after);
}

#[test]
fn a_full_disk_is_told_apart_and_leaves_what_was_there() {
    let mut random = StdRng::seed_from_u64(2);
    let lossy = Lossy::default();
    let (mut disk, mut model) = open(&lossy);
    lossy.limit(Some(lossy.length()));
    // Ever new keys need ever more space.
    let failure = loop {
        let (commit, after) = model.change(&mut random, 1_000_000);
        match disk.commit(&Commit { whole: Some(model.saved()), ..commit }) {
            Ok(()) => model = after,
            Err(failure) => break failure,
        }
    };
    assert!(matches!(failure, Failure::Full(_)), "{failure}");
    assert!(model.revision > 2, "some commits had room");

    lossy.limit(None);
    let (commit, after) = model.change(&mut random, 1_000_000);
    disk.commit(&Commit { whole: Some(model.saved()), ..commit }).unwrap();
    drop(disk);
    assert_eq!(open(&lossy).1, after);
}

#[test]
fn a_flipped_bit_is_found_or_harmless() {
    let mut random = StdRng::seed_from_u64(3);
    let folder = tempfile::tempdir().unwrap();
    let (mut disk, ..) = Disk::open(folder.path(), IDENTITY).unwrap();
    let mut model = Model { revision: 1, ..Model::default() };
    for _ in 0..20 {
        let (commit, after) = model.change(&mut random, 50);
        disk.commit(&commit).unwrap();
        model = after;
    }
    drop(disk);
    let file = Disk::file(folder.path());
    let good = std::fs::read(&file).unwrap();
    let used: Vec<usize> = (0..good.len()).filter(|place| good[*place] != 0).collect();
    let (mut found, mut harmless) = (0, 0);
    for _ in 0..200 {
        let mut bad = good.clone();
        bad[used[random.random_range(0..used.len())]] ^= 1 << random.random_range(0..8);
        std::fs::write(&file, bad).unwrap();
        match Disk::open(folder.path(), IDENTITY) {
            Ok((_, identity, saved)) => {
                assert_eq!((identity, Model::of(saved)), (IDENTITY, model.clone()));
                harmless += 1;
            }
            Err(error) => {
                assert!(matches!(error, Error::Corrupt { .. }), "{error}");
                found += 1;
            }
        }
    }
    // Most of the file's pages were replaced and aren't in use.
    assert!(found > 10 && harmless > 10, "{found} found, {harmless} harmless");
}
