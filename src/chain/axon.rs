//! Where a neuron says it listens.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use serde::Serialize;

/// What a neuron announced about its server, as the chain keeps it (chain/README.md, "AxonInfo").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct AxonInfo {
    /// Block of the announcement.
    pub block: u64,
    /// major * 1,000,000 + minor * 1,000 + patch.
    pub version: u32,
    /// IPv4 in the low 32 bits, or a whole IPv6 address. Never 0: that is "never served".
    pub ip: u128,
    pub port: u16,
    /// 4 or 6, as announced.
    pub ip_type: u8,
    pub protocol: u8,
}

impl AxonInfo {
    /// The address, by the rule the Python SDK prints it with: below 2^32 it is IPv4. Only an
    /// announced type of 6 says otherwise.
    pub fn ip(&self) -> IpAddr {
        match u32::try_from(self.ip) {
            Ok(v4) if self.ip_type != 6 => IpAddr::V4(Ipv4Addr::from_bits(v4)),
            _ => IpAddr::V6(Ipv6Addr::from_bits(self.ip)),
        }
    }

    /// Where to call it; nothing if it announced port 0, which nobody can listen on.
    pub fn address(&self) -> Option<SocketAddr> {
        (self.port != 0 && self.ip != 0).then(|| SocketAddr::new(self.ip(), self.port))
    }
}

/// Whether an address lies on the public internet. A validator's announcement must not point the
/// agent into its user's own network, so what is special by IANA's registries is not public, whether
/// written as itself or inside an IPv6 address that carries it.
pub const fn is_public(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => is_public_v4(ip),
        IpAddr::V6(ip) => is_public_v6(ip),
    }
}

const fn is_public_v4(ip: Ipv4Addr) -> bool {
    let [a, b, c, _] = ip.octets();
    !(a == 0
        || a == 10
        || a == 127
        || a >= 224
        || (a == 100 && b & 0xc0 == 64)
        || (a == 169 && b == 254)
        || (a == 172 && b & 0xf0 == 16)
        || (a == 192 && b == 168)
        || (a == 192 && b == 0 && (c == 0 || c == 2))
        || (a == 192 && b == 88 && c == 99)
        || (a == 198 && b & 0xfe == 18)
        || (a == 198 && b == 51 && c == 100)
        || (a == 203 && b == 0 && c == 113))
}

const fn is_public_v6(ip: Ipv6Addr) -> bool {
    let s = ip.segments();
    let low = Ipv4Addr::from_bits((s[6] as u32) << 16 | s[7] as u32);
    match s {
        // ::ffff:a.b.c.d, and the NAT64 prefix.
        [0, 0, 0, 0, 0, 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => is_public_v4(low),
        // 6to4 carries an IPv4 address behind its prefix.
        [0x2002, high, low, ..] => is_public_v4(Ipv4Addr::from_bits((high as u32) << 16 | low as u32)),
        // Teredo, benchmarking, ORCHID: the IETF's own block; and documentation.
        [0x2001, second, ..] => second > 0x1ff && second != 0xdb8,
        // Documentation, the second block.
        [0x3fff, second, ..] => second > 0xfff,
        // Global unicast is 2000::/3; nothing else is assigned to it.
        _ => s[0] & 0xe000 == 0x2000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn axon(ip: u128, ip_type: u8, port: u16) -> AxonInfo {
        AxonInfo { block: 1, version: 9_011_001, ip, port, ip_type, protocol: 4 }
    }

    #[test]
    fn both_families_are_read() {
        assert_eq!(axon(3_235_789_677, 4, 6028).address(), Some("192.222.59.109:6028".parse().unwrap()));
        let v6: Ipv6Addr = "2a01:4f8::1".parse().unwrap();
        assert_eq!(axon(v6.to_bits(), 6, 80).address(), Some("[2a01:4f8::1]:80".parse().unwrap()));
        // The SDK looks at the value only; the type decides where the value leaves a choice.
        assert_eq!(axon(v6.to_bits(), 4, 80).ip(), IpAddr::V6(v6));
        assert_eq!(axon(1, 6, 80).ip(), IpAddr::V6(Ipv6Addr::LOCALHOST));
        assert_eq!(axon(0x0102_0304, 0, 80).ip(), IpAddr::from([1, 2, 3, 4]));
    }

    #[test]
    fn port_zero_and_ip_zero_are_nowhere() {
        assert_eq!(axon(3_235_789_677, 4, 0).address(), None);
        assert_eq!(axon(0, 4, 80).address(), None);
    }

    #[test]
    fn only_the_internet_is_public() {
        for public in
            ["1.1.1.1", "192.222.59.109", "100.128.0.1", "172.32.0.1", "2a01:4f8::1", "2606:4700::1111"]
        {
            assert!(is_public(public.parse().unwrap()), "{public}");
        }
        for other in [
            "0.0.0.0",
            "10.1.2.3",
            "127.0.0.1",
            "100.64.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "192.0.0.8",
            "192.0.2.1",
            "198.18.0.1",
            "198.19.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "fe80::1",
            "fec0::1",
            "fd00::1",
            "ff02::1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "64:ff9b::10.0.0.1",
            "2002:7f00:1::",
            "2001:db8::1",
            "2001::1",
            "3fff::1",
        ] {
            assert!(!is_public(other.parse().unwrap()), "{other}");
        }
    }
}
