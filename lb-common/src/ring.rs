//! Rings as the data plane reads them: `RINGS` and `LARGE_RINGS`, each ring an array of lines.
//!
//! A ring has 65,537 slots whatever servers there are, so that shares are even and few slots
//! move ([`crate::maglev`]). What follows the servers is how many bits a slot takes (decision
//! 0042): where there are 16 servers or fewer, a ring in `RINGS` lists them in its first line, and
//! a slot is the 4 bits of a place in that list. A ring in `LARGE_RINGS` names the server itself in
//! each slot. Lengths are fixed, because the kernel finds elements of arrays of differing lengths
//! by a call and not by a few instructions.

use crate::{abi::RING_SLOTS, flow::Handle};

/// One slot of a ring as the agent knows it: the server that new flows hashing here go to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingSlot {
    /// The server; generation 0 means no server.
    pub server: Handle,
}

/// One element of a ring: a cache line.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingLine {
    /// Servers ([`Handle::to_bits`]), or slots of 4 bits from the least significant one on.
    pub words: [u32; WORDS as usize],
}

const WORDS: u32 = 16;
/// Slots of 4 bits in a word, and in a line.
const SLOTS_PER_WORD: u32 = 8;
const SLOTS_PER_LINE: u32 = WORDS * SLOTS_PER_WORD;

/// Servers that a ring in `RINGS` can list.
pub const MOST_LISTED: usize = WORDS as usize;
/// Index of the line that lists them.
pub const LIST: u32 = 0;
/// Elements of a ring in `RINGS`.
pub const LINES: u32 = 1 + RING_SLOTS.div_ceil(SLOTS_PER_LINE);
/// Elements of a ring in `LARGE_RINGS`.
pub const LARGE_LINES: u32 = RING_SLOTS.div_ceil(WORDS);

/// The line of a ring in `RINGS` that has a slot.
#[inline(always)]
#[must_use]
pub const fn line_of(slot: u32) -> u32 {
    1 + slot / SLOTS_PER_LINE
}

/// The line of a ring in `LARGE_RINGS` that has a slot.
#[inline(always)]
#[must_use]
pub const fn large_line_of(slot: u32) -> u32 {
    slot / WORDS
}

impl RingLine {
    /// The place that a slot names, if this is its line in a ring in `RINGS`.
    #[inline(always)]
    #[must_use]
    pub const fn place(&self, slot: u32) -> u32 {
        let word = self.words[(slot / SLOTS_PER_WORD % WORDS) as usize];
        (word >> (slot % SLOTS_PER_WORD * 4)) & 0xf
    }

    /// Lets a slot that names place 0 name another one.
    pub const fn set_place(&mut self, slot: u32, place: u32) {
        let word = &mut self.words[(slot / SLOTS_PER_WORD % WORDS) as usize];
        *word |= (place & 0xf) << (slot % SLOTS_PER_WORD * 4);
    }

    /// The server at a place of the list, if this is that; as a number.
    #[inline(always)]
    #[must_use]
    pub const fn listed(&self, place: u32) -> u32 {
        self.words[(place % WORDS) as usize]
    }

    /// The server of a slot, if this is its line in a ring in `LARGE_RINGS`; as a number.
    #[inline(always)]
    #[must_use]
    pub const fn server(&self, slot: u32) -> u32 {
        self.words[(slot % WORDS) as usize]
    }
}

const _: () = {
    use core::mem::size_of;
    assert!(size_of::<RingSlot>() == 4);
    assert!(size_of::<RingLine>() == 64);
    assert!(line_of(RING_SLOTS - 1) == LINES - 1);
    assert!(large_line_of(RING_SLOTS - 1) == LARGE_LINES - 1);
};

#[cfg(feature = "user")]
mod pod {
    // SAFETY: repr(C), no padding, every bit pattern is valid, no pointers.
    unsafe impl aya::Pod for super::RingSlot {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::RingLine {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_slot_has_a_place_of_its_own() {
        let mut lines = vec![RingLine::default(); LINES as usize];
        let named = |slot: u32| slot.wrapping_mul(0x9e37_79b1) >> 28;
        for slot in 0..RING_SLOTS {
            lines[line_of(slot) as usize].set_place(slot, named(slot));
        }
        for slot in 0..RING_SLOTS {
            assert_eq!(lines[line_of(slot) as usize].place(slot), named(slot), "slot {slot}");
        }
        assert_eq!(lines[LIST as usize], RingLine::default(), "the list is no slot's line");
    }
}
