//! One tracked connection: the entries of `FLOWS4` and `FLOWS6`. Until both sides have
//! confirmed it, a flow is in [`crate::half_open`].
//!
//! A flow has two entries, one per direction, each found by the tuple of the packets it
//! rewrites and each complete in itself: a packet needs one lookup. The key of the
//! partner follows from the entry alone ([`FlowEntry::partner_key`]), so losing one half
//! never strands the other. Forward is client to server, reply is server to client.

use crate::{
    address::{Address, Address4, Address6, Be16, Be32},
    checksum::Deltas,
};

/// The five fields as they stand in packets of one direction.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowKey<A> {
    /// Source address of the packet.
    pub source: A,
    /// Destination address of the packet.
    pub destination: A,
    /// Source port, network byte order.
    pub source_port: Be16,
    /// Destination port, network byte order.
    pub destination_port: Be16,
    /// IP protocol number: 6 (TCP) or 17 (UDP).
    pub protocol: u8,
    /// Zero; part of the key, so it must stay zero.
    pub padding: [u8; 3],
}

/// Key of `FLOWS4`.
pub type FlowKey4 = FlowKey<Address4>;
/// Key of `FLOWS6`.
pub type FlowKey6 = FlowKey<Address6>;
/// Value of `FLOWS4`.
pub type FlowEntry4 = FlowEntry<Address4>;
/// Value of `FLOWS6`.
pub type FlowEntry6 = FlowEntry<Address6>;

impl<A: PartialEq> FlowKey<A> {
    /// Whether the five fields are the same. Unlike `==` it leaves the padding alone, which
    /// BPF code could only compare byte by byte.
    #[inline(always)]
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.source == other.source
            && self.destination == other.destination
            && self.source_port == other.source_port
            && self.destination_port == other.destination_port
            && self.protocol == other.protocol
    }
}

impl<A: Copy> FlowKey<A> {
    /// The key of packets in the opposite direction between the same two ends.
    #[inline(always)]
    #[must_use]
    pub fn reversed(&self) -> Self {
        Self {
            source: self.destination,
            destination: self.source,
            source_port: self.destination_port,
            destination_port: self.source_port,
            protocol: self.protocol,
            padding: [0; 3],
        }
    }
}

/// The first-hop neighbour of an end: which interface, which MAC addresses.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hop {
    /// MAC address of the neighbour.
    pub neighbour: [u8; 6],
    /// MAC address of our interface.
    pub own: [u8; 6],
    /// Index of our interface; 0 means the hop is not known.
    pub ifindex: u32,
}

/// An id that can not lie: `id` indexes an array map, `generation` must equal the one
/// stored there, or the id has been given to something else since.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Handle {
    /// Index into the map.
    pub id: u16,
    /// Generation of that index; never 0 for a handle in use.
    pub generation: u16,
}

impl Handle {
    /// As an argument of a BPF function: the id in the low half.
    #[inline(always)]
    #[must_use]
    pub const fn to_bits(self) -> u32 {
        self.id as u32 | (self.generation as u32) << 16
    }

    /// What [`Self::to_bits`] made a number of.
    #[inline(always)]
    #[must_use]
    pub const fn from_bits(bits: u32) -> Self {
        Self { id: (bits & 0xffff) as u16, generation: (bits >> 16) as u16 }
    }
}

/// Which way the packets of an entry travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Client to server; `FlowEntry::direction` is 0.
    Forward,
    /// Server to client; `FlowEntry::direction` is 1.
    Reply,
}

impl Direction {
    /// The number stored in [`FlowEntry::direction`].
    #[inline(always)]
    #[must_use]
    pub const fn to_raw(self) -> u8 {
        match self {
            Self::Forward => 0,
            Self::Reply => 1,
        }
    }

    /// From the number stored in [`FlowEntry::direction`].
    #[inline(always)]
    #[must_use]
    pub const fn from_raw(raw: u8) -> Self {
        if raw == 0 { Self::Forward } else { Self::Reply }
    }
}

