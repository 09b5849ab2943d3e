//! VIPs as the data plane sees them: `VIPS`, and `ADDRESS_FILTER` in front of it.

use crate::address::{Address6, Be16};
#[cfg(doc)]
use crate::forward::Forward;

/// One address + port + protocol.
///
/// Port 0 with protocol 0 is the *address record*: it says that at least one VIP uses
/// the address, and [`VipEntry::flags`] of that record which protocols ([`address_flag`]).
/// Protocol [`TOMBSTONE_PROTOCOL`] is the memory of an id that is free.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VipKey {
    /// The address; IPv4 in mapped form.
    pub address: Address6,
    /// Destination port, network byte order; 0 in an address record.
    pub port: Be16,
    /// 6 (TCP), 17 (UDP); 0 in an address record.
    pub protocol: u8,
    /// Zero; part of the key.
    pub padding0: u8,
    /// Zero; part of the key.
    pub padding1: u32,
}

impl VipKey {
    /// The key of a VIP.
    #[inline(always)]
    #[must_use]
    pub const fn new(address: Address6, port: Be16, protocol: u8) -> Self {
        Self { address, port, protocol, padding0: 0, padding1: 0 }
    }

    /// The key of an address record.
    #[inline(always)]
    #[must_use]
    pub const fn address_record(address: Address6) -> Self {
        Self::new(address, Be16::from_wire(0), 0)
    }
}

/// Protocol of a tombstone: no packet has it (255 is reserved, RFC 5237). Its address is
/// zero, its port the id, and its entry keeps the generation that the id had last.
pub const TOMBSTONE_PROTOCOL: u8 = 255;

/// How packets of one VIP are handled.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VipEntry {
    /// Index into `VIP_COUNTERS`.
    pub id: u16,
    /// Generation of the id; never 0.
    pub generation: u16,
    /// Index into `RINGS` and `BACKENDS`.
    pub backend: u16,
    /// What to do with flows of a dead server: [`on_down`].
    pub on_down: u8,
    /// What selects the ring slot: [`hash_by`].
    pub hash_by: u8,
    /// Bits of [`vip_flag`] in a VIP; bits of [`address_flag`] in an address record.
    pub flags: u32,
    /// How packets reach the server: [`Forward::to_raw`].
    pub forward: u8,
    /// Zero.
    pub padding: u8,
    /// For how long an idle source belongs to its server (`AFFINITY`), seconds; 0 if sources
    /// belong to nobody.
    pub affinity_s: u16,
}

/// Values of [`VipEntry::on_down`].
pub mod on_down {
    /// Answer the client's next TCP packet with a RST; UDP flows are rerouted.
    pub const RESET: u8 = 0;
    /// Forget the flow and select a server again.
    pub const REROUTE: u8 = 1;
    /// Go on forwarding to the dead server.
    pub const KEEP: u8 = 2;
}

/// Values of [`VipEntry::hash_by`].
pub mod hash_by {
    /// All five fields.
    pub const TUPLE: u8 = 0;
    /// The client's address alone.
    pub const SOURCE: u8 = 1;
    /// All five fields, twice: the less loaded of the two servers, or one found before that
    /// has far fewer flows.
    pub const LEAST_CONNECTIONS: u8 = 2;
    /// Nothing: slots in turn. The ring is laid out for that.
    pub const ROUND_ROBIN: u8 = 3;
}

/// Bits of [`VipEntry::flags`] in a VIP.
pub mod vip_flag {
    /// Its `ADMISSION` entry limits new flows.
    pub const LIMITS_FLOWS: u32 = 1;
    /// A new flow whose server has no room for it is refused and not sent to another one.
    pub const REFUSE_WHEN_FULL: u32 = 2;
    /// Servers see the client's address and send to it, by way of here (half NAT).
    pub const KEEPS_SOURCE: u32 = 4;
    /// Its SYNs are answered with cookies while the table of half-open flows is fuller than
    /// [`crate::settings::Settings::cookie_level`], where forwarding translates addresses.
    pub const SYN_COOKIES: u32 = 8;
    /// With [`SYN_COOKIES`]: whatever the table holds.
    pub const ALWAYS_COOKIES: u32 = 16;
}

/// Bits of [`VipEntry::flags`] in an address record.
pub mod address_flag {
    /// The address has a TCP VIP.
    pub const TCP: u32 = 1;
    /// The address has a UDP VIP.
    pub const UDP: u32 = 2;
}

/// Sixty-four bits of the address filter.
///
/// Bit `n` of the filter (word `n / 64`, bit `n % 64`) is set if any VIP or SNAT address
/// hashes to `n` ([`crate::hash::filter_bit`]), or the address of a server that sees its
/// clients' ([`vip_flag::KEEPS_SOURCE`]). A clear bit proves that a packet is not ours; a set
/// bit proves nothing.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FilterWord {
    /// The bits.
    pub bits: u64,
}

const _: () = {
    use core::mem::size_of;
    assert!(size_of::<VipKey>() == 24);
    assert!(size_of::<VipEntry>() == 16);
    assert!(size_of::<FilterWord>() == 8);
};

#[cfg(feature = "user")]
mod pod {
    // SAFETY: repr(C), explicit padding, every bit pattern is valid, no pointers.
    unsafe impl aya::Pod for super::VipKey {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::VipEntry {}
    // SAFETY: as above.
    unsafe impl aya::Pod for super::FilterWord {}
}
