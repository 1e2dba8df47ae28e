//! Addresses and CIDRs as Calico reads them.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

/// Reads an address. One that maps an IPv4 address into IPv6 is that IPv4 address.
pub fn parse_ip(text: &str) -> Option<IpAddr> {
    text.parse::<IpAddr>().ok().map(|ip| ip.to_canonical())
}

/// Reads a CIDR, or an address as the CIDR that holds only it. Host bits stay; [`IpNet::trunc`]
/// clears them. Mapped IPv4 turns into IPv4 where the prefix covers the mapping.
pub fn parse_net(text: &str) -> Option<IpNet> {
    let Some((address, prefix)) = text.split_once('/') else {
        return parse_ip(text).map(IpNet::from);
    };
    // As in Go: digits only, leading zeros are fine.
    if prefix.is_empty() || !prefix.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let prefix = prefix.parse::<u8>().ok()?;
    let address = address.parse::<IpAddr>().ok()?;
    if let (IpAddr::V6(v6), Some(short)) = (address, prefix.checked_sub(96))
        && let Some(v4) = v6.to_ipv4_mapped()
    {
        return Ipv4Net::new(v4, short).ok().map(IpNet::V4);
    }
    IpNet::new(address, prefix).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nets_are_read_with_and_without_a_prefix() {
        let read = |text| parse_net(text).map(|net| net.to_string());
        assert_eq!(read("10.1.2.3/8").as_deref(), Some("10.1.2.3/8"));
        assert_eq!(read("10.1.2.3/08").as_deref(), Some("10.1.2.3/8"));
        assert_eq!(read("10.1.2.3").as_deref(), Some("10.1.2.3/32"));
        assert_eq!(read("2001:DB8::1").as_deref(), Some("2001:db8::1/128"));
        assert_eq!(read("::ffff:192.0.2.1").as_deref(), Some("192.0.2.1/32"));
        assert_eq!(read("::ffff:192.0.2.128/121").as_deref(), Some("192.0.2.128/25"));
        assert_eq!(read("::ffff:192.0.2.0/24").as_deref(), Some("::ffff:192.0.2.0/24"));
        for bad in ["", "x", "10.0.0.0/33", "10.0.0.0/", "10.0.0/8", "10.0.0.0/+8", "fe80::1%e/64"]
        {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
