//! ICMP and ICMPv6 messages about balanced flows: which messages matter, where a quoted
//! packet has its checksum, and what translating the quotation adds to the message's own.
//!
//! RFC 792 and RFC 4443 say what errors quote: the IP header and at least eight bytes behind
//! it, so ports always and the TCP checksum not always. RFC 5508 says what a NAT does with
//! them. An error is *about* a packet that we sent, so its quotation carries the tuple of that
//! packet, and the error travels the way of the packets that answer it: the flow entry for
//! the reversed tuple has the translation for the outer header, and its mirror image is the
//! translation of the quotation.

use crate::{
    address::Address,
    checksum::{self, Deltas},
    flow::FlowKey,
};

/// IP protocol number of ICMP.
pub const ICMP: u8 = 1;
/// IP protocol number of ICMPv6.
pub const ICMPV6: u8 = 58;

/// Length of the header of an error or an echo message, in bytes.
pub const HEADER_BYTES: usize = 8;
/// Offset of the checksum in a message.
pub const CHECKSUM: usize = 2;
/// Bytes behind the IP header that every error quotes (RFC 792).
pub const QUOTED_BYTES: usize = 8;

/// Echo requests that a processor answers in a second, in the long run.
pub const ECHO_PER_SECOND: u32 = 1000;
/// Echo requests that it answers at once.
pub const ECHO_BURST: u32 = 100;
/// What making the type of an ICMP echo request (8) that of a reply (0) adds to its checksum. The
/// type is the first octet of a word.
pub const ECHO_DELTA4: u16 = checksum::delta(u16::from_be(0x0800) as u32, 0);
/// The same for ICMPv6: from 128 to 129.
pub const ECHO_DELTA6: u16 =
    checksum::delta(u16::from_be(0x8000) as u32, u16::from_be(0x8100) as u32);
/// How many packets that do not fit into the link to a server are answered in a second, by
/// each processor.
pub const TOO_BIG_PER_SECOND: u32 = 1000;
/// How many of them are answered at once.
pub const TOO_BIG_BURST: u32 = 100;

const TCP: u8 = 6;

/// What a message is to the data plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An error that quotes the packet it is about.
    Error,
    /// A question whether an address is reached.
    EchoRequest,
    /// The kernel's: neighbour discovery, redirects, answers to the host's own questions.
    Other,
}

/// What an ICMP type means here: destination unreachable (fragmentation needed is one of
/// its codes), time exceeded and parameter problem are errors. Source quench (RFC 6633) and
/// redirects are not passed on.
#[inline(always)]
#[must_use]
pub const fn kind4(message_type: u8) -> Kind {
    match message_type {
        3 | 11 | 12 => Kind::Error,
        8 => Kind::EchoRequest,
        _ => Kind::Other,
    }
}

/// What an ICMPv6 type means here: destination unreachable, packet too big, time exceeded and
/// parameter problem are errors.
#[inline(always)]
#[must_use]
pub const fn kind6(message_type: u8) -> Kind {
    match message_type {
        1..=4 => Kind::Error,
        128 => Kind::EchoRequest,
        _ => Kind::Other,
    }
}

/// Offset of the checksum in a quoted TCP or UDP header. That of TCP is beyond
/// [`QUOTED_BYTES`].
#[inline(always)]
#[must_use]
pub const fn quoted_checksum(protocol: u8) -> usize {
    if protocol == TCP { 16 } else { 6 }
}

/// The key of the flow entry for a message that quotes a packet of tuple `quoted` and is
/// addressed to `destination`; none if the message is not for whoever sent that packet.
#[inline(always)]
#[must_use]
pub fn flow_of<A: Address>(quoted: &FlowKey<A>, destination: A) -> Option<FlowKey<A>> {
    if quoted.source == destination { Some(quoted.reversed()) } else { None }
}

/// What translating the quotation adds to the checksum of the message. `deltas` are those of
/// the flow entry; `transport_checksum` says whether the quoted TCP or UDP checksum is there
/// and was repaired.
///
/// What repairing a checksum adds to the sum of all words is the negative of what was
/// repaired, so a repaired IPv4 header adds nothing.
#[inline(always)]
#[must_use]
pub const fn message_delta<A: Address>(deltas: Deltas, transport_checksum: bool) -> u16 {
    // Addresses and ports.
    let words = deltas.transport;
    let words = if A::HEADER_CHECKSUM { checksum::add(words, !deltas.header) } else { words };
    if transport_checksum { checksum::add(words, !deltas.transport) } else { words }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_those_that_quote_a_packet() {
        let errors = |kind: fn(u8) -> Kind| {
            (0..=u8::MAX).filter(|number| kind(*number) == Kind::Error).collect::<Vec<_>>()
        };
        assert_eq!(errors(kind4), [3, 11, 12]);
        assert_eq!(errors(kind6), [1, 2, 3, 4]);
        assert_eq!((kind4(8), kind4(0), kind4(5)), (Kind::EchoRequest, Kind::Other, Kind::Other));
        assert_eq!(
            (kind6(128), kind6(129), kind6(135)),
            (Kind::EchoRequest, Kind::Other, Kind::Other)
        );
    }
}
