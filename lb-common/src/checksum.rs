//! Internet checksums (RFC 1071) and their incremental update (RFC 1624, equation 3).
//!
//! Every checksum and sum here is in *memory order*: 16-bit words as a native load
//! reads them from the packet. Ones'-complement addition does not care about byte order
//! as long as all of it is the same (RFC 1071, section 2 (B)), so nothing is swapped.
//! This module never looks at packets beyond the bytes it is handed.

use crate::{
    address::{Address, Address4, Address6},
    flow::FlowKey,
};

/// What translation adds to the checksums of a packet: ones'-complement differences.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deltas {
    /// For the IPv4 header checksum, TTL left aside; 0 for IPv6, which has none.
    pub header: u16,
    /// For the TCP or UDP checksum: addresses of the pseudo header, and ports.
    pub transport: u16,
}

impl Deltas {
    /// What the way back adds: the ones'-complement negatives. The header's of IPv6 has
    /// no meaning either way.
    #[inline(always)]
    #[must_use]
    pub const fn reversed(self) -> Self {
        Self { header: !self.header, transport: !self.transport }
    }
}

/// A difference of -1 in the TTL, which is the first octet of its 16-bit word.
const TTL_DELTA: u16 = !0x0100_u16.to_be();

/// Folds a sum of 16-bit words to one word with end-around carries. Only a sum of zero
/// gives zero: every other multiple of 0xffff gives 0xffff.
#[inline(always)]
#[must_use]
pub const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    low_word((sum & 0xffff) + (sum >> 16))
}

/// The ones'-complement difference `new_sum - old_sum` of two sums of words, as
/// [`crate::flow::FlowEntry`] stores it.
#[inline(always)]
#[must_use]
pub const fn delta(old_sum: u32, new_sum: u32) -> u16 {
    // One step leaves at most 17 bits of each, so nothing overflows; the second folds.
    let old = fold_two(fold_once(old_sum));
    fold_two(fold_once(!old as u32 + fold_once(new_sum)))
}

/// The ones'-complement sum of two differences, or of two sums.
#[inline(always)]
#[must_use]
pub const fn add(one: u16, other: u16) -> u16 {
    fold_two(one as u32 + other as u32)
}

/// The stored checksum after the words it covers changed by `delta`.
///
/// A checksum other than 0xffff never becomes 0xffff, just as a full computation over
/// words that are not all zero never gives 0xffff: the result is the same, bit for bit.
#[inline(always)]
#[must_use]
pub const fn apply(checksum: u16, delta: u16) -> u16 {
    !fold_two(!checksum as u32 + delta as u32)
}

/// The stored UDP checksum over IPv4 after the words it covers changed by `delta`. A
/// stored 0 means that the sender computed none (RFC 768), and stays 0; a computed 0 is
/// stored as 0xffff.
#[inline(always)]
#[must_use]
pub const fn apply_udp4(checksum: u16, delta: u16) -> u16 {
    if checksum == 0 { 0 } else { never_zero(apply(checksum, delta)) }
}

/// The stored UDP checksum over IPv6 after the words it covers changed by `delta`. Here 0
/// is forbidden but for tunnels (RFC 8200 section 8.1, RFC 6935); which of the two it is
/// the receiver decides, so it stays 0, and the rule is [`apply_udp4`]'s.
#[inline(always)]
#[must_use]
pub const fn apply_udp6(checksum: u16, delta: u16) -> u16 {
    apply_udp4(checksum, delta)
}

/// The stored IPv4 header checksum after the TTL went down by one.
#[inline(always)]
#[must_use]
pub const fn decrement_ttl(checksum: u16) -> u16 {
    apply(checksum, TTL_DELTA)
}

/// The stored IPv4 header checksum after `delta` and after the TTL went down by one; one
/// folding less than [`apply`] and [`decrement_ttl`] after each other.
#[inline(always)]
#[must_use]
pub const fn apply_and_decrement_ttl(checksum: u16, delta: u16) -> u16 {
    !fold_two(fold_once(!checksum as u32 + delta as u32 + TTL_DELTA as u32))
}

/// What rewriting packets from `before` to `after` adds to their checksums.
#[inline(always)]
#[must_use]
pub fn translation_deltas<A: Address>(before: &FlowKey<A>, after: &FlowKey<A>) -> Deltas {
    let old_addresses = address_sum(before);
    let new_addresses = address_sum(after);
    let header = if A::HEADER_CHECKSUM { delta(old_addresses, new_addresses) } else { 0 };
    let transport = delta(old_addresses + port_sum(before), new_addresses + port_sum(after));
    Deltas { header, transport }
}

/// The sum of the 16-bit words of `bytes` in memory order; an odd last byte counts as if
/// a zero followed. For packets built or verified as a whole.
#[must_use]
pub fn sum(bytes: &[u8]) -> u64 {
    let (words, odd) = bytes.as_chunks::<2>();
    let even: u64 = words.iter().map(|word| u64::from(u16::from_ne_bytes(*word))).sum();
    even + odd.iter().map(|last| u64::from(u16::from_ne_bytes([*last, 0]))).sum::<u64>()
}

/// The checksum to store in a header of which `bytes` are all words, the checksum's own
/// word zero.
#[must_use]
pub fn header_checksum(bytes: &[u8]) -> u16 {
    !fold(sum(bytes))
}

/// The checksum to store in a TCP or UDP segment over IPv4, from the whole segment with
/// its checksum field zero. UDP's 0 is given as 0xffff.
#[must_use]
pub fn transport_checksum4(
    source: Address4,
    destination: Address4,
    protocol: u8,
    segment: &[u8],
) -> u16 {
    transport_checksum(source.word_sum() + destination.word_sum(), protocol, segment)
}

/// The checksum to store in a TCP or UDP segment over IPv6, from the whole segment with
/// its checksum field zero. UDP's 0 is given as 0xffff.
#[must_use]
pub fn transport_checksum6(
    source: Address6,
    destination: Address6,
    protocol: u8,
    segment: &[u8],
) -> u16 {
    transport_checksum(source.word_sum() + destination.word_sum(), protocol, segment)
}

fn transport_checksum(addresses: u32, protocol: u8, segment: &[u8]) -> u16 {
    let length = sum(&(segment.len() as u64).to_be_bytes());
    let protocol_word = u64::from(u16::from(protocol).to_be());
    let checksum = !fold(u64::from(addresses) + protocol_word + length + sum(segment));
    if protocol == UDP { never_zero(checksum) } else { checksum }
}

const UDP: u8 = 17;

/// UDP's other way to write zero.
#[inline(always)]
const fn never_zero(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

#[inline(always)]
fn address_sum<A: Address>(key: &FlowKey<A>) -> u32 {
    key.source.word_sum() + key.destination.word_sum()
}

#[inline(always)]
fn port_sum<A>(key: &FlowKey<A>) -> u32 {
    u32::from(key.source_port.wire()) + u32::from(key.destination_port.wire())
}

/// One folding step, without loss.
#[inline(always)]
const fn fold_once(sum: u32) -> u32 {
    (sum & 0xffff) + (sum >> 16)
}

/// Folds a sum of at most 17 bits other than 0x1ffff, such as that of two words: one step
/// is enough.
#[inline(always)]
const fn fold_two(sum: u32) -> u16 {
    low_word(fold_once(sum) as u64)
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "callers have folded the sum to 16 bits")]
const fn low_word(folded: u64) -> u16 {
    folded as u16
}
