//! What people call the kinds.

use model::Kind;

/// Names that calicoctl takes beside a kind's own name and its plural (Calico: `resourcemgr`).
const ALIASES: &[(Kind, &[&str])] = &[
    (Kind::BGPConfiguration, &["bgpconfig", "bgpconfigs"]),
    (Kind::BGPFilter, &["bgpf", "bgpfs", "bf", "bfs"]),
    (Kind::BGPPeer, &["bgpp", "bgpps", "bp", "bps"]),
    (Kind::CalicoNodeStatus, &["nodestatus", "nodestatuses"]),
    (Kind::ClusterInformation, &["clusterinfo", "clusterinfos"]),
    (Kind::FelixConfiguration, &["felixconfig", "felixconfigs"]),
    (Kind::GlobalNetworkPolicy, &["gnp", "gnps"]),
    (Kind::GlobalNetworkSet, &["gnetsets"]),
    (Kind::HostEndpoint, &["hep", "heps"]),
    (Kind::IPAMConfiguration, &["ipamconfig", "ipamconfigs"]),
    (Kind::IPPool, &["ipp", "ipps", "pool", "pools"]),
    (Kind::IPReservation, &["reservation", "reservations"]),
    (Kind::KubeControllersConfiguration, &["kubecontrollersconfig", "kubecontrollersconfigs"]),
    (Kind::NetworkPolicy, &["np", "policy", "policies", "pol", "pols"]),
    (Kind::NetworkSet, &["netsets"]),
    (Kind::Node, &["no", "nos"]),
    (Kind::Profile, &["pro", "pros"]),
    (
        Kind::StagedGlobalNetworkPolicy,
        &["stagedglobalpolicy", "stagedglobalpolicies", "sgnp", "sgnps"],
    ),
    (
        Kind::StagedKubernetesNetworkPolicy,
        &["stagedkubernetespolicy", "stagedkubernetespolicies", "sknp", "skpol", "skpols"],
    ),
    (Kind::StagedNetworkPolicy, &["stagedpolicy", "stagedpolicies", "snp", "spol", "spols"]),
    (Kind::WorkloadEndpoint, &["wep", "weps"]),
];

/// What people also ask for, and what `kubectl` is for.
const OF_KUBERNETES: &[&str] = &[
    "pod",
    "po",
    "namespace",
    "ns",
    "service",
    "svc",
    "serviceaccount",
    "sa",
    "deployment",
    "deploy",
    "daemonset",
    "ds",
    "secret",
    "configmap",
    "cm",
    "event",
    "endpointslice",
];

/// Whether this names a kind of Kubernetes' own, in any case, one or many.
pub(crate) fn is_of_kubernetes(text: &str) -> bool {
    let typed = text.to_lowercase();
    OF_KUBERNETES.iter().any(|kind| typed == *kind || typed.strip_suffix('s') == Some(kind))
}

/// The kind that someone typed: its name, plural or an alias, in any case.
pub(crate) fn parse(text: &str) -> Result<Kind, String> {
    let typed = text.to_lowercase();
    let mut names =
        Kind::all()
            .flat_map(|kind| [(kind.name().to_lowercase(), kind), (kind.plural().to_owned(), kind)])
            .chain(ALIASES.iter().flat_map(|(kind, aliases)| {
                aliases.iter().map(|alias| ((*alias).to_owned(), *kind))
            }))
            .collect::<Vec<_>>();
    if let Some((_, kind)) = names.iter().find(|(name, _)| *name == typed) {
        return Ok(*kind);
    }
    if is_of_kubernetes(text) {
        return Err(format!("{text:?} is Kubernetes' own: kubectl get {typed}"));
    }
    names.sort();
    let all: Vec<_> = Kind::all().map(|kind| kind.name().to_lowercase()).collect();
    Err(match nearest(&typed, names.iter().map(|(name, _)| name.as_str())) {
        Some(near) => format!("resource type {text:?} is unknown; did you mean {near:?}?"),
        None => format!("resource type {text:?} is unknown; there are {}", all.join(", ")),
    })
}

/// Whether the address management alone writes this kind, so that a person's write would only
/// do harm.
pub(crate) fn is_of_ipam(kind: Kind) -> bool {
    matches!(kind, Kind::BlockAffinity | Kind::IPAMBlock | Kind::IPAMHandle)
}

/// The most similar of these names, if one is similar enough to be what was meant.
pub(crate) fn nearest<'a>(text: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    names
        .into_iter()
        .map(|name| (strsim::jaro_winkler(&text.to_lowercase(), &name.to_lowercase()), name))
        .filter(|(similarity, _)| *similarity > 0.8)
        .max_by(|(a, _), (b, _)| a.total_cmp(b))
        .map(|(_, name)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_known_by_every_name_in_any_case() {
        for text in ["ippool", "IPPools", "pool", "IPP", "iPpOoL"] {
            assert_eq!(parse(text), Ok(Kind::IPPool), "{text}");
        }
        for kind in Kind::all() {
            assert_eq!(parse(kind.name()), Ok(kind));
            assert_eq!(parse(kind.plural()), Ok(kind));
        }
    }

    #[test]
    fn no_two_kinds_share_a_name() {
        for (kind, aliases) in ALIASES {
            for alias in *aliases {
                assert_eq!(parse(alias), Ok(*kind), "{alias}");
            }
        }
    }

    #[test]
    fn a_mistyped_kind_gets_the_nearest_name() {
        assert_eq!(
            parse("ippol"),
            Err(r#"resource type "ippol" is unknown; did you mean "ippool"?"#.to_owned())
        );
        assert_eq!(parse("Pods"), Err(r#""Pods" is Kubernetes' own: kubectl get pods"#.to_owned()));
        assert!(parse("xyz").unwrap_err().contains("there are bgpconfiguration, "));
    }
}
