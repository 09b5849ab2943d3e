//! TCP segments without data that the agent makes up.

use std::net::{IpAddr, SocketAddr};

use etherparse::{PacketBuilder, TcpHeader};
use lb_common::{address::Address, flow::FlowKey};

use crate::model::index::plain_address;

/// Hop limit of these segments.
const TTL: u8 = 64;
/// Bytes of an Ethernet header.
const ETHERNET: usize = 14;
/// The window that a segment without meaning for it announces: few receivers like none.
const WINDOW: u16 = 1024;

/// A segment: from whom, to whom, and its header.
#[derive(Clone, Debug)]
pub(super) struct Segment {
    from: SocketAddr,
    to: SocketAddr,
    header: TcpHeader,
}

impl Segment {
    /// An ACK.
    pub(super) fn ack<A: Address>(key: &FlowKey<A>, sequence: u32, acknowledgement: u32) -> Self {
        let mut segment = Self::new(key, sequence);
        segment.header.ack = true;
        segment.header.acknowledgment_number = acknowledgement;
        segment
    }

    /// A RST.
    pub(super) fn rst<A: Address>(key: &FlowKey<A>, sequence: u32) -> Self {
        let mut segment = Self::new(key, sequence);
        segment.header.rst = true;
        segment
    }

    fn new<A: Address>(key: &FlowKey<A>, sequence: u32) -> Self {
        let end = |address: A, port: u16| SocketAddr::new(plain_address(address.to_common()), port);
        let (source_port, destination_port) = (key.source_port.get(), key.destination_port.get());
        Self {
            from: end(key.source, source_port),
            to: end(key.destination, destination_port),
            header: TcpHeader::new(source_port, destination_port, sequence, WINDOW),
        }
    }

    /// Whom it goes to.
    pub(super) const fn destination(&self) -> IpAddr {
        self.to.ip()
    }

    /// As an Ethernet frame.
    pub(super) fn framed(&self, source: [u8; 6], destination: [u8; 6]) -> Vec<u8> {
        let ethernet = PacketBuilder::ethernet2(source, destination);
        let ip = match (self.from.ip(), self.to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => ethernet.ipv4(from.octets(), to.octets(), TTL),
            (IpAddr::V6(from), IpAddr::V6(to)) => ethernet.ipv6(from.octets(), to.octets(), TTL),
            // A flow has one family.
            _ => return Vec::new(),
        };
        let mut frame = Vec::new();
        match ip.tcp_header(self.header.clone()).write(&mut frame, &[]) {
            Ok(()) => frame,
            // There is always room in memory for an empty segment.
            Err(_) => Vec::new(),
        }
    }

    /// As an IP packet.
    pub(super) fn packet(&self) -> Vec<u8> {
        self.framed([0; 6], [0; 6]).split_off(ETHERNET)
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{NetHeaders, PacketHeaders};
    use lb_common::address::{Address4, Address6, Be16};

    use super::*;

    fn key<A: Address>(source: A, destination: A) -> FlowKey<A> {
        let (source_port, destination_port) = (Be16::new(4000), Be16::new(5432));
        FlowKey { source, destination, source_port, destination_port, protocol: 6, padding: [0; 3] }
    }

    #[expect(clippy::needless_pass_by_value, reason = "reads better at the call")]
    fn check(segment: Segment, rst: bool) {
        let frame = segment.framed([1; 6], [2; 6]);
        let parsed = PacketHeaders::from_ethernet_slice(&frame).expect("it parses");
        let tcp = parsed.transport.and_then(etherparse::TransportHeader::tcp).expect("TCP");
        let sum = match parsed.net.expect("IP") {
            NetHeaders::Ipv4(ip, _) => tcp.calc_checksum_ipv4(&ip, &[]),
            NetHeaders::Ipv6(ip, _) => tcp.calc_checksum_ipv6(&ip, &[]),
            other => panic!("{other:?}"),
        };
        assert_eq!(tcp.checksum, sum.expect("short"));
        assert_eq!((tcp.source_port, tcp.destination_port), (4000, 5432));
        assert_eq!((tcp.sequence_number, tcp.rst, tcp.ack), (7, rst, !rst));
        assert_eq!(tcp.acknowledgment_number, if rst { 0 } else { 9 });
        assert_eq!(frame[..12], [[2_u8; 6], [1; 6]].concat());
        assert_eq!(segment.packet(), frame[14..]);
    }

    #[test]
    fn segments_are_whole_in_both_families() {
        let four = key(Address4::new([10, 0, 0, 7]), Address4::new([10, 0, 0, 100]));
        let six = key(Address6::new([1; 16]), Address6::new([2; 16]));
        check(Segment::ack(&four, 7, 9), false);
        check(Segment::rst(&four, 7), true);
        check(Segment::ack(&six, 7, 9), false);
        check(Segment::rst(&six, 7), true);
    }
}
