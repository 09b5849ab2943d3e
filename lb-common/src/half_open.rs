//! Flows that are not yet confirmed by both sides: `HALF_OPEN4` and `HALF_OPEN6`.
//!
//! A set-associative table in an array map: a flow lives in one of [`WAYS`] places of the
//! bucket that the tuple of its server's packets hashes to, so the place is also the claim
//! to the source port. Packets of the client find it through a hint in the bucket that
//! *their* tuple hashes to. A hint may be overwritten by another flow's and is believed only
//! after the place it names has shown the same tuple; without one the client's packet selects
//! its server anew and meets the flow when it claims the port.
//!
//! Nothing is searched for and nothing is linked, so opening a flow costs the same whether
//! the table is empty or a flood goes through it: the new flow takes a free place, else that
//! of the flow in its bucket that was silent for longest. `now`, hashes and limits are
//! parameters.
#![expect(
    clippy::cast_possible_truncation,
    reason = "hashes and clocks are cut to their low bits, and places are few"
)]

use crate::{
    address::{Address, Be32},
    checksum::Deltas,
    flow::{Direction, FlowEntry, FlowKey, Handle, Hop, Translation},
};

/// Places for flows in a bucket.
pub const WAYS: usize = 4;
/// [`WAYS`] for arithmetic with capacities.
pub const FLOWS_PER_BUCKET: u32 = WAYS as u32;
/// Hints in a bucket: several for each flow the table has room for, so that they are seldom
/// overwritten.
pub const HINTS: usize = 14;

/// Turns any number into a place.
const WAY_MASK: u32 = FLOWS_PER_BUCKET - 1;
const _: () = assert!(WAYS.is_power_of_two());

/// One element of `HALF_OPEN4` or `HALF_OPEN6`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket<A> {
    /// 1 while somebody changes `tags`, `seen_ms` or `flows`.
    pub lock: u32,
    /// 1 while somebody adds or removes confirmed entries of a client whose tuple hashes to
    /// this bucket.
    pub guard: u32,
    /// Where flows are whose client's tuple hashes to this bucket: [`Place::to_hint`]; 0 is
    /// no hint. Not under the lock.
    pub hints: [u32; HINTS],
    /// [`tag`] of the flow in each place; 0 if the place is free.
    pub tags: [u32; WAYS],
    /// When a packet of each flow last came, milliseconds of `CLOCK_MONOTONIC_COARSE`, the
    /// low 32 bits.
    pub seen_ms: [u32; WAYS],
    /// The flows.
    pub flows: [HalfOpenFlow<A>; WAYS],
}

/// A flow that is not yet confirmed by both sides, with what both directions need.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HalfOpenFlow<A> {
    /// The tuple of the client's packets.
    pub from_client: FlowKey<A>,
    /// The tuple of the server's packets.
    pub from_server: FlowKey<A>,
    /// When the flow was created, nanoseconds of `CLOCK_MONOTONIC_COARSE`.
    pub created_ns: u64,
    /// Bytes of the client's packets, Ethernet header included.
    pub forward_bytes: u64,
    /// Bytes of the server's packets, Ethernet header included.
    pub reply_bytes: u64,
    /// Packets of the client.
    pub forward_packets: u32,
    /// Packets of the server.
    pub reply_packets: u32,
    /// The client's last hop.
    pub client_hop: Hop,
    /// The server the flow is bound to.
    pub server: Handle,
    /// The VIP the flow came through.
    pub vip: Handle,
    /// Bits of [`crate::tcp_state::Progress`]; 0 for UDP.
    pub progress: u32,
    /// As [`FlowEntry::header_delta`] of the client's packets.
    pub header_delta: u16,
    /// As [`FlowEntry::transport_delta`] of the client's packets.
    pub transport_delta: u16,
    /// As [`FlowEntry::sequence_shift`]. Until the server's SYN-ACK, the cookie itself: as if
    /// the server began with 0.
    pub sequence_shift: u32,
    /// The sequence number of the client's SYN, host byte order; 0 unless a SYN cookie began
    /// the flow.
    pub client_sequence: u32,
}

