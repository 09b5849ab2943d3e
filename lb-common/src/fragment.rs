//! Fragments of balanced packets: `FRAGMENTS4` and `FRAGMENTS6`.
//!
//! Only the first fragment of a packet has its ports (RFC 791, RFC 8200 section 4.5). It leaves
//! them here for those that follow, which are found by addresses and identification. Nothing is
//! put together: fragments pass one by one, as they come.
//!
//! Packets of many clients reach a server from one address, where their identifications would
//! meet, so each packet gets another, from one counter.

use crate::address::Be16;

/// How long fragments may follow the first: as long as Linux waits for them
/// (`net.ipv4.ipfrag_time`).
pub const TIMEOUT_NS: u64 = 30_000_000_000;

/// Longest packet that fragments may make.
const MAX_PACKET_BYTES: u32 = 65_535;

/// What the fragments of one packet have in common. For IPv4 the protocol is part of it (RFC
/// 791), for IPv6 it is not (RFC 8200).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FragmentKey<A> {
    /// Source address.
    pub source: A,
    /// Destination address.
    pub destination: A,
    /// Identification as it came, network byte order; that of IPv4 in the first half.
    pub identification: u32,
    /// IP protocol number; 0 for IPv6.
    pub protocol: u32,
}

/// What the first fragment leaves for those that follow.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FragmentEntry {
    /// When the first fragment came, nanoseconds of `CLOCK_MONOTONIC_COARSE`.
    pub seen_ns: u64,
    /// Source port, network byte order.
    pub source_port: Be16,
    /// Destination port, network byte order.
    pub destination_port: Be16,
    /// Identification that the fragments are sent on with, host byte order; IPv4 takes the
    /// low half.
    pub identification: u32,
    /// Bytes that the first fragment has of the packet; no other may reach into them.
    pub first_bytes: u16,
    /// IP protocol number: 6 (TCP) or 17 (UDP).
    pub protocol: u8,
    /// Zero.
    pub padding0: u8,
    /// Zero.
    pub padding1: u32,
}

/// Which part of its packet a fragment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Where it starts, in bytes.
    pub offset: u32,
    /// Bytes of it.
    pub bytes: u32,
    /// Whether others follow.
    pub more: bool,
}

impl Part {
    /// From the two bytes that hold IPv4's flags and offset, as a number.
    #[inline(always)]
    #[must_use]
    pub const fn of4(field: u16, bytes: u32) -> Self {
        Self { offset: (field as u32 & 0x1fff) * 8, bytes, more: field & 0x2000 != 0 }
    }

    /// From the two bytes that hold offset and flags in IPv6's fragment header, as a number.
    #[inline(always)]
    #[must_use]
    pub const fn of6(field: u16, bytes: u32) -> Self {
        Self { offset: field as u32 & 0xfff8, bytes, more: field & 1 != 0 }
    }

    /// Whether it is the one with the ports.
    #[inline(always)]
    #[must_use]
    pub const fn is_first(&self) -> bool {
        self.offset == 0
    }

    /// Whether it can be part of a packet: not empty, not beyond the longest packet, and a
    /// multiple of eight bytes if others follow.
    #[inline(always)]
    #[must_use]
    pub const fn is_sound(&self) -> bool {
        self.bytes != 0
            && self.offset + self.bytes <= MAX_PACKET_BYTES
            && (!self.more || self.bytes.is_multiple_of(8))
    }
}

impl FragmentEntry {
    /// Whether fragments may still follow.
    #[inline(always)]
    #[must_use]
    pub const fn is_live(&self, now_ns: u64) -> bool {
        now_ns.saturating_sub(self.seen_ns) < TIMEOUT_NS
    }

    /// Whether a later fragment reaches into the first, where the ports are (RFC 1858, RFC
    /// 5722).
    #[inline(always)]
    #[must_use]
    pub const fn is_overlapped_by(&self, part: &Part) -> bool {
        part.offset < self.first_bytes as u32
    }
}

const _: () = {
    use core::mem::size_of;

    use crate::address::{Address4, Address6};
    assert!(size_of::<FragmentKey<Address4>>() == 16);
    assert!(size_of::<FragmentKey<Address6>>() == 40);
    assert!(size_of::<FragmentEntry>() == 24);
};

#[cfg(feature = "user")]
mod pod {
    use super::{FragmentEntry, FragmentKey};
    use crate::address::{Address4, Address6};

    // SAFETY: repr(C), explicit padding, every bit pattern is valid, no pointers.
    unsafe impl aya::Pod for FragmentKey<Address4> {}
    // SAFETY: as above.
    unsafe impl aya::Pod for FragmentKey<Address6> {}
    // SAFETY: as above.
    unsafe impl aya::Pod for FragmentEntry {}
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn offsets_and_flags_are_read_from_both_headers() {
        let part = |offset, more| Part { offset, bytes: 64, more };
        // Don't fragment is no part of it.
        assert_eq!(Part::of4(0x4000, 64), part(0, false));
        assert_eq!(Part::of4(0x2000, 64), part(0, true));
        assert_eq!(Part::of4(0x20b9, 64), part(1480, true));
        assert_eq!(Part::of4(0x1fff, 64), part(65_528, false));
        assert_eq!(Part::of6(0x0001, 64), part(0, true));
        assert_eq!(Part::of6(1480 | 1, 64), part(1480, true));
        assert_eq!(Part::of6(0xfff8, 64), part(65_528, false));
    }

    #[test]
    fn parts_that_no_packet_has_are_not_sound() {
        let sound = |offset, bytes, more| Part { offset, bytes, more }.is_sound();
        assert!(sound(0, 8, true) && sound(8, 1, false) && sound(65_528, 7, false));
        assert!(!sound(0, 0, true), "empty");
        assert!(!sound(8, 0, false), "empty");
        assert!(!sound(0, 12, true), "the next could not start there");
        assert!(!sound(65_528, 8, false), "longer than a packet");
    }

    proptest! {
        #[test]
        fn a_part_in_the_first_fragment_overlaps_it_and_one_behind_it_does_not(
            first_units in 1..8191_u16, offset in 0..8192_u32,
        ) {
            let entry = FragmentEntry { first_bytes: first_units * 8, ..FragmentEntry::default() };
            let part = Part { offset: offset * 8, bytes: 8, more: true };
            prop_assert_eq!(entry.is_overlapped_by(&part), offset < u32::from(first_units));
        }

        #[test]
        fn fragments_may_follow_for_a_while(seen_ns: u64, later_ns in 0..2 * TIMEOUT_NS) {
            let entry = FragmentEntry { seen_ns, ..FragmentEntry::default() };
            prop_assume!(seen_ns.checked_add(later_ns).is_some());
            prop_assert_eq!(entry.is_live(seen_ns + later_ns), later_ns < TIMEOUT_NS);
        }
    }
}
