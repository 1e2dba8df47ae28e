//! Which kinds a list or a watch is about.

use std::fmt;

use model::Kind;

/// A set of kinds.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Selection(u64);

// One bit per kind.
const _: () = assert!((Kind::EndpointSlice as usize) < 64);

impl Selection {
    /// Every kind.
    pub fn everything() -> Self {
        Self::of(Kind::all().chain(Kind::derived()))
    }

    /// What a fan-out server follows: everything but the handles of address management, which are as many as the
    /// pods, change with each of them, and say nothing that an agent needs.
    pub fn fan_out() -> Self {
        Self::of(Self::everything().kinds().filter(|kind| *kind != Kind::IPAMHandle))
    }

    /// Just these kinds.
    pub fn of(kinds: impl IntoIterator<Item = Kind>) -> Self {
        Self(kinds.into_iter().fold(0, |set, kind| set | 1 << kind as u64))
    }

    /// Whether `kind` belongs to it.
    pub fn contains(self, kind: Kind) -> bool {
        self.0 & 1 << kind as u64 != 0
    }

    /// Its kinds, in the order of their names, derived ones last.
    pub fn kinds(self) -> impl Iterator<Item = Kind> {
        Kind::all().chain(Kind::derived()).filter(move |kind| self.contains(*kind))
    }
}

impl From<Kind> for Selection {
    fn from(kind: Kind) -> Self {
        Self::of([kind])
    }
}

impl fmt::Debug for Selection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.kinds()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fan_out_leaves_the_handles_out() {
        let missing: Vec<Kind> =
            Kind::all().filter(|kind| !Selection::fan_out().contains(*kind)).collect();
        assert_eq!(missing, [Kind::IPAMHandle]);
        assert_eq!(Selection::from(Kind::Tier).kinds().collect::<Vec<_>>(), [Kind::Tier]);
    }
}