/// A flow's place in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Index of the bucket.
    pub bucket: u32,
    /// Which of its [`WAYS`].
    pub way: u32,
}

impl Place {
    /// As it is stored in [`Bucket::hints`]; never 0.
    #[inline(always)]
    #[must_use]
    pub const fn to_hint(self) -> u32 {
        self.bucket.wrapping_mul(FLOWS_PER_BUCKET).wrapping_add(self.way & WAY_MASK).wrapping_add(1)
    }

    /// From a hint; none if it is no hint.
    #[inline(always)]
    #[must_use]
    pub const fn from_hint(hint: u32) -> Option<Self> {
        if hint == 0 {
            return None;
        }
        let place = hint.wrapping_sub(1);
        Some(Self { bucket: place / FLOWS_PER_BUCKET, way: place & WAY_MASK })
    }
}

/// The bucket of a tuple's hash among `buckets`; 0 if there is none.
#[inline(always)]
#[must_use]
pub const fn bucket_index(hash: u64, buckets: u32) -> u32 {
    (((hash >> 32) * buckets as u64) >> 32) as u32
}

/// Which hint of its bucket a client's tuple has, by the hash: 0 to [`HINTS`] - 1.
#[inline(always)]
#[must_use]
pub const fn hint_index(hash: u64) -> usize {
    (((hash & 0xffff) * HINTS as u64) >> 16) as usize
}

/// What a place says of the server's tuple in it, by the hash; never 0.
#[inline(always)]
#[must_use]
pub const fn tag(hash: u64) -> u32 {
    hash as u32 | 1
}

/// The clock of [`Bucket::seen_ms`] from nanoseconds.
#[inline(always)]
#[must_use]
pub const fn milliseconds(now_ns: u64) -> u32 {
    (now_ns / 1_000_000) as u32
}

/// How far one processor's clock is taken to be ahead of another's, milliseconds: far more than
/// it can be.
pub const AHEAD_MS: u32 = 60_000;

/// How long ago `seen_ms` was, in milliseconds; what seems to be ahead of `now_ms`, by
/// [`AHEAD_MS`] at the most, is now.
///
/// Right for 49 days, a minute less than the clock counts. What was silent for that long, and
/// whose place nobody needed meanwhile, seems to be young again for the minute and its timeout.
/// That does no harm: its ports are then taken once more, its packets find the server that they
/// had, if its handle still means that one, and it times out again.
#[inline(always)]
#[must_use]
pub const fn age_ms(now_ms: u32, seen_ms: u32) -> u32 {
    let age = now_ms.wrapping_sub(seen_ms);
    if age > u32::MAX - AHEAD_MS { 0 } else { age }
}

/// Whether `ms` is later than `other_ms`, both of this clock and less than 24 days from each
/// other.
#[inline(always)]
#[must_use]
pub const fn is_later(ms: u32, other_ms: u32) -> bool {
    let ahead = ms.wrapping_sub(other_ms);
    ahead != 0 && ahead <= u32::MAX / 2
}

impl<A> Bucket<A> {
    /// Whether the place holds a flow that has not been silent for `limit_ms`.
    #[inline(always)]
    #[must_use]
    pub fn is_live(&self, way: u32, now_ms: u32, limit_ms: u32) -> bool {
        let way = (way & WAY_MASK) as usize;
        self.tags[way] != 0 && age_ms(now_ms, self.seen_ms[way]) < limit_ms
    }

    /// How many places hold such flows.
    #[inline(always)]
    #[must_use]
    pub fn live(&self, now_ms: u32, limit_ms: u32) -> u32 {
        (0..FLOWS_PER_BUCKET).map(|way| u32::from(self.is_live(way, now_ms, limit_ms))).sum()
    }