/// What is done to packets of one direction of a flow, and what was seen of them.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowEntry<A> {
    /// When a packet last matched, nanoseconds of `CLOCK_MONOTONIC_COARSE`.
    pub last_seen_ns: u64,
    /// When the flow was created, nanoseconds of `CLOCK_MONOTONIC_COARSE`.
    pub created_ns: u64,
    /// Packets that matched this entry.
    pub packets: u64,
    /// Bytes of those packets, Ethernet header included.
    pub bytes: u64,
    /// New source address.
    pub source: A,
    /// New destination address.
    pub destination: A,
    /// New source port, network byte order.
    pub source_port: Be16,
    /// New destination port, network byte order.
    pub destination_port: Be16,
    /// Ones'-complement difference that address translation makes to the IPv4 header
    /// checksum, memory order (RFC 1624); 0 for IPv6. TTL is not part of it.
    pub header_delta: u16,
    /// Ones'-complement difference that address and port translation makes to the TCP or
    /// UDP checksum, memory order.
    pub transport_delta: u16,
    /// The client's last hop. In a reply entry it is where packets are sent; in a forward
    /// entry it is where they came from, to notice that the client's router changed.
    pub client_hop: Hop,
    /// The server the flow is bound to.
    pub server: Handle,
    /// The VIP the flow came through.
    pub vip: Handle,
    /// Bits of [`crate::tcp_state::Progress`], the same in both entries; 0 for UDP.
    pub progress: u32,
    /// [`Direction`] as a number: 0 forward, 1 reply.
    pub direction: u8,
    /// IP protocol number, as in the key.
    pub protocol: u8,
    /// Packets of a client that may pass until its source's bucket is looked at again; 0 in
    /// a reply entry.
    pub credit: u8,
    /// How many that were when it was last looked at.
    pub last_credit: u8,
    /// Acknowledgement number of the last TCP segment that matched: what its sender expects
    /// next, and so the number of a RST that it believes (RFC 5961 section 3.2). 0 for UDP.
    pub acknowledged: Be32,
    /// What is added to the sequence numbers of the server's packets and taken off the
    /// acknowledgements of the client's, modulo 2^32, host byte order; the same in both
    /// entries. 0 unless a SYN cookie began the flow.
    pub sequence_shift: u32,
}

/// What a packet becomes. Addresses are references into the table, because BPF code has no
/// room for copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation<'a, A> {
    /// New source address.
    pub source: &'a A,
    /// New destination address.
    pub destination: &'a A,
    /// New source port.
    pub source_port: Be16,
    /// New destination port.
    pub destination_port: Be16,
    /// What that adds to the checksums.
    pub deltas: Deltas,
}

impl<A: Address> FlowEntry<A> {
    /// The tuple of packets after this entry rewrote them.
    #[inline(always)]
    #[must_use]
    pub fn rewritten(&self) -> FlowKey<A> {
        FlowKey {
            source: self.source,
            destination: self.destination,
            source_port: self.source_port,
            destination_port: self.destination_port,
            protocol: self.protocol,
            padding: [0; 3],
        }
    }

    /// What packets that match become.
    #[inline(always)]
    #[must_use]
    pub const fn translation(&self) -> Translation<'_, A> {
        Translation {
            source: &self.source,
            destination: &self.destination,
            source_port: self.source_port,
            destination_port: self.destination_port,
            deltas: Deltas { header: self.header_delta, transport: self.transport_delta },
        }
    }

    /// The key of the other direction's entry: packets that answer the rewritten ones.
    #[inline(always)]
    #[must_use]
    pub fn partner_key(&self) -> FlowKey<A> {
        self.rewritten().reversed()
    }

    /// Whether the packets that this entry rewrites answer those of `key`.
    #[inline(always)]
    #[must_use]
    pub fn answers(&self, key: &FlowKey<A>) -> bool {
        self.source == key.destination
            && self.destination == key.source
            && self.source_port == key.destination_port
            && self.destination_port == key.source_port
            && self.protocol == key.protocol
    }

    /// The direction of the packets that match this entry.
    #[inline(always)]
    #[must_use]
    pub fn direction(&self) -> Direction {
        Direction::from_raw(self.direction)
    }
}

const _: () = {
    use core::mem::{offset_of, size_of};
    assert!(size_of::<FlowKey4>() == 16);
    assert!(size_of::<FlowKey6>() == 40);
    assert!(size_of::<Hop>() == 16);
    assert!(size_of::<FlowEntry4>() == 88);
    assert!(size_of::<FlowEntry6>() == 112);
    assert!(offset_of!(FlowEntry4, source) == 32);
    assert!(offset_of!(FlowEntry4, client_hop) == 48);
    assert!(offset_of!(FlowEntry4, progress) == 72);
    assert!(offset_of!(FlowEntry6, progress) == 96);
    assert!(offset_of!(FlowEntry4, acknowledged) == 80);
};

#[cfg(feature = "user")]
mod pod {
    use super::{FlowEntry, FlowKey};
    use crate::address::{Address4, Address6};

    // SAFETY: repr(C), explicit padding, every bit pattern is valid, no pointers.
    unsafe impl aya::Pod for FlowKey<Address4> {}
    // SAFETY: as above.
    unsafe impl aya::Pod for FlowKey<Address6> {}
    // SAFETY: as above.
    unsafe impl aya::Pod for FlowEntry<Address4> {}
    // SAFETY: as above.
    unsafe impl aya::Pod for FlowEntry<Address6> {}
}
