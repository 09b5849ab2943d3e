//! Backends as the data plane sees them: `RINGS`, and `BACKENDS` as the agent's memory.

use crate::{abi::RING_SLOTS, flow::Handle};

/// One slot of a Maglev ring: the server that new flows hashing here go to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingSlot {
    /// The server; generation 0 means no server.
    pub server: Handle,
}

/// Slots of one element of a ring: a cache line. The kernel gives every element of an array
/// at least 8 bytes, so slots of their own would make a ring twice as large.
pub const SLOTS_PER_LINE: u32 = 16;
/// Elements of a ring; the last is filled up with empty slots.
pub const RING_LINES: u32 = RING_SLOTS.div_ceil(SLOTS_PER_LINE);

/// One element of a ring.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingLine {
    /// Slot `n` of the ring is number `n % 16` of line `n / 16`.
    pub slots: [RingSlot; SLOTS_PER_LINE as usize],
}

impl RingLine {
    /// The index of the line that holds a slot.
    #[inline(always)]
    #[must_use]
    pub const fn index_of(slot: u32) -> u32 {
        slot / SLOTS_PER_LINE
    }

    /// The slot of the ring that has this number, if this is its line.
    #[inline(always)]
    #[must_use]
    pub const fn slot(&self, slot: u32) -> RingSlot {
        self.slots[(slot % SLOTS_PER_LINE) as usize]
    }
}

/// What the agent needs to recognise a backend after a restart. The data plane does not
/// read it: `VIPS` names the ring, the ring names the servers.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendEntry {
    /// The backend's configured name, padded with zeros; all zero if the id is not in use.
    pub name: [u8; 64],
    /// Signature of the members the ring was built from ([`crate::maglev`]); 0 if the
    /// backend has no ring.
    pub ring_signature: u64,
    /// Generation of this id; 0 if it was never used.
    pub generation: u32,
    /// Servers in the ring.
    pub ring_members: u32,
}

/// Longest name of a backend, in bytes.
pub const NAME_BYTES: usize = 64;

impl Default for BackendEntry {
    fn default() -> Self {
        Self { name: [0; NAME_BYTES], ring_signature: 0, generation: 0, ring_members: 0 }
    }
}

const _: () = {
    use core::mem::size_of;
    assert!(size_of::<RingSlot>() == 4);
    assert!(size_of::<RingLine>() == 64);
    assert!(RING_LINES * SLOTS_PER_LINE >= RING_SLOTS);
    assert!(size_of::<BackendEntry>() == 80);
};

#[cfg(feature = "user")]
mod pod {
    // SAFETY: repr(C), no padding, every bit pattern is valid, no pointers.
    unsafe impl aya::Pod for super::RingSlot {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::RingLine {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::BackendEntry {}
}