    /// The place for a new flow: one that is free or whose flow has timed out, else that of
    /// the flow that has been silent for longest.
    #[inline(always)]
    #[must_use]
    pub fn room(&self, now_ms: u32) -> u32 {
        let (mut best, mut longest) = (0, 0);
        let mut way = 0;
        while way < WAYS {
            let silence = match self.tags[way] {
                0 => u32::MAX,
                _ => age_ms(now_ms, self.seen_ms[way]),
            };
            if silence > longest {
                (best, longest) = (way as u32, silence);
            }
            way += 1;
        }
        best
    }
}

impl<A: Address> HalfOpenFlow<A> {
    /// What packets of one direction become.
    #[inline(always)]
    #[must_use]
    pub fn translation(&self, direction: Direction) -> Translation<'_, A> {
        let deltas = Deltas { header: self.header_delta, transport: self.transport_delta };
        let (answer, deltas) = match direction {
            Direction::Forward => (&self.from_server, deltas),
            // The way back undoes the way there.
            Direction::Reply => (&self.from_client, deltas.reversed()),
        };
        Translation {
            source: &answer.destination,
            destination: &answer.source,
            source_port: answer.destination_port,
            destination_port: answer.source_port,
            deltas,
        }
    }

    /// The entry of one direction, as `FLOWS4` and `FLOWS6` hold it.
    #[inline(always)]
    pub fn write_entry(&self, direction: Direction, seen_ns: u64, entry: &mut FlowEntry<A>) {
        entry.last_seen_ns = seen_ns;
        entry.created_ns = self.created_ns;
        entry.client_hop = self.client_hop;
        entry.server = self.server;
        entry.vip = self.vip;
        entry.progress = self.progress;
        entry.direction = direction.to_raw();
        entry.protocol = self.from_client.protocol;
        entry.sequence_shift = self.sequence_shift;
        (entry.credit, entry.last_credit) = (0, 0);
        entry.acknowledged = Be32::default();
        match direction {
            Direction::Forward => {
                entry.packets = u64::from(self.forward_packets);
                entry.bytes = self.forward_bytes;
                entry.source = self.from_server.destination;
                entry.destination = self.from_server.source;
                entry.source_port = self.from_server.destination_port;
                entry.destination_port = self.from_server.source_port;
                entry.header_delta = self.header_delta;
                entry.transport_delta = self.transport_delta;
            }
            Direction::Reply => {
                entry.packets = u64::from(self.reply_packets);
                entry.bytes = self.reply_bytes;
                entry.source = self.from_client.destination;
                entry.destination = self.from_client.source;
                entry.source_port = self.from_client.destination_port;
                entry.destination_port = self.from_client.source_port;
                // The way back undoes the way there: the ones'-complement negative.
                entry.header_delta = !self.header_delta;
                entry.transport_delta = !self.transport_delta;
            }
        }
    }
}

const _: () = {
    use core::mem::{offset_of, size_of};

    use crate::address::{Address4, Address6};
    assert!(size_of::<HalfOpenFlow<Address4>>() == 104);
    assert!(size_of::<HalfOpenFlow<Address6>>() == 152);
    assert!(size_of::<Bucket<Address4>>() == 512);
    assert!(size_of::<Bucket<Address6>>() == 704);
    assert!(offset_of!(Bucket<Address4>, lock) == 0);
    assert!(offset_of!(Bucket<Address4>, tags) == 64);
    assert!(offset_of!(Bucket<Address6>, flows) == 96);
};

#[cfg(feature = "user")]
mod pod {
    use super::Bucket;
    use crate::address::{Address4, Address6};

    // SAFETY: repr(C), explicit padding, every bit pattern is valid, no pointers.
    unsafe impl aya::Pod for Bucket<Address4> {}
    // SAFETY: as above.
    unsafe impl aya::Pod for Bucket<Address6> {}
}
