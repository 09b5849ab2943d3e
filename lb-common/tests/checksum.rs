//! Incremental checksums equal full ones, bit for bit, for every packet a balancer meets.

use lb_common::{
    address::{Address, Address4, Address6, Be16},
    checksum,
    flow::FlowKey,
};
use proptest::prelude::*;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Where the checksum is in a TCP or UDP header.
fn checksum_offset(protocol: u8) -> usize {
    if protocol == TCP { 16 } else { 6 }
}

/// Words as hostile as they come: all zero and all one more often than chance has it.
fn word() -> impl Strategy<Value = u16> {
    prop_oneof![Just(0), Just(0xffff), Just(1), Just(0xfffe), Just(0x0100), any::<u16>()]
}

fn octets<const N: usize>() -> impl Strategy<Value = [u8; N]> {
    prop::collection::vec(word(), N / 2).prop_map(|words| {
        let octets: Vec<u8> = words.into_iter().flat_map(u16::to_be_bytes).collect();
        octets.try_into().expect("N is even")
    })
}

fn address4() -> impl Strategy<Value = Address4> {
    octets().prop_map(Address4::new)
}

fn address6() -> impl Strategy<Value = Address6> {
    octets().prop_map(Address6::new)
}

fn key<A: Address + core::fmt::Debug>(
    address: impl Strategy<Value = A> + Clone,
    protocol: u8,
) -> impl Strategy<Value = FlowKey<A>> {
    (address.clone(), address, word(), word()).prop_map(move |(source, destination, from, to)| {
        FlowKey {
            source,
            destination,
            source_port: Be16::new(from),
            destination_port: Be16::new(to),
            protocol,
            padding: [0; 3],
        }
    })
}

fn protocol() -> impl Strategy<Value = u8> {
    prop_oneof![Just(TCP), Just(UDP)]
}

/// Two tuples and a payload.
fn translation<A: Address + core::fmt::Debug>(
    address: impl Strategy<Value = A> + Clone,
) -> impl Strategy<Value = (FlowKey<A>, FlowKey<A>, Vec<u8>)> {
    protocol().prop_flat_map(move |protocol| {
        (key(address.clone(), protocol), key(address.clone(), protocol), payload())
    })
}

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(prop_oneof![Just(0), Just(0xff)], 0..64),
        prop::collection::vec(any::<u8>(), 0..200),
    ]
}

/// A segment with the ports of `key`, the payload, and a checksum computed in full.
fn segment<A: Address>(
    key: &FlowKey<A>,
    payload: &[u8],
    full: impl Fn(&FlowKey<A>, &[u8]) -> u16,
) -> (Vec<u8>, u16) {
    let header = if key.protocol == TCP { 20 } else { 8 };
    let mut bytes = vec![0; header];
    bytes[..2].copy_from_slice(&key.source_port.get().to_be_bytes());
    bytes[2..4].copy_from_slice(&key.destination_port.get().to_be_bytes());
    bytes.extend_from_slice(payload);
    let checksum = full(key, &bytes);
    let at = checksum_offset(key.protocol);
    bytes[at..at + 2].copy_from_slice(&checksum.to_ne_bytes());
    (bytes, checksum)
}

fn full4(key: &FlowKey<Address4>, bytes: &[u8]) -> u16 {
    checksum::transport_checksum4(key.source, key.destination, key.protocol, bytes)
}

fn full6(key: &FlowKey<Address6>, bytes: &[u8]) -> u16 {
    checksum::transport_checksum6(key.source, key.destination, key.protocol, bytes)
}

fn apply(protocol: u8, ipv6: bool, checksum: u16, delta: u16) -> u16 {
    match (protocol, ipv6) {
        (TCP, _) => checksum::apply(checksum, delta),
        (_, false) => checksum::apply_udp4(checksum, delta),
        (_, true) => checksum::apply_udp6(checksum, delta),
    }
}

