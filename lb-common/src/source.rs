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
    let [first, ..] = address.octets;
    let reserved = first == 0 || first == 127 || first & 0xf0 == 224;
    !reserved && u32::from_ne_bytes(address.octets) != u32::MAX
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
