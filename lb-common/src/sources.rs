//! What a source of packets has used up of its limits: `SOURCES`.
//!
//! A source is an IPv4 address, or an IPv6 network of 64 bits, which is what one subscriber
//! has. The table is an LRU hash: when it is full, the source that was silent for longest is
//! forgotten, which fills its buckets up again and makes its flows uncounted ones.

use crate::address::{Address4, Address6};

/// Key of `SOURCES`: a source as one frontend sees it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SourceKey {
    /// The address, or the first half of it, in memory order.
    pub address: u64,
    /// Scope of the frontend's list.
    pub scope: u32,
    /// 4 or 6.
    pub family: u32,
}

impl SourceKey {
    /// An IPv4 source.
    #[inline(always)]
    #[must_use]
    pub const fn v4(scope: u32, address: Address4) -> Self {
        Self { address: u32::from_ne_bytes(address.octets) as u64, scope, family: 4 }
    }

    /// The IPv6 network of a source.
    #[inline(always)]
    #[must_use]
    pub const fn v6(scope: u32, address: Address6) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = address.octets;
        Self { address: u64::from_ne_bytes([a, b, c, d, e, f, g, h]), scope, family: 6 }
    }
}

/// What a source has used up.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceEntry {
    /// 1 while somebody changes the buckets.
    pub lock: u32,
    /// Confirmed flows that were counted and have not ended; changed by atomic additions.
    pub flows: u32,
    /// When its bucket for new flows is full again ([`crate::token_bucket`]).
    pub flows_full_ns: u64,
    /// When its bucket for packets is full again.
    pub packets_full_ns: u64,
}

/// Most packets that a flow takes out of its source's bucket at once, so that not every
/// packet has to look the source up.
pub const MOST_CREDIT: u8 = 32;

/// How many packets a flow takes out of its source's bucket when it has used up `last`: one
/// at first, twice as many each time, so that flows of few packets leave none unused. No more
/// than an eighth of the burst, so that flows do not starve each other.
#[inline(always)]
#[must_use]
pub const fn next_credit(last: u8, interval_ns: u32, burst_ns: u64) -> u8 {
    let doubled = if last == 0 { 1 } else { last.saturating_mul(2) };
    let mut credit = if doubled > MOST_CREDIT { MOST_CREDIT } else { doubled };
    while credit > 1 && interval_ns as u64 * credit as u64 > burst_ns / 8 {
        credit /= 2;
    }
    credit
}

const _: () = {
    use core::mem::size_of;
    assert!(size_of::<SourceKey>() == 16);
    assert!(size_of::<SourceEntry>() == 24);
};

#[cfg(feature = "user")]
mod pod {
    // SAFETY: repr(C), no padding, every bit pattern is valid, no pointers.
    unsafe impl aya::Pod for super::SourceKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::SourceEntry {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token_bucket::Rate;

    #[test]
    fn an_ipv6_source_is_its_network_and_families_are_kept_apart() {
        let six = |last, fifth| {
            Address6::new([0x20, 1, 0xd, 0xb8, fifth, 0, 0, 1, 9, 9, 9, 9, 9, 9, 9, last])
        };
        assert_eq!(SourceKey::v6(2, six(1, 0)), SourceKey::v6(2, six(2, 0)));
        assert_ne!(SourceKey::v6(2, six(1, 0)), SourceKey::v6(2, six(1, 1)));
        assert_ne!(SourceKey::v6(2, six(1, 0)), SourceKey::v6(4, six(1, 0)));
        let zero = SourceKey::v4(2, Address4::new([0; 4]));
        assert_ne!(zero, SourceKey::v6(2, Address6::new([0; 16])));
    }

    #[test]
    fn credit_doubles_up_to_its_most_and_an_eighth_of_the_burst() {
        let grow = |rate: Rate| {
            let mut last = 0;
            [(); 8].map(|()| {
                last = next_credit(last, rate.interval_ns, rate.burst_ns);
                last
            })
        };
        assert_eq!(grow(Rate::new(1000, 1000)), [1, 2, 4, 8, 16, 32, 32, 32]);
        assert_eq!(grow(Rate::new(1000, 40)), [1, 2, 4, 4, 4, 4, 4, 4]);
        assert_eq!(grow(Rate::new(1000, 1)), [1; 8]);
    }
}
