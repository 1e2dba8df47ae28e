//! Bugs that tests plant in the engine, to see that the naive recomputation finds them.
//!
//! Only this crate's own tests turn on the feature `planted`, and an optimised build ignores it.
//! There "is this bug here?" is a constant, and nothing of a bug is left in the program.

/// A bug that can be planted. `tests/planted/README.md` says which check catches it.
#[cfg_attr(
    not(all(feature = "planted", debug_assertions)),
    allow(dead_code, unreachable_pub, reason = "only the crate's tests plant bugs")
)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Planted {
    /// Policies of one order come from the last name to the first.
    TieBreakFlipped,
    /// Policies of one order come by namespace, then by name.
    TieBreakByNamespace,
    /// A policy without an order comes first.
    NoOrderFirst,
    /// Tiers come by name alone.
    TierOrderForgotten,
    /// A tier that doesn't exist comes where its name says.
    MissingTierInOrder,
    /// The end of a tier that doesn't exist passes on.
    MissingTierPasses,
    /// A tier's default action acts in a direction in which it has no policy.
    DefaultWithoutPolicy,
    /// Staged policies are in the lists of endpoints.
    StagedEnforced,
    /// Endpoints have their own labels alone.
    InheritedForgotten,
    /// A profile's label wins over the endpoint's own.
    InheritedWins,
    /// Of several profiles the last one's label counts.
    LastProfileWins,
    /// Endpoints don't hear of new labels of their profile.
    ProfileLabelsStale,
    /// Labels that were changed leave the endpoint in the sets that it was in.
    LeftInSets,
    /// A member goes with the first of those that give it.
    MemberNotCounted,
    /// A need of a node goes with the first of those that have it.
    NeedNotCounted,
    /// Members that others cover are shown.
    CoveredShown,
    /// Members don't come back when what covered them goes.
    CoveredForgotten,
    /// A net of everything is one member.
    NetNotHalved,
    /// A named port is one of any protocol.
    PortOfAnyProtocol,
    /// A selector finds new labels only by the first of the values that it asks for.
    FiledUnderOneValue,
    /// New labels are not held against selectors that may match anything.
    UnlimitedForgotten,
    /// A policy whose selector can't be read selects everything.
    BadSelectorSelectsAll,
    /// Nets that can't be read are forgotten in a rule that allows.
    BadNetsForgotten,
    /// A rule that allows stays where a condition of it can't be kept.
    UnknownForgotten,
    /// A profile that doesn't exist allows.
    MissingProfileAllows,
    /// Host endpoints forward by the policies that aren't for that.
    ForwardWithoutFlag,
    /// Policies before destination NAT act on what leaves, too.
    PreDnatOnEgress,
    /// Before connection tracking the end of a tier denies.
    UntrackedDenies,
    /// When rules name other sets, the node goes on having the old ones.
    OldSetsNeeded,
    /// A pod's successor of the same name is taken for the pod.
    UidForgotten,
    /// An endpoint without an address has no entry.
    PendingForgotten,
    /// What is borrowed looks like a block's own.
    BorrowedForgotten,
    /// A node's own address gets a route when something else claims it.
    HostAddressRouted,
    /// A tunnel's address gets a route within its own node's block.
    TunnelInBlockRouted,
    /// Of several pools with one range the last one counts.
    LastPoolCounts,
    /// Both VXLAN devices of a node have the MAC of the first.
    MacOfOtherFamily,
    /// A node's pod ranges are no blocks.
    PodRangesForgotten,
    /// Where a service is the source its ports count.
    ServicePortsAtSource,
    /// A backend of a service stays when its slice goes.
    SliceLeftBehind,
    /// A node's overrides go to every node.
    OverrideForAll,
    /// A peer whose selector can't be read is every node's.
    BadPeerForAll,
    /// A rule after one that logs isn't looked at.
    LogDecides,
    /// A profile that passes denies.
    ProfilePassDenies,
    /// An engine for one node works out what the others need, too.
    OthersServed,
    /// An engine for one node has no list for labels that only others' endpoints had before.
    LateForLabels,
}

#[cfg(all(feature = "planted", debug_assertions))]
mod planting {
    use std::cell::Cell;

    use super::Planted;

    thread_local! {
        static HERE: Cell<Option<Planted>> = const { Cell::new(None) };
    }

    /// Takes out again what was planted when it is dropped.
    #[derive(Debug)]
    pub struct Guard(());

    impl Drop for Guard {
        fn drop(&mut self) {
            HERE.set(None);
        }
    }

    impl Planted {
        /// Plants the bug for this thread, for as long as the guard lives.
        #[must_use = "the bug is there for as long as the guard lives"]
        pub fn plant(self) -> Guard {
            HERE.set(Some(self));
            Guard(())
        }

        pub(crate) fn is_here(self) -> bool {
            HERE.get() == Some(self)
        }
    }
}

#[cfg(not(all(feature = "planted", debug_assertions)))]
#[allow(clippy::unused_self, reason = "it has the shape of the module that plants")]
mod planting {
    use super::Planted;

    impl Planted {
        pub(crate) const fn is_here(self) -> bool {
            false
        }
    }
}

#[cfg(all(feature = "planted", debug_assertions))]
pub use planting::Guard;
