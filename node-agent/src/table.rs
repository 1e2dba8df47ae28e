//! What should be, and where the kernel differs: the memory of every reconciler.

use std::collections::BTreeMap;

/// A desired map, and for the keys where the kernel holds something else, what it holds.
///
/// Both are kept so that a change costs what changed, and so that the kernel's state isn't stored
/// twice: a key that is not in `stale` is in the kernel as desired.
#[derive(Clone, Debug)]
pub(crate) struct Table<K, V> {
    desired: BTreeMap<K, V>,
    stale: BTreeMap<K, Option<V>>,
}

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self { desired: BTreeMap::new(), stale: BTreeMap::new() }
    }
}

/// One key that must change in the kernel.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Pending<'a, K, V> {
    pub(crate) key: &'a K,
    /// What the kernel holds.
    pub(crate) actual: Option<&'a V>,
    /// What it should hold.
    pub(crate) desired: Option<&'a V>,
}

impl<K: Ord + Clone, V: PartialEq + Clone> Table<K, V> {
    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.desired.get(key)
    }

    pub(crate) fn desired(&self) -> &BTreeMap<K, V> {
        &self.desired
    }

    /// Changes what should be.
    pub(crate) fn set(&mut self, key: K, value: Option<V>) {
        let old = self.desired.remove(&key);
        let actual = self.stale.remove(&key).unwrap_or(old);
        if actual != value {
            self.stale.insert(key.clone(), actual);
        }
        self.desired.extend(value.map(|value| (key, value)));
    }

    /// Makes `desired` the whole of what should be.
    pub(crate) fn set_all(&mut self, desired: BTreeMap<K, V>) {
        let gone: Vec<K> =
            self.desired.keys().filter(|key| !desired.contains_key(key)).cloned().collect();
        for key in gone {
            self.set(key, None);
        }
        for (key, value) in desired {
            self.set(key, Some(value));
        }
    }

    /// The keys that must change in the kernel, in order.
    pub(crate) fn pending(&self) -> impl Iterator<Item = Pending<'_, K, V>> {
        self.stale.iter().map(|(key, actual)| Pending {
            key,
            actual: actual.as_ref(),
            desired: self.desired.get(key),
        })
    }

    /// The kernel now holds this key as desired.
    pub(crate) fn written(&mut self, key: &K) {
        self.stale.remove(key);
    }

    /// The kernel now holds every key as desired.
    pub(crate) fn all_written(&mut self) {
        self.stale.clear();
    }

    /// The kernel was seen to hold this; whether that isn't what it should hold.
    pub(crate) fn observe(&mut self, key: K, actual: Option<V>) -> bool {
        let differs = self.desired.get(&key) != actual.as_ref();
        if differs {
            self.stale.insert(key, actual);
        } else {
            self.stale.remove(&key);
        }
        differs
    }

    /// The kernel lost what it held of these.
    pub(crate) fn lost(&mut self, gone: impl Fn(&K, &V) -> bool) {
        let known = |key: &K, desired: &V| match self.stale.get(key) {
            None => gone(key, desired),
            Some(actual) => actual.as_ref().is_some_and(|actual| gone(key, actual)),
        };
        let wanted = self.desired.iter().filter(|(key, value)| known(key, value));
        let wanted: Vec<K> = wanted.map(|(key, _)| key.clone()).collect();
        let desired = &self.desired;
        self.stale.retain(|key, actual| {
            desired.contains_key(key) || !actual.as_ref().is_some_and(|actual| gone(key, actual))
        });
        for key in wanted {
            self.stale.insert(key, None);
        }
    }

    /// The kernel was seen to hold exactly this.
    pub(crate) fn observe_all(&mut self, actual: BTreeMap<K, V>) {
        self.stale.clear();
        for key in self.desired.keys() {
            if !actual.contains_key(key) {
                self.stale.insert(key.clone(), None);
            }
        }
        for (key, value) in actual {
            if self.desired.get(&key) != Some(&value) {
                self.stale.insert(key, Some(value));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    enum Step {
        Set(u8, Option<u8>),
        SetAll(BTreeMap<u8, u8>),
        Tamper(u8, Option<u8>),
        Look(u8),
        Lost(u8),
        LookAll,
        Write(u8),
        WriteAll,
    }

    fn step() -> impl Strategy<Value = Step> {
        let key = 0..6_u8;
        let value = proptest::option::of(0..3_u8);
        prop_oneof![
            (key.clone(), value.clone()).prop_map(|(k, v)| Step::Set(k, v)),
            proptest::collection::btree_map(key.clone(), 0..3_u8, 0..6).prop_map(Step::SetAll),
            (key.clone(), value).prop_map(|(k, v)| Step::Tamper(k, v)),
            key.clone().prop_map(Step::Look),
            Just(Step::LookAll),
            (0..3_u8).prop_map(Step::Lost),
            key.prop_map(Step::Write),
            Just(Step::WriteAll),
        ]
    }

    fn put(map: &mut BTreeMap<u8, u8>, key: u8, value: Option<u8>) {
        match value {
            Some(value) => map.insert(key, value),
            None => map.remove(&key),
        };
    }

    proptest! {
        /// Against two plain maps, the desired one and a kernel that others change too.
        #[test]
        fn what_is_pending_is_where_the_known_kernel_differs(steps in proptest::collection::vec(step(), 0..40)) {
            let mut table = Table::<u8, u8>::default();
            let (mut desired, mut kernel) = (BTreeMap::new(), BTreeMap::new());
            // What the table can know of the kernel.
            let mut known: BTreeMap<u8, u8> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Set(key, value) => {
                        table.set(key, value);
                        put(&mut desired, key, value);
                    }
                    Step::SetAll(all) => {
                        table.set_all(all.clone());
                        desired = all;
                    }
                    Step::Tamper(key, value) => put(&mut kernel, key, value),
                    Step::Look(key) => {
                        table.observe(key, kernel.get(&key).copied());
                        put(&mut known, key, kernel.get(&key).copied());
                    }
                    Step::Lost(value) => {
                        known.retain(|_, v| *v != value);
                        kernel.retain(|_, v| *v != value);
                        table.lost(|_, v| *v == value);
                    }
                    Step::LookAll => {
                        table.observe_all(kernel.clone());
                        known = kernel.clone();
                    }
                    Step::Write(key) => {
                        put(&mut kernel, key, desired.get(&key).copied());
                        put(&mut known, key, desired.get(&key).copied());
                        table.written(&key);
                    }
                    Step::WriteAll => {
                        kernel = desired.clone();
                        known = desired.clone();
                        table.all_written();
                    }
                }
                let pending: Vec<_> = table
                    .pending()
                    .map(|p| (*p.key, p.actual.copied(), p.desired.copied()))
                    .collect();
                let expected: Vec<_> = (0..6_u8)
                    .map(|key| (key, known.get(&key).copied(), desired.get(&key).copied()))
                    .filter(|(_, actual, desired)| actual != desired)
                    .collect();
                prop_assert_eq!(pending, expected);
            }
        }
    }
}
