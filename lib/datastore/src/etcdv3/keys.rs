//! Calico's etcd paths, both ways.
//!
//! | key | path |
//! |---|---|
//! | `<kind> [ns/]name` | `/calico/resources/v3/projectcalico.org/<plural>/[ns/]name` |
//! | `IPAMBlock 10-0-0-0-26` | `/calico/ipam/v2/assignment/ipv4/block/10.0.0.0-26` |
//! | `IPAMBlock fd00-10--40-122` | `/calico/ipam/v2/assignment/ipv6/block/fd00:10::40-122` |
//! | `BlockAffinity node-1-10-0-0-0-26` | `/calico/ipam/v2/host/node-1/ipv4/block/10.0.0.0-26` |
//! | `BlockAffinity node-1-fd00-0010-…-0040-122` | `/calico/ipam/v2/host/node-1/ipv6/block/fd00:10::40-122` |
//! | `BlockAffinity virtual:load-balancer-10-0-0-0-26` | `/calico/ipam/v2/virtual/load-balancer/ipv4/block/10.0.0.0-26` |
//! | `IPAMHandle <id>` | `/calico/ipam/v2/handle/<id>` |
//! | `IPAMConfiguration default` | `/calico/ipam/v2/config` |
//!
//! Names can be turned back into paths, always. A block's name is its CIDR with dashes, as in Kubernetes; four
//! decimal numbers are IPv4, else the dashes were colons. An affinity's name is the node's, a dash, and the block's;
//! for IPv6 with all eight groups of four digits, because `node-1-fd00--40-122` could belong to `node` or to
//! `node-1`. That of a virtual owner starts with `virtual:`, which no node's name can.
//!
//! A path that wouldn't come back as itself is not ours, as are the copies of address management among the v3
//! resources (an `IPAMConfiguration` there is read by nobody).

use std::net::{Ipv4Addr, Ipv6Addr};

use model::{Key, Kind};

use crate::selection::Selection;

/// Where everything of Calico's is.
pub(crate) const ROOT: &str = "/calico/";
/// Where our own raw keys are.
pub(crate) const OURS: &str = "/bulrush/";

const RESOURCES: &str = "/calico/resources/v3/projectcalico.org/";
const IPAM: &str = "/calico/ipam/v2/";
const BLOCKS: &str = "/calico/ipam/v2/assignment/";
const HANDLES: &str = "/calico/ipam/v2/handle/";
const CONFIG: &str = "/calico/ipam/v2/config";
const VIRTUAL: &str = "virtual:";

/// The path of a key. The error is the reason why it has none.
pub fn path(key: &Key) -> Result<String, &'static str> {
    if key.name.is_empty() {
        return Err("its name is empty");
    }
    match key.kind {
        Kind::IPAMBlock => block_path(&key.name)
            .map(|(family, block)| format!("{BLOCKS}{family}/block/{block}"))
            .ok_or("a block's name is its CIDR with dashes, like 10-0-0-0-26 or fd00--40-122"),
        Kind::BlockAffinity => affinity_path(&key.name)
            .ok_or("an affinity's name is its node, a dash, and its CIDR with dashes, like node-1-10-0-0-0-26"),
        Kind::IPAMHandle => Ok(format!("{HANDLES}{}", key.name)),
        Kind::IPAMConfiguration if key.name == "default" => Ok(CONFIG.to_owned()),
        Kind::IPAMConfiguration => Err("there is one, and its name is default"),
        kind => {
            if key.name.contains('/') || key.namespace.contains('/') {
                return Err("a name can't contain a slash");
            }
            match (kind.is_namespaced(), key.namespace.is_empty()) {
                (true, true) => Err("it needs a namespace"),
                (false, false) => Err("its kind has no namespaces"),
                (true, false) => {
                    Ok(format!("{RESOURCES}{}/{}/{}", kind.plural(), key.namespace, key.name))
                }
                (false, true) => Ok(format!("{RESOURCES}{}/{}", kind.plural(), key.name)),
            }
        }
    }
}