/// Checks one translation there and back against full computation.
#[track_caller]
fn check<A: Address + core::fmt::Debug>(
    before: &FlowKey<A>,
    after: &FlowKey<A>,
    payload: &[u8],
    ipv6: bool,
    full: impl Fn(&FlowKey<A>, &[u8]) -> u16 + Copy,
) {
    let (_, old) = segment(before, payload, full);
    let (_, new) = segment(after, payload, full);
    let there = checksum::translation_deltas(before, after);
    assert_eq!(apply(before.protocol, ipv6, old, there.transport), new, "there");
    let back = checksum::translation_deltas(after, before);
    assert_eq!(apply(before.protocol, ipv6, new, back.transport), old, "back");
    let reply = checksum::translation_deltas(&after.reversed(), &before.reversed());
    assert_eq!(apply(before.protocol, ipv6, new, reply.transport), old, "the reply's way back");
    let negative = there.reversed();
    assert_eq!(apply(before.protocol, ipv6, new, negative.transport), old, "negated");
}

fn header4(source: Address4, destination: Address4, rest: [u8; 12]) -> Vec<u8> {
    let mut bytes = rest.to_vec();
    bytes[0] = 0x45;
    bytes[10..12].fill(0);
    bytes.extend_from_slice(&source.octets);
    bytes.extend_from_slice(&destination.octets);
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 2000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn incremental_equals_full_for_ipv4((before, after, payload) in translation(address4().boxed())) {
        check(&before, &after, &payload, false, full4);
    }

    #[test]
    fn incremental_equals_full_for_ipv6((before, after, payload) in translation(address6().boxed())) {
        check(&before, &after, &payload, true, full6);
    }

    #[test]
    fn the_ipv4_header_is_updated_for_addresses_and_ttl(
        (before, after, _) in translation(address4().boxed()),
        rest in octets::<12>(),
        ttl in 1_u8..,
    ) {
        let mut old = header4(before.source, before.destination, rest);
        let mut new = header4(after.source, after.destination, rest);
        old[8] = ttl;
        new[8] = ttl - 1;
        let (old, new) = (checksum::header_checksum(&old), checksum::header_checksum(&new));
        let delta = checksum::translation_deltas(&before, &after).header;
        prop_assert_eq!(checksum::decrement_ttl(checksum::apply(old, delta)), new);
        prop_assert_eq!(checksum::apply(checksum::decrement_ttl(old), delta), new);
        prop_assert_eq!(checksum::apply_and_decrement_ttl(old, delta), new);
    }

    #[test]
    fn a_right_checksum_makes_the_whole_sum_to_ones(
        (key, _, payload) in translation(address4().boxed()),
    ) {
        let (bytes, _) = segment(&key, &payload, full4);
        let length = u64::from(u16::try_from(bytes.len()).expect("short").to_be());
        let pseudo = u64::from(key.source.word_sum())
            + u64::from(key.destination.word_sum())
            + u64::from(u16::from(key.protocol).to_be())
            + length;
        prop_assert_eq!(checksum::fold(pseudo + checksum::sum(&bytes)), 0xffff);
    }

    #[test]
    fn udp_without_a_checksum_stays_so(delta in word()) {
        prop_assert_eq!(checksum::apply_udp4(0, delta), 0);
        prop_assert_eq!(checksum::apply_udp6(0, delta), 0);
    }

    #[test]
    fn udp_with_a_checksum_keeps_one(checksum in 1_u16.., delta in word()) {
        prop_assert_ne!(checksum::apply_udp4(checksum, delta), 0);
        prop_assert_ne!(checksum::apply_udp6(checksum, delta), 0);
    }

    #[test]
    fn folding_keeps_the_remainder(sum: u64) {
        let folded = checksum::fold(sum);
        prop_assert_eq!(u64::from(folded) % 0xffff, sum % 0xffff);
        prop_assert_eq!(folded == 0, sum == 0);
    }

    #[test]
    fn a_difference_is_new_minus_old(old: u32, new: u32) {
        let delta = u64::from(checksum::delta(old, new));
        prop_assert_eq!((u64::from(old) + delta) % 0xffff, u64::from(new) % 0xffff);
    }
}

/// Words that exercise every carry.
const EDGES: [u16; 8] = [0, 1, 0x00ff, 0x0100, 0x7fff, 0x8000, 0xfffe, 0xffff];

