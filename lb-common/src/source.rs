//! Which source addresses can belong to a client. Answers to the others would go astray,
//! or to a whole network at once.

use crate::address::{Address, Address4, Address6};

/// Whether an address can be a client's.
#[inline(always)]
#[must_use]
pub fn can_be_client<A: Address>(address: A) -> bool {
    address.can_be_client()
}

/// Whether an IPv4 address can be a client's: not "this network" (0.0.0.0/8, RFC 1122
/// section 3.2.1.3), not loopback (127.0.0.0/8), not multicast (224.0.0.0/4, RFC 5771),
/// not the limited broadcast. The rest of 240.0.0.0/4 is reserved but routable, and is
/// left to the routers.
#[inline(always)]
#[must_use]
pub const fn can_be_client4(address: Address4) -> bool {
    let bits = u32::from_be_bytes(address.octets);
    let first = bits >> 24;
    let reserved = first == 0 || first == 127 || first >> 4 == 14;
    !reserved && bits != u32::MAX
}

/// Whether an IPv6 address can be a client's: not unspecified, not loopback, not
/// multicast (RFC 4291 section 2.4), not IPv4-mapped, which never is on a wire (RFC 4942
/// section 2.2).
#[inline(always)]
#[must_use]
pub const fn can_be_client6(address: Address6) -> bool {
    let (high, low) = address.halves();
    let multicast = high >> 56 == 0xff;
    let unspecified_or_loopback = high == 0 && low <= 1;
    let mapped = high == 0 && low >> 32 == 0xffff;
    !(multicast || unspecified_or_loopback || mapped)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check4(text: &str, expected: bool) {
        let address: Ipv4Addr = text.parse().expect("an IPv4 address");
        assert_eq!(can_be_client(Address4::new(address.octets())), expected, "{text}");
    }

    #[track_caller]
    fn check6(text: &str, expected: bool) {
        let address: Ipv6Addr = text.parse().expect("an IPv6 address");
        assert_eq!(can_be_client(Address6::new(address.octets())), expected, "{text}");
    }

    #[test]
    fn ipv4_addresses_that_are_nobodys_are_refused() {
        for refused in [
            "0.0.0.0",
            "0.1.2.3",
            "127.0.0.1",
            "127.255.255.255",
            "224.0.0.1",
            "239.255.255.255",
            "255.255.255.255",
        ] {
            check4(refused, false);
        }
        for accepted in
            ["1.0.0.0", "10.0.0.1", "126.1.1.1", "128.0.0.1", "223.255.255.255", "240.0.0.1"]
        {
            check4(accepted, true);
        }
        check4("255.255.255.254", true);
        check4("169.254.1.1", true);
    }

    #[test]
    fn ipv6_addresses_that_are_nobodys_are_refused() {
        for refused in ["::", "::1", "ff02::1", "ff00::", "::ffff:10.0.0.1", "::ffff:0:0"] {
            check6(refused, false);
        }
        for accepted in
            ["::2", "2001:db8::1", "fe80::1", "fd00::1", "64:ff9b::a00:1", "::fffe:10.0.0.1"]
        {
            check6(accepted, true);
        }
    }

    proptest! {
        #[test]
        fn the_standard_library_agrees(four: [u8; 4], six: [u8; 16], zeros in 0_usize..=16) {
            let address = Ipv4Addr::from(four);
            let nobody = address.octets()[0] == 0
                || address.is_loopback()
                || address.is_multicast()
                || address.is_broadcast();
            prop_assert_eq!(can_be_client(Address4::new(four)), !nobody);
            let mut six = six;
            six.iter_mut().take(zeros).for_each(|octet| *octet = 0);
            let address = Ipv6Addr::from(six);
            let nobody = address.is_unspecified()
                || address.is_loopback()
                || address.is_multicast()
                || address.to_ipv4_mapped().is_some();
            prop_assert_eq!(can_be_client(Address6::new(six)), !nobody);
        }
    }
}
