//! Address pools and blocks, as far as the calculation reads them.

use std::net::IpAddr;

use arcstr::ArcStr;
use ipnet::IpNet;
use serde_json::Value;

use super::{Invalid, net, read::Fields};
use crate::view::EncapMode;

/// `IPPool`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IPPool {
    /// Host bits cleared.
    pub cidr: IpNet,
    /// Prefix length of its blocks; the default is 26, for IPv6 122.
    pub block_size: u8,
    /// IP-in-IP.
    pub ipip: EncapMode,
    /// VXLAN.
    pub vxlan: EncapMode,
    /// Traffic that leaves all pools takes the node's address.
    pub nat_outgoing: bool,
    /// No new addresses from it.
    pub disabled: bool,
    /// Not announced by BGP.
    pub disable_bgp_export: bool,
    /// Which nodes may take addresses from it; empty: all.
    pub node_selector: ArcStr,
    /// Which namespaces' pods may take addresses from it; empty: all.
    pub namespace_selector: ArcStr,
    /// `Workload`, `Tunnel`, `LoadBalancer`; empty: workloads and tunnels.
    pub allowed_uses: Vec<ArcStr>,
    /// `Automatic` or `Manual`; empty: automatic.
    pub assignment_mode: ArcStr,
}

impl IPPool {
    /// Only for load balancers: it gives no routes an encapsulation.
    pub fn is_load_balancer_only(&self) -> bool {
        self.allowed_uses.len() == 1 && self.allowed_uses[0] == "LoadBalancer"
    }

    pub(super) fn read(spec: Fields<'_>, faults: &mut Vec<Invalid>) -> Result<Self, Invalid> {
        let cidr = cidr(spec)?;
        let (default, min, max) =
            if cidr.addr().is_ipv6() { (122, 116, 128) } else { (26, 20, 32) };
        let mut ok = Lenient { faults };
        Ok(Self {
            cidr,
            block_size: ok.or_default(spec.int("blockSize", min, max)).unwrap_or(default),
            ipip: ok.encap(spec, "ipipMode"),
            vxlan: ok.encap(spec, "vxlanMode"),
            nat_outgoing: ok.or_default(spec.flag("natOutgoing")).unwrap_or(false),
            disabled: ok.or_default(spec.flag("disabled")).unwrap_or(false),
            disable_bgp_export: ok.or_default(spec.flag("disableBGPExport")).unwrap_or(false),
            node_selector: ok.or_default(spec.text("nodeSelector")),
            namespace_selector: ok.or_default(spec.text("namespaceSelector")),
            allowed_uses: ok.or_default(spec.texts("allowedUses")),
            assignment_mode: ok.or_default(spec.text("assignmentMode")),
        })
    }
}

/// Reads parts that fall back to their default when they can't be read.
struct Lenient<'f> {
    faults: &'f mut Vec<Invalid>,
}

impl Lenient<'_> {
    fn or_default<T: Default>(&mut self, result: Result<T, Invalid>) -> T {
        result.unwrap_or_else(|fault| {
            self.faults.push(fault);
            T::default()
        })
    }

    /// Only the exact spelling counts, as in Calico.
    fn encap<'a>(&mut self, spec: Fields<'a>, name: &'a str) -> EncapMode {
        match self.or_default(spec.str(name)) {
            "Always" => EncapMode::Always,
            "CrossSubnet" => EncapMode::CrossSubnet,
            "" | "Never" => EncapMode::Never,
            other => {
                self.faults.push(
                    spec.path(name)
                        .invalid(&Value::from(other), "must be Never, Always or CrossSubnet"),
                );
                EncapMode::Never
            }
        }
    }
}

/// A CIDR that must be there; host bits are cleared.
fn cidr(fields: Fields<'_>) -> Result<IpNet, Invalid> {
    let text = fields.str("cidr")?;
    let net = if text.contains('/') { net::parse_net(text) } else { None };
    net.map(|net| net.trunc()).ok_or_else(|| {
        fields.path("cidr").invalid(&Value::from(text), "must be a CIDR such as 10.0.0.0/16")
    })
}

/// Whose block it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Affinity {
    /// A node's: `host:<node>`.
    Host(ArcStr),
    /// Of something without a node, such as `virtual:load-balancer`.
    Virtual(ArcStr),
}