/// The key of a path; none: it isn't one that we know.
pub fn key(path: &[u8]) -> Option<Key> {
    let path = str::from_utf8(path).ok()?;
    let key = if let Some(rest) = path.strip_prefix(RESOURCES) {
        let (plural, rest) = rest.split_once('/')?;
        match (Kind::from_plural(plural)?, rest.split_once('/')) {
            (kind, Some((namespace, name))) => Key::namespaced(kind, namespace, name),
            (kind, None) => Key::global(kind, rest),
        }
    } else if path == CONFIG {
        Key::global(Kind::IPAMConfiguration, "default")
    } else if let Some(id) = path.strip_prefix(HANDLES) {
        Key::global(Kind::IPAMHandle, id)
    } else if let Some(rest) = path.strip_prefix(BLOCKS) {
        let (_, block) = rest.split_once("/block/")?;
        Key::global(Kind::IPAMBlock, dashed(block))
    } else {
        let (owner_kind, rest) = path.strip_prefix(IPAM)?.split_once('/')?;
        let (owner, rest) = rest.split_once('/')?;
        let (family, block) = rest.split_once("/block/")?;
        let prefix = match owner_kind {
            "host" => "",
            "virtual" => VIRTUAL,
            _ => return None,
        };
        let block = if family == "ipv6" { expanded(block)? } else { dashed(block) };
        Key::global(Kind::BlockAffinity, format!("{prefix}{owner}-{block}"))
    };
    (self::path(&key).ok()? == path).then_some(key)
}

/// From the first path, up to but without the second.
pub(crate) type Range = (Vec<u8>, Vec<u8>);

/// One range around all that [`ranges`] gives: a watch has one order only over one range.
pub(crate) fn hull(selection: Selection) -> Range {
    let ranges = ranges(selection);
    match (ranges.first(), ranges.last()) {
        (Some((start, _)), Some((_, end))) => (start.clone(), end.clone()),
        _ => range(ROOT),
    }
}

/// The ranges, in order, that hold the kinds of a selection.
pub(crate) fn ranges(selection: Selection) -> Vec<Range> {
    // Two ranges cover most: between them are the handles, which may be very many.
    let few = 1..=4;
    let mut ranges: Vec<Range> = if few.contains(&selection.kinds().count()) {
        selection.kinds().flat_map(prefixes).map(|prefix| range(&prefix)).collect()
    } else if selection.contains(Kind::IPAMHandle) {
        vec![range(ROOT)]
    } else {
        let (root, handles) = (range(ROOT), range(HANDLES));
        vec![(root.0, handles.0), (handles.1, root.1)]
    };
    ranges.sort_unstable();
    ranges
}

fn prefixes(kind: Kind) -> Vec<String> {
    match kind {
        Kind::IPAMBlock => vec![BLOCKS.to_owned()],
        Kind::BlockAffinity => vec![format!("{IPAM}host/"), format!("{IPAM}virtual/")],
        Kind::IPAMHandle => vec![HANDLES.to_owned()],
        Kind::IPAMConfiguration => vec![CONFIG.to_owned()],
        kind => vec![format!("{RESOURCES}{}/", kind.plural())],
    }
}

/// All paths that start with `prefix`, whose last byte must not be 0xff: none of ours is.
fn range(prefix: &str) -> Range {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    (prefix.into(), end)
}

fn dashed(cidr: &str) -> String {
    cidr.replace(['.', ':'], "-")
}

/// `fd00:10::40-122` with all groups: `fd00-0010-0000-0000-0000-0000-0000-0040-122`.
fn expanded(block: &str) -> Option<String> {
    let (address, length) = block.rsplit_once('-')?;
    let groups = address.parse::<Ipv6Addr>().ok()?.segments();
    Some(format!("{}-{length}", groups.map(|group| format!("{group:04x}")).join("-")))
}

/// Family and path segment of a block's name.
fn block_path(name: &str) -> Option<(&'static str, String)> {
    let (address, length) = name.rsplit_once('-')?;
    let length: u8 = plain_number(length)?;
    let dotted = address.replace('-', ".");
    if dotted.parse::<Ipv4Addr>().is_ok() {
        return (length <= 32).then(|| ("ipv4", format!("{dotted}-{length}")));
    }
    let colons = address.replace('-', ":");
    colons.parse::<Ipv6Addr>().ok()?;
    (length <= 128).then(|| ("ipv6", format!("{colons}-{length}")))
}

