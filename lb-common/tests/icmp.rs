//! Translated errors have the checksums that a full computation gives.

use lb_common::{
    address::{Address, Address4, Address6, Be16},
    checksum,
    flow::FlowKey,
    icmp,
};
use proptest::prelude::*;

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Words as hostile as they come: all zero and all one more often than chance has it.
fn word() -> impl Strategy<Value = u16> + Clone {
    prop_oneof![Just(0), Just(0xffff), Just(1), Just(0xfffe), any::<u16>()]
}

fn octets<const N: usize>() -> impl Strategy<Value = [u8; N]> + Clone {
    prop::collection::vec(word(), N / 2).prop_map(|words| {
        let octets: Vec<u8> = words.into_iter().flat_map(u16::to_be_bytes).collect();
        octets.try_into().expect("N is even")
    })
}

fn key<A: Address + core::fmt::Debug>(
    address: impl Strategy<Value = A> + Clone,
) -> impl Strategy<Value = FlowKey<A>> {
    (address.clone(), address, word(), word()).prop_map(|(source, destination, from, to)| FlowKey {
        source,
        destination,
        source_port: Be16::new(from),
        destination_port: Be16::new(to),
        protocol: UDP,
        padding: [0; 3],
    })
}

trait Quoted: Address {
    /// An IP header between the ends of a tuple, its checksum right.
    fn header(key: &FlowKey<Self>, fill: u8) -> Vec<u8>;
    fn octets(self) -> Vec<u8>;
}

impl Quoted for Address4 {
    fn header(key: &FlowKey<Self>, fill: u8) -> Vec<u8> {
        let mut header = vec![0x45, fill, 1, 2, fill, 4, 0, 0, 60, key.protocol, 0, 0];
        header.extend(key.source.octets);
        header.extend(key.destination.octets);
        let sum = checksum::header_checksum(&header).to_ne_bytes();
        header[10..12].copy_from_slice(&sum);
        header
    }

    fn octets(self) -> Vec<u8> {
        self.octets.to_vec()
    }
}

impl Quoted for Address6 {
    fn header(key: &FlowKey<Self>, fill: u8) -> Vec<u8> {
        let mut header = vec![0x60, fill, fill, 4, 0, 20, key.protocol, 60];
        header.extend(key.source.octets);
        header.extend(key.destination.octets);
        header
    }

    fn octets(self) -> Vec<u8> {
        self.octets.to_vec()
    }
}

/// A message that quotes a packet, and its checksum in full.
fn message<A: Quoted>(
    quoted: &FlowKey<A>,
    outer: (A, A),
    transport_checksum: Option<u16>,
    fill: u8,
) -> (Vec<u8>, u16) {
    let mut bytes = vec![3, 4, 0, 0, 0, 0, 5, fill];
    bytes.extend(A::header(quoted, fill));
    bytes.extend(quoted.source_port.wire().to_ne_bytes());
    bytes.extend(quoted.destination_port.wire().to_ne_bytes());
    bytes.extend([fill, 9]);
    bytes.extend(transport_checksum.unwrap_or_default().to_ne_bytes());
    let mut covered = bytes.clone();
    if !A::HEADER_CHECKSUM {
        covered.extend(outer.0.octets());
        covered.extend(outer.1.octets());
        covered.extend([0, 0, 0, 0, 0, 0, 0, icmp::ICMPV6]);
    }
    let sum = checksum::header_checksum(&covered);
    (bytes, sum)
}

fn check<A: Quoted + core::fmt::Debug>(
    before: &FlowKey<A>,
    after: &FlowKey<A>,
    outer: ((A, A), (A, A)),
    transport_checksum: Option<u16>,
    fill: u8,
) {
    // As in a flow entry, which is for packets of the other direction.
    let deltas = checksum::translation_deltas(&before.reversed(), &after.reversed());
    let repaired = transport_checksum.map(|sum| checksum::apply(sum, deltas.transport));
    let (_, old) = message(before, outer.0, transport_checksum, fill);
    let (_, expected) = message(after, outer.1, repaired, fill);
    let mut delta = icmp::message_delta::<A>(deltas, repaired.is_some());
    if !A::HEADER_CHECKSUM {
        let sum = |ends: (A, A)| ends.0.word_sum() + ends.1.word_sum();
        delta = checksum::add(delta, checksum::delta(sum(outer.0), sum(outer.1)));
    }
    assert_eq!(checksum::apply(old, delta), expected);
}

proptest! {
    #[test]
    fn icmp_checksum_after_translation_is_the_full_one(
        before in key(octets().prop_map(Address4::new)),
        after in key(octets().prop_map(Address4::new)),
        transport in prop::option::of(word()),
        fill: u8,
    ) {
        // 0xffff is no checksum that anybody computes over words that are not all zero.
        prop_assume!(transport != Some(0xffff));
        let outer = ((before.destination, before.source), (after.destination, after.source));
        check(&before, &after, outer, transport, fill);
    }

    #[test]
    fn icmpv6_checksum_after_translation_is_the_full_one(
        before in key(octets().prop_map(Address6::new)),
        after in key(octets().prop_map(Address6::new)),
        router in octets().prop_map(Address6::new),
        transport in prop::option::of(word()),
        fill: u8,
    ) {
        prop_assume!(transport != Some(0xffff));
        let outer = ((router, before.source), (after.destination, after.source));
        check(&before, &after, outer, transport, fill);
    }

    #[test]
    fn an_error_belongs_to_the_flow_of_packets_that_answer_what_it_quotes(
        quoted in key(octets().prop_map(Address6::new)),
        other in octets().prop_map(Address6::new),
    ) {
        prop_assert_eq!(icmp::flow_of(&quoted, quoted.source), Some(quoted.reversed()));
        prop_assume!(other != quoted.source);
        prop_assert_eq!(icmp::flow_of(&quoted, other), None);
    }
}

#[test]
fn the_checksum_of_tcp_is_beyond_what_every_error_quotes() {
    assert!(icmp::quoted_checksum(TCP) >= icmp::QUOTED_BYTES);
    assert!(icmp::quoted_checksum(UDP) + 2 <= icmp::QUOTED_BYTES);
}
