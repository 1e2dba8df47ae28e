//! The two IP versions: every reconciler runs the same code once per family.

use std::{fmt, net::IpAddr};

use ipnet::IpNet;

/// An IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, IPv4 first.
    pub const ALL: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The family of a network.
    pub fn of_net(net: IpNet) -> Self {
        Self::of(net.addr())
    }

    /// 4 or 6.
    pub fn version(self) -> u8 {
        match self {
            Self::V4 => 4,
            Self::V6 => 6,
        }
    }

    /// The name of the VXLAN device (Calico's names, so that either agent takes over the other's).
    pub fn vxlan_device(self) -> &'static str {
        match self {
            Self::V4 => "vxlan.calico",
            Self::V6 => "vxlan-v6.calico",
        }
    }

    /// The protocol number of its ICMP.
    pub fn icmp(self) -> u8 {
        match self {
            Self::V4 => 1,
            Self::V6 => 58,
        }
    }
}

/// As nftables spells it: `ip`, `ip6`.
impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        })
    }
}

/// Whether a network is one address.
pub(crate) fn is_host(net: IpNet) -> bool {
    net.prefix_len() == net.max_prefix_len()
}
