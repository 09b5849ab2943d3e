//! Hashes of tuples and addresses: fixed functions, so that every node, and a node after
//! its restart, agrees with every other.
//!
//! The seeds are public; these hashes spread load and do not resist an adversary who
//! chooses addresses. Mixing is SplitMix64's (Steele, Lea, Flood, OOPSLA 2014) with
//! Stafford's constants: every input bit flips every output bit with probability 1/2.

use crate::{
    abi::{FILTER_WORDS, RING_SLOTS},
    address::Address,
    flow::FlowKey,
};

/// Odd multipliers without structure in common: fractional parts of the golden ratio and
/// of the square roots of 3 and 5 that stand for nothing else.
const MULTIPLIER_SOURCE: u64 = 0x9e37_79b9_7f4a_7c15;
const MULTIPLIER_DESTINATION: u64 = 0xbb67_ae85_84ca_a73b;
const MULTIPLIER_PORTS: u64 = 0x3c6e_f372_fe94_f82b;
/// Keeps source hashes apart from tuple hashes.
const SOURCE_SEED: u64 = 0xa54f_f53a_5f1d_36f1;

/// Spreads 64 bits over 64 bits, one to one, each output bit depending on all of them.
#[inline(always)]
#[must_use]
pub const fn mix(bits: u64) -> u64 {
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// The hash of all five fields.
#[inline(always)]
#[must_use]
pub fn tuple_hash<A: Address>(key: &FlowKey<A>) -> u64 {
    let ports = u64::from(key.source_port.get()) << 24
        | u64::from(key.destination_port.get()) << 8
        | u64::from(key.protocol);
    let sum = key
        .source
        .mix()
        .wrapping_mul(MULTIPLIER_SOURCE)
        .wrapping_add(key.destination.mix().wrapping_mul(MULTIPLIER_DESTINATION))
        .wrapping_add(ports.wrapping_mul(MULTIPLIER_PORTS));
    mix(sum)
}

/// The hash of the source address alone: all connections of a client agree.
#[inline(always)]
#[must_use]
pub fn source_hash<A: Address>(key: &FlowKey<A>) -> u64 {
    mix(key.source.mix() ^ SOURCE_SEED)
}

/// The ring slot of a hash: 0 to [`RING_SLOTS`] - 1, from its high 32 bits.
#[inline(always)]
#[must_use]
pub const fn ring_slot(hash: u64) -> u32 {
    (((hash >> 32) * RING_SLOTS as u64) >> 32) as u32
}

/// Bits of the address filter, as a power of two.
const FILTER_BITS_LOG2: u32 = (FILTER_WORDS * 64).ilog2();
const _: () = assert!((FILTER_WORDS * 64).is_power_of_two());

/// The bit of the address filter that stands for `address`: 0 to `FILTER_WORDS * 64` - 1.
/// One multiplication and one shift, because every packet on the wire pays for it.
#[inline(always)]
#[must_use]
pub fn filter_bit<A: Address>(address: A) -> u32 {
    (address.mix().wrapping_mul(MULTIPLIER_SOURCE) >> (64 - FILTER_BITS_LOG2)) as u32
}
