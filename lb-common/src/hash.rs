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

/// Odd multipliers with no structure in common: the fractional parts of the golden ratio
/// and of the square roots of 3 and 5.
const MULTIPLIER_SOURCE: u64 = 0x9e37_79b9_7f4a_7c15;
const MULTIPLIER_DESTINATION: u64 = 0xbb67_ae85_84ca_a73b;
const MULTIPLIER_PORTS: u64 = 0x3c6e_f372_fe94_f82b;
/// Keeps source hashes apart from tuple hashes: that of the square root of 7.
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        address::{Address4, Address6, Be16},
        flow::{FlowKey4, FlowKey6},
    };

    fn key4(source: u32, destination: u32, source_port: u16, destination_port: u16) -> FlowKey4 {
        FlowKey {
            source: Address4::new(source.to_be_bytes()),
            destination: Address4::new(destination.to_be_bytes()),
            source_port: Be16::new(source_port),
            destination_port: Be16::new(destination_port),
            protocol: 6,
            padding: [0; 3],
        }
    }

    fn key6(source: u128, destination: u128, source_port: u16) -> FlowKey6 {
        FlowKey {
            source: Address6::new(source.to_be_bytes()),
            destination: Address6::new(destination.to_be_bytes()),
            source_port: Be16::new(source_port),
            destination_port: Be16::new(443),
            protocol: 6,
            padding: [0; 3],
        }
    }

    /// Checks that flipping any one of `inputs` bits flips each output bit half the time.
    fn check_avalanche(inputs: u32, hash: impl Fn(u64, Option<u32>) -> u64) {
        const SAMPLES: u32 = 2000;
        for input in 0..inputs {
            let mut flips = [0_u32; 64];
            for sample in 0..SAMPLES {
                let flipped = hash(u64::from(sample), None) ^ hash(u64::from(sample), Some(input));
                for (bit, count) in flips.iter_mut().enumerate() {
                    *count += u32::from(flipped >> bit & 1 == 1);
                }
            }
            for (bit, count) in flips.iter().enumerate() {
                let share = f64::from(*count) / f64::from(SAMPLES);
                // Half, within more than six standard deviations.
                assert!((share - 0.5).abs() < 0.07, "input {input} flips output {bit}: {share}");
            }
        }
    }

    #[test]
    fn every_bit_of_an_ipv4_tuple_reaches_every_bit_of_its_hash() {
        // Source, destination and both ports in one number of 96 bits.
        const TUPLE: u128 = 0x0a00_0000_0a00_0064_8000_01bb;
        check_avalanche(96, |sample, flip| {
            let changed = u128::from(sample) << 64 ^ flip.map_or(0, |flip| 1_u128 << flip);
            let [_, _, _, _, a, b, c, d, e, f, g, h, i, j, k, l] = (TUPLE ^ changed).to_be_bytes();
            tuple_hash(&key4(
                u32::from_be_bytes([a, b, c, d]),
                u32::from_be_bytes([e, f, g, h]),
                u16::from_be_bytes([i, j]),
                u16::from_be_bytes([k, l]),
            ))
        });
    }

    #[test]
    fn every_bit_of_an_ipv6_source_reaches_every_bit_of_both_hashes() {
        let source = |sample: u64, flip: Option<u32>| {
            (0x2001_0db8_u128 << 96 | u128::from(sample)) ^ flip.map_or(0, |flip| 1_u128 << flip)
        };
        check_avalanche(128, |sample, flip| tuple_hash(&key6(source(sample, flip), 1, 2)));
        check_avalanche(128, |sample, flip| source_hash(&key6(source(sample, flip), 1, 2)));
    }

    /// Checks that hashes spread over the ring as chance would have it.
    fn check_uniform(hashes: impl Iterator<Item = u64>) {
        let mut counts = vec![0_u32; RING_SLOTS as usize];
        let mut total = 0_u32;
        for hash in hashes {
            counts[ring_slot(hash) as usize] += 1;
            total += 1;
        }
        let expected = f64::from(total) / f64::from(RING_SLOTS);
        let chi_square: f64 =
            counts.iter().map(|count| (f64::from(*count) - expected).powi(2) / expected).sum();
        // RING_SLOTS - 1 degrees of freedom: standard deviation sqrt(2 * RING_SLOTS).
        let deviations =
            (chi_square - f64::from(RING_SLOTS)) / (2.0 * f64::from(RING_SLOTS)).sqrt();
        assert!(deviations.abs() < 5.0, "{deviations} standard deviations from uniform");
    }

    #[test]
    fn sequential_ports_and_addresses_spread_evenly_over_the_ring() {
        check_uniform((0..20_u32).flat_map(|client| {
            (0..=u16::MAX)
                .map(move |port| tuple_hash(&key4(0x0a00_0001 + client, 0x0a00_0064, port, 443)))
        }));
        check_uniform(
            (0..1_300_000_u32)
                .map(|client| source_hash(&key4(0x0a00_0000 + client, 0x0a00_0064, 0, 443))),
        );
        check_uniform(
            (0..1_300_000_u128)
                .map(|client| tuple_hash(&key6((0x2001_0db8 << 96) + (client << 64), 1, 4242))),
        );
    }

    #[test]
    fn ends_of_the_hash_reach_the_ends_of_the_ring() {
        assert_eq!(ring_slot(0), 0);
        assert_eq!(ring_slot(u64::MAX), RING_SLOTS - 1);
    }

    #[test]
    fn neighbouring_addresses_rarely_share_a_filter_bit() {
        let distinct = |bits: &mut Vec<u32>| {
            bits.sort_unstable();
            bits.dedup();
            bits.len()
        };
        let mut four: Vec<u32> = (0..256_u32)
            .map(|n| filter_bit(Address4::new((0xc000_0200 + n).to_be_bytes())))
            .collect();
        assert!(distinct(&mut four) >= 250);
        let mut six: Vec<u32> = (0..256_u128)
            .map(|n| filter_bit(Address6::new(((0x2001_0db8_u128 << 96) + n).to_be_bytes())))
            .collect();
        assert!(distinct(&mut six) >= 250);
    }

    proptest! {
        #[test]
        fn slots_and_filter_bits_are_in_range(hash: u64, four: [u8; 4], six: [u8; 16]) {
            prop_assert!(ring_slot(hash) < RING_SLOTS);
            prop_assert!(filter_bit(Address4::new(four)) < FILTER_WORDS * 64);
            prop_assert!(filter_bit(Address6::new(six)) < FILTER_WORDS * 64);
        }

        #[test]
        fn only_the_source_address_counts_for_the_source_hash(
            source: u32, rest: (u32, u16, u16), other: (u32, u16, u16),
        ) {
            let one = key4(source, rest.0, rest.1, rest.2);
            let two = key4(source, other.0, other.1, other.2);
            prop_assert_eq!(source_hash(&one), source_hash(&two));
        }

        #[test]
        fn swapped_ends_hash_apart(a: u32, b: u32, from: u16, to: u16) {
            let key = key4(a, b, from, to);
            prop_assume!(key != key.reversed());
            prop_assert_ne!(tuple_hash(&key), tuple_hash(&key.reversed()));
        }
    }

    /// Nodes of different versions must agree: a change here moves every client.
    #[test]
    fn hashes_are_what_they_always_were() {
        assert_eq!(tuple_hash(&key4(0x0a00_0001, 0x0a00_0064, 40000, 443)), 0x00a2_bc51_6c45_9122);
        assert_eq!(source_hash(&key4(0x0a00_0001, 0x0a00_0064, 40000, 443)), 0xa892_6541_6a4c_a3e7);
        assert_eq!(tuple_hash(&key6(1, 2, 40000)), 0x5d19_8eaa_fb07_3e69);
        assert_eq!(filter_bit(Address4::new([10, 0, 0, 100])), 3236);
    }
}
