//! Sets of networks, as rules for source addresses have them: any number of CIDR blocks, one
//! binary search a look-up.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Addresses of some networks. Blocks that overlap or touch are merged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Networks {
    /// First and last address of each block, in order, without overlaps.
    v4: Box<[(u32, u32)]>,
    v6: Box<[(u128, u128)]>,
}

impl Networks {
    /// The addresses of `networks`. IPv4 networks in IPv6 form count as IPv4.
    #[must_use]
    pub fn new(networks: impl IntoIterator<Item = IpNet>) -> Self {
        let (mut v4, mut v6) = (Vec::new(), Vec::new());
        for network in networks {
            match network {
                IpNet::V4(network) => v4.push(network),
                IpNet::V6(network) => match mapped(network) {
                    Some(network) => v4.push(network),
                    None => v6.push(network),
                },
            }
        }
        let bounds4 = |net: Ipv4Net| (net.network().to_bits(), net.broadcast().to_bits());
        let bounds6 = |net: Ipv6Net| (net.network().to_bits(), net.broadcast().to_bits());
        let mut v4: Vec<_> = Ipv4Net::aggregate(&v4).into_iter().map(bounds4).collect();
        let mut v6: Vec<_> = Ipv6Net::aggregate(&v6).into_iter().map(bounds6).collect();
        v4.sort_unstable();
        v6.sort_unstable();
        Self { v4: v4.into(), v6: v6.into() }
    }

    /// Whether `address` is in one of the networks; an IPv4 address in IPv6 form counts as
    /// IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match address.to_canonical() {
            IpAddr::V4(address) => is_in(&self.v4, address.to_bits()),
            IpAddr::V6(address) => is_in(&self.v6, address.to_bits()),
        }
    }

    /// Whether there is no network at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }
}

/// The IPv4 network behind `::ffff:a.b.c.d/96+n`.
fn mapped(network: Ipv6Net) -> Option<Ipv4Net> {
    let address = network.addr().to_ipv4_mapped()?;
    Ipv4Net::new(address, network.prefix_len().checked_sub(96)?).ok()
}

fn is_in<T: Copy + Ord>(blocks: &[(T, T)], address: T) -> bool {
    let after = blocks.partition_point(|(first, _)| *first <= address);
    after > 0 && address <= blocks[after - 1].1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn networks(list: &[&str]) -> Networks {
        Networks::new(list.iter().map(|text| text.parse().unwrap()))
    }

    #[test]
    fn blocks_of_both_families_are_found() {
        let set = networks(&["10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32", "0.0.0.0/32"]);
        let holds = |text: &str| set.contains(text.parse().unwrap());
        for inside in
            ["10.0.0.0", "10.255.255.255", "192.0.2.7", "2001:db8::1", "::ffff:10.1.2.3", "0.0.0.0"]
        {
            assert!(holds(inside), "{inside}");
        }
        for outside in ["11.0.0.0", "9.255.255.255", "192.0.2.8", "2001:db9::", "::", "::a00:1"] {
            assert!(!holds(outside), "{outside}");
        }
        assert!(networks(&[]).is_empty() && !networks(&[]).contains("::1".parse().unwrap()));
        assert!(networks(&["::ffff:10.0.0.0/104"]).contains("10.9.9.9".parse().unwrap()));
        assert!(networks(&["0.0.0.0/0"]).contains("255.255.255.255".parse().unwrap()));
    }

    proptest! {
        #[test]
        fn a_set_is_the_union_of_its_networks(
            list in prop::collection::vec((any::<u32>(), 0_u8..=32), 0..12),
            address in any::<u32>(),
        ) {
            let list: Vec<Ipv4Net> =
                list.into_iter().map(|(bits, length)| Ipv4Net::new(bits.into(), length).unwrap()).collect();
            let set = Networks::new(list.iter().map(|network| IpNet::V4(*network)));
            let near = list.first().map_or(address, |network| network.broadcast().to_bits().wrapping_add(1));
            for address in [address, near] {
                let address = std::net::Ipv4Addr::from_bits(address);
                let expected = list.iter().any(|network| network.contains(&address));
                prop_assert_eq!(set.contains(address.into()), expected);
            }
        }
    }
}
