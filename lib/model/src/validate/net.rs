//! Addresses and networks, read as strictly and as leniently as Calico reads them.

use std::net::IpAddr;

/// An address with a mask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cidr {
    /// The address as it is given.
    pub(super) ip: IpAddr,
    /// The address with its host bits cleared.
    pub(super) network: IpAddr,
    /// The length of the mask, of an IPv4 network even where it is given as IPv6.
    pub(super) ones: u8,
}

/// An address without a zone. IPv4 in IPv6 is IPv4.
pub(super) fn ip(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

impl Cidr {
    /// Reads `address/length`; zeros may lead in the length (Go: `net.ParseCIDR`).
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (address, length) = text.split_once('/')?;
        let given: IpAddr = address.parse().ok()?;
        let length: u8 = super::notation::digits(length)?;
        let network = match given {
            IpAddr::V4(given) => {
                let mask = u32::MAX.checked_shl(32_u32.checked_sub(length.into())?).unwrap_or(0);
                IpAddr::V4((u32::from(given) & mask).into())
            }
            IpAddr::V6(given) => {
                let mask = u128::MAX.checked_shl(128_u32.checked_sub(length.into())?).unwrap_or(0);
                IpAddr::V6((u128::from(given) & mask).into())
            }
        };
        let is_mapped = given.is_ipv6() && network.to_canonical().is_ipv4();
        let ones = if is_mapped { length.saturating_sub(96) } else { length };
        Some(Self { ip: given.to_canonical(), network: network.to_canonical(), ones })
    }

    /// Reads what [`Cidr::parse`] reads, or an address that stands for itself alone.
    pub(super) fn parse_or_ip(text: &str) -> Option<Self> {
        if text.contains('/') {
            return Self::parse(text);
        }
        let ip = ip(text)?;
        Some(Self { ip, network: ip, ones: if ip.is_ipv4() { 32 } else { 128 } })
    }

    /// Reads only the notation that Kubernetes' rules (CEL `cidr()`) read: no leading zeros, no
    /// IPv4 in IPv6.
    pub(super) fn parse_strict(text: &str) -> Option<Self> {
        let (address, length) = text.split_once('/')?;
        let has_leading_zero = length.len() > 1 && length.starts_with('0');
        let is_mapped = address.contains(':') && ip(address)?.is_ipv4();
        Self::parse(text).filter(|_| !has_leading_zero && !is_mapped)
    }

    /// Whether no host bits are set.
    pub(super) fn is_masked(&self) -> bool {
        self.ip == self.network
    }

    pub(super) fn is_ipv4(&self) -> bool {
        self.network.is_ipv4()
    }

    /// The network in its one notation.
    pub(super) fn text(&self) -> String {
        format!("{}/{}", self.network, self.ones)
    }

    /// Whether the address is in it.
    pub(super) fn contains(&self, ip: IpAddr) -> bool {
        match (self.network, ip) {
            (IpAddr::V4(network), IpAddr::V4(ip)) => {
                let shift = 32 - u32::from(self.ones.min(32));
                (u32::from(network) ^ u32::from(ip)).checked_shr(shift).unwrap_or(0) == 0
            }
            (IpAddr::V6(network), IpAddr::V6(ip)) => {
                let shift = 128 - u32::from(self.ones.min(128));
                (u128::from(network) ^ u128::from(ip)).checked_shr(shift).unwrap_or(0) == 0
            }
            _ => false,
        }
    }

    /// Whether they have an address in common.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        self.contains(other.network) || other.contains(self.network)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_read_as_go_reads_them() {
        for (text, written) in [
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("10.0.0.0/08", "10.0.0.0/8"),
            ("FD00:10:0::/64", "fd00:10::/64"),
            ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
            ("::ffff:10.0.0.0/8", "::/8"),
            ("0.0.0.0/0", "0.0.0.0/0"),
            ("::/0", "::/0"),
        ] {
            assert_eq!(Cidr::parse(text).map(|net| net.text()).as_deref(), Some(written), "{text}");
        }
        for text in [
            "10.0.0.1",
            "10.0.0.0/33",
            "10.0.0.0/-1",
            "10.0.0.0/",
            "010.0.0.0/8",
            "::/129",
            "fe80::1%eth0/64",
            "10.0.0.0/24 ",
            "10.0.0/24",
            "",
        ] {
            assert_eq!(Cidr::parse(text), None, "{text}");
        }
    }

    #[test]
    fn networks_that_share_an_address_overlap() {
        let net = |text| Cidr::parse(text).expect("a network");
        assert!(net("169.0.0.0/8").overlaps(&net("169.254.0.0/16")));
        assert!(net("169.254.1.0/24").overlaps(&net("169.254.0.0/16")));
        assert!(!net("169.255.0.0/16").overlaps(&net("169.254.0.0/16")));
        assert!(net("0.0.0.0/0").overlaps(&net("169.254.0.0/16")));
        assert!(!net("::/0").overlaps(&net("169.254.0.0/16")));
    }
}