/// What is known about the holder of an address.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Attribute {
    /// Empty: none.
    pub handle: ArcStr,
    /// The node that holds the address; empty: unknown.
    pub node: ArcStr,
}

/// `IPAMBlock`. What of it can be read is kept: a wrong length, an index out of range and a bad
/// attribute cost only the positions that they touch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IPAMBlock {
    /// The value's range counts, not the key's.
    pub cidr: IpNet,
    /// None: the block belongs to nobody.
    pub affinity: Option<Affinity>,
    /// Per position the index of its holder in `attributes`, always in range; none: free.
    pub allocations: Vec<Option<u32>>,
    /// Holders, shared by their addresses.
    pub attributes: Vec<Attribute>,
}

impl IPAMBlock {
    /// `kubernetes`: in the form of the custom resource, where `deleted` marks a block that is
    /// gone. In etcd the field is there too, and ignored, as in Calico.
    pub(super) fn read(
        block: Fields<'_>,
        kubernetes: bool,
        faults: &mut Vec<Invalid>,
    ) -> Result<Self, Invalid> {
        let cidr = cidr(block)?;
        if kubernetes && block.flag("deleted")? == Some(true) {
            return Err(block.path("deleted").missing("the block is marked as deleted"));
        }
        let affinity = Self::read_affinity(block, faults);
        let attributes_path = block.path("attributes");
        let mut attributes = Vec::new();
        for (index, value) in or_fault(block.list("attributes"), faults).iter().enumerate() {
            let path = attributes_path.index(index);
            let read = Fields::of(&path, Some(value)).and_then(|attribute| {
                let path = attribute.path("secondary");
                let node = attribute.child(&path)?.text("node")?;
                Ok(Attribute { handle: attribute.text("handle_id")?, node })
            });
            attributes.push(or_fault(read, faults));
        }
        let path = block.path("allocations");
        let mut allocations = Vec::new();
        let list = or_fault(block.list("allocations"), faults);
        let size = size(cidr);
        if list.len() as u128 != size {
            faults.push(path.missing(format!(
                "has {} positions, but the range has {size}: the others count as free",
                list.len()
            )));
        }
        for (index, value) in list.iter().enumerate().take_while(|(i, _)| (*i as u128) < size) {
            let slot = value.as_u64().filter(|slot| *slot < attributes.len() as u64);
            if slot.is_none() && !value.is_null() {
                let rule = "must be null or the index of an attribute: counted as free";
                faults.push(path.index(index).invalid(value, rule));
            }
            allocations.push(slot.map(|slot| slot as u32));
        }
        Ok(Self { cidr, affinity, allocations, attributes })
    }

    fn read_affinity(block: Fields<'_>, faults: &mut Vec<Invalid>) -> Option<Affinity> {
        let text = or_fault(block.str("affinity"), faults);
        match text.split_once(':') {
            Some(("host", node)) if !node.is_empty() => Some(Affinity::Host(node.into())),
            Some(("virtual", name)) if !name.is_empty() => Some(Affinity::Virtual(name.into())),
            _ if text.is_empty() || text == "host:" => None,
            _ => {
                faults.push(
                    block
                        .path("affinity")
                        .invalid(&Value::from(text), "must be host:<node> or virtual:<name>"),
                );
                None
            }
        }
    }

    /// The address at a position; none beyond the end.
    pub fn address(&self, position: usize) -> Option<IpAddr> {
        if position as u128 >= size(self.cidr) {
            return None;
        }
        Some(match self.cidr.network() {
            IpAddr::V4(base) => IpAddr::V4((u32::from(base) + position as u32).into()),
            IpAddr::V6(base) => IpAddr::V6((u128::from(base) + position as u128).into()),
        })
    }

    /// Addresses in use, with who holds them.
    pub fn holders(&self) -> impl Iterator<Item = (IpAddr, &Attribute)> {
        self.allocations.iter().enumerate().filter_map(|(position, slot)| {
            Some((self.address(position)?, self.attributes.get((*slot)? as usize)?))
        })
    }
}

fn or_fault<T: Default>(result: Result<T, Invalid>, faults: &mut Vec<Invalid>) -> T {
    Lenient { faults }.or_default(result)
}

/// How many addresses a CIDR has; the whole of IPv6 counts as one less.
fn size(cidr: IpNet) -> u128 {
    1u128.checked_shl(u32::from(cidr.max_prefix_len() - cidr.prefix_len())).unwrap_or(u128::MAX)
}
