//! Leases: how long they last, and which keys go with them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::Refusal;

/// The longest lease that etcd grants, in seconds.
pub const MAX_LEASE_SECONDS: i64 = 9_000_000_000;
/// The shortest: what etcd's default election timeout makes of a shorter wish.
pub const MIN_LEASE_SECONDS: i64 = 2;

/// One lease.
#[derive(Clone, Debug)]
pub(crate) struct Lease {
    /// Granted, in seconds.
    pub(crate) ttl: i64,
    pub(crate) expiry: Instant,
    pub(crate) keys: BTreeSet<Vec<u8>>,
}

/// All leases. Grants and revocations can be taken back until they are settled.
#[derive(Debug, Default)]
pub(crate) struct Leases {
    by_id: BTreeMap<i64, Lease>,
    by_expiry: BTreeSet<(Instant, i64)>,
    /// What each grant and revocation replaced, oldest first.
    undo: VecDeque<(i64, Option<Lease>)>,
}

impl Leases {
    pub(crate) fn get(&self, id: i64) -> Option<&Lease> {
        self.by_id.get(&id)
    }

    /// The ids, the first to expire first.
    pub(crate) fn ids(&self) -> impl Iterator<Item = i64> {
        self.by_expiry.iter().map(|(_, id)| *id)
    }

    /// Grants a lease and returns its time to live in seconds.
    pub(crate) fn grant(&mut self, id: i64, ttl: i64, now: Instant) -> Result<i64, Refusal> {
        if id == 0 {
            // It stands for no lease.
            return Err(Refusal::LeaseNotFound);
        }
        if ttl > MAX_LEASE_SECONDS {
            return Err(Refusal::LeaseTooLong);
        }
        if self.by_id.contains_key(&id) {
            return Err(Refusal::LeaseExists);
        }
        let ttl = ttl.max(MIN_LEASE_SECONDS);
        self.undo.push_back((id, None));
        self.insert(id, Lease { ttl, expiry: after(now, ttl), keys: BTreeSet::new() });
        Ok(ttl)
    }

    /// Ends a lease and returns its keys, sorted.
    pub(crate) fn revoke(&mut self, id: i64) -> Result<BTreeSet<Vec<u8>>, Refusal> {
        let lease = self.remove(id).ok_or(Refusal::LeaseNotFound)?;
        let keys = lease.keys.clone();
        self.undo.push_back((id, Some(lease)));
        Ok(keys)
    }

    /// Starts the time of a lease anew; none when it doesn't exist or is over.
    pub(crate) fn renew(&mut self, id: i64, now: Instant) -> Option<i64> {
        let lease = self.by_id.get_mut(&id).filter(|lease| lease.expiry > now)?;
        self.by_expiry.remove(&(lease.expiry, id));
        lease.expiry = after(now, lease.ttl);
        self.by_expiry.insert((lease.expiry, id));
        Some(lease.ttl)
    }

    /// Moves a key from the lease that it had to the one that it has now (0: none).
    pub(crate) fn attach(&mut self, key: &[u8], before: i64, after: i64) {
        if before == after {
            return;
        }
        if let Some(lease) = self.by_id.get_mut(&before) {
            lease.keys.remove(key);
        }
        if let Some(lease) = self.by_id.get_mut(&after) {
            lease.keys.insert(key.to_vec());
        }
    }

    /// The first lease that is over at `now`.
    pub(crate) fn over(&self, now: Instant) -> Option<i64> {
        self.by_expiry.first().filter(|(expiry, _)| *expiry <= now).map(|(_, id)| *id)
    }

    /// When the next lease is over.
    pub(crate) fn next_expiry(&self) -> Option<Instant> {
        self.by_expiry.first().map(|(expiry, _)| *expiry)
    }

    /// How many grants and revocations can still be taken back.
    pub(crate) fn unsettled(&self) -> usize {
        self.undo.len()
    }

    /// The first `count` grants and revocations are for good.
    pub(crate) fn settle(&mut self, count: usize) {
        self.undo.drain(..count.min(self.undo.len()));
    }

    /// Takes back all grants and revocations that aren't settled. Keys that changed since have to be attached anew.
    pub(crate) fn roll_back(&mut self) {
        while let Some((id, before)) = self.undo.pop_back() {
            self.remove(id);
            if let Some(lease) = before {
                self.insert(id, lease);
            }
        }
    }

    /// Attaches `key` to lease `id` alone (0: none), whatever was before.
    pub(crate) fn reattach(&mut self, key: &[u8], id: i64) {
        for lease in self.by_id.values_mut() {
            lease.keys.remove(key);
        }
        self.attach(key, 0, id);
    }

    /// Puts a lease in that was granted before a restart.
    pub(crate) fn restore(&mut self, id: i64, ttl: i64, now: Instant) {
        self.insert(id, Lease { ttl, expiry: after(now, ttl), keys: BTreeSet::new() });
    }

    fn insert(&mut self, id: i64, lease: Lease) {
        self.by_expiry.insert((lease.expiry, id));
        self.by_id.insert(id, lease);
    }

    fn remove(&mut self, id: i64) -> Option<Lease> {
        let lease = self.by_id.remove(&id)?;
        self.by_expiry.remove(&(lease.expiry, id));
        Some(lease)
    }
}

fn after(now: Instant, seconds: i64) -> Instant {
    now + Duration::from_secs(seconds.clamp(MIN_LEASE_SECONDS, MAX_LEASE_SECONDS).unsigned_abs())
}
