//! Translated policies allow what their Kubernetes originals allow, and where those are broken,
//! never more.

#![allow(clippy::expect_used, reason = "in a test a panic is a failure with its place")]

mod calico;
mod generate;
#[path = "../golden/mod.rs"]
mod golden;
mod kubernetes;
mod truth;
mod world;

use proptest::prelude::*;

use calico::Cluster;
use kubernetes::{Policies, Reading};
use world::Probe;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn sound_policies_allow_exactly_what_kubernetes_allows(policies in generate::policies(false)) {
        let (cluster, faults) = translated(&policies);
        prop_assert!(faults.is_empty(), "{faults:?}");
        for probe in Probe::all() {
            let wanted = policies.allow(&probe, Reading::Sound);
            prop_assert_eq!(cluster.allows(&probe), wanted, "{:?}", probe);
        }
    }

    #[test]
    fn whatever_is_broken_is_named(policies in generate::policies(true)) {
        let (cluster, faults) = translated(&policies);
        let differs = Probe::all()
            .any(|probe| cluster.allows(&probe) != policies.allow(&probe, Reading::Holds));
        prop_assert!(!differs || !faults.is_empty());
    }
}

proptest! {
    // What would widen is rare: it needs a broken part, and behind it another that decides.
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn broken_policies_allow_no_more_than_under_any_reading(policies in generate::policies(true)) {
        let (cluster, _) = translated(&policies);
        for probe in Probe::all().filter(|probe| cluster.allows(probe)) {
            for reading in [Reading::Holds, Reading::Fails] {
                prop_assert!(policies.allow(&probe, reading), "{:?} as {:?}", probe, reading);
            }
        }
    }
}

/// The policies in the cluster that every probe speaks of.
fn translated(policies: &Policies) -> (Cluster, Vec<String>) {
    let objects = world::manifests().chain(policies.manifests());
    calico::translated(objects)
}
