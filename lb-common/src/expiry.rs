//! Flows that the agent's sweep found idle: what it tells the programs `expire4` and `expire6`,
//! and what they answer.
//!
//! The agent looks at a table without any lock. By the time that it has looked at both entries of
//! a flow, a packet may have come, or the tuple may be a new flow's. So it deletes nothing
//! itself. It says which entries it saw, and the program removes, under the guard of the
//! client's tuple, flows whose entries are still those, with not one packet more.

use crate::flow::{FlowEntry, FlowKey};

/// Flows that a program looks at in one run at most: their records fit the linear part of the
/// packet that a test run makes of a page.
pub const MOST: usize = 28;

/// One entry of a flow as it was seen; zeros if it was not there.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Glimpse {
    /// [`FlowEntry::created_ns`].
    pub created_ns: u64,
    /// [`FlowEntry::last_seen_ns`].
    pub last_seen_ns: u64,
}

impl Glimpse {
    /// Of an entry, if it is there.
    #[inline(always)]
    #[must_use]
    pub const fn of<A>(entry: Option<&FlowEntry<A>>) -> Self {
        match entry {
            Some(entry) => Self { created_ns: entry.created_ns, last_seen_ns: entry.last_seen_ns },
            None => Self { created_ns: 0, last_seen_ns: 0 },
        }
    }

    /// Whether that is how it is now.
    #[inline(always)]
    #[must_use]
    pub const fn is_still<A>(self, entry: Option<&FlowEntry<A>>) -> bool {
        let now = Self::of(entry);
        self.created_ns == now.created_ns && self.last_seen_ns == now.last_seen_ns
    }
}

/// One record of the packet that a program is run on.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IdleFlow<A> {
    /// The tuple of the client's packets.
    pub client: FlowKey<A>,
    /// The tuple of the server's packets, as an entry for the client's leads to it.
    pub server: FlowKey<A>,
    /// The entry for the client's packets.
    pub forward: Glimpse,
    /// The entry for the server's packets.
    pub reply: Glimpse,
    /// What became of the flow, as the program says: [`fate`].
    pub fate: u32,
    /// Zero.
    pub padding: u32,
}

/// Values of [`IdleFlow::fate`].
pub mod fate {
    /// It is not as it was seen, and stays.
    pub const KEPT: u32 = 0;
    /// It is gone, and nobody has reported its end.
    pub const ENDED: u32 = 1;
    /// It is gone, and its end was reported before.
    pub const REPORTED: u32 = 2;
}

const _: () = {
    use core::mem::{offset_of, size_of};

    use crate::address::{Address4, Address6};
    assert!(size_of::<IdleFlow<Address4>>() == 72);
    assert!(size_of::<IdleFlow<Address6>>() == 120);
    assert!(offset_of!(IdleFlow<Address4>, fate) == 64);
    assert!(offset_of!(IdleFlow<Address6>, fate) == 112);
    // A page less headroom and what stands behind a packet.
    assert!(MOST * size_of::<IdleFlow<Address6>>() <= 4096 - 256 - 320);
};

#[cfg(feature = "user")]
mod pod {
    use super::IdleFlow;
    use crate::address::{Address4, Address6};

    // SAFETY: repr(C), explicit padding, every bit pattern is valid, no pointers.
    unsafe impl aya::Pod for IdleFlow<Address4> {}
    // SAFETY: as above.
    unsafe impl aya::Pod for IdleFlow<Address6> {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flow::FlowEntry4;

    #[test]
    fn entry_is_still_what_was_seen_until_a_packet_or_another_flow_comes() {
        let entry = |created_ns, last_seen_ns| FlowEntry4 {
            created_ns,
            last_seen_ns,
            ..FlowEntry4::default()
        };
        let seen = Glimpse::of(Some(&entry(5, 9)));
        assert!(seen.is_still(Some(&entry(5, 9))));
        assert!(!seen.is_still(Some(&entry(5, 10))), "a packet");
        assert!(!seen.is_still(Some(&entry(6, 9))), "another flow");
        assert!(!seen.is_still::<crate::address::Address4>(None), "it has gone");
        assert!(!Glimpse::default().is_still(Some(&entry(5, 9))), "it has come");
        assert!(Glimpse::default().is_still::<crate::address::Address4>(None));
    }
}