fn affinity_path(name: &str) -> Option<String> {
    let (owner_kind, name) = match name.strip_prefix(VIRTUAL) {
        Some(name) => ("virtual", name),
        None => ("host", name),
    };
    let (owner, family, block) = split_affinity(name)?;
    let fits = !owner.is_empty() && !owner.contains('/');
    fits.then(|| format!("{IPAM}{owner_kind}/{owner}/{family}/block/{block}"))
}

/// Owner, family and path segment. IPv4 ends in four short numbers and a length, IPv6 in eight groups of four digits.
fn split_affinity(name: &str) -> Option<(&str, &'static str, String)> {
    let dashes: Vec<usize> = name.rmatch_indices('-').map(|(index, _)| index).take(9).collect();
    if let Some(&dash) = dashes.get(4)
        && let Some(("ipv4", block)) = block_path(&name[dash + 1..])
    {
        return Some((&name[..dash], "ipv4", block));
    }
    let &dash = dashes.get(8)?;
    let groups = &name[dash + 1..];
    let ("ipv6", block) = block_path(groups)? else { return None };
    let (address, length) = block.rsplit_once('-')?;
    let address: Ipv6Addr = address.parse().ok()?;
    let block = format!("{address}-{length}");
    (expanded(&block)? == groups).then_some((&name[..dash], "ipv6", block))
}