#[test]
fn every_mix_of_edge_words_is_translated_right() {
    let pair = |[high, low]: [u16; 2]| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Address4::new([a, b, c, d])
    };
    for protocol in [TCP, UDP] {
        for (a, b, c, d) in EDGES
            .iter()
            .flat_map(|a| EDGES.iter().map(move |b| (a, b)))
            .flat_map(|(a, b)| EDGES.iter().map(move |c| (a, b, c)))
            .flat_map(|(a, b, c)| EDGES.iter().map(move |d| (*a, *b, *c, *d)))
        {
            let key = |source, destination, source_port, destination_port| FlowKey {
                source,
                destination,
                source_port: Be16::new(source_port),
                destination_port: Be16::new(destination_port),
                protocol,
                padding: [0; 3],
            };
            let before = key(pair([a, b]), pair([c, d]), a, d);
            let after = key(pair([b, d]), pair([a, a]), c, c);
            check(&before, &after, &[], false, full4);
            check(&before, &after, &d.to_be_bytes(), false, full4);
        }
    }
}

#[test]
fn every_header_checksum_survives_the_ttl() {
    for checksum in 0..=0xffff_u16 {
        let expected = checksum::apply(checksum, checksum::delta(0x0100_u32.swap_bytes() >> 16, 0));
        assert_eq!(checksum::decrement_ttl(checksum), expected, "{checksum:#x}");
    }
}

#[test]
fn a_udp_checksum_that_comes_to_zero_is_written_as_ones() {
    for checksum in 1..=0xffff_u16 {
        // The difference that brings the checksum to zero is the checksum itself.
        assert_eq!(checksum::apply(checksum, checksum), 0);
        assert_eq!(checksum::apply_udp4(checksum, checksum), 0xffff);
        assert_eq!(checksum::apply_udp6(checksum, checksum), 0xffff);
    }
    // Words that sum to 0xffff: a full computation comes to zero too.
    let nowhere = Address4::default();
    let ports = !(8 + 8 + u16::from(UDP));
    let [high, low] = ports.to_be_bytes();
    let segment = [high, low, 0, 0, 0, 8, 0, 0];
    assert_eq!(checksum::transport_checksum4(nowhere, nowhere, UDP, &segment), 0xffff);
    let ports = ports + u16::from(UDP - TCP);
    let [high, low] = ports.to_be_bytes();
    let segment = [high, low, 0, 0, 0, 8, 0, 0];
    assert_eq!(checksum::transport_checksum4(nowhere, nowhere, TCP, &segment), 0);
}

#[test]
fn the_example_of_rfc_1071_folds_as_printed() {
    let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
    assert_eq!(checksum::fold(checksum::sum(&bytes)).to_ne_bytes(), [0xdd, 0xf2]);
}

#[test]
fn the_example_of_rfc_1624_gives_zero_and_not_ones() {
    // Section 4: HC = 0xdd2f, m = 0x5555, m' = 0x3285; equation 3 gives 0x0000.
    let [old, new] = [0x5555_u16, 0x3285].map(|word| u32::from(word.to_be()));
    assert_eq!(checksum::apply(0xdd2f_u16.to_be(), checksum::delta(old, new)), 0);
}

#[test]
fn ipv6_has_no_header_delta() {
    let address = |last| {
        let mut octets = [0; 16];
        octets[15] = last;
        Address6::new(octets)
    };
    let key = |source, destination| FlowKey {
        source: address(source),
        destination: address(destination),
        protocol: TCP,
        ..FlowKey::default()
    };
    let deltas = checksum::translation_deltas(&key(1, 2), &key(3, 4));
    assert_eq!(deltas.header, 0);
    assert_ne!(deltas.transport, 0);
    assert_eq!(deltas.reversed().reversed(), deltas);
}

#[test]
fn an_odd_last_byte_counts_as_the_first_of_its_word() {
    assert_eq!(checksum::sum(&[1, 2, 3]), checksum::sum(&[1, 2, 3, 0]));
    assert_eq!(checksum::sum(&[]), 0);
}
