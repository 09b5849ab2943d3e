//! Which server a source of flows belongs to: `AFFINITY`.
//!
//! Written when a flow is confirmed, so that nobody who sends from addresses that are not his
//! fills the table, and read when one opens. The table is an LRU hash: when it is full, the
//! source that was silent for longest is forgotten, and goes where the ring leads.

use crate::flow::Handle;

/// Key of `AFFINITY`: a source as one backend sees it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct AffinityKey {
    /// Hash of the source's address ([`crate::hash::source_hash`]). Two sources of one hash
    /// belong to one server, as they do in the ring.
    pub source: u64,
    /// Index of the backend.
    pub backend: u32,
    /// Zero; part of the key.
    pub padding: u32,
}

/// Where a source belongs.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AffinityEntry {
    /// When a flow of the source was last confirmed or ended, nanoseconds of
    /// `CLOCK_MONOTONIC_COARSE`.
    pub seen_ns: u64,
    /// The server.
    pub server: Handle,
    /// Zero.
    pub padding: u32,
}

impl AffinityEntry {
    /// Whether the source has been idle for no longer than a time.
    #[inline(always)]
    #[must_use]
    pub const fn is_fresh(&self, now_ns: u64, timeout_s: u16) -> bool {
        now_ns.saturating_sub(self.seen_ns) <= timeout_s as u64 * 1_000_000_000
    }
}

const _: () = {
    use core::mem::size_of;
    assert!(size_of::<AffinityKey>() == 16);
    assert!(size_of::<AffinityEntry>() == 16);
};

#[cfg(feature = "user")]
mod pod {
    // SAFETY: repr(C), explicit padding, every bit pattern is valid, no pointers.
    unsafe impl aya::Pod for super::AffinityKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::AffinityEntry {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_is_who_was_silent_for_longer_than_the_timeout() {
        let entry = AffinityEntry { seen_ns: 5_000_000_000, ..AffinityEntry::default() };
        assert!(entry.is_fresh(15_000_000_000, 10) && !entry.is_fresh(15_000_000_001, 10));
        assert!(entry.is_fresh(4_000_000_000, 0), "another processor's clock is behind");
        let longest = AffinityEntry::default();
        assert!(!longest.is_fresh(u64::MAX, u16::MAX));
    }
}