/// A number without sign or leading zeros.
fn plain_number(text: &str) -> Option<u8> {
    text.parse().ok().filter(|number: &u8| number.to_string() == text)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn block(name: &str) -> Key {
        Key::global(Kind::IPAMBlock, name)
    }

    fn affinity(name: &str) -> Key {
        Key::global(Kind::BlockAffinity, name)
    }

    #[test]
    fn every_kind_has_its_path_and_comes_back() {
        for (key, expected) in [
            (
                Key::namespaced(Kind::NetworkPolicy, "shop", "web"),
                "/calico/resources/v3/projectcalico.org/networkpolicies/shop/web",
            ),
            (
                Key::global(Kind::Tier, "default"),
                "/calico/resources/v3/projectcalico.org/tiers/default",
            ),
            (block("10-0-0-0-26"), "/calico/ipam/v2/assignment/ipv4/block/10.0.0.0-26"),
            (
                block("fd00-10-244--100-122"),
                "/calico/ipam/v2/assignment/ipv6/block/fd00:10:244::100-122",
            ),
            (block("fd00---122"), "/calico/ipam/v2/assignment/ipv6/block/fd00::-122"),
            (affinity("node-1-10-0-0-0-26"), "/calico/ipam/v2/host/node-1/ipv4/block/10.0.0.0-26"),
            (
                affinity("node-1-10-10-0-0-0-26"),
                "/calico/ipam/v2/host/node-1-10/ipv4/block/10.0.0.0-26",
            ),
            (
                affinity("node-2001-fd00-0010-0244-0000-0000-0000-0000-0100-122"),
                "/calico/ipam/v2/host/node-2001/ipv6/block/fd00:10:244::100-122",
            ),
            (
                affinity("virtual:load-balancer-10-0-0-0-26"),
                "/calico/ipam/v2/virtual/load-balancer/ipv4/block/10.0.0.0-26",
            ),
            (
                affinity("load-balancer-10-0-0-0-26"),
                "/calico/ipam/v2/host/load-balancer/ipv4/block/10.0.0.0-26",
            ),
            (
                Key::global(Kind::IPAMHandle, "k8s-pod-network.0a/1"),
                "/calico/ipam/v2/handle/k8s-pod-network.0a/1",
            ),
            (Key::global(Kind::IPAMConfiguration, "default"), "/calico/ipam/v2/config"),
        ] {
            assert_eq!(path(&key).as_deref(), Ok(expected), "{key}");
            assert_eq!(super::key(expected.as_bytes()), Some(key));
        }
    }

    #[test]
    fn paths_that_are_not_ours_have_no_key() {
        for path in [
            "/calico/",
            "/calico/felix/v1/host/node-1/endpoint/eth0",
            "/calico/ipam/v2/host/node-1",
            "/calico/ipam/v2/host//ipv4/block/10.0.0.0-26",
            "/calico/ipam/v2/host/node-1/ipv4/block/10.0.0-26",
            "/calico/ipam/v2/host/node-1/ipv6/block/fd00:0010::-122",
            "/calico/ipam/v2/assignment/ipv6/block/10.0.0.0-26",
            "/calico/ipam/v2/assignment/ipv4/block/10.0.0.0-026",
            "/calico/ipam/v2/assignment/ipv4/block/10.0.0.0-33",
            "/calico/ipam/v2/assignment/ipv4/block/",
            "/calico/ipam/v2/handle/",
            "/calico/resources/v3/projectcalico.org/tiers/",
            "/calico/resources/v3/projectcalico.org/tiers/a/b",
            "/calico/resources/v3/projectcalico.org/networkpolicies/web",
            "/calico/resources/v3/projectcalico.org/networkpolicies//web",
            "/calico/resources/v3/projectcalico.org/networkpolicies/shop/web/x",
            "/calico/resources/v3/projectcalico.org/gadgets/a",
            "/calico/resources/v3/projectcalico.org/ipamconfigurations/default",
            "/calico/resources/v3/projectcalico.org/ipamblocks/10-0-0-0-26",
            "/registry/pods/default/web",
        ] {
            assert_eq!(key(path.as_bytes()), None, "{path}");
        }
        assert_eq!(key(b"/calico/resources/v3/projectcalico.org/tiers/\xff"), None);
    }

    #[test]
    fn a_key_without_a_place_says_why() {
        for (key, reason) in [
            (Key::global(Kind::NetworkPolicy, "web"), "it needs a namespace"),
            (Key::namespaced(Kind::Tier, "shop", "web"), "its kind has no namespaces"),
            (Key::global(Kind::Tier, ""), "its name is empty"),
            (Key::global(Kind::Tier, "a/b"), "a name can't contain a slash"),
        ] {
            assert_eq!(path(&key), Err(reason));
        }
        assert!(path(&block("10-0-0-26")).is_err());
        assert!(path(&affinity("10-0-0-0-26")).is_err());
    }

    #[test]
    fn the_fan_out_reads_around_the_handles() {
        let ranges = ranges(Selection::fan_out());
        let inside = |path: &str| {
            let path = path.as_bytes();
            ranges.iter().any(|(start, end)| (start.as_slice()..end.as_slice()).contains(&path))
        };
        assert!(inside("/calico/ipam/v2/config"));
        assert!(inside("/calico/ipam/v2/host/node-1/ipv4/block/10.0.0.0-26"));
        assert!(inside("/calico/resources/v3/projectcalico.org/tiers/default"));
        assert!(!inside("/calico/ipam/v2/handle/k8s-pod-network.0a"));
    }

    fn names() -> impl Strategy<Value = Key> {
        // Ends that look like a part of what follows are the hard cases.
        let node = "([a-z0-9]{1,5}[-.]){0,3}(node|n-1|10-0-0|fd00|2001|0a-1|26)";
        let name = "[a-z0-9]([a-z0-9.-]{0,20}[a-z0-9])?";
        let block = prop_oneof![
            (any::<u32>(), 20..=32u8)
                .prop_map(|(bits, length)| format!("{}-{length}", Ipv4Addr::from(bits))),
            (any::<u16>(), 0..3u16, any::<u16>(), 116..=128u8).prop_map(|(a, b, c, length)| {
                format!("{}-{length}", Ipv6Addr::new(0xfd00, a, b, 0, 0, 0, b, c))
            }),
        ];
        let owner = prop_oneof![node.prop_map(String::from), Just("virtual:load-balancer".into())];
        let kinds: Vec<Kind> = Kind::all().collect();
        (proptest::sample::select(kinds), name, name, owner, block).prop_map(
            |(kind, namespace, name, owner, block)| match kind {
                Kind::IPAMBlock => Key::global(kind, dashed(&block)),
                Kind::BlockAffinity if block.contains(':') => {
                    Key::global(kind, format!("{owner}-{}", expanded(&block).unwrap()))
                }
                Kind::BlockAffinity => Key::global(kind, format!("{owner}-{}", dashed(&block))),
                Kind::IPAMConfiguration => Key::global(kind, "default"),
                kind if kind.is_namespaced() => Key::namespaced(kind, namespace, name),
                kind => Key::global(kind, name),
            },
        )
    }

    proptest! {
        #[test]
        fn every_key_comes_back_from_its_path(key in names()) {
            let path = path(&key).expect("a path");
            prop_assert_eq!(super::key(path.as_bytes()), Some(key), "{}", path);
        }
    }
}
