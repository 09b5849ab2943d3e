//! Node-wide settings the data plane reads: `SETTINGS`.

use crate::{
    abi::{ABI_VERSION, DEFAULT_HALF_OPEN_BUCKETS},
    ended,
};

/// The one value of `SETTINGS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// [`ABI_VERSION`] of whoever created the maps; decides between adopting and refusing.
    pub abi_version: u32,
    /// Lowest source port towards servers, host byte order.
    pub snat_port_low: u16,
    /// Highest source port towards servers, host byte order, inclusive.
    pub snat_port_high: u16,
    /// Bits of [`flag`].
    pub flags: u32,
    /// Buckets of `HALF_OPEN4` and of `HALF_OPEN6`.
    pub half_open_buckets: u32,
    /// How long a flow that is not confirmed may be silent, milliseconds; then its place is
    /// free and its packets belong to no flow.
    pub half_open_ms: u32,
    /// How long a TCP flow that is over may be silent before the data plane removes it,
    /// milliseconds.
    pub closed_ms: u32,
    /// Places of each processor's rings of flows that are over, 1 to
    /// [`crate::ended::PLACES`].
    pub ended_places: u32,
    /// Share of the places for half-open flows that is in use when SYNs begin to be answered
    /// with cookies, in 65,536ths.
    pub cookie_level: u32,
    /// When the lists of sources last changed, nanoseconds of `CLOCK_MONOTONIC`; a flow whose
    /// client was last heard before that is judged anew.
    pub access_changed_ns: u64,
}

/// Bits of [`Settings::flags`].
pub mod flag {
    /// Report finished flows through `EVENTS`.
    pub const FLOW_EVENTS: u32 = 1;
    /// There is a list of sources, or something is blocked: packets of new flows are judged.
    pub const ACCESS: u32 = 2;
    /// The node has a list of its own.
    pub const NODE_LIST: u32 = 4;
    /// Who is not on that list is not let in.
    pub const NODE_ALLOW_ONLY: u32 = 8;
    /// Something is blocked for the whole node.
    pub const NODE_BLOCKS: u32 = 16;
    /// Some frontend limits the packets of a source.
    pub const PACKET_RATES: u32 = 32;
    /// Some frontend limits the flows of a source.
    pub const FLOW_COUNTS: u32 = 64;
    /// Some servers see their clients' addresses: the filter knows those servers, and what they
    /// send to anybody may be ours.
    pub const RETURN_PATHS: u32 = 512;
    /// Answer echo requests for VIP addresses; otherwise they are the kernel's.
    pub const ANSWER_ECHO: u32 = 1 << 16;
}

impl Default for Settings {
    /// Ports 1024 to 32767: below the range Linux takes for its own connections
    /// (`net.ipv4.ip_local_port_range`, 32768 to 60999 by default).
    fn default() -> Self {
        Self {
            abi_version: ABI_VERSION,
            snat_port_low: 1024,
            snat_port_high: 32767,
            flags: flag::FLOW_EVENTS,
            half_open_buckets: DEFAULT_HALF_OPEN_BUCKETS,
            half_open_ms: 30_000,
            closed_ms: 10_000,
            ended_places: ended::PLACES,
            cookie_level: 0,
            access_changed_ns: 0,
        }
    }
}

const _: () = assert!(core::mem::size_of::<Settings>() == 40);

// SAFETY: repr(C), explicit padding, every bit pattern is valid, no pointers.
#[cfg(feature = "user")]
unsafe impl aya::Pod for Settings {}
