//! Servers as the data plane sees them: `SERVERS`.

use crate::address::{Address6, Be16};

/// One server: whether it lives, how to reach it, and as whom.
///
/// The first three 8-byte words are what every packet reads. The kernel copies array
/// values word by word, so a packet sees each word whole: old or new, never torn.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerEntry {
    /// Generation of this id; 0 if the id is not in use.
    pub generation: u16,
    /// [`state`].
    pub state: u8,
    /// Bits of [`flag`].
    pub flags: u8,
    /// Interface towards the server; 0 if the next hop is not known, then the data
    /// plane asks the kernel's FIB.
    pub ifindex: u32,
    /// MAC address of the next hop towards the server.
    pub neighbour: [u8; 6],
    /// Its share of new flows relative to the others, 1 to 256, where flows are counted
    /// against each other.
    pub weight: u16,
    /// MAC address of the interface towards the server.
    pub own: [u8; 6],
    /// The port that `gue` datagrams are sent to, network byte order.
    pub gue_port: Be16,
    /// The server's address; IPv4 in mapped form.
    pub address: Address6,
    /// The address the server sees as the client, or as the other end of a tunnel; of the
    /// server's family, IPv4 in mapped form.
    pub snat_address: Address6,
    /// The server's port, network byte order.
    pub port: Be16,
    /// Index of the backend the server belongs to.
    pub backend: u16,
    /// Largest IP packet towards the server, in bytes; of no meaning while `ifindex` is 0.
    pub mtu: u16,
    /// Most confirmed flows at a time ([`ServerFlows`]); 0 for no limit.
    pub most_flows: u16,
}

impl ServerEntry {
    /// Whether packets of its flows go on to it.
    #[inline(always)]
    #[must_use]
    pub const fn lives(&self) -> bool {
        const { assert!(state::UP == 1 && state::DRAIN == 2) };
        self.state.wrapping_sub(state::UP) < 2
    }

    /// Whether there is such a server: what is left of one that was removed keeps its generation.
    #[inline(always)]
    #[must_use]
    pub const fn is_known(&self) -> bool {
        self.state != state::UNUSED
    }
}

/// Values of [`ServerEntry::state`].
pub mod state {
    /// The id is not in use.
    pub const UNUSED: u8 = 0;
    /// Gets new flows if a ring names it; existing flows continue.
    pub const UP: u8 = 1;
    /// Gets no new flows; existing ones continue (DRAIN, NOLB).
    pub const DRAIN: u8 = 2;
    /// Dead: its flows are settled as the VIP's `on_down` says (DOWN, MAINT).
    pub const DOWN: u8 = 3;
}

/// Bits of [`ServerEntry::flags`].
pub mod flag {
    /// A router is on the way: the next hop is not the server, and `dsr` can not reach it.
    pub const ROUTED: u8 = 1;
    /// The server has an IPv6 address, so that outer headers take more room.
    pub const V6: u8 = 2;
    /// Sources whose flows it has belong to it (`AFFINITY`).
    pub const AFFINITY: u8 = 4;
    /// It sees clients' addresses and sends to them, so that the filter has its own.
    pub const SEES_CLIENTS: u8 = 8;
}

/// Confirmed flows of a server at the moment: one element of `SERVER_FLOWS`, by server id.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerFlows {
    /// Generation of the id these belong to; the agent sets it when it zeroes the number.
    pub generation: u32,
    /// Flows.
    pub flows: u32,
}

/// A count of a server's flows that is wrong: a record of the packet that the program `settle`
/// is run on.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Miscount {
    /// The server: [`Handle::to_bits`](crate::flow::Handle::to_bits).
    pub server: u32,
    /// How many too many, modulo 2^32.
    pub flows: u32,
    /// Zero: the kernel takes no packet below 14 bytes.
    pub padding: u64,
}

/// Records that `settle` reads at most.
pub const MOST_MISCOUNTS: usize = 64;

/// Whether a server has fewer flows for its weight than another one. A weight of 0 counts
/// as 1.
#[inline(always)]
#[must_use]
pub const fn is_less_loaded(flows: u32, weight: u16, than_flows: u32, than_weight: u16) -> bool {
    let weight = if weight == 0 { 1 } else { weight as u64 };
    let than_weight = if than_weight == 0 { 1 } else { than_weight as u64 };
    (flows as u64) * than_weight < (than_flows as u64) * weight
}

/// Whether a server has so few flows for its weight that it should get all new ones: less than
/// fifteen sixteenths of those of another one, with four flows to spare.
///
/// Closer to each other, chance does better: flows in the middle of their handshake do not
/// count yet, and whoever is sent all of them overshoots.
#[inline(always)]
#[must_use]
pub const fn is_far_less_loaded(
    flows: u32,
    weight: u16,
    than_flows: u32,
    than_weight: u16,
) -> bool {
    let weight = if weight == 0 { 1 } else { weight as u64 };
    let than_weight = if than_weight == 0 { 1 } else { than_weight as u64 };
    (flows as u64 + 4) * than_weight * 16 < (than_flows as u64) * weight * 15
}

const _: () = {
    use core::mem::{offset_of, size_of};
    assert!(size_of::<ServerFlows>() == 8);
    assert!(size_of::<Miscount>() == 16);
    assert!(offset_of!(ServerEntry, weight) == 14);
    assert!(size_of::<ServerEntry>() == 64);
    assert!(offset_of!(ServerEntry, neighbour) == 8);
    assert!(offset_of!(ServerEntry, own) == 16);
    assert!(offset_of!(ServerEntry, address) == 24);
    assert!(offset_of!(ServerEntry, port) == 56);
    assert!(offset_of!(ServerEntry, most_flows) == 62);
};

#[cfg(feature = "user")]
mod pod {
    // SAFETY: repr(C), explicit padding, every bit pattern is valid, no pointers.
    unsafe impl aya::Pod for super::ServerEntry {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::ServerFlows {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::Miscount {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_live_until_they_are_down_or_removed() {
        let lives = |state| ServerEntry { state, ..ServerEntry::default() }.lives();
        let all = [state::UNUSED, state::UP, state::DRAIN, state::DOWN];
        assert_eq!(all.map(lives), [false, true, true, false]);
        assert!(!lives(u8::MAX));
    }

    #[test]
    fn load_is_flows_for_weight_and_the_greatest_numbers_are_no_trouble() {
        assert!(is_less_loaded(9, 100, 10, 100) && !is_less_loaded(10, 100, 10, 100));
        assert!(is_less_loaded(19, 200, 10, 100) && !is_less_loaded(20, 200, 10, 100));
        assert!(is_less_loaded(0, 0, 1, 0));
        assert!(!is_less_loaded(u32::MAX, 1, u32::MAX, 1));
        assert!(is_less_loaded(u32::MAX - 1, 256, u32::MAX, 256));
    }

    #[test]
    fn who_is_far_below_has_less_than_fifteen_sixteenths_and_flows_to_spare() {
        assert!(is_far_less_loaded(0, 100, 5, 100) && !is_far_less_loaded(0, 100, 4, 100));
        assert!(is_far_less_loaded(89, 100, 100, 100) && !is_far_less_loaded(90, 100, 100, 100));
        assert!(is_far_less_loaded(183, 200, 100, 100) && !is_far_less_loaded(184, 200, 100, 100));
        assert!(!is_far_less_loaded(u32::MAX, 1, u32::MAX, 1));
        assert!(is_far_less_loaded(0, 0, u32::MAX, 256));
    }
}
